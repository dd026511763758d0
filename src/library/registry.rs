//! Libraries of this node in `libraries.db`: keys and tickets, what was issued and used, who is let in.
//!
//! Everything here is a promise to somebody (a ticket that was handed out, a use that was counted, an endpoint that is
//! shut out), so every change is on the disk before it is answered. The file holds secrets and is its owner's alone.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ed25519_dalek::SigningKey;
use iroh::EndpointId;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};
use rusqlite_migration::{M, Migrations};
use zeroize::Zeroizing;

use super::revocation::SignedRevocations;
use super::ticket::{Access, LibraryId, Subject, Ticket};
use crate::record::ContentHash;

/// Libraries of one node: with the mirror, as many as one connection can prove.
pub const LIBRARIES_MAX: usize = 63;
/// Members of one library that are remembered; the ones not seen for longest go first.
const MEMBERS_MAX: u32 = 4096;
/// Endpoints that wait for somebody to approve them; the oldest go first.
const WAITING_MAX: u32 = 256;

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

/// Why the registry does not work.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the libraries in '{path}': {source}")]
pub struct RegistryError {
    action: &'static str,
    path: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// A library as it is kept.
pub struct Kept {
    /// Its key, if it is ours.
    pub key: Option<SigningKey>,
    /// Our own ticket.
    pub ticket: Ticket,
    /// When it was created or joined here, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// The newest list of revocations that we know, encoded and signed.
    pub revocations: Option<Vec<u8>>,
}

/// A ticket that was issued here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Its number.
    pub serial: u64,
    /// What it allows.
    pub access: Access,
    /// For whom.
    pub subject: Option<String>,
    /// When, in milliseconds since the Unix epoch.
    pub issued_ms: u64,
    /// Until when.
    pub expires_ms: Option<u64>,
    /// How many endpoints may use it; 0 for any number.
    pub uses: u32,
    /// How many have; of those with a limit alone.
    pub used: u32,
}

/// An endpoint that took part in a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub endpoint_id: String,
    /// What it calls itself.
    pub name: String,
    /// What it may do.
    pub access: Access,
    /// Of the ticket that it showed.
    pub serial: u64,
    /// When it was last known to hold all that we hold, in milliseconds since the Unix epoch.
    pub last_synced_ms: u64,
}

/// How an endpoint stands with the network of the passphrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Let in.
    Approved,
    /// Waits for somebody to approve it.
    Waiting,
    /// Shut out, from everything.
    Denied,
}

impl Standing {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Waiting => "waiting",
            Self::Denied => "denied",
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "approved" => Self::Approved,
            "waiting" => Self::Waiting,
            // Whatever it is, it opens no door.
            _ => Self::Denied,
        }
    }
}

/// An endpoint that somebody decided about, or has to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Who.
    pub endpoint_id: String,
    /// What it calls itself.
    pub name: String,
    /// How it stands.
    pub standing: Standing,
    /// Since when, in milliseconds since the Unix epoch.
    pub at_ms: u64,
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

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

fn access(text: &str) -> Access {
    if text == Access::Write.as_str() { Access::Write } else { Access::Read }
}

