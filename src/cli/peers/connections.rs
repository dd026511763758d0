//! `can-sync peers list` and `peers add`: the node's connections.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{PeerBody, fetch};
use crate::cli::Context;
use crate::cli::error::{CliError, Exit};
use crate::cli::{output, resolve, text};

#[derive(Debug, Deserialize, Serialize)]
struct DiallingBody {
    endpoint_id: String,
}

pub(super) async fn list(context: &Context) -> Result<(), CliError> {
    let out = context.out;
    let peers = fetch(&context.agent()?).await?;
    if out.json {
        return Ok(peers.iter().try_for_each(|peer| out.value(peer))?);
    }
    let row = |peer: &PeerBody| {
        let id = resolve::shown(&peer.endpoint_id, out.terminal);
        let seen = peer.last_seen.as_deref().unwrap_or_default();
        vec![
            id,
            peer.name.clone(),
            if out.terminal { peer.state.replace('_', " ") } else { peer.state.clone() },
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
        output::message("No peers yet.");
    }
    Ok(())
}

/// Takes a peer out of what the node knows.
pub(super) async fn forget(context: &Context, wanted: &str) -> Result<(), CliError> {
    let agent = context.agent()?;
    let endpoint_id = resolve::endpoint(&agent, wanted).await?;
    agent.delete(&format!("/peers/{endpoint_id}")).await?;
    if context.out.json {
        return Ok(context.out.value(&json!({ "endpoint_id": endpoint_id, "forgotten": true }))?);
    }
    Ok(context.out.line(&format!("forgot {}", text::escape(&endpoint_id)))?)
}

pub(super) async fn add(context: &Context, peer: &str, addrs: &[SocketAddr]) -> Result<(), CliError> {
    let is_id = peer.len() == 64 && peer.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_id && !addrs.is_empty() {
        return Err(CliError::new(
            Exit::Usage,
            "--addr goes with an endpoint id: a ticket has its own addresses",
        ));
    }
    let body = if is_id { json!({ "endpoint_id": peer, "addrs": addrs }) } else { json!({ "ticket": peer }) };
    let dialling: DiallingBody = context.agent()?.post("/peers", &body).await?;
    if context.out.json {
        context.out.value(&dialling)?;
    } else {
        context.out.line(&format!("connecting to {}", text::escape(&dialling.endpoint_id)))?;
    }
    Ok(())
}
