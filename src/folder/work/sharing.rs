//! What of a folder goes to people who have a ticket, and what a folder that came by ticket may do here.

use std::collections::BTreeSet;

use super::acting::EntryPutting;
use super::{FolderWork, WorkError};
use crate::entry::EntryRecord;
use crate::folder::rows::RowChange;
use crate::library::folder_share::FolderShare;
use crate::record::ContentHash;

impl FolderWork {
    /// Takes note of what the directory has that is about to be put. Without a row, it was not read from there.
    pub(super) fn note_put(&self, puts: &[EntryPutting]) -> Result<(), WorkError> {
        let (mut had, mut adopted) = (BTreeSet::new(), BTreeSet::new());
        for (hash, entry, row) in puts {
            let Some(target) = entry.target().filter(|_| row.is_some()) else { continue };
            // A file of which nothing is known, at a path that was removed: the user keeps what may have been placed there.
            let is_kept = !self.agreed.contains_key(hash)
                && self.entries.get(hash).is_some_and(|entry| !entry.is_live());
            if is_kept {
                adopted.insert(target)
            } else {
                had.insert(target)
            };
        }
        self.note_had(&had, &adopted)
    }

    /// The same of files that were found to be what entries say.
    pub(super) fn note_agreed<'a>(
        &self,
        changes: impl Iterator<Item = &'a RowChange>,
    ) -> Result<(), WorkError> {
        let adopted = |change: &RowChange| match change {
            RowChange::Agree(row) if row.disk.is_some() && !self.agreed.contains_key(&row.entry.hash()) => {
                row.entry.target()
            }
            RowChange::Agree(_) | RowChange::Forget(_) | RowChange::Note(_) | RowChange::DropNote(_) => None,
        };
        self.note_had(&BTreeSet::new(), &changes.filter_map(adopted).collect())
    }

    /// Takes note, durably, of contents that files of the directory have. What was placed there stays so, whatever became of its file.
    /// All others may be shared as soon as an entry names them. But where the folder is shared already, what was adopted waits for the
    /// user, and so does what entries of others name: once `agent.db` is lost, nothing tells them from what was placed.
    pub(super) fn note_had(
        &self,
        had: &BTreeSet<ContentHash>,
        adopted: &BTreeSet<ContentHash>,
    ) -> Result<(), WorkError> {
        let folder = self.binding.marker.folder;
        let mut taken = had | adopted;
        if taken.is_empty() || self.is_reader() {
            return Ok(());
        }
        let (rows, libraries) = (&self.context.rows, &self.context.libraries);
        let is_ours = |share: &FolderShare| share.folder() == folder;
        if libraries.shared().iter().any(|library| library.share().is_some_and(is_ours)) {
            let unknown = rows.unknown_contents(folder, &taken)?;
            let mut waiting = &unknown & adopted;
            let others = &unknown - adopted;
            if !others.is_empty() {
                let named = self.entries.values().filter_map(EntryRecord::target);
                waiting.extend(named.filter(|target| others.contains(target)));
            }
            rows.note_adopted(folder, &waiting)?;
            taken = &taken - &waiting;
        }
        let taken = rows.note_taken(folder, &taken)?;
        self.context.libraries.note_taken(folder, &taken);
        Ok(())
    }
}
