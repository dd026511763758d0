//! How soon many agents are one network, how soon one new asset is everywhere in it, and how often its content crosses for that.
//!
//! `cargo bench --bench network [-- --strangers N] [-- --agents N] [-- --runs N] [-- --seed N]`. All agents are in this process, on
//! loopback. First, some that have nothing in common but the passphrase start at once and find each other through the slots of a
//! pkarr relay alone: from their start, key stretching included, until their sessions are one graph. Then more of them:
//! each is told of three that started before it and finds the others through them; the clock runs once no more
//! connections come or go. It goes from the 201 at one agent to the event of the last one's store. What crossed is
//! what all of them received, content bytes alone, as a multiple of what the others have to get. The limit beside it:
//! as many bytes over four streams from one end to the other, so the same encryption and system calls and nothing else.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use can_sync::testing::config::{Config, HttpUrl};
use can_sync::testing::node::Node;
use futures::future::try_join_all;
use mainline::Testnet;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use support::figures::{Runs, Table, ratio};
use support::http::{StoreEvents, get, put_noise};
use support::{Noise, PASSPHRASE, Result, limits, node, temp_dir};
use tempfile::TempDir;

mod support;

/// Agents that each one is told of.
const TOLD: usize = 3;
const SIZES: [u64; 3] = [4 << 10, 64 << 10, 1 << 20];
/// For all agents to be connected, and for an asset to be everywhere.
const LIMIT: Duration = Duration::from_mins(5);
/// Connections are there when they have not changed for so many looks, a second apart.
const CALM_LOOKS: usize = 10;
/// For what somebody was asked for twice and still comes.
const LATE: Duration = Duration::from_secs(2);

#[derive(clap::Parser)]
struct Args {
    /// Agents that start at once and know of nobody; none of them for 0
    #[arg(long, default_value_t = 30)]
    strangers: usize,
    /// Agents that share a new asset; none of them for 0
    #[arg(long, default_value_t = 100)]
    agents: usize,
    /// Starts of the former, and assets of each size for the latter
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Who is told of whom, and who is the first to have an asset, follow from this
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// An agent and the events of its store.
struct Member {
    node: Node,
    events: StoreEvents,
    _dir: TempDir,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Some(args) = support::args::<Args>() else { return Ok(()) };
    let _ = rustls::crypto::ring::default_provider().install_default();
    if args.strangers > 0 {
        starts(&args).await?;
    }
    if args.agents > 0 {
        assets(&args).await?;
    }
    Ok(())
}

/// How soon agents that know of nobody are one graph.
async fn starts(args: &Args) -> Result<()> {
    let testnet = Testnet::builder(10).build()?;
    let relay = pkarr_relay::Relay::run_test(&testnet.bootstrap).await?;
    let relay = HttpUrl::parse(relay.local_url().as_str()).ok_or("the relay's URL")?;
    let mut runs = Runs::default();
    for run in 0..args.runs {
        // Nobody finds what the last ones left in the slots.
        let passphrase = format!("{PASSPHRASE} {run} {}", std::process::id());
        let started = Instant::now();
        let members = try_join_all((0..args.strangers).map(|n| {
            Member::start(n, &passphrase, |config| config.discovery.pkarr_relays = vec![relay.clone()])
        }));
        let members = members.await?;
        support::eventually("one graph", LIMIT, async || Ok(is_one_graph(&members).await?.then_some(())))
            .await?;
        runs.add(started.elapsed());
        node::stop(members.into_iter().map(|member| member.node)).await;
    }
    let title = format!("{} agents that start at once, by slots alone", args.strangers);
    let table = Table::new(&[(&title, 50), ("median", 9), ("worst", 9), ("target", 8)]);
    let [median, worst] = [runs.median(), runs.worst()].map(|t| format!("{:.3} s", t.as_secs_f64()));
    table.row(&["all in one graph of sessions".to_owned(), median, worst, "<= 15 s".to_owned()]);
    Ok(())
}

async fn is_one_graph(members: &[Member]) -> Result<bool> {
    let mut edges: HashMap<String, Vec<String>> = HashMap::new();
    for member in members {
        let listed = member.get("/peers").await?;
        let peers = listed["peers"].as_array().ok_or("an agent does not say whom it knows")?;
        let connected = peers.iter().filter(|peer| peer["path"].is_string());
        let ids = connected.filter_map(|peer| peer["endpoint_id"].as_str().map(str::to_owned));
        edges.insert(member.node.endpoint_id().to_string(), ids.collect());
    }
    let mut open: Vec<&String> = edges.keys().take(1).collect();
    let mut reached = HashSet::new();
    while let Some(id) = open.pop() {
        if reached.insert(id) {
            open.extend(edges.get(id).into_iter().flatten());
        }
    }
    Ok(reached.len() == members.len())
}

/// How soon a new asset is everywhere.
async fn assets(args: &Args) -> Result<()> {
    let mut random = StdRng::seed_from_u64(args.seed);
    let mut members: Vec<Member> = Vec::new();
    for n in 0..args.agents {
        let told = members.sample(&mut random, TOLD).map(|member| member.node.ticket()).collect();
        members.push(Member::start(n, PASSPHRASE, |config| config.discovery.bootstrap = told).await?);
    }
    let links = settled(&members).await?;

    let others = args.agents as u64 - 1;
    let title = format!("one new asset, {} agents, {links} connections", args.agents);
    let times = [("median", 9), ("worst", 9), ("target", 8), ("limit", 9)];
    let table = Table::new(&[&[(&*title, 50)][..], &times, &[("crosses", 8), ("target", 7)]].concat());
    for len in SIZES {
        let (mut runs, mut limit, before) = (Runs::default(), Runs::default(), received(&members).await?);
        for _ in 0..args.runs {
            let first = random.random_range(0..members.len());
            runs.add(spread(&mut members, first, Noise { seed: random.random(), len }).await?);
            limit.add(limits::raw_streams(4, len * others).await?);
        }
        tokio::time::sleep(LATE).await;
        let crossed = received(&members).await? - before;
        let share = format!("{:.3}", ratio(crossed, len * others * args.runs as u64));
        let [median, worst, limit] =
            [runs.median(), runs.worst(), limit.median()].map(|t| format!("{:.3} s", t.as_secs_f64()));
        table.row(&[
            format!("{} KiB", len >> 10),
            median,
            worst,
            "<= 1 s".to_owned(),
            limit,
            share,
            "<= 1.1".to_owned(),
        ]);
    }
    node::stop(members.into_iter().map(|member| member.node)).await;
    Ok(())
}

impl Member {
    async fn start(n: usize, passphrase: &str, configure: impl FnOnce(&mut Config)) -> Result<Self> {
        let dir = temp_dir()?;
        let mut config = node::config(&format!("agent {n}"), dir.path(), passphrase)?;
        configure(&mut config);
        let node = node::start(&config).await?;
        let events = StoreEvents::of(&node.store_url()).await?;
        Ok(Self { node, events, _dir: dir })
    }

