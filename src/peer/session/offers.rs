//! What a session keeps of offers, alike for assets and for records of folders: those to make, those that wait for their
//! confirmation, and what came from the peer and is not offered back.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;

use super::QUEUE_MAX;
use crate::record::{Hlc, RecordId};

/// Versions known to be at the peer that our feed has not reported yet. Forgetting one costs a redundant offer.
const ECHOES_MAX: usize = 16_384;

/// What is to be offered and has to be loaded first.
#[derive(Debug)]
pub(super) struct OfferQueue<H> {
    /// What the peer asked for by id, to be offered first.
    pub(super) answers: VecDeque<(RecordId, H)>,
    /// Those of them that are being loaded.
    answering: Vec<RecordId>,
    waiting: VecDeque<H>,
    loading: bool,
}

impl<H> Default for OfferQueue<H> {
    fn default() -> Self {
        Self { answers: VecDeque::new(), answering: Vec::new(), waiting: VecDeque::new(), loading: false }
    }
}

impl<H> OfferQueue<H> {
    pub(super) fn is_busy(&self) -> bool {
        self.loading || self.len() > 0
    }

    pub(super) fn len(&self) -> usize {
        self.answers.len() + self.waiting.len()
    }

    /// Whether what is news now may be offered at once, ahead of nothing that waits.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.loading
    }

    /// Queues these; false, and nothing is queued, where that would be too many.
    pub(super) fn extend(&mut self, hashes: Vec<H>) -> bool {
        let fits = self.waiting.len() + hashes.len() <= QUEUE_MAX;
        if fits {
            self.waiting.extend(hashes);
        }
        fits
    }

    /// What is to be loaded now, at most `room`: what the peer asked for goes first. Empty while something is being loaded.
    pub(super) fn load(&mut self, room: usize) -> Vec<H> {
        if self.loading {
            return Vec::new();
        }
        let hashes: Vec<H> = if self.answers.is_empty() {
            self.waiting.drain(..self.waiting.len().min(room)).collect()
        } else {
            let (rids, hashes) = self.answers.drain(..self.answers.len().min(room)).unzip();
            self.answering = rids;
            hashes
        };
        self.loading = !hashes.is_empty();
        hashes
    }

    /// What was asked for is loaded, and has these ids. Returns what the peer asked for by its id and was overtaken by another
    /// version since, and whether this answers the peer at all.
    pub(super) fn loaded(&mut self, rids: impl Iterator<Item = RecordId>) -> (Vec<RecordId>, bool) {
        self.loading = false;
        let mut overtaken = std::mem::take(&mut self.answering);
        let is_answer = !overtaken.is_empty();
        if is_answer {
            let loaded: HashSet<RecordId> = rids.collect();
            overtaken.retain(|rid| !loaded.contains(rid));
        }
        (overtaken, is_answer)
    }
}

/// Offers of one name that wait for their confirmation.
#[derive(Debug, Default, Clone, Copy)]
struct OffersOfOne {
    offers: u32,
    bytes: usize,
    /// The earliest date of the versions.
    hlc: Hlc,
}

/// Offers that wait for their confirmation, and their sums: what the peer counts.
#[derive(Debug)]
pub(super) struct OpenOffers<H> {
    by_hash: HashMap<H, OffersOfOne>,
    pub(super) count: usize,
    pub(super) bytes: usize,
}

impl<H> Default for OpenOffers<H> {
    fn default() -> Self {
        Self { by_hash: HashMap::new(), count: 0, bytes: 0 }
    }
}

impl<H: Eq + Hash> OpenOffers<H> {
    pub(super) fn add(&mut self, hash: H, hlc: Hlc, bytes: usize) {
        let open = self.by_hash.entry(hash).or_default();
        open.hlc = if open.offers == 0 { hlc } else { open.hlc.min(hlc) };
        open.offers += 1;
        open.bytes += bytes;
        self.count += 1;
        self.bytes += bytes;
    }

    /// How many assets or paths they are of.
    pub(super) fn names(&self) -> usize {
        self.by_hash.len()
    }

    pub(super) fn earliest(&self, hash: &H) -> Option<Hlc> {
        self.by_hash.get(hash).map(|open| open.hlc)
    }

    /// Forgets one offer of `hash`; whether there was one.
    pub(super) fn remove(&mut self, hash: &H) -> bool {
        let Some(open) = self.by_hash.get_mut(hash) else { return false };
        let bytes = open.bytes / open.offers.max(1) as usize;
        open.bytes -= bytes;
        open.offers = open.offers.saturating_sub(1);
        self.bytes -= bytes;
        self.count -= 1;
        if open.offers == 0 {
            self.by_hash.remove(hash);
        }
        true
    }
}

/// Versions that came from the peer and that our own feed has yet to report: they are no news to it.
#[derive(Debug)]
pub(super) struct Echoes<H> {
    by_hash: HashMap<H, RecordId>,
    order: VecDeque<H>,
}

impl<H> Default for Echoes<H> {
    fn default() -> Self {
        Self { by_hash: HashMap::new(), order: VecDeque::new() }
    }
}

impl<H: Eq + Hash + Copy> Echoes<H> {
    pub(super) fn expect(&mut self, hash: H, rid: RecordId) {
        if self.by_hash.insert(hash, rid).is_none() {
            self.order.push_back(hash);
        }
        while self.order.len() > ECHOES_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.by_hash.remove(&oldest);
            }
        }
    }

    pub(super) fn forget(&mut self, hash: &H) {
        self.by_hash.remove(hash);
    }

    /// Whether the version of this id was expected; it is expected no longer. The id is made only where a version of `hash` was.
    pub(super) fn take(&mut self, hash: &H, rid: impl FnOnce() -> RecordId) -> bool {
        let is_echo = self.by_hash.get(hash).is_some_and(|expected| *expected == rid());
        if is_echo {
            self.by_hash.remove(hash);
        }
        is_echo
    }
}
