//! Records of folders in a session: offered, taken and confirmed like those of assets, and never fetched as contents.
//!
//! They go between the user's own machines, and from the owner of a folder that is shared by ticket to those who may read it; to a
//! peer that said that it knows them. The store merges what comes, so that
//! nothing is judged here; one that is dated too far ahead waits, as an asset's record does. Both kinds are asked for by id in
//! the same frames; everything else is kept apart, since a name that both kinds have names two things.

mod later;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::offers::{Echoes, OfferQueue, OpenOffers};
use super::replies::OfferKind;
use super::{
    ASKED_MAX, EntryNews, OFFERS_TAKEN_MAX, READS_ONLY, RECORD_BYTES_PER_FRAME, RECORDS_PER_FRAME_MAX,
    Session, SessionEffect, WaitingCounts, violation,
};
use crate::entry::{EntryHash, FolderRecord};
use crate::record::RecordId;
use crate::store::entries::StoredEntry;
use crate::wire::proto::{Offer, WireEntry, frame};

/// What is under way about records of folders, either way.
#[derive(Debug, Default)]
pub(super) struct Entries {
    queue: OfferQueue<EntryHash>,
    /// Offered and not confirmed.
    given: OpenOffers<EntryHash>,
    /// Offers that the peer refused, until the next reconciliation.
    pub(super) refused: HashSet<EntryHash>,
    /// Offers that the peer does not take yet, and when it does.
    later_there: HashMap<EntryHash, (RecordId, Instant)>,
    /// Offers of the peer that wait to hear what becomes of them.
    taken: OpenOffers<EntryHash>,
    /// What could not be stored, until the next reconciliation.
    pub(super) failed: HashSet<EntryHash>,
    /// Versions of the peer that are not taken yet, and when they are.
    later_here: HashMap<RecordId, Instant>,
    /// Those that there was no room for in either, since the last comparison: here and there.
    beyond: (u64, u64),
    pub(super) waiting_changes: u64,
    echoes: Echoes<EntryHash>,
}

impl Entries {
    pub(super) fn waiting(&self) -> WaitingCounts {
        WaitingCounts {
            dated_here: self.later_here.len() as u64 + self.beyond.0,
            dated_there: self.later_there.len() as u64 + self.beyond.1,
            ..WaitingCounts::default()
        }
    }

    /// Both sides have the same: what waited came some other way.
    pub(super) fn all_there(&mut self) {
        if self.waiting() != WaitingCounts::default() {
            self.later_here.clear();
            self.later_there.clear();
            self.beyond = (0, 0);
            self.waiting_changes += 1;
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.is_giving() || self.taken.count > 0
    }

    pub(super) fn is_giving(&self) -> bool {
        self.queue.is_busy() || self.given.count > 0
    }

    pub(super) fn unconfirmed(&self) -> u64 {
        (self.queue.len() + self.given.names() + self.refused.len()) as u64
    }

    /// How many of the peer's are not settled here, or could not be stored.
    pub(super) fn unsettled(&self) -> u64 {
        (self.taken.names() + self.failed.len()) as u64
    }

    /// How many offers wait for the peer, and their bytes.
    pub(super) fn open(&self) -> (usize, usize) {
        (self.given.count, self.given.bytes)
    }

    /// How many of the peer's offers wait, and their bytes.
    pub(super) fn owed(&self) -> (usize, usize) {
        (self.taken.count, self.taken.bytes)
    }

    /// All is compared anew, or about to be.
    pub(super) fn compared(&mut self) {
        self.refused.clear();
        self.failed.clear();
        self.recount();
    }

    /// What there was no room for is counted anew.
    pub(super) fn recount(&mut self) {
        if std::mem::take(&mut self.beyond) != (0, 0) {
            self.waiting_changes += 1;
        }
    }

    /// Whether the peer's version of this id waits here.
    pub(super) fn waits_here(&self, rid: &RecordId) -> bool {
        self.later_here.contains_key(rid)
    }
}

/// About what one takes on the wire and in memory.
fn offered_bytes(record: &FolderRecord) -> usize {
    200 + record.text_bytes()
}

impl Session {
    fn entry_id(&self, record: &FolderRecord) -> RecordId {
        record.id(self.settings.record_key.expose())
    }

