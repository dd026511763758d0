//! A store, as far as folders use one: entries with their history, and contents.

use std::collections::{BTreeMap, BTreeSet};

use super::PlantedBug;
use crate::entry::merge_entries;
use crate::entry::{EntryHash, EntryRecord};
use crate::record::ContentHash;

#[derive(Clone, Debug, Default)]
pub(super) struct FolderStore {
    pub(super) entries: BTreeMap<EntryHash, EntryRecord>,
    pub(super) history: BTreeMap<EntryHash, Vec<EntryRecord>>,
    pub(super) contents: BTreeSet<ContentHash>,
}

impl FolderStore {
    /// Merges a version, and the copies that come of it, as in one transaction. Returns whether anything changed.
    pub(super) fn take(&mut self, incoming: EntryRecord, bug: Option<PlantedBug>) -> bool {
        let (mut next, mut is_changed) = (Some(incoming), false);
        while let Some(incoming) = next.take() {
            let hash = incoming.hash();
            let merged = merge_entries(self.entries.get(&hash), incoming);
            if let Some(loser) = merged.history {
                let history = self.history.entry(hash).or_default();
                if !history.contains(&loser) {
                    history.push(loser);
                    is_changed = true;
                }
            }
            is_changed |= self.entries.get(&hash) != Some(&merged.winner);
            self.entries.insert(hash, merged.winner);
            next = merged.copy.filter(|_| bug != Some(PlantedBug::ConflictWithoutCopy));
        }
        is_changed
    }

    /// All versions of one entry.
    pub(super) fn versions(&self, hash: EntryHash) -> impl Iterator<Item = &EntryRecord> {
        self.entries.get(&hash).into_iter().chain(self.history.get(&hash).into_iter().flatten())
    }

    pub(super) fn has_version(&self, version: &EntryRecord) -> bool {
        self.versions(version.hash()).any(|known| known == version)
    }

    /// Contents that are here, and that a path, a copy or the history leads to.
    pub(super) fn reachable(&self) -> BTreeSet<ContentHash> {
        let versions = self.entries.values().chain(self.history.values().flatten());
        versions.filter_map(EntryRecord::target).filter(|target| self.contents.contains(target)).collect()
    }
}
