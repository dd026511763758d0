//! Sets of assets that their members keep the same.
//!
//! A [`Library`] has keys, a filter and an index of the records that belong. The mirror is the library of the
//! passphrase: its filter is empty, every member may write, and no ticket is needed. Others are created here or joined
//! by ticket ([`SharedLibrary`]). [`Libraries`] is all that this node has, a resource made at boot: CanServiceActor keeps the
//! indices up to date with the store's feed, sessions take snapshots of them. It outlives any actor's crash, so a
//! restarted actor goes on where the last one stopped.

pub mod actor;
mod asides;
mod codec;
mod entries;
pub mod epoch;
pub mod error;
pub mod filter;
pub mod folder_share;
pub mod hold;
mod index;
pub mod manage;
mod membership;
mod offered;
pub mod private;
pub mod registry;
pub mod report;
pub mod revocation;
mod set;
mod shared;
pub mod sharing;
#[cfg(test)]
mod tests;
pub mod ticket;

use std::collections::{HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::sync::{Notify, watch};

pub use self::asides::{Aside, AsideNews};
use self::epoch::SessionKeys;
use self::folder_share::FolderShare;
use self::hold::HoldRules;
use self::index::LibraryIndex;
pub use self::offered::{OfferMeaning, OtherwiseHeld};
pub use self::set::Libraries;
pub use self::shared::SharedLibrary;
use self::ticket::LibraryId;
use crate::entry::FolderId;
use crate::identity::LibraryKeys;
use crate::reconcile::Summary;
use crate::reconcile::tree::{Item, Snapshot};
use crate::record::{AssetRecord, ContentHash, RecordId};
use crate::store::{FeedEntry, Holding, StoreId, StoreStatus};

/// How far the indices are, and what the store says of itself; the same for all libraries of a node.
#[derive(Debug)]
struct Feed {
    /// Up to where the indices have followed the store's feed; `None` before they have followed it at all.
    cursor: watch::Sender<Option<u64>>,
    /// The store that this is a number of, where it said.
    source: Mutex<Option<StoreId>>,
    /// The store's own counts, as of the last time somebody asked.
    store: Mutex<StoreStatus>,
    asides_changed: Notify,
    /// What belongs to some library of a folder changed.
    shares_changed: Notify,
    /// Folders that came by ticket, and the libraries by which they did.
    foreign: RwLock<HashMap<FolderId, LibraryId>>,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            cursor: watch::Sender::new(None),
            source: Mutex::default(),
            store: Mutex::default(),
            asides_changed: Notify::new(),
            shares_changed: Notify::new(),
            foreign: RwLock::default(),
        }
    }
}

/// What decides which records belong to a library, and who may write them.
#[derive(Debug)]
enum LibraryKind {
    /// The library of the passphrase: everything, but for folders that came by ticket.
    Mirror,
    /// What a filter matches, shared by ticket.
    Filtered(Box<SharedLibrary>),
    /// A folder of our own network that we share by ticket. Nobody else writes.
    OwnFolder(Box<SharedLibrary>, FolderShare),
    /// A folder of another network that came by ticket, to be read.
    JoinedFolder(Box<SharedLibrary>, FolderId),
}

impl LibraryKind {
    fn of(shared: SharedLibrary) -> Self {
        let (folder, is_ours) = (shared.filter().folder(), shared.key().is_some());
        let shared = Box::new(shared);
        match folder {
            None => Self::Filtered(shared),
            Some(folder) if is_ours => Self::OwnFolder(shared, FolderShare::new(folder)),
            Some(folder) => Self::JoinedFolder(shared, folder),
        }
    }
}

/// One library: its keys and the index of its records.
#[derive(Debug)]
pub struct Library {
    keys: LibraryKeys,
    kind: LibraryKind,
    index: Mutex<LibraryIndex>,
    feed: Arc<Feed>,
    /// Of which assets contents are wanted; in use for the mirror alone.
    holds: Arc<HoldRules>,
}

impl Library {
    pub fn new(keys: LibraryKeys) -> Self {
        Self::holding(keys, HoldRules::default())
    }

    /// A library beside the mirror, with its asides alone: it is to be filled with what the store holds already.
    fn beside(mirror: &Self, shared: SharedLibrary) -> Self {
        let index = LibraryIndex { filling: Some(HashSet::new()), ..LibraryIndex::default() };
        let (keys, asides) = (shared.keys(), shared.take_asides());
        let (kind, feed, holds) =
            (LibraryKind::of(shared), Arc::clone(&mirror.feed), Arc::clone(&mirror.holds));
        let library = Self { keys, kind, index: Mutex::new(index), feed, holds };
        // What of a folder's files is shared its entries say, and nothing else.
        if library.share().is_none() {
            let mut index = library.index();
            for aside in asides.into_values() {
                // Whether the store still holds it, its feed tells.
                let holding = if aside.holding.is_held() { Holding::Unwanted } else { aside.holding };
                if !aside.is_forgotten {
                    library.put(&mut index, &aside.record, holding);
                }
                index.asides.restore(aside);
            }
        }
        library
    }

