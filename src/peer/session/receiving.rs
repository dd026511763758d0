//! The receiving side of a session: what the peer offers is compared with ours, taken, and confirmed.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Bytes;
use tokio::time::Instant;

use super::replies::OfferKind;
use super::{
    ASKED_MAX, INLINE_CONTENT_BYTES_MAX, InlineContents, OFFERED_BYTES_TAKEN_MAX, OFFERS_TAKEN_MAX,
    OfferVerdict, QUEUE_MAX, READS_ONLY, RECORDS_PER_FRAME_MAX, Session, SessionEffect, holding,
    offered_bytes, violation,
};
use crate::record::{AssetRecord, ContentHash, RecordId};
use crate::wire::proto::{InlineContent, Offer};

/// Versions that the peer has and we do not know.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// Found by reconciling, not asked for yet.
    pub(super) waiting: VecDeque<RecordId>,
    pub(super) asked: HashSet<RecordId>,
}

impl Asking {
    pub(super) fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || !self.asked.is_empty()
    }

    /// What is to be asked for now: half the room at a time, so that ids go in few frames while the answers to the last
    /// ones come in.
    pub(super) fn next_batch(&mut self) -> Vec<RecordId> {
        if self.asked.len() > ASKED_MAX / 2 {
            return Vec::new();
        }
        let batch = self.waiting.len().min(ASKED_MAX / 2);
        let rids: Vec<RecordId> = self.waiting.drain(..batch).collect();
        self.asked.extend(rids.iter().copied());
        rids
    }
}

/// How an offered record of the peer stands.
#[derive(Debug, Default, Clone)]
pub(super) struct Taken {
    /// Its content, if that came along.
    content: Option<Bytes>,
    /// Offers that are not judged yet.
    unjudged: u32,
    /// Offers of this hash that wait for their confirmation, and the bytes of their records.
    offers: u32,
    offered_bytes: usize,
    /// Size of the content, once we know that we want it.
    wanted_bytes: Option<u64>,
}

/// What the peer offered and waits to hear of.
#[derive(Debug, Default)]
pub(super) struct Taking {
    pub(super) by_hash: HashMap<ContentHash, Taken>,
    /// Sums of them.
    pub(super) offers: usize,
    pub(super) bytes: usize,
    /// Number and bytes of those whose content is wanted.
    pub(super) wanted: (u64, u64),
    /// Assets that could not be had, until the next reconciliation.
    pub(super) failed: HashSet<ContentHash>,
}

impl Taking {
    /// Forgets the offers of `hash` that were judged; how many there were.
    pub(super) fn remove(&mut self, hash: &ContentHash) -> u32 {
        let Some(taken) = self.by_hash.get_mut(hash) else { return 0 };
        let closed = taken.offers - taken.unjudged;
        let bytes = taken.offered_bytes / taken.offers.max(1) as usize * closed as usize;
        let wanted = taken.wanted_bytes.take();
        taken.offers = taken.unjudged;
        taken.offered_bytes -= bytes;
        self.offers = self.offers.saturating_sub(closed as usize);
        self.bytes -= bytes;
        if taken.offers == 0 {
            self.bytes -= taken.offered_bytes;
            self.by_hash.remove(hash);
        }
        if let Some(bytes) = wanted {
            self.wanted = (self.wanted.0 - 1, self.wanted.1.saturating_sub(bytes));
        }
        closed
    }

    fn judged(&mut self, hash: &ContentHash) {
        if let Some(taken) = self.by_hash.get_mut(hash) {
            taken.unjudged = taken.unjudged.saturating_sub(1);
        }
    }

    /// Its content is wanted; returns it where it came along.
    fn want(&mut self, record: &AssetRecord) -> Option<Bytes> {
        let taken = self.by_hash.get_mut(&record.hash)?;
        if taken.wanted_bytes.replace(record.size).is_none() {
            self.wanted = (self.wanted.0 + 1, self.wanted.1.saturating_add(record.size));
        }
        taken.content.take()
    }
}

