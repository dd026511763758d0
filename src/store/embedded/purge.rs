//! Forgetting: content of assets deleted 30 days ago, and tombstones of 180 days.

use rusqlite::{Connection, TransactionBehavior, params};

use super::failure::Abort;
use super::layout::Layout;
use super::rows::{self, Place};
use super::tx::Totals;
use crate::record::ContentHash;

/// How long the content of a deleted asset can be had back.
const TRASH_KEPT_MS: u64 = 30 * 24 * 3600 * 1000;
/// How long a tombstone is kept: an agent that was away for longer has to read everything again.
const TOMBSTONES_KEPT_MS: u64 = 180 * 24 * 3600 * 1000;
/// Entries per transaction, so that changes do not wait long behind a purge.
const BATCH: u32 = 512;

/// What a purge removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Purged {
    /// Contents of deleted assets.
    pub contents: u64,
    /// Tombstones.
    pub tombstones: u64,
}

/// Removes what is old enough at `now_ms`.
pub(super) fn purge(
    conn: &mut Connection,
    layout: &Layout,
    totals: &mut Totals,
    now_ms: u64,
) -> Result<Purged, Abort> {
    let contents = purge_trash(conn, layout, now_ms.saturating_sub(TRASH_KEPT_MS))?;
    let tombstones = purge_tombstones(conn, totals, now_ms.saturating_sub(TOMBSTONES_KEPT_MS))?;
    if contents + tombstones > 0 {
        tracing::info!(contents, tombstones, "purged what was deleted long ago");
    }
    Ok(Purged { contents, tombstones })
}

fn purge_trash(conn: &mut Connection, layout: &Layout, until_ms: u64) -> Result<u64, Abort> {
    let mut removed = 0;
    loop {
        let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let batch: Vec<(ContentHash, Place)> = transaction
            .prepare_cached("SELECT hash, content FROM trash WHERE trashed_at_ms < ?1 LIMIT ?2")?
            .query_map(params![until_ms.cast_signed(), BATCH], |row| {
                Ok((ContentHash(row.get(0)?), Place::from_column(row.get(1)?)))
            })?
            .collect::<Result<_, _>>()?;
        for (hash, place) in &batch {
            match place {
                // Before the entry is forgotten: a crash in between leaves an entry without a file, and that is
                // noticed when it is used; a file without an entry would stay for ever.
                Place::File => layout.remove_content(*hash).map_err(|source| Abort::Io {
                    action: format!("remove {}", layout.content(*hash).display()),
                    source,
                })?,
                Place::Inline(id) => {
                    transaction.prepare_cached("DELETE FROM contents WHERE id = ?1")?.execute([id])?;
                }
            }
            transaction.prepare_cached("DELETE FROM trash WHERE hash = ?1")?.execute([hash.0])?;
        }
        transaction.commit()?;
        removed += batch.len() as u64;
        if batch.len() < BATCH as usize {
            return Ok(removed);
        }
    }
}

fn purge_tombstones(conn: &mut Connection, totals: &mut Totals, until_ms: u64) -> Result<u64, Abort> {
    let mut removed = 0;
    loop {
        let mut next = *totals;
        let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let batch: Vec<u64> = transaction
            .prepare_cached("SELECT seq FROM records WHERE deleted = 1 AND updated_at_ms < ?1 LIMIT ?2")?
            .query_map(params![until_ms.cast_signed(), BATCH], |row| rows::unsigned(row, 0))?
            .collect::<Result<_, _>>()?;
        for seq in &batch {
            transaction.prepare_cached("DELETE FROM records WHERE seq = ?1")?.execute([seq.cast_signed()])?;
            next.purge_floor = next.purge_floor.max(*seq);
        }
        if next != *totals {
            next.write(&transaction)?;
        }
        transaction.commit()?;
        *totals = next;
        removed += batch.len() as u64;
        if batch.len() < BATCH as usize {
            return Ok(removed);
        }
    }
}
