//! Reading what lies in the trash: what is damaged there cannot be brought back, and nobody else may have it.

use std::sync::Arc;
use std::time::Instant;

use rusqlite::{Connection, params};

use super::super::examining::hash_paced;
use super::super::incoming::blocking;
use super::super::rows::{self, ContentPlace};
use super::pass::Pass;
use crate::disk::{LONG_PATIENCE, patiently};
use crate::record::ContentHash;
use crate::store::StoreResult;

/// Entries that are read at once.
const PAGE: i64 = 100;

struct TrashEntry {
    hash: ContentHash,
    size: u64,
    place: ContentPlace,
    /// Whether it is right, of what lies in the database.
    is_right: bool,
}

impl Pass {
    /// Reads the whole trash; whether it came to the end.
    pub(super) async fn check_trash(&self) -> StoreResult<bool> {
        let mut after = [0; 32];
        loop {
            let began = Instant::now();
            let read = move |conn: &Connection| entries_after(conn, after);
            let page = self.store.0.shared.readers.run("list the trash", read).await?;
            let Some(last) = page.last() else { return Ok(!self.throttle.is_stopped()) };
            after = last.hash.0;
            self.breathe(began.elapsed()).await?;
            for TrashEntry { hash, size, place, is_right } in page {
                if self.throttle.is_stopped() {
                    return Ok(false);
                }
                let is_right =
                    is_right || place == ContentPlace::File && self.is_file_right(hash, size).await?;
                if !is_right && !self.throttle.is_stopped() {
                    tracing::warn!(%hash, "a content in the trash is damaged: it cannot be brought back");
                    self.update(|state| state.trash_damaged += 1);
                }
            }
        }
    }

    async fn is_file_right(&self, hash: ContentHash, size: u64) -> StoreResult<bool> {
        let (path, throttle) = (self.store.0.shared.layout.content(hash), Arc::clone(&self.throttle));
        let hashed = blocking("check content in the trash", move || {
            let mut took = |bytes, worked| throttle.took(bytes, worked);
            Ok(patiently(&LONG_PATIENCE, || hash_paced(&path, size, &mut took)))
        });
        let hashed = hashed.await?;
        self.throttle.content_ends();
        match hashed {
            Ok((sha256, _)) => Ok(sha256 == hash),
            // It may have been purged or brought back meanwhile.
            Err(_) if !self.is_in_trash(hash).await? => Ok(true),
            Err(error) if self.store.fault_of(&error).is_some() => Ok(false),
            // It is not said of what was not read to its end.
            Err(_) if self.throttle.is_stopped() => Ok(true),
            Err(error) => {
                tracing::warn!(%hash, %error, "a content in the trash cannot be checked now");
                self.update(|state| state.unreadable += 1);
                Ok(true)
            }
        }
    }

    async fn is_in_trash(&self, hash: ContentHash) -> StoreResult<bool> {
        let read = move |conn: &Connection| Ok(super::super::tx::trashed(conn, hash)?.is_some());
        self.store.0.shared.readers.run("look into the trash", read).await
    }
}

fn entries_after(conn: &Connection, after: [u8; 32]) -> rusqlite::Result<Vec<TrashEntry>> {
    let entries: Vec<(ContentHash, u64, ContentPlace)> = conn
        .prepare_cached("SELECT hash, size, content FROM trash WHERE hash > ?1 ORDER BY hash LIMIT ?2")?
        .query_map(params![after, PAGE], |row| {
            let place = ContentPlace::from_column(row.get(2)?);
            Ok((ContentHash(row.get(0)?), rows::unsigned(row, 1)?, place))
        })?
        .collect::<Result<_, _>>()?;
    let checked = entries.into_iter().map(|(hash, size, place)| {
        let is_right = match place {
            ContentPlace::Inline(id) => rows::whole_inline_content(conn, id, hash)?.is_some(),
            ContentPlace::File => false,
            // Read where it is to come back: what is in a bucket is paid for by the byte.
            ContentPlace::Object => true,
        };
        Ok(TrashEntry { hash, size, place, is_right })
    });
    checked.collect()
}
