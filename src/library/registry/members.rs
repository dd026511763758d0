//! Who took part in a library.

use super::libraries::is_kept;
use super::{Registry, RegistryError, access, signed, unsigned};
use crate::library::ticket::{Access, LibraryId};

/// Members of one library that are remembered; the ones not seen for longest go first.
const MEMBERS_MAX: u32 = 4096;

/// An endpoint that took part in a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub endpoint_id: String,
    /// What it calls itself.
    pub name: String,
    pub access: Access,
    /// Of the ticket that it showed.
    pub serial: u64,
    /// When it was last known to hold all that we hold, in milliseconds since the Unix epoch.
    pub last_synced_ms: u64,
}

impl Registry {
    /// Takes note of a member that is in sync.
    pub fn remember(&self, library: LibraryId, member: &Member) -> Result<(), RegistryError> {
        let library = library.to_string();
        self.with("write", |db| {
            if !is_kept(db, &library)? {
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
}