impl Session {
    pub(super) fn on_offer(&mut self, offer: Offer, out: &mut Vec<SessionEffect>) {
        if offer.library != self.settings.library {
            return out.push(violation("an offer for a library that is not shared"));
        }
        if offer.records.len() > RECORDS_PER_FRAME_MAX {
            return out.push(violation("too many records in one frame"));
        }
        self.taking.offers += offer.records.len();
        if self.taking.offers > OFFERS_TAKEN_MAX {
            return out.push(violation("more offers than may be open"));
        }
        if !self.on_entries_offered(offer.entries, out) {
            return;
        }
        for rid in offer.gone.iter().filter_map(|rid| RecordId::from_slice(rid)) {
            self.asking.asked.remove(&rid);
        }
        let mut contents = InlineContents::new();
        for InlineContent { hash, content } in offer.contents {
            match ContentHash::from_slice(&hash).filter(|_| content.len() <= INLINE_CONTENT_BYTES_MAX) {
                // A copy: what came keeps the whole frame in memory.
                Some(hash) => drop(contents.insert(hash, Bytes::copy_from_slice(&content))),
                None => return out.push(violation("a content in an offer that has no place there")),
            }
        }
        let count = offer.records.len();
        if !holding::are_within(&offer.absent, count) {
            return out.push(violation("contents said to be absent of records that are not in the offer"));
        }
        let (mut held, mut not_held) = (Vec::with_capacity(count), Vec::new());
        for (place, wire) in offer.records.into_iter().enumerate() {
            let record = match AssetRecord::try_from(wire) {
                Ok(record) => record,
                Err(error) => return out.push(violation(&error.to_string())),
            };
            let record = if self.settings.tag.is_empty() { record } else { record.for_members() };
            if record.left && self.settings.tag.is_empty() {
                return out.push(violation("a record that left, where nothing can leave"));
            }
            self.asking.asked.remove(&record.id(self.settings.record_key.expose()));
            self.deferred.offered_here(&record.hash);
            let taken = self.taking.by_hash.entry(record.hash).or_default();
            taken.offers += 1;
            taken.unjudged += 1;
            let mut bytes = offered_bytes(&record);
            if let Some(content) = contents.remove(&record.hash) {
                if content.len() as u64 != record.size {
                    return out
                        .push(violation("a content in an offer that is not as long as its record says"));
                }
                bytes += content.len();
                taken.content = Some(content);
            }
            taken.offered_bytes += bytes;
            self.taking.bytes += bytes;
            let records = if holding::is_marked(&offer.absent, place) { &mut not_held } else { &mut held };
            records.push(record);
        }
        if !contents.is_empty() {
            return out.push(violation("a content in an offer without its record"));
        }
        if self.taking.bytes > OFFERED_BYTES_TAKEN_MAX {
            return out.push(violation("more offers than may be open, by their text"));
        }
        if !self.settings.takes {
            held.extend(not_held);
            return self.refuse_reader(&held, out);
        }
        if !held.is_empty() {
            out.push(SessionEffect::Judge(held));
        }
        if !not_held.is_empty() {
            out.push(SessionEffect::JudgeAbsent(not_held));
        }
    }

    /// Answers the offers of a peer that may only read: none of them is looked at.
    fn refuse_reader(&mut self, records: &[AssetRecord], out: &mut Vec<SessionEffect>) {
        for record in records {
            self.taking.judged(&record.hash);
            for _ in 0..self.taking.remove(&record.hash) {
                self.refuse(OfferKind::Asset, record.hash.0, 403, READS_ONLY, out);
            }
        }
    }

