//! How much memory agents take: while one large asset crosses, and with many small ones and nothing to do.
//!
//! `cargo bench --bench memory [-- --gib N] [-- --assets N] [-- --peers N] [-- --idle-secs N] [-- --only crossing|idle]
//! [-- --bins DIR]`.
//!
//! **crossing**: an asset of a tenth of `--gib`, then one of all of it, so that one sees whether memory grows with the
//! asset. It is made while it is stored over HTTP; then it crosses to a second agent, durable there. Each peak is the
//! kernel's own (`VmHWM`), counted anew for each step. Needs twice the asset's size on the disk.
//!
//! **idle**: one agent with `--assets` assets and as many connected peers as `--peers` says, all with the same store, so
//! that nothing has to move; beside it one with the same store and no peer, and one without assets. Once all have been
//! compared, they are left alone for a while; then resident memory, and time on a core during `--idle-secs`. The full
//! comparison that an agent makes every five minutes is in it if that is as long.
#![expect(clippy::print_stdout, reason = "what the scoreboard reads")]

use std::time::{Duration, Instant};

use support::agent::{Agent, Bins, Home};
use support::figures::{Table, mb_per_sec, mib, ratio};
use support::{MIB, Noise, Result, eventually, patience, stores, temp_dir};

mod support;

/// What the idle agents' assets hold does not matter; they are as many as there are.
const ASSET_BYTES: usize = 256;
/// For all agents to be connected and compared.
const SETTLE_WITHIN: Duration = Duration::from_mins(5);
/// Left alone for so long before anything is counted.
const CALM: Duration = Duration::from_secs(10);

#[derive(clap::Parser)]
struct Args {
    /// Size of the largest asset that crosses
    #[arg(long, default_value_t = 10.0)]
    gib: f64,
    /// Assets of the idle agents
    #[arg(long, default_value_t = 100_000)]
    assets: usize,
    /// Peers of the idle agent
    #[arg(long, default_value_t = 8)]
    peers: usize,
    /// How long the idle agents are watched
    #[arg(long, default_value_t = 60)]
    idle_secs: u64,
    /// One table alone
    #[arg(long, value_parser = ["crossing", "idle"])]
    only: Option<String>,
    #[command(flatten)]
    bins: Bins,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Some(args) = support::args::<Args>() else { return Ok(()) };
    let wants = |table: &str| args.only.as_deref().is_none_or(|only| only == table);
    if wants("crossing") {
        let peaks = [("storing, MiB", 12), ("sender, MiB", 12), ("receiver, MiB", 13), ("target", 16)];
        let table = Table::new(&[&[("one asset crosses", 24), ("s", 8), ("MB/s", 8)][..], &peaks].concat());
        for gib in [args.gib / 10.0, args.gib] {
            crossing(&args, &table, gib).await?;
        }
    }
    if wants("idle") {
        idle(&args).await?;
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size of some gigabytes")]
async fn crossing(args: &Args, table: &Table, gib: f64) -> Result<()> {
    let bytes = (gib * f64::from(1 << 30)) as u64;
    let (from, to) = (Agent::start(&args.bins, "from").await?, Agent::start(&args.bins, "to").await?);
    from.process.forget_peak()?;
    from.put_noise(Noise { seed: bytes, len: bytes }).await?;
    let storing = from.process.memory("VmHWM")?;
    for agent in [&from, &to] {
        agent.process.forget_peak()?;
    }
    let started = Instant::now();
    to.dial(&from).await?;
    for agent in [&to, &from] {
        agent.wait_in_sync(Some(1), patience(bytes)).await?;
    }
    let took = started.elapsed();
    let peak = |bytes: u64| format!("{:.1}", mib(bytes));
    table.row(&[
        format!("{gib} GiB"),
        format!("{:.3}", took.as_secs_f64()),
        format!("{:.1}", mb_per_sec(bytes, took)),
        peak(storing),
        peak(from.process.memory("VmHWM")?),
        peak(to.process.memory("VmHWM")?),
        "<= 256 MiB each".to_owned(),
    ]);
    // For the scoreboard.
    let highest =
        [storing, from.process.memory("VmHWM")?, to.process.memory("VmHWM")?].into_iter().max().unwrap_or(0);
    let word = if highest <= 256 * MIB { "kept" } else { "missed" };
    println!(
        "scoreboard: {word} {gib} GiB in {:.0} s: peak memory {} MiB",
        took.as_secs_f64(),
        peak(highest)
    );
    Ok(())
}

async fn idle(args: &Args) -> Result<()> {
    let prepared = temp_dir()?;
    let store = stores::open(prepared.path()).await?;
    stores::fill(&store, args.assets, ASSET_BYTES).await?;
    store.close().await;
    let with_assets = async |name: &str| -> Result<Agent> {
        let home = Home::new(&args.bins, name)?;
        stores::copy(prepared.path(), &home.store_dir())?;
        home.start().await
    };
    let empty = Agent::start(&args.bins, "empty").await?;
    let alone = with_assets("alone").await?;
    let hub = with_assets("hub").await?;
    let mut peers = Vec::new();
    for n in 0..args.peers {
        let peer = with_assets(&format!("peer {n}")).await?;
        hub.dial(&peer).await?;
        peers.push(peer);
    }
    settled(&hub, args.peers).await?;

    let watched = [&empty, &alone, &hub];
    let cpu = || watched.iter().map(|agent| agent.process.cpu()).collect::<Result<Vec<Duration>>>();
    let (began, before) = (Instant::now(), cpu()?);
    tokio::time::sleep(Duration::from_secs(args.idle_secs)).await;
    let (took, after) = (began.elapsed(), cpu()?);

    let columns = [
        ("idle", 34),
        ("VmRSS, MiB", 10),
        ("anonymous, MiB", 14),
        ("peak, MiB", 10),
        ("% of a core", 11),
        ("target", 18),
    ];
    let table = Table::new(&columns);
    let [assets, peers] = [args.assets, args.peers];
    let names =
        ["no assets".to_owned(), format!("{assets} assets"), format!("{assets} assets, {peers} peers")];
    let targets = ["", "", "<= 100 MiB, <= 1 %"];
    let mut resident = Vec::new();
    for (n, agent) in watched.into_iter().enumerate() {
        let share = after[n].saturating_sub(before[n]).as_secs_f64() / took.as_secs_f64();
        let memory = |field| agent.process.memory(field);
        resident.push(memory("VmRSS")?);
        let [now, anonymous, peak] = [memory("VmRSS")?, memory("RssAnon")?, memory("VmHWM")?].map(mib);
        let figures = [now, anonymous, peak].map(|mib| format!("{mib:.1}"));
        let row =
            [&[names[n].clone()][..], &figures, &[format!("{:.2}", share * 100.0), targets[n].to_owned()]];
        table.row(&row.concat());
    }
    let table = Table::new(&[("more than without assets", 34), ("B a record", 10)]);
    for n in [1, 2] {
        let more = ratio(resident[n].saturating_sub(resident[0]), assets as u64);
        table.row(&[names[n].clone(), format!("{more:.0}")]);
    }
    Ok(())
}

/// Waits until the agent has compared itself with all its peers, and then a while longer.
async fn settled(hub: &Agent, peers: usize) -> Result<()> {
    eventually("all peers", SETTLE_WITHIN, async || {
        let status = hub.get("/status").await?;
        let all = status["peers"]["connected"].as_u64().is_some_and(|connected| connected >= peers as u64);
        let calm = peers == 0 || status["sync"]["state"] == "in_sync";
        Ok((all && calm).then_some(()))
    })
    .await?;
    tokio::time::sleep(CALM).await;
    Ok(())
}
