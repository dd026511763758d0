//! What this node remembers of wrong clocks, over restarts, in `clock.db`: the versions that have to wait ([`Notes`]), and
//! what the [`Clock`] starts from.
//!
//! Soft state: losing it costs the last word over versions that wait, so writes do not wait for the disk to confirm them.

pub mod notes;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, OptionalExtension, params};
use rusqlite_migration::{M, Migrations};
use tokio::task::spawn_blocking;

pub use self::notes::{Note, NoteChange, Notes};
use crate::clock::Clock;
use crate::disk;
use crate::library::ticket::LibraryId;
use crate::record::{AssetRecord, ContentHash, EditId};

const SCHEMA: &str = "CREATE TABLE deferred (
    hash BLOB NOT NULL,
    version BLOB NOT NULL,
    edit BLOB NOT NULL,
    first_seen_ms INTEGER NOT NULL,
    due_ms INTEGER NOT NULL,
    library BLOB,
    spent INTEGER NOT NULL,
    PRIMARY KEY (hash, version)
) STRICT, WITHOUT ROWID;
CREATE TABLE clock (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    confirmed_ms INTEGER NOT NULL,
    has_met_devices INTEGER NOT NULL
) STRICT;";

/// The newest date of a version that a member of a library has.
const CONFIRMED: &str = "CREATE TABLE confirmed (
    library BLOB PRIMARY KEY,
    newest_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;";

