//! Contents that are in files of this disk and are to go up to the bucket: the table `waiting_objects`, in the order in which they came.
//!
//! A content is listed in the transaction that gives it its place in a file, and leaves the list in the one that gives it another: it
//! went up, was deleted or let go of, or was found damaged. What comes back from the trash is listed anew.

use rusqlite::{Connection, OptionalExtension as _};

use super::super::rows;
use super::super::tx::Tx;
use super::Objects;
use crate::record::ContentHash;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WaitingContent {
    pub(super) id: i64,
    pub(super) hash: ContentHash,
    pub(super) size: u64,
}

/// What a transaction does with the list.
#[derive(Clone, Copy, Debug)]
pub(in crate::store::embedded) struct Listing {
    /// Contents that get their place in a file are to go up.
    pub(in crate::store::embedded) is_wanted: bool,
    pub(in crate::store::embedded) has_new: bool,
}

impl Listing {
    pub(in crate::store::embedded) fn of(objects: Option<&Objects>) -> Self {
        Self { is_wanted: objects.is_some_and(|objects| objects.write_back), has_new: false }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct WaitingFigures {
    pub(super) contents: u64,
    pub(super) bytes: u64,
    /// Since when the oldest of them is listed, in milliseconds since the Unix epoch.
    pub(super) since_ms: Option<u64>,
}

/// Lists a live content that is in its file, where such contents are to go up.
pub(in crate::store::embedded) fn list(tx: &mut Tx<'_>, hash: ContentHash) -> rusqlite::Result<()> {
    if !tx.going_up.is_wanted {
        return Ok(());
    }
    let listed = tx
        .conn
        .prepare_cached(
            "INSERT OR IGNORE INTO waiting_objects (hash, size, since_ms) \
             SELECT hash, size, ?2 FROM records WHERE hash = ?1 AND content = 0",
        )?
        .execute((hash.0, tx.now_ms.cast_signed()))?;
    tx.going_up.has_new |= listed > 0;
    Ok(())
}

pub(in crate::store::embedded) fn unlist(conn: &Connection, hash: ContentHash) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM waiting_objects WHERE hash = ?1")?.execute([hash.0]).map(drop)
}

/// Since when a content waits, in milliseconds since the Unix epoch; `None` if it does not.
pub(in crate::store::embedded) fn since_ms(
    conn: &Connection,
    hash: ContentHash,
) -> rusqlite::Result<Option<u64>> {
    conn.prepare_cached("SELECT since_ms FROM waiting_objects WHERE hash = ?1")?
        .query_row([hash.0], |row| rows::unsigned(row, 0))
        .optional()
}

/// Some of those that wait, the oldest first.
pub(super) fn after(conn: &Connection, after: i64, limit: i64) -> rusqlite::Result<Vec<WaitingContent>> {
    conn.prepare_cached("SELECT id, hash, size FROM waiting_objects WHERE id > ?1 ORDER BY id LIMIT ?2")?
        .query_map((after, limit), |row| {
            Ok(WaitingContent {
                id: row.get(0)?,
                hash: ContentHash(row.get(1)?),
                size: rows::unsigned(row, 2)?,
            })
        })?
        .collect()
}

pub(super) fn figures(conn: &Connection) -> rusqlite::Result<WaitingFigures> {
    // The oldest is the first one, whatever the clock showed.
    let read = "SELECT contents, bytes, (SELECT since_ms FROM waiting_objects ORDER BY id LIMIT 1) FROM waiting_totals";
    conn.prepare_cached(read)?.query_row([], |row| {
        Ok(WaitingFigures {
            contents: rows::unsigned(row, 0)?,
            bytes: rows::unsigned(row, 1)?,
            since_ms: row.get::<_, Option<i64>>(2)?.map(i64::cast_unsigned),
        })
    })
}
