//! The JSON shapes of the agent's API that the actors' own reports do not have. Pure.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actor::status::{ActorState, ActorStatus};
use crate::peer::report::{PeerReport, TransferReport};

/// The answer of `GET /peers`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PeerList {
    /// Every known peer, connected ones first.
    pub peers: Vec<PeerReport>,
}

/// The answer of `GET /transfers`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TransferList {
    /// What moves or waits, at most 1,000.
    pub transfers: Vec<TransferReport>,
}

/// The body of `POST /peers`: either a ticket, or an endpoint id with addresses.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DialRequest {
    /// A ticket, as `can-sync id --ticket` prints it.
    pub ticket: Option<String>,
    /// 64 hexadecimal digits.
    pub endpoint_id: Option<String>,
    /// `IP:port` each, at most 32; with none, the endpoint is looked up.
    #[serde(default)]
    pub addrs: Vec<String>,
}

/// The answer of `POST /peers`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DialAccepted {
    /// The endpoint that is being dialled.
    pub endpoint_id: String,
}

/// The answer of `DELETE /peers/{id}`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Forgotten {
    /// The endpoint that is no longer known.
    pub endpoint_id: String,
}

/// The answer of `POST /verify`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Verifying {
    /// Always `reconciling`: `/status` shows when it is done.
    pub state: &'static str,
}

/// The answer of `GET /ticket`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TicketView {
    /// Our endpoint id.
    pub endpoint_id: String,
    /// What another node needs to reach this one; worth nothing without the passphrase.
    pub ticket: String,
}

/// The answer of `GET /healthz`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Alive {
    /// Always true.
    pub alive: bool,
}

/// The answer of `GET /readyz`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Ready {
    /// Always true: what is not ready is an error.
    pub ready: bool,
}

pub(super) fn is_running(actor: &ActorStatus) -> bool {
    actor.state == ActorState::Running
}

/// Calls `each` with every actor of a tree and its depth, parents first.
pub(super) fn visit<'a>(tree: &'a ActorStatus, depth: usize, each: &mut impl FnMut(&'a ActorStatus, usize)) {
    each(tree, depth);
    for child in &tree.children {
        visit(child, depth + 1, each);
    }
}

/// A unit variant as its JSON word.
pub(super) fn word(variant: &impl Serialize) -> String {
    match serde_json::to_value(variant) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(_) | Err(_) => String::from("unknown"),
    }
}
