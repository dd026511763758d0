//! The journal of a folder, in `agent.db`.

use std::io;

use data_encoding::HEXLOWER;
use rusqlite::{Transaction, params};

use super::coding::{note_of, note_text};
use super::origins::note_placed;
use super::{FolderRows, check_bound};
use crate::entry::FolderId;
use crate::folder::files::{FolderJournal, FolderMarker, JournalNote, NoteId};

/// Notes of which it is remembered that they cannot be read; of more it is not said.
const TOLD_MAX: usize = 1_000;

/// Writes a note; one of the same id is replaced.
pub(super) fn write_note(tx: &Transaction<'_>, folder: FolderId, note: &JournalNote) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO folder_journal VALUES (?1, ?2, ?3)")?.execute(params![
        folder.0,
        note.id.0,
        note_text(note)
    ])?;
    Ok(())
}

pub(super) fn drop_note(tx: &Transaction<'_>, folder: FolderId, id: NoteId) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM folder_journal WHERE folder = ?1 AND id = ?2")?
        .execute(params![folder.0, id.0])?;
    Ok(())
}

#[derive(Clone, Debug)]
pub(crate) struct JournalRows {
    pub(super) rows: FolderRows,
    pub(super) marker: FolderMarker,
}

impl JournalRows {
    /// Says once of a note that it cannot be read: the journal is read every minute.
    fn tell_unreadable(&self, id: NoteId, error: &dyn std::fmt::Display) {
        let mut told = self.rows.told.lock();
        if told.len() < TOLD_MAX && told.insert(id) {
            let folder = HEXLOWER.encode(&self.marker.folder.0);
            tracing::error!(%error, %id, folder, "a note of a folder's journal cannot be read");
        }
    }
}

impl FolderJournal for JournalRows {
    fn note(&self, notes: &[JournalNote]) -> io::Result<()> {
        let written = self.rows.with("write the journal of a folder", |connection| {
            let tx = connection.transaction()?;
            check_bound(&tx, self.marker)?;
            note_placed(&tx, self.marker.folder, notes.iter().filter_map(|note| note.entry.target()))?;
            for note in notes {
                write_note(&tx, self.marker.folder, note)?;
            }
            Ok(tx.commit()?)
        });
        written.map_err(io::Error::other)
    }

    fn forget(&self, ids: &[NoteId]) -> io::Result<()> {
        let forgotten = self.rows.with("write the journal of a folder", |connection| {
            let tx = connection.transaction()?;
            for id in ids {
                drop_note(&tx, self.marker.folder, *id)?;
            }
            Ok(tx.commit()?)
        });
        forgotten.map_err(io::Error::other)
    }

    fn all(&self) -> io::Result<Vec<JournalNote>> {
        let read = self.rows.with("read the journal of a folder", |connection| {
            let mut statement =
                connection.prepare("SELECT id, note FROM folder_journal WHERE folder = ?1 ORDER BY id")?;
            let mut found = statement.query([self.marker.folder.0])?;
            let mut notes = Vec::new();
            while let Some(row) = found.next()? {
                let (id, text): ([u8; 16], String) = (row.get(0)?, row.get(1)?);
                match note_of(NoteId(id), &text) {
                    Ok(note) => notes.push(note),
                    // What it names is found as a stray, and goes to the trash.
                    Err(error) => self.tell_unreadable(NoteId(id), &*error),
                }
            }
            Ok(notes)
        });
        read.map_err(io::Error::other)
    }
}
