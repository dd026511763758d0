//! How fast assets move between two real agents over paths with delay and loss, beside one raw iroh stream on the same path.
//!
//! `cargo bench --bench wan [-- --mib N] [-- --runs N] [-- --seed N] [-- --only NAME] [-- --bins DIR] [-- --controllers]`.
//! Everything passes a forwarder in user space (`tests/support/forwarder.rs`), which decides by the seed what becomes of each
//! datagram; the same for ours and for raw, and nothing is said of other paths than these. "ours" goes from the dial until both say
//! that they are in sync; "raw" from the dial until one stream with the same bytes is acknowledged, with BBR3, which makes most of
//! paths with loss; "Cubic" is the same with iroh's default, once, and a tenth of the bytes, because it is slow where datagrams
//! get lost. Live is from the 201 at one agent to the event of the other one's store, 4 KiB each, beside the time that a datagram is
//! under way. `--controllers` compares congestion controllers instead: see `wan/controllers.rs`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::builder::PossibleValuesParser;
use forwarder::{Forwarder, Link, Rate, Way};
use iroh_tickets::endpoint::EndpointTicket;
use support::agent::{Bins, Home};
use support::figures::{Runs, Table, mb_per_sec, ms};
use support::{MIB, Noise, Result, patience};

#[path = "wan/controllers.rs"]
mod controllers;
#[path = "../tests/support/forwarder.rs"]
#[expect(dead_code, reason = "a bench cuts no path")]
#[allow(
    clippy::needless_pass_by_value,
    clippy::print_stdout,
    clippy::similar_names,
    reason = "what tests may do"
)]
mod forwarder;
#[path = "wan/raw.rs"]
mod raw;
mod support;

/// Assets one after another, to see how long each is on its way.
const LIVE_ASSETS: u64 = 100;
const LIVE_BYTES: u64 = 4 << 10;
/// How much slower than the path allows a run may be: one lost datagram in a hundred costs Cubic most of a long path.
const PATIENCE: u32 = 8;

#[derive(clap::Parser)]
struct Args {
    /// Size of the asset
    #[arg(long, default_value_t = 100)]
    mib: u64,
    /// Runs of each row
    #[arg(long, default_value_t = 5)]
    runs: u64,
    /// What becomes of each datagram follows from this
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One path alone
    #[arg(long, value_parser = PossibleValuesParser::new(PATHS.map(|path| path.name)))]
    only: Option<String>,
    /// Compares congestion controllers instead
    #[arg(long)]
    controllers: bool,
    #[command(flatten)]
    bins: Bins,
}

/// A path, the same in both directions.
#[derive(Clone, Copy)]
struct Path {
    name: &'static str,
    round_trip_ms: u64,
    /// What is added to each way at most, not changing the order.
    jitter_ms: u64,
    loss: f64,
    /// Of the bottleneck; zero for none.
    megabits: u64,
    /// What the bottleneck keeps waiting for its turn, as the time that it takes.
    queue_ms: u64,
    /// Whether agents are measured on it, or controllers alone.
    has_agents: bool,
}

impl Path {
    const LONG: Self = Self {
        name: "100 ms",
        round_trip_ms: 100,
        jitter_ms: 0,
        loss: 0.0,
        megabits: 100,
        queue_ms: 50,
        has_agents: true,
    };
}

const PATHS: [Path; 9] = [
    Path { name: "100 ms, 1 % loss", loss: 0.01, ..Path::LONG },
    Path { name: "40 ms, 5 % loss", round_trip_ms: 40, loss: 0.05, ..Path::LONG },
    Path { name: "20 ms, 1 Gbit/s", round_trip_ms: 20, megabits: 1000, ..Path::LONG },
    Path { name: "100 ms, no loss", ..Path::LONG },
    Path { name: "20 ms", round_trip_ms: 20, has_agents: false, ..Path::LONG },
    Path { name: "20 ms, queue of 5 ms", round_trip_ms: 20, queue_ms: 5, has_agents: false, ..Path::LONG },
    Path {
        name: "20 ms, queue of 500 ms",
        round_trip_ms: 20,
        queue_ms: 500,
        has_agents: false,
        ..Path::LONG
    },
    Path {
        name: "20 ms, jitter of 10 ms",
        round_trip_ms: 20,
        jitter_ms: 10,
        has_agents: false,
        ..Path::LONG
    },
    // No forwarder between the two ends.
    Path { name: "loopback", round_trip_ms: 0, megabits: 0, has_agents: false, ..Path::LONG },
];

