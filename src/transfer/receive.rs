//! The receiving end of a content stream: checks every header against what was asked for, keeps small contents in
//! memory until a batch is full, streams large ones into files that are hashed as they are written, and hands both to
//! the store.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use iroh::endpoint::RecvStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::moving::{Moving, Passage};
use super::pace::Pace;
use super::schedule::{Failure, SMALL_BYTES_MAX};
use super::send::Traffic;
use crate::peer::wire::{self, WireError};
use crate::proto::ContentHeader;
use crate::record::{AssetRecord, ContentHash};
use crate::store::hashing_file::HashingFile;
use crate::store::{IncomingAsset, IncomingContent, Outcome, ReceivedFile, StoreError, StoreRef};

/// Small contents that go to the store together.
const BATCH_ASSETS: usize = 256;
const BATCH_BYTES: usize = 1024 * 1024;
/// Batches of one stream that the store works on while the next one is being received.
const BATCHES_IN_STORE: usize = 2;
/// Bytes taken from the network at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// Why a content was refused whose hash is another than its record's.
const WRONG_BYTES: &str = "the peer sent wrong bytes";

/// What became of contents that were asked for: stored, with their size, or not.
pub type Results = Vec<(ContentHash, Result<u64, Failure>)>;

/// The requests of one session that wait for their contents.
#[derive(Debug, Default)]
pub struct Expected {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: HashMap<u64, Request>,
    /// When anything came last; a request that waits behind others at the sender makes no progress of its own.
    last_progress: Option<Instant>,
}

#[derive(Debug)]
struct Request {
    records: HashMap<ContentHash, AssetRecord>,
    since: Instant,
}

impl Expected {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is about to be sent.
    pub fn add(&self, request: u64, records: Vec<AssetRecord>, now: Instant) {
        let records = records.into_iter().map(|r| (r.hash, r)).collect();
        self.waiting().requests.insert(request, Request { records, since: now });
    }

    /// The record of a content that arrives now; each is taken once.
    fn take(&self, request: u64, hash: &ContentHash) -> Option<AssetRecord> {
        let mut waiting = self.waiting();
        let found = waiting.requests.get_mut(&request)?;
        let record = found.records.remove(hash);
        if found.records.is_empty() {
            waiting.requests.remove(&request);
        }
        record
    }

    /// Something came at `now`.
    fn progress(&self, now: Instant) {
        self.waiting().last_progress = Some(now);
    }

    /// Whatever of a request has not begun to arrive; it is no longer expected.
    fn abandon(&self, request: u64) -> Vec<ContentHash> {
        self.waiting().requests.remove(&request).map(|r| r.records.into_keys().collect()).unwrap_or_default()
    }

    /// When nothing at all came for `stall`: the requests that waited for so long, with what is missing of them. They
    /// are no longer expected.
    pub fn take_stalled(&self, stall: Duration, now: Instant) -> Vec<(u64, Vec<ContentHash>)> {
        let mut waiting = self.waiting();
        if waiting.last_progress.is_some_and(|at| now.duration_since(at) <= stall) {
            return Vec::new();
        }
        let stalled = |request: &Request| now.duration_since(request.since) > stall;
        let requests = waiting.requests.extract_if(|_, request| stalled(request));
        requests.map(|(number, request)| (number, request.records.into_keys().collect())).collect()
    }
}

/// What a receiving task needs.
#[derive(Clone)]
pub struct Receiver {
    /// Where contents go.
    pub store: StoreRef,
    /// Directory for large contents until they are complete.
    pub partial_dir: PathBuf,
    /// What was asked for.
    pub expected: Arc<Expected>,
    /// Bytes received are counted here.
    pub traffic: Arc<Traffic>,
    /// Large contents under way are noted here.
    pub moving: Moving,
    /// A transfer without progress for so long is given up.
    pub stall: Duration,
    /// How fast content may come in.
    pub pace: Pace,
    /// Results go here as they come.
    pub results: mpsc::Sender<Results>,
}

/// The peer did what no honest peer does.
#[derive(Debug, PartialEq, Eq)]
pub struct Violation(pub String);

