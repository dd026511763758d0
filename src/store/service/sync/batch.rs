//! A batch of assets as it streams in: small contents are gathered in memory, large ones in files, and the store
//! commits one part of the batch while the next is being read.

use bytes::{Bytes, BytesMut};
use futures::Stream;
use tokio::task::JoinHandle;

use super::{Slots, body_error, malformed};
use crate::http::envelope::{ApiError, ApiResult};
use crate::record::ContentHash;
use crate::store::embedded::EmbeddedStore;
use crate::store::sync_wire::{BodyReader, SMALL_BYTES_MAX};
use crate::store::{ContentStore, IncomingAsset, IncomingContent, ItemOutcome, StoreResult};
use crate::wire::proto::IngestHeader;

/// Content in memory that is worth a commit. There are at most two such parts at a time.
const PART_BYTES: u64 = 4 << 20;
/// Assets that are worth a commit, whatever their size.
const PART_ASSETS: usize = 512;

/// Reads the whole batch; answers once all of it is durable, in its order.
pub(super) async fn ingest<S, E>(
    store: &EmbeddedStore,
    mut body: BodyReader<S>,
) -> ApiResult<Vec<(ContentHash, ItemOutcome)>>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::fmt::Display,
{
    let mut slots = Slots::default();
    let mut parts = BatchParts { store: store.clone(), committing: None, outcomes: Vec::new() };
    let mut part = Vec::new();
    let mut part_bytes = 0;
    while let Some(IngestHeader { record, length }) = body.message().await.map_err(body_error)? {
        let wire = record.ok_or_else(|| malformed("an asset has no record"))?;
        let Some(record) = slots.take(wire)? else {
            skip(&mut body, length).await?;
            continue;
        };
        let content = if length <= SMALL_BYTES_MAX {
            part_bytes += length;
            IncomingContent::Bytes(in_memory(&mut body, length).await?)
        } else {
            IncomingContent::File(in_file(store, &mut body, length).await?)
        };
        part.push(IncomingAsset { record, content });
        if part_bytes >= PART_BYTES || part.len() >= PART_ASSETS {
            parts.commit(std::mem::take(&mut part)).await?;
            part_bytes = 0;
        }
    }
    parts.commit(part).await?;
    slots.fill(parts.finish().await?)
}

async fn skip<S, E>(body: &mut BodyReader<S>, mut left: u64) -> ApiResult<()>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::fmt::Display,
{
    while left > 0 {
        left -= body.content(left).await.map_err(body_error)?.len() as u64;
    }
    Ok(())
}

async fn in_memory<S, E>(body: &mut BodyReader<S>, length: u64) -> ApiResult<Bytes>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::fmt::Display,
{
    if length == 0 {
        return Ok(Bytes::new());
    }
    let first = body.content(length).await.map_err(body_error)?;
    if first.len() as u64 == length {
        return Ok(first);
    }
    let mut whole = BytesMut::from(first);
    while (whole.len() as u64) < length {
        let left = length - whole.len() as u64;
        whole.extend_from_slice(&body.content(left).await.map_err(body_error)?);
    }
    Ok(whole.freeze())
}

async fn in_file<S, E>(
    store: &EmbeddedStore,
    body: &mut BodyReader<S>,
    length: u64,
) -> ApiResult<crate::store::ReceivedFile>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::fmt::Display,
{
    let mut file = store.begin_receive().await?;
    let mut left = length;
    while left > 0 {
        let chunk = body.content(left).await.map_err(body_error)?;
        left -= chunk.len() as u64;
        file.write(chunk).await?;
    }
    Ok(file.finish().await?)
}

/// The parts of a batch on their way into the store, one at a time.
struct BatchParts {
    store: EmbeddedStore,
    committing: Option<JoinHandle<StoreResult<Vec<ItemOutcome>>>>,
    outcomes: Vec<ItemOutcome>,
}

impl BatchParts {
    /// Waits for the part before, then hands this one over.
    async fn commit(&mut self, part: Vec<IncomingAsset>) -> ApiResult<()> {
        self.wait().await?;
        if !part.is_empty() {
            let store = self.store.clone();
            self.committing = Some(tokio::spawn(async move { store.ingest(part).await }));
        }
        Ok(())
    }

    async fn finish(mut self) -> ApiResult<Vec<ItemOutcome>> {
        self.wait().await?;
        Ok(self.outcomes)
    }

    async fn wait(&mut self) -> ApiResult<()> {
        let Some(committing) = self.committing.take() else { return Ok(()) };
        let outcomes = committing.await.map_err(|error| {
            let status = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
            ApiError::new(
                status,
                "internal",
                format!("a commit failed: {error}"),
                "see the log of the service",
            )
        })?;
        self.outcomes.extend(outcomes?);
        Ok(())
    }
}
