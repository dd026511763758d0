//! Sets of assets that their members keep the same.
//!
//! A [`Library`] has keys, a filter and an index of the records that belong. The mirror is the library of the
//! passphrase: its filter is empty, every member may write, and no ticket is needed. Others are created here or joined
//! by ticket ([`Shared`]). [`Libraries`] is all that this node has, a resource made at boot: CanServiceActor keeps the
//! indices up to date with the store's feed, sessions take snapshots of them. It outlives any actor's crash, so a
//! restarted actor goes on where the last one stopped.

pub mod actor;
mod codec;
pub mod filter;
pub mod manage;
pub mod registry;
pub mod report;
pub mod revocation;
mod set;
mod shared;
#[cfg(test)]
mod tests;
pub mod ticket;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

pub use self::set::Libraries;
pub use self::shared::Shared;
use self::ticket::LibraryId;
use crate::identity::LibraryKeys;
use crate::reconcile::Summary;
use crate::reconcile::tree::{Item, ItemTree, Snapshot};
use crate::record::{AssetRecord, ContentHash, RecordId};
use crate::store::{FeedEntry, Holding, StoreStatus, StoredRecord};

/// How far the indices are, and what the store says of itself; the same for all libraries of a node.
#[derive(Debug)]
struct Feed {
    /// Up to where the indices have followed the store's feed; `None` before they have followed it at all.
    cursor: watch::Sender<Option<u64>>,
    /// The store's own counts, as of the last time somebody asked.
    store: Mutex<StoreStatus>,
}

impl Default for Feed {
    fn default() -> Self {
        Self { cursor: watch::Sender::new(None), store: Mutex::default() }
    }
}

/// One library: its keys and the index of its records.
#[derive(Debug)]
pub struct Library {
    keys: LibraryKeys,
    /// What makes it more than the mirror.
    shared: Option<Shared>,
    index: Mutex<Index>,
    feed: Arc<Feed>,
}

#[derive(Debug, Default)]
struct Index {
    tree: ItemTree,
    /// Sizes of contents that are here and their sum; not kept for the mirror, which has the store's own counts.
    sizes: HashMap<ContentHash, u64>,
    bytes: u64,
    /// Live assets whose contents are not here.
    absent: HashSet<ContentHash>,
    /// Those of them that are wanted, in an order in which they can be asked for by and by.
    wanted: BTreeSet<ContentHash>,
    /// While what the store held before is read in: what changed meanwhile, and so is newer than what was read.
    filling: Option<HashSet<ContentHash>>,
}

impl Index {
    fn take_out(&mut self, hash: &ContentHash) -> bool {
        self.count(hash, None);
        self.absent.remove(hash);
        self.wanted.remove(hash);
        self.tree.remove(hash).is_some()
    }

    /// Takes note whether a content is here; whether it has just come, to a record that was known before.
    fn note_holding(&mut self, record: &AssetRecord, holding: Holding) -> bool {
        let hash = record.hash;
        if holding == Holding::Wanted {
            self.wanted.insert(hash);
        } else {
            self.wanted.remove(&hash);
        }
        if !record.deleted && !holding.is_held() {
            self.absent.insert(hash);
            return false;
        }
        self.absent.remove(&hash) && holding.is_held()
    }

    fn count(&mut self, hash: &ContentHash, size: Option<u64>) {
        let before = match size {
            Some(size) => {
                self.bytes = self.bytes.saturating_add(size);
                self.sizes.insert(*hash, size)
            }
            None => self.sizes.remove(hash),
        };
        self.bytes = self.bytes.saturating_sub(before.unwrap_or_default());
    }
}

impl Library {
    /// An empty mirror.
    #[must_use]
    pub fn new(keys: LibraryKeys) -> Self {
        Self { keys, shared: None, index: Mutex::default(), feed: Arc::default() }
    }

    /// An empty library beside the mirror, which is to be filled with what the store holds already.
    fn beside(mirror: &Self, shared: Shared) -> Self {
        let index = Index { filling: Some(HashSet::new()), ..Index::default() };
        let keys = shared.keys();
        Self { keys, shared: Some(shared), index: Mutex::new(index), feed: Arc::clone(&mirror.feed) }
    }

    /// Its keys.
    #[must_use]
    pub fn keys(&self) -> &LibraryKeys {
        &self.keys
    }

    /// What makes it more than the mirror; `None` for that.
    #[must_use]
    pub fn shared(&self) -> Option<&Shared> {
        self.shared.as_ref()
    }

