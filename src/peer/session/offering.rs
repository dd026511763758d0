//! The offering side of a session: what the other side may lack, in batches, until it has confirmed it.

use std::collections::HashSet;

use bytes::Bytes;

use super::{
    ASKED_MAX, Effect, InlineContents, OFFERED_BYTES_MAX, OFFERS_OPEN_MAX, OFFERS_TAKEN_MAX, QUEUE_MAX,
    RECORD_BYTES_PER_FRAME, RECORDS_PER_FRAME_MAX, Session, offered_bytes, violation,
};
use crate::record::{AssetRecord, ContentHash, RecordId};
use crate::store::FeedEntry;
use crate::wire::proto::{InlineContent, Offer, Records, WireRecord, frame};

impl Session {
    pub(super) fn on_records(&mut self, records: &Records, out: &mut Vec<Effect>) {
        if records.library != self.settings.library {
            return out.push(violation("a question about a library that is not shared"));
        }
        self.resolving += records.rids.len();
        if self.resolving + self.answers.len() > 2 * ASKED_MAX {
            return out.push(violation("more record ids than may be asked for at once"));
        }
        let rids: Vec<RecordId> = records.rids.iter().filter_map(|rid| RecordId::from_slice(rid)).collect();
        if rids.len() != records.rids.len() {
            return out.push(violation("a record id that has not 32 bytes"));
        }
        out.push(Effect::Resolve(rids));
    }

    /// Offers what the peer asked for by name ahead of what waits. It has more open than it may have taken if it confirms
    /// none of that.
    pub(super) fn on_found(&mut self, records: &[AssetRecord], out: &mut Vec<Effect>) {
        if self.open_count + records.len() > OFFERS_TAKEN_MAX {
            return out.push(violation("contents asked for by name and never confirmed"));
        }
        self.offer(records, &[], &InlineContents::new(), out);
    }

    pub(super) fn on_store_changed(
        &mut self,
        entries: &[FeedEntry],
        contents: &InlineContents,
        out: &mut Vec<Effect>,
    ) {
        if !self.settings.gives {
            return;
        }
        let fresh: Vec<&AssetRecord> =
            entries.iter().map(|e| &e.record).filter(|record| !self.is_echo(record)).collect();
        let inline = |record: &AssetRecord| contents.get(&record.hash).map_or(0, Bytes::len);
        let bytes: usize = fresh.iter().map(|record| offered_bytes(record) + inline(record)).sum();
        let room =
            fresh.len() + self.open_count <= OFFERS_OPEN_MAX && bytes + self.open_bytes <= OFFERED_BYTES_MAX;
        let straight = self.queue.is_empty() && !self.loading && room;
        if straight {
            let fresh: Vec<AssetRecord> = fresh.into_iter().cloned().collect();
            self.offer(&fresh, &[], contents, out);
        } else {
            self.enqueue(fresh.into_iter().map(|record| record.hash).collect());
        }
    }

    /// Offers what was loaded. A version that the peer asked for by its id may have been overtaken by another since: it
    /// learns that the one it waits for is gone.
    pub(super) fn on_loaded(&mut self, records: &[AssetRecord], out: &mut Vec<Effect>) {
        let mut overtaken = std::mem::take(&mut self.answering);
        if !overtaken.is_empty() {
            let key = self.settings.record_key.expose();
            let loaded: HashSet<RecordId> = records.iter().map(|record| record.id(key)).collect();
            overtaken.retain(|rid| !loaded.contains(rid));
        }
        self.offer(records, &overtaken, &InlineContents::new(), out);
    }

    pub(super) fn enqueue(&mut self, hashes: Vec<ContentHash>) {
        if self.queue.len() + hashes.len() > QUEUE_MAX {
            self.queue_overflowed = true;
        } else {
            self.queue.extend(hashes);
        }
    }

    pub(super) fn offer(
        &mut self,
        records: &[AssetRecord],
        gone: &[RecordId],
        contents: &InlineContents,
        out: &mut Vec<Effect>,
    ) {
        let library = &self.settings.library;
        let mut gone: Vec<Bytes> = gone.iter().map(|rid| Bytes::copy_from_slice(&rid.0)).collect();
        let mut batch: Vec<WireRecord> = Vec::new();
        let mut inline: Vec<InlineContent> = Vec::new();
        let mut batch_bytes = 0;
        let mut send =
            |batch: &mut Vec<WireRecord>, inline: &mut Vec<InlineContent>, gone: &mut Vec<Bytes>| {
                out.push(Effect::Send(frame::Kind::Offer(Offer {
                    library: library.clone(),
                    records: std::mem::take(batch),
                    gone: std::mem::take(gone),
                    contents: std::mem::take(inline),
                })));
            };
        for record in records {
            let mut bytes = offered_bytes(record);
            if let Some(content) = contents.get(&record.hash).filter(|c| c.len() as u64 == record.size) {
                bytes += content.len();
                let hash = Bytes::copy_from_slice(&record.hash.0);
                inline.push(InlineContent { hash, content: content.clone() });
            }
            let open = self.open_offers.entry(record.hash).or_default();
            open.offers += 1;
            open.bytes += bytes;
            self.open_bytes += bytes;
            self.open_count += 1;
            batch_bytes += bytes;
            batch.push(record.into());
            if batch.len() == RECORDS_PER_FRAME_MAX || batch_bytes >= RECORD_BYTES_PER_FRAME {
                batch_bytes = 0;
                send(&mut batch, &mut inline, &mut gone);
            }
        }
        if !batch.is_empty() || !gone.is_empty() {
            send(&mut batch, &mut inline, &mut gone);
        }
    }

    /// Forgets one offer of `hash`; whether there was one.
    pub(super) fn close_offer(&mut self, hash: &ContentHash) -> bool {
        let Some(open) = self.open_offers.get_mut(hash) else { return false };
        let bytes = open.bytes / open.offers.max(1) as usize;
        open.bytes -= bytes;
        open.offers = open.offers.saturating_sub(1);
        self.open_bytes -= bytes;
        self.open_count -= 1;
        if open.offers == 0 {
            self.open_offers.remove(hash);
        }
        true
    }

    /// Whether this version came from the peer, and so is nothing to tell it.
    pub(super) fn is_echo(&mut self, record: &AssetRecord) -> bool {
        let is_echo = self.echoes.get(&record.hash).is_some_and(|digest| *digest == record.digest());
        if is_echo {
            self.echoes.remove(&record.hash);
        }
        is_echo
    }
}
