//! Cleaning up what uploads and the purge leave in a bucket.

use std::sync::Arc;

use rusqlite::Connection;

use super::super::EmbeddedStore;
use super::super::incoming::blocking;
use super::{ObjectLock, Objects, PendingObject, is_referred_to, pending, settle, waiting};
use crate::record::ContentHash;
use crate::store::StoreResult;
use crate::store::bucket::BucketError;
use crate::store::bucket::deletion::DeletionOutcome;

/// Rows that are cleaned up at once.
const PAGE: i64 = 100;

impl EmbeddedStore {
    /// Aborts uploads that were given up, and deletes objects to which nothing refers.
    pub(super) async fn clean_objects(&self) -> StoreResult {
        let Some(objects) = &self.0.shared.objects else { return Ok(()) };
        let mut after = [0_u8; 32];
        loop {
            let page = move |conn: &Connection| {
                conn.prepare_cached(
                    "SELECT hash FROM pending_objects WHERE hash > ?1 ORDER BY hash LIMIT ?2",
                )?
                .query_map((after, PAGE), |row| row.get(0).map(ContentHash))?
                .collect::<Result<Vec<_>, _>>()
            };
            let page = self.0.shared.readers.run("list objects to clean up", page).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.0;
            for hash in page {
                // The task that has it takes it off the list, or wakes this one.
                let Ok(lock) = objects.turn_of(hash).try_lock_owned() else { continue };
                self.clean_object(objects, hash, lock).await?;
                if !objects.bucket.may_delete() {
                    return Ok(());
                }
            }
        }
    }

    async fn clean_object(&self, objects: &Objects, hash: ContentHash, _lock: ObjectLock) -> StoreResult {
        let bucket = &objects.bucket;
        let read = move |conn: &Connection| {
            let waits = waiting::since_ms(conn, hash)?.is_some();
            let pending = pending(conn, hash)?.filter(|_| !waits);
            Ok((pending, is_referred_to(conn, hash)?, is_missed(conn, hash)?))
        };
        let (pending, is_needed, is_missed) = self.0.shared.readers.run("look at an object", read).await?;
        // What waits to go up makes or replaces the object, and is off this list then.
        let Some(PendingObject { upload }) = pending else { return Ok(()) };
        let is_given_up = upload.is_some();
        let away = |error| match error {
            BucketError::Away(why) | BucketError::Wrong(why) => bucket.away(why),
            BucketError::Missing => bucket.away("it does not find what it has"),
        };
        if let Some(upload) = upload
            && let Err(error) = bucket.abort(hash, upload).await
        {
            // Services say different things of an upload that they do not know; only one that does not answer is asked again.
            bucket.is_there().await.map_err(away)?;
            tracing::debug!(%hash, ?error, "an upload is not aborted: it may be over already");
        }
        if is_missed {
            // Its object may be the only right copy there is. It stays on this list, for when nobody wants it any more.
            if is_given_up {
                self.submit_deletion(move |tx| forget_upload(tx.conn, hash).map(Ok)).await?;
            }
            return Ok(());
        }
        if !is_needed {
            match bucket.delete(hash).await.map_err(away)? {
                DeletionOutcome::Done => {
                    // In a shared directory another store may be writing it at this moment.
                    bucket.remove_staged(hash).await;
                    tracing::debug!(%hash, "deleted an object that nothing refers to");
                }
                DeletionOutcome::Never => {}
                DeletionOutcome::NotNow => return Ok(()),
            }
            let cache = Arc::clone(&objects.cache);
            blocking("remove a content from the cache", move || {
                cache.remove(hash);
                Ok(())
            })
            .await?;
        }
        self.submit_deletion(move |tx| settle(tx.conn, hash).map(Ok)).await
    }
}

/// Whether a content is wanted, and not here.
fn is_missed(conn: &Connection, hash: ContentHash) -> rusqlite::Result<bool> {
    conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM records WHERE hash = ?1 AND content IS NULL AND deleted = 0 AND wanted = 1)",
    )?
    .query_row([hash.0], |row| row.get(0))
}

fn forget_upload(conn: &Connection, hash: ContentHash) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE pending_objects SET upload = NULL WHERE hash = ?1")?.execute([hash.0])?;
    Ok(())
}
