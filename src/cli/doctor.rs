//! `can-sync doctor`: tries each layer that a node stands on, and says what is wrong and what to do.
//!
//! Works with and without a daemon (of one on another machine, it tells what that says of itself), changes nothing, and ends
//! within a few seconds whatever does not answer: each check has its limit, and all run at once.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Context;
use super::error::{CliError, CliResult, Exit};
use super::progress::ProgressLine;
use super::{peers, text};
use crate::config::Config;

mod clock;
mod daemon;
mod network;
mod store;

use network::DaemonSockets;

const CHECK_WITHIN: Duration = Duration::from_secs(5);

/// What to do where two machines run on copies of one data directory.
const COPIED: &str = "stop the copy, run `can-sync id --new` there, and start it again: it has an id of its own then, and keeps \
                      its assets";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum CheckVerdict {
    Ok,
    /// It works, or may; somebody should look at it.
    Warn,
    Fail,
    Off,
}

impl CheckVerdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Off => "off",
        }
    }
}

#[derive(Debug)]
struct Finding {
    verdict: CheckVerdict,
    detail: String,
    advice: Option<String>,
}

impl Finding {
    fn ok(detail: impl Into<String>) -> Self {
        Self { verdict: CheckVerdict::Ok, detail: detail.into(), advice: None }
    }

    fn off(detail: impl Into<String>) -> Self {
        Self { verdict: CheckVerdict::Off, detail: detail.into(), advice: None }
    }

    fn warn(detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: CheckVerdict::Warn, detail: detail.into(), advice: Some(advice.into()) }
    }

    fn fail(detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: CheckVerdict::Fail, detail: detail.into(), advice: Some(advice.into()) }
    }
}

/// The layers, from the bottom up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Daemon,
    Store,
    Clock,
    Udp,
    Relay,
    PkarrRelays,
    Dht,
    Mdns,
}

impl Layer {
    fn name(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Store => "store",
            Self::Clock => "clock",
            Self::Udp => "udp",
            Self::Relay => "relay",
            Self::PkarrRelays => "pkarr_relays",
            Self::Dht => "dht",
            Self::Mdns => "mdns",
        }
    }

    /// Whether it is a way of finding peers: one that works is enough.
    fn finds_peers(self) -> bool {
        matches!(self, Self::PkarrRelays | Self::Dht | Self::Mdns)
    }
}

