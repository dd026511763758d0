//! `can-sync peers list` and `peers add`: the node's connections.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::fetch;
use crate::cli::Context;
use crate::cli::error::{CliError, CliResult, Exit};
use crate::cli::{output, resolve, text};

#[derive(Debug, Deserialize, Serialize)]
struct DiallingBody {
    endpoint_id: String,
}

pub(super) async fn list(context: &Context) -> CliResult {
    let out = context.out;
    let peers = fetch(&context.agent()?).await?;
    let heading =
        ["ID", "NAME", "STATE", "PATH", "RTT_MS", "LACKING_HERE", "LACKING_THERE", "LAST_SEEN", "LAST_ERROR"];
    out.list(&peers, &heading, |peer| {
        vec![
            out.id(&peer.endpoint_id),
            peer.name.clone(),
            if out.terminal { peer.state.replace('_', " ") } else { peer.state.clone() },
            peer.path.clone().unwrap_or_default(),
            peer.rtt_ms.map(|ms| format!("{ms:.1}")).unwrap_or_default(),
            peer.missing_here.to_string(),
            peer.missing_there.to_string(),
            out.time(peer.last_seen.as_deref().unwrap_or_default()),
            peer.last_error.clone().unwrap_or_default(),
        ]
    })?;
    if peers.is_empty() && out.terminal {
        output::message("No peers yet.");
    }
    Ok(())
}

/// Takes a peer out of what the node knows.
pub(super) async fn forget(context: &Context, wanted: &str) -> CliResult {
    let agent = context.agent()?;
    let endpoint_id = resolve::endpoint(&agent, wanted).await?;
    agent.delete(&format!("/peers/{endpoint_id}")).await?;
    let value = json!({ "endpoint_id": endpoint_id, "forgotten": true });
    context.out.result(&value, || format!("forgot {}", text::escape(&endpoint_id)))
}

pub(super) async fn add(context: &Context, peer: &str, addrs: &[SocketAddr]) -> CliResult {
    let is_id = resolve::is_id(peer);
    if !is_id && !addrs.is_empty() {
        return Err(CliError::new(
            Exit::Usage,
            "--addr goes with an endpoint id: a ticket has its own addresses",
        ));
    }
    let body = if is_id { json!({ "endpoint_id": peer, "addrs": addrs }) } else { json!({ "ticket": peer }) };
    let dialling: DiallingBody = context.agent()?.post("/peers", &body).await?;
    context.out.result(&dialling, || format!("connecting to {}", text::escape(&dialling.endpoint_id)))
}
