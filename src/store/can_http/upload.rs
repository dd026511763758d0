//! The body of an upload, streamed from memory and disk, and the watch over its progress.
//!
//! A request as a whole may take hours; what is limited is how long nothing moves.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use reqwest::Body;
use tokio_util::io::ReaderStream;

use super::answer::{fail, unavailable};
use crate::store::sync_wire::put;
use crate::store::{IncomingAsset, IncomingContent, ReceivedFile, StoreError, StoreResult};
use crate::wire::proto::IngestHeader;

/// How long the service may take nothing of the body.
const STALL: Duration = Duration::from_secs(30);
/// How long it may take to make a batch durable once it has all of it: disks may have much to write.
pub(super) const COMMIT_TIMEOUT: Duration = Duration::from_mins(2);
/// What is read from a file at a time.
const READ_BYTES: usize = 256 << 10;

#[derive(Clone, Default)]
pub(super) struct UploadProgress(Arc<UploadState>);

#[derive(Default)]
struct UploadState {
    pieces: AtomicU64,
    complete: AtomicBool,
    file_failed: parking_lot::Mutex<Option<(String, String)>>,
}

pub(super) fn body(batch: Vec<IncomingAsset>) -> (Body, UploadProgress) {
    let progress = UploadProgress::default();
    let told = progress.clone();
    let failed = progress.clone();
    let pieces = stream::iter(batch)
        .flat_map(pieces_of)
        .inspect_ok(move |_| {
            told.0.pieces.fetch_add(1, Ordering::Relaxed);
        })
        .inspect_err(move |(path, error)| failed.note(path, error))
        .map_err(|(_, error)| error);
    let last = progress.clone();
    // Asked for once everything before it has been taken.
    let end = stream::poll_fn(move |_| {
        last.0.complete.store(true, Ordering::Relaxed);
        std::task::Poll::Ready(None)
    });
    (Body::wrap_stream(pieces.chain(end)), progress)
}

type Pieces = BoxStream<'static, Result<Bytes, (String, io::Error)>>;

/// One asset: its header, then its content.
fn pieces_of(asset: IncomingAsset) -> Pieces {
    let length = match &asset.content {
        IncomingContent::Bytes(bytes) => bytes.len() as u64,
        IncomingContent::File(file) => file.size,
    };
    let mut header = Vec::new();
    put(&mut header, &IngestHeader { record: Some((&asset.record).into()), length });
    let header = stream::once(async move { Ok(Bytes::from(header)) });
    match asset.content {
        IncomingContent::Bytes(bytes) => header.chain(stream::iter([Ok(bytes)])).boxed(),
        IncomingContent::File(file) => header.chain(file_pieces(file)).boxed(),
    }
}

/// The content of a file, which is removed at the end.
fn file_pieces(file: ReceivedFile) -> Pieces {
    let name = file.path.display().to_string();
    let opened = async move {
        let source = tokio::fs::File::open(&file.path).await?;
        // Held by the stream, so that the file stays until it has been read.
        Ok::<_, io::Error>(ReaderStream::with_capacity(source, READ_BYTES).inspect(move |_| {
            let _held = &file;
        }))
    };
    stream::once(opened).try_flatten().map_err(move |error| (name.clone(), error)).boxed()
}

impl UploadProgress {
    fn note(&self, path: &str, error: &io::Error) {
        let mut failed = self.0.file_failed.lock();
        *failed = Some((path.to_owned(), error.to_string()));
    }

    /// Waits for the answer to an upload for as long as it makes progress.
    pub(super) async fn watch<T>(&self, url: &str, request: impl Future<Output = T>) -> StoreResult<T> {
        let mut request = pin!(request);
        loop {
            let (pieces, complete) = self.now();
            let limit = if complete { COMMIT_TIMEOUT } else { STALL };
            if let Ok(answer) = tokio::time::timeout(limit, &mut request).await {
                return Ok(answer);
            }
            if self.now() == (pieces, complete) {
                let doing = if complete { "did not confirm an upload" } else { "took nothing of an upload" };
                return Err(unavailable(url, format!("it {doing} for {} s", limit.as_secs())));
            }
        }
    }

    fn now(&self) -> (u64, bool) {
        (self.0.pieces.load(Ordering::Relaxed), self.0.complete.load(Ordering::Relaxed))
    }

    /// Why an upload failed: our own file, or the service.
    pub(super) fn explain(&self, url: &str, error: &reqwest::Error) -> StoreError {
        let mut failed = self.0.file_failed.lock();
        match failed.take() {
            Some((path, reason)) => StoreError::io(format!("read {path} to upload it"), reason),
            None => fail(url, error),
        }
    }
}