/// Takes in one content stream to its end.
///
/// # Errors
/// [`Violation`] when what came is no content stream; the connection is to be closed. Whatever goes wrong with a single
/// content is in the results.
pub async fn receive_stream(receiver: Receiver, mut stream: RecvStream) -> Result<(), Violation> {
    let mut intake = Intake { receiver, storing: JoinSet::new(), batch: Vec::new(), batch_bytes: 0 };
    let mut request = None;
    let outcome = intake.run(&mut stream, &mut request).await;
    intake.flush().await;
    while intake.stored().await {}
    let (reason, violation) = match outcome {
        Ok(()) => ("the peer did not send it".to_owned(), None),
        Err(Trouble::Broken(reason) | Trouble::Reported(reason)) => (reason, None),
        Err(Trouble::Violation(reason)) => (reason.clone(), Some(Violation(reason))),
    };
    if let Some(request) = request {
        let missing = intake.receiver.expected.abandon(request);
        let failures = missing.into_iter().map(|hash| (hash, Err(Failure::Source(reason.clone())))).collect();
        intake.report(failures).await;
    }
    violation.map_or(Ok(()), Err)
}

enum Trouble {
    Broken(String),
    /// Ends the stream too, but what became of the content is in the results already.
    Reported(String),
    Violation(String),
}

impl From<WireError> for Trouble {
    fn from(error: WireError) -> Self {
        if error.is_violation() {
            Self::Violation(error.to_string())
        } else {
            Self::Broken(error.to_string())
        }
    }
}

struct Intake {
    receiver: Receiver,
    storing: JoinSet<Results>,
    batch: Vec<IncomingAsset>,
    batch_bytes: usize,
}

impl Intake {
    async fn run(&mut self, stream: &mut RecvStream, request: &mut Option<u64>) -> Result<(), Trouble> {
        loop {
            let header = timeout(self.receiver.stall, wire::read_header(stream))
                .await
                .map_err(|_| self.stalled())??;
            let Some(header) = header else { return Ok(()) };
            if *request.get_or_insert(header.request) != header.request {
                return Err(Trouble::Violation("one stream answers two requests".into()));
            }
            let record = self.expect(&header)?;
            if header.gone {
                let gone = Failure::Source("the peer cannot serve it now".into());
                self.report(vec![(record.hash, Err(gone))]).await;
                continue;
            }
            let (hash, size) = (record.hash, record.size);
            if (header.total, header.offset, header.length) != (size, 0, size) {
                return self
                    .refuse(
                        hash,
                        Failure::WrongBytes(format!(
                            "{WRONG_BYTES}: {} bytes for an asset of {size}",
                            header.length
                        )),
                    )
                    .await;
            }
            let received = if size <= SMALL_BYTES_MAX {
                self.small(stream, record).await
            } else {
                self.large(stream, record).await
            };
            match received {
                Ok(()) => {}
                Err(Trouble::Broken(reason)) => return self.refuse(hash, Failure::Source(reason)).await,
                Err(trouble) => return Err(trouble),
            }
        }
    }

    /// Reports what became of a content, and ends the stream.
    async fn refuse(&self, hash: ContentHash, failure: Failure) -> Result<(), Trouble> {
        let reason = failure.reason().to_owned();
        self.report(vec![(hash, Err(failure))]).await;
        Err(Trouble::Reported(reason))
    }

    fn expect(&self, header: &ContentHeader) -> Result<AssetRecord, Trouble> {
        let hash = ContentHash::from_slice(&header.hash)
            .ok_or_else(|| Trouble::Violation("a content header without a hash".into()))?;
        // Nothing of that request is expected any more after a stall or in a fresh session: no offence.
        self.receiver
            .expected
            .take(header.request, &hash)
            .ok_or_else(|| Trouble::Broken("a content that is not expected (any more)".into()))
    }

    async fn small(&mut self, stream: &mut RecvStream, record: AssetRecord) -> Result<(), Trouble> {
        let len = usize::try_from(record.size).map_err(|e| Trouble::Violation(e.to_string()))?;
        let mut content = BytesMut::zeroed(len);
        timeout(self.receiver.stall, stream.read_exact(&mut content))
            .await
            .map_err(|_| self.stalled())?
            .map_err(|e| Trouble::Broken(e.to_string()))?;
        self.count(len).await;
        self.batch_bytes += len;
        self.batch.push(IncomingAsset { record, content: IncomingContent::Bytes(content.freeze()) });
        if self.batch.len() >= BATCH_ASSETS || self.batch_bytes >= BATCH_BYTES {
            self.flush().await;
        }
        Ok(())
    }

