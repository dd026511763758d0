//! What happened, as the page tells it.

use super::peers::called;
use super::text::{Ago, bytes, count, shown};
use crate::events::{LoggedEvent, NodeEvent};
use crate::peer::report::PeerReport;
use crate::text::short_id;

pub(in crate::api) struct ActivityRow {
    pub(in crate::api) at: Ago,
    pub(in crate::api) mood: &'static str,
    pub(in crate::api) text: String,
}

impl ActivityRow {
    pub(super) fn new(logged: &LoggedEvent, peers: &[PeerReport], now_ms: u64) -> Self {
        let (mood, text) = match &logged.event {
            NodeEvent::PeerConnected { endpoint_id, name } => {
                let name = if name.is_empty() { short_id(endpoint_id) } else { name.clone() };
                ("good", format!("{name} connected"))
            }
            NodeEvent::PeerLost { endpoint_id, reason } => {
                ("idle", format!("{} is gone: {reason}", called(endpoint_id, peers)))
            }
            NodeEvent::PeerStale { endpoint_id, name } => {
                let name = if name.is_empty() { short_id(endpoint_id) } else { name.clone() };
                ("idle", format!("{name} was silent and does not answer"))
            }
            NodeEvent::AssetReceived { hash, size, from } => (
                "busy",
                format!("{} ({}) received from {}", short_id(hash), bytes(*size), called(from, peers)),
            ),
            NodeEvent::AssetFailed { hash, from, reason } => {
                ("bad", format!("{} could not be had from {}: {reason}", short_id(hash), called(from, peers)))
            }
            NodeEvent::Damaged { hash, size, reason } => {
                ("bad", format!("{} ({}) is damaged here: {reason}", short_id(hash), bytes(*size)))
            }
            NodeEvent::Healed { hash, size } => {
                ("good", format!("{} ({}) is whole again", short_id(hash), bytes(*size)))
            }
            NodeEvent::InSync { assets } => {
                ("good", format!("Caught up: {}", count(*assets, "asset", "assets")))
            }
            NodeEvent::DeletionsHeld { held, .. } => (
                "bad",
                format!("{} by a peer held back: too much at once", count(*held, "deletion", "deletions")),
            ),
            NodeEvent::FolderConflict { path, .. } => {
                ("", format!("Edited on two machines apart: the other version is {path}"))
            }
            NodeEvent::FolderMissing { path, reason, .. } => {
                ("bad", format!("The folder at {path} is missing: {reason}"))
            }
            NodeEvent::FolderHeld { path, held, .. } => (
                "bad",
                format!("{} in {path} held back: too much at once", count(*held, "removal", "removals")),
            ),
            NodeEvent::ActorRestarted { kind, reason, restarts } => (
                "bad",
                format!("{kind} was restarted ({}): {reason}", count(u64::from(*restarts), "time", "times")),
            ),
        };
        Self { at: Ago::new(now_ms, logged.at_ms), mood, text: shown(&text) }
    }
}
