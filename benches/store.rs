//! The embedded store, and an agent's CAN Service over HTTP, beside what the machine can do at best, in one run.
//!
//! `cargo bench --bench store [-- --only small|big|http|scale] [-- --big-mib N] [-- --runs N] [-- --assets N,N] [-- --bins DIR]`. `--bins` takes
//! the programs that serve HTTP from there instead of those built along. `scale` compares stores of so many assets as `--assets`
//! says.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use can_sync::testing::record::{AssetMeta, AssetRecord, ContentHash};
use can_sync::testing::store::embedded::IngestFields;
use can_sync::testing::store::{ContentStore, HashingFile, IncomingAsset, IncomingContent};
use futures::TryStreamExt;
use futures::future::join_all;
use sha2::{Digest, Sha256};
use support::agent::{Agent, Bins};
use support::figures::{Table, mb_per_sec, ms, per_sec};
use support::stores::{incoming, open};
use support::{Noise, Result, limits, load, noise, temp_dir};

#[path = "store/scale.rs"]
mod scale;
mod support;

const MIB: usize = 1024 * 1024;
const SMALL: usize = 10_000;
const SMALL_BYTES: usize = 4096;
/// Requests that are under way at the same time.
const CONNECTIONS: usize = 32;

#[derive(clap::Parser)]
struct Args {
    /// Some rows alone
    #[arg(long, value_parser = ["small", "big", "http", "scale"])]
    only: Option<String>,
    /// Size of the large asset
    #[arg(long, default_value_t = 1024)]
    big_mib: usize,
    /// Runs of each row over HTTP
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Sizes of the stores that are compared
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000, 1_000_000])]
    assets: Vec<usize>,
    #[command(flatten)]
    bins: Bins,
}

/// Rows of what, ours, what it should be, and the limit.
struct Report(Table);

impl Report {
    fn add(&self, what: &str, ours: String, limit: &str) {
        self.with_target(what, ours, "", limit);
    }