impl Registry {
    /// Opens or makes the registry in `path`.
    ///
    /// # Errors
    /// If the file cannot be made, is no database, or is a newer version's.
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
            Migrations::new(vec![M::up(SCHEMA)]).to_latest(&mut connection)?;
            Ok(connection)
        };
        let connection =
            open().map_err(|source| RegistryError { action: "open", path: shown.clone(), source })?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), path: shown })
    }

    fn with<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, RegistryError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let run = || {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        let path = self.path.clone();
        run().map_err(|e: rusqlite::Error| RegistryError { action, path, source: e.into() })
    }

    /// Every library, the oldest first. One whose ticket cannot be read any more is left out, and logged.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn libraries(&self) -> Result<Vec<Kept>, RegistryError> {
        type Row = (Option<Vec<u8>>, String, i64, Option<Vec<u8>>);
        let rows = self.with("read", |db| {
            let order =
                "SELECT signing_key, ticket, created_ms, revocations FROM libraries ORDER BY created_ms";
            db.prepare(order)?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
                .collect::<rusqlite::Result<Vec<Row>>>()
        })?;
        let kept = |(key, ticket, created_ms, revocations): Row| {
            let ticket = Zeroizing::new(ticket);
            let key = key.map(Zeroizing::new);
            let key = key.and_then(|key| Some(SigningKey::from_bytes(key.as_slice().try_into().ok()?)));
            match Ticket::parse(&ticket) {
                Ok(ticket) => Some(Kept { key, ticket, created_ms: unsigned(created_ms), revocations }),
                Err(error) => {
                    tracing::error!(%error, "a library cannot be read and is left out");
                    None
                }
            }
        };
        Ok(rows.into_iter().filter_map(kept).collect())
    }

    /// Keeps a library that was created or joined here; whether there was room for it. With a newer ticket of a library
    /// that is there already, the ticket is replaced.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn keep(
        &self,
        key: Option<&SigningKey>,
        ticket: &Ticket,
        now_ms: u64,
    ) -> Result<bool, RegistryError> {
        let id = ticket.claims().library.to_string();
        let (text, key) = (ticket.to_text(), key.map(|key| Zeroizing::new(key.to_bytes())));
        self.with("write", |db| {
            let others = "SELECT COUNT(*) FROM libraries WHERE id <> ?1";
            let others: i64 = db.query_row(others, [&id], |row| row.get(0))?;
            if usize::try_from(others).unwrap_or(usize::MAX) >= LIBRARIES_MAX {
                return Ok(false);
            }
            db.execute(
                "INSERT INTO libraries (id, signing_key, ticket, created_ms) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (id) DO UPDATE SET ticket = excluded.ticket",
                (&id, key.as_ref().map(|key| key.as_slice()), text.as_str(), signed(now_ms)),
            )?;
            Ok(true)
        })
    }

    /// Forgets a library with all that belongs to it; whether there was one.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn forget(&self, library: LibraryId) -> Result<bool, RegistryError> {
        let id = library.to_string();
        self.with("write", |db| Ok(db.execute("DELETE FROM libraries WHERE id = ?1", [id])? > 0))
    }

    /// The number of the next ticket of a library; never the same twice.
    ///
    /// # Errors
    /// What SQLite says, also when there is no such library.
    pub fn next_serial(&self, library: LibraryId) -> Result<u64, RegistryError> {
        let sql =
            "UPDATE libraries SET next_serial = next_serial + 1 WHERE id = ?1 RETURNING next_serial - 1";
        self.with("write", |db| db.query_row(sql, [library.to_string()], |row| row.get(0)).map(unsigned))
    }

    /// Takes note of a ticket before it is handed out.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn issued(&self, ticket: &Ticket, now_ms: u64) -> Result<(), RegistryError> {
        let claims = ticket.claims();
        let subject = match claims.subject {
            Subject::Bearer => None,
            Subject::Endpoint(id) => Some(id.to_string()),
        };
        self.with("write", |db| {
            db.execute(
                "INSERT INTO issued (library, serial, access, subject, issued_ms, expires_ms, uses)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                (
                    claims.library.to_string(),
                    signed(claims.serial),
                    claims.access.as_str(),
                    subject,
                    signed(now_ms),
                    claims.expires_ms.map(signed),
                    claims.uses,
                ),
            )?;
            Ok(())
        })
    }

    /// The tickets that were issued for a library, the newest first, at most 1,000.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn tickets(&self, library: LibraryId) -> Result<Vec<Issued>, RegistryError> {
        self.with("read", |db| {
            db.prepare(
                "SELECT serial, access, subject, issued_ms, expires_ms, uses,
                        (SELECT COUNT(*) FROM used u WHERE u.library = i.library AND u.serial = i.serial)
                 FROM issued i WHERE library = ?1 ORDER BY serial DESC LIMIT 1000",
            )?
            .query_map([library.to_string()], |row| {
                Ok(Issued {
                    serial: unsigned(row.get(0)?),
                    access: access(&row.get::<_, String>(1)?),
                    subject: row.get(2)?,
                    issued_ms: unsigned(row.get(3)?),
                    expires_ms: row.get::<_, Option<i64>>(4)?.map(unsigned),
                    uses: row.get(5)?,
                    used: row.get(6)?,
                })
            })?
            .collect()
        })
    }

    /// Counts one endpoint's use of a ticket that `uses` endpoints may use. An endpoint counts once, however often it
    /// comes. Whether it may: of two that race for the last use, one may not.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn redeem(
        &self,
        library: LibraryId,
        serial: u64,
        uses: u32,
        id: EndpointId,
    ) -> Result<bool, RegistryError> {
        let (library, serial, id) = (library.to_string(), signed(serial), id.to_string());
        self.with("write", |db| {
            let count = "SELECT COUNT(*) FROM used WHERE library = ?1 AND serial = ?2 AND endpoint_id <> ?3";
            let others: u32 = db.query_row(count, (&library, serial, &id), |row| row.get(0))?;
            if others >= uses {
                return Ok(false);
            }
            let add = "INSERT OR IGNORE INTO used (library, serial, endpoint_id) VALUES (?1, ?2, ?3)";
            db.execute(add, (&library, serial, &id))?;
            Ok(true)
        })
    }

    /// Keeps a list of revocations, unless a newer one is kept: lists that came from several members at once may be
    /// written in any order.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn set_revocations(&self, library: LibraryId, list: &SignedRevocations) -> Result<(), RegistryError> {
        let id = library.to_string();
        self.with("write", |db| {
            let sql = "SELECT revocations FROM libraries WHERE id = ?1";
            let kept: Option<Option<Vec<u8>>> = db.query_row(sql, [&id], |row| row.get(0)).optional()?;
            let kept = kept.flatten().and_then(|kept| SignedRevocations::decode(library, &kept).ok());
            if kept.is_some_and(|kept| kept.list.version >= list.list.version) {
                return Ok(());
            }
            db.execute("UPDATE libraries SET revocations = ?2 WHERE id = ?1", (&id, list.encode())).map(drop)
        })
    }

    /// Takes note of a member that is in sync.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn remember(&self, library: LibraryId, member: &Member) -> Result<(), RegistryError> {
        let library = library.to_string();
        self.with("write", |db| {
            let there = "SELECT 1 FROM libraries WHERE id = ?1";
            if db.query_row(there, [&library], |_| Ok(())).optional()?.is_none() {
                return Ok(());
            }
            db.execute(
                "INSERT OR REPLACE INTO members (library, endpoint_id, name, access, serial, last_synced_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                (
                    &library,
                    &member.endpoint_id,
                    &member.name,
                    member.access.as_str(),
                    signed(member.serial),
                    signed(member.last_synced_ms),
                ),
            )?;
            db.execute(
                "DELETE FROM members WHERE library = ?1 AND endpoint_id IN (SELECT endpoint_id FROM members
                 WHERE library = ?1 ORDER BY last_synced_ms DESC LIMIT -1 OFFSET ?2)",
                (&library, MEMBERS_MAX),
            )?;
            Ok(())
        })
    }

    /// The members of a library, the last seen first.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn members(&self, library: LibraryId) -> Result<Vec<Member>, RegistryError> {
        self.with("read", |db| {
            db.prepare(
                "SELECT endpoint_id, name, access, serial, last_synced_ms FROM members
                 WHERE library = ?1 ORDER BY last_synced_ms DESC",
            )?
            .query_map([library.to_string()], |row| {
                Ok(Member {
                    endpoint_id: row.get(0)?,
                    name: row.get(1)?,
                    access: access(&row.get::<_, String>(2)?),
                    serial: unsigned(row.get(3)?),
                    last_synced_ms: unsigned(row.get(4)?),
                })
            })?
            .collect()
        })
    }

    /// Takes note that these came through a library, each with whether it was in our store before.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn receive(&self, library: LibraryId, hashes: &[(ContentHash, bool)]) -> Result<(), RegistryError> {
        let library = library.to_string();
        self.with("write", |db| {
            let there = "SELECT 1 FROM libraries WHERE id = ?1";
            if db.query_row(there, [&library], |_| Ok(())).optional()?.is_none() {
                return Ok(());
            }
            let mut add =
                db.prepare("INSERT OR IGNORE INTO received (library, hash, had) VALUES (?1, ?2, ?3)")?;
            for (hash, had) in hashes {
                add.execute((&library, hash.0.as_slice(), had))?;
            }
            Ok(())
        })
    }

    /// What came through a library, with whether it was in our store before.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn received(&self, library: LibraryId) -> Result<HashMap<ContentHash, bool>, RegistryError> {
        self.with("read", |db| {
            db.prepare("SELECT hash, had FROM received WHERE library = ?1")?
                .query_map([library.to_string()], |row| Ok((ContentHash(row.get(0)?), row.get(1)?)))?
                .collect()
        })
    }

    /// Decides about an endpoint, or has it wait.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn set_device(&self, device: &Device) -> Result<(), RegistryError> {
        self.with("write", |db| {
            // Asking again neither undoes a decision nor grows the list.
            let keep = if device.standing == Standing::Waiting { "WHERE standing = 'waiting'" } else { "" };
            db.execute(
                &format!(
                    "INSERT INTO devices (endpoint_id, name, standing, at_ms) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (endpoint_id) DO UPDATE SET standing = excluded.standing, at_ms = excluded.at_ms,
                     name = CASE excluded.name WHEN '' THEN name ELSE excluded.name END {keep}"
                ),
                (&device.endpoint_id, &device.name, device.standing.as_str(), signed(device.at_ms)),
            )?;
            db.execute(
                "DELETE FROM devices WHERE standing = 'waiting' AND endpoint_id IN (SELECT endpoint_id FROM devices
                 WHERE standing = 'waiting' ORDER BY at_ms DESC LIMIT -1 OFFSET ?1)",
                [WAITING_MAX],
            )?;
            Ok(())
        })
    }

    /// Every endpoint that somebody decided about, or has to.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn devices(&self) -> Result<Vec<Device>, RegistryError> {
        self.with("read", |db| {
            db.prepare("SELECT endpoint_id, name, standing, at_ms FROM devices ORDER BY at_ms DESC")?
                .query_map([], |row| {
                    Ok(Device {
                        endpoint_id: row.get(0)?,
                        name: row.get(1)?,
                        standing: Standing::parse(&row.get::<_, String>(2)?),
                        at_ms: unsigned(row.get(3)?),
                    })
                })?
                .collect()
        })
    }
}

