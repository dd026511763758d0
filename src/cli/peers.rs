//! `can-sync peers`: who is in the network, as the daemon knows it, or as other agents say when they are asked.

use std::net::SocketAddr;
use std::time::Duration;

use iroh::{EndpointAddr, EndpointId};
use iroh_tickets::endpoint::EndpointTicket;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Context;
use super::client::ApiClient;
use super::error::{CliError, CliResult, Exit};
use super::output::message;
use super::resolve;
use super::text;
use crate::discovery::list_peers::Found;
use crate::text::short_id;

mod ask;
mod connections;
mod network;

pub(super) use network::relay_mode;

/// Said where nobody was found.
const NOBODY: &str = "(no peers discovered)";

#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct PeersCommandArgs {
    #[command(subcommand)]
    action: Option<PeersCommand>,
    #[command(flatten)]
    ask: AskArgs,
}

#[derive(clap::Subcommand, Debug)]
enum PeersCommand {
    /// Show how each peer of the node stands: state, path, what is missing
    List,
    /// Connect to a node now, and remember it
    Add {
        /// A ticket (`can-sync id --ticket` prints one), or an endpoint id
        #[arg(value_name = "TICKET|ID")]
        peer: String,
        /// Where an endpoint id can be reached, `IP:PORT`
        #[arg(long = "addr", value_name = "ADDR")]
        addrs: Vec<SocketAddr>,
    },
    /// Forget a peer, also over a restart, and close the connection; it is known again when it comes by itself
    Forget {
        /// Its endpoint id, the beginning of that, or its name
        #[arg(value_name = "MACHINE")]
        machine: String,
    },
}

/// How the network is asked. Without any of it, the daemon is.
#[derive(clap::Args, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "flags that are there or not")]
struct AskArgs {
    /// Ask this agent for its peers: an endpoint id, a ticket, or a machine that the running node knows, by name or by the
    /// beginning of its id; `@` may stand before it
    #[arg(value_name = "ID", value_parser = AgentWord::parse, conflicts_with = "gossip")]
    from: Option<AgentWord>,
    /// Listen to the announcements of all agents, until all have been heard or time is up
    #[arg(long, conflicts_with = "rpc")]
    gossip: bool,
    /// Ask the agents that are known here for their peers
    #[arg(long)]
    rpc: bool,
    /// Ask the agents that are found as well, so many steps away; -1 for no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true, conflicts_with = "gossip")]
    #[arg(value_parser = clap::value_parser!(i64).range(-1..=i64::from(u32::MAX)))]
    depth: Option<i64>,
    /// Read what this agent has published about itself and others, in the DHT and on the rendezvous relays
    #[arg(long, value_name = "ID", value_parser = AgentWord::parse, conflicts_with_all = ["from", "gossip", "rpc", "depth", "discover"])]
    lookup: Option<AgentWord>,
    /// Stop at so many agents
    #[arg(long, value_name = "N", default_value_t = 1000)]
    #[arg(value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    max_peers: usize,
    /// For all of it, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Hand what was found to the running daemon, which connects to those it likes
    #[arg(long)]
    discover: bool,
    /// Begin with these agents: endpoint ids or tickets, separated by commas
    #[arg(long, value_name = "ID,…", value_delimiter = ',', value_parser = agent)]
    bootstrap: Vec<EndpointAddr>,
    /// Another topic than the passphrase's
    #[arg(long)]
    topic: Option<String>,
    /// The topic's secret; better in `CAN_SYNC_TOPIC_SECRET`, where no one sees it
    #[arg(long, value_name = "SECRET")]
    topic_secret: Option<String>,
    /// No relay: direct connections only
    #[arg(long)]
    no_relay: bool,
    /// Do not look on the local network
    #[arg(long)]
    no_mdns: bool,
}

impl AskArgs {
    /// Whether something is wanted that the daemon's own list is not.
    fn names_a_way(&self) -> bool {
        // Taken apart by name, so that no flag is forgotten.
        let Self {
            from,
            gossip,
            rpc,
            depth,
            lookup,
            max_peers: _,
            timeout: _,
            discover,
            bootstrap,
            topic,
            topic_secret,
            no_relay,
            no_mdns,
        } = self;
        let flags = *gossip || *rpc || *discover || *no_relay || *no_mdns;
        flags
            || from.is_some()
            || lookup.is_some()
            || depth.is_some()
            || !bootstrap.is_empty()
            || topic.is_some()
            || topic_secret.is_some()
    }

    /// Whether agents are asked, rather than listened to.
    fn asks(&self) -> bool {
        self.rpc || self.from.is_some() || self.depth.is_some()
    }

