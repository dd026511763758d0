//! Peers that this node has met, with the addresses that worked, in `agent.db`: what it dials first at its next start. Beside
//! them, the directory: agents that were alive, with what led to them and what they said last.
//!
//! Soft state: losing it costs a lookup, so writes do not wait for the disk to confirm them.

use std::path::Path;
use std::sync::Arc;

use iroh::{EndpointAddr, EndpointId};
use iroh_tickets::endpoint::EndpointTicket;
use parking_lot::Mutex;
use rusqlite::Connection;
use rusqlite_migration::{M, Migrations};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::discovery::announcement::ANNOUNCEMENT_BYTES_MAX;
use crate::discovery::channel::{Channel, ChannelSet};
use crate::discovery::directory::SavedPeer;
use crate::disk;
use crate::store::at_rest::open_at_rest;

/// Peers that are remembered; the ones not seen for longest go first.
const PEERS_MAX: u32 = 4096;
/// Of those, members of libraries that share nothing else with us.
const MEMBERS_MAX: u32 = PEERS_MAX / 8;
/// Agents that were alive and are remembered, as many as the directory has room for.
const DIRECTORY_MAX: u32 = 4096;

const SCHEMA: &str = "CREATE TABLE peers (
    endpoint_id TEXT PRIMARY KEY,
    ticket TEXT NOT NULL,
    name TEXT NOT NULL,
    last_seen_ms INTEGER
) STRICT;
CREATE TABLE node (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;";

/// Agents that were alive; `sources` are names of channels, separated by commas.
const SCHEMA_DIRECTORY: &str = "CREATE TABLE directory (
    endpoint_id TEXT PRIMARY KEY,
    ticket TEXT NOT NULL,
    name TEXT NOT NULL,
    sources TEXT NOT NULL,
    last_success_ms INTEGER NOT NULL,
    announcement BLOB
) STRICT;
CREATE INDEX directory_by_success ON directory (last_success_ms);";

const SCHEMA_MIRROR: &str = "ALTER TABLE peers ADD COLUMN mirror INTEGER;";
/// What this machine knows of the directories of folders: one file has one sequence of schemas, so that it stands here. Columns are
/// explained where they are read.
const SCHEMA_FOLDERS: &str = "CREATE TABLE folder_bindings (
    folder BLOB PRIMARY KEY,
    binding BLOB NOT NULL,
    path TEXT NOT NULL,
    settings TEXT NOT NULL,
    brake TEXT NOT NULL
) STRICT;
CREATE TABLE folder_writers (store BLOB PRIMARY KEY, writer BLOB NOT NULL) STRICT;
CREATE TABLE folder_rows (
    folder BLOB NOT NULL,
    entry BLOB NOT NULL,
    record BLOB NOT NULL,
    disk TEXT,
    PRIMARY KEY (folder, entry)
) STRICT, WITHOUT ROWID;
CREATE TABLE folder_journal (
    folder BLOB NOT NULL,
    id BLOB NOT NULL,
    note TEXT NOT NULL,
    PRIMARY KEY (folder, id)
) STRICT, WITHOUT ROWID;";
/// Which contents the directory of a folder had by itself, and which were written into it.
const SCHEMA_FOLDER_CONTENTS: &str = "CREATE TABLE folder_contents (
    folder BLOB NOT NULL,
    content BLOB NOT NULL,
    origin INTEGER NOT NULL,
    PRIMARY KEY (folder, content)
) STRICT, WITHOUT ROWID;";
/// How the schema came to be, one step after the other.
const STEPS: &[M<'_>] = &[
    M::up(SCHEMA),
    M::up(SCHEMA_DIRECTORY),
    M::up(SCHEMA_MIRROR),
    M::up(SCHEMA_FOLDERS),
    M::up(SCHEMA_FOLDER_CONTENTS),
];
/// The newest schema that is understood.
pub(crate) const SCHEMA_KNOWN: usize = STEPS.len();

