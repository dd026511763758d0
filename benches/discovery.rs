//! How long two agents with nothing in common but the passphrase need to find each other, by each channel alone.
//!
//! `cargo bench --bench discovery [-- --runs N] [-- --channel NAME]`. Real infrastructure in this process, on loopback: a
//! pkarr relay, a DHT of ten nodes. "first there" starts one agent, waits until it has published, then starts the other;
//! "at once" starts both together. The clock runs from the start of the (second) agent, key stretching included, to its
//! first authenticated session. The limit beside it: the same two agents with a ticket.
#![expect(clippy::print_stdout, reason = "tables are what a bench is for")]

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use can_sync::config::{Config, HttpUrl, RelaySetting, Sources};
use can_sync::node::events::NodeEvent;
use can_sync::node::{Node, StartOutput};
use comfy_table::{Table, presets};
use mainline::Testnet;
use tempfile::TempDir;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const PASSPHRASE: &str = "seven sleepy otters juggle quiet lanterns tonight";
/// Nobody waits longer; a run that does counts as this.
const GIVE_UP: Duration = Duration::from_mins(1);
const CHANNELS: [&str; 6] = ["ticket", "mdns", "relays", "dht", "bootstrap", "saved"];

#[tokio::main]
async fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().collect();
    // `cargo test --benches` passes a flag of its own.
    if args.iter().any(|arg| arg == "--test") {
        return Ok(());
    }
    let after = |flag: &str| args.iter().position(|arg| arg == flag).and_then(|i| args.get(i + 1)).cloned();
    let runs: usize = after("--runs").map_or(Ok(5), |text| text.parse())?;
    let only = after("--channel");
    let _ = rustls::crypto::ring::default_provider().install_default();
    // `RUST_LOG=can_sync=debug` shows where the time goes.
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();

    let testnet = Testnet::builder(10).build()?;
    let relay = pkarr_relay::Relay::run_test(&testnet.bootstrap).await?;
    let network = Infrastructure { relay: relay.local_url().to_string(), dht: testnet.bootstrap.clone() };
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(["channel", "start", "median", "worst", "runs"]);
    for channel in CHANNELS.into_iter().filter(|channel| only.as_deref().is_none_or(|only| only == *channel))
    {
        let orders: &[&str] = match channel {
            "mdns" | "relays" | "dht" => &["first there", "at once"],
            _ => &["first there"],
        };
        for order in orders {
            let mut times = Vec::new();
            for _ in 0..runs {
                times.push(measure(channel, *order == "at once", &network).await?);
            }
            times.sort_unstable();
            let shown = |time: Duration| {
                if time >= GIVE_UP { "never".to_owned() } else { format!("{:.2} s", time.as_secs_f64()) }
            };
            let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
            table.add_row([channel, order, &shown(median), &shown(worst), &times.len().to_string()]);
        }
    }
    println!("{table}");
    Ok(())
}

struct Infrastructure {
    relay: String,
    dht: Vec<String>,
}

/// From the start of the second agent to its first session.
async fn measure(channel: &str, at_once: bool, network: &Infrastructure) -> Outcome<Duration> {
    let dirs = (tempfile::tempdir()?, tempfile::tempdir()?);
    // A passphrase for each run: nobody finds what the last one left in the slots.
    let passphrase = format!("{PASSPHRASE} {}", dirs.0.path().display());
    let config = |name: &str, dir: &TempDir| configure(name, dir.path(), &passphrase, channel, network);
    let (first, mut second) = (config("first", &dirs.0)?, config("second", &dirs.1)?);

    if at_once {
        let started = Instant::now();
        let (a, b) = tokio::try_join!(start(&first), start(&second))?;
        let took = first_session(&b, started).await;
        return stop([a, b], took).await;
    }
    let a = start(&first).await?;
    match channel {
        "ticket" => second.connect_ticket_file = first.ticket_file,
        "bootstrap" => second.discovery.bootstrap = vec![a.ticket()],
        "saved" => {
            let with_ticket = Config { connect_ticket_file: first.ticket_file, ..second.clone() };
            let b = start(&with_ticket).await?;
            first_session(&b, Instant::now()).await;
            b.stop("seen enough");
            b.wait().await;
        }
        _ => published(&a, channel).await,
    }
    let started = Instant::now();
    let b = start(&second).await?;
    let took = first_session(&b, started).await;
    stop([a, b], took).await
}

fn configure(
    name: &str,
    dir: &Path,
    passphrase: &str,
    channel: &str,
    network: &Infrastructure,
) -> Outcome<Config> {
    let mut config = Config::load(&Sources::default())?.config;
    name.clone_into(&mut config.name);
    config.data_dir = dir.join("data");
    for addr in [&mut config.listen_addr, &mut config.can_listen_addr, &mut config.bind_addr] {
        *addr = "127.0.0.1:0".parse()?;
    }
    config.relay_url = RelaySetting::Disabled;
    config.sync_passphrase = Some(passphrase.into());
    config.limits.disk_reserve_bytes = 0;
    let relay = HttpUrl::parse(&network.relay).ok_or("the relay's URL")?;
    config.discovery.pkarr_relays = if channel == "relays" { vec![relay] } else { Vec::new() };
    config.discovery.dht = channel == "dht";
    config.discovery.dht_bootstrap = Some(network.dht.clone());
    config.discovery.mdns = channel == "mdns";
    config.ticket_file = Some(dir.join("ticket"));
    Ok(config)
}

async fn start(config: &Config) -> Outcome<Node> {
    let output = StartOutput { progress: Box::new(|_| {}), signals: None };
    Ok(Box::pin(Node::start(config.clone(), output)).await?)
}

/// Waits until the channel has done what it is for, once.
async fn published(node: &Node, channel: &str) {
    let name = channel;
    let deadline = Instant::now() + GIVE_UP;
    while Instant::now() < deadline {
        let reports = node.channel_reports();
        if reports.iter().any(|report| report.channel.name() == name && report.last_success_ms.is_some()) {
            return;
        }
        // Nothing comes from the local network as long as nobody else is there.
        if name == "mdns" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn first_session(node: &Node, started: Instant) -> Duration {
    let events = node.events();
    let mut seen = events.subscribe();
    let connected = async {
        loop {
            seen.mark_unchanged();
            let connected = |logged: &can_sync::node::events::LoggedEvent| {
                matches!(logged.event, NodeEvent::PeerConnected { .. })
            };
            if events.since(0).0.iter().any(connected) || seen.changed().await.is_err() {
                return;
            }
        }
    };
    match tokio::time::timeout(GIVE_UP, connected).await {
        Ok(()) => started.elapsed(),
        Err(_) => GIVE_UP,
    }
}

async fn stop(nodes: [Node; 2], took: Duration) -> Outcome<Duration> {
    for node in nodes {
        node.stop("seen enough");
        node.wait().await;
    }
    Ok(took)
}
