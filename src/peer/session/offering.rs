//! The offering side of a session: what the other side may lack, in batches, until it has confirmed it.

use std::collections::HashSet;

use bytes::Bytes;

use super::offers::{OfferQueue, OpenOffers};
use super::{
    Enclosed, InlineContents, LOAD_BATCH, LOAD_BATCH_MIN, OFFERED_BYTES_MAX, OFFERS_OPEN_MAX,
    OFFERS_TAKEN_MAX, RECORD_BYTES_PER_FRAME, RECORDS_PER_FRAME_MAX, Session, SessionEffect, holding,
    offered_bytes, violation,
};
use crate::record::{AssetRecord, ContentHash, RecordId};
use crate::store::{FeedEntry, StoredRecord};
use crate::wire::proto::{InlineContent, Offer, Records, frame};

/// What the other side may lack, from being found to being confirmed.
#[derive(Debug, Default)]
pub(super) struct Offering {
    pub(super) queue: OfferQueue<ContentHash>,
    /// Ids that the peer asked for and that are not in the queue yet.
    pub(super) resolving: usize,
    /// Offered and not confirmed.
    pub(super) open: OpenOffers<ContentHash>,
    /// Offers that the peer refused, until the next reconciliation.
    pub(super) refused: HashSet<ContentHash>,
}

impl Offering {
    pub(super) fn is_busy(&self) -> bool {
        self.queue.is_busy() || self.resolving > 0 || self.open.count > 0
    }

    /// How many assets the peer has not confirmed.
    pub(super) fn unconfirmed(&self) -> u64 {
        (self.queue.len() + self.open.names() + self.refused.len()) as u64
    }
}

impl Session {
    /// Whether so many offers more may be unconfirmed, of so many bytes. Assets and entries share what there is: the peer counts
    /// both together.
    pub(super) fn has_room(&self, offers: usize, bytes: usize) -> bool {
        let (open, open_bytes) = self.open();
        offers + open <= self.offers_open_max() && bytes + open_bytes <= self.offered_bytes_max()
    }

    /// How many records may be loaded now in order to be offered.
    pub(super) fn room_to_load(&self) -> usize {
        let (open, bytes) = self.open();
        let room = self.offers_open_max().saturating_sub(open).min(self.load_batch());
        if bytes < self.offered_bytes_max() { room } else { 0 }
    }

    /// What was offered and not confirmed, of assets and entries: how many, and bytes.
    pub(super) fn open(&self) -> (usize, usize) {
        let (count, bytes) = self.entries.open();
        (self.offering.open.count + count, self.offering.open.bytes + bytes)
    }

    /// Offers that may be unconfirmed: the libraries of a connection share what there is.
    pub(super) fn offers_open_max(&self) -> usize {
        OFFERS_OPEN_MAX / self.settings.lanes.max(1)
    }

    /// Bytes of their records.
    pub(super) fn offered_bytes_max(&self) -> usize {
        OFFERED_BYTES_MAX / self.settings.lanes.max(1)
    }

    pub(super) fn load_batch(&self) -> usize {
        (LOAD_BATCH / self.settings.lanes.max(1)).max(LOAD_BATCH_MIN)
    }

    pub(super) fn on_records(&mut self, records: &Records, out: &mut Vec<SessionEffect>) {
        if records.library != self.settings.library {
            return out.push(violation("a question about a library that is not shared"));
        }
        self.offering.resolving += records.rids.len();
        if self.asks_too_much() {
            return out.push(violation("more record ids than may be asked for at once"));
        }
        let rids: Vec<RecordId> = records.rids.iter().filter_map(|rid| RecordId::from_slice(rid)).collect();
        if rids.len() != records.rids.len() {
            return out.push(violation("a record id that has not 32 bytes"));
        }
        out.push(SessionEffect::Resolve(rids));
    }

    /// Offers what the peer asked for by name ahead of what waits. It has more open than it may have taken if it confirms
    /// none of that.
    pub(super) fn on_found(&mut self, records: &[AssetRecord], out: &mut Vec<SessionEffect>) {
        if self.open().0 + records.len() > OFFERS_TAKEN_MAX {
            return out.push(violation("contents asked for by name and never confirmed"));
        }
        self.offer(records, &[], &Enclosed::default(), out);
    }

