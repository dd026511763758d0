//! What is remembered of a folder, and what the store has of it.

use std::collections::BTreeSet;

use super::{FolderWork, SHOWN_MAX, WorkError};
use crate::entry::{EntryHash, EntryPath, EntryRecord, FolderRecord};
use crate::events::NodeEvent;
use crate::store::StoreError;
use crate::store::entries::{ENTRIES_MAX, EntryQuery};

impl FolderWork {
    /// Reads what is remembered, once.
    pub(super) fn load(&mut self) -> Result<(), WorkError> {
        if self.is_loaded {
            return Ok(());
        }
        let folder = self.binding.marker.folder;
        let status = self.wait(self.context.store.status())?;
        if !status.keeps_entries {
            // One that says which store it is.
            self.wait(self.context.store.entries(EntryQuery { limit: 1, ..EntryQuery::default() }))?;
            return Err(StoreError::NoFolders.into());
        }
        self.writer = Some(self.context.rows.writer(status.id.as_ref(), self.context.endpoint_id)?);
        if let Some(settings) = self.context.rows.settings(self.binding.marker)? {
            // A FolderActor that is started again was told how it was at first.
            self.binding.settings = settings;
        }
        if self.is_foreign() {
            // Also where it was bound before that was known.
            self.binding.settings = self.binding.settings.of_ticket();
        }
        self.agreed = self.context.rows.rows(folder)?;
        self.brake = self.context.rows.brake(folder)?;
        self.is_loaded = true;
        Ok(())
    }

    /// Takes in all that the folder has.
    pub(super) fn set_entries(&mut self, all: Vec<EntryRecord>) {
        // Copies that are in no row were made while nobody looked.
        let is_new = |entry: &&EntryRecord| {
            let hash = entry.hash();
            entry.is_live()
                && entry.path.is_conflict()
                && !self.agreed.contains_key(&hash)
                && !self.entries.contains_key(&hash)
        };
        for entry in all.iter().filter(is_new).take(SHOWN_MAX) {
            self.tell_conflict(entry);
        }
        self.entries.clear();
        self.below.clear();
        for entry in all {
            self.set_entry(entry);
        }
        self.stirred.clear();
    }

    /// Reads these again.
    pub(super) fn read_named(&mut self, hashes: &BTreeSet<EntryHash>) -> Result<(), WorkError> {
        let hashes: Vec<EntryHash> = hashes.iter().copied().collect();
        for part in hashes.chunks(ENTRIES_MAX) {
            for record in self.wait(self.context.store.entries_named(part.to_vec()))? {
                if let FolderRecord::Entry(entry) = record
                    && entry.folder == self.binding.marker.folder
                {
                    let is_copy = entry.is_live() && entry.path.is_conflict();
                    if is_copy && !self.entries.contains_key(&entry.hash()) {
                        self.tell_conflict(&entry);
                    }
                    self.set_entry(entry);
                }
            }
        }
        Ok(())
    }

    fn tell_conflict(&self, copy: &EntryRecord) {
        let path = copy.path.as_str().to_owned();
        self.publish(|folder, _| NodeEvent::FolderConflict { folder, path });
    }

    fn set_entry(&mut self, entry: EntryRecord) {
        let (path, is_live) = (entry.path.clone(), entry.is_live());
        let before = self.entries.insert(entry.hash(), entry);
        let was_live = before.is_some_and(|before| before.is_live());
        if was_live == is_live {
            return;
        }
        let composed = path.composed().into_owned();
        for (at, _) in composed.match_indices('/') {
            let count = self.below.entry(composed[..at].to_owned()).or_default();
            *count = if is_live { *count + 1 } else { count.saturating_sub(1) };
            if *count == u64::from(is_live)
                && let Ok(above) = EntryPath::parse(&composed[..at])
            {
                self.stirred.insert(EntryHash::of(self.binding.marker.folder, &above));
            }
        }
    }
}
