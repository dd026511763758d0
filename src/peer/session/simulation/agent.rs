//! One agent of the simulation: its store, its index, its clock, and what PeersActor would do for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::identity::LibraryKeys;
use crate::library::Library;
use crate::record::{AssetMeta, AssetRecord, ContentHash, WriterId};
use crate::store::{FeedEntry, Holding, Outcome, StoreStatus};
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
    pub(super) replicate_deletes: bool,
    pub(super) records: BTreeMap<ContentHash, (u64, AssetRecord)>,
    pub(super) contents: BTreeSet<ContentHash>,
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
            replicate_deletes,
            records: BTreeMap::new(),
            contents: BTreeSet::new(),
            parts: BTreeMap::new(),
            seq: 0,
            library,
            scheduler: Scheduler::new(LIMITS, Instant::now()),
            store_down_until: 0,
        }
    }

    /// What its clock says `now` microseconds into the simulation.
    pub(super) fn clock_ms(&self, now: u64) -> u64 {
        (EPOCH_MS + now / 1000).saturating_add_signed(self.skew_ms)
    }

    fn put(&mut self, record: AssetRecord) {
        self.seq += 1;
        if record.deleted {
            self.contents.remove(&record.hash);
        }
        self.records.insert(record.hash, (self.seq, record));
    }

    /// The rules of a store's merge, with or without the content at hand.
    pub(super) fn merge(&mut self, record: AssetRecord, with_content: bool) -> Outcome {
        let held = self.records.get(&record.hash).map(|(_, held)| held);
        if held.is_some_and(|held| !record.supersedes(held)) {
            return Outcome::Unchanged;
        }
        if !record.deleted && held.is_none_or(|held| held.deleted) {
            if !with_content {
                return Outcome::NeedsContent;
            }
            self.contents.insert(record.hash);
        }
        self.put(record);
        Outcome::Stored
    }

    /// A user stores content; storing what is there changes nothing.
    pub(super) fn ingest(&mut self, hash: ContentHash, now: u64) {
        let now_ms = self.clock_ms(now);
        let meta = AssetMeta { created_at_ms: now_ms, ..AssetMeta::default() };
        let mut record = AssetRecord::new(hash, size_of(hash), None, meta);
        match self.records.get(&hash) {
            Some((_, held)) if !held.deleted => return,
            Some((_, held)) => {
                record.hlc = held.hlc.next(now_ms);
                record.writer = self.writer();
            }
            None => {}
        }
        assert_eq!(self.merge(record, true), Outcome::Stored);
    }

    /// A user edits what is there, or deletes it.
    pub(super) fn edit(&mut self, hash: ContentHash, text: Option<String>, now: u64) {
        let Some((_, held)) = self.records.get(&hash).filter(|(_, held)| !held.deleted) else { return };
        let mut record = held.clone();
        record.hlc = held.hlc.next(self.clock_ms(now));
        record.writer = self.writer();
        record.deleted = text.is_none();
        record.meta.description = text;
        assert_eq!(self.merge(record, false), Outcome::Stored);
    }

    fn writer(&self) -> WriterId {
        WriterId([self.number + 1; 32])
    }

    pub(super) fn held(&self, hashes: &[ContentHash]) -> Vec<AssetRecord> {
        hashes.iter().filter_map(|hash| self.records.get(hash)).map(|(_, record)| record.clone()).collect()
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
            .map(|(seq, record)| FeedEntry { seq: *seq, record: record.clone(), holding: Holding::Held })
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

    /// Whether contents are exactly those of the live records.
    pub(super) fn is_whole(&self) -> bool {
        let live = self.records.values().filter(|(_, record)| !record.deleted);
        live.map(|(_, record)| record.hash).eq(self.contents.iter().copied())
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
