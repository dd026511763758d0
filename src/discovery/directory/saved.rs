//! What outlives the process: which agents to look for at the next start.

use std::time::Duration;

use bytes::Bytes;
use iroh::EndpointAddr;
use tokio::time::Instant;

use super::Directory;
use super::entry::Rank;
use crate::discovery::announcement::{NAME_CHARS_MAX, printable, verify};
use crate::discovery::channel::{Channel, ChannelSet};

/// How often a mere sign of life is written down.
pub(super) const SAVE_EVERY: Duration = Duration::from_mins(5);

/// What is kept of an agent from one start to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedPeer {
    pub addr: EndpointAddr,
    pub name: String,
    pub sources: ChannelSet,
    /// When it was last known to be alive, in milliseconds since the Unix epoch by our own clock.
    pub last_success_ms: u64,
    /// Its last announcement, as it signed it.
    pub signed: Option<Bytes>,
}

impl Directory {
    pub fn is_restored(&self) -> bool {
        self.restored
    }

    /// Takes in what was kept at the last run, as hints: somebody who was alive then may not be now. Gives back those with
    /// addresses, the last alive first. What was altered since it was written is left out.
    pub fn restore(&mut self, saved: Vec<SavedPeer>, now: Instant, now_ms: u64) -> Vec<EndpointAddr> {
        self.restored = true;
        let mut saved = saved;
        saved.sort_unstable_by_key(|peer| std::cmp::Reverse(peer.last_success_ms));
        let mut addrs = Vec::new();
        for peer in saved {
            let signed = peer.signed.as_ref().and_then(|bytes| verify(bytes).ok());
            let signed = signed.filter(|signed| signed.announcement.id == peer.addr.id);
            let id = peer.addr.id;
            let Some(entry) = self.entry(id, Rank::Hint, now, &mut Vec::new()) else { continue };
            entry.merge_addrs(&peer.addr);
            entry.sources = entry.sources.union(peer.sources);
            entry.sources.insert(Channel::Saved);
            if entry.name.is_empty() {
                entry.name = printable(&peer.name, NAME_CHARS_MAX);
            }
            entry.last_success_ms = entry.last_success_ms.max(Some(peer.last_success_ms));
            if !entry.addr.is_empty() {
                addrs.push(entry.addr.clone());
            }
            if let Some(signed) = signed {
                self.marks.restore(id, signed.announcement.mark(), now_ms);
            }
        }
        addrs
    }

    /// What should be written down now: who is new or has moved, and signs of life now and then.
    pub fn unsaved(&mut self, now: Instant) -> Vec<SavedPeer> {
        let mut unsaved = Vec::new();
        for entry in self.entries.values_mut() {
            let (Some(alive), Some(last_success_ms)) = (entry.alive, entry.last_success_ms) else { continue };
            let due =
                entry.saved.is_none_or(|at| alive > at && now.saturating_duration_since(at) >= SAVE_EVERY);
            if entry.unsaved || due {
                entry.unsaved = false;
                entry.saved = Some(now);
                unsaved.push(SavedPeer {
                    addr: entry.addr.clone(),
                    name: entry.name.clone(),
                    sources: entry.sources,
                    last_success_ms,
                    signed: entry.signed.clone(),
                });
            }
        }
        unsaved
    }
}
