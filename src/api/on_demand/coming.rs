//! A content that is read while it comes.
//!
//! Its bytes are read where they are collected, as far as they were proved for a BLAKE3 that its sources say. That may be another
//! content's; SHA-256 decides once all of it is here. So the last group is held back until the store has the content, with that BLAKE3,
//! and comes from there. A reader that gets to the end has the content; any other one sees its answer break off.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::{Instant, timeout};

use crate::api::view::AgentView;
use crate::record::{AssetRecord, ContentHash};
use crate::store::groups::{GROUP_BYTES, GroupSum};
use crate::store::service::on_demand::{ComingContent, ReadAs};
use crate::store::{StoreError, StoredRecord};
use crate::transfer::schedule::WantKey;

/// What is shorter is here as soon as it can be read.
const LARGE_BYTES: u64 = 1 << 20;
/// Bytes that are read at once.
const CHUNK_BYTES: usize = 256 << 10;
/// How long a reader waits for more.
const MORE_WITHIN: Duration = Duration::from_mins(1);
/// Between two looks whether the store has it, if it says nothing.
const LOOK: Duration = Duration::from_millis(200);

/// Waits until a content can be read while it comes. Without an end where it never can be.
pub(super) async fn begun(view: &AgentView, record: AssetRecord, read_as: ReadAs) -> ComingContent {
    if read_as == ReadAs::Stored || record.size < LARGE_BYTES {
        return std::future::pending().await;
    }
    // What is asked for by name is wanted for the mirror.
    let key = WantKey::new(None, &record);
    let root = view.partials.begun(&key).await;
    let reading = Reading { view: view.clone(), key, root, at: 0, rest: None };
    let chunks = futures::stream::try_unfold(reading, |mut reading| async move {
        Ok(reading.next().await?.map(|chunk| (chunk, reading)))
    });
    ComingContent { record, chunks: chunks.boxed() }
}

/// How far a reader is.
struct Reading {
    view: AgentView,
    key: WantKey,
    /// What was read so far was proved for this.
    root: GroupSum,
    at: u64,
    /// What the store has of the rest.
    rest: Option<BoxStream<'static, Result<Bytes, StoreError>>>,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let deadline = Instant::now() + MORE_WITHIN;
        let mut changes = self.view.libraries.cursor();
        loop {
            if let Some(rest) = &mut self.rest {
                return rest.try_next().await;
            }
            changes.mark_unchanged();
            if let Some(bytes) = self.proved(deadline).await {
                self.at += bytes.len() as u64;
                return Ok(Some(bytes));
            }
            self.rest = self.stored().await?;
            if self.rest.is_some() {
                continue;
            }
            if Instant::now() >= deadline {
                return Err(StoreError::Busy(format!(
                    "no more of {} came for {} s",
                    self.key.hash,
                    MORE_WITHIN.as_secs()
                )));
            }
            let _ = timeout(LOOK, changes.changed()).await;
        }
    }

    /// More of what is collected, but for its last group; `None` where it is collected no more, or nothing comes.
    async fn proved(&mut self, deadline: Instant) -> Option<Bytes> {
        let end = self.key.size.saturating_sub(GROUP_BYTES as u64);
        let most = usize::try_from(end.saturating_sub(self.at)).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        if most == 0 {
            return None;
        }
        let reading = self.view.partials.read(&self.key, Some(self.root), self.at, most);
        let read = tokio::time::timeout_at(deadline, reading).await.ok()?;
        read.ok()?.map(|(_, bytes)| bytes)
    }

    /// The rest, once the store has the content.
    async fn stored(&mut self) -> Result<Option<BoxStream<'static, Result<Bytes, StoreError>>>, StoreError> {
        let hash = self.key.hash;
        let Some(StoredRecord { record, holding, .. }) = self.view.store.look(hash).await? else {
            return Err(StoreError::NotFound(hash));
        };
        if record.deleted {
            return Err(StoreError::NotFound(hash));
        }
        if !holding.is_held() {
            return Ok(None);
        }
        if record.blake3 != Some(self.root) || record.size != self.key.size {
            return Err(other_bytes(hash));
        }
        Ok(Some(self.view.store.content(hash, self.at, None).await?.chunks))
    }
}

fn other_bytes(hash: ContentHash) -> StoreError {
    StoreError::Busy(format!("what came first of {hash} was not of it: read it again"))
}