    /// An answer of its API.
    async fn get(&self, path: &str) -> Result<serde_json::Value> {
        get(&format!("http://{}{path}", self.node.api_addr())).await
    }
}

/// From the 201 at one of them to the event at the last one.
async fn spread(members: &mut [Member], first: usize, content: Noise) -> Result<Duration> {
    let hash = put_noise(&members[first].node.store_url(), content).await?;
    let stored = Instant::now();
    try_join_all(members.iter_mut().map(|member| member.events.until(&hash, LIMIT))).await?;
    Ok(stored.elapsed())
}

/// Content bytes that all have received so far.
async fn received(members: &[Member]) -> Result<u64> {
    let mut sum = 0;
    for member in members {
        let peers = member.get("/peers").await?;
        let peers = peers["peers"].as_array().ok_or("an agent does not say whom it knows")?;
        sum += peers.iter().filter_map(|peer| peer["bytes_received"].as_u64()).sum::<u64>();
    }
    Ok(sum)
}

/// Waits until everybody is connected and no more connections come or go; how many there are.
async fn settled(members: &[Member]) -> Result<u64> {
    let deadline = Instant::now() + LIMIT;
    let (mut last, mut looks) = (0, 0);
    loop {
        let (mut ends, mut in_sync) = (0, true);
        for member in members {
            let status = member.get("/status").await?;
            ends += status["peers"]["connected"].as_u64().unwrap_or(0);
            in_sync &= status["sync"]["state"] == "in_sync";
        }
        looks = if in_sync && ends == last { looks + 1 } else { 0 };
        last = ends;
        if looks == CALM_LOOKS {
            return Ok(ends / 2);
        }
        if Instant::now() > deadline {
            return Err(format!("no calm: {ends} ends of connections, all in sync: {in_sync}").into());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
