//! Where the contents of a folder's files came from: what its directory had by itself (*taken*), what was written into it because an
//! entry named it (*placed*), and what was found to be what an entry says, so that nobody knows which of the two it is (*adopted*). Only
//! what was taken is shared with people who have a ticket: naming a content publishes nothing.
//!
//! The first that is known of a content stays, whatever happens to its files: one that was placed does not become the directory's own
//! because somebody renames it. Only the user's word makes it shared ([`TakenContents::take`]). That belongs to the folder, and does not
//! depend on which directory is bound to it, or whether one is.

use std::collections::BTreeSet;

use rusqlite::{Transaction, params};

use super::{FolderRows, RowsError, RowsFailure};
use crate::entry::FolderId;
use crate::library::manage::TakenContents;
use crate::record::ContentHash;

const TAKEN: i64 = 1;
const PLACED: i64 = 2;
const ADOPTED: i64 = 4;

impl FolderRows {
    /// Takes note of contents that files of the directory had, as far as nothing is known of them yet. Which of these count as taken.
    pub(crate) fn note_taken(
        &self,
        folder: FolderId,
        contents: &BTreeSet<ContentHash>,
    ) -> Result<Vec<ContentHash>, RowsError> {
        self.note_first(folder, contents, TAKEN)?;
        self.with("read what a folder's directory had", |connection| {
            let sql = "SELECT 1 FROM folder_contents WHERE folder = ?1 AND content = ?2 AND origin & ?3 <> 0";
            let mut statement = connection.prepare_cached(sql)?;
            let mut taken = Vec::new();
            for content in contents {
                if statement.exists(params![folder.0, content.0, TAKEN])? {
                    taken.push(*content);
                }
            }
            Ok(taken)
        })
    }

    /// Takes note of contents of which nobody knows how they came into the directory, as far as nothing is known of them yet: they are
    /// not shared before the user says so.
    pub(crate) fn note_adopted(
        &self,
        folder: FolderId,
        contents: &BTreeSet<ContentHash>,
    ) -> Result<(), RowsError> {
        self.note_first(folder, contents, ADOPTED)
    }

    fn note_first(
        &self,
        folder: FolderId,
        contents: &BTreeSet<ContentHash>,
        origin: i64,
    ) -> Result<(), RowsError> {
        self.with("write what a folder's directory had", |connection| {
            let tx = connection.transaction()?;
            let sql =
                "INSERT INTO folder_contents VALUES (?1, ?2, ?3) ON CONFLICT (folder, content) DO NOTHING";
            for content in contents {
                tx.prepare_cached(sql)?.execute(params![folder.0, content.0, origin])?;
            }
            Ok(tx.commit()?)
        })
    }

    pub(crate) fn unknown_contents(
        &self,
        folder: FolderId,
        contents: &BTreeSet<ContentHash>,
    ) -> Result<BTreeSet<ContentHash>, RowsError> {
        self.with("read where a folder's contents came from", |connection| {
            let sql = "SELECT 1 FROM folder_contents WHERE folder = ?1 AND content = ?2";
            let mut statement = connection.prepare_cached(sql)?;
            let mut unknown = BTreeSet::new();
            for content in contents {
                if !statement.exists(params![folder.0, content.0])? {
                    unknown.insert(*content);
                }
            }
            Ok(unknown)
        })
    }
}

impl TakenContents for FolderRows {
    fn taken(&self, folder: FolderId) -> Result<Vec<ContentHash>, String> {
        let taken = self.with("read what a folder's directory had", |connection| {
            let sql = "SELECT content FROM folder_contents WHERE folder = ?1 AND origin & ?2 <> 0";
            let mut statement = connection.prepare(sql)?;
            let rows = statement.query_map(params![folder.0, TAKEN], |row| row.get(0).map(ContentHash))?;
            Ok(rows.collect::<Result<_, _>>()?)
        });
        taken.map_err(|error| error.to_string())
    }

    fn is_bound(&self, folder: FolderId) -> Result<bool, String> {
        let bindings = self.bindings().map_err(|error| error.to_string())?.all;
        Ok(bindings.iter().any(|one| one.marker.folder == folder && !one.settings.removed))
    }

    fn take(&self, folder: FolderId, contents: &[ContentHash]) -> Result<(), String> {
        let taken = self.with("write what of a folder is shared", |connection| {
            let tx = connection.transaction()?;
            add(&tx, folder, contents.iter().copied(), TAKEN)?;
            Ok(tx.commit()?)
        });
        taken.map_err(|error| error.to_string())
    }
}

/// Takes note of contents that are about to be written into the directory.
pub(super) fn note_placed(
    tx: &Transaction<'_>,
    folder: FolderId,
    contents: impl Iterator<Item = ContentHash>,
) -> Result<(), RowsFailure> {
    add(tx, folder, contents, PLACED)
}

fn add(
    tx: &Transaction<'_>,
    folder: FolderId,
    contents: impl Iterator<Item = ContentHash>,
    origin: i64,
) -> Result<(), RowsFailure> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO folder_contents VALUES (?1, ?2, ?3) \
         ON CONFLICT (folder, content) DO UPDATE SET origin = origin | ?3 WHERE origin & ?3 = 0",
    )?;
    for content in contents {
        statement.execute(params![folder.0, content.0, origin])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
