//! One agent of the simulation: its store, its libraries, its clock, and what PeersActor would do for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use iroh::{EndpointId, SecretKey};
use tokio::time::Instant;

use super::store::SimStore;
use crate::identity::LibraryKeys;
use crate::library::filter::{Filter, FilterSpec};
use crate::library::registry::Kept;
use crate::library::ticket::{Access, Terms};
use crate::library::{Aside, Libraries, Library, SharedLibrary};
use crate::peer::deferrals::{Note, Notes};
use crate::record::{AssetMeta, AssetRecord, ContentHash, HLC_AHEAD_MAX_MS, Hlc, LibraryId, WriterId};
use crate::store::{ContentStore, FeedEntry, ItemOutcome, StoredRecord};
use crate::transfer::fetching::Fetching;
use crate::transfer::ranges::Ranges;
use crate::transfer::schedule::{ScheduleLimits, WantKey};
use crate::transfer::take::Taker;

/// When the simulations begin, in milliseconds since the Unix epoch.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// Small, so that the scheduler's limits are felt.
const LIMITS: ScheduleLimits = ScheduleLimits {
    node_bytes: 3 << 20,
    peer_bytes: 2 << 20,
    // Half of the large assets have several parts.
    part_bytes: 512 << 10,
    stall: Duration::from_secs(30),
};
/// Tags by which assets belong to the libraries.
pub(super) const TAGS: [&str; 2] = ["x", "y"];

/// A library of the simulation, as one agent holds it.
fn kept(number: u8, access: Access) -> Kept {
    let tags = vec![TAGS[usize::from(number) % TAGS.len()].to_owned()];
    let filter = Filter::try_from(FilterSpec { tags: Some(tags), ..FilterSpec::default() }).unwrap();
    Kept::sample(number, Terms::unlimited(format!("library {number}"), access), filter)
}

pub(super) struct Agent {
    pub(super) number: u8,
    skew_ms: i64,
    /// How far off its clock is besides, until somebody sets it.
    pub(super) wrong_ms: i64,
    /// The newest date of a version that others have.
    pub(super) confirmed: Hlc,
    pub(super) notes: Notes,
    pub(super) replicate_deletes: bool,
    pub(super) store: Arc<SimStore>,
    /// Parts of contents that are here.
    pub(super) parts: BTreeMap<WantKey, Ranges>,
    mirror: LibraryKeys,
    /// Its libraries beside the mirror, and what it may do in them.
    memberships: Vec<(u8, Access)>,
    pub(super) libraries: Arc<Libraries>,
    /// What its registry holds of what libraries have otherwise than the store.
    asides: HashMap<LibraryId, HashMap<ContentHash, Aside>>,
    pub(super) fetching: Fetching,
    /// The store answers nothing until then.
    pub(super) store_down_until: u64,
}

impl Agent {
    pub(super) fn new(
        number: u8,
        skew_ms: i64,
        replicate_deletes: bool,
        mirror: &LibraryKeys,
        memberships: Vec<(u8, Access)>,
    ) -> Self {
        let mut agent = Self {
            number,
            skew_ms,
            wrong_ms: 0,
            confirmed: Hlc::default(),
            notes: Notes::default(),
            replicate_deletes,
            store: Arc::default(),
            parts: BTreeMap::new(),
            mirror: mirror.clone(),
            memberships,
            libraries: Arc::new(Libraries::of(Arc::new(Library::new(mirror.clone())))),
            asides: HashMap::new(),
            fetching: Fetching::new(LIMITS, Instant::now(), 0),
            store_down_until: 0,
        };
        agent.start();
        agent
    }

    pub(super) fn endpoint_id(&self) -> EndpointId {
        SecretKey::from_bytes(&[self.number + 1; 32]).public()
    }

