//! Peers and transfers as the page shows them.

use super::text::{Ago, bytes, grouped, shown};
use crate::api::bodies::word;
use crate::peer::report::{ConnectionState, PeerReport, TransferDirection, TransferReport};
use crate::text::short_id;

pub(in crate::api) struct WaitingRow {
    pub(in crate::api) name: String,
    pub(in crate::api) endpoint_id: String,
    pub(in crate::api) short_id: String,
}

impl WaitingRow {
    pub(super) fn new(peer: &PeerReport) -> Self {
        Self {
            name: named(peer),
            endpoint_id: peer.endpoint_id.clone(),
            short_id: short_id(&peer.endpoint_id),
        }
    }
}

fn named(peer: &PeerReport) -> String {
    if peer.name.is_empty() { String::from("(no name yet)") } else { shown(&peer.name) }
}

pub(in crate::api) struct PeerRow {
    pub(in crate::api) name: String,
    pub(in crate::api) endpoint_id: String,
    pub(in crate::api) short_id: String,
    pub(in crate::api) state: String,
    pub(in crate::api) mood: &'static str,
    /// Whether this node's user shut it out.
    pub(in crate::api) is_denied: bool,
    pub(in crate::api) path: Option<&'static str>,
    pub(in crate::api) remote_addr: String,
    pub(in crate::api) rtt: Option<String>,
    pub(in crate::api) assets: Option<String>,
    pub(in crate::api) missing_here: String,
    pub(in crate::api) missing_here_bytes: Option<String>,
    pub(in crate::api) missing_there: String,
    pub(in crate::api) sent: String,
    pub(in crate::api) received: String,
    pub(in crate::api) last_seen: Option<Ago>,
    pub(in crate::api) last_error: Option<String>,
    pub(in crate::api) sources: String,
}

impl PeerRow {
    pub(super) fn new(peer: PeerReport, now_ms: u64) -> Self {
        let mood = match peer.state {
            ConnectionState::InSync => "good",
            ConnectionState::Connecting | ConnectionState::Reconciling | ConnectionState::Syncing => "busy",
            ConnectionState::Waiting => "idle",
            ConnectionState::BackingOff
            | ConnectionState::ApprovalWanted
            | ConnectionState::NotApproved
            | ConnectionState::Denied
            | ConnectionState::DeniedThere
            | ConnectionState::OtherPassphrase
            | ConnectionState::TicketRefused => "bad",
        };
        Self {
            name: named(&peer),
            is_denied: peer.state == ConnectionState::Denied,
            short_id: short_id(&peer.endpoint_id),
            endpoint_id: peer.endpoint_id,
            state: word(&peer.state).replace('_', " "),
            mood,
            path: peer.path,
            remote_addr: peer.remote_addr.as_deref().map(shown).unwrap_or_default(),
            rtt: peer.rtt_ms.map(|ms| if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }),
            assets: peer.assets.map(grouped),
            missing_here: grouped(peer.missing_here),
            missing_here_bytes: (peer.missing_here > 0).then(|| bytes(peer.missing_here_bytes)),
            missing_there: grouped(peer.missing_there),
            sent: bytes(peer.bytes_sent),
            received: bytes(peer.bytes_received),
            last_seen: peer.last_seen_ms.map(|ms| Ago::new(now_ms, ms)),
            last_error: peer.last_error.as_deref().map(shown),
            sources: peer.sources.join(", "),
        }
    }
}

/// What a peer is called, for a sentence: its name, else the beginning of its id.
pub(super) fn called(endpoint_id: &str, peers: &[PeerReport]) -> String {
    let peer = peers.iter().find(|peer| peer.endpoint_id == endpoint_id);
    peer.filter(|peer| !peer.name.is_empty()).map_or_else(|| short_id(endpoint_id), |peer| shown(&peer.name))
}

pub(in crate::api) struct TransferRow {
    pub(in crate::api) short_hash: String,
    pub(in crate::api) hash: String,
    pub(in crate::api) arrow: &'static str,
    pub(in crate::api) direction: &'static str,
    pub(in crate::api) peer: String,
    pub(in crate::api) size: String,
    pub(in crate::api) percent: u64,
    pub(in crate::api) started: bool,
}

impl TransferRow {
    pub(super) fn new(transfer: &TransferReport, peers: &[PeerReport]) -> Self {
        let (arrow, direction) = match transfer.direction {
            TransferDirection::Receiving => ("↓", "from"),
            TransferDirection::Sending => ("↑", "to"),
        };
        let done = u128::from(transfer.done.min(transfer.size)) * 100;
        let percent = done.checked_div(u128::from(transfer.size)).unwrap_or(100);
        Self {
            short_hash: short_id(&transfer.hash),
            hash: transfer.hash.clone(),
            arrow,
            direction,
            peer: called(&transfer.peer, peers),
            size: bytes(transfer.size),
            percent: u64::try_from(percent).unwrap_or(100),
            started: transfer.started,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_transfer_is_complete() {
        let transfer = |size, done| TransferReport {
            hash: "ab".repeat(32),
            size,
            done,
            direction: TransferDirection::Receiving,
            peer: "cd".repeat(32),
            started: true,
        };
        let percent = |size, done| TransferRow::new(&transfer(size, done), &[]).percent;
        assert_eq!((percent(0, 0), percent(200, 50), percent(10, 20)), (100, 25, 100));
    }
}
