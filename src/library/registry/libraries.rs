//! The libraries of this node: keys, tickets, lists of revocations.

use ed25519_dalek::SigningKey;
use rusqlite::{OptionalExtension as _, Row, Transaction};
use zeroize::Zeroizing;

use super::{Registry, RegistryError, signed, unsigned};
#[cfg(test)]
use crate::library::filter::Filter;
use crate::library::private::Private;
use crate::library::revocation::{ListDates, SignedRevocations};
use crate::library::sharing::{FormerSharing, Sharing};
#[cfg(test)]
use crate::library::ticket::Terms;
use crate::library::ticket::{LibraryId, Ticket};

/// Libraries of one node: with the mirror, as many as one connection can prove.
pub const LIBRARIES_MAX: usize = 63;

pub struct Kept {
    /// Its key, if it is ours.
    pub key: Option<SigningKey>,
    pub ticket: Ticket,
    /// When it was created or joined here, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// The newest list of revocations that we know, encoded and signed.
    pub revocations: Option<Vec<u8>>,
    pub sharing: Sharing,
}

#[cfg(test)]
impl Kept {
    /// A member's, of the library whose key `number` stands for.
    pub(crate) fn sample(number: u8, terms: Terms, filter: Filter) -> Self {
        let key = SigningKey::from_bytes(&[number; 32]);
        let ticket = Ticket::issue(&key, terms, Zeroizing::new([number; 32]), filter, Vec::new()).unwrap();
        Self { key: None, ticket, created_ms: 0, revocations: None, sharing: Sharing::default() }
    }
}

