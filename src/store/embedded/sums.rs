//! Sums of the groups of content in files ([`crate::store::groups`]): kept where they are known, made where they are not.

use std::collections::HashMap;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension as _};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::EmbeddedStore;
use crate::record::ContentHash;
use crate::store::groups::{GROUP_BYTES, GroupSum, group_count};
use crate::store::{StoreError, StoreResult};

/// Sums in one row: those of 64 MiB. A power of two, so that a row is a subtree.
pub(super) const SUMS_PER_ROW: usize = 1024;
/// Contents whose sums are made at the same time: it is the disk that is waited for.
const MAKERS: usize = 2;

pub(super) fn write(conn: &Connection, hash: ContentHash, sums: &[GroupSum]) -> rusqlite::Result<()> {
    for (part, sums) in sums.chunks(SUMS_PER_ROW).enumerate() {
        conn.prepare_cached("INSERT OR REPLACE INTO content_sums (hash, part, sums) VALUES (?1, ?2, ?3)")?
            .execute((hash.0, i64::try_from(part).unwrap_or(i64::MAX), sums.as_flattened()))?;
    }
    Ok(())
}

/// One row of sums; `None` if there is none, or not one of so many sums.
pub(super) fn read(
    conn: &Connection,
    hash: ContentHash,
    part: u64,
    count: usize,
) -> rusqlite::Result<Option<Vec<GroupSum>>> {
    let row: Option<Vec<u8>> = conn
        .prepare_cached("SELECT sums FROM content_sums WHERE hash = ?1 AND part = ?2")?
        .query_row((hash.0, part.cast_signed()), |row| row.get(0))
        .optional()?;
    Ok(row.and_then(|row| {
        let (sums, rest) = row.as_chunks::<32>();
        (rest.is_empty() && sums.len() == count).then(|| sums.to_vec())
    }))
}

/// Whether all rows of sums are there that content of this size has.
pub(super) fn are_known(conn: &Connection, hash: ContentHash, size: u64) -> rusqlite::Result<bool> {
    let rows = rows_of(size);
    let found: i64 = conn
        .prepare_cached("SELECT count(*) FROM content_sums WHERE hash = ?1 AND part < ?2")?
        .query_row((hash.0, rows.cast_signed()), |row| row.get(0))?;
    Ok(found.cast_unsigned() == rows)
}

/// Forgets the sums of a content whose file is gone.
pub(super) fn forget(conn: &Connection, hash: ContentHash) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM content_sums WHERE hash = ?1")?.execute([hash.0]).map(drop)
}

/// How many rows of sums content of this size has: none where one group is all.
pub(super) fn rows_of(size: u64) -> u64 {
    if size <= GROUP_BYTES as u64 { 0 } else { group_count(size).div_ceil(SUMS_PER_ROW as u64) }
}

pub(super) fn sums_in(part: u64, size: u64) -> usize {
    let left = group_count(size).saturating_sub(part * SUMS_PER_ROW as u64);
    usize::try_from(left).unwrap_or(SUMS_PER_ROW).min(SUMS_PER_ROW)
}

type Making = Shared<BoxFuture<'static, StoreResult>>;

/// Contents whose sums are being made, each by one task for all who wait for them.
#[derive(Debug)]
pub(super) struct SumMakers {
    running: Mutex<HashMap<ContentHash, Making>>,
    turns: Semaphore,
}

impl Default for SumMakers {
    fn default() -> Self {
        Self { running: Mutex::default(), turns: Semaphore::new(MAKERS) }
    }
}

impl SumMakers {
    /// Waits until so few contents are read in full that one more does no harm. It is never closed; if it were, nobody would wait.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }
}

impl EmbeddedStore {
    /// Reads a content that came before sums were kept, checks it, and keeps its sums. It goes on when the caller gives up
    /// waiting, so that the next request finds it further on.
    pub(super) async fn make_sums(&self, hash: ContentHash) -> StoreResult {
        let making = {
            let mut running = self.0.shared.sums.running.lock();
            running.entry(hash).or_insert_with(|| self.spawn_making(hash)).clone()
        };
        making.await
    }

    fn spawn_making(&self, hash: ContentHash) -> Making {
        let store = self.clone();
        let task = tokio::spawn(async move {
            let made = async {
                let _turn = store.0.shared.sums.turn().await;
                // It reads and hashes all of it, and keeps the sums if it is right.
                if store.examine(hash).await? { Ok(()) } else { Err(StoreError::Corrupt(hash)) }
            };
            let made = made.await;
            store.0.shared.sums.running.lock().remove(&hash);
            made
        });
        async move {
            task.await
                .unwrap_or_else(|error| Err(StoreError::io(format!("check the content of {hash}"), error)))
        }
        .boxed()
        .shared()
    }

    /// Writes down sums. Without them, only, it takes longer next time.
    pub(super) async fn keep_sums(&self, hash: ContentHash, sums: Vec<GroupSum>) -> StoreResult {
        let kept = self.submit(Vec::new(), sums.len() * 32, move |tx| {
            write(tx.conn, hash, &sums)?;
            Ok(Ok(()))
        });
        match kept.await {
            Err(error @ (StoreError::Full(_) | StoreError::ReadOnly(_))) => {
                tracing::debug!(%hash, %error, "the sums of a content are not kept");
                Ok(())
            }
            kept => kept,
        }
    }
}