    pub(super) fn on_store_changed(
        &mut self,
        entries: &[FeedEntry],
        contents: &InlineContents,
        out: &mut Vec<SessionEffect>,
    ) {
        if !self.settings.gives {
            return;
        }
        let fresh: Vec<&AssetRecord> =
            entries.iter().map(|e| &e.record).filter(|record| !self.is_echo(record)).collect();
        let fresh: Vec<&AssetRecord> = fresh.into_iter().filter(|record| !self.waits_there(record)).collect();
        let inline = |record: &AssetRecord| contents.get(&record.hash).map_or(0, Bytes::len);
        let bytes: usize = fresh.iter().map(|record| offered_bytes(record) + inline(record)).sum();
        let room = self.has_room(fresh.len(), bytes);
        if self.offering.queue.is_idle() && room {
            let fresh: Vec<AssetRecord> = fresh.into_iter().cloned().collect();
            let absent = entries.iter().filter(|entry| entry.is_absent());
            let absent = absent.map(|entry| entry.record.hash).collect();
            self.offer(&fresh, &[], &Enclosed { contents: Some(contents), absent }, out);
        } else {
            self.enqueue(fresh.into_iter().map(|record| record.hash).collect());
        }
    }

    /// Offers what was loaded. A version that the peer asked for by its id may have been overtaken by another since: it
    /// learns that the one it waits for is gone.
    pub(super) fn on_loaded(&mut self, loaded: Vec<StoredRecord>, out: &mut Vec<SessionEffect>) {
        let absent = loaded.iter().filter(|stored| stored.is_absent());
        let enclosed =
            Enclosed { absent: absent.map(|stored| stored.record.hash).collect(), ..Enclosed::default() };
        let records: Vec<AssetRecord> = loaded.into_iter().map(|stored| stored.record).collect();
        let key = self.settings.record_key.expose();
        let (overtaken, is_answer) = self.offering.queue.loaded(records.iter().map(|record| record.id(key)));
        if is_answer {
            // What it asked for it hears of, whether or not it would take it now.
            return self.offer(&records, &overtaken, &enclosed, out);
        }
        let records: Vec<AssetRecord> = records.into_iter().filter(|r| !self.waits_there(r)).collect();
        self.offer(&records, &[], &enclosed, out);
    }

    pub(super) fn enqueue(&mut self, hashes: Vec<ContentHash>) {
        let fits = self.offering.queue.extend(hashes);
        self.comparing.missed |= !fits;
    }

    pub(super) fn offer(
        &mut self,
        records: &[AssetRecord],
        gone: &[RecordId],
        enclosed: &Enclosed<'_>,
        out: &mut Vec<SessionEffect>,
    ) {
        let library = &self.settings.library;
        let gone: Vec<Bytes> = gone.iter().map(|rid| Bytes::copy_from_slice(&rid.0)).collect();
        let mut batch = Offer { library: library.clone(), gone, ..Offer::default() };
        let (mut absent, mut batch_bytes) = (Vec::new(), 0);
        let mut send = |batch: &mut Offer, absent: &mut Vec<u8>| {
            batch.absent = std::mem::take(absent).into();
            let next = Offer { library: library.clone(), ..Offer::default() };
            out.push(SessionEffect::Send(frame::Kind::Offer(std::mem::replace(batch, next))));
        };
        for record in records {
            let mut bytes = offered_bytes(record);
            let content = enclosed.contents.and_then(|contents| contents.get(&record.hash));
            if let Some(content) = content.filter(|c| c.len() as u64 == record.size) {
                bytes += content.len();
                let hash = Bytes::copy_from_slice(&record.hash.0);
                batch.contents.push(InlineContent { hash, content: content.clone() });
            }
            if enclosed.absent.contains(&record.hash) {
                holding::mark(&mut absent, batch.records.len());
            }
            self.offering.open.add(record.hash, record.hlc, bytes);
            self.deferred.offered_there(record.hlc);
            batch_bytes += bytes;
            batch.records.push(record.into());
            if batch.records.len() == RECORDS_PER_FRAME_MAX || batch_bytes >= RECORD_BYTES_PER_FRAME {
                batch_bytes = 0;
                send(&mut batch, &mut absent);
            }
        }
        if !batch.records.is_empty() || !batch.gone.is_empty() {
            send(&mut batch, &mut absent);
        }
    }

    /// The peer has what was offered of `hash`.
    pub(super) fn confirm_offer(&mut self, hash: &ContentHash) {
        if let Some(hlc) = self.offering.open.earliest(hash) {
            self.deferred.confirmed_there(hash, hlc);
            self.close_offer(hash);
        }
    }

    /// Forgets one offer of `hash`; whether there was one.
    pub(super) fn close_offer(&mut self, hash: &ContentHash) -> bool {
        if !self.offering.open.remove(hash) {
            return false;
        }
        if self.offering.open.count == 0 {
            self.deferred.all_answered();
        }
        true
    }

    /// Whether this version came from the peer, and so is nothing to tell it.
    pub(super) fn is_echo(&mut self, record: &AssetRecord) -> bool {
        self.echoes.take(&record.hash, || record.id(self.settings.record_key.expose()))
    }
}