#[derive(Debug)]
struct Check {
    layer: Layer,
    finding: Finding,
    took: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Health {
    Ok,
    Degraded,
    Failed,
}

impl Health {
    fn of(checks: &[Check]) -> Self {
        let failed = |check: &&Check| check.finding.verdict == CheckVerdict::Fail;
        let vital = |layer| matches!(layer, Layer::Store | Layer::Udp);
        let mut used = checks
            .iter()
            .filter(|check| check.layer.finds_peers() && check.finding.verdict != CheckVerdict::Off)
            .peekable();
        let blind = used.peek().is_some() && used.all(|check| check.finding.verdict == CheckVerdict::Fail);
        if blind || checks.iter().filter(failed).any(|check| vital(check.layer)) {
            Self::Failed
        } else if checks.iter().any(|check| check.finding.verdict == CheckVerdict::Fail) {
            Self::Degraded
        } else {
            Self::Ok
        }
    }
}

/// Exit code 0 when nothing fails, 4 when something fails without which a node still works, 1 otherwise.
pub(super) async fn run(context: &Context) -> CliResult {
    let config = context.load_config(None, Vec::new())?.config;
    let progress = ProgressLine::spinner("asking the daemon");
    let asked = timeout(CHECK_WITHIN, daemon::ask(context)).await;
    let asked =
        asked.unwrap_or_else(|_| Err(CliError::new(Exit::Timeout, "the daemon took too long to answer")));
    let began = Instant::now();
    let (daemon, finding) = daemon::judge(asked);
    let elsewhere = context.is_elsewhere(&config);
    let sockets = DaemonSockets {
        // One that is too busy to answer has them open all the same.
        are_open: daemon.is_some() || context.node_here(&config).is_some(),
        reach_peers: daemon.is_some() && reaches_peers(context).await,
    };
    let mut checks = vec![Check { layer: Layer::Daemon, finding, took: began.elapsed() }];
    if elsewhere {
        checks.extend(daemon.as_ref().into_iter().flat_map(by_its_word));
    } else {
        checks.extend(run_all(&config, daemon.as_ref(), sockets, &progress).await);
    }
    drop(progress);
    checks.sort_unstable_by_key(|check| check.layer);
    let health = Health::of(&checks);
    show(context, &checks, health, daemon.as_ref())?;
    if elsewhere && daemon.is_none() {
        return Err(CliError::new(Exit::NoDaemon, "the node that --api names cannot be asked"));
    }
    match health {
        Health::Ok => Ok(()),
        Health::Degraded => {
            Err(CliError::new(Exit::Degraded, "degraded: some layers fail, and others make up for them"))
        }
        Health::Failed => Err(CliError::failure("a node cannot work like this")),
    }
}

/// Whether the daemon has a peer that it reaches without a relay.
async fn reaches_peers(context: &Context) -> bool {
    let asked = async { peers::fetch(&context.agent()?).await };
    let peers = timeout(CHECK_WITHIN, asked).await.ok().and_then(Result::ok).unwrap_or_default();
    peers.iter().any(peers::PeerBody::is_direct)
}

/// What a node on another machine says of itself; nothing of this machine is its.
fn by_its_word(status: &Value) -> [Check; 2] {
    let check = |layer, finding| Check { layer, finding, took: Duration::ZERO };
    [check(Layer::Store, store::by_its_word(status)), check(Layer::Clock, clock::by_its_word(status))]
}

/// Every check but the daemon's, at once.
async fn run_all(
    config: &Config,
    daemon: Option<&Value>,
    sockets: DaemonSockets,
    progress: &ProgressLine,
) -> Vec<Check> {
    let all: [(Layer, BoxFuture<'_, Finding>); 7] = [
        (Layer::Store, Box::pin(store::check(config, daemon))),
        (Layer::Clock, Box::pin(clock::check(config, daemon))),
        (Layer::Udp, Box::pin(network::udp(config, sockets))),
        (Layer::Relay, Box::pin(network::relay(config))),
        (Layer::PkarrRelays, Box::pin(network::pkarr_relays(config))),
        (Layer::Dht, Box::pin(network::dht(config))),
        (Layer::Mdns, Box::pin(network::mdns(config))),
    ];
    let mut left: Vec<Layer> = all.iter().map(|(layer, _)| *layer).collect();
    let mut running: FuturesUnordered<_> =
        all.into_iter().map(|(layer, check)| limited(layer, check)).collect();
    let mut done = Vec::new();
    loop {
        let names: Vec<_> = left.iter().map(|layer| layer.name()).collect();
        progress.set(&format!("checking {}", names.join(", ")));
        let Some(check) = running.next().await else { return done };
        left.retain(|layer| *layer != check.layer);
        done.push(check);
    }
}

async fn limited(layer: Layer, check: BoxFuture<'_, Finding>) -> Check {
    let began = Instant::now();
    let finding = timeout(CHECK_WITHIN, check).await.unwrap_or_else(|_| {
        let detail = format!("no answer within {} s", CHECK_WITHIN.as_secs());
        match layer {
            // A lookup takes several steps; a network that carries none of them is told of sooner.
            Layer::Dht => Finding::warn(detail, "it may be slow just now: try again"),
            Layer::Daemon
            | Layer::Store
            | Layer::Clock
            | Layer::Udp
            | Layer::Relay
            | Layer::PkarrRelays
            | Layer::Mdns => {
                Finding::fail(detail, "look whether this machine's network and disk answer at all")
            }
        }
    });
    Check { layer, finding, took: began.elapsed() }
}

fn show(context: &Context, checks: &[Check], health: Health, daemon: Option<&Value>) -> CliResult {
    let out = context.out;
    if out.json {
        let check = |check: &Check| {
            let Check { layer, finding: Finding { verdict, detail, advice }, took } = check;
            let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            json!({ "layer": layer.name(), "state": verdict, "detail": detail, "advice": advice, "took_ms": millis })
        };
        let checks: Vec<_> = checks.iter().map(check).collect();
        return Ok(out.value(&json!({ "health": health, "checks": checks, "daemon": daemon }))?);
    }
    let row = |check: &Check| {
        let Finding { verdict, detail, advice } = &check.finding;
        let advice = advice.clone().unwrap_or_default();
        vec![check.layer.name().to_owned(), verdict.word().to_owned(), detail.clone(), advice]
    };
    let mut rows: Vec<_> = checks.iter().map(row).collect();
    rows.extend(daemon.map(daemon::refused_peers).unwrap_or_default());
    rows.extend(daemon.map(daemon::troubled_folders).unwrap_or_default());
    // What the daemon itself says of its channels: it has tried for longer than we have.
    let channels = daemon.and_then(|status| status.get("discovery")?.as_object());
    for (name, channel) in channels.into_iter().flatten() {
        let text = |key: &str| channel.get(key).and_then(Value::as_str);
        let found = channel.get("found").and_then(Value::as_u64).unwrap_or_default();
        let mut detail = format!("{} found", text::counted(found, "agent"));
        if let Some(time) = text("last_success") {
            detail = format!("{detail}, last success {}", text::ago(time));
        }
        let error = text("last_error").unwrap_or_default().to_owned();
        rows.push(vec![
            format!("daemon: {name}"),
            text("state").unwrap_or_default().to_owned(),
            detail,
            error,
        ]);
    }
    Ok(out.table(Some(&["LAYER", "STATE", "WHAT", "WHAT_TO_DO"]), &rows)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(verdicts: &[(Layer, CheckVerdict)]) -> Health {
        let check = |(layer, verdict): &(Layer, CheckVerdict)| Check {
            layer: *layer,
            finding: Finding { verdict: *verdict, detail: String::new(), advice: None },
            took: Duration::ZERO,
        };
        Health::of(&verdicts.iter().map(check).collect::<Vec<_>>())
    }

    #[test]
    fn one_way_of_finding_peers_is_enough() {
        use CheckVerdict::{Fail, Off, Ok, Warn};
        use Layer::{Clock, Daemon, Dht, Mdns, PkarrRelays, Relay, Store, Udp};
        assert_eq!(health(&[(Store, Ok), (Dht, Ok), (Daemon, Warn)]), Health::Ok);
        assert_eq!(health(&[(Store, Ok), (Dht, Fail), (Mdns, Ok)]), Health::Degraded);
        assert_eq!(health(&[(Store, Ok), (Dht, Fail), (PkarrRelays, Warn)]), Health::Degraded);
        assert_eq!(health(&[(Store, Ok), (Dht, Fail), (PkarrRelays, Fail), (Mdns, Off)]), Health::Failed);
        assert_eq!(health(&[(Dht, Off), (PkarrRelays, Off), (Mdns, Off)]), Health::Ok, "tickets do");
        assert_eq!(health(&[(Relay, Fail), (Mdns, Ok)]), Health::Degraded);
        assert_eq!(health(&[(Clock, Fail), (Mdns, Ok)]), Health::Degraded);
        assert_eq!(health(&[(Store, Fail), (Mdns, Ok)]), Health::Failed);
        assert_eq!(health(&[(Udp, Fail), (Mdns, Ok)]), Health::Failed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_hangs_is_given_up() {
        let check = limited(Layer::Store, Box::pin(std::future::pending())).await;
        assert_eq!(check.finding.verdict, CheckVerdict::Fail);
        assert!(check.finding.detail.contains("within 5 s"), "{}", check.finding.detail);
    }
}
