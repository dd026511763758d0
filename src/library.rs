//! A set of assets that its members keep the same. Today there is one: the mirror, the library of the passphrase,
//! which takes in everything.
//!
//! A [`Library`] is a resource, made at boot and shared: CanServiceActor keeps its index up to date with the store's
//! feed, sessions take snapshots of it. It outlives any actor's crash, so a restarted actor goes on where the last one
//! stopped.

mod codec;
pub mod filter;
pub mod revocation;
pub mod ticket;

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::identity::LibraryKeys;
use crate::peer::session::Summary;
use crate::reconcile::tree::{Item, ItemTree, Snapshot};
use crate::record::{AssetRecord, ContentHash, RecordId};
use crate::store::{FeedEntry, StoreStatus};

/// One library: its keys and the index of its records.
#[derive(Debug)]
pub struct Library {
    keys: LibraryKeys,
    tree: Mutex<ItemTree>,
    /// Up to where the index has followed the store's feed; `None` before it has followed it at all.
    cursor: watch::Sender<Option<u64>>,
    /// The store's own counts, as of the last time somebody asked.
    store: Mutex<StoreStatus>,
}

impl Library {
    /// An empty one.
    #[must_use]
    pub fn new(keys: LibraryKeys) -> Self {
        Self {
            keys,
            tree: Mutex::new(ItemTree::new()),
            cursor: watch::Sender::new(None),
            store: Mutex::default(),
        }
    }

    /// Its keys.
    #[must_use]
    pub fn keys(&self) -> &LibraryKeys {
        &self.keys
    }

    fn tree(&self) -> MutexGuard<'_, ItemTree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn item(&self, record: &AssetRecord) -> Item {
        Item { hlc: record.hlc, rid: record.id(self.keys.record().expose()), hash: record.hash }
    }

    /// Takes in changed records; returns those that differ from what the index had.
    pub fn apply(&self, entries: Vec<FeedEntry>) -> Vec<FeedEntry> {
        let items: Vec<Item> = entries.iter().map(|entry| self.item(&entry.record)).collect();
        let mut tree = self.tree();
        entries
            .into_iter()
            .zip(items)
            .filter(|(_, item)| tree.upsert(*item).as_ref() != Some(item))
            .map(|(entry, _)| entry)
            .collect()
    }

    /// Takes out records that the store no longer has.
    pub fn remove(&self, hashes: &[ContentHash]) {
        let mut tree = self.tree();
        for hash in hashes {
            tree.remove(hash);
        }
    }

    /// Says up to where the feed was followed.
    pub fn set_cursor(&self, seq: u64) {
        self.cursor.send_replace(Some(seq));
    }

    /// Up to where the feed was followed; changes as it goes on.
    #[must_use]
    pub fn cursor(&self) -> watch::Receiver<Option<u64>> {
        self.cursor.subscribe()
    }

    /// The store's counts for [`Library::summary`].
    pub fn set_store_status(&self, status: StoreStatus) {
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// An unchanging view for a reconciliation. Cheap; later changes do not wait for it.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.tree().snapshot()
    }

    /// Size and fingerprint.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let (assets, bytes) = {
            let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
            (store.assets, store.bytes)
        };
        let tree = self.tree();
        Summary { count: tree.len() as u64, fingerprint: tree.fingerprint(), assets, bytes }
    }

    /// The contents whose records have these ids, with the ids, and the ids that no record has any more.
    #[must_use]
    pub fn resolve(&self, rids: &[RecordId]) -> (Vec<(RecordId, ContentHash)>, Vec<RecordId>) {
        let tree = self.tree();
        let mut found = Vec::with_capacity(rids.len());
        let mut gone = Vec::new();
        for rid in rids {
            match tree.find_rid(rid) {
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
