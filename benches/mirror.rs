//! Two real agents on this machine mirror a real directory tree, then exchange single assets live.
//!
//! `cargo bench --bench mirror [-- --external] [-- --files DIR] [-- --bins DIR]`. Without `--files`, the files are taken
//! from the Rust toolchain's own directory: at least 500, of mixed sizes, at least 200 MB. Half of them is stored at each
//! agent over HTTP while they do not know each other; the clock runs from the dial until both say that they are in sync.
//! Then every content is read back from both and hashed again, and the metadata compared. `--external` puts two
//! `can-service` processes behind the agents, and `--bins DIR` takes both programs from there instead of the ones built
//! along: to measure another build. The raw limits are measured in the same run.
#![expect(clippy::print_stdout, reason = "tables are what a bench is for")]

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::multipart::{Form, Part};
use serde_json::Value;
use support::agent::{Agent, Bins, Home};
use support::figures::{Table, mb, mb_per_sec, ms, ratio};
use support::http::put;
use support::{MIB, Noise, Result, limits, patience};

mod support;

const LARGE_BYTES_MAX: u64 = 300 << 20;
const SMALL_FILES: usize = 700;
const LIVE_ASSETS: u64 = 200;
const LIVE_BYTES: u64 = 64 * 1024;
/// Files that are stored at the same time.
const AT_ONCE: usize = 8;

#[derive(clap::Parser)]
struct Args {
    /// Mirrors the files of this directory
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
    /// Puts each store into a process of its own
    #[arg(long)]
    external: bool,
    #[command(flatten)]
    bins: Bins,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Some(args) = support::args::<Args>() else { return Ok(()) };
    let files = match &args.files {
        Some(dir) => files_below(dir.clone()).map(|(path, _)| path).collect(),
        None => toolchain_files()?,
    };
    let (a, b) = (start("a", &args).await?, start("b", &args).await?);
    println!("{} files, {}", files.len(), if args.external { "external stores" } else { "embedded stores" });
    let table = Table::new(&[("", 40), ("s", 8), ("MB", 9), ("MB/s", 9)]);

    let (left, right): (Vec<_>, Vec<_>) = files.iter().enumerate().partition(|(i, _)| i % 2 == 0);
    let started = Instant::now();
    let (at_a, at_b) = tokio::try_join!(store(&a, &left), store(&b, &right))?;
    row(&table, "stored over HTTP, both at once", at_a + at_b, started.elapsed());

    let started = Instant::now();
    b.dial(&a).await?;
    for agent in [&a, &b] {
        agent.wait_in_sync(None, patience(at_a + at_b)).await?;
    }
    let took = started.elapsed();
    let (of_a, of_b) = (a.assets().await?, b.assets().await?);
    if of_a != of_b {
        return Err(format!("the agents differ: {} and {} assets", of_a.len(), of_b.len()).into());
    }
    let bytes: u64 = of_a.iter().filter_map(|asset| asset["size"].as_u64()).sum();
    let crossed = sent(&a, &b).await? + sent(&b, &a).await?;
    row(&table, &format!("mirrored, {} different assets", of_a.len()), crossed, took);

    let started = Instant::now();
    for agent in [&a, &b] {
        verify(agent, &of_a).await?;
    }
    row(&table, "read back and hashed, both", 2 * bytes, started.elapsed());
    row(&table, "limit: SHA-256, one thread", 256 * MIB, limits::hashing(256));
    row(&table, "limit: one raw iroh stream", 512 * MIB, limits::raw_streams(1, 512 * MIB).await?);

    // The halves are disjoint but for equal contents, so this is what has to cross, or a little more than that.
    println!("\ncontent on the wire: {:.4} of the content held", ratio(crossed, bytes));
    let waits = a.live(&b, (0..LIVE_ASSETS).map(|seed| Noise { seed, len: LIVE_BYTES })).await?;
    let (p50, p99) = (ms(waits.at(50)), ms(waits.at(99)));
    println!("live, 64 KiB, from 201 to the other side: p50 {p50:.1} ms (<= 5), p99 {p99:.1} ms (<= 25)");
    Ok(())
}

fn row(table: &Table, what: &str, bytes: u64, took: Duration) {
    let rate = format!("{:.1}", mb_per_sec(bytes, took));
    table.row(&[what.to_owned(), format!("{:.3}", took.as_secs_f64()), format!("{:.1}", mb(bytes)), rate]);
}

async fn start(name: &str, args: &Args) -> Result<Agent> {
    let home = Home::new(&args.bins, name)?;
    if args.external { home.with_service(&args.bins).await?.start().await } else { home.start().await }
}

/// Files with their sizes.
fn files_below(dir: PathBuf) -> impl Iterator<Item = (PathBuf, u64)> {
    let entries =
        walkdir::WalkDir::new(dir).sort_by_file_name().into_iter().filter_map(std::result::Result::ok);
    entries
        .filter(|entry| entry.file_type().is_file())
        .filter_map(|entry| Some((entry.path().to_owned(), entry.metadata().ok()?.len())))
}

/// Large files up to a total, and an even sample of the small ones.
fn toolchain_files() -> Result<Vec<PathBuf>> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output()?;
    let sysroot = PathBuf::from(String::from_utf8(sysroot.stdout)?.trim());
    let (small, mut large): (Vec<_>, Vec<_>) = files_below(sysroot).partition(|(_, size)| *size <= 64 << 10);
    large.sort_by_key(|(_, size)| *size);
    let mut total = 0;
    let large = large.into_iter().take_while(|(_, size)| {
        total += size;
        total < LARGE_BYTES_MAX
    });
    let step = (small.len() / SMALL_FILES).max(1);
    Ok(large.chain(small.into_iter().step_by(step)).map(|(path, _)| path).collect())
}

/// Stores files; their bytes.
async fn store(agent: &Agent, files: &[(usize, &PathBuf)]) -> Result<u64> {
    let puts = futures::stream::iter(files).map(async |(_, path)| -> Result<u64> {
        let content = tokio::fs::read(path).await?;
        let len = content.len() as u64;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let part = Part::bytes(content).file_name(name);
        put(&agent.store, Form::new().text("application", "bench").part("file", part), len).await?;
        Ok(len)
    });
    puts.buffer_unordered(AT_ONCE).try_fold(0, async |sum, len| Ok(sum + len)).await
}

async fn sent(from: &Agent, to: &Agent) -> Result<u64> {
    Ok(from.peer(to).await?["bytes_sent"].as_u64().unwrap_or_default())
}

async fn verify(agent: &Agent, assets: &[Value]) -> Result<()> {
    for asset in assets {
        let hash = asset["hash"].as_str().unwrap_or_default();
        if agent.read_and_hash(hash, asset["size"].as_u64().unwrap_or_default()).await? != hash {
            return Err(format!("the content of {hash} is wrong").into());
        }
    }
    Ok(())
}
