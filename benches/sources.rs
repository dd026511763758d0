//! How much a slow source and a liar slow down an asset that a good source has as well.
//!
//! `cargo bench --bench sources [-- --mib N] [-- --runs N] [-- --bins DIR]`. One agent fetches one asset: from a good
//! source alone; then from three, of which one is the good one, one sends at most 1 MB/s, and one has wrong bytes: a
//! byte of every megabyte of its stored file is flipped beneath the running store, which sends what is there. The two
//! take turns, each run with agents of its own. The sources have the same asset from the start and do not know each
//! other, so nothing moves between them. The clock runs from the dial until the asset is durable; before it starts,
//! everything that was written to prepare the run is on the disk.
//!
//! Under the table: what came from each source, and whether the liar is named.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use eventsource_stream::Eventsource as _;
use futures::StreamExt as _;
use serde_json::Value;
use support::agent::{Agent, Bins, Home};
use support::figures::{Runs, Table, mb, mb_per_sec, ratio};
use support::http::HTTP;
use support::{MIB, Noise, Result, eventually, patience, stores};

mod support;

const SLOW_BYTES_PER_SEC: u64 = 1_000_000;
/// A run from three sources that takes so many times as long as the one before it, and a while more, is given up. It
/// counts as long as that.
const GIVE_UP: (u32, Duration) = (20, Duration::from_secs(30));
/// For what is published just after the asset is durable.
const NAMED_WITHIN: Duration = Duration::from_secs(5);

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

/// What came of the three sources.
struct Mixed {
    took: Duration,
    given_up: bool,
    /// From the good one, the slow one and the liar.
    received: [u64; 3],
    in_why: bool,
    in_events: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Some(args) = support::args::<Args>() else { return Ok(()) };
    let asset = Asset::prepare(&args).await?;
    let (mut alone, mut together, mut mixed) = (Runs::default(), Runs::default(), Vec::new());
    for _ in 0..args.runs {
        let took = asset.fetch_from_one(&args.bins).await?;
        alone.add(took);
        let run = asset.fetch_from_three(&args.bins, took * GIVE_UP.0 + GIVE_UP.1).await?;
        together.add(run.took);
        mixed.push(run);
    }
    let table = Table::of_runs();
    let target = 0.8 * mb_per_sec(asset.bytes, alone.median());
    table.runs(&format!("{} MiB from a good source", args.mib), &alone, Some(asset.bytes), "");
    let what = "from it, a slow one and a liar";
    table.runs(what, &together, Some(asset.bytes), &format!(">= {target:.1} MB/s"));

    let columns =
        [("from three", 12), ("good, MB", 9), ("slow, MB", 9), ("liar, MB", 9), ("of the size", 11)];
    let table = Table::new(&[&columns[..], &[("liar in /why", 12), ("liar in /events", 15)]].concat());
    for run in mixed {
        let took =
            if run.given_up { "given up".to_owned() } else { format!("{:.3} s", run.took.as_secs_f64()) };
        let [good, slow, liar] = run.received.map(|bytes| format!("{:.1}", mb(bytes)));
        let share = format!("{:.3}", ratio(run.received.iter().sum(), asset.bytes));
        let [why, events] =
            [run.in_why, run.in_events].map(|is| if is { "named" } else { "not named" }.to_owned());
        table.row(&[took, good, slow, liar, share, why, events]);
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

    async fn fetch_from_three(&self, bins: &Bins, limit: Duration) -> Result<Mixed> {
        let good = self.source(Home::new(bins, "good")?).await?;
        let slow = Home::new(bins, "slow")?.set("limits.upload_bytes_per_sec", &SLOW_BYTES_PER_SEC);
        let slow = self.source(slow).await?;
        let liar = self.source(Home::new(bins, "liar")?).await?;
        self.spoil(&liar.home.store_dir())?;
        let to = Agent::start(bins, "to").await?;
        let took = self.fetch(&to, &[&slow, &liar, &good], limit).await?;
        let mut received = [0; 3];
        for (source, received) in [&good, &slow, &liar].into_iter().zip(&mut received) {
            *received = to.peer(source).await?["bytes_received"].as_u64().ok_or("no count of a source")?;
        }
        // It is named when its bytes are looked at, which may be a moment after the asset is there.
        let named = eventually("the liar's name", NAMED_WITHIN, async || {
            let named = (self.in_why(&to, &liar).await?, self.in_events(&to, &liar).await?);
            Ok((named == (true, true)).then_some(named))
        })
        .await;
        let (in_why, in_events) = match named {
            Ok(named) => named,
            Err(_) => (self.in_why(&to, &liar).await?, self.in_events(&to, &liar).await?),
        };
        Ok(Mixed { took: took.unwrap_or(limit), given_up: took.is_none(), received, in_why, in_events })
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

    async fn in_why(&self, to: &Agent, liar: &Agent) -> Result<bool> {
        let why = to.get(&format!("/why/{}", self.hash)).await?;
        let mut sources = why["sources"].as_array().into_iter().flatten();
        Ok(sources.any(|source| source["state"] == "lied" && source["endpoint_id"] == liar.id.as_str()))
    }

    async fn in_events(&self, to: &Agent, liar: &Agent) -> Result<bool> {
        let wrong = |event: &Value| {
            event["type"] == "asset_failed"
                && event["hash"] == self.hash.as_str()
                && event["reason"].as_str().is_some_and(|reason| reason.contains("wrong bytes"))
        };
        Ok(events(to).await?.iter().any(|event| wrong(event) && event["from"] == liar.id.as_str()))
    }
}

/// All that has happened at an agent so far.
async fn events(agent: &Agent) -> Result<Vec<Value>> {
    let read = async {
        let answer = HTTP.get(format!("{}/events?since=0", agent.api)).send().await?.error_for_status()?;
        let mut stream = answer.bytes_stream().eventsource();
        let hello = stream.next().await.ok_or("no event stream")??;
        let last = serde_json::from_str::<Value>(&hello.data)?["last_id"].as_u64().unwrap_or(0);
        let (mut events, mut seen) = (Vec::new(), 0);
        while seen < last {
            let event = stream.next().await.ok_or("the event stream ended")??;
            let event: Value = serde_json::from_str(&event.data)?;
            seen = event["id"].as_u64().unwrap_or(seen);
            events.push(event);
        }
        Result::Ok(events)
    };
    tokio::time::timeout(NAMED_WITHIN, read).await?
}