#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the address book '{path}': {source}; move the file away to start with an empty one")]
pub struct AddressBookError {
    action: &'static str,
    path: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RememberedPeer {
    pub addr: EndpointAddr,
    pub name: String,
    /// Milliseconds since the Unix epoch of its last session; `None` if there was none yet.
    pub last_seen_ms: Option<u64>,
    /// Whether it is offered the mirror; `None` in a book that does not say.
    pub mirror: Option<bool>,
}

#[derive(Clone, Debug)]
pub enum BookChange {
    Remember(RememberedPeer),
    Forget(EndpointId),
}

/// The address book. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AddressBook {
    connection: Arc<Mutex<Connection>>,
    path: String,
}

impl AddressBook {
    /// Opens or makes the book in `path`. Blocks.
    pub fn open(path: &Path) -> Result<Self, AddressBookError> {
        let shown = path.display().to_string();
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| AddressBookError {
            action: "open",
            path: shown.clone(),
            source: disk::explained(path, source),
        };
        let mut connection = Connection::open(path).map_err(|e| failed(e.into()))?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(|e| failed(e.into()))?;
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(|e| failed(e.into()))?;
        Migrations::from_slice(STEPS).to_latest(&mut connection).map_err(|e| failed(e.into()))?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), path: shown })
    }

    fn with<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, AddressBookError> {
        let connection = self.connection.lock();
        work(&connection).map_err(|e| AddressBookError { action, path: self.path.clone(), source: e.into() })
    }

    /// Everyone in it, the last seen first. Blocks.
    pub fn entries(&self) -> Result<Vec<RememberedPeer>, AddressBookError> {
        self.with("read", entries)
    }

    /// Adds or replaces a peer. Blocks.
    pub fn remember(&self, entry: &RememberedPeer) -> Result<(), AddressBookError> {
        let ticket = EndpointTicket::new(entry.addr.clone()).to_string();
        let seen = entry.last_seen_ms.and_then(|ms| i64::try_from(ms).ok());
        self.with("write", |db| {
            db.execute(
                "INSERT OR REPLACE INTO peers (endpoint_id, ticket, name, last_seen_ms, mirror)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                (entry.addr.id.to_string(), ticket, &entry.name, seen, entry.mirror),
            )?;
            // A peer of libraries alone pushes no device of our own out.
            db.execute(
                "DELETE FROM peers WHERE mirror = 0 AND endpoint_id IN
                 (SELECT endpoint_id FROM peers WHERE mirror = 0
                  ORDER BY last_seen_ms DESC NULLS FIRST LIMIT -1 OFFSET ?1)",
                [MEMBERS_MAX],
            )?;
            db.execute(
                "DELETE FROM peers WHERE endpoint_id IN
                 (SELECT endpoint_id FROM peers
                  ORDER BY mirror IS 0, last_seen_ms DESC NULLS FIRST LIMIT -1 OFFSET ?1)",
                [PEERS_MAX],
            )
        })?;
        Ok(())
    }

    /// Takes a peer out. Blocks.
    pub fn forget(&self, id: &EndpointId) -> Result<(), AddressBookError> {
        self.with("write", |db| {
            for table in ["peers", "directory"] {
                db.execute(&format!("DELETE FROM {table} WHERE endpoint_id = ?1"), [id.to_string()])?;
            }
            Ok(())
        })
    }

    /// Makes changes one after the other, off the async threads, until nobody sends any more. One that fails costs a
    /// lookup at the next start.
    pub async fn keep(self, mut changes: mpsc::Receiver<BookChange>) {
        while let Some(change) = changes.recv().await {
            let book = self.clone();
            let work = move || match change {
                BookChange::Remember(entry) => book.remember(&entry),
                BookChange::Forget(id) => book.forget(&id),
            };
            match spawn_blocking(work).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the next start will not know of this change"),
                Err(error) => tracing::warn!(%error, "the address book failed"),
            }
        }
    }

    /// Agents that were alive, the last seen first. Blocks.
    pub fn directory(&self) -> Result<Vec<SavedPeer>, AddressBookError> {
        let rows = self.with("read", |db| {
            db.prepare(
                "SELECT ticket, name, sources, last_success_ms, announcement FROM directory
                 ORDER BY last_success_ms DESC LIMIT ?1",
            )?
            .query_map([DIRECTORY_MAX], |row| {
                let (ticket, sources): (String, String) = (row.get(0)?, row.get(2)?);
                let signed: Option<Vec<u8>> = row.get(4)?;
                Ok((ticket, row.get(1)?, sources, row.get::<_, i64>(3)?, signed))
            })?
            .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let peer = |(ticket, name, sources, last, signed): (String, String, String, i64, Option<Vec<u8>>)| {
            Some(SavedPeer {
                addr: ticket.parse::<EndpointTicket>().ok()?.endpoint_addr().clone(),
                name,
                sources: sources_of(&sources),
                last_success_ms: u64::try_from(last).ok()?,
                signed: signed.filter(|bytes| bytes.len() <= ANNOUNCEMENT_BYTES_MAX).map(Into::into),
            })
        };
        Ok(rows.into_iter().filter_map(peer).collect())
    }

    /// Adds or replaces agents that were alive, all of them or none. Blocks.
    pub fn save_directory(&self, peers: &[SavedPeer]) -> Result<(), AddressBookError> {
        self.with("write", |db| {
            let transaction = db.unchecked_transaction()?;
            let mut insert = transaction.prepare_cached(
                "INSERT OR REPLACE INTO directory
                 (endpoint_id, ticket, name, sources, last_success_ms, announcement) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?;
            for peer in peers {
                let names: Vec<&str> = peer.sources.iter().map(Channel::name).collect();
                insert.execute((
                    peer.addr.id.to_string(),
                    EndpointTicket::new(peer.addr.clone()).to_string(),
                    &peer.name,
                    names.join(","),
                    i64::try_from(peer.last_success_ms).unwrap_or(i64::MAX),
                    peer.signed.as_deref(),
                ))?;
            }
            drop(insert);
            transaction.execute(
                "DELETE FROM directory WHERE endpoint_id IN
                 (SELECT endpoint_id FROM directory ORDER BY last_success_ms DESC LIMIT -1 OFFSET ?1)",
                [DIRECTORY_MAX],
            )?;
            transaction.commit()
        })
    }

    /// The UDP port that this node used last, so that peers find it where it was. Blocks.
    pub fn last_port(&self) -> Result<Option<u16>, AddressBookError> {
        let found = self.with("read", |db| {
            db.prepare("SELECT value FROM node WHERE key = 'port'")?
                .query_map([], |row| row.get::<_, String>(0))?
                .next()
                .transpose()
        })?;
        Ok(found.and_then(|port| port.parse().ok()))
    }

    /// Keeps [`AddressBook::last_port`]. Blocks.
    pub fn set_last_port(&self, port: u16) -> Result<(), AddressBookError> {
        self.with("write", |db| {
            db.execute("INSERT OR REPLACE INTO node (key, value) VALUES ('port', ?1)", [port.to_string()])
        })?;
        Ok(())
    }
}

/// Channels by their names; those that this version does not know are left out.
fn sources_of(names: &str) -> ChannelSet {
    let channel = |name: &str| Channel::ALL.into_iter().find(|channel| channel.name() == name);
    names.split(',').filter_map(channel).collect()
}

/// Everyone in the book in `path`, the last seen first, without changing or locking anything: an agent may be using it.
/// Blocks.
pub fn read(path: &Path) -> Result<Vec<RememberedPeer>, AddressBookError> {
    open_at_rest(path).and_then(|connection| entries(&connection)).map_err(|e| AddressBookError {
        action: "read",
        path: path.display().to_string(),
        source: e.into(),
    })
}

fn entries(db: &Connection) -> rusqlite::Result<Vec<RememberedPeer>> {
    let rows = db
        .prepare(
            "SELECT ticket, name, last_seen_ms, mirror FROM peers ORDER BY last_seen_ms DESC NULLS LAST",
        )?
        .query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get(1)?, row.get::<_, Option<i64>>(2)?, row.get(3)?))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let entry = |(ticket, name, seen, mirror): (String, String, Option<i64>, Option<bool>)| {
        let addr = ticket.parse::<EndpointTicket>().ok()?.endpoint_addr().clone();
        Some(RememberedPeer { addr, name, last_seen_ms: seen.and_then(|ms| u64::try_from(ms).ok()), mirror })
    };
    Ok(rows.into_iter().filter_map(entry).collect())
}

#[cfg(test)]
mod tests;
