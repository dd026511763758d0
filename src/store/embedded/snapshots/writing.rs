//! Writing a part of a snapshot: from the database in pages, into the bucket in chunks.

use std::sync::Arc;

use bytes::Bytes;

use super::super::EmbeddedStore;
use super::super::objects::Objects;
use super::items::{self, ItemPage};
use super::{Unmade, unmade};
use crate::store::bucket::snapshots::{CHUNK_BYTES_MAX, CHUNKS_MAX, ChunkFacts, PartFacts, PartName};

/// Pages that are read behind what was the end when a part was begun, where the store changes all the time.
const LATE_PAGES_MAX: u32 = 10_000;

/// Chunks of a part as they go out.
struct Chunks<'a> {
    objects: &'a Objects,
    name: &'a PartName,
    buffer: Vec<u8>,
    put: Vec<ChunkFacts>,
}

impl Chunks<'_> {
    async fn add(&mut self, item: &[u8]) -> Result<(), Unmade> {
        if self.buffer.len() + item.len() > CHUNK_BYTES_MAX {
            self.flush().await?;
        }
        self.buffer.extend_from_slice(item);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Unmade> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        if self.put.len() >= CHUNKS_MAX {
            return Err("the store knows more than a snapshot can have".into());
        }
        let bytes = Bytes::from(std::mem::take(&mut self.buffer));
        let put = self.objects.bucket.put_chunk(self.name, self.put.len(), bytes).await;
        self.put.push(put.map_err(|error| unmade(self.objects, error))?);
        Ok(())
    }
}

impl EmbeddedStore {
    /// Puts what changed after `since` into chunks of a part; `None` if the feed does not go on from there.
    pub(super) async fn write_part(
        &self,
        objects: &Objects,
        name: &PartName,
        since: u64,
        made_ms: u64,
    ) -> Result<Option<PartFacts>, Unmade> {
        let mut chunks = Chunks { objects, name, buffer: Vec::new(), put: Vec::new() };
        let (mut at, mut count, mut late) = (since, 0, 0);
        let begun_at = *self.0.shared.seq.borrow();
        loop {
            if self.0.turns.is_closed() {
                return Err("the store is closed".into());
            }
            let shared = Arc::clone(&self.0.shared);
            let read = move |conn: &rusqlite::Connection| items::page(conn, &shared, at, since > 0);
            let page = self.0.shared.readers.run("read records for a snapshot", read).await;
            let Some(page) = page.map_err(|error| error.to_string())? else { return Ok(None) };
            let ItemPage { items, end, is_last, assets } = page;
            for item in &items {
                chunks.add(item).await?;
            }
            count += items.len() as u64;
            late += u32::from(end > begun_at);
            at = end;
            if is_last || late > LATE_PAGES_MAX {
                chunks.flush().await?;
                let chunks = chunks.put;
                return Ok(Some(PartFacts { since, end, next: end, made_ms, assets, items: count, chunks }));
            }
        }
    }
}
