//! Contents of forgotten libraries that stayed because they were promised to other machines.

use rusqlite::params;

use super::{Registry, RegistryError};
use crate::library::ticket::LibraryId;
use crate::record::ContentHash;
use crate::store::promises::PROMISES_MAX;

pub(super) const SCHEMA: &str = "CREATE TABLE left_contents (
    hash BLOB PRIMARY KEY,
    library BLOB NOT NULL
) STRICT, WITHOUT ROWID;";

/// A content that is to go once it is promised to nobody any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftContent {
    pub hash: ContentHash,
    /// Through which it came.
    pub library: LibraryId,
}

impl Registry {
    /// Adds some. A store gives no more promises than there may be of these.
    pub fn keep_left(&self, left: &[LeftContent]) -> Result<(), RegistryError> {
        self.with("write", |db| {
            let known: i64 = db.query_row("SELECT count(*) FROM left_contents", [], |row| row.get(0))?;
            let room = PROMISES_MAX.saturating_sub(usize::try_from(known).unwrap_or(usize::MAX));
            let mut insert =
                db.prepare("INSERT OR REPLACE INTO left_contents (hash, library) VALUES (?1, ?2)")?;
            left.iter()
                .take(room)
                .try_for_each(|left| insert.execute((left.hash.0, left.library.as_bytes())).map(drop))
        })
    }

    /// At most `limit` of them behind that one, in the order of their hashes.
    pub fn left(&self, after: Option<ContentHash>, limit: usize) -> Result<Vec<LeftContent>, RegistryError> {
        self.with("read", |db| {
            let after = after.map(|hash| hash.0.to_vec()).unwrap_or_default();
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            db.prepare("SELECT hash, library FROM left_contents WHERE hash > ?1 ORDER BY hash LIMIT ?2")?
                .query_map(params![after, limit], |row| {
                    let library: [u8; 32] = row.get(1)?;
                    Ok(LeftContent { hash: ContentHash(row.get(0)?), library: LibraryId(library) })
                })?
                .collect()
        })
    }

    /// These went, or stay for good.
    pub fn drop_left(&self, hashes: &[ContentHash]) -> Result<(), RegistryError> {
        self.with("write", |db| {
            let mut delete = db.prepare("DELETE FROM left_contents WHERE hash = ?1")?;
            hashes.iter().try_for_each(|hash| delete.execute([hash.0]).map(drop))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("libraries.db");
        let left = |n: u8| LeftContent { hash: ContentHash([n; 32]), library: LibraryId([9; 32]) };
        let registry = Registry::open(&path).unwrap();
        registry.keep_left(&[left(2), left(1), left(3)]).unwrap();
        registry.keep_left(&[left(2)]).unwrap();
        drop(registry);
        let registry = Registry::open(&path).unwrap();
        assert_eq!(registry.left(None, 2).unwrap(), [left(1), left(2)]);
        assert_eq!(registry.left(Some(left(2).hash), 2).unwrap(), [left(3)]);
        registry.drop_left(&[left(1).hash, left(3).hash]).unwrap();
        assert_eq!(registry.left(None, 9).unwrap(), [left(2)]);
    }
}