impl Registry {
    /// Every library, the oldest first. One whose ticket cannot be read any more is left out, and logged.
    pub fn libraries(&self) -> Result<Vec<Kept>, RegistryError> {
        type Row = (Option<Vec<u8>>, String, i64, Option<Vec<u8>>, Sharing);
        let rows = self.with("read", |db| {
            let order = "SELECT signing_key, ticket, created_ms, revocations, shares_since_ms, agreed_ms,
                         former_since_ms, former_agreed_ms FROM libraries ORDER BY created_ms";
            db.prepare(order)?
                .query_map([], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, sharing(row, 4)?))
                })?
                .collect::<rusqlite::Result<Vec<Row>>>()
        })?;
        let kept = |(key, ticket, created_ms, revocations, sharing): Row| {
            let ticket = Zeroizing::new(ticket);
            let key = key.map(Zeroizing::new);
            let key = key.and_then(|key| Some(SigningKey::from_bytes(key.as_slice().try_into().ok()?)));
            match Ticket::parse(&ticket) {
                Ok(ticket) => {
                    Some(Kept { key, ticket, created_ms: unsigned(created_ms), revocations, sharing })
                }
                Err(error) => {
                    tracing::error!(%error, "a library cannot be read and is left out");
                    None
                }
            }
        };
        Ok(rows.into_iter().filter_map(kept).collect())
    }

    /// Keeps a library that was created or joined here, a new one with its first list of revocations; whether there was room for
    /// it. With a newer ticket of a library that is there already, the ticket is replaced, and which versions of our own
    /// belong. `private`, where it is given, takes the place of what was.
    pub fn keep(
        &self,
        key: Option<&SigningKey>,
        ticket: &Ticket,
        first_list: Option<&SignedRevocations>,
        (sharing, private): (Sharing, Option<&Private>),
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
                "INSERT INTO libraries (id, signing_key, ticket, created_ms, revocations, shares_since_ms, agreed_ms,
                     former_since_ms, former_agreed_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                 ON CONFLICT (id) DO UPDATE SET ticket = excluded.ticket, shares_since_ms = excluded.shares_since_ms,
                     agreed_ms = excluded.agreed_ms, former_since_ms = excluded.former_since_ms,
                     former_agreed_ms = excluded.former_agreed_ms",
                (
                    &id,
                    key.as_ref().map(|key| key.as_slice()),
                    text.as_str(),
                    signed(now_ms),
                    first_list.map(SignedRevocations::encode),
                    signed(sharing.since_ms),
                    signed(sharing.agreed_ms),
                    sharing.former.map(|former| signed(former.since_ms)),
                    sharing.former.map(|former| signed(former.agreed_ms)),
                ),
            )?;
            if let Some(private) = private {
                db.execute("DELETE FROM private WHERE library = ?1", [&id])?;
                let mut add = db.prepare("INSERT INTO private (library, hash, edit) VALUES (?1, ?2, ?3)")?;
                for (hash, edit) in private.all() {
                    add.execute((&id, hash.as_slice(), edit.as_slice()))?;
                }
            }
            Ok(true)
        })
    }

    /// What was here already when a user joined, and is not shared.
    pub fn private(&self, library: LibraryId) -> Result<Private, RegistryError> {
        self.with("read", |db| {
            db.prepare("SELECT hash, edit FROM private WHERE library = ?1")?
                .query_map([library.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
    }

    /// Forgets a library with all that belongs to it; whether there was one.
    pub fn forget(&self, library: LibraryId) -> Result<bool, RegistryError> {
        let id = library.to_string();
        self.with("write", |db| Ok(db.execute("DELETE FROM libraries WHERE id = ?1", [id])? > 0))
    }

    /// Keeps a list of revocations, unless a newer one is kept: lists that came from several members at once may be
    /// written in any order.
    pub fn set_revocations(&self, library: LibraryId, list: &SignedRevocations) -> Result<(), RegistryError> {
        self.with("write", |db| write_revocations(db, library, list))
    }

    /// Keeps the list that `known` names, and what is known of its age: both, or none where a newer list is kept. What is known
    /// is asked for when it is written, so that of several writings under way the last one writes the newest.
    pub fn set_dated_revocations(
        &self,
        library: LibraryId,
        known: impl FnOnce() -> Option<(SignedRevocations, ListDates)>,
    ) -> Result<(), RegistryError> {
        let sql = "UPDATE libraries SET list_received_ms = ?2, list_told_ms = ?3 WHERE id = ?1";
        self.with("write", |db| {
            let Some((list, ListDates { received_ms, told_ms })) = known() else { return Ok(()) };
            if kept_version(db, library)?.is_some_and(|kept| kept > list.list.version) {
                return Ok(());
            }
            write_revocations(db, library, &list)?;
            db.execute(sql, (library.to_string(), signed(received_ms), signed(told_ms))).map(drop)
        })
    }

    /// What [`Registry::set_dated_revocations`] kept.
    pub fn list_dates(&self, library: LibraryId) -> Result<ListDates, RegistryError> {
        let sql = "SELECT list_received_ms, list_told_ms FROM libraries WHERE id = ?1";
        let read = |row: &rusqlite::Row<'_>| {
            Ok(ListDates { received_ms: unsigned(row.get(0)?), told_ms: unsigned(row.get(1)?) })
        };
        let dates = self.with("read", |db| db.query_row(sql, [library.to_string()], read).optional())?;
        Ok(dates.unwrap_or_default())
    }

    /// Keeps a list of revocations of a library that is ours, and our own ticket where it changes with it: both or none.
    pub fn begin_epoch(
        &self,
        library: LibraryId,
        list: &SignedRevocations,
        own: Option<&Ticket>,
    ) -> Result<(), RegistryError> {
        self.with("write", |db| {
            if let Some(ticket) = own {
                let sql = "UPDATE libraries SET ticket = ?2 WHERE id = ?1";
                db.execute(sql, (library.to_string(), ticket.to_text().as_str()))?;
                // No ticket from before holds, also of those that nothing was kept of.
                db.execute(
                    "INSERT OR IGNORE INTO sealing_keys (library, serial, epoch, key)
                     SELECT library, serial, 0, zeroblob(32) FROM issued WHERE library = ?1",
                    [library.to_string()],
                )?;
            }
            write_revocations(db, library, list)
        })
    }
}

/// Reads four columns from this one on.
fn sharing(row: &Row<'_>, column: usize) -> rusqlite::Result<Sharing> {
    let (since, agreed) = (row.get(column)?, row.get(column + 1)?);
    let former: (Option<i64>, Option<i64>) = (row.get(column + 2)?, row.get(column + 3)?);
    let former = former
        .0
        .zip(former.1)
        .map(|(since, agreed)| FormerSharing { since_ms: unsigned(since), agreed_ms: unsigned(agreed) });
    Ok(Sharing { since_ms: unsigned(since), agreed_ms: unsigned(agreed), former })
}

fn write_revocations(
    db: &Transaction<'_>,
    library: LibraryId,
    list: &SignedRevocations,
) -> rusqlite::Result<()> {
    if kept_version(db, library)?.is_some_and(|kept| kept >= list.list.version) {
        return Ok(());
    }
    let sql = "UPDATE libraries SET revocations = ?2 WHERE id = ?1";
    db.execute(sql, (library.to_string(), list.encode())).map(drop)
}

fn kept_version(db: &Transaction<'_>, library: LibraryId) -> rusqlite::Result<Option<u64>> {
    let sql = "SELECT revocations FROM libraries WHERE id = ?1";
    let kept: Option<Option<Vec<u8>>> =
        db.query_row(sql, [library.to_string()], |row| row.get(0)).optional()?;
    let kept = kept.flatten().and_then(|kept| SignedRevocations::decode(library, &kept).ok());
    Ok(kept.map(|kept| kept.list.version))
}

/// Whether there is such a library. News that was under way when it went is not to be written any more.
pub(super) fn is_kept(db: &Transaction<'_>, library: &str) -> rusqlite::Result<bool> {
    let found = db.query_row("SELECT 1 FROM libraries WHERE id = ?1", [library], |_| Ok(())).optional()?;
    Ok(found.is_some())
}
