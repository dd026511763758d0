//! The index of the records of folders: of the mirror alone, beside that of its assets.

use super::{Library, LibraryIndex};
use crate::entry::{EntryHash, FolderRecord};
use crate::reconcile::EntrySummary;
use crate::reconcile::tree::{Item, Snapshot};
use crate::record::{ContentHash, RecordId};
use crate::store::entries::StoredEntry;

impl LibraryIndex {
    pub(super) fn entry_summary(&self) -> EntrySummary {
        EntrySummary { count: self.entries.len() as u64, fingerprint: self.entries.fingerprint() }
    }
}

impl Library {
    /// Items carry names of 32 bytes; those of this tree name entries.
    fn entry_item(&self, record: &FolderRecord) -> Item {
        let (EntryHash(hash), rid) = (record.hash(), record.id(self.keys.record().expose()));
        Item { hlc: record.hlc(), rid, hash: ContentHash(hash) }
    }

    /// Takes in changed records of folders; returns those that differ from what the index had. Libraries that are shared by ticket
    /// have none.
    pub fn apply_entries(&self, changed: Vec<StoredEntry>) -> Vec<StoredEntry> {
        if self.shared.is_some() || changed.is_empty() {
            return Vec::new();
        }
        let items: Vec<Item> = changed.iter().map(|entry| self.entry_item(&entry.record)).collect();
        let mut index = self.index();
        let mut is_news = items.into_iter().map(|item| index.entries.upsert(item) != Some(item));
        changed.into_iter().filter(|_| is_news.next().unwrap_or_default()).collect()
    }

    /// Takes out what the store no longer has.
    pub fn remove_entries(&self, hashes: &[EntryHash]) {
        let mut index = self.index();
        for EntryHash(hash) in hashes {
            index.entries.remove(&ContentHash(*hash));
        }
    }

    /// An unchanging view for a reconciliation of the records of folders.
    #[must_use]
    pub fn entries_snapshot(&self) -> Snapshot {
        self.index().entries.snapshot()
    }

    /// The names of the records of folders that have these ids, with the ids, and all other ids.
    #[must_use]
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
    #[must_use]
    pub fn entry_hashes(&self) -> Vec<EntryHash> {
        self.entries_snapshot().items().map(|item| EntryHash(item.hash.0)).collect()
    }
}
