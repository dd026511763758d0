//! Taking over contents that another store put into the same bucket.
//!
//! No byte of them has to come from a peer. The object is read in full and hashed, and the sums of its groups are kept here, against
//! which ranges are compared later: that it has the right name and length vouches for nothing. Nothing is named before, and nothing is
//! left behind: of a shared bucket nothing is ever deleted.
//!
//! A place that was taken over from a store that is gone is like a shared one in this.
//!
//! This happens where an own device offers a content ([`take_over_object`](EmbeddedStore::take_over_object)), and from time to time for
//! those that were here, were not found any more, and are wanted since, in a place of the store's own, too
//! ([`keep_looking_for_lost`](EmbeddedStore::keep_looking_for_lost)). What never was here is for agents to ask for: the store does not know who is to
//! hold what.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use rusqlite::Connection;

use super::super::tx::{Totals, Verified, VerifiedBytes};
use super::super::{EmbeddedStore, merge, writer};
use super::UploadedContents;
use crate::record::{AssetRecord, ContentHash};
use crate::store::{ContentStore as _, Holding, ItemOutcome, StoreResult};

/// So many times as long as between two looks at the bucket, lost contents are left alone.
const LOST_LOOKS: u32 = 20;
/// Lost contents that are looked for in one go, and how many of them at once.
const LOST_PAGE: i64 = 1000;
const LOST_AT_ONCE: usize = 16;

/// How far a search for lost contents is.
#[derive(Default)]
struct LostSearch {
    after: [u8; 32],
    looked: Option<Instant>,
}

impl LostSearch {
    fn is_due(&self, look: Duration) -> bool {
        self.looked.is_none_or(|looked| looked.elapsed() >= look * LOST_LOOKS)
    }
}

impl EmbeddedStore {
    /// Whether other stores may have put contents where this one has its own, and they can be read now.
    pub(in crate::store::embedded) fn shares_bucket(&self) -> bool {
        self.0.shared.objects.as_ref().is_some_and(|objects| objects.bucket.may_find())
    }

    /// Takes an asset whose content is in the bucket; `None` if it is not there, or not right.
    pub(in crate::store::embedded) async fn take_over_object(
        &self,
        record: AssetRecord,
    ) -> StoreResult<Option<ItemOutcome>> {
        let Some(objects) = &self.0.shared.objects else { return Ok(None) };
        let (hash, size) = (record.hash, record.size);
        if size <= self.inline_bytes_max() || !objects.bucket.may_find_lost() {
            return Ok(None);
        }
        if record.deleted || record.meta.validate().is_err() {
            return Ok(None);
        }
        self.0.shared.check_writable()?;
        let lock = objects.lock(hash).await;
        // It came meanwhile.
        let stored = self.records(vec![hash]).await?.pop();
        if stored.is_some_and(|stored| stored.holding == Holding::Held && stored.record.size == size) {
            let outcome = self.apply(vec![record]).await?.pop();
            return Ok(outcome.filter(|outcome| *outcome != ItemOutcome::NeedsContent));
        }
        let Some(found) = objects.bucket.find(hash, size).await else { return Ok(None) };
        let text = record.meta.text_bytes();
        self.0.shared.space.claim(writer::change_bytes([text].into_iter()))?;
        let _claim = self.claim_sizes(HashMap::from([(hash, size)])).await?;
        let content = Verified { hash, size, blake3: found.blake3, bytes: VerifiedBytes::Object };
        let uploaded = UploadedContents { contents: vec![(hash, found.groups)], _locks: vec![lock] };
        let taken = self.submit_with(Vec::new(), Some(uploaded), text, move |tx| {
            merge::ingest(tx, record, &content).map(Ok)
        });
        taken.await.map(Some)
    }

    /// Looks from time to time whether contents that were not found are in the bucket again. Ends when the store is closed.
    pub(super) async fn keep_looking_for_lost(self) {
        let Some(objects) = &self.0.shared.objects else { return };
        let look = objects.bucket.patience().look;
        let store = Arc::downgrade(&self.0);
        drop(self);
        let mut search = LostSearch::default();
        loop {
            let Some(store) = store.upgrade().map(EmbeddedStore) else { return };
            if store.0.turns.is_closed() {
                return;
            }
            store.look_for_lost(&mut search).await;
            drop(store);
            tokio::time::sleep(look).await;
        }
    }

    async fn look_for_lost(&self, search: &mut LostSearch) {
        // Where many are found, as after a restoration, the others are not left to wait.
        while self.look_for_some(search).await && !self.0.turns.is_closed() {}
    }

    /// Looks for the next ones; whether there are more behind some that were found.
    async fn look_for_some(&self, search: &mut LostSearch) -> bool {
        let Some(objects) = &self.0.shared.objects else { return false };
        if !objects.bucket.may_find_lost() || !search.is_due(objects.bucket.patience().look) {
            return false;
        }
        let after = search.after;
        let min = i64::try_from(self.inline_bytes_max()).unwrap_or(i64::MAX);
        let listed = self.0.shared.readers.run("list lost contents", move |conn| lost(conn, after, min));
        let hashes = match listed.await {
            Ok(hashes) => hashes,
            Err(error) => {
                tracing::debug!(%error, "lost contents are not looked for");
                return false;
            }
        };
        let Some(last) = hashes.last() else {
            // From the start again, later.
            *search = LostSearch { looked: Some(Instant::now()), ..LostSearch::default() };
            return false;
        };
        search.after = last.0;
        let records = match self.records(hashes).await {
            Ok(records) => records,
            Err(error) => {
                tracing::debug!(%error, "lost contents are not looked for");
                return false;
            }
        };
        let looked_for = records.into_iter().filter(|stored| stored.holding == Holding::Wanted);
        let taking = looked_for.map(|stored| async move {
            let hash = stored.record.hash;
            match self.take_over_object(stored.record).await {
                Ok(Some(_)) => {
                    tracing::info!(%hash, "a content that was lost is in the object storage again");
                    true
                }
                Ok(None) => false,
                Err(error) => {
                    tracing::debug!(%hash, %error, "a content is not taken over");
                    false
                }
            }
        });
        let mut taking = futures::stream::iter(taking).buffer_unordered(LOST_AT_ONCE);
        let mut any = false;
        while let Some(is_found) = taking.next().await {
            any |= is_found;
            if self.0.turns.is_closed() {
                return false;
            }
        }
        any
    }
}

/// Larger contents that were here and are wanted, by hash: only of those there is a BLAKE3 that was made here.
fn lost(conn: &Connection, after: [u8; 32], min: i64) -> rusqlite::Result<Vec<ContentHash>> {
    let totals = Totals::read(conn)?;
    if totals.assets == totals.assets_held {
        return Ok(Vec::new());
    }
    conn.prepare_cached(
        "SELECT hash FROM records WHERE hash > ?1 AND content IS NULL AND deleted = 0 AND wanted = 1 AND size > ?2 \
         AND blake3 IS NOT NULL ORDER BY hash LIMIT ?3",
    )?
    .query_map((after, min, LOST_PAGE), |row| row.get(0).map(ContentHash))?
    .collect()
}