    pub(super) fn on_entry_news(&mut self, news: EntryNews, now: Instant, out: &mut Vec<SessionEffect>) {
        match news {
            EntryNews::Changed(changed) => self.on_entries_changed(&changed, out),
            EntryNews::Loaded(records) => self.on_entries_loaded(&records, out),
            EntryNews::Resolved(found) => {
                self.offering.resolving = self.offering.resolving.saturating_sub(found.len());
                self.entries.queue.answers.extend(found);
            }
            EntryNews::Taken { settled, failed, later } => {
                self.on_entries_taken(settled, failed, out);
                self.defer_entries(&later, now, out);
            }
            EntryNews::Differences { have, need } => self.on_entry_differences(have, need),
        }
    }

    fn on_entries_changed(&mut self, changed: &Arc<[StoredEntry]>, out: &mut Vec<SessionEffect>) {
        if !self.settings.entries || !self.settings.gives {
            return;
        }
        let mut fresh = Vec::new();
        for StoredEntry { record, .. } in changed.iter() {
            let (hash, rid) = (record.hash(), self.entry_id(record));
            let waits = self.entries.later_there.get(&hash).is_some_and(|(waiting, _)| *waiting == rid);
            if !self.entries.echoes.take(&hash, || rid) && !waits {
                fresh.push(record);
            }
        }
        let bytes: usize = fresh.iter().map(|record| offered_bytes(record)).sum();
        let room = self.has_room(fresh.len(), bytes);
        if self.entries.queue.is_idle() && room {
            let fresh: Vec<FolderRecord> = fresh.into_iter().cloned().collect();
            self.offer_entries(&fresh, &[], out);
        } else {
            self.enqueue_entries(fresh.into_iter().map(FolderRecord::hash).collect());
        }
    }

    fn enqueue_entries(&mut self, hashes: Vec<EntryHash>) {
        let fits = self.entries.queue.extend(hashes);
        self.comparing.missed |= !fits;
    }

    /// A reconciliation found what one side has and the other has not.
    fn on_entry_differences(&mut self, have: Vec<EntryHash>, need: Vec<RecordId>) {
        if !self.settings.entries {
            return;
        }
        if self.settings.gives {
            self.enqueue_entries(have);
        }
        self.ask_for(need);
    }

    /// Has what is to be offered next loaded, where there is room for it.
    pub(super) fn pump_entries(&mut self, out: &mut Vec<SessionEffect>) {
        let hashes = self.entries.queue.load(self.room_to_load());
        if !hashes.is_empty() {
            out.push(SessionEffect::LoadEntries(hashes));
        }
    }

    /// Offers what was loaded. One that was overtaken since the peer asked for its id is gone.
    fn on_entries_loaded(&mut self, records: &[FolderRecord], out: &mut Vec<SessionEffect>) {
        let key = self.settings.record_key.expose();
        let (overtaken, _) = self.entries.queue.loaded(records.iter().map(|record| record.id(key)));
        self.offer_entries(records, &overtaken, out);
    }

    fn offer_entries(&mut self, records: &[FolderRecord], gone: &[RecordId], out: &mut Vec<SessionEffect>) {
        let library = self.settings.library.clone();
        let gone: Vec<Bytes> = gone.iter().map(|rid| Bytes::copy_from_slice(&rid.0)).collect();
        let mut batch = Offer { library: library.clone(), gone, ..Offer::default() };
        let mut batch_bytes = 0;
        let mut send = |batch: &mut Offer| {
            let next = Offer { library: library.clone(), ..Offer::default() };
            out.push(SessionEffect::Send(frame::Kind::Offer(std::mem::replace(batch, next))));
        };
        for record in records {
            let bytes = offered_bytes(record);
            self.entries.given.add(record.hash(), record.hlc(), bytes);
            batch_bytes += bytes;
            batch.entries.push(WireEntry::from(record));
            if batch.entries.len() == RECORDS_PER_FRAME_MAX || batch_bytes >= RECORD_BYTES_PER_FRAME {
                batch_bytes = 0;
                send(&mut batch);
            }
        }
        if !batch.entries.is_empty() || !batch.gone.is_empty() {
            send(&mut batch);
        }
    }

