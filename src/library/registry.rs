//! Libraries of this node in `libraries.db`: keys and tickets, what was issued and used, who is let in.
//!
//! Everything here is a promise to somebody (a ticket that was handed out, a use that was counted, an endpoint that is
//! shut out), so every change is on the disk before it is answered. The file holds secrets and is its owner's alone. Each
//! of the modules below keeps some of its tables, and bounds what is in them.

mod asides;
mod deletions;
mod devices;
mod left;
mod libraries;
mod members;
mod pins;
#[cfg(test)]
mod tests;
mod tickets;

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use rusqlite_migration::{M, Migrations};

pub use self::deletions::{Deleter, Deletion, DeletionChange, DeletionDecision, KeptDeletions};
pub use self::devices::{Device, DeviceStanding};
pub use self::left::LeftContent;
pub use self::libraries::Kept;
pub use self::members::Member;
pub use self::pins::KeptPins;
pub use self::tickets::{Issued, SealingKey};
use super::ticket::Access;
use crate::disk;

const SCHEMA: &str = "CREATE TABLE libraries (
    id TEXT PRIMARY KEY,
    signing_key BLOB,
    ticket TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    next_serial INTEGER NOT NULL DEFAULT 1,
    revocations BLOB
) STRICT;
CREATE TABLE issued (
    library TEXT NOT NULL REFERENCES libraries (id) ON DELETE CASCADE,
    serial INTEGER NOT NULL,
    access TEXT NOT NULL,
    subject TEXT,
    issued_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    uses INTEGER NOT NULL,
    PRIMARY KEY (library, serial)
) STRICT;
CREATE TABLE used (
    library TEXT NOT NULL REFERENCES libraries (id) ON DELETE CASCADE,
    serial INTEGER NOT NULL,
    endpoint_id TEXT NOT NULL,
    PRIMARY KEY (library, serial, endpoint_id)
) STRICT;
CREATE TABLE members (
    library TEXT NOT NULL REFERENCES libraries (id) ON DELETE CASCADE,
    endpoint_id TEXT NOT NULL,
    name TEXT NOT NULL,
    access TEXT NOT NULL,
    serial INTEGER NOT NULL,
    last_synced_ms INTEGER NOT NULL,
    PRIMARY KEY (library, endpoint_id)
) STRICT;
CREATE TABLE received (
    library TEXT NOT NULL REFERENCES libraries (id) ON DELETE CASCADE,
    hash BLOB NOT NULL,
    had INTEGER NOT NULL,
    PRIMARY KEY (library, hash)
) STRICT, WITHOUT ROWID;
CREATE TABLE devices (
    endpoint_id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    standing TEXT NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;";

/// What a library has otherwise than the store, in place of notes of what came through it: those are the store's.
const ASIDES: &str = "DROP TABLE received;
CREATE TABLE asides (
    library TEXT NOT NULL REFERENCES libraries (id) ON DELETE CASCADE,
    hash BLOB NOT NULL,
    record BLOB NOT NULL,
    holding INTEGER NOT NULL,
    PRIMARY KEY (library, hash)
) STRICT, WITHOUT ROWID;";

/// Whose ticket brought an aside, where that is known, and whether members have forgotten what it says.
///
/// `looks` has one row, once somebody looked for what is old enough to be purged: how long the node has run in all, and
/// what time it was, and how long it had run, at the last look that counts.
const ASIDES_FROM: &str = "ALTER TABLE asides ADD COLUMN serial INTEGER;
ALTER TABLE asides ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0;
CREATE TABLE looks (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    uptime_ms INTEGER NOT NULL,
    look_ms INTEGER NOT NULL,
    look_uptime_ms INTEGER NOT NULL
) STRICT;";

/// When an aside was written down as it is.
const ASIDES_NOTED: &str = "ALTER TABLE asides ADD COLUMN noted_ms INTEGER NOT NULL DEFAULT 0;";

/// Since when versions of our own belong: from the beginning, for libraries from before people were asked.
const SHARES_SINCE: &str = "ALTER TABLE libraries ADD COLUMN shares_since_ms INTEGER NOT NULL DEFAULT 0;";

/// By our own clock, when the list of revocations came, and when the owner last told that it is the newest.
const LIST_DATES: &str = "ALTER TABLE libraries ADD COLUMN list_received_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE libraries ADD COLUMN list_told_ms INTEGER NOT NULL DEFAULT 0;";

/// What was here already when a user joined, and is not shared.
const PRIVATE: &str = "CREATE TABLE private (
    library TEXT NOT NULL REFERENCES libraries (id) ON DELETE CASCADE,
    hash BLOB NOT NULL,
    edit BLOB NOT NULL,
    PRIMARY KEY (library, hash)
) STRICT, WITHOUT ROWID;";

/// When users agreed to what belongs, and what held before: terms from before that was kept hold since the library is here.
const AGREED: &str = "ALTER TABLE libraries ADD COLUMN agreed_ms INTEGER NOT NULL DEFAULT 0;
UPDATE libraries SET agreed_ms = created_ms;
ALTER TABLE libraries ADD COLUMN former_since_ms INTEGER;
ALTER TABLE libraries ADD COLUMN former_agreed_ms INTEGER;";

/// How the schema came to be, one step after the other.
const STEPS: &[M<'_>] = &[
    M::up(SCHEMA),
    M::up(deletions::SCHEMA),
    M::up(ASIDES),
    M::up(SHARES_SINCE),
    M::up(tickets::SEALING_SCHEMA),
    M::up(deletions::SIZES_SCHEMA),
    M::up(ASIDES_FROM),
    M::up(LIST_DATES),
    M::up(PRIVATE),
    M::up(AGREED),
    M::up(ASIDES_NOTED),
    M::up(pins::SCHEMA),
    M::up(left::SCHEMA),
];
/// The newest schema that is understood.
pub(crate) const SCHEMA_KNOWN: usize = STEPS.len();

/// Why the registry does not work.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the libraries in '{path}': {source}")]
pub struct RegistryError {
    action: &'static str,
    path: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The registry. Cheap to clone. Every method blocks.
#[derive(Clone)]
pub struct Registry {
    connection: Arc<Mutex<Connection>>,
    path: String,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({})", self.path)
    }
}

impl Registry {
    /// Opens or makes the registry in `path`.
    pub fn open(path: &Path) -> Result<Self, RegistryError> {
        let shown = path.display().to_string();
        let open = || -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
            make_private(path)?;
            let mut connection = Connection::open(path)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "foreign_keys", true)?;
            // What is deleted may be a secret.
            connection.pragma_update(None, "secure_delete", true)?;
            Migrations::from_slice(STEPS).to_latest(&mut connection)?;
            Ok(connection)
        };
        let connection = open()
            .map_err(|source| disk::explained(path, source))
            .map_err(|source| RegistryError { action: "open", path: shown.clone(), source })?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), path: shown })
    }

    fn with<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, RegistryError> {
        let mut connection = self.connection.lock();
        let run = || {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        let path = self.path.clone();
        run().map_err(|e: rusqlite::Error| RegistryError { action, path, source: e.into() })
    }
}

/// The file is made before SQLite sees it, so that nobody else can read it at any time; what SQLite puts beside it has
/// the same permissions.
fn make_private(path: &Path) -> io::Result<()> {
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

fn access(text: &str) -> Access {
    if text == Access::Write.as_str() { Access::Write } else { Access::Read }
}
