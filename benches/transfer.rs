//! How fast assets move between two real agents on this machine, beside what the wire and the hash allow.
//!
//! `cargo bench --bench transfer [-- --big-mib N] [-- --runs N] [-- --only big|small|mixed|live] [-- --bins DIR]`. Each
//! row is the median of five runs, each between two fresh agents; the raw limits are measured in the same process, in
//! turn with the runs. Assets are stored while the agents do not know each other; the clock runs from the dial until
//! both say that they are in sync, so everything is durable by then and the comparison is part of it. `--bins` measures
//! another build.

use std::cell::LazyCell;
use std::time::{Duration, Instant};

use support::agent::{Agent, Bins};
use support::figures::{Runs, Table, mb_per_sec, ms};
use support::{MIB, Noise, Result, limits, patience};

mod support;

const SMALL_ASSETS: u64 = 10_000;
const SMALL_BYTES: u64 = 4096;
/// Assets of the mixed row, from the smallest to the largest size, and how they are spread in between: so that they are
/// 468 MB together, as much as the others were measured with.
const MIXED_ASSETS: u32 = 102;
const MIXED_BYTES: (f64, f64) = (100_000.0, 35_000_000.0);
const MIXED_SPREAD: f64 = 1.4323;
const LIVE_ASSETS: u64 = 200;
/// Contents that are stored at the same time.
const AT_ONCE: usize = 16;

#[derive(clap::Parser)]
struct Args {
    /// Size of the big asset
    #[arg(long, default_value_t = 1024)]
    big_mib: u64,
    /// Runs of each row
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// One row alone
    #[arg(long, value_parser = ["big", "small", "mixed", "live"])]
    only: Option<String>,
    #[command(flatten)]
    bins: Bins,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Some(args) = support::args::<Args>() else { return Ok(()) };
    let wants = |row: &str| args.only.as_deref().is_none_or(|only| only == row);
    let table = LazyCell::new(Table::of_runs);
    if wants("big") {
        big(&args, &table).await?;
    }
    if wants("small") {
        let small = (0..SMALL_ASSETS).map(|seed| Noise { seed, len: SMALL_BYTES }).collect();
        let what = format!("small: {SMALL_ASSETS} x {SMALL_BYTES} B");
        row(&args, &table, &what, [small, Vec::new()]).await?;
    }
    if wants("mixed") {
        let half = |side: u32| {
            let numbers = (0..MIXED_ASSETS).filter(|n| n % 2 == side);
            numbers.map(|n| Noise { seed: n.into(), len: mixed_size(n) }).collect()
        };
        mixed(&args, &table, [half(0), half(1)]).await?;
    }
    if wants("live") {
        let columns = [("live: 201 here to event there, ms", 46), ("p50", 9), ("p90", 9), ("p99", 9)];
        let table = Table::new(&[&columns[..], &[("target", 25)]].concat());
        for kib in [4, 64] {
            live(&args, &table, kib).await?;
        }
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sizes of some megabytes")]
fn mixed_size(n: u32) -> u64 {
    let (least, most) = MIXED_BYTES;
    let place = f64::from(n) / f64::from(MIXED_ASSETS - 1);
    (least * (most / least).powf(place.powf(MIXED_SPREAD))) as u64
}

/// What each side has crosses to the other one.
async fn moved(args: &Args, contents: &[Vec<Noise>; 2]) -> Result<Duration> {
    let agents = [Agent::start(&args.bins, "a").await?, Agent::start(&args.bins, "b").await?];
    let (mut bytes, mut assets) = (0, 0);
    for (agent, contents) in agents.iter().zip(contents) {
        bytes += agent.put_all(contents, AT_ONCE).await?;
        assets += contents.len() as u64;
    }
    let started = Instant::now();
    agents[1].dial(&agents[0]).await?;
    for agent in &agents {
        agent.wait_in_sync(Some(assets), patience(bytes)).await?;
    }
    Ok(started.elapsed())
}

async fn row(args: &Args, table: &Table, what: &str, contents: [Vec<Noise>; 2]) -> Result<()> {
    let mut runs = Runs::default();
    for _ in 0..args.runs {
        runs.add(moved(args, &contents).await?);
    }
    let bytes = contents.iter().flatten().map(|noise| noise.len).sum();
    table.runs(what, &runs, Some(bytes), "<= 1.0 s");
    Ok(())
}

/// Assets of many sizes, half at each side, and what the wire allows when both send.
async fn mixed(args: &Args, table: &Table, contents: [Vec<Noise>; 2]) -> Result<()> {
    let bytes = contents.iter().flatten().map(|noise| noise.len).sum();
    let mut runs: [Runs; 3] = Default::default();
    let [ours, raw, own] = &mut runs;
    for _ in 0..args.runs {
        ours.add(moved(args, &contents).await?);
        raw.add(limits::raw_both_ways(1, 4, bytes).await?);
        own.add(limits::raw_both_ways(2, 1, bytes).await?);
    }
    let what = format!("mixed: {MIXED_ASSETS} x 0.1 to 35 MB, half at each side");
    table.runs(&what, ours, Some(bytes), "<= 1.0 s");
    table.runs("limit: raw iroh, both ways, 4 streams each", raw, Some(bytes), "");
    table.runs("limit: raw iroh, a connection each way", own, Some(bytes), "");
    Ok(())
}

/// The big asset, and what the wire and the hash allow for as much content.
async fn big(args: &Args, table: &Table) -> Result<()> {
    let bytes = args.big_mib * MIB;
    let contents = [vec![Noise { seed: 0, len: bytes }], Vec::new()];
    let mut runs: [Runs; 4] = Default::default();
    let [ours, one, four, hashing] = &mut runs;
    for _ in 0..args.runs {
        ours.add(moved(args, &contents).await?);
        one.add(limits::raw_streams(1, bytes).await?);
        four.add(limits::raw_streams(4, bytes).await?);
        hashing.add(limits::hashing(256));
    }
    let target = format!(">= {:.1} MB/s", 0.6 * mb_per_sec(bytes, one.median()));
    table.runs(&format!("big: 1 x {} MiB", args.big_mib), ours, Some(bytes), &target);
    table.runs("limit: raw iroh, 1 stream", one, Some(bytes), "");
    table.runs("limit: raw iroh, 4 streams", four, Some(bytes), "");
    table.runs("limit: SHA-256, one thread, 256 MiB", hashing, Some(256 * MIB), "");
    Ok(())
}

async fn live(args: &Args, table: &Table, kib: u64) -> Result<()> {
    let (a, b) = (Agent::start(&args.bins, "a").await?, Agent::start(&args.bins, "b").await?);
    b.dial(&a).await?;
    b.wait_in_sync(Some(0), patience(0)).await?;
    let waits = a.live(&b, (0..LIVE_ASSETS).map(|seed| Noise { seed, len: kib << 10 })).await?;
    let figures = [50, 90, 99].map(|percent| format!("{:.2}", ms(waits.at(percent))));
    let (what, target) = (format!("{LIVE_ASSETS} x {kib} KiB"), "p50 <= 5, p99 <= 25".to_owned());
    table.row(&[&[what][..], &figures, &[target]].concat());
    Ok(())
}