    /// Takes in what the peer offers; whether it keeps to the rules.
    pub(super) fn on_entries_offered(
        &mut self,
        offered: Vec<WireEntry>,
        out: &mut Vec<SessionEffect>,
    ) -> bool {
        if offered.is_empty() {
            return true;
        }
        let mut refuse = |what: &str| {
            out.push(violation(what));
            false
        };
        if !self.settings.entries {
            return refuse("entries of folders, which were not agreed on");
        }
        if offered.len() > RECORDS_PER_FRAME_MAX {
            return refuse("too many entries in one frame");
        }
        if self.entries.taken.count + offered.len() > OFFERS_TAKEN_MAX {
            return refuse("more entries than may be open");
        }
        let mut records = Vec::with_capacity(offered.len());
        for wire in offered {
            match FolderRecord::try_from(wire) {
                Ok(record) => records.push(record),
                Err(error) => return refuse(&error.to_string()),
            }
        }
        for record in &records {
            let (hash, rid) = (record.hash(), self.entry_id(record));
            self.asking.asked.remove(&rid);
            self.entries.taken.add(hash, record.hlc(), offered_bytes(record));
            if self.settings.takes {
                self.entries.echoes.expect(hash, rid);
            }
        }
        if !self.settings.takes {
            self.refuse_readers_entries(&records, out);
            return true;
        }
        out.push(SessionEffect::TakeEntries(records));
        true
    }

    /// Answers the offers of a peer that may only read: none of them is looked at.
    fn refuse_readers_entries(&mut self, records: &[FolderRecord], out: &mut Vec<SessionEffect>) {
        for hash in records.iter().map(FolderRecord::hash) {
            if self.entries.taken.remove(&hash) {
                self.refuse(OfferKind::Entry, hash.0, 403, READS_ONLY, out);
            }
        }
    }

    /// What became of entries that the peer offered.
    fn on_entries_taken(
        &mut self,
        settled: Vec<EntryHash>,
        failed: Vec<(EntryHash, String)>,
        out: &mut Vec<SessionEffect>,
    ) {
        let mut have = Vec::with_capacity(settled.len());
        for hash in settled {
            self.entries.failed.remove(&hash);
            if self.entries.taken.remove(&hash) {
                have.push(Bytes::copy_from_slice(&hash.0));
            }
        }
        self.confirm(OfferKind::Entry, &have, out);
        for (hash, reason) in failed {
            self.entries.echoes.forget(&hash);
            if self.entries.failed.len() < OFFERS_TAKEN_MAX {
                self.entries.failed.insert(hash);
            }
            self.last_error = Some(format!("an entry of a folder: {reason}"));
            if self.entries.taken.remove(&hash) {
                self.refuse(OfferKind::Entry, hash.0, 422, &reason, out);
            }
        }
    }

    /// The peer has what was offered of these.
    pub(super) fn on_entries_confirmed(&mut self, entries: &[Bytes]) {
        for hash in entries.iter().filter_map(entry_hash) {
            self.entries.given.remove(&hash);
            let waited = self.entries.later_there.remove(&hash).is_some();
            self.entries.waiting_changes += u64::from(waited);
        }
    }

    /// The peer does not take a version of ours; whether it was offered.
    pub(super) fn on_entry_refused(&mut self, hash: &Bytes, message: &str) -> bool {
        let Some(hash) = entry_hash(hash).filter(|hash| self.entries.given.remove(hash)) else {
            return false;
        };
        self.entries.refused.insert(hash);
        self.last_error = Some(format!("the peer does not take an entry of a folder: {message}"));
        true
    }

    /// Whether more ids were asked for than may be.
    pub(super) fn asks_too_much(&self) -> bool {
        let waiting =
            self.offering.resolving + self.offering.queue.answers.len() + self.entries.queue.answers.len();
        waiting > 2 * ASKED_MAX
    }
}

fn entry_hash(bytes: &Bytes) -> Option<EntryHash> {
    <[u8; 32]>::try_from(&bytes[..]).ok().map(EntryHash)
}
