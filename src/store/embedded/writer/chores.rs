//! What the writer does besides changes: purging, forgetting, catching up, and bringing the WAL home.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::TransactionBehavior;
use tokio::sync::oneshot;

use super::{StoreWriter, TRANSACTION_BYTES};
use crate::store::embedded::failure::Abort;
use crate::store::embedded::index::words::WordChanges;
use crate::store::embedded::purge::Purged;
use crate::store::embedded::{keeping, quota};
use crate::store::{StoreError, StoreResult};

/// How often somebody looks for what is old enough to be purged. Often, so that a machine that runs for a few hours a
/// day finds another one that agrees with its clock.
const LOOK_INTERVAL: Duration = Duration::from_hours(1);

impl StoreWriter {
    pub(super) fn on_purge(&mut self, reply: oneshot::Sender<StoreResult<Purged>>) {
        let result = match self.shared.read_only() {
            Some(why) => Err(StoreError::ReadOnly(why)),
            None => self
                .purging
                .look(&mut self.conn, &self.layout, &mut self.totals)
                .map_err(|abort| self.on_abort(abort)),
        };
        self.shared.purge_floor.store(self.totals.purge_floor, Ordering::Release);
        self.forget_promises();
        if let Ok(trashed) = quota::trashed_bytes(&self.conn) {
            self.shared.quota.set_used(self.totals.bytes_held, trashed);
        }
        self.clean_objects();
        let _ = reply.send(result);
    }

    fn forget_promises(&mut self) {
        if self.shared.read_only().is_some() {
            return;
        }
        if let Err(error) = keeping::forget_old(&mut self.conn, &self.shared) {
            tracing::debug!(%error, "promises that are over are forgotten later");
        }
    }

    pub(super) fn on_idle(&mut self) {
        self.shared.readers.close_unused();
        if self.has_cached {
            self.has_cached = false;
            // What it keeps of the database in memory, where nothing more comes.
            if let Err(error) = self.conn.execute_batch("PRAGMA shrink_memory") {
                tracing::debug!(%error, "the writer keeps its memory");
            }
        }
        if self.shared.read_only().is_some() {
            return;
        }
        if !self.words.is_empty() {
            self.catch_up_words();
        }
        if self.since_checkpoint > 0 {
            self.checkpoint("PASSIVE");
        }
        if self.has_pending {
            self.clean_pending();
        }
        if keeping::has_old(&self.shared) {
            self.forget_promises();
        }
        self.shared.space.lay_by();
        if self.purging.since_last_look() >= LOOK_INTERVAL {
            self.on_purge(oneshot::channel().0);
        }
    }

    /// Adds the words of the latest records to the index, now that nothing else is to be done.
    fn catch_up_words(&mut self) {
        match self.try_catch_up_words() {
            Ok(()) => self.since_checkpoint += TRANSACTION_BYTES,
            Err(abort) => match abort.or_full(&self.layout.tmp()) {
                abort if abort.is_fatal() => drop(self.on_abort(abort)),
                // Searches compare them, as before.
                abort => tracing::debug!(?abort, "words are not added to the index yet"),
            },
        }
    }

    fn try_catch_up_words(&mut self) -> Result<(), Abort> {
        let transaction = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut totals = self.totals;
        let mut words = WordChanges::new(self.words);
        words.catch_up(&transaction, &mut totals)?;
        let words = words.write(&transaction, &mut totals)?;
        totals.write(&transaction)?;
        transaction.commit()?;
        (self.totals, self.words) = (totals, words);
        Ok(())
    }

    /// Brings the WAL home into the database. Everything is durable before; this only keeps the WAL short.
    pub(super) fn checkpoint(&mut self, mode: &str) {
        if self.shared.read_only().is_some() {
            return;
        }
        self.since_checkpoint = 0;
        self.mark.sync();
        let done = self.conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
        if let Err(error) = done {
            self.on_abort(Abort::Sql(error));
        }
    }
}
