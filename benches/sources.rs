//! How much a slow source and one whose disk rots slow down an asset that a good source has as well.
//!
//! `cargo bench --bench sources [-- --mib N] [-- --runs N] [-- --bins DIR]`. One agent fetches one asset: from a good
//! source alone; from it and one that sends at most 1 MB/s; and from these two and one that has wrong bytes: a byte of every
//! megabyte of its stored file is flipped beneath the running store, which finds that out when it reads them (sources that lie
//! are in the tests: no agent does that). It hashes all of it then, and takes it from the good one itself, so in that row two
//! gibibytes move on the same cores. The three take turns, each run with agents of its own. The clock runs from the dial until
//! the asset is durable; before it starts, everything that was written to prepare the run is on the disk.
//!
//! Under the table: what came from each source.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use support::agent::{Agent, Bins, Home};
use support::figures::{Runs, Table, mb, mb_per_sec, ratio};
use support::{MIB, Noise, Result, patience, stores};

mod support;

const SLOW_BYTES_PER_SEC: u64 = 1_000_000;
/// A run from three sources that takes so many times as long as the one before it, and a while more, is given up. It
/// counts as long as that.
const GIVE_UP: (u32, Duration) = (20, Duration::from_secs(30));

#[derive(clap::Parser)]
struct Args {
    /// Size of the asset
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Runs of each row
    #[arg(long, default_value_t = 5)]
    runs: usize,
    #[command(flatten)]
    bins: Bins,
}

/// The asset, in a store that is copied for every source.
struct Asset {
    home: Home,
    hash: String,
    bytes: u64,
}

/// What came of several sources.
struct Mixed {
    took: Duration,
    given_up: bool,
    /// From the good one, the slow one and, where there is one, the rotten one.
    received: Vec<u64>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Some(args) = support::args::<Args>() else { return Ok(()) };
    let asset = Asset::prepare(&args).await?;
    let [mut alone, mut two, mut three] = [const { Runs::new() }; 3];
    let mut mixed = Vec::new();
    for _ in 0..args.runs {
        let took = asset.fetch_from_one(&args.bins).await?;
        alone.add(took);
        for (with_rotten, runs) in [(false, &mut two), (true, &mut three)] {
            let run = asset.fetch_from_several(&args.bins, with_rotten, took * GIVE_UP.0 + GIVE_UP.1).await?;
            runs.add(run.took);
            mixed.push(run);
        }
    }
    let table = Table::of_runs();
    let target = 0.9 * mb_per_sec(asset.bytes, alone.median());
    table.runs(&format!("{} MiB from a good source", args.mib), &alone, Some(asset.bytes), "");
    table.runs("from it and a slow one", &two, Some(asset.bytes), &format!(">= {target:.1} MB/s"));
    table.runs("from these and a rotten one, which heals", &three, Some(asset.bytes), "");

    let columns =
        [("from several", 12), ("good, MB", 9), ("slow, MB", 9), ("rotten, MB", 10), ("of the size", 11)];
    let table = Table::new(&columns);
    for run in mixed {
        let took =
            if run.given_up { "given up".to_owned() } else { format!("{:.3} s", run.took.as_secs_f64()) };
        let from =
            |which: usize| run.received.get(which).map_or("-".into(), |bytes| format!("{:.1}", mb(*bytes)));
        let share = format!("{:.3}", ratio(run.received.iter().sum(), asset.bytes));
        table.row(&[took, from(0), from(1), from(2), share]);
    }
    Ok(())
}

impl Asset {
    async fn prepare(args: &Args) -> Result<Self> {
        let bytes = args.mib * MIB;
        let agent = Agent::start(&args.bins, "first").await?;
        let hash = agent.put_noise(Noise { seed: 0, len: bytes }).await?;
        Ok(Self { home: agent.stop().await?, hash, bytes })
    }

    /// An agent that has it from the start.
    async fn source(&self, home: Home) -> Result<Agent> {
        stores::copy(&self.home.store_dir(), &home.store_dir())?;
        home.start().await
    }

    async fn fetch_from_one(&self, bins: &Bins) -> Result<Duration> {
        let good = self.source(Home::new(bins, "good")?).await?;
        let to = Agent::start(bins, "to").await?;
        let limit = patience(self.bytes);
        Ok(self.fetch(&to, &[&good], limit).await?.ok_or("not even the good source sends it all")?)
    }

    async fn fetch_from_several(&self, bins: &Bins, with_rotten: bool, limit: Duration) -> Result<Mixed> {
        let good = self.source(Home::new(bins, "good")?).await?;
        let slow = Home::new(bins, "slow")?.set("limits.upload_bytes_per_sec", &SLOW_BYTES_PER_SEC);
        let slow = self.source(slow).await?;
        let mut sources = vec![good, slow];
        if with_rotten {
            let rotten = self.source(Home::new(bins, "rotten")?).await?;
            self.spoil(&rotten.home.store_dir())?;
            sources.push(rotten);
        }
        let to = Agent::start(bins, "to").await?;
        // The good one is dialled last.
        let took = self.fetch(&to, &sources.iter().rev().collect::<Vec<_>>(), limit).await?;
        let mut received = Vec::new();
        for source in &sources {
            received.push(to.peer(source).await?["bytes_received"].as_u64().ok_or("no count of a source")?);
        }
        Ok(Mixed { took: took.unwrap_or(limit), given_up: took.is_none(), received })
    }

    /// From the dial until the asset is durable; `None` if that is not within the limit.
    async fn fetch(&self, to: &Agent, sources: &[&Agent], limit: Duration) -> Result<Option<Duration>> {
        rustix::fs::sync();
        let started = Instant::now();
        futures::future::try_join_all(sources.iter().map(|source| to.dial(source))).await?;
        let Ok(stored) = tokio::time::timeout(limit, to.wait_for_assets(1, limit * 2)).await else {
            return Ok(None);
        };
        stored?;
        let took = started.elapsed();
        if to.read_and_hash(&self.hash, self.bytes).await? != self.hash {
            return Err("the content is wrong".into());
        }
        Ok(Some(took))
    }

    /// Gives a store a copy of the content in which a byte of every megabyte is flipped.
    fn spoil(&self, store: &Path) -> Result<()> {
        let place = store.join("content").join(&self.hash[..2]).join(&self.hash[2..4]).join(&self.hash);
        // Others share the file itself.
        let wrong = place.with_extension("wrong");
        std::fs::copy(&place, &wrong)?;
        let file = File::options().read(true).write(true).open(&wrong)?;
        let mut byte = [0];
        for n in 0..self.bytes / MIB {
            file.read_exact_at(&mut byte, n * MIB)?;
            file.write_all_at(&[!byte[0]], n * MIB)?;
        }
        Ok(std::fs::rename(wrong, place)?)
    }
}