/// How the schema came to be, one step after the other.
const STEPS: &[M<'_>] = &[M::up(SCHEMA), M::up(CONFIRMED)];
/// The newest schema that is understood.
pub(crate) const SCHEMA_KNOWN: usize = STEPS.len();

#[derive(Debug, thiserror::Error)]
#[error("cannot open '{path}': {source}; move the file away to start with an empty one")]
pub struct DeferralsError {
    path: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The notes, and the clock that dates them. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Deferrals(Arc<DeferralsInner>);

#[derive(Debug)]
struct DeferralsInner {
    clock: Clock,
    notes: Mutex<Notes>,
    unsaved: Mutex<Vec<NoteChange>>,
    /// The newest date of a version that a member has, of each library: nothing that our clock depends on, for members are no
    /// machines of the user's.
    confirmed: Mutex<HashMap<LibraryId, u64>>,
    disk: Option<Mutex<Disk>>,
}

#[derive(Debug)]
struct Disk {
    connection: Connection,
    saved: (u64, bool),
    confirmed: HashMap<LibraryId, u64>,
}

impl Deferrals {
    /// Opens or makes the file in `path`, and tells the clock what it has of it. Blocks.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, DeferralsError> {
        let load = || -> Result<_, Box<dyn std::error::Error + Send + Sync>> {
            let mut connection = Connection::open(path)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            Migrations::from_slice(STEPS).to_latest(&mut connection)?;
            let notes = load_notes(&connection)?;
            let (saved, confirmed) = (load_clock(&connection)?, load_confirmed(&connection)?);
            Ok((Disk { connection, saved, confirmed }, notes))
        };
        let (disk, notes) = load()
            .map_err(|source| disk::explained(path, source))
            .map_err(|source| DeferralsError { path: path.display().to_string(), source })?;
        clock.restore(disk.saved.0, disk.saved.1);
        let (notes, unsaved) = (Mutex::new(notes), Mutex::default());
        let confirmed = Mutex::new(disk.confirmed.clone());
        Ok(Self(Arc::new(DeferralsInner { clock, notes, unsaved, confirmed, disk: Some(Mutex::new(disk)) })))
    }

    /// Remembers nothing over a restart.
    pub fn in_memory(clock: Clock) -> Self {
        let (notes, unsaved, confirmed) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self(Arc::new(DeferralsInner { clock, notes, unsaved, confirmed, disk: None }))
    }

    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.notes.lock()
    }

    fn keep(&self, changes: Vec<NoteChange>) {
        if self.0.disk.is_some() && !changes.is_empty() {
            self.0.unsaved.lock().extend(changes);
        }
    }

    pub fn add(&self, note: Note) {
        let changes = self.notes().add(note);
        self.keep(changes);
    }

    #[must_use]
    pub fn settle(
        &self,
        offered: &AssetRecord,
        ours: Option<&AssetRecord>,
        library: Option<LibraryId>,
        may_reassert: bool,
    ) -> bool {
        let (reassert, changes) = self.notes().settle(offered, ours, library, may_reassert);
        self.keep(changes);
        reassert
    }

    pub fn spend(&self, offered: &AssetRecord, library: Option<LibraryId>) {
        let changes = self.notes().spend(offered, library);
        self.keep(changes);
    }

    /// Takes note that a member of a library has a version of this date.
    pub fn note_confirmed(&self, library: LibraryId, ms: u64) {
        let mut confirmed = self.confirmed();
        let newest = confirmed.entry(library).or_default();
        *newest = ms.max(*newest);
    }

    /// The newest dates of versions that members of libraries are known to have.
    pub fn confirmed_by_members(&self) -> HashMap<LibraryId, u64> {
        self.confirmed().clone()
    }

    fn confirmed(&self) -> MutexGuard<'_, HashMap<LibraryId, u64>> {
        self.0.confirmed.lock()
    }

    pub fn of(&self, hash: &ContentHash) -> Vec<Note> {
        self.notes().of(hash).to_vec()
    }

    /// Writes down versions that are not on disk yet.
    pub async fn save_if_changed(&self) {
        let changed = !self.0.unsaved.lock().is_empty();
        if changed {
            self.save().await;
        }
    }

    /// Writes down what is not on disk yet. What cannot be written is tried again with the next.
    pub async fn save(&self) {
        let this = self.clone();
        match spawn_blocking(move || this.write()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "what is known of wrong clocks is not written down yet"),
            Err(error) => tracing::warn!(%error, "writing down what is known of wrong clocks failed"),
        }
    }

    /// As [`Deferrals::save`]. Blocks.
    fn write(&self) -> rusqlite::Result<()> {
        let Some(disk) = &self.0.disk else { return Ok(()) };
        let mut disk = disk.lock();
        let clock = (self.0.clock.confirmed_ms(), self.0.clock.has_met_devices());
        let mut unsaved = std::mem::take(&mut *self.0.unsaved.lock());
        let confirmed = self.confirmed_by_members();
        if unsaved.is_empty() && clock == disk.saved && confirmed == disk.confirmed {
            return Ok(());
        }
        let written = write_changes(&mut disk.connection, &unsaved, clock, &confirmed);
        if written.is_ok() {
            (disk.saved, disk.confirmed) = (clock, confirmed);
        } else {
            let mut newer = self.0.unsaved.lock();
            unsaved.append(&mut newer);
            *newer = unsaved;
        }
        written
    }
}

fn load_notes(connection: &Connection) -> rusqlite::Result<Notes> {
    let mut notes = Notes::default();
    let mut all = connection.prepare(
        "SELECT hash, version, edit, first_seen_ms, due_ms, library, spent FROM deferred ORDER BY first_seen_ms",
    )?;
    let rows = all.query_map([], |row| {
        Ok(Note {
            hash: ContentHash(row.get(0)?),
            version: row.get(1)?,
            edit: EditId(row.get(2)?),
            first_seen_ms: row.get::<_, i64>(3)?.cast_unsigned(),
            due_ms: row.get::<_, i64>(4)?.cast_unsigned(),
            library: row.get::<_, Option<[u8; 32]>>(5)?.map(LibraryId),
            spent: row.get(6)?,
        })
    })?;
    for note in rows {
        notes.restore(note?);
    }
    Ok(notes)
}

fn load_clock(connection: &Connection) -> rusqlite::Result<(u64, bool)> {
    let row = connection
        .query_row("SELECT confirmed_ms, has_met_devices FROM clock", [], |row| {
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?))
        })
        .optional()?;
    Ok(row.unwrap_or_default())
}