/// The file is made before SQLite sees it, so that nobody else can read it at any time; what SQLite puts beside it has
/// the same permissions.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::File::options();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    drop(file);
    Ok(())
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;
    use crate::library::filter::Filter;
    use crate::library::revocation::Revocations;
    use crate::library::ticket::Terms;

    fn endpoint(n: u8) -> EndpointId {
        SecretKey::from_bytes(&[n; 32]).public()
    }

    fn ticket(key: &SigningKey, serial: u64) -> Ticket {
        let terms = Terms {
            name: "pictures".into(),
            access: Access::Write,
            subject: Subject::Bearer,
            not_before_ms: 0,
            expires_ms: Some(99),
            uses: 2,
            serial,
            epoch: 0,
            held: (0, 0),
        };
        Ticket::issue(key, terms, Zeroizing::new([5; 32]), Filter::default(), Vec::new()).unwrap()
    }

    fn registry() -> (tempfile::TempDir, Registry, SigningKey, LibraryId) {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(&dir.path().join("libraries.db")).unwrap();
        let key = SigningKey::from_bytes(&[1; 32]);
        assert!(registry.keep(Some(&key), &ticket(&key, 0), 5).unwrap());
        let id = LibraryId(key.verifying_key().to_bytes());
        (dir, registry, key, id)
    }

    #[test]
    fn everything_survives_a_restart_and_goes_with_its_library() {
        let (dir, registry, key, id) = registry();
        assert_eq!((registry.next_serial(id).unwrap(), registry.next_serial(id).unwrap()), (1, 2));
        registry.issued(&ticket(&key, 1), 6).unwrap();
        registry.receive(id, &[(ContentHash([3; 32]), true), (ContentHash([4; 32]), false)]).unwrap();
        registry.receive(id, &[(ContentHash([3; 32]), false)]).unwrap();
        let list = |version| {
            let list = Revocations { version, serials: [version].into(), ..Revocations::default() };
            SignedRevocations::sign(&key, list)
        };
        registry.set_revocations(id, &list(2)).unwrap();
        registry.set_revocations(id, &list(1)).unwrap();
        let member = Member {
            endpoint_id: endpoint(2).to_string(),
            name: "two".into(),
            access: Access::Read,
            serial: 1,
            last_synced_ms: 8,
        };
        registry.remember(id, &member).unwrap();
        drop(registry);
        let registry = Registry::open(&dir.path().join("libraries.db")).unwrap();
        let kept = registry.libraries().unwrap().pop().unwrap();
        assert_eq!(kept.key.unwrap().to_bytes(), key.to_bytes());
        assert_eq!((kept.ticket, kept.created_ms), (ticket(&key, 0), 5));
        assert_eq!(kept.revocations.unwrap(), list(2).encode(), "the newer one, whatever the order");
        assert_eq!(registry.next_serial(id).unwrap(), 3);
        assert_eq!(registry.tickets(id).unwrap()[0].expires_ms, Some(99));
        assert_eq!(registry.members(id).unwrap(), std::slice::from_ref(&member));
        let received = [(ContentHash([3; 32]), true), (ContentHash([4; 32]), false)];
        assert_eq!(registry.received(id).unwrap(), received.into());

        assert!(registry.forget(id).unwrap() && !registry.forget(id).unwrap());
        assert!(registry.next_serial(id).is_err());
        assert!(registry.tickets(id).unwrap().is_empty() && registry.received(id).unwrap().is_empty());
        // News that was under way when the library went leaves nothing behind.
        registry.remember(id, &member).unwrap();
        registry.receive(id, &[(ContentHash([3; 32]), false)]).unwrap();
        assert!(registry.members(id).unwrap().is_empty() && registry.received(id).unwrap().is_empty());
    }

    #[test]
    fn of_many_that_race_for_the_uses_as_many_as_there_are_win() {
        let (_dir, registry, _, id) = registry();
        let won = std::thread::scope(|scope| {
            let attempt = |n| {
                let registry = registry.clone();
                scope.spawn(move || registry.redeem(id, 1, 2, endpoint(n)).unwrap())
            };
            let racing: Vec<_> = (1..9).map(attempt).collect();
            racing.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(won.iter().filter(|won| **won).count(), 2);
        for (n, won) in (1..9).zip(won) {
            assert_eq!(registry.redeem(id, 1, 2, endpoint(n)).unwrap(), won, "the same again");
        }
        registry.issued(&ticket(&SigningKey::from_bytes(&[1; 32]), 1), 6).unwrap();
        assert_eq!(registry.tickets(id).unwrap()[0].used, 2);
    }

    #[test]
    fn the_file_is_its_owners_alone_and_room_is_limited() {
        use std::os::unix::fs::PermissionsExt as _;
        let (dir, registry, _, _) = registry();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{:?}", entry.path());
        }
        let kept = |n: u8| {
            let key = SigningKey::from_bytes(&[n; 32]);
            registry.keep(None, &ticket(&key, 0), 5).unwrap()
        };
        assert!((2..=63).all(kept));
        assert!(!kept(64), "no room");
        assert!(kept(63), "a newer ticket of one that is there");
    }

    #[test]
    fn asking_again_does_not_undo_a_decision() {
        let (_dir, registry, _, _) = registry();
        let set = |n, standing, name: &str| {
            let endpoint_id = endpoint(n).to_string();
            registry.set_device(&Device { endpoint_id, name: name.into(), standing, at_ms: 1 }).unwrap();
        };
        let standing = || registry.devices().unwrap().pop().map(|d| (d.standing, d.name));
        set(1, Standing::Waiting, "desk");
        assert_eq!(standing(), Some((Standing::Waiting, "desk".into())));
        set(1, Standing::Denied, "");
        set(1, Standing::Waiting, "other");
        assert_eq!(standing(), Some((Standing::Denied, "desk".into())));
        set(1, Standing::Approved, "");
        assert_eq!(standing(), Some((Standing::Approved, "desk".into())));
    }
}
