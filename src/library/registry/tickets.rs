//! What was issued, and who used it.

use iroh::EndpointId;

use super::{Registry, RegistryError, access, signed, unsigned};
use crate::identity::Key;
use crate::library::ticket::{Access, LibraryId, Subject, Ticket};

pub(super) const SEALING_SCHEMA: &str = "CREATE TABLE sealing_keys (
    library TEXT NOT NULL,
    serial INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    key BLOB NOT NULL,
    PRIMARY KEY (library, serial),
    FOREIGN KEY (library, serial) REFERENCES issued (library, serial) ON DELETE CASCADE
) STRICT;";

/// What seals for the holder of a ticket that has not expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealingKey {
    pub serial: u64,
    /// When it was issued; unknown as the key is.
    pub epoch: Option<u64>,
    /// Nothing for a ticket that was issued before this was kept.
    pub key: Option<Key>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "as the others that are moments")]
pub struct Issued {
    pub serial: u64,
    pub access: Access,
    pub subject: Option<String>,
    /// When, in milliseconds since the Unix epoch.
    pub issued_ms: u64,
    pub expires_ms: Option<u64>,
    /// How many endpoints may use it; 0 for any number.
    pub uses: u32,
    /// How many have; of those with a limit alone.
    pub used: u32,
    pub epoch: u64,
}

impl Registry {
    /// The number of the next ticket of a library; never the same twice.
    pub fn next_serial(&self, library: LibraryId) -> Result<u64, RegistryError> {
        let sql =
            "UPDATE libraries SET next_serial = next_serial + 1 WHERE id = ?1 RETURNING next_serial - 1";
        self.with("write", |db| db.query_row(sql, [library.to_string()], |row| row.get(0)).map(unsigned))
    }

    /// Takes note of a ticket before it is handed out.
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
            let sealing = ticket.sealing_key();
            db.execute(
                "INSERT INTO sealing_keys (library, serial, epoch, key) VALUES (?1, ?2, ?3, ?4)",
                (
                    claims.library.to_string(),
                    signed(claims.serial),
                    signed(claims.epoch),
                    sealing.expose().as_slice(),
                ),
            )?;
            Ok(())
        })
    }

    /// What seals for the holders of the tickets of a library that have not expired at `now_ms`.
    pub fn sealing_keys(&self, library: LibraryId, now_ms: u64) -> Result<Vec<SealingKey>, RegistryError> {
        self.with("read", |db| {
            db.prepare(
                "SELECT i.serial, s.epoch, s.key FROM issued i
                 LEFT JOIN sealing_keys s ON s.library = i.library AND s.serial = i.serial
                 WHERE i.library = ?1 AND (i.expires_ms IS NULL OR i.expires_ms > ?2)",
            )?
            .query_map((library.to_string(), signed(now_ms)), |row| {
                Ok(SealingKey {
                    serial: unsigned(row.get(0)?),
                    epoch: row.get::<_, Option<i64>>(1)?.map(unsigned),
                    key: row.get::<_, Option<[u8; 32]>>(2)?.map(Key::of_bytes),
                })
            })?
            .collect()
        })
    }

    pub fn has_issued(&self, library: LibraryId, serial: u64) -> Result<bool, RegistryError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM issued WHERE library = ?1 AND serial = ?2)";
        self.with("read", |db| db.query_row(sql, (library.to_string(), signed(serial)), |row| row.get(0)))
    }

    /// The tickets that were issued for a library, the newest first, at most 1,000.
    pub fn tickets(&self, library: LibraryId) -> Result<Vec<Issued>, RegistryError> {
        self.with("read", |db| {
            db.prepare(
                "SELECT serial, access, subject, issued_ms, expires_ms, uses,
                        (SELECT COUNT(*) FROM used u WHERE u.library = i.library AND u.serial = i.serial),
                        (SELECT epoch FROM sealing_keys s WHERE s.library = i.library AND s.serial = i.serial)
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
                    // Tickets that were issued before there were epochs are of the first one.
                    epoch: row.get::<_, Option<i64>>(7)?.map_or(0, unsigned),
                })
            })?
            .collect()
        })
    }

    /// Counts one endpoint's use of a ticket that `uses` endpoints may use. An endpoint counts once, however often it
    /// comes. Whether it may: of two that race for the last use, one may not.
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
}
