//! What this machine remembers of its folders, in `agent.db`: bindings, agreed rows, the brake, the journal.
//!
//! Everything is durable once a call returns: a row decides what is done to a user's file. Losing the file costs questions and reading,
//! and no content: a directory without rows is one that was bound just now. A row of another directory would be worse than none: what
//! that one has and this one lacks would look removed. So rows and notes are written only by the binding that the folder has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::HEXLOWER;
use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::coding::{brake_of, brake_text, disk_of, disk_text, record_bytes, record_of};
pub(crate) use self::journal::JournalRows;
use self::journal::{drop_note, write_note};
use super::files::{FolderMarker, JournalNote, NoteId, lasting_identity};
use super::{AgreedRow, FolderBrake, FolderMode, FolderRules};
use crate::entry::{EntryHash, FolderId};
use crate::record::WriterId;
use crate::store::StoreId;

mod coding;
mod journal;
mod origins;
#[cfg(test)]
mod tests;

/// Why what is remembered of folders cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} in agent.db: {source}")]
pub(crate) struct RowsError {
    action: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// How a folder is kept here, as the user wants it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(clippy::struct_excessive_bools, reason = "each is the user's word on its own")]
pub(crate) struct FolderSettings {
    /// Nothing of this machine shows elsewhere.
    pub(crate) read_only: bool,
    /// Nothing of others shows here.
    pub(crate) send_only: bool,
    /// Removals by others are left undone on this disk.
    pub(crate) ignore_removals: bool,
    /// Changes are found by looking from time to time alone.
    pub(crate) scan_only: bool,
    /// Nothing is done until the user says so.
    pub(crate) paused: bool,
    /// The user took the folder from here; what was agreed stays for when it comes back.
    pub(crate) removed: bool,
    /// It came by a ticket: it is only read, and nothing of it is this network's.
    pub(crate) by_ticket: bool,
}

impl FolderSettings {
    /// The same of a folder that came by a ticket.
    pub(crate) fn of_ticket(self) -> Self {
        Self { by_ticket: true, read_only: true, send_only: false, ..self }
    }

    pub(crate) fn rules(self) -> FolderRules {
        let mode = match self {
            Self { read_only: true, .. } => FolderMode::ReadOnly,
            Self { send_only: true, .. } => FolderMode::SendOnly,
            Self { .. } => FolderMode::Both,
        };
        FolderRules { mode, ignores_removals: self.ignore_removals }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FolderBinding {
    pub(crate) marker: FolderMarker,
    pub(crate) path: PathBuf,
    pub(crate) settings: FolderSettings,
}

/// Every binding, those that were removed among them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FolderBindings {
    /// Greater, the later they were read.
    pub(crate) at: u64,
    pub(crate) all: Vec<FolderBinding>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all are of the largest")]
pub(crate) enum RowChange {
    /// The row of its entry is this.
    Agree(AgreedRow),
    /// The entry has none.
    Forget(EntryHash),
    Note(Box<JournalNote>),
    /// The journal has it no more.
    DropNote(NoteId),
}

/// The tables of folders. Cheap to clone; blocks.
#[derive(Clone, Debug)]
pub(crate) struct FolderRows {
    connection: Arc<Mutex<Connection>>,
    reads: Arc<AtomicU64>,
    /// Which file it is: a copy is another one.
    place: Arc<str>,
    /// Notes of which it was said that they cannot be read.
    told: Arc<Mutex<BTreeSet<NoteId>>>,
}

type RowsFailure = Box<dyn std::error::Error + Send + Sync>;

impl FolderRows {
    /// Opens the file; its schema is brought up to date by who opens it first, the address book.
    pub(crate) fn open(path: &Path) -> Result<Self, RowsError> {
        let open = || -> Result<Connection, RowsFailure> {
            let connection = Connection::open(path)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.busy_timeout(std::time::Duration::from_secs(5))?;
            Ok(connection)
        };
        let connection =
            open().map_err(|source| RowsError { action: "open the tables of folders", source })?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
            reads: Arc::default(),
            place: lasting_identity(path).unwrap_or_default().into(),
            told: Arc::default(),
        })
    }

    fn with<T>(
        &self,
        action: &'static str,
        ask: impl FnOnce(&mut Connection) -> Result<T, RowsFailure>,
    ) -> Result<T, RowsError> {
        let mut connection: MutexGuard<'_, Connection> = self.connection.lock();
        ask(&mut connection).map_err(|source| RowsError { action, source })
    }