    /// Begins with what outlives the process: the store, and what the registry holds.
    pub(super) fn start(&mut self) {
        let libraries = Libraries::of(Arc::new(Library::new(self.mirror.clone())));
        for (number, access) in &self.memberships {
            let kept = kept(*number, *access);
            let asides = self.asides.get(&kept.ticket.claims().library).cloned().unwrap_or_default();
            libraries.add(SharedLibrary::new(kept, asides)).filled();
        }
        libraries.set_cursor(0);
        self.libraries = Arc::new(libraries);
        while self.follow(usize::MAX).1 {}
        self.fetching = Fetching::new(LIMITS, Instant::now(), 0);
    }

    /// What the registry is told; what members of libraries are to hear.
    pub(super) fn keep_asides(&mut self) -> Vec<(LibraryId, Arc<[FeedEntry]>)> {
        let mut told = Vec::new();
        for library in self.libraries.shared() {
            let id = library.id().unwrap();
            let news = library.take_aside_news();
            let kept = self.asides.entry(id).or_default();
            library.wrote_asides(&news.unwritten);
            for (hash, aside) in news.unwritten {
                match aside {
                    Some(aside) => drop(kept.insert(hash, aside)),
                    None => drop(kept.remove(&hash)),
                }
            }
            if !news.changed.is_empty() {
                told.push((id, news.changed.into_iter().map(FeedEntry::from).collect()));
            }
        }
        told
    }

    pub(super) fn taker(&self) -> Taker {
        let store: Arc<SimStore> = Arc::clone(&self.store);
        Taker { store, libraries: Arc::clone(&self.libraries) }
    }

    /// The mirror, or another of its libraries.
    pub(super) fn library(&self, id: Option<LibraryId>) -> Arc<Library> {
        id.map_or_else(|| Arc::clone(self.libraries.mirror()), |id| self.libraries.get(id).unwrap())
    }

    pub(super) fn access(&self, library: LibraryId) -> Option<Access> {
        Some(self.libraries.get(library)?.shared()?.access())
    }

    /// What its clock says `now` microseconds into the simulation.
    pub(super) fn clock_ms(&self, now: u64) -> u64 {
        (EPOCH_MS + now / 1000).saturating_add_signed(self.skew_ms + self.wrong_ms)
    }

    pub(super) fn record(&self, hash: &ContentHash) -> Option<AssetRecord> {
        self.store.stored().records.get(hash).map(|(_, record)| record.clone())
    }

    pub(super) fn stored(&self, hash: &ContentHash) -> Option<StoredRecord> {
        self.store.stored().get(hash)
    }

    pub(super) fn has(&self, hash: &ContentHash) -> bool {
        self.store.stored().contents.contains(hash)
    }

    /// A user stores content, perhaps with tags; storing what is there as it is changes nothing, unless it makes it ours.
    pub(super) fn put(&mut self, hash: ContentHash, tags: Vec<String>, now: u64) -> Option<AssetRecord> {
        let now_ms = self.clock_ms(now);
        let meta = AssetMeta { created_at_ms: now_ms, tags, ..AssetMeta::default() };
        let mut record = AssetRecord::new(hash, size_of(hash), None, meta);
        match self.record(&hash) {
            Some(held) if !held.deleted && held.via.is_none() => {
                // Where the content is not here, it is now.
                self.store.stored().merge(held, true);
                return None;
            }
            Some(held) => {
                record.hlc = held.hlc.next(now_ms);
                record.writer = self.writer();
                if !held.deleted {
                    record.meta = held.meta;
                }
            }
            None => {}
        }
        let outcome = self.store.stored().write(record.clone(), true, self.confirmed);
        assert_eq!(outcome, ItemOutcome::Stored);
        Some(record)
    }

    /// A user edits what is there, or deletes it.
    pub(super) fn edit(
        &mut self,
        hash: ContentHash,
        change: impl FnOnce(&mut AssetRecord),
        now: u64,
    ) -> Option<AssetRecord> {
        let held = self.record(&hash).filter(|held| !held.deleted)?;
        let mut record = AssetRecord { via: None, own_content: false, ..held.clone() };
        record.hlc = held.hlc.next(self.clock_ms(now));
        record.writer = self.writer();
        change(&mut record);
        if record.deleted {
            record.via = held.via;
        }
        let outcome = self.store.stored().write(record.clone(), false, self.confirmed);
        assert!(matches!(outcome, ItemOutcome::Stored | ItemOutcome::Absent));
        Some(record)
    }

