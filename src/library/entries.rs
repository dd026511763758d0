//! The index of the records of folders, beside that of assets: of the mirror, which has all of our own network's, and of libraries that
//! are a folder, which have all of that one. What came by ticket is in no mirror.

use std::sync::Arc;

use super::{Library, LibraryIndex, LibraryKind};
use crate::entry::{EntryHash, FolderId, FolderRecord};
use crate::reconcile::tree::{Item, Snapshot};
use crate::record::{ContentHash, HLC_AHEAD_MAX_MS, RecordId};
use crate::store::entries::StoredEntry;

impl Library {
    /// Items carry names of 32 bytes; those of this tree name entries.
    fn entry_item(&self, record: &FolderRecord) -> Item {
        let (EntryHash(hash), rid) = (record.hash(), record.id(self.keys.record().expose()));
        Item { hlc: record.hlc(), rid, hash: ContentHash(hash) }
    }

    /// Whether it has records of folders at all.
    pub fn has_entries(&self) -> bool {
        !matches!(self.kind, LibraryKind::Filtered(_))
    }

    /// Whether the records of a folder belong to it: to the mirror those of our own network; to a library those of the folder that it
    /// is, and for one that we joined only where the folder came by it.
    pub fn has_folder(&self, folder: FolderId) -> bool {
        let foreign = || self.feed.foreign.read().get(&folder).copied();
        match &self.kind {
            LibraryKind::Mirror => foreign().is_none(),
            LibraryKind::Filtered(_) => false,
            LibraryKind::OwnFolder(_, share) => share.folder() == folder,
            LibraryKind::JoinedFolder(shared, own) => *own == folder && foreign() == Some(shared.id()),
        }
    }

    /// Whether members are to hear of a record that belongs: of what was removed from a folder that we share, those who join later get
    /// nothing but what went since the library was made, or that they may have seen here. Clocks of our own machines may be apart, so
    /// that what went shortly before is told rather than kept from somebody whose file has to go.
    fn tells(&self, index: &LibraryIndex, record: &FolderRecord) -> bool {
        let LibraryKind::OwnFolder(shared, _) = &self.kind else { return true };
        let is_removal = matches!(record, FolderRecord::Entry(entry) if !entry.is_live());
        let EntryHash(hash) = record.hash();
        let since_ms = shared.created_ms().saturating_sub(HLC_AHEAD_MAX_MS);
        !is_removal || index.entries.get(&ContentHash(hash)).is_some() || record.hlc().ms() >= since_ms
    }

    /// Takes in changed records of folders, as far as they belong; which of them differ from what the index had.
    pub(super) fn apply_entries(&self, changed: &[StoredEntry]) -> Vec<bool> {
        if !self.has_entries() {
            return vec![false; changed.len()];
        }
        let item = |StoredEntry { record, .. }: &StoredEntry| {
            self.has_folder(record.folder()).then(|| self.entry_item(record))
        };
        let items: Vec<Option<Item>> = changed.iter().map(item).collect();
        let mut index = self.index();
        let (mut is_news, mut moves) = (Vec::with_capacity(items.len()), false);
        for (StoredEntry { record, .. }, item) in changed.iter().zip(items) {
            if let (Some(share), Some(_)) = (self.share(), item) {
                moves |= share.follow(record);
            }
            index.touch_entry(record.hash());
            let item = item.filter(|_| self.tells(&index, record));
            is_news.push(item.is_some_and(|item| index.entries.upsert(item) != Some(item)));
        }
        if moves {
            self.feed.shares_changed.notify_one();
        }
        is_news
    }

    /// Takes in what the store has of the folder that the library is. What the feed told meanwhile is newer.
    pub(super) fn fill_entries(&self, records: &[FolderRecord]) {
        let mut index = self.index();
        for record in records.iter().filter(|record| self.has_folder(record.folder())) {
            let item = self.entry_item(record);
            let is_older = index.filling.as_ref().is_some_and(|touched| touched.contains(&item.hash));
            if !is_older && index.entries.get(&item.hash).is_none() {
                if self.tells(&index, record) {
                    index.entries.upsert(item);
                }
                if let Some(share) = self.share() {
                    share.follow(record);
                }
            }
        }
        if self.share().is_some() {
            self.feed.shares_changed.notify_one();
        }
    }

    /// Takes out what the store no longer has.
    pub(super) fn remove_entries(&self, hashes: &[EntryHash]) {
        let (mut index, mut moves) = (self.index(), false);
        for hash in hashes {
            index.touch_entry(*hash);
            index.entries.remove(&ContentHash(hash.0));
            moves |= self.share().is_some_and(|share| share.remove(hash));
        }
        if moves {
            self.feed.shares_changed.notify_one();
        }
    }

    /// Those of the changes that members are to hear of.
    pub fn entry_changes(&self, changed: &Arc<[StoredEntry]>) -> Option<Arc<[StoredEntry]>> {
        if !self.has_entries() {
            return None;
        }
        let index = self.share().is_some().then(|| self.index());
        let is_told = |record: &FolderRecord| index.as_ref().is_none_or(|index| self.tells(index, record));
        let belongs = |entry: &&StoredEntry| self.has_folder(entry.record.folder()) && is_told(&entry.record);
        let count = changed.iter().filter(belongs).count();
        match count {
            0 => None,
            count if count == changed.len() => Some(Arc::clone(changed)),
            _ => Some(changed.iter().filter(belongs).cloned().collect()),
        }
    }

    /// An unchanging view for a reconciliation of the records of folders.
    pub fn entries_snapshot(&self) -> Snapshot {
        self.index().entries.snapshot()
    }

    /// The names of the records of folders that have these ids, with the ids, and all other ids.
    pub fn resolve_entries(&self, rids: &[RecordId]) -> (Vec<(RecordId, EntryHash)>, Vec<RecordId>) {
        let index = self.index();
        let (mut found, mut others) = (Vec::new(), Vec::new());
        for rid in rids {
            match index.entries.find_rid(rid) {
                Some(item) => found.push((*rid, EntryHash(item.hash.0))),
                None => others.push(*rid),
            }
        }
        (found, others)
    }

    /// Which records of folders the index knows.
    pub fn entry_hashes(&self) -> Vec<EntryHash> {
        self.entries_snapshot().items().map(|item| EntryHash(item.hash.0)).collect()
    }
}
