//! Folders that came by a ticket. Such a folder takes entries through its library alone, and what it has is nothing for the rest of the
//! store: it keeps no content, and brings none back.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::super::EmbeddedStore;
use crate::entry::FolderId;
use crate::record::LibraryId;
use crate::store::StoreResult;
use crate::store::entries::FolderClaim;

/// Rows that are dropped in one transaction.
const DROPPED_AT_ONCE: i64 = 5_000;

/// A condition on a row of `entries`: it is of a folder that did not come by a ticket.
macro_rules! is_own {
    () => {
        "NOT EXISTS (SELECT 1 FROM foreign_folders WHERE foreign_folders.folder = entries.folder)"
    };
}
pub(super) use is_own;

/// The names of the first rows `?2` of a folder `?1`.
macro_rules! some_of {
    () => {
        "(SELECT hash FROM entries WHERE folder = ?1 ORDER BY path LIMIT ?2)"
    };
}

pub(in super::super) fn library_of(
    conn: &Connection,
    FolderId(folder): FolderId,
) -> rusqlite::Result<Option<LibraryId>> {
    conn.prepare_cached("SELECT library FROM foreign_folders WHERE folder = ?1")?
        .query_row([folder], |row| row.get(0).map(LibraryId))
        .optional()
}

impl EmbeddedStore {
    pub(in super::super) async fn list_foreign_folders(&self) -> StoreResult<Vec<(FolderId, LibraryId)>> {
        let read = |conn: &Connection| {
            conn.prepare_cached("SELECT folder, library FROM foreign_folders")?
                .query_map([], |row| Ok((FolderId(row.get(0)?), LibraryId(row.get(1)?))))?
                .collect()
        };
        self.0.shared.readers.run("read which folders came by a ticket", read).await
    }

    pub(in super::super) async fn claim(
        &self,
        folder: FolderId,
        library: LibraryId,
    ) -> StoreResult<FolderClaim> {
        self.submit_growing(0, move |tx| {
            if let Some(known) = library_of(tx.conn, folder)? {
                let is_same = known == library;
                return Ok(Ok(if is_same { FolderClaim::Claimed } else { FolderClaim::Elsewhere(known) }));
            }
            let mut any = tx.conn.prepare_cached("SELECT 1 FROM entries WHERE folder = ?1 LIMIT 1")?;
            if any.exists([folder.0])? {
                return Ok(Ok(FolderClaim::Here));
            }
            tx.conn
                .prepare_cached("INSERT INTO foreign_folders (folder, library) VALUES (?1, ?2)")?
                .execute([folder.0, library.0])?;
            Ok(Ok(FolderClaim::Claimed))
        })
        .await
    }

    /// The mark goes last: until then nothing of it is this network's.
    pub(in super::super) async fn drop_foreign(&self, folder: FolderId, library: LibraryId) -> StoreResult {
        loop {
            let dropped = self.submit_deletion(move |tx| {
                if library_of(tx.conn, folder)? != Some(library) {
                    return Ok(Ok(0));
                }
                let delete =
                    |sql: &str| tx.conn.prepare_cached(sql)?.execute(params![folder.0, DROPPED_AT_ONCE]);
                delete(concat!("DELETE FROM entry_history WHERE hash IN ", some_of!()))?;
                let dropped = delete(concat!("DELETE FROM entries WHERE hash IN ", some_of!()))?;
                if dropped == 0 {
                    for table in ["entry_counts", "foreign_folders"] {
                        let sql = format!("DELETE FROM {table} WHERE folder = ?1");
                        tx.conn.prepare_cached(&sql)?.execute([folder.0])?;
                    }
                }
                Ok(Ok(dropped))
            });
            if dropped.await? == 0 {
                return Ok(());
            }
        }
    }
}
