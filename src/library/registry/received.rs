//! What came through a library.

use std::collections::HashMap;

use super::libraries::is_kept;
use super::{Registry, RegistryError};
use crate::library::ticket::LibraryId;
use crate::record::ContentHash;

impl Registry {
    /// Takes note that these came through a library, each with whether it was in our store before.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn receive(&self, library: LibraryId, hashes: &[(ContentHash, bool)]) -> Result<(), RegistryError> {
        let library = library.to_string();
        self.with("write", |db| {
            if !is_kept(db, &library)? {
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
}