fn load_confirmed(connection: &Connection) -> rusqlite::Result<HashMap<LibraryId, u64>> {
    connection
        .prepare("SELECT library, newest_ms FROM confirmed")?
        .query_map([], |row| Ok((LibraryId(row.get(0)?), row.get::<_, i64>(1)?.cast_unsigned())))?
        .collect()
}

fn write_changes(
    connection: &mut Connection,
    changes: &[NoteChange],
    (confirmed_ms, has_met_devices): (u64, bool),
    confirmed: &HashMap<LibraryId, u64>,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for change in changes {
        match change {
            NoteChange::Put(note) => transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO deferred (hash, version, edit, first_seen_ms, due_ms, library, spent)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![
                    note.hash.0,
                    note.version,
                    note.edit.0,
                    note.first_seen_ms.cast_signed(),
                    note.due_ms.cast_signed(),
                    note.library.map(|library| library.0),
                    note.spent,
                ])?,
            NoteChange::Remove(hash, version) => transaction
                .prepare_cached("DELETE FROM deferred WHERE hash = ?1 AND version = ?2")?
                .execute((hash.0, version))?,
        };
    }
    transaction.execute(
        "INSERT OR REPLACE INTO clock (id, confirmed_ms, has_met_devices) VALUES (1, ?1, ?2)",
        (confirmed_ms.cast_signed(), has_met_devices),
    )?;
    for (library, ms) in confirmed {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO confirmed (library, newest_ms) VALUES (?1, ?2)")?
            .execute((library.0, ms.cast_signed()))?;
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{AssetMeta, Hlc, WriterId};

    #[tokio::test]
    async fn notes_and_what_the_clock_knew_outlive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clock.db");
        let now = Clock::system().now_ms();
        let (ahead, ours) = (now + 86_400_000, now + 5);
        let version = |ms: u64, writer: u8| {
            let record = AssetRecord::new(ContentHash([7; 32]), 5, None, AssetMeta::default());
            AssetRecord { hlc: Hlc::from_ms(ms), writer: WriterId([writer; 32]), ..record }
        };
        let first = Deferrals::open(&path, Clock::system()).unwrap();
        assert!(!first.clock().has_met_devices());
        first.add(Note::of(&version(ahead, 1), Some(LibraryId([3; 32])), now, ahead));
        first.add(Note::of(&version(ahead, 2), None, now, ahead));
        let _ = first.settle(&version(ahead, 2), None, None, true);
        first.note_confirmed(LibraryId([3; 32]), ahead);
        first.note_confirmed(LibraryId([3; 32]), now);
        first.clock().hear([1; 32], now);
        first.clock().note_confirmed(u64::MAX - 1);
        first.save().await;
        drop(first);

        let second = Deferrals::open(&path, Clock::system()).unwrap();
        assert!(second.clock().has_met_devices());
        assert_eq!(second.clock().confirmed_ms(), u64::MAX - 1);
        assert_eq!(second.of(&ContentHash([7; 32])).len(), 1);
        assert_eq!(second.confirmed_by_members(), HashMap::from([(LibraryId([3; 32]), ahead)]));
        assert!(second.settle(&version(ahead, 1), Some(&version(ours, 9)), None, true));
        second.save().await;
        drop(second);
        // What is to be done about it was not done yet.
        let second = Deferrals::open(&path, Clock::system()).unwrap();
        assert!(second.settle(&version(ahead, 1), Some(&version(ours, 9)), None, true));
        second.spend(&version(ahead, 1), None);
        second.save().await;
        drop(second);
        let third = Deferrals::open(&path, Clock::system()).unwrap();
        assert_eq!(third.of(&ContentHash([7; 32])), []);
    }

    #[test]
    fn a_file_that_is_no_database_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clock.db");
        std::fs::write(&path, "garbage ".repeat(200)).unwrap();
        let error = Deferrals::open(&path, Clock::system()).unwrap_err().to_string();
        assert!(error.contains("clock.db") && error.contains("move the file away"), "{error}");
    }
}