    /// Its id; `None` for the mirror.
    #[must_use]
    pub fn id(&self) -> Option<LibraryId> {
        self.shared.as_ref().map(Shared::id)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn item(&self, record: &AssetRecord) -> Item {
        Item { hlc: record.hlc, rid: record.id(self.keys.record().expose()), hash: record.hash }
    }

    /// Whether a record may be part of it, by its filter.
    #[must_use]
    pub fn takes(&self, record: &AssetRecord) -> bool {
        self.shared.as_ref().is_none_or(|shared| shared.filter().matches(record))
    }

    /// Whether a record of our store is part of it.
    #[must_use]
    pub fn holds(&self, record: &AssetRecord) -> bool {
        self.shared.as_ref().is_none_or(|shared| shared.holds(record))
    }

    /// Whether the index has a record of this content.
    #[must_use]
    pub fn has(&self, hash: &ContentHash) -> bool {
        self.index().tree.get(hash).is_some()
    }

    /// Takes in changed records, and takes out those that moved out; returns those that differ from what the index had,
    /// and those whose contents have come: peers may wait for them. That a content was let go of is nothing to tell.
    pub fn apply(&self, entries: Vec<FeedEntry>) -> Vec<FeedEntry> {
        // Ids are computed before the lock is taken.
        let items: Vec<Option<Item>> = entries.iter().map(|entry| self.item_if_held(&entry.record)).collect();
        let mut index = self.index();
        let changes = entries.into_iter().zip(items);
        changes
            .filter(|(entry, item)| {
                if let Some(touched) = &mut index.filling {
                    touched.insert(entry.record.hash);
                }
                self.put(&mut index, &entry.record, entry.holding, *item)
            })
            .map(|(entry, _)| entry)
            .collect()
    }

    fn item_if_held(&self, record: &AssetRecord) -> Option<Item> {
        self.holds(record).then(|| self.item(record))
    }

    /// Whether it is to be told.
    fn put(&self, index: &mut Index, record: &AssetRecord, holding: Holding, item: Option<Item>) -> bool {
        let Some(item) = item else { return index.take_out(&record.hash) };
        if self.shared.is_some() {
            index.count(&record.hash, holding.is_held().then_some(record.size));
        }
        let came = index.note_holding(record, holding);
        let changed = index.tree.upsert(item) != Some(item);
        changed || came
    }

    /// Takes in what the store had before the library was there. What changed since is left as it is.
    pub fn fill(&self, entries: &[FeedEntry]) {
        let items: Vec<Option<Item>> = entries.iter().map(|entry| self.item_if_held(&entry.record)).collect();
        let mut index = self.index();
        for (entry, item) in entries.iter().zip(items) {
            let hash = &entry.record.hash;
            if item.is_some() && index.filling.as_ref().is_some_and(|touched| !touched.contains(hash)) {
                self.put(&mut index, &entry.record, entry.holding, item);
            }
        }
    }

    /// Takes in records of the store that became part of it, where the index has none of their contents.
    pub fn take_in(&self, records: &[StoredRecord]) {
        let items: Vec<Option<Item>> =
            records.iter().map(|stored| self.item_if_held(&stored.record)).collect();
        let mut index = self.index();
        for (StoredRecord { record, holding }, item) in records.iter().zip(items) {
            if item.is_some() && index.tree.get(&record.hash).is_none() {
                self.put(&mut index, record, *holding, item);
            }
        }
    }

    /// Up to `limit` contents that are wanted and not here, in the order of their hashes, from behind `after`.
    #[must_use]
    pub fn wanted(&self, after: Option<ContentHash>, limit: usize) -> Vec<ContentHash> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.index().wanted.range((from, Bound::Unbounded)).take(limit).copied().collect()
    }

    /// Contents that are not here and not wanted.
    #[must_use]
    pub fn unwanted(&self) -> Vec<ContentHash> {
        let index = self.index();
        index.absent.iter().filter(|hash| !index.wanted.contains(*hash)).copied().collect()
    }

    /// How many live assets are in it whose contents are not here, and how many of those are wanted.
    #[must_use]
    pub fn absent(&self) -> (u64, u64) {
        let index = self.index();
        (index.absent.len() as u64, index.wanted.len() as u64)
    }

    /// All that the store held was taken in.
    pub fn filled(&self) {
        self.index().filling = None;
    }

    /// Whether what the store held is still being read in.
    #[must_use]
    pub fn is_filling(&self) -> bool {
        self.index().filling.is_some()
    }

    /// Takes out records that the store no longer has.
    pub fn remove(&self, hashes: &[ContentHash]) {
        let mut index = self.index();
        for hash in hashes {
            index.take_out(hash);
        }
    }

    /// Says up to where the feed was followed.
    pub fn set_cursor(&self, seq: u64) {
        self.feed.cursor.send_replace(Some(seq));
    }

    /// Up to where the feed was followed; changes as it goes on.
    #[must_use]
    pub fn cursor(&self) -> watch::Receiver<Option<u64>> {
        self.feed.cursor.subscribe()
    }

    /// The store's counts for the mirror's [`Library::summary`].
    pub fn set_store_status(&self, status: StoreStatus) {
        *self.feed.store.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// An unchanging view for a reconciliation. Cheap; later changes do not wait for it.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.index().tree.snapshot()
    }

    /// Size and fingerprint.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let (assets, bytes) = {
            let store = self.feed.store.lock().unwrap_or_else(PoisonError::into_inner);
            (store.assets_held, store.bytes_held)
        };
        let index = self.index();
        let own = (index.sizes.len() as u64, index.bytes);
        let (assets, bytes) = if self.shared.is_some() { own } else { (assets, bytes) };
        Summary { count: index.tree.len() as u64, fingerprint: index.tree.fingerprint(), assets, bytes }
    }

    /// The contents whose records have these ids, with the ids, and the ids that no record has any more.
    #[must_use]
    pub fn resolve(&self, rids: &[RecordId]) -> (Vec<(RecordId, ContentHash)>, Vec<RecordId>) {
        let index = self.index();
        let mut found = Vec::with_capacity(rids.len());
        let mut gone = Vec::new();
        for rid in rids {
            match index.tree.find_rid(rid) {
                Some(item) => found.push((*rid, item.hash)),
                None => gone.push(*rid),
            }
        }
        (found, gone)
    }

    /// Which contents the index knows.
    #[must_use]
    pub fn hashes(&self) -> Vec<ContentHash> {
        self.snapshot().items().map(|item| item.hash).collect()
    }
}