    pub fn keys(&self) -> &LibraryKeys {
        &self.keys
    }

    /// The keys that prove membership in a session.
    pub fn session_keys(&self) -> SessionKeys {
        match self.shared() {
            Some(shared) => shared.session_keys(),
            None => SessionKeys::lasting(self.keys.auth().clone()),
        }
    }

    /// Whether it is the library of the passphrase, and none that is shared by ticket.
    pub fn is_mirror(&self) -> bool {
        matches!(self.kind, LibraryKind::Mirror)
    }

    /// What makes it more than the mirror; `None` for that.
    pub fn shared(&self) -> Option<&SharedLibrary> {
        match &self.kind {
            LibraryKind::Mirror => None,
            LibraryKind::Filtered(shared)
            | LibraryKind::OwnFolder(shared, _)
            | LibraryKind::JoinedFolder(shared, _) => Some(shared),
        }
    }

    /// Its id; `None` for the mirror.
    pub fn id(&self) -> Option<LibraryId> {
        self.shared().map(SharedLibrary::id)
    }

    fn index(&self) -> MutexGuard<'_, LibraryIndex> {
        self.index.lock()
    }

    fn item(&self, record: &AssetRecord) -> Item {
        Item { hlc: record.hlc, rid: record.id(self.keys.record().expose()), hash: record.hash }
    }

    /// Whether the index has a record of this content.
    pub fn has(&self, hash: &ContentHash) -> bool {
        self.index().tree.get(hash).is_some()
    }

    /// Whether it has a live record of this content, which is not here.
    pub fn lacks(&self, hash: &ContentHash) -> bool {
        self.index().absent.contains(hash)
    }

    /// Takes in changed records, and takes out those that moved out; returns those that differ from what the index had,
    /// and those whose contents have come: peers may wait for them. That a content was let go of is nothing to tell.
    pub fn apply(&self, entries: Vec<FeedEntry>) -> Vec<FeedEntry> {
        let mut index = self.index();
        entries
            .into_iter()
            .map(|entry| self.with_rules(entry))
            .filter(|entry| {
                if let Some(touched) = index.filling.as_mut().filter(|_| self.share().is_none()) {
                    touched.insert(entry.record.hash);
                }
                self.follow(&mut index, entry)
            })
            .collect()
    }

    /// Takes in a change of the store; whether the record itself is to be told.
    fn follow(&self, index: &mut LibraryIndex, entry: &FeedEntry) -> bool {
        let FeedEntry { record, holding, formers, .. } = entry;
        let (hash, holding) = (&record.hash, *holding);
        if self.is_mirror() {
            return self.put(index, record, holding);
        }
        let member = self.is_member(record).then(|| self.for_members(record));
        if let Some(member) = member {
            if index.asides.yield_to(&member, holding) {
                return self.put(index, &member, holding);
            }
            // It has a later version of its own, of a content that is its own.
            if let Some(filled) = index.asides.filled_by(&member, holding) {
                self.set_aside(index, &filled);
                return false;
            }
        } else if index.asides.get(hash).is_none() {
            let delivered = formers.iter().find(|former| self.is_member(former));
            if let Some(former) = delivered.filter(|_| !self.writes() && !record.deleted) {
                // Who may only read has an own version from now on, and the library the one that it delivered.
                let aside = Aside::of_own(self.for_members(former), holding);
                return !self.set_aside(index, &aside) && index.take_out(hash);
            }
            // What it is by our hand does not belong any more: the others are to hear that, and nothing else. A former life of
            // the process may have ended before it was told. What is no file of a folder any more stays where it is.
            let moved_out = self.writes() && record.via.is_none() && self.share().is_none();
            let was_there = index.tree.get(hash).is_some() || self.had_any(formers, record);
            let gone =
                || AssetRecord { deleted: true, left: !record.deleted, ..record.clone() }.for_members();
            let is_told =
                moved_out && was_there && self.set_aside(index, &Aside::of_own(gone(), Holding::Unwanted));
            return !is_told && index.take_out(hash);
        }
        if !holding.is_held() {
            index.asides.lose(hash);
        }
        self.put_aside(index, hash);
        false
    }

    /// Has what it has otherwise than the store in its index, unless members forgot that.
    fn put_aside(&self, index: &mut LibraryIndex, hash: &ContentHash) {
        let aside = index.asides.get(hash).filter(|aside| !aside.is_forgotten).cloned();
        if let Some(Aside { record, holding, .. }) = aside {
            self.put(index, &record, holding);
        }
    }

    /// Whether it is to be told.
    fn put(&self, index: &mut LibraryIndex, record: &AssetRecord, holding: Holding) -> bool {
        let item = self.item(record);
        if !self.is_mirror() {
            index.count(&record.hash, holding.is_held().then_some(record.size));
        }
        let came = index.note_holding(record, holding);
        let changed = index.tree.upsert(item) != Some(item);
        changed || came
    }

    /// Takes in what the store had before the library was there. What changed since is left as it is.
    pub fn fill(&self, entries: &[FeedEntry]) {
        let mut index = self.index();
        for entry in entries {
            if index.filling.as_ref().is_some_and(|touched| !touched.contains(&entry.record.hash)) {
                self.follow(&mut index, entry);
            }
        }
    }

    /// Up to `limit` contents that are wanted and not here, in the order of their hashes, from behind `after`.
    pub fn wanted(&self, after: Option<ContentHash>, limit: usize) -> Vec<ContentHash> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.index().wanted.range((from, Bound::Unbounded)).take(limit).copied().collect()
    }

    /// Contents that are not here and not wanted.
    pub fn unwanted(&self) -> Vec<ContentHash> {
        let index = self.index();
        index.absent.iter().filter(|hash| !index.wanted.contains(*hash)).copied().collect()
    }

    /// How many live assets are in it whose contents are not here, and how many of those are wanted.
    pub fn absent(&self) -> (u64, u64) {
        let index = self.index();
        (index.absent.len() as u64, index.wanted.len() as u64)
    }

    /// Takes in, or out, assets whose standing in the folder that the library is may have changed; those that came in are to be told.
    pub fn look_again(&self, entries: Vec<FeedEntry>) -> Vec<FeedEntry> {
        let mut index = self.index();
        let differs = |index: &LibraryIndex, FeedEntry { record, .. }: &FeedEntry| {
            index.tree.get(&record.hash).is_some() != self.is_member(record)
        };
        entries.into_iter().filter(|entry| differs(&index, entry) && self.follow(&mut index, entry)).collect()
    }

    /// All that the store held was taken in.
    pub fn filled(&self) {
        self.index().filling = None;
    }

    /// Whether what the store held is still being read in.
    pub fn is_filling(&self) -> bool {
        self.index().filling.is_some()
    }

    /// Takes out records that the store no longer has.
    pub fn remove(&self, hashes: &[ContentHash]) {
        let mut index = self.index();
        for hash in hashes {
            if index.asides.get(hash).is_none() {
                index.take_out(hash);
            } else {
                index.asides.lose(hash);
                self.put_aside(&mut index, hash);
            }
        }
    }

    /// Says up to where the feed was followed.
    pub fn set_cursor(&self, seq: u64) {
        self.feed.cursor.send_replace(Some(seq));
    }

    /// Up to where the feed was followed; changes as it goes on.
    pub fn cursor(&self) -> watch::Receiver<Option<u64>> {
        self.feed.cursor.subscribe()
    }

    /// The store's counts for the mirror's [`Library::summary`].
    pub fn set_store_status(&self, status: StoreStatus) {
        *self.feed.store.lock() = status;
    }

    /// An unchanging view for a reconciliation. Cheap; later changes do not wait for it.
    pub fn snapshot(&self) -> Snapshot {
        self.index().tree.snapshot()
    }

    /// How many live assets are in it, of the mirror whether or not their contents are here.
    pub fn live_assets(&self) -> u64 {
        if !self.is_mirror() {
            return self.index().sizes.len() as u64;
        }
        self.feed.store.lock().assets
    }

    pub fn summary(&self) -> Summary {
        let (assets, bytes, keeps_entries) = {
            let store = self.feed.store.lock();
            (store.assets_held, store.bytes_held, store.keeps_entries)
        };
        let index = self.index();
        let own = (index.sizes.len() as u64, index.bytes);
        let (assets, bytes) = if self.is_mirror() { (assets, bytes) } else { own };
        let entries = (self.has_entries() && keeps_entries).then(|| index.entry_summary());
        Summary {
            count: index.tree.len() as u64,
            fingerprint: index.tree.fingerprint(),
            assets,
            bytes,
            entries,
        }
    }

    /// The contents whose records have these ids, with the ids, and the ids that no record has any more.
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
    pub fn hashes(&self) -> Vec<ContentHash> {
        self.snapshot().items().map(|item| item.hash).collect()
    }
}