    /// Has the running node say which agents names stand for.
    async fn resolve_names(&mut self, context: &Context) -> CliResult {
        let words = self.from.iter_mut().chain(&mut self.lookup);
        for word in words {
            if let AgentWord::Name(name) = word {
                *word = AgentWord::Addr(EndpointAddr::new(named(context, name).await?));
            }
        }
        Ok(())
    }
}

/// The agent that the running node knows by this name or beginning of an id.
async fn named(context: &Context, name: &str) -> CliResult<EndpointId> {
    let known = async { resolve::endpoint(&context.agent()?, name).await };
    let id = known.await.map_err(|error| {
        if error.exit() != Exit::NoDaemon {
            return error;
        }
        let message = format!("'{name}' is neither an endpoint id of 64 hexadecimal digits nor a ticket");
        CliError::new(Exit::Usage, message)
            .hint("names stand for machines only while the node runs that knows them")
    })?;
    id.parse()
        .map_err(|_| CliError::failure(format!("the node knows '{name}' by what is no endpoint id: {id}")))
}

/// An endpoint id, with `@` before it as in the shell, or a ticket.
fn agent(text: &str) -> Result<EndpointAddr, String> {
    let text = text.trim();
    let name = text.strip_prefix('@').unwrap_or(text);
    if let Ok(ticket) = name.parse::<EndpointTicket>() {
        return Ok(ticket.endpoint_addr().clone());
    }
    let id = name.parse::<EndpointId>();
    id.map(EndpointAddr::new)
        .map_err(|_| "expected an endpoint id of 64 hexadecimal digits, or a ticket".to_owned())
}

/// An agent as people name it.
#[derive(Clone, Debug, PartialEq)]
enum AgentWord {
    /// By an endpoint id or a ticket.
    Addr(EndpointAddr),
    /// By something that the running node may know.
    Name(String),
}

impl AgentWord {
    /// `@` may stand before it, as in the shell.
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let name = text.strip_prefix('@').unwrap_or(text);
        // Commands do not go with flags of the question.
        if name.is_empty() || ["list", "add", "forget"].contains(&text) {
            return Err("expected an endpoint id, a ticket, or the name of a machine".to_owned());
        }
        Ok(agent(name).map_or_else(|_| Self::Name(name.to_owned()), Self::Addr))
    }

    fn addr(&self) -> Option<&EndpointAddr> {
        match self {
            Self::Addr(addr) => Some(addr),
            Self::Name(_) => None,
        }
    }
}

/// One entry of `GET /peers`, as far as the command line needs it; the rest is passed on in JSON.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct PeerBody {
    endpoint_id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    state: String,
    path: Option<String>,
    rtt_ms: Option<f64>,
    assets: Option<u64>,
    #[serde(default)]
    missing_here: u64,
    #[serde(default)]
    missing_here_bytes: u64,
    #[serde(default)]
    pub(super) missing_there: u64,
    #[serde(default)]
    rates: RatesBody,
    eta_secs: Option<u64>,
    last_seen: Option<String>,
    last_error: Option<String>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// Content bytes per second.
#[derive(Debug, Default, Deserialize, Serialize)]
struct RatesBody {
    send: f64,
    receive: f64,
}

impl PeerBody {
    /// Its name, else the beginning of its id.
    pub(super) fn called(&self) -> String {
        if self.name.is_empty() { short_id(&self.endpoint_id) } else { self.name.clone() }
    }

    /// What is missing on either side of a connection, and how fast it moves; `None` when that is nothing.
    pub(super) fn progress(&self) -> Option<String> {
        let Self { missing_here, missing_there, rates, .. } = self;
        let speed = |rate: f64| if rate > 0.0 { format!(", {}", text::rate(rate)) } else { String::new() };
        let mut sides = Vec::new();
        if *missing_here > 0 {
            let (missing, size) =
                (text::counted(*missing_here, "asset"), text::bytes(self.missing_here_bytes));
            let eta = self.eta_secs.map(|secs| format!(", {} left", text::seconds(secs))).unwrap_or_default();
            sides.push(format!("{missing} ({size}) missing here{}{eta}", speed(rates.receive)));
        } else if rates.receive > 0.0 {
            sides.push(format!("receiving{}", speed(rates.receive)));
        }
        if *missing_there > 0 {
            let missing = text::counted(*missing_there, "change");
            sides.push(format!("{missing} missing there{}", speed(rates.send)));
        } else if rates.send > 0.0 {
            sides.push(format!("sending{}", speed(rates.send)));
        }
        let connected = self.path.is_some() && !sides.is_empty();
        connected.then(|| sides.join("; "))
    }

    /// Whether it is connected without a relay.
    pub(super) fn is_direct(&self) -> bool {
        self.path.as_deref() == Some("direct")
    }
}

#[derive(Debug, Deserialize)]
struct Peers {
    peers: Vec<PeerBody>,
}

