//! One agent of the simulation: its store, its index, its clock, and what PeersActor would do for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::identity::LibraryKeys;
use crate::library::Library;
use crate::peer::deferrals::{Note, Notes};
use crate::record::{AssetMeta, AssetRecord, ContentHash, HLC_AHEAD_MAX_MS, Hlc, WriterId};
use crate::store::{FeedEntry, Holding, Outcome, StoreStatus, StoredRecord};
use crate::transfer::ranges::Ranges;
use crate::transfer::schedule::{Limits, Scheduler};

/// When the simulations begin, in milliseconds since the Unix epoch.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// Small, so that the scheduler's limits are felt.
const LIMITS: Limits = Limits {
    node_bytes: 3 << 20,
    peer_bytes: 2 << 20,
    // Half of the large assets have several parts.
    part_bytes: 512 << 10,
    stall: Duration::from_secs(30),
};

pub(super) struct Agent {
    number: u8,
    skew_ms: i64,
    /// How far off its clock is besides, until somebody sets it.
    pub(super) wrong_ms: i64,
    /// Dates of the versions before those that were written here.
    before: BTreeMap<ContentHash, Hlc>,
    /// The newest date of a version that others have.
    pub(super) confirmed: Hlc,
    pub(super) notes: Notes,
    pub(super) replicate_deletes: bool,
    pub(super) records: BTreeMap<ContentHash, (u64, AssetRecord)>,
    pub(super) contents: BTreeSet<ContentHash>,
    /// Contents of live records that are not here and not wanted.
    unwanted: BTreeSet<ContentHash>,
    /// Parts of contents that are here.
    pub(super) parts: BTreeMap<ContentHash, Ranges>,
    seq: u64,
    pub(super) library: Arc<Library>,
    pub(super) scheduler: Scheduler,
    /// The store answers nothing until then.
    pub(super) store_down_until: u64,
}

impl Agent {
    pub(super) fn new(number: u8, skew_ms: i64, replicate_deletes: bool, keys: &LibraryKeys) -> Self {
        let library = Arc::new(Library::new(keys.clone()));
        library.set_cursor(0);
        Self {
            number,
            skew_ms,
            wrong_ms: 0,
            before: BTreeMap::new(),
            confirmed: Hlc::default(),
            notes: Notes::default(),
            replicate_deletes,
            records: BTreeMap::new(),
            contents: BTreeSet::new(),
            unwanted: BTreeSet::new(),
            parts: BTreeMap::new(),
            seq: 0,
            library,
            scheduler: Scheduler::new(LIMITS, Instant::now()),
            store_down_until: 0,
        }
    }

    /// What its clock says `now` microseconds into the simulation.
    pub(super) fn clock_ms(&self, now: u64) -> u64 {
        (EPOCH_MS + now / 1000).saturating_add_signed(self.skew_ms + self.wrong_ms)
    }

    /// As [`Self::put`], for what is written here.
    fn put_own(&mut self, record: AssetRecord) {
        let hash = record.hash;
        let before = match self.records.get(&hash).map(|(_, old)| old.hlc) {
            None => Hlc::default(),
            Some(old) if old <= self.confirmed => old,
            Some(old) => self.before.get(&hash).copied().unwrap_or(old),
        };
        self.put(record);
        self.before.insert(hash, before);
    }

    /// Dates anew what was written here while the clock was ahead and is not known to others, up to `known`.
    pub(super) fn recall(&mut self, now: u64, known: Hlc) -> bool {
        let now_ms = self.clock_ms(now);
        let known = known.max(self.confirmed);
        let ahead: Vec<AssetRecord> = self.records.values().map(|(_, record)| record.clone()).collect();
        let mut any = false;
        for old in ahead {
            let is_ahead = old.hlc.is_due_in(now_ms, HLC_AHEAD_MAX_MS).is_some() && old.hlc > known;
            let Some(before) = self.before.get(&old.hash).copied().filter(|_| is_ahead) else { continue };
            let Some(recalled) = old.recalled(before, now_ms) else { continue };
            self.put(recalled);
            self.before.insert(old.hash, before);
            self.notes.add(Note::of(&old, None, now_ms, old.hlc.ms()));
            any = true;
        }
        any
    }

    /// Writes what is here once more, later than `other`.
    pub(super) fn reassert(&mut self, hash: ContentHash, other: Hlc) {
        let Some((_, old)) = self.records.get(&hash).filter(|(_, old)| old.hlc <= other) else { return };
        let again = old.reasserted(other);
        self.put(again);
    }

    fn put(&mut self, record: AssetRecord) {
        self.seq += 1;
        let same = self.records.get(&record.hash).is_some_and(|(_, old)| *old == record);
        if !same {
            self.before.remove(&record.hash);
        }
        if record.deleted {
            self.contents.remove(&record.hash);
            self.unwanted.remove(&record.hash);
        }
        self.records.insert(record.hash, (self.seq, record));
    }

    /// The rules of a store's merge, with or without the content at hand.
    pub(super) fn merge(&mut self, record: AssetRecord, with_content: bool) -> Outcome {
        let ours = self.records.get(&record.hash).map(|(_, ours)| ours);
        let wins = ours.is_none_or(|ours| record.supersedes(ours));
        let live = ours.is_some_and(|ours| !ours.deleted);
        let fills = live && !record.deleted && with_content && !self.contents.contains(&record.hash);
        if !wins && !fills {
            return Outcome::Unchanged;
        }
        if !record.deleted && !live && !with_content {
            return Outcome::NeedsContent;
        }
        if !record.deleted && with_content {
            self.contents.insert(record.hash);
            self.unwanted.remove(&record.hash);
        }
        let record = if wins { record } else { self.records[&record.hash].1.clone() };
        let absent = !record.deleted && !self.contents.contains(&record.hash);
        self.put(record);
        if absent { Outcome::Absent } else { Outcome::Stored }
    }

