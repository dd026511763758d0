//! Folders that came by ticket, with the libraries by which they did. They stay noted when the library is forgotten: what such a
//! folder has in the store goes to no other machine, and nothing is written into it.

use std::collections::HashMap;

use super::{Registry, RegistryError};
use crate::entry::FolderId;
use crate::library::ticket::LibraryId;

pub(super) const SCHEMA: &str =
    "CREATE TABLE foreign_folders (folder BLOB PRIMARY KEY, library BLOB NOT NULL) STRICT, WITHOUT ROWID;";

impl Registry {
    /// All of them.
    ///
    /// # Errors
    /// The database cannot be read or written.
    pub fn foreign_folders(&self) -> Result<HashMap<FolderId, LibraryId>, RegistryError> {
        self.with("read", |db| {
            db.prepare("SELECT folder, library FROM foreign_folders")?
                .query_map([], |row| Ok((FolderId(row.get(0)?), LibraryId(row.get(1)?))))?
                .collect()
        })
    }

    /// Takes note of one, or that it is none any more.
    ///
    /// # Errors
    /// The database cannot be read or written.
    pub fn set_foreign_folder(
        &self,
        FolderId(folder): FolderId,
        library: Option<LibraryId>,
    ) -> Result<(), RegistryError> {
        self.with("write", |db| {
            match library {
                Some(LibraryId(library)) => {
                    db.execute("INSERT OR REPLACE INTO foreign_folders VALUES (?1, ?2)", (folder, library))?
                }
                None => db.execute("DELETE FROM foreign_folders WHERE folder = ?1", [folder])?,
            };
            Ok(())
        })
    }
}
