//! Peers' deletions: how many each brought lately, which wait for somebody's decision, and what was decided.

use rusqlite::Transaction;

use super::{Registry, RegistryError, signed, unsigned};
use crate::record::{AssetRecord, ContentHash, Hlc};

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Deleter {
    /// Id of the library; empty for the mirror.
    pub library: String,
    /// `device` and an endpoint id, or `ticket` and a number.
    pub source: String,
}

impl Deleter {
    /// A machine in the network of the passphrase.
    pub fn of_device(id: &str) -> Self {
        Self { library: String::new(), source: format!("device {id}") }
    }

    /// The holder of a library's ticket.
    pub fn of_ticket(library: String, serial: u64) -> Self {
        Self { library, source: format!("ticket {serial}") }
    }

    /// Endpoint id of the machine, if it is one.
    pub fn device(&self) -> Option<&str> {
        self.source.strip_prefix("device ")
    }

    /// Number of the ticket, if it is one.
    pub fn ticket(&self) -> Option<u64> {
        self.source.strip_prefix("ticket ")?.parse().ok()
    }
}

/// A deletion: this version of the asset is a tombstone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deletion {
    pub hash: ContentHash,
    pub digest: [u8; 32],
    pub hlc: Hlc,
}

impl Deletion {
    /// That of a tombstone.
    pub fn of(record: &AssetRecord) -> Self {
        Self { hash: record.hash, digest: record.digest(), hlc: record.hlc }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeletionDecision {
    Confirmed,
    Rejected,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeletionChange {
    /// So many deletions were applied in the span that begins then.
    Spent(Deleter, u64, u64),
    /// Spans that began before are over.
    SpentBefore(u64),
    /// What this one brought does not count any more.
    Refreshed(Deleter),
    /// A deletion waits; since when the first of them does.
    Held(Deleter, u64, Deletion),
    /// It waits no more.
    Released(Deleter, ContentHash),
    /// Somebody decided about a deletion in a library.
    Decided(String, Deletion, DeletionDecision),
    /// The decision is of no use any more.
    Undecided(String, ContentHash),
    /// The least that a library had in the span that begins then.
    Size(String, u64, u64),
    /// Its spans that began before are over.
    SizesBefore(String, u64),
    /// The clock was set, so all dates are others.
    Redated {
        /// All that was applied, in place of what was known.
        spent: Vec<(Deleter, u64, u64)>,
        /// All sizes, in place of those that were known.
        sizes: Vec<(String, u64, u64)>,
        /// Nothing has waited since later than this.
        now_ms: u64,
    },
    LibraryGone(String),
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeptDeletions {
    /// Deletions applied, by the beginning of a span.
    pub spent: Vec<(Deleter, u64, u64)>,
    /// Deletions that wait, and since when.
    pub held: Vec<(Deleter, u64, Deletion)>,
    /// Deletions that somebody decided about, by library.
    pub decided: Vec<(String, Deletion, DeletionDecision)>,
    /// The least that each library had, by the beginning of a span.
    pub sizes: Vec<(String, u64, u64)>,
}

pub(super) const SCHEMA: &str = "CREATE TABLE deletions_spent (
    library TEXT NOT NULL,
    source TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (library, source, at_ms)
) STRICT, WITHOUT ROWID;
CREATE TABLE deletions_held (
    library TEXT NOT NULL,
    source TEXT NOT NULL,
    hash BLOB NOT NULL,
    digest BLOB NOT NULL,
    hlc INTEGER NOT NULL,
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (library, source, hash)
) STRICT, WITHOUT ROWID;
CREATE TABLE deletions_decided (
    library TEXT NOT NULL,
    hash BLOB NOT NULL,
    digest BLOB NOT NULL,
    hlc INTEGER NOT NULL,
    confirmed INTEGER NOT NULL,
    PRIMARY KEY (library, hash)
) STRICT, WITHOUT ROWID;";

pub(super) const SIZES_SCHEMA: &str = "CREATE TABLE deletions_sizes (
    library TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    least INTEGER NOT NULL,
    PRIMARY KEY (library, at_ms)
) STRICT, WITHOUT ROWID;";

impl Registry {
    /// Writes changes down, in order: all of them or none.
    pub fn change_deletions(&self, changes: &[DeletionChange]) -> Result<(), RegistryError> {
        self.with("write", |db| changes.iter().try_for_each(|change| write(db, change)))
    }

    /// What was written down.
    pub fn deletions(&self) -> Result<KeptDeletions, RegistryError> {
        self.with("read", |db| {
            let deleter = |row: &rusqlite::Row<'_>| -> rusqlite::Result<Deleter> {
                Ok(Deleter { library: row.get(0)?, source: row.get(1)? })
            };
            let deletion = |row: &rusqlite::Row<'_>, at| -> rusqlite::Result<Deletion> {
                Ok(Deletion {
                    hash: ContentHash(row.get(at)?),
                    digest: row.get(at + 1)?,
                    hlc: Hlc(unsigned(row.get(at + 2)?)),
                })
            };
            let spent = db
                .prepare("SELECT library, source, at_ms, count FROM deletions_spent")?
                .query_map([], |row| Ok((deleter(row)?, unsigned(row.get(2)?), unsigned(row.get(3)?))))?
                .collect::<rusqlite::Result<_>>()?;
            let held = db
                .prepare("SELECT library, source, hash, digest, hlc, since_ms FROM deletions_held")?
                .query_map([], |row| Ok((deleter(row)?, unsigned(row.get(5)?), deletion(row, 2)?)))?
                .collect::<rusqlite::Result<_>>()?;
            let decided = db
                .prepare("SELECT library, hash, digest, hlc, confirmed FROM deletions_decided")?
                .query_map([], |row| {
                    let decision =
                        if row.get(4)? { DeletionDecision::Confirmed } else { DeletionDecision::Rejected };
                    Ok((row.get(0)?, deletion(row, 1)?, decision))
                })?
                .collect::<rusqlite::Result<_>>()?;
            let sizes = db
                .prepare("SELECT library, at_ms, least FROM deletions_sizes")?
                .query_map([], |row| Ok((row.get(0)?, unsigned(row.get(1)?), unsigned(row.get(2)?))))?
                .collect::<rusqlite::Result<_>>()?;
            Ok(KeptDeletions { spent, held, decided, sizes })
        })
    }
}