pub(super) async fn fetch(agent: &ApiClient) -> CliResult<Vec<PeerBody>> {
    let Peers { peers } = agent.get("/peers", &[]).await?;
    Ok(peers)
}

pub(super) async fn run(context: &Context, args: PeersCommandArgs) -> CliResult {
    let PeersCommandArgs { action, mut ask } = args;
    ask.resolve_names(context).await?;
    match action {
        Some(PeersCommand::List) => connections::list(context).await,
        Some(PeersCommand::Add { peer, addrs }) => connections::add(context, &peer, &addrs).await,
        Some(PeersCommand::Forget { machine }) => connections::forget(context, &machine).await,
        None if let Some(agent) = ask.lookup.as_ref().and_then(AgentWord::addr) => {
            Box::pin(ask::look_up(context, &ask, agent.id)).await
        }
        None if ask.names_a_way() => Box::pin(ask::run(context, &ask)).await,
        None => known(context, &ask).await,
    }
}

/// The daemon's peers; without a daemon, the agents that announce themselves.
async fn known(context: &Context, args: &AskArgs) -> CliResult {
    let fetched = async { fetch(&context.agent()?).await };
    let peers = match fetched.await {
        Ok(peers) => peers,
        // Nothing that is found here is of a node that is not here.
        Err(error) if error.exit() == Exit::NoDaemon && context.globals.api.is_none() => {
            return Box::pin(ask::without_daemon(context, args, error)).await;
        }
        Err(error) => return Err(error),
    };
    show(context, peers.into_iter().map(Row::from).collect())
}

/// One agent of the list.
struct Row {
    endpoint_id: String,
    name: String,
    assets: Option<u64>,
    /// RFC 3339.
    last_seen: Option<String>,
    json: Value,
}

impl From<PeerBody> for Row {
    fn from(peer: PeerBody) -> Self {
        let json = serde_json::to_value(&peer).unwrap_or_default();
        let PeerBody { endpoint_id, name, assets, last_seen, .. } = peer;
        Self { endpoint_id, name, assets, last_seen, json }
    }
}

impl Row {
    /// An agent of which only its being alive was published, `age` before `now`.
    fn published(addr: &EndpointAddr, age: Duration, now: Timestamp) -> Self {
        let (endpoint_id, last_seen) = (addr.id.to_string(), before(now, age));
        let ticket = (!addr.addrs.is_empty()).then(|| EndpointTicket::new(addr.clone()).to_string());
        let json = json!({ "endpoint_id": endpoint_id, "last_seen": last_seen, "ticket": ticket });
        Self { endpoint_id, name: String::new(), assets: None, last_seen, json }
    }

    /// An agent that others described at `now`.
    fn found(found: &Found, now: Timestamp) -> Self {
        let last_seen = before(now, found.age);
        let endpoint_id = found.id.to_string();
        let json = json!({
            "endpoint_id": endpoint_id,
            "name": found.name,
            "assets": found.assets,
            "bytes": found.total_bytes,
            "last_seen": last_seen,
            "ticket": EndpointTicket::new(found.addr.clone()).to_string(),
        });
        Self { endpoint_id, name: found.name.clone(), assets: Some(found.assets), last_seen, json }
    }
}

/// `age` before `now`, in RFC 3339.
fn before(now: Timestamp, age: Duration) -> Option<String> {
    let seen = now.as_millisecond().checked_sub(i64::try_from(age.as_millis()).ok()?)?;
    Some(format!("{:.3}", Timestamp::from_millisecond(seen).ok()?))
}

/// Prints the list by id: tab-separated without a heading for programs, a table with one for people.
fn show(context: &Context, mut rows: Vec<Row>) -> CliResult {
    let out = context.out;
    rows.sort_unstable_by(|a, b| a.endpoint_id.cmp(&b.endpoint_id));
    if out.json {
        return Ok(rows.iter().try_for_each(|row| out.value(&row.json))?);
    }
    if rows.is_empty() {
        return Ok(out.line(NOBODY)?);
    }
    let cells = |row: Row| {
        vec![
            out.id(&row.endpoint_id),
            row.name,
            row.assets.map(|count| count.to_string()).unwrap_or_default(),
            out.time(row.last_seen.as_deref().unwrap_or_default()),
        ]
    };
    let heading: &[&str] = &["ID", "NAME", "ASSETS", "LAST_SEEN"];
    let rows: Vec<_> = rows.into_iter().map(cells).collect();
    Ok(out.table(out.terminal.then_some(heading), &rows)?)
}

/// Says what one agent came to, on a line of its own.
fn complain(id: EndpointId, why: &str) {
    message(&format!("{id}: {}", text::escape(why)));
}

#[cfg(test)]
mod tests;