    pub(crate) fn bindings(&self) -> Result<FolderBindings, RowsError> {
        self.with("read the folders", |connection| {
            let at = self.reads.fetch_add(1, Ordering::Relaxed);
            let mut statement = connection
                .prepare("SELECT folder, binding, path, settings FROM folder_bindings ORDER BY path")?;
            let mut found = statement.query([])?;
            let mut all = Vec::new();
            while let Some(row) = found.next()? {
                let marker = FolderMarker { folder: FolderId(row.get(0)?), binding: row.get(1)? };
                let (path, settings): (String, String) = (row.get(2)?, row.get(3)?);
                let settings = serde_json::from_str(&settings)
                    .map_err(|error| format!("the folder at {path}: {error}"))?;
                all.push(FolderBinding { marker, path: path.into(), settings });
            }
            Ok(FolderBindings { at, all })
        })
    }

    /// Writes a binding; the brake of one that is there stays. Unless it goes on from what was agreed, that is forgotten in the same
    /// transaction. The journal stays: what it names may be anybody's.
    pub(crate) fn bind(&self, binding: &FolderBinding, goes_on: bool) -> Result<(), RowsError> {
        self.with("write a folder", |connection| {
            let path = binding.path.to_str().ok_or("its path is no UTF-8")?;
            let settings = json!(binding.settings).to_string();
            let FolderMarker { folder, binding } = binding.marker;
            let tx = connection.transaction()?;
            if !goes_on {
                tx.execute("DELETE FROM folder_rows WHERE folder = ?1", [folder.0])?;
            }
            tx.execute(
                "INSERT INTO folder_bindings VALUES (?1, ?2, ?3, ?4, '{}') ON CONFLICT (folder) DO UPDATE SET \
                 binding = ?2, path = ?3, settings = ?4",
                params![folder.0, binding, path, settings],
            )?;
            Ok(tx.commit()?)
        })
    }

    /// Takes back a binding whose directory did not get its marker.
    pub(crate) fn unbind(&self, marker: FolderMarker) -> Result<(), RowsError> {
        self.with("take back a folder", |connection| {
            let sql = "DELETE FROM folder_bindings WHERE folder = ?1 AND binding = ?2";
            connection.execute(sql, params![marker.folder.0, marker.binding])?;
            Ok(())
        })
    }

    /// How a folder is kept here; `None` where another binding took the place of this one.
    pub(crate) fn settings(&self, marker: FolderMarker) -> Result<Option<FolderSettings>, RowsError> {
        self.with("read a folder", |connection| settings_of(connection, marker))
    }

    /// Changes how a folder is kept here, and says how that is then; `None` where another binding took the place of this one.
    pub(crate) fn change_settings(
        &self,
        marker: FolderMarker,
        change: impl FnOnce(&mut FolderSettings),
    ) -> Result<Option<FolderSettings>, RowsError> {
        self.with("write a folder", |connection| {
            let tx = connection.transaction()?;
            let Some(mut settings) = settings_of(&tx, marker)? else { return Ok(None) };
            change(&mut settings);
            let sql = "UPDATE folder_bindings SET settings = ?2 WHERE folder = ?1";
            tx.execute(sql, params![marker.folder.0, json!(settings).to_string()])?;
            tx.commit()?;
            Ok(Some(settings))
        })
    }

    /// By whose name versions are written while this store is used by the node of this endpoint id: random, made the first time. Whoever
    /// goes on with a copy of the file is another one: of two machines that write by one name, each would be taken to have seen what the
    /// other wrote.
    pub(crate) fn writer(
        &self,
        store: Option<&StoreId>,
        endpoint_id: [u8; 32],
    ) -> Result<WriterId, RowsError> {
        self.with("read who writes", |connection| {
            let store = store.map(ToString::to_string).unwrap_or_default();
            let key = [store.as_bytes(), &endpoint_id, self.place.as_bytes()].concat();
            let sql = "SELECT writer FROM folder_writers WHERE store = ?1";
            let known = connection.query_row(sql, [&key], |row| row.get(0)).optional()?;
            if let Some(known) = known {
                return Ok(WriterId(known));
            }
            let made: [u8; 32] = rand::random();
            connection.execute("INSERT INTO folder_writers VALUES (?1, ?2)", params![key, made])?;
            Ok(WriterId(made))
        })
    }

