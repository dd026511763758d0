//! Damaged contents in `/status`: what is known of each, and who has it.

use futures::future::join_all;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::view::{ASK_TIMEOUT, AgentView, ask};
use super::why::called;
use crate::peer::messages::PeersMsg;
use crate::store::StoreStatus;
use crate::store::scrub::ScrubFinding;

/// Damaged contents that are told of.
const SHOWN: usize = 20;

/// A content that is damaged here.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DamagedView {
    /// CAN hash.
    pub hash: String,
    /// Name of the content.
    pub filename: Option<String>,
    /// Size in bytes.
    pub size: u64,
    /// What is wrong with it.
    pub reason: String,
    /// When that was found, in milliseconds since the Unix epoch.
    pub found_ms: u64,
    /// Peers that have it, or had it when they were heard of last.
    pub holders: Vec<String>,
    /// Whether one of them is connected: else it comes back only once somebody is who has it.
    pub is_within_reach: bool,
}

pub(super) async fn gather(view: &AgentView, status: Option<&StoreStatus>) -> Vec<DamagedView> {
    if status.is_none_or(|status| status.damaged == 0) {
        return Vec::new();
    }
    let Ok(Ok(damaged)) = timeout(ASK_TIMEOUT, view.store.damaged(SHOWN)).await else { return Vec::new() };
    join_all(damaged.into_iter().map(|found| with_holders(view, found))).await
}

async fn with_holders(view: &AgentView, found: ScrubFinding) -> DamagedView {
    let ScrubFinding { hash, filename, size, reason, found_ms, healed: _ } = found;
    let mut sources = Vec::new();
    if let Ok(hash) = hash.parse()
        && let Ok(why) = ask(&view.peers, |reply| PeersMsg::GetWhy { hash, reply }).await
    {
        sources = why.sources;
    }
    let holders = sources.iter().map(|source| called(&source.name, &source.endpoint_id)).collect();
    let is_within_reach = sources.iter().any(|source| source.connected);
    DamagedView { hash, filename, size, reason, found_ms, holders, is_within_reach }
}