    fn with_target(&self, what: &str, ours: String, target: &str, limit: &str) {
        self.0.row(&[what.to_owned(), ours, target.to_owned(), limit.to_owned()]);
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let Some(args) = support::args::<Args>() else { return Ok(()) };
    let wants = |row: &str| args.only.as_deref().is_none_or(|only| only == row);
    let dir = temp_dir()?;
    let columns = [("work", 92), ("store", 10), ("target", 12), ("limit of this machine", 60)];
    let report = Report(Table::new(&columns));
    if wants("small") {
        small(&dir.path().join("small"), &report).await?;
    }
    if wants("big") {
        big(&dir.path().join("big"), args.big_mib, &report).await?;
    }
    if wants("http") {
        over_http(&args, dir.path(), &report).await?;
    }
    if wants("scale") {
        scale::scale(&args.bins, &args.assets, dir.path().join("scale")).await?;
    }
    Ok(())
}

fn per_second(n: usize, elapsed: Duration) -> String {
    format!("{:.0}/s", per_sec(n, elapsed))
}

fn mb_per_second(bytes: usize, elapsed: Duration) -> String {
    format!("{:.0} MB/s", mb_per_sec(bytes as u64, elapsed))
}

/// Appends of `len` bytes, each made durable.
fn durable_appends(dir: &Path, len: usize, count: usize) -> Result<Duration> {
    let mut file = File::create(dir.join("appends"))?;
    let block = noise(0, len);
    let began = Instant::now();
    for _ in 0..count {
        file.write_all(&block)?;
        file.sync_data()?;
    }
    Ok(began.elapsed())
}

fn appends_per_second(dir: &Path) -> Result<String> {
    let appends = per_second(1000, durable_appends(dir, SMALL_BYTES, 1000)?);
    Ok(format!("{appends} durable appends of 4 KiB"))
}

/// What the hash and the disk allow for large content.
fn hash_and_write(dir: &Path, mib: usize) -> Result<String> {
    let hashing = mb_per_second(256 * MIB, limits::hashing(256));
    let writing = mb_per_second(mib * MIB, limits::writing(dir, mib as u64)?);
    Ok(format!("SHA-256 {hashing} on one core; write and fsync {writing}"))
}

async fn small(dir: &Path, report: &Report) -> Result<()> {
    let store = open(dir).await?;
    let appends = appends_per_second(dir)?;
    let contents: Vec<Bytes> = (0..SMALL as u64).map(|i| noise(i, SMALL_BYTES).into()).collect();

    for writers in [1, 32] {
        let count = if writers == 1 { 1000 } else { SMALL };
        let before = store.commits();
        let began = Instant::now();
        let tasks = (0..writers).map(|writer| {
            let (store, contents) = (store.clone(), contents.clone());
            tokio::spawn(async move {
                for content in contents.iter().take(count).skip(writer).step_by(writers) {
                    // Not the content of the other measurement.
                    let mut changed = content.to_vec();
                    changed[0] ^= u8::try_from(writers).unwrap_or(u8::MAX);
                    let mut upload = store.begin_upload();
                    upload.write(changed.into()).await?;
                    upload.finish(IngestFields::default()).await?;
                }
                Ok::<_, can_sync::testing::store::StoreError>(())
            })
        });
        for done in join_all(tasks).await {
            done??;
        }
        let elapsed = began.elapsed();
        let commits = store.commits() - before;
        report.add(
            &format!("upload {count} × 4 KiB, {writers} at a time, durable ({commits} commits)"),
            per_second(count, elapsed),
            &appends,
        );
    }

    let batches: Vec<Vec<IncomingAsset>> = contents
        .chunks(1000)
        .map(|chunk| chunk.iter().map(|content| incoming(content.to_vec(), AssetMeta::default())).collect())
        .collect();
    let began = Instant::now();
    for batch in batches {
        store.ingest(batch).await?;
    }
    report.add(
        &format!("ingest {SMALL} × 4 KiB from a peer, batches of 1,000"),
        per_second(SMALL, began.elapsed()),
        &appends,
    );

    let hashes: Vec<ContentHash> = contents.iter().map(|c| ContentHash(Sha256::digest(c).into())).collect();
    let began = Instant::now();
    let mut found = 0;
    for chunk in hashes.chunks(1000) {
        found += store.contents_inline(chunk.to_vec()).await?.len();
    }
    assert_eq!(found, SMALL, "all small contents are read back");
    report.add("read small contents for packing", per_second(SMALL, began.elapsed()), "");
    store.close().await;
    Ok(())
}

async fn big(dir: &Path, mib: usize, report: &Report) -> Result<()> {
    let store = open(dir).await?;
    let block = Bytes::from(noise(1, MIB));
    let limit = hash_and_write(dir, mib)?;
    let began = Instant::now();
    let mut upload = store.begin_upload();
    for _ in 0..mib * 16 {
        upload.write(block.slice(..MIB / 16)).await?;
    }
    let big = upload.finish(IngestFields::default()).await?;
    report.add(
        &format!("upload {mib} MiB in chunks of 64 KiB, durable"),
        mb_per_second(mib * MIB, began.elapsed()),
        &limit,
    );

    let began = Instant::now();
    let mut file = HashingFile::create(dir)?;
    for i in 0..mib as u64 {
        // Different from the upload, so that the store has to take it.
        let chunk = if i == 0 { noise(2, MIB).into() } else { block.clone() };
        file.write(chunk).await?;
    }
    let received = file.finish().await?;
    let record = AssetRecord::new(received.sha256, received.size, None, AssetMeta::default());
    store.ingest(vec![IncomingAsset { record, content: IncomingContent::File(received) }]).await?;
    report.add(
        &format!("receive {mib} MiB from a peer, durable"),
        mb_per_second(mib * MIB, began.elapsed()),
        &limit,
    );

    let began = Instant::now();
    let reader = store.content(big.asset.record.hash, 0, None).await?;
    let read: usize = reader.chunks.try_fold(0, |sum, chunk| async move { Ok(sum + chunk.len()) }).await?;
    assert_eq!(read, mib * MIB);
    report.add(&format!("read {mib} MiB from the page cache"), mb_per_second(read, began.elapsed()), "");
    store.close().await;
    Ok(())
}

/// The same over HTTP, into an agent of its own; whoever sends is on this machine as well. Several times: the first of them finds
/// an empty database, and memory that nobody had yet.
async fn over_http(args: &Args, dir: &Path, report: &Report) -> Result<()> {
    let agent = Agent::start(&args.bins, "http").await?;
    let limit = appends_per_second(dir)?;
    let cpu = |before: Duration| Result::Ok(ms(agent.process.cpu()?.saturating_sub(before)));
    for run in 0..args.runs {
        let seeds = (run * SMALL) as u64..((run + 1) * SMALL) as u64;
        let small: Vec<Noise> = seeds.map(|seed| Noise { seed, len: SMALL_BYTES as u64 }).collect();
        let before = agent.process.cpu()?;
        let (took, each) = load::put_all(&agent.store, &small, CONNECTIONS).await?;
        let each = format!("p50 {:.1}, p99 {:.1} ms", ms(each.at(50)), ms(each.at(99)));
        let what = format!(
            "ingest {SMALL} × 4 KiB over HTTP, {CONNECTIONS} connections ({each}; {:.0} µs of a core each)",
            cpu(before)? * 1e3 / 10_000.0
        );
        report.with_target(&what, per_second(SMALL, took), ">= 5000/s", &limit);
    }

    let mib = args.big_mib;
    let limit = hash_and_write(dir, mib)?;
    for run in 0..args.runs {
        let big = Noise { seed: run as u64, len: (mib * MIB) as u64 };
        let before = agent.process.cpu()?;
        let took = load::put_large(&agent.store, big).await?;
        let what = format!("ingest {mib} MiB over HTTP, durable ({:.0} ms of a core)", cpu(before)?);
        report.with_target(&what, mb_per_second(mib * MIB, took), ">= 400 MB/s", &limit);
    }
    Ok(())
}