impl Path {
    fn one_way(&self) -> Duration {
        Duration::from_millis(self.round_trip_ms) / 2
    }

    fn is_loopback(&self) -> bool {
        self.megabits == 0
    }

    fn link(&self) -> Link {
        let rate = Some(Rate::new(self.megabits * 125_000, Duration::from_millis(self.queue_ms)));
        let jitter = Duration::from_millis(self.jitter_ms);
        Link { delay: self.one_way(), jitter, loss: self.loss, rate, ..Link::default() }
    }

    fn forwarder(&self, to: SocketAddr, seed: u64) -> Result<Forwarder> {
        Ok(Forwarder::start(to, [self.link(); 2], seed)?)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let Some(args) = support::args::<Args>() else { return Ok(()) };
    let _ = rustls::crypto::ring::default_provider().install_default();
    if !Forwarder::is_possible() {
        return Err(
            "this machine lacks IPv4 or IPv6; the path between two agents translates between them".into()
        );
    }
    let paths = PATHS.iter().filter(|path| args.only.as_deref().is_none_or(|only| only == path.name));
    if args.controllers {
        controllers::compare(&args, paths).await
    } else {
        transfers(&args, paths.filter(|path| path.has_agents)).await
    }
}

/// Ours beside raw.
async fn transfers(args: &Args, paths: impl Iterator<Item = &Path>) -> Result<()> {
    let title = format!("{} MiB, MB/s; live, ms", args.mib);
    let bulk = [("ours", 7), ("raw", 7), ("of raw", 7), ("target", 7), ("Cubic", 7)];
    let live = [("live p50", 9), ("p99", 7), ("one way", 8), ("of it", 6), ("target", 7)];
    let table = Table::new(&[&[(&*title, 24)][..], &bulk, &live].concat());
    let bytes = args.mib * MIB;
    for path in paths {
        let [mut ours, mut raw, mut cubic, mut live] = [const { Runs::new() }; 4];
        for seed in args.seed..args.seed + args.runs {
            raw.add(raw::one_way(path, seed, bytes, Some(raw::bbr3())).await?.took);
            if seed == args.seed {
                cubic.add(raw::one_way(path, seed, bytes / 10, None).await?.took);
            }
            ours.add(between_agents(args, path, seed, &mut live).await?);
        }
        let [ours, raw] = [ours, raw].map(|runs| mb_per_sec(bytes, runs.median()));
        let (p50, one_way) = (live.median(), path.one_way());
        let figure = |figure: f64| format!("{figure:.2}");
        table.row(&[
            path.name.to_owned(),
            figure(ours),
            figure(raw),
            figure(ours / raw),
            ">= 0.9".to_owned(),
            figure(mb_per_sec(bytes / 10, cubic.median())),
            figure(ms(p50)),
            figure(ms(live.at(99))),
            figure(ms(one_way)),
            figure(p50.as_secs_f64() / one_way.as_secs_f64()),
            "<= 1.2".to_owned(),
        ]);
    }
    Ok(())
}

/// One asset from an agent to another one, then many one after the other, whose times go to `live`.
async fn between_agents(args: &Args, path: &Path, seed: u64, live: &mut Runs) -> Result<Duration> {
    let (near, far) = (Home::new(&args.bins, "near")?, Home::new(&args.bins, "far")?);
    let (near, far) = (near.start().await?, far.set("bind_addr", &"[::1]:0").start().await?);
    let ticket: EndpointTicket = far.ticket.parse()?;
    let to = ticket.endpoint_addr().ip_addrs().find(|addr| addr.is_ipv6()).copied();
    let forwarder = path.forwarder(to.ok_or("the far agent has no IPv6")?, seed)?;
    let (id, bytes) = (ticket.endpoint_addr().id, args.mib * MIB);
    near.put_noise(Noise { seed, len: bytes }).await?;
    let started = Instant::now();
    near.dial_ticket(&EndpointTicket::new(raw::addr_of(id, forwarder.addr())).to_string()).await?;
    for agent in [&near, &far] {
        agent.wait_in_sync(Some(1), patience(bytes) * PATIENCE).await?;
    }
    let took = started.elapsed();
    if forwarder.counts(Way::There).passed_bytes < bytes {
        return Err("the content went past the forwarder".into());
    }
    let contents = (0..LIVE_ASSETS).map(|n| Noise { seed: n + (seed << 32), len: LIVE_BYTES });
    live.add_all(near.live(&far, contents).await?);
    Ok(took)
}
