//! A content that is read while it comes.
//!
//! Its bytes are read where they are collected, as far as they were proved for a BLAKE3 that its sources say. That may be another
//! content's, and what an earlier process left may have rotted. So what is given out is hashed along, and the last chunk comes only if
//! all of it is what its name says. A reader that gets to the end has the content; any other one sees its answer break off.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::api::view::AgentView;
use crate::record::AssetRecord;
use crate::store::groups::GroupSum;
use crate::store::service::on_demand::{ComingContent, ReadAs};
use crate::store::{StoreError, StoreResult};
use crate::transfer::schedule::WantKey;

/// What is shorter is here as soon as it can be read.
const LARGE_BYTES: u64 = 1 << 20;
/// Bytes that are read at once.
const CHUNK_BYTES: usize = 256 << 10;
/// How long a reader waits for more.
const MORE_WITHIN: Duration = Duration::from_mins(1);
/// Between two looks whether the store has it, if it says nothing.
const LOOK: Duration = Duration::from_millis(200);
/// The same at least, however much it says.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until a content can be read while it comes. Without an end where it never can be.
pub(super) async fn begun(view: &AgentView, record: AssetRecord, read_as: ReadAs) -> ComingContent {
    if read_as == ReadAs::Stored || record.size < LARGE_BYTES {
        return std::future::pending().await;
    }
    // What is asked for by name is wanted for the mirror.
    let key = WantKey::new(None, &record);
    let root = view.partials.begun(&key).await;
    let reading = Reading { view: view.clone(), key, root, at: 0, sha256: Sha256::new(), rest: None };
    let chunks = futures::stream::try_unfold(reading, |mut reading| async move {
        Ok(reading.next().await?.map(|chunk| (chunk, reading)))
    });
    ComingContent { record, chunks: chunks.boxed() }
}

struct Reading {
    view: AgentView,
    key: WantKey,
    /// What is read where it is collected was proved for this.
    root: GroupSum,
    at: u64,
    /// Of what was given out.
    sha256: Sha256,
    /// What the store has of the rest.
    rest: Option<BoxStream<'static, StoreResult<Bytes>>>,
}

impl Reading {
    async fn next(&mut self) -> StoreResult<Option<Bytes>> {
        if self.at == self.key.size {
            return Ok(None);
        }
        let bytes = self.more().await?;
        self.at += bytes.len() as u64;
        self.sha256.update(&bytes);
        let is_last = self.at >= self.key.size;
        let is_whole = self.at == self.key.size && self.sha256.clone().finalize()[..] == self.key.hash.0;
        if is_last && !is_whole {
            let why = format!("what came of {} is another content: read it again", self.key.hash);
            return Err(StoreError::Busy(why));
        }
        Ok(Some(bytes))
    }

    async fn more(&mut self) -> StoreResult<Bytes> {
        let hash = self.key.hash;
        let deadline = Instant::now() + MORE_WITHIN;
        let mut changes = self.view.libraries.cursor();
        loop {
            if let Some(rest) = &mut self.rest {
                return rest.try_next().await?.ok_or(StoreError::Corrupt(hash));
            }
            changes.mark_unchanged();
            if let Some(bytes) = self.proved(deadline).await {
                return Ok(bytes);
            }
            self.rest = self.stored().await?;
            if self.rest.is_some() {
                continue;
            }
            if Instant::now() >= deadline {
                let within = MORE_WITHIN.as_secs();
                return Err(StoreError::Busy(format!("no more of {hash} came for {within} s")));
            }
            sleep(PAUSE).await;
            let _ = timeout(LOOK, changes.changed()).await;
        }
    }

    /// More of what is collected; `None` where it is collected no more, or nothing comes.
    async fn proved(&mut self, deadline: Instant) -> Option<Bytes> {
        let left = usize::try_from(self.key.size - self.at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let reading = self.view.partials.read(&self.key, Some(self.root), self.at, left);
        let read = timeout_at(deadline, reading).await.ok()?;
        read.ok()?.map(|(_, bytes)| bytes)
    }

    /// The rest, once the store has the content.
    async fn stored(&mut self) -> StoreResult<Option<BoxStream<'static, StoreResult<Bytes>>>> {
        let hash = self.key.hash;
        match self.view.store.look(hash).await? {
            None => Err(StoreError::NotFound(hash)),
            Some(stored) if stored.record.deleted => Err(StoreError::NotFound(hash)),
            Some(stored) if stored.holding.is_held() => {
                Ok(Some(self.view.store.content(hash, self.at, None).await?.chunks))
            }
            Some(_) => Ok(None),
        }
    }
}
