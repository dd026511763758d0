//! What a library has otherwise than the store.

use std::collections::HashMap;

use prost::Message as _;

use super::libraries::is_kept;
use super::{Registry, RegistryError};
use crate::library::Aside;
use crate::library::ticket::LibraryId;
use crate::record::{AssetRecord, ContentHash};
use crate::store::Holding;
use crate::wire::decode::decode;
use crate::wire::proto::WireRecord;

impl Registry {
    /// Writes asides of a library down, as they are now or that they are there no more.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn set_asides(
        &self,
        library: LibraryId,
        asides: &[(ContentHash, Option<Aside>)],
    ) -> Result<(), RegistryError> {
        let library = library.to_string();
        self.with("write", |db| {
            if !is_kept(db, &library)? {
                return Ok(());
            }
            let mut set = db.prepare(
                "INSERT OR REPLACE INTO asides (library, hash, record, holding) VALUES (?1, ?2, ?3, ?4)",
            )?;
            let mut clear = db.prepare("DELETE FROM asides WHERE library = ?1 AND hash = ?2")?;
            for (hash, aside) in asides {
                match aside {
                    Some(Aside { record, holding }) => {
                        let record = WireRecord::from(record).encode_to_vec();
                        set.execute((&library, hash.0.as_slice(), record, to_column(*holding)))?;
                    }
                    None => drop(clear.execute((&library, hash.0.as_slice()))?),
                }
            }
            Ok(())
        })
    }

    /// Asides of a library. What cannot be read is left out: members offer it once more.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn asides(&self, library: LibraryId) -> Result<HashMap<ContentHash, Aside>, RegistryError> {
        let rows: Vec<(Vec<u8>, i64)> = self.with("read", |db| {
            db.prepare("SELECT record, holding FROM asides WHERE library = ?1")?
                .query_map([library.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })?;
        let read = |(record, holding): &(Vec<u8>, i64)| {
            let record = AssetRecord::try_from(decode::<WireRecord>(record.clone().into()).ok()?).ok()?;
            Some((record.hash, Aside { record, holding: from_column(*holding) }))
        };
        Ok(rows.iter().filter_map(read).collect())
    }
}

fn to_column(holding: Holding) -> i64 {
    match holding {
        Holding::Unwanted => 0,
        Holding::Wanted => 1,
        Holding::Held => 2,
    }
}

fn from_column(holding: i64) -> Holding {
    match holding {
        2 => Holding::Held,
        1 => Holding::Wanted,
        _ => Holding::Unwanted,
    }
}
