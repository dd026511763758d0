//! How long an agent needs from its start until it is ready, with many assets and with none.
//!
//! `cargo bench --bench start [-- --assets N] [-- --runs N] [-- --bins DIR]`. The store is filled once, through the
//! library, and used by every run; each run ends in order, so no start has to put anything right, and what the kernel
//! can cache is cached. The clock runs from the start of the program to three moments: the answer 200 of `/readyz`, the
//! line on standard output that says where the agent is, and the moment when it has read all records of its store and
//! so can compare itself with peers. Stretching the passphrase is part of every start.
//!
//! The limits beside it, in turn with the runs: the start of an agent without assets, and one scan through the records
//! in the order in which an agent reads them.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use support::agent::{Bins, Home, free_tcp_port};
use support::figures::{Runs, Table};
use support::http::{HTTP, get};
use support::{Result, stores};

mod support;

const ASSET_BYTES: usize = 4096;
/// No start takes longer.
const READY_WITHIN: Duration = Duration::from_mins(2);
/// Between two questions to an agent that is not ready yet.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(clap::Parser)]
struct Args {
    /// Assets of 4 KiB in the store
    #[arg(long, default_value_t = 100_000)]
    assets: usize,
    /// Starts that are measured
    #[arg(long, default_value_t = 5)]
    runs: usize,
    #[command(flatten)]
    bins: Bins,
}

/// How long after its start an agent was where.
struct Start {
    ready: Duration,
    announced: Duration,
    all_read: Duration,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Some(args) = support::args::<Args>() else { return Ok(()) };
    let (full, mut empty) = (Home::new(&args.bins, "full")?, Home::new(&args.bins, "empty")?);
    let store = stores::open(&full.store_dir()).await?;
    stores::fill(&store, args.assets, ASSET_BYTES).await?;
    store.close().await;
    let (assets, last) = (args.assets as u64, last_change(&full.store_dir())?);
    // The first start of all makes keys and directories.
    let (mut full, _) = start(full, last).await?;
    (empty, _) = start(empty, 0).await?;

    let mut runs: [Runs; 5] = Default::default();
    let [ready, announced, all_read, of_empty, scans] = &mut runs;
    for _ in 0..args.runs {
        let started;
        (full, started) = start(full, last).await?;
        ready.add(started.ready);
        announced.add(started.announced);
        all_read.add(started.all_read);
        let started;
        (empty, started) = start(empty, 0).await?;
        of_empty.add(started.ready);
        scans.add(scan(&full.store_dir(), assets)?);
    }
    let table = Table::of_runs();
    let with = format!("{assets} assets: ");
    table.runs(&format!("{with}until /readyz says 200"), ready, None, "<= 2 s");
    table.runs(&format!("{with}until the line on stdout"), announced, None, "");
    table.runs(&format!("{with}until all records are read"), all_read, None, "");
    table.runs("limit: no assets, until /readyz says 200", of_empty, None, "");
    table.runs("limit: one scan through the records", scans, None, "");
    Ok(())
}

/// Starts an agent whose store's last change is this one, and ends it in order.
async fn start(home: Home, last: u64) -> Result<(Home, Start)> {
    // A port of its own, so that it can be asked before it says where it is.
    let api = format!("127.0.0.1:{}", free_tcp_port()?);
    let home = home.set("listen_addr", &api);
    let began = Instant::now();
    let watch = tokio::spawn(tokio::time::timeout(READY_WITHIN, watch(format!("http://{api}"), began, last)));
    let agent = home.start().await?;
    let (ready, all_read) = watch.await???;
    let announced = agent.announced_after;
    Ok((agent.stop().await?, Start { ready, announced, all_read }))
}

/// Asks an agent that starts until it is ready, and until it has read all changes of its store.
async fn watch(api: String, began: Instant, last: u64) -> Result<(Duration, Duration)> {
    loop {
        let answer = HTTP.get(format!("{api}/readyz")).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let ready = began.elapsed();
    while !has_read(&get(&format!("{api}/actors")).await?, last) {
        tokio::time::sleep(PAUSE).await;
    }
    Ok((ready, began.elapsed()))
}

/// Whether the actor that follows the store has come as far as this change, or to the end behind it.
fn has_read(tree: &Value, change: u64) -> bool {
    let actors = tree["children"].as_array().into_iter().flatten();
    let mut follower = actors.filter(|actor| actor["kind"] == "CanServiceActor");
    let read_to = |actor: &Value| actor["detail"].as_str()?.strip_prefix("at ")?.parse::<u64>().ok();
    follower.any(|actor| read_to(actor).is_some_and(|read_to| read_to >= change))
}

fn database(store: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Ok(Connection::open_with_flags(store.join("store.db"), flags)?)
}

/// Number of the last change in a closed store. Numbers begin with the time at which the store was made.
fn last_change(store: &Path) -> Result<u64> {
    let last: i64 = database(store)?.query_row("SELECT max(seq) FROM records", [], |row| row.get(0))?;
    Ok(u64::try_from(last)?)
}

/// Reads every column of every record, in the order of the feed.
fn scan(store: &Path, assets: u64) -> Result<Duration> {
    let began = Instant::now();
    let database = database(store)?;
    let mut records = database.prepare("SELECT * FROM records ORDER BY seq")?;
    let columns = records.column_count();
    let (mut rows, mut found) = (records.query([])?, 0);
    while let Some(row) = rows.next()? {
        for column in 0..columns {
            std::hint::black_box(row.get_ref(column)?);
        }
        found += 1;
    }
    if found != assets {
        return Err(format!("{found} records instead of {assets}").into());
    }
    Ok(began.elapsed())
}
