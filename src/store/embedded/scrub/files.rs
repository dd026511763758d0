//! Files of contents without a record, and records without their file.

use std::time::Instant;

use rusqlite::Connection;

use super::super::incoming::blocking;
use super::super::{aside, loss, tx};
use super::pass::Pass;
use crate::record::ContentHash;
use crate::store::{StoreError, StoreResult};

/// Files that are looked up in the database at once.
const FILES_AT_ONCE: usize = 500;

impl Pass {
    /// Takes files without a record into the trash, which keeps them for as long as they have none; and examines contents whose
    /// files are missing or of another length, before any is read.
    pub(super) async fn check_files(&self) -> StoreResult {
        for first in 0..=u8::MAX {
            if self.throttle.is_stopped() {
                return Ok(());
            }
            let began = Instant::now();
            self.keep_unnamed(first).await?;
            self.breathe(began.elapsed()).await?;
        }
        self.store.look_for_absent().await?;
        self.examine_missing().await
    }

    async fn keep_unnamed(&self, first: u8) -> StoreResult {
        let layout = self.store.0.shared.layout.clone();
        let listed = blocking("list contents", move || {
            layout.content_files_in(first).map_err(|error| {
                StoreError::io(format!("list the contents in {}", layout.contents().display()), error)
            })
        });
        for files in listed.await?.chunks(FILES_AT_ONCE) {
            let files = files.to_vec();
            let read = move |conn: &Connection| without_record(conn, files);
            let unnamed = self.store.0.shared.readers.run("look for contents without a record", read).await?;
            if unnamed.is_empty() {
                continue;
            }
            tracing::warn!(contents = unnamed.len(), "contents lie there without a record: they stay");
            let keep = self.store.submit_deletion(move |tx| {
                // Somebody may have been quicker.
                let mut still = without_record(tx.conn, unnamed.clone())?;
                still.retain(|(hash, size)| tx.layout.has_content(*hash, *size));
                loss::keep_without_record(tx.conn, still, tx.now_ms).map(Ok)
            });
            keep.await?;
        }
        Ok(())
    }

    async fn examine_missing(&self) -> StoreResult {
        let mut after = [0; 32];
        loop {
            let read = move |conn: &Connection| aside::in_files_after(conn, after);
            let page = self.store.0.shared.readers.run("list contents in files", read).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = last.0;
            let layout = self.store.0.shared.layout.clone();
            let missing = blocking("look for content", move || {
                Ok(page
                    .into_iter()
                    .filter(|(hash, size)| !layout.has_content(*hash, *size))
                    .collect::<Vec<_>>())
            });
            for (hash, _) in missing.await? {
                if self.throttle.is_stopped() {
                    return Ok(());
                }
                let _turn = self.store.0.shared.sums.turn().await;
                if let Err(error) = self.store.examine(hash).await {
                    tracing::warn!(%hash, %error, "a content cannot be checked now");
                }
            }
        }
    }
}

/// Those of these files to which nothing refers, and which nobody is about to give a record. What a live record says is not here,
/// and is, is held again.
fn without_record(
    conn: &Connection,
    files: Vec<(ContentHash, u64)>,
) -> rusqlite::Result<Vec<(ContentHash, u64)>> {
    let mut found = Vec::new();
    for (hash, size) in files {
        let is_pending: bool = conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM pending_files WHERE hash = ?1)")?
            .query_row([hash.0], |row| row.get(0))?;
        let is_live: bool = conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM records WHERE hash = ?1 AND deleted = 0)")?
            .query_row([hash.0], |row| row.get(0))?;
        if !is_pending && !is_live && !tx::refers_to_file(conn, hash)? {
            found.push((hash, size));
        }
    }
    Ok(found)
}