    pub(crate) fn rows(&self, folder: FolderId) -> Result<BTreeMap<EntryHash, AgreedRow>, RowsError> {
        self.with("read what was agreed", |connection| {
            let mut statement =
                connection.prepare("SELECT entry, record, disk FROM folder_rows WHERE folder = ?1")?;
            let mut found = statement.query([folder.0])?;
            let mut rows = BTreeMap::new();
            while let Some(row) = found.next()? {
                let (entry, record): ([u8; 32], Vec<u8>) = (row.get(0)?, row.get(1)?);
                let disk: Option<String> = row.get(2)?;
                match agreed_of(&record, disk.as_deref()) {
                    Ok(agreed) => drop(rows.insert(EntryHash(entry), agreed)),
                    // As if the path had never been agreed on: it is read, and nothing is removed for it.
                    Err(error) => {
                        let (folder, entry) = (HEXLOWER.encode(&folder.0), HEXLOWER.encode(&entry));
                        tracing::error!(%error, folder, entry, "a row of a folder cannot be read, and counts as none");
                    }
                }
            }
            Ok(rows)
        })
    }

    /// Writes changes of what was agreed, all or none.
    pub(crate) fn change(&self, marker: FolderMarker, changes: &[RowChange]) -> Result<(), RowsError> {
        self.with("write what was agreed", |connection| {
            let FolderMarker { folder, .. } = marker;
            let tx = connection.transaction()?;
            check_bound(&tx, marker)?;
            for change in changes {
                match change {
                    RowChange::Agree(row) => {
                        let (record, disk) = (record_bytes(&row.entry), row.disk.as_ref().map(disk_text));
                        tx.prepare_cached("INSERT OR REPLACE INTO folder_rows VALUES (?1, ?2, ?3, ?4)")?
                            .execute(params![folder.0, row.entry.hash().0, record, disk])?;
                    }
                    RowChange::Forget(hash) => {
                        tx.prepare_cached("DELETE FROM folder_rows WHERE folder = ?1 AND entry = ?2")?
                            .execute(params![folder.0, hash.0])?;
                    }
                    RowChange::Note(note) => write_note(&tx, folder, note)?,
                    RowChange::DropNote(id) => drop_note(&tx, folder, *id)?,
                }
            }
            Ok(tx.commit()?)
        })
    }

    pub(crate) fn brake(&self, folder: FolderId) -> Result<FolderBrake, RowsError> {
        self.with("read the brake of a folder", |connection| {
            let sql = "SELECT brake FROM folder_bindings WHERE folder = ?1";
            let text: Option<String> = connection.query_row(sql, [folder.0], |row| row.get(0)).optional()?;
            text.map_or_else(|| Ok(FolderBrake::default()), |text| brake_of(&text))
        })
    }

    pub(crate) fn save_brake(&self, marker: FolderMarker, brake: &FolderBrake) -> Result<(), RowsError> {
        self.with("write the brake of a folder", |connection| {
            check_bound(connection, marker)?;
            let sql = "UPDATE folder_bindings SET brake = ?2 WHERE folder = ?1";
            connection.execute(sql, params![marker.folder.0, brake_text(brake)])?;
            Ok(())
        })
    }

    pub(crate) fn journal(&self, marker: FolderMarker) -> JournalRows {
        JournalRows { rows: self.clone(), marker }
    }
}

fn settings_of(
    connection: &Connection,
    FolderMarker { folder, binding }: FolderMarker,
) -> Result<Option<FolderSettings>, RowsFailure> {
    let sql = "SELECT settings FROM folder_bindings WHERE folder = ?1 AND binding = ?2";
    let found: Option<String> =
        connection.query_row(sql, params![folder.0, binding], |row| row.get(0)).optional()?;
    Ok(found.map(|text| serde_json::from_str(&text)).transpose()?)
}

/// # Errors
/// The folder has another binding: nothing that this one learns is worth anything.
fn check_bound(connection: &Connection, marker: FolderMarker) -> Result<(), RowsFailure> {
    let is_bound = settings_of(connection, marker)?.is_some();
    if is_bound { Ok(()) } else { Err("the folder was bound to a directory anew".into()) }
}

fn agreed_of(record: &[u8], disk: Option<&str>) -> Result<AgreedRow, RowsFailure> {
    Ok(AgreedRow { entry: record_of(record)?, disk: disk.map(disk_of).transpose()? })
}
