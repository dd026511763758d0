//! Offers of records of folders that wait for an answer, and what is not to be offered back.

use std::collections::{HashMap, VecDeque};

use crate::entry::EntryHash;
use crate::record::RecordId;

/// Versions known to be at the peer that our feed has not reported yet. Forgetting one costs a redundant offer.
const ECHOES_MAX: usize = 16_384;

/// Offers of one path that wait for their confirmation.
#[derive(Debug, Default, Clone, Copy)]
struct OpenPath {
    offers: u32,
    bytes: usize,
}

/// Offers by path, and their sums.
#[derive(Debug, Default)]
pub(super) struct OpenEntries {
    by_hash: HashMap<EntryHash, OpenPath>,
    pub(super) count: usize,
    pub(super) bytes: usize,
}

impl OpenEntries {
    pub(super) fn add(&mut self, hash: EntryHash, bytes: usize) {
        let open = self.by_hash.entry(hash).or_default();
        open.offers += 1;
        open.bytes += bytes;
        self.count += 1;
        self.bytes += bytes;
    }

    /// How many paths they are of.
    pub(super) fn paths(&self) -> usize {
        self.by_hash.len()
    }

    /// Forgets one offer of `hash`; whether there was one.
    pub(super) fn remove(&mut self, hash: &EntryHash) -> bool {
        let Some(open) = self.by_hash.get_mut(hash) else { return false };
        let bytes = open.bytes / open.offers.max(1) as usize;
        open.offers = open.offers.saturating_sub(1);
        open.bytes -= bytes;
        self.count -= 1;
        self.bytes -= bytes;
        if open.offers == 0 {
            self.bytes -= open.bytes;
            self.by_hash.remove(hash);
        }
        true
    }
}

/// Versions that came from the peer and that our own feed has yet to report.
#[derive(Debug, Default)]
pub(super) struct EntryEchoes {
    pub(super) by_hash: HashMap<EntryHash, RecordId>,
    order: VecDeque<EntryHash>,
}

impl EntryEchoes {
    pub(super) fn expect(&mut self, hash: EntryHash, rid: RecordId) {
        if self.by_hash.insert(hash, rid).is_none() {
            self.order.push_back(hash);
        }
        while self.order.len() > ECHOES_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.by_hash.remove(&oldest);
            }
        }
    }

    /// Whether this very version was expected; it is expected no longer.
    pub(super) fn take(&mut self, hash: &EntryHash, rid: &RecordId) -> bool {
        let is_echo = self.by_hash.get(hash) == Some(rid);
        if is_echo {
            self.by_hash.remove(hash);
        }
        is_echo
    }
}