    pub(super) fn writer(&self) -> WriterId {
        WriterId([self.number + 1; 32])
    }

    pub(super) fn seq(&self) -> u64 {
        self.store.stored().seq
    }

    /// The indices take in the next `limit` changes of the store; those that were new to the mirror, and whether there are
    /// more.
    pub(super) fn follow(&mut self, limit: usize) -> (Vec<FeedEntry>, bool) {
        let cursor = self.libraries.cursor().borrow().unwrap_or_default();
        let mut page = self.store.feed(cursor, usize::MAX).now_or_never().unwrap().unwrap().entries;
        let more = page.len() > limit;
        page.truncate(limit);
        self.libraries.set_store_status(self.store.status().now_or_never().unwrap().unwrap());
        let Some(last) = page.last().map(|entry| entry.seq) else { return (Vec::new(), false) };
        let changed = self.libraries.apply(page);
        self.libraries.set_cursor(last);
        (changed, more)
    }

    /// Dates anew what was written here while the clock was ahead and is not known to others, up to `known`.
    pub(super) fn recall(&mut self, now: u64, known: Hlc) -> bool {
        let now_ms = self.clock_ms(now);
        let known = known.max(self.confirmed);
        let mut stored = self.store.stored();
        let ahead: Vec<AssetRecord> = stored.records.values().map(|(_, record)| record.clone()).collect();
        let mut any = false;
        for old in ahead {
            let is_ahead = old.hlc.is_due_in(now_ms, HLC_AHEAD_MAX_MS).is_some() && old.hlc > known;
            let Some(before) = stored.before.get(&old.hash).copied().filter(|_| is_ahead) else { continue };
            let Some(recalled) = old.recalled(before, now_ms) else { continue };
            stored.put(recalled);
            stored.before.insert(old.hash, before);
            self.notes.add(Note::of(&old, None, now_ms, old.hlc.ms()));
            any = true;
        }
        any
    }

    /// Writes what is here once more, later than `other`.
    pub(super) fn reassert(&self, hash: ContentHash, other: Hlc) {
        let mut stored = self.store.stored();
        let old = stored.records.get(&hash).map(|(_, old)| old).filter(|old| old.hlc <= other);
        if let Some(again) = old.map(|old| old.reasserted(other)) {
            stored.put(again);
        }
    }

    pub(super) fn let_go(&mut self, hash: ContentHash) {
        let Some(record) = self.record(&hash).filter(|record| !record.deleted) else { return };
        let mut stored = self.store.stored();
        stored.contents.remove(&hash);
        stored.unwanted.insert(hash);
        stored.put(record);
    }

    /// A user wants a content that was let go of.
    pub(super) fn want(&mut self, hash: ContentHash) {
        let mut stored = self.store.stored();
        if stored.unwanted.remove(&hash) {
            let record = stored.records[&hash].1.clone();
            stored.put(record);
        }
    }

    /// Whether there are contents of live records alone.
    pub(super) fn has_only_live(&self) -> bool {
        let stored = self.store.stored();
        stored.contents.iter().chain(&stored.unwanted).all(|hash| !stored.records[hash].1.deleted)
            && stored.contents.is_disjoint(&stored.unwanted)
    }

    pub(super) fn versions(&self) -> BTreeMap<ContentHash, AssetRecord> {
        let stored = self.store.stored();
        stored.records.iter().map(|(hash, (_, record))| (*hash, record.clone())).collect()
    }
}

/// The asset of this number; there are few, so that users meet at the same ones.
pub(super) fn asset(number: u64) -> ContentHash {
    ContentHash(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

/// Its size follows from its hash, as for real content: a quarter is large, some are empty.
pub(super) fn size_of(hash: ContentHash) -> u64 {
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
/// The same among members of libraries.
pub(super) const SKEW_BY_TICKET_MAX_MS: i64 = 25_000;