    async fn large(&mut self, stream: &mut RecvStream, record: AssetRecord) -> Result<(), Trouble> {
        let hash = record.hash;
        if let Err(error) = self.receiver.store.check_room(record.size) {
            return self.refuse(hash, Failure::Asset(error.to_string())).await;
        }
        let moving = self.receiver.moving.begin(hash, record.size);
        match self.large_file(stream, record.size, &moving).await? {
            Ok(file) if file.sha256 == hash => {
                self.store(vec![IncomingAsset { record, content: IncomingContent::File(file) }]).await;
                Ok(())
            }
            Ok(_) => {
                self.report(vec![(hash, Err(Failure::WrongBytes(WRONG_BYTES.into())))]).await;
                Ok(())
            }
            Err(failure) => self.refuse(hash, failure).await,
        }
    }

    /// Receives one content into a file; the inner error is our own disk's.
    async fn large_file(
        &self,
        stream: &mut RecvStream,
        size: u64,
        moving: &Passage,
    ) -> Result<Result<ReceivedFile, Failure>, Trouble> {
        let dir = &self.receiver.partial_dir;
        let mut file = match HashingFile::create(dir) {
            Ok(file) => file,
            Err(e) => {
                return Ok(Err(Failure::Store(format!("cannot create a file in {}: {e}", dir.display()))));
            }
        };
        let mut left = size;
        while left > 0 {
            let chunk = self.chunk(stream, left).await?;
            left -= chunk.len() as u64;
            if let Err(error) = file.write(chunk).await {
                return Ok(Err(Failure::Store(error.to_string())));
            }
            moving.set(size - left);
        }
        Ok(file.finish().await.map_err(|error| Failure::Store(error.to_string())))
    }

    async fn chunk(&self, stream: &mut RecvStream, left: u64) -> Result<Bytes, Trouble> {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let chunk = timeout(self.receiver.stall, stream.read_chunk(most))
            .await
            .map_err(|_| self.stalled())?
            .map_err(|e| Trouble::Broken(e.to_string()))?
            .ok_or_else(|| Trouble::Broken("the stream ended inside a content".into()))?;
        self.count(chunk.len()).await;
        Ok(chunk)
    }

    /// Counts what came, and waits where it came too fast: QUIC's windows then slow the sender down.
    async fn count(&self, bytes: usize) {
        self.receiver.traffic.received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.receiver.expected.progress(Instant::now());
        self.receiver.pace.take(bytes).await;
    }

    fn stalled(&self) -> Trouble {
        Trouble::Broken(format!("no progress for {} s", self.receiver.stall.as_secs()))
    }

    /// Hands the batch to the store, while the next one is received.
    async fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        self.store(batch).await;
    }

    async fn store(&mut self, batch: Vec<IncomingAsset>) {
        if self.storing.len() >= BATCHES_IN_STORE {
            self.stored().await;
        }
        let store = Arc::clone(&self.receiver.store);
        self.storing.spawn(async move {
            let assets: Vec<(ContentHash, u64)> =
                batch.iter().map(|asset| (asset.record.hash, asset.record.size)).collect();
            match store.ingest(batch).await {
                Ok(outcomes) => assets
                    .into_iter()
                    .zip(outcomes)
                    .map(|((hash, size), outcome)| (hash, result(outcome).map(|()| size)))
                    .collect(),
                Err(error) => {
                    let failure = if let StoreError::Invalid(reason) = &error {
                        // The same would be refused again.
                        Failure::Asset(reason.clone())
                    } else {
                        Failure::Store(error.to_string())
                    };
                    assets.into_iter().map(|(hash, _)| (hash, Err(failure.clone()))).collect()
                }
            }
        });
    }

    /// Waits for a batch that the store works on and reports it; `false` when there is none.
    async fn stored(&mut self) -> bool {
        match self.storing.join_next().await {
            Some(Ok(results)) => self.report(results).await,
            // A panic of the store is one of this task, and so of the session.
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Some(Err(_)) | None => return false,
        }
        true
    }

    async fn report(&self, results: Results) {
        if !results.is_empty() {
            // The session is over when nobody listens; the scheduler knows that by itself.
            let _ = self.receiver.results.send(results).await;
        }
    }
}

fn result(outcome: Outcome) -> Result<(), Failure> {
    match outcome {
        Outcome::Stored | Outcome::Unchanged => Ok(()),
        Outcome::NeedsContent => Err(Failure::Store("the store lost the content again".into())),
        Outcome::Rejected(reason) => {
            Err(Failure::WrongBytes(format!("{WRONG_BYTES}, or a wrong record: {reason}")))
        }
    }
}