fn write(db: &Transaction<'_>, change: &DeletionChange) -> rusqlite::Result<()> {
    match change {
        DeletionChange::Spent(by, at_ms, count) => write_spent(db, by, *at_ms, *count),
        DeletionChange::SpentBefore(at_ms) => {
            db.execute("DELETE FROM deletions_spent WHERE at_ms < ?1", [signed(*at_ms)])
        }
        DeletionChange::Refreshed(Deleter { library, source }) => {
            db.execute("DELETE FROM deletions_spent WHERE library = ?1 AND source = ?2", (library, source))
        }
        DeletionChange::Held(Deleter { library, source }, since_ms, Deletion { hash, digest, hlc }) => db
            .prepare_cached("INSERT OR REPLACE INTO deletions_held VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute((
                library,
                source,
                hash.0.as_slice(),
                digest.as_slice(),
                signed(hlc.0),
                signed(*since_ms),
            )),
        DeletionChange::Released(Deleter { library, source }, hash) => db
            .prepare_cached("DELETE FROM deletions_held WHERE library = ?1 AND source = ?2 AND hash = ?3")?
            .execute((library, source, hash.0.as_slice())),
        DeletionChange::Decided(library, Deletion { hash, digest, hlc }, decision) => {
            let confirmed = *decision == DeletionDecision::Confirmed;
            db.prepare_cached("INSERT OR REPLACE INTO deletions_decided VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute((library, hash.0.as_slice(), digest.as_slice(), signed(hlc.0), confirmed))
        }
        DeletionChange::Undecided(library, hash) => db
            .prepare_cached("DELETE FROM deletions_decided WHERE library = ?1 AND hash = ?2")?
            .execute((library, hash.0.as_slice())),
        DeletionChange::Size(library, at_ms, least) => write_size(db, library, *at_ms, *least),
        DeletionChange::SizesBefore(library, at_ms) => db
            .prepare_cached("DELETE FROM deletions_sizes WHERE library = ?1 AND at_ms < ?2")?
            .execute((library, signed(*at_ms))),
        DeletionChange::Redated { spent, sizes, now_ms } => {
            db.execute("DELETE FROM deletions_spent", [])?;
            for (by, at_ms, count) in spent {
                write_spent(db, by, *at_ms, *count)?;
            }
            db.execute("DELETE FROM deletions_sizes", [])?;
            for (library, at_ms, least) in sizes {
                write_size(db, library, *at_ms, *least)?;
            }
            db.execute("UPDATE deletions_held SET since_ms = ?1 WHERE since_ms > ?1", [signed(*now_ms)])
        }
        DeletionChange::LibraryGone(library) => {
            for table in ["deletions_spent", "deletions_held", "deletions_decided", "deletions_sizes"] {
                db.execute(&format!("DELETE FROM {table} WHERE library = ?1"), [library])?;
            }
            Ok(0)
        }
    }
    .map(drop)
}

fn write_spent(db: &Transaction<'_>, by: &Deleter, at_ms: u64, count: u64) -> rusqlite::Result<usize> {
    db.prepare_cached("INSERT OR REPLACE INTO deletions_spent VALUES (?1, ?2, ?3, ?4)")?.execute((
        &by.library,
        &by.source,
        signed(at_ms),
        signed(count),
    ))
}

fn write_size(db: &Transaction<'_>, library: &str, at_ms: u64, least: u64) -> rusqlite::Result<usize> {
    db.prepare_cached("INSERT OR REPLACE INTO deletions_sizes VALUES (?1, ?2, ?3)")?.execute((
        library,
        signed(at_ms),
        signed(least),
    ))
}
