//! How long two agents with nothing in common but the passphrase need to find each other, by each channel alone.
//!
//! `cargo bench --bench discovery [-- --runs N] [-- --channel NAME]`. Real infrastructure in this process, on loopback: a
//! pkarr relay, a DHT of ten nodes. "first there" starts one agent, waits until it has published, then starts the other;
//! "at once" starts both together. The clock runs from the start of the (second) agent, key stretching included, to its
//! first authenticated session. The limit beside it: the same two agents with a ticket.

use std::path::Path;
use std::time::{Duration, Instant};

use can_sync::testing::config::{Config, HttpUrl};
use can_sync::testing::events::NodeEvent;
use can_sync::testing::node::Node;
use mainline::Testnet;
use support::figures::{Runs, Table};
use support::node::{start, stop};
use support::{PASSPHRASE, Result, node, temp_dir};
use tempfile::TempDir;

mod support;

/// Nobody waits longer; a run that does counts as this.
const GIVE_UP: Duration = Duration::from_mins(1);
const CHANNELS: [&str; 6] = ["ticket", "mdns", "relays", "dht", "bootstrap", "saved"];

#[derive(clap::Parser)]
struct Args {
    /// Runs of each row
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// One channel alone
    #[arg(long, value_parser = CHANNELS)]
    channel: Option<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Some(args) = support::args::<Args>() else { return Ok(()) };
    let _ = rustls::crypto::ring::default_provider().install_default();
    // `RUST_LOG=can_sync=debug` shows where the time goes.
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();

    let testnet = Testnet::builder(10).build()?;
    let relay = pkarr_relay::Relay::run_test(&testnet.bootstrap).await?;
    let network = Infrastructure { relay: relay.local_url().to_string(), dht: testnet.bootstrap.clone() };
    let columns = [("channel", 10), ("start", 12), ("median", 8), ("worst", 8), ("runs", 5), ("target", 8)];
    let table = Table::new(&columns);
    for channel in
        CHANNELS.into_iter().filter(|channel| args.channel.as_deref().is_none_or(|c| c == *channel))
    {
        let (orders, target): (&[&str], _) = match channel {
            "mdns" => (&["first there", "at once"], "<= 1 s"),
            "relays" | "dht" => (&["first there", "at once"], "<= 3 s"),
            _ => (&["first there"], "<= 1 s"),
        };
        for order in orders {
            let mut runs = Runs::default();
            for _ in 0..args.runs {
                runs.add(Box::pin(measure(channel, *order == "at once", &network)).await?);
            }
            let shown = |time: Duration| {
                if time >= GIVE_UP { "never".to_owned() } else { format!("{:.2} s", time.as_secs_f64()) }
            };
            let times = [shown(runs.median()), shown(runs.worst()), args.runs.to_string()];
            table.row(
                &[&[channel.to_owned(), (*order).to_owned()][..], &times, &[target.to_owned()]].concat(),
            );
        }
    }
    Ok(())
}

struct Infrastructure {
    relay: String,
    dht: Vec<String>,
}

/// From the start of the second agent to its first session.
async fn measure(channel: &str, at_once: bool, network: &Infrastructure) -> Result<Duration> {
    let dirs = (temp_dir()?, temp_dir()?);
    // A passphrase for each run: nobody finds what the last one left in the slots.
    let passphrase = format!("{PASSPHRASE} {}", dirs.0.path().display());
    let config = |name: &str, dir: &TempDir| configure(name, dir.path(), &passphrase, channel, network);
    let (first, mut second) = (config("first", &dirs.0)?, config("second", &dirs.1)?);

    if at_once {
        let started = Instant::now();
        let (a, b) = tokio::try_join!(start(&first), start(&second))?;
        let took = first_session(&b, started).await;
        stop([a, b]).await;
        return Ok(took);
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
    stop([a, b]).await;
    Ok(took)
}

fn configure(
    name: &str,
    dir: &Path,
    passphrase: &str,
    channel: &str,
    network: &Infrastructure,
) -> Result<Config> {
    let mut config = node::config(name, dir, passphrase)?;
    let relay = HttpUrl::parse(&network.relay).ok_or("the relay's URL")?;
    config.discovery.pkarr_relays = if channel == "relays" { vec![relay] } else { Vec::new() };
    config.discovery.dht = channel == "dht";
    config.discovery.dht_bootstrap = Some(network.dht.clone());
    config.discovery.mdns = channel == "mdns";
    config.ticket_file = Some(dir.join("ticket"));
    Ok(config)
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
            let connected = |logged: &can_sync::testing::events::LoggedEvent| {
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
