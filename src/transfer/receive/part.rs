//! The receiving end of a part of a large content.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use iroh::EndpointId;
use iroh::endpoint::RecvStream;
use tokio::task::JoinHandle;

use super::{Intake, Trouble};
use crate::store::{StoreError, StoreRef};
use crate::transfer::partial::{Partial, Partials};
use crate::transfer::schedule::{Failure, WantKey};

/// Bytes gathered before they are written, while those before them are.
const BLOCK_BYTES: usize = 256 * 1024;

impl Intake {
    /// Takes in the bytes of `range`; the inner error is our own disk's.
    pub(super) async fn part(
        &mut self,
        stream: &mut RecvStream,
        key: WantKey,
        range: Range<u64>,
    ) -> Result<Result<(), Failure>, Trouble> {
        let partial = match self.open(key).await {
            Ok(partial) => partial,
            Err(failure) => return Ok(Err(failure)),
        };
        let mut writer = BlockWriter {
            partial,
            peer: self.receiver.peer,
            at: range.start,
            block: Vec::new(),
            writing: None,
        };
        let mut left = range.end - range.start;
        let mut block_bytes = 0;
        while left > 0 {
            let chunk = self.chunk(stream, left).await?;
            left -= chunk.len() as u64;
            block_bytes += chunk.len();
            writer.block.push(chunk);
            if block_bytes >= BLOCK_BYTES || left == 0 {
                let _held = self.receiver.traffic.hold();
                if let Err(error) = writer.write().await {
                    return Ok(Err(Failure::Store(error.to_string())));
                }
                block_bytes = 0;
            }
        }
        let _held = self.receiver.traffic.hold();
        Ok(writer.finish().await.map_err(|error| Failure::Store(error.to_string())))
    }

    async fn open(&self, key: WantKey) -> Result<Arc<Partial>, Failure> {
        let partials = &self.receiver.partials;
        // It was looked at before it was asked for; that may be a while ago.
        check_room_for_parts(&self.receiver.taker.store, partials, &key)?;
        partials.begin(key).await.map_err(|error| Failure::Store(error.to_string()))
    }
}

/// Whether there is room for what is missing of a large content.
///
/// # Errors
/// [`Failure::Asset`] if there is not, [`Failure::Store`] if nothing is taken at all.
pub fn check_room_for_parts(store: &StoreRef, partials: &Partials, key: &WantKey) -> Result<(), Failure> {
    if partials.get(key).is_some() {
        return Ok(());
    }
    let held = partials.held(key).unwrap_or(0).min(key.size);
    // What others are about to fill is as good as taken.
    check_room(store, (key.size - held).saturating_add(partials.outstanding()))
}

/// Whether there is room for `bytes`.
///
/// # Errors
/// As [`check_room_for_parts`].
pub fn check_room(store: &StoreRef, bytes: u64) -> Result<(), Failure> {
    store.check_room(bytes).map_err(|error| match error {
        StoreError::Full(_) => Failure::Asset(error.to_string()),
        StoreError::NotFound(_)
        | StoreError::NotHeld(_)
        | StoreError::Changed(_)
        | StoreError::Corrupt(_)
        | StoreError::ReadOnly(_)
        | StoreError::Busy(_)
        | StoreError::Invalid(_)
        | StoreError::Unavailable { .. }
        | StoreError::Unauthorized { .. }
        | StoreError::Unsupported { .. }
        | StoreError::Io { .. } => Failure::Store(error.to_string()),
    })
}

/// Gathers blocks, and writes one while the next one is gathered.
struct BlockWriter {
    partial: Arc<Partial>,
    peer: EndpointId,
    /// Where the block begins.
    at: u64,
    block: Vec<Bytes>,
    writing: Option<JoinHandle<Result<(), StoreError>>>,
}

impl BlockWriter {
    /// Begins to write the block, once the one before it is written.
    async fn write(&mut self) -> Result<(), StoreError> {
        self.finish().await?;
        self.begin();
        Ok(())
    }

    fn begin(&mut self) {
        let (at, block) = (self.at, std::mem::take(&mut self.block));
        self.at += block.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        let (partial, peer) = (Arc::clone(&self.partial), self.peer);
        self.writing = Some(tokio::spawn(async move { partial.write(at, block, peer).await }));
    }

    async fn finish(&mut self) -> Result<(), StoreError> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let written = writing.await;
        self.writing = None;
        written.unwrap_or_else(|error| {
            Err(StoreError::Io { action: "write a part of a content".into(), reason: error.to_string() })
        })
    }
}

impl Drop for BlockWriter {
    /// What came counts, also when the stream breaks, or its task ends with its session.
    fn drop(&mut self) {
        if !self.block.is_empty() && tokio::runtime::Handle::try_current().is_ok() {
            self.begin();
        }
    }
}
