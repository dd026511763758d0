//! Where the contents of a folder's files came from: what its directory had by itself (*taken*), and what was written into it because
//! an entry named it (*placed*). Only what was taken is shared with people who have a ticket: naming a content publishes nothing.

use std::collections::BTreeSet;

use rusqlite::{Transaction, params};

use super::{Failure, FolderRows, RowsError};
use crate::entry::FolderId;
use crate::library::manage::TakenContents;
use crate::record::ContentHash;

const TAKEN: i64 = 1;
const PLACED: i64 = 2;

impl FolderRows {
    /// Takes note of contents that files of the directory had.
    pub(crate) fn note_taken(
        &self,
        folder: FolderId,
        contents: &BTreeSet<ContentHash>,
    ) -> Result<(), RowsError> {
        self.with("write what a folder's directory had", |connection| {
            let tx = connection.transaction()?;
            note(&tx, folder, contents.iter().copied(), TAKEN)?;
            Ok(tx.commit()?)
        })
    }

    /// Those of these contents that were ever written into the directory, or were about to be.
    pub(crate) fn placed(
        &self,
        folder: FolderId,
        contents: &BTreeSet<ContentHash>,
    ) -> Result<BTreeSet<ContentHash>, RowsError> {
        self.with("read what was written into a folder", |connection| {
            let sql = "SELECT 1 FROM folder_contents WHERE folder = ?1 AND content = ?2 AND origin & ?3 <> 0";
            let mut statement = connection.prepare_cached(sql)?;
            let mut placed = BTreeSet::new();
            for content in contents {
                if statement.exists(params![folder.0, content.0, PLACED])? {
                    placed.insert(*content);
                }
            }
            Ok(placed)
        })
    }

    /// All contents that the directory had which is bound to a folder; `None` if there is none.
    fn taken_of(&self, folder: FolderId) -> Result<Option<Vec<ContentHash>>, RowsError> {
        let bindings = self.bindings()?.all;
        if !bindings.iter().any(|one| one.marker.folder == folder && !one.settings.removed) {
            return Ok(None);
        }
        self.with("read what a folder's directory had", |connection| {
            let sql = "SELECT content FROM folder_contents WHERE folder = ?1 AND origin & ?2 <> 0";
            let mut statement = connection.prepare(sql)?;
            let rows = statement.query_map(params![folder.0, TAKEN], |row| row.get(0).map(ContentHash))?;
            Ok(Some(rows.collect::<Result<Vec<_>, _>>()?))
        })
    }
}

impl TakenContents for FolderRows {
    fn taken(&self, folder: FolderId) -> Result<Option<Vec<ContentHash>>, String> {
        self.taken_of(folder).map_err(|error| error.to_string())
    }

    fn take(&self, folder: FolderId, contents: &[ContentHash]) -> Result<(), String> {
        let contents = contents.iter().copied().collect();
        self.note_taken(folder, &contents).map_err(|error| error.to_string())
    }
}

/// Takes note of contents that are about to be written into the directory.
pub(super) fn note_placed(
    tx: &Transaction<'_>,
    folder: FolderId,
    contents: impl Iterator<Item = ContentHash>,
) -> Result<(), Failure> {
    note(tx, folder, contents, PLACED)
}

fn note(
    tx: &Transaction<'_>,
    folder: FolderId,
    contents: impl Iterator<Item = ContentHash>,
    origin: i64,
) -> Result<(), Failure> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO folder_contents VALUES (?1, ?2, ?3) \
         ON CONFLICT (folder, content) DO UPDATE SET origin = origin | ?3 WHERE origin & ?3 = 0",
    )?;
    for content in contents {
        statement.execute(params![folder.0, content.0, origin])?;
    }
    Ok(())
}
