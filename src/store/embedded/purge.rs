//! Forgetting: content of assets deleted 30 days ago, and tombstones of 180 days.
//!
//! One look at the clock removes nothing, since the clock may be wrong just then: what is old enough goes if it was old
//! enough at the look before, too, and the store was open for a day between the two, however many restarts that took. A
//! tombstone that is forgotten too early lets what was deleted come back, so another machine of the user's has to agree
//! with the clock, if there ever was one.

use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior, params};

use super::entries::TRASH_IN_FOLDER;
use super::failure::Abort;
use super::layout::Layout;
use super::rows::{self, ContentPlace};
use super::tx::Totals;
use super::{schema, sums};
use crate::clock::Clock;
use crate::record::ContentHash;
use crate::store::TOMBSTONES_KEPT_MS;

/// How long the content of a deleted asset can be had back.
pub const TRASH_KEPT_MS: u64 = 30 * 24 * 3600 * 1000;
/// How long the store is open between two looks.
const LOOKS_APART_MS: u64 = 24 * 3600 * 1000;
/// Entries per transaction, so that changes do not wait long behind a purge.
const BATCH: u32 = 512;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Purged {
    pub contents: u64,
    pub tombstones: u64,
}

/// When somebody looks, and how long the store has been open until then.
#[derive(Debug)]
pub(super) struct Purging {
    clock: Clock,
    /// Added up by earlier runs.
    earlier_ms: u64,
    /// When the store was opened, by the clock's uptime.
    opened_at: Duration,
    looked_at: Duration,
}

/// What time it was, and how long the store had been open.
#[derive(Clone, Copy)]
struct PurgeLook {
    now_ms: u64,
    uptime_ms: u64,
}

impl Purging {
    /// For a store that is being opened.
    pub(super) fn new(conn: &Connection, clock: Clock) -> rusqlite::Result<Self> {
        let earlier_ms = conn.query_row("SELECT uptime_ms FROM state", [], |row| rows::unsigned(row, 0))?;
        let opened_at = clock.uptime();
        Ok(Self { clock, earlier_ms, opened_at, looked_at: opened_at })
    }

    pub(super) fn since_last_look(&self) -> Duration {
        self.clock.uptime().saturating_sub(self.looked_at)
    }

    fn uptime_ms(&self) -> u64 {
        let this_run = self.clock.uptime().saturating_sub(self.opened_at).as_millis();
        self.earlier_ms.saturating_add(u64::try_from(this_run).unwrap_or(u64::MAX))
    }

    /// Writes down how long the store has been open.
    pub(super) fn keep_uptime(&self, conn: &Connection) -> rusqlite::Result<()> {
        conn.prepare_cached("UPDATE state SET uptime_ms = ?1")?
            .execute([self.uptime_ms().cast_signed()])
            .map(drop)
    }

    /// Removes what is old enough now, and was at the look before.
    pub(super) fn look(
        &mut self,
        conn: &mut Connection,
        layout: &Layout,
        totals: &mut Totals,
    ) -> Result<Purged, Abort> {
        self.looked_at = self.clock.uptime();
        // Where the two differ, the earlier one removes less.
        let now_ms = self.clock.reading().earlier_ms();
        let now = PurgeLook { now_ms, uptime_ms: self.uptime_ms() };
        self.keep_uptime(conn)?;
        let Some(before) = last_look(conn)? else {
            keep_look(conn, now)?;
            return Ok(Purged::default());
        };
        if now.uptime_ms.saturating_sub(before.uptime_ms) < LOOKS_APART_MS {
            return Ok(Purged::default());
        }
        let until_ms = before.now_ms.min(now.now_ms);
        let contents = purge_trash(conn, layout, until_ms.saturating_sub(TRASH_KEPT_MS))?;
        let tombstones = if self.clock.is_vouched_for() {
            purge_tombstones(conn, totals, until_ms.saturating_sub(TOMBSTONES_KEPT_MS))?
        } else {
            0
        };
        keep_look(conn, now)?;
        if contents + tombstones > 0 {
            tracing::info!(contents, tombstones, "purged what was deleted long ago");
        }
        Ok(Purged { contents, tombstones })
    }
}

fn last_look(conn: &Connection) -> rusqlite::Result<Option<PurgeLook>> {
    conn.prepare_cached("SELECT look_ms, look_uptime_ms FROM state")?.query_row([], |row| {
        let (now_ms, uptime_ms): (Option<i64>, Option<i64>) = (row.get(0)?, row.get(1)?);
        let look = |(now_ms, uptime_ms): (i64, i64)| PurgeLook {
            now_ms: now_ms.cast_unsigned(),
            uptime_ms: uptime_ms.cast_unsigned(),
        };
        Ok(now_ms.zip(uptime_ms).map(look))
    })
}

fn keep_look(conn: &Connection, look: PurgeLook) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE state SET look_ms = ?1, look_uptime_ms = ?2")?
        .execute([look.now_ms.cast_signed(), look.uptime_ms.cast_signed()])
        .map(drop)
}

fn purge_trash(conn: &mut Connection, layout: &Layout, until_ms: u64) -> Result<u64, Abort> {
    let probe = schema::open_for_reading(&layout.database())?;
    let mut removed = 0;
    loop {
        let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let batch: Vec<(ContentHash, ContentPlace)> = transaction
            .prepare_cached(
                // What has no record was deleted by nobody: the database lost it. What folders have is to come back; what a user let go
                // of is not, whatever has it.
                &format!(
                    "SELECT hash, content FROM trash WHERE trashed_at_ms < ?1 \
                     AND EXISTS (SELECT 1 FROM records WHERE records.hash = trash.hash \
                     AND (deleted = 0 OR NOT {TRASH_IN_FOLDER})) LIMIT ?2"
                ),
            )?
            .query_map(params![until_ms.cast_signed(), BATCH], |row| {
                Ok((ContentHash(row.get(0)?), ContentPlace::from_column(row.get(1)?)))
            })?
            .collect::<Result<_, _>>()?;
        for (hash, place) in &batch {
            match place {
                // Before the entry is forgotten: a crash in between leaves an entry without a file, and that is
                // noticed when it is used; a file without an entry would stay for ever.
                ContentPlace::File => {
                    let find = rows::find(&transaction, *hash)?;
                    if find.is_some_and(|stored| stored.place == Some(ContentPlace::File)) {
                        // It came again, and the entry should not be there.
                        tracing::warn!(%hash, "content of a live asset was in the trash");
                    } else {
                        layout.remove_content(*hash).map_err(|source| Abort::Io {
                            action: format!("remove {}", layout.content(*hash).display()),
                            source,
                        })?;
                        sums::forget(&transaction, *hash)?;
                    }
                }
                ContentPlace::Inline(id) => {
                    rows::remove_inline(&transaction, &probe, *id)?;
                }
                // The clean-up deletes it, if nothing refers to it and the bucket is not shared.
                ContentPlace::Object => {
                    super::objects::leave(&transaction, *hash)?;
                    sums::forget(&transaction, *hash)?;
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
            .prepare_cached(
                // Of what is still in the trash, the tombstone says that it was deleted.
                "SELECT seq FROM records WHERE deleted = 1 AND updated_at_ms < ?1 \
                 AND NOT EXISTS (SELECT 1 FROM trash WHERE trash.hash = records.hash) LIMIT ?2",
            )?
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
