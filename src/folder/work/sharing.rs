//! What of a folder goes to people who have a ticket, and what a folder that came by ticket may do here.

use std::collections::BTreeSet;

use super::{FolderWork, WorkError};
use crate::record::ContentHash;

impl FolderWork {
    /// Whether nothing of this directory becomes an entry: the user wants it so, or the folder is another network's.
    pub(super) fn only_reads(&self) -> bool {
        self.is_reader() || self.is_foreign()
    }

    /// Takes note, durably, of contents that files of the directory had: they may be shared as soon as an entry names them.
    pub(super) fn note_taken(&self, contents: &BTreeSet<ContentHash>) -> Result<(), WorkError> {
        if contents.is_empty() || self.only_reads() {
            return Ok(());
        }
        let folder = self.binding.marker.folder;
        self.context.rows.note_taken(folder, contents)?;
        let contents: Vec<ContentHash> = contents.iter().copied().collect();
        self.context.libraries.note_taken(folder, &contents);
        Ok(())
    }

    /// The same of files that were found to be what entries say: those that nobody but the user can have put there.
    pub(super) fn note_adopted(&self, contents: &BTreeSet<ContentHash>) -> Result<(), WorkError> {
        if contents.is_empty() || self.only_reads() {
            return Ok(());
        }
        let placed = self.context.rows.placed(self.binding.marker.folder, contents)?;
        self.note_taken(&contents.difference(&placed).copied().collect())
    }
}
