//! The sending end of a content stream: one stream answers one request, with a header before each content.
//!
//! Nothing is hashed here: the record vouches for the content and the receiver checks it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use iroh::endpoint::{Connection, SendStream};
use tokio::time::timeout;

use crate::peer::wire;
use crate::proto::{ContentHeader, ContentRequest, Want};
use crate::record::ContentHash;
use crate::store::{ContentReader, StoreError, StoreRef};

/// A stream that takes no byte for so long is given up.
const STALL: Duration = Duration::from_secs(30);

/// Content bytes that went to and came from one peer since the process started.
#[derive(Debug, Default)]
pub struct Traffic {
    /// To the peer.
    pub sent: AtomicU64,
    /// From the peer.
    pub received: AtomicU64,
}

/// Why a request could not be served to its end.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The receiver took nothing for [`STALL`].
    #[error("the peer took no data for {} s", STALL.as_secs())]
    Stalled,
    /// The stream or its connection is gone.
    #[error("the content stream broke: {0}")]
    Broken(String),
    /// Our store failed in the middle of a content.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Sends everything that `want` asks for over one new stream, in order.
///
/// # Errors
/// See [`SendError`]; the stream is reset then, and the receiver asks again.
pub async fn serve(
    connection: &Connection,
    store: &StoreRef,
    traffic: &Arc<Traffic>,
    want: Want,
) -> Result<(), SendError> {
    let mut stream = limited(connection.open_uni()).await?;
    for content in want.contents {
        serve_one(&mut stream, store, traffic, want.request, &content).await?;
    }
    stream.finish().map_err(|e| SendError::Broken(e.to_string()))
}

async fn serve_one(
    stream: &mut SendStream,
    store: &StoreRef,
    traffic: &Arc<Traffic>,
    request: u64,
    wanted: &ContentRequest,
) -> Result<(), SendError> {
    let length = (wanted.length > 0).then_some(wanted.length);
    let reader = match ContentHash::from_slice(&wanted.hash) {
        Some(hash) => store.content(hash, wanted.offset, length).await,
        None => Err(StoreError::Invalid("a hash that has not 32 bytes".into())),
    };
    let mut header = ContentHeader {
        request,
        hash: wanted.hash.clone(),
        offset: wanted.offset,
        ..ContentHeader::default()
    };
    let ContentReader { total, mut chunks } = match reader {
        Ok(reader) => reader,
        Err(error) => {
            tracing::debug!(%error, "a content that was asked for cannot be served");
            header.gone = true;
            return send(stream, [wire::encode(&header), Bytes::new()]).await;
        }
    };
    header.total = total;
    header.length = length.unwrap_or(u64::MAX).min(total - wanted.offset.min(total));
    let mut left = header.length;
    let mut front = wire::encode(&header);
    // The header goes out together with the first chunk.
    while let Some(chunk) = chunks.next().await.transpose()? {
        left = left.saturating_sub(chunk.len() as u64);
        let bytes = chunk.len() as u64;
        send(stream, [std::mem::take(&mut front), chunk]).await?;
        traffic.sent.fetch_add(bytes, Ordering::Relaxed);
    }
    if left > 0 {
        return Err(SendError::Broken("the store ended a content early".into()));
    }
    if !front.is_empty() {
        send(stream, [front, Bytes::new()]).await?;
    }
    Ok(())
}

async fn send(stream: &mut SendStream, mut chunks: [Bytes; 2]) -> Result<(), SendError> {
    limited(stream.write_all_chunks(&mut chunks)).await
}

async fn limited<T, E: std::fmt::Display>(work: impl Future<Output = Result<T, E>>) -> Result<T, SendError> {
    match timeout(STALL, work).await {
        Ok(result) => result.map_err(|e| SendError::Broken(e.to_string())),
        Err(_) => Err(SendError::Stalled),
    }
}