    /// The same, for a record whose content cannot be had.
    pub(super) fn take_absent(&mut self, record: AssetRecord) -> Outcome {
        let outcome = self.merge(record.clone(), false);
        if outcome != Outcome::NeedsContent {
            return outcome;
        }
        self.put(record);
        Outcome::Absent
    }

    /// A user lets go of a content.
    pub(super) fn let_go(&mut self, hash: ContentHash) {
        let Some((_, record)) = self.records.get(&hash).filter(|(_, record)| !record.deleted) else { return };
        let record = record.clone();
        self.contents.remove(&hash);
        self.unwanted.insert(hash);
        self.put(record);
    }

    /// A user wants a content that was let go of.
    pub(super) fn want(&mut self, hash: ContentHash) {
        if self.unwanted.remove(&hash) {
            let record = self.records[&hash].1.clone();
            self.put(record);
        }
    }

    pub(super) fn holding(&self, record: &AssetRecord) -> Holding {
        if self.contents.contains(&record.hash) {
            Holding::Held
        } else if record.deleted || self.unwanted.contains(&record.hash) {
            Holding::Unwanted
        } else {
            Holding::Wanted
        }
    }

    /// What the store has of an asset.
    pub(super) fn stored(&self, hash: &ContentHash) -> Option<StoredRecord> {
        let (_, record) = self.records.get(hash)?;
        Some(StoredRecord { record: record.clone(), holding: self.holding(record) })
    }

    /// A user stores content; storing what is there changes nothing.
    pub(super) fn ingest(&mut self, hash: ContentHash, now: u64) {
        let now_ms = self.clock_ms(now);
        let meta = AssetMeta { created_at_ms: now_ms, ..AssetMeta::default() };
        let mut record = AssetRecord::new(hash, size_of(hash), None, meta);
        match self.records.get(&hash) {
            Some((_, held)) if !held.deleted => {
                // Where the content is not here, it is now; the version stays.
                let held = held.clone();
                self.merge(held, true);
                return;
            }
            Some((_, held)) => {
                record.hlc = held.hlc.next(now_ms);
                record.writer = self.writer();
            }
            None => {}
        }
        self.contents.insert(hash);
        self.put_own(record);
    }

    /// A user edits what is there, or deletes it.
    pub(super) fn edit(&mut self, hash: ContentHash, text: Option<String>, now: u64) {
        let Some((_, held)) = self.records.get(&hash).filter(|(_, held)| !held.deleted) else { return };
        let mut record = held.clone();
        record.hlc = held.hlc.next(self.clock_ms(now));
        record.writer = self.writer();
        record.deleted = text.is_none();
        record.meta.description = text;
        self.put_own(record);
    }

    fn writer(&self) -> WriterId {
        WriterId([self.number + 1; 32])
    }

    pub(super) fn all_stored(&self, hashes: &[ContentHash]) -> Vec<StoredRecord> {
        hashes.iter().filter_map(|hash| self.stored(hash)).collect()
    }

    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// The index takes in the next `limit` changes of the store; those that were new to it, and whether there are more.
    pub(super) fn follow(&mut self, limit: usize) -> (Vec<FeedEntry>, bool) {
        let cursor = self.library.cursor().borrow().unwrap_or_default();
        let mut page: Vec<FeedEntry> = self
            .records
            .values()
            .filter(|(seq, _)| *seq > cursor)
            .map(|(seq, record)| FeedEntry {
                seq: *seq,
                record: record.clone(),
                holding: self.holding(record),
            })
            .collect();
        page.sort_unstable_by_key(|entry| entry.seq);
        let more = page.len() > limit;
        page.truncate(limit);
        let live = || self.records.values().filter(|(_, record)| !record.deleted);
        self.library.set_store_status(StoreStatus {
            assets: live().count() as u64,
            bytes: live().map(|(_, record)| record.size).sum(),
            seq: self.seq,
            ..StoreStatus::default()
        });
        let Some(last) = page.last().map(|entry| entry.seq) else { return (Vec::new(), false) };
        let changed = self.library.apply(page);
        self.library.set_cursor(last);
        (changed, more)
    }

    /// Whether there are contents of live records alone.
    pub(super) fn has_only_live(&self) -> bool {
        self.contents.iter().chain(&self.unwanted).all(|hash| !self.records[hash].1.deleted)
            && self.contents.is_disjoint(&self.unwanted)
    }

    /// Contents that are wanted and not here.
    pub(super) fn missing(&self) -> impl Iterator<Item = ContentHash> {
        let live = self.records.values().map(|(_, record)| record).filter(|record| !record.deleted);
        live.filter(|record| self.holding(record) == Holding::Wanted).map(|record| record.hash)
    }

    /// Its version of every asset.
    pub(super) fn versions(&self) -> BTreeMap<ContentHash, &AssetRecord> {
        self.records.iter().map(|(hash, (_, record))| (*hash, record)).collect()
    }
}

/// The asset of this number; there are few, so that users meet at the same ones.
pub(super) fn asset(number: u64) -> ContentHash {
    ContentHash(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

/// Its size follows from its hash, as for real content: a quarter is large, some are empty.
fn size_of(hash: ContentHash) -> u64 {
    let [kind, a, b, ..] = hash.0;
    let some = u64::from(u16::from_le_bytes([a, b]));
    match kind {
        0..8 => 0,
        8..64 => 70_000 + some * 30,
        64.. => some,
    }
}

/// How far a clock may be off; any two then differ by less than what is refused.
pub(super) const SKEW_MAX_MS: i64 = 290_000;
