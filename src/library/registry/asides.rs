//! What a library has otherwise than the store.

use std::collections::HashMap;

use prost::Message as _;
use rusqlite::OptionalExtension as _;

use super::libraries::is_kept;
use super::{Registry, RegistryError, signed, unsigned};
use crate::library::Aside;
use crate::library::ticket::LibraryId;
use crate::record::{AssetRecord, ContentHash};
use crate::store::Holding;
use crate::wire::decode::decode;
use crate::wire::proto::WireRecord;

/// How long the node runs between two looks for what is to be purged.
const LOOKS_APART_MS: u64 = 24 * 3600 * 1000;

impl Registry {
    /// Writes asides of a library down, as they are at `now_ms` or that they are there no more.
    pub fn set_asides(
        &self,
        library: LibraryId,
        asides: &[(ContentHash, Option<Aside>)],
        now_ms: u64,
    ) -> Result<(), RegistryError> {
        let library = library.to_string();
        self.with("write", |db| {
            if !is_kept(db, &library)? {
                return Ok(());
            }
            let mut set = db.prepare(
                "INSERT OR REPLACE INTO asides (library, hash, record, holding, serial, forgotten, noted_ms) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            let mut clear = db.prepare("DELETE FROM asides WHERE library = ?1 AND hash = ?2")?;
            for (hash, aside) in asides {
                match aside {
                    Some(Aside { record, holding, from, is_forgotten }) => {
                        let record = WireRecord::from(record).encode_to_vec();
                        let (holding, from) = (to_column(*holding), from.map(signed));
                        let (hash, noted) = (hash.0.as_slice(), signed(now_ms));
                        set.execute((&library, hash, record, holding, from, is_forgotten, noted))?;
                    }
                    None => drop(clear.execute((&library, hash.0.as_slice()))?),
                }
            }
            Ok(())
        })
    }

    /// Asides of a library. What cannot be read is left out: members offer it once more.
    pub fn asides(&self, library: LibraryId) -> Result<HashMap<ContentHash, Aside>, RegistryError> {
        let rows: Vec<(Vec<u8>, i64, Option<i64>, bool)> = self.with("read", |db| {
            db.prepare("SELECT record, holding, serial, forgotten FROM asides WHERE library = ?1")?
                .query_map([library.to_string()], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                })?
                .collect()
        })?;
        let read = |(record, holding, from, is_forgotten): &(Vec<u8>, i64, Option<i64>, bool)| {
            let record = AssetRecord::try_from(decode::<WireRecord>(record.clone().into()).ok()?).ok()?;
            let (holding, from) = (from_column(*holding), from.map(unsigned));
            Some((record.hash, Aside { record, holding, from, is_forgotten: *is_forgotten }))
        };
        Ok(rows.iter().filter_map(read).collect())
    }

    /// Asides of a library that were written down before this time, and not again since.
    pub fn asides_noted(&self, library: LibraryId, until_ms: u64) -> Result<Vec<ContentHash>, RegistryError> {
        self.with("read", |db| {
            db.prepare("SELECT hash FROM asides WHERE library = ?1 AND noted_ms < ?2")?
                .query_map((library.to_string(), signed(until_ms)), |row| row.get(0).map(ContentHash))?
                .collect()
        })
    }

    /// Somebody looks for what is old enough to be purged, at `now_ms`, after the node has run for `ran_ms` since it was
    /// asked last. What was old enough before the moment that this gives is old enough, by this look and the one
    /// before it, which was long enough ago.
    pub fn look(&self, now_ms: u64, ran_ms: u64) -> Result<Option<u64>, RegistryError> {
        self.with("write", |db| {
            let row: Option<(i64, i64, i64)> = db
                .query_row("SELECT uptime_ms, look_ms, look_uptime_ms FROM looks", [], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })
                .optional()?;
            let (uptime_ms, look_ms, look_uptime_ms) = row.map_or_else(
                || (ran_ms, now_ms, ran_ms),
                |(uptime, look, look_uptime)| {
                    (unsigned(uptime).saturating_add(ran_ms), unsigned(look), unsigned(look_uptime))
                },
            );
            let counts = uptime_ms.saturating_sub(look_uptime_ms) >= LOOKS_APART_MS;
            let look = if counts { (now_ms, uptime_ms) } else { (look_ms, look_uptime_ms) };
            db.execute(
                "INSERT OR REPLACE INTO looks (one, uptime_ms, look_ms, look_uptime_ms) VALUES (1, ?1, ?2, ?3)",
                [signed(uptime_ms), signed(look.0), signed(look.1)],
            )?;
            Ok(counts.then(|| look_ms.min(now_ms)))
        })
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
