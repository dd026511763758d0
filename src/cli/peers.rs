//! `can-sync peers`: who the node knows and how each of them stands.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Context;
use super::client::Service;
use super::error::{CliError, Exit};
use super::text;

#[derive(clap::Args, Debug)]
pub(super) struct PeersArgs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// List them: the default
    List,
    /// Connect to a node now, and remember it
    Add {
        /// A ticket (`can-sync id --ticket` prints one), or an endpoint id
        #[arg(value_name = "TICKET|ID")]
        peer: String,
        /// Where an endpoint id can be reached, `IP:PORT`
        #[arg(long = "addr", value_name = "ADDR")]
        addrs: Vec<std::net::SocketAddr>,
    },
}

/// One entry of `GET /peers`, as far as the command line needs it; the rest is passed on in JSON.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Peer {
    endpoint_id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    rtt_ms: Option<f64>,
    #[serde(default)]
    missing_here: u64,
    #[serde(default)]
    pub(super) missing_there: u64,
    #[serde(default)]
    last_seen: Option<String>,
    #[serde(default)]
    last_error: Option<String>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Peers {
    peers: Vec<Peer>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Dialling {
    endpoint_id: String,
}

pub(super) async fn fetch(agent: &Service) -> Result<Vec<Peer>, CliError> {
    let Peers { peers } = agent.get("/peers", &[]).await?;
    Ok(peers)
}

pub(super) async fn run(context: &Context, args: PeersArgs) -> Result<(), CliError> {
    match args.action.unwrap_or(Action::List) {
        Action::List => list(context).await,
        Action::Add { peer, addrs } => add(context, &peer, &addrs).await,
    }
}

async fn list(context: &Context) -> Result<(), CliError> {
    let out = context.out;
    let peers = fetch(&context.agent()?).await?;
    if out.json {
        return Ok(peers.iter().try_for_each(|peer| out.value(peer))?);
    }
    let row = |peer: &Peer| {
        let id =
            if out.terminal { peer.endpoint_id.chars().take(10).collect() } else { peer.endpoint_id.clone() };
        let seen = peer.last_seen.as_deref().unwrap_or_default();
        vec![
            id,
            peer.name.clone(),
            peer.state.clone(),
            peer.path.clone().unwrap_or_default(),
            peer.rtt_ms.map(|ms| format!("{ms:.1}")).unwrap_or_default(),
            peer.missing_here.to_string(),
            peer.missing_there.to_string(),
            if out.terminal && !seen.is_empty() { text::ago(seen) } else { seen.to_owned() },
            peer.last_error.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = peers.iter().map(row).collect();
    let heading =
        ["ID", "NAME", "STATE", "PATH", "RTT_MS", "LACKING_HERE", "LACKING_THERE", "LAST_SEEN", "LAST_ERROR"];
    out.table(Some(&heading), &rows)?;
    if rows.is_empty() && out.terminal {
        super::output::message("No peers yet.");
    }
    Ok(())
}

async fn add(context: &Context, peer: &str, addrs: &[std::net::SocketAddr]) -> Result<(), CliError> {
    let is_id = peer.len() == 64 && peer.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_id && !addrs.is_empty() {
        return Err(CliError::new(
            Exit::Usage,
            "--addr goes with an endpoint id: a ticket has its own addresses",
        ));
    }
    let body = if is_id { json!({ "endpoint_id": peer, "addrs": addrs }) } else { json!({ "ticket": peer }) };
    let dialling: Dialling = context.agent()?.post("/peers", &body).await?;
    if context.out.json {
        context.out.value(&dialling)?;
    } else {
        context.out.line(&format!("connecting to {}", text::escape(&dialling.endpoint_id)))?;
    }
    Ok(())
}
