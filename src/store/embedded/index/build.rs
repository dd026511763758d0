//! The index of a database that has none yet, or whose words were damaged: made in the background, some records in each of
//! many transactions of the writer, so that the store is open, and takes changes, meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::{Connection, params};

use super::super::EmbeddedStore;
use super::super::rows::{self, COLUMNS};
use super::super::tx::Tx;
use super::{IndexStage, facets, keys};
use crate::store::{StoreError, StoreResult};

/// Records in one transaction: what a change waits for at most (about 50 ms).
const RECORDS_AT_ONCE: i64 = 500;
/// For changes, between two transactions.
const PAUSE: Duration = Duration::from_millis(5);
/// Until it is tried again where the disk is full, or fails.
const RETRY_AFTER: Duration = Duration::from_mins(1);
/// What lists went by before there was an index.
const FORMER: [&str; 6] = [
    "DROP TABLE IF EXISTS record_tags",
    "DROP INDEX IF EXISTS records_by_creation",
    "DROP INDEX IF EXISTS records_by_mime_type",
    "DROP INDEX IF EXISTS records_by_application",
    "DROP INDEX IF EXISTS records_by_user",
    "DROP INDEX IF EXISTS records_absent",
];

/// How far the building is, for those who ask.
#[derive(Debug)]
pub(in super::super) struct Building {
    /// Records that were looked at.
    done: AtomicU64,
    /// Those that there were when it began; 0 while none is built.
    of: AtomicU64,
}

impl Building {
    /// As the store opens. One without records has its index.
    pub(in super::super) fn begin(conn: &Connection) -> rusqlite::Result<Self> {
        let has_records: bool =
            conn.query_row("SELECT EXISTS (SELECT 1 FROM records)", [], |row| row.get(0))?;
        if !has_records && IndexStage::read(conn)? == IndexStage::Building {
            IndexStage::Built.write(conn)?;
            FORMER.iter().try_for_each(|sql| conn.execute_batch(sql))?;
        }
        let is_built = IndexStage::read(conn)? == IndexStage::Built;
        Ok(Self { done: AtomicU64::new(0), of: AtomicU64::new(u64::from(!is_built)) })
    }

    /// Whether lists go by the index.
    pub(in super::super) fn is_built(&self) -> bool {
        self.of.load(Ordering::Relaxed) == 0
    }

    /// For people; `None` when there is nothing to do.
    pub(in super::super) fn sentence(&self) -> Option<String> {
        let (done, of) = (self.done.load(Ordering::Relaxed), self.of.load(Ordering::Relaxed));
        (of > 0).then(|| {
            format!(
                "the index for searches is being made ({} of {of} records); until then, searches take longer",
                done.min(of)
            )
        })
    }
}

/// Where the next transaction goes on.
struct Step {
    /// Number of the last record that was looked at.
    last: Option<i64>,
}

impl EmbeddedStore {
    /// Makes what is missing of the index.
    pub(in super::super) async fn build_index(self) {
        while !self.0.turns.is_closed() {
            match self.try_build_index().await {
                Ok(()) => break,
                Err(StoreError::ReadOnly(_)) => return,
                Err(error) => {
                    if !self.0.turns.is_closed() {
                        tracing::warn!(%error, "the index for searches is not made yet; trying again in a minute");
                    }
                }
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
        self.0.shared.building.of.store(0, Ordering::Relaxed);
    }

    /// Empties the index of words, and has it made anew.
    pub(in super::super) async fn begin_words_anew(&self) -> StoreResult {
        let empty = |tx: &mut Tx<'_>| {
            if tx.stage == IndexStage::Built {
                super::empty_words(tx.conn)?;
            }
            Ok(Ok(()))
        };
        self.submit_deletion(empty).await?;
        tokio::spawn(self.clone().build_index());
        Ok(())
    }

    async fn try_build_index(&self) -> StoreResult {
        let read = |conn: &Connection| {
            let records = conn.query_row("SELECT count(*) FROM records", [], |row| rows::unsigned(row, 0))?;
            Ok((IndexStage::read(conn)?, records))
        };
        let stage = self.0.shared.readers.run("look at the index", IndexStage::read).await?;
        if stage == IndexStage::Built {
            return Ok(());
        }
        let (stage, records) = self.0.shared.readers.run("look at the index", read).await?;
        let building = &self.0.shared.building;
        building.done.store(0, Ordering::Relaxed);
        building.of.store(records, Ordering::Relaxed);
        tracing::info!(records, "the index for searches is being made");
        let mut after = 0;
        loop {
            let step = self.submit_growing(0, move |tx| add_some(tx, stage, after).map(Ok)).await?;
            let Some(last) = step.last else { break };
            after = last;
            building.done.fetch_add(RECORDS_AT_ONCE.cast_unsigned(), Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
        let built = |tx: &mut Tx<'_>| IndexStage::Built.write(tx.conn).map(Ok);
        self.submit_growing(0, built).await?;
        for sql in FORMER {
            self.submit_growing(0, move |tx| tx.conn.execute_batch(sql).map(Ok)).await?;
        }
        tracing::info!("the index for searches is made");
        Ok(())
    }
}

/// Adds the next records to the index.
fn add_some(tx: &mut Tx<'_>, stage: IndexStage, after: i64) -> rusqlite::Result<Step> {
    let sql = format!("SELECT {COLUMNS} FROM records WHERE seq > ?1 ORDER BY seq LIMIT ?2");
    let rows = tx
        .conn
        .prepare_cached(&sql)?
        .query_map(params![after, RECORDS_AT_ONCE], rows::read_stored)?
        .collect::<Result<Vec<_>, _>>()?;
    let last = rows.last().map(|row| row.asset.seq.cast_signed());
    for row in rows.iter().filter(|row| !row.asset.record.deleted) {
        let record = &row.asset.record;
        match row.list_key {
            // Whatever was written since has it.
            Some(key) if stage == IndexStage::WithoutWords => tx.index.words.replace(key, Some(record)),
            Some(_) => {}
            None => {
                let key = keys::assign(tx.conn, record.meta.created_at_ms)?;
                tx.conn
                    .prepare_cached("UPDATE records SET list_key = ?2 WHERE seq = ?1")?
                    .execute([row.asset.seq.cast_signed(), key])?;
                tx.index.facets.add(tx.conn, key, &facets::of(&row.asset))?;
                tx.index.words.replace(key, Some(record));
            }
        }
    }
    Ok(Step { last })
}