    pub(super) fn on_judged(
        &mut self,
        verdicts: Vec<(AssetRecord, OfferVerdict)>,
        now: Instant,
        out: &mut Vec<SessionEffect>,
    ) {
        let (mut settled, mut apply, mut fetch) = (Vec::new(), Vec::new(), Vec::new());
        let (mut refused, mut store, mut absent) = (Vec::new(), Vec::new(), Vec::new());
        let (mut later, mut reassert) = (Vec::new(), Vec::new());
        for (record, verdict) in verdicts {
            self.taking.judged(&record.hash);
            match verdict {
                OfferVerdict::Settled => settled.push(record.hash),
                OfferVerdict::Noted => {
                    self.expect_echo(&record);
                    settled.push(record.hash);
                }
                OfferVerdict::Apply => {
                    self.expect_echo(&record);
                    apply.push(record);
                }
                OfferVerdict::TakeAbsent => {
                    self.expect_echo(&record);
                    absent.push(record);
                }
                OfferVerdict::Reassert => reassert.push(record),
                OfferVerdict::Later(wait_ms) => later.push((record, wait_ms, false)),
                OfferVerdict::Hold(wait_ms) => later.push((record, wait_ms, true)),
                OfferVerdict::Fetch | OfferVerdict::Revive => {
                    if verdict == OfferVerdict::Fetch {
                        self.expect_echo(&record);
                    }
                    match self.taking.want(&record) {
                        Some(content) => store.push((record, content)),
                        None => fetch.push(record),
                    }
                }
                OfferVerdict::Refuse(reason) => refused.push((record.hash, reason)),
            }
        }
        if !apply.is_empty() {
            out.push(SessionEffect::Apply(apply));
        }
        if !absent.is_empty() {
            out.push(SessionEffect::TakeAbsent(absent));
        }
        if !reassert.is_empty() {
            out.push(SessionEffect::Reassert(reassert));
        }
        if !store.is_empty() {
            out.push(SessionEffect::Store(store));
        }
        if !fetch.is_empty() {
            out.push(SessionEffect::Announce(fetch));
        }
        self.settle(settled, out);
        self.on_failed(refused, out);
        self.defer(later, now, out);
    }

    /// Confirms offers of these hashes, all of each that were judged: one that is not judged yet may be of a newer version.
    pub(super) fn settle(&mut self, hashes: Vec<ContentHash>, out: &mut Vec<SessionEffect>) {
        let mut have = Vec::with_capacity(hashes.len());
        for hash in hashes {
            let offers = self.taking.remove(&hash);
            self.taking.failed.remove(&hash);
            for _ in 0..offers {
                have.push(Bytes::copy_from_slice(&hash.0));
            }
        }
        self.confirm(OfferKind::Asset, &have, out);
    }

    pub(super) fn on_failed(&mut self, failures: Vec<(ContentHash, String)>, out: &mut Vec<SessionEffect>) {
        for (hash, reason) in failures {
            let offers = self.taking.remove(&hash);
            self.echoes.forget(&hash);
            if offers > 0 && self.taking.failed.len() < OFFERS_TAKEN_MAX {
                self.taking.failed.insert(hash);
            }
            self.last_error = Some(format!("{}: {reason}", hash.short()));
            for _ in 0..offers {
                self.refuse(OfferKind::Asset, hash.0, 422, &reason, out);
            }
        }
    }

    /// A reconciliation found that the peer has these and we have not: they are asked for, unless they wait for their date. Of a
    /// reader, what we have not is its own.
    pub(super) fn ask_for(&mut self, need: Vec<RecordId>) {
        if !self.settings.takes {
            return;
        }
        if self.asking.waiting.len() + need.len() > QUEUE_MAX {
            self.comparing.missed = true;
            return;
        }
        let (deferred, entries) = (&self.deferred, &self.entries);
        let waits = |rid: &RecordId| deferred.waits_here(rid) || entries.waits_here(rid);
        self.asking.waiting.extend(need.into_iter().filter(|rid| !waits(rid)));
    }

    pub(super) fn expect_echo(&mut self, record: &AssetRecord) {
        let id = record.id(self.settings.record_key.expose());
        self.echoes.expect(record.hash, id);
    }
}
