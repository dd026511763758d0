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

use super::pace::Pace;
use super::schedule::{Failure, SMALL_BYTES_MAX};
use super::send::Traffic;
use crate::peer::wire::{self, WireError};
use crate::proto::ContentHeader;
use crate::record::{AssetRecord, ContentHash};
use crate::store::hashing_file::HashingFile;
use crate::store::{IncomingAsset, IncomingContent, Outcome, StoreRef};

/// Small contents that go to the store together.
const BATCH_ASSETS: usize = 256;
const BATCH_BYTES: usize = 1024 * 1024;
/// Batches of one stream that the store works on while the next one is being received.
const BATCHES_IN_STORE: usize = 2;
/// Bytes taken from the network at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// What became of contents that were asked for: stored, with their size, or not.
pub type Results = Vec<(ContentHash, Result<u64, Failure>)>;

/// The requests of one session that wait for their contents.
#[derive(Debug, Default)]
pub struct Expected {
    requests: Mutex<HashMap<u64, Request>>,
}

#[derive(Debug)]
struct Request {
    records: HashMap<ContentHash, AssetRecord>,
    last_progress: Instant,
}

impl Expected {
    fn requests(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is about to be sent.
    pub fn add(&self, request: u64, records: Vec<AssetRecord>, now: Instant) {
        let records = records.into_iter().map(|r| (r.hash, r)).collect();
        self.requests().insert(request, Request { records, last_progress: now });
    }

    /// The record of a content that arrives now; each is taken once.
    fn take(&self, request: u64, hash: &ContentHash, now: Instant) -> Option<AssetRecord> {
        let mut requests = self.requests();
        let found = requests.get_mut(&request)?;
        found.last_progress = now;
        let record = found.records.remove(hash);
        if found.records.is_empty() {
            requests.remove(&request);
        }
        record
    }

    /// Whatever of a request has not begun to arrive; it is no longer expected.
    fn abandon(&self, request: u64) -> Vec<ContentHash> {
        self.requests().remove(&request).map(|r| r.records.into_keys().collect()).unwrap_or_default()
    }

    /// Requests that nothing came of for `stall`, with what is missing of them; no longer expected.
    pub fn take_stalled(&self, stall: Duration, now: Instant) -> Vec<(u64, Vec<ContentHash>)> {
        let mut requests = self.requests();
        let stalled: Vec<u64> = requests
            .iter()
            .filter(|(_, r)| now.duration_since(r.last_progress) > stall)
            .map(|(number, _)| *number)
            .collect();
        stalled
            .into_iter()
            .filter_map(|number| requests.remove(&number).map(|r| (number, r.records.into_keys().collect())))
            .collect()
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
/// [`Violation`] when the peer sent something that was not asked for or that does not match its record; the connection
/// is to be closed. Everything else that goes wrong is in the results.
pub async fn receive_stream(receiver: Receiver, mut stream: RecvStream) -> Result<(), Violation> {
    let mut intake = Intake { receiver, storing: JoinSet::new(), batch: Vec::new(), batch_bytes: 0 };
    let mut request = None;
    let outcome = intake.run(&mut stream, &mut request).await;
    intake.flush().await;
    while intake.stored().await {}
    let (reason, violation) = match outcome {
        Ok(()) => ("the peer did not send it".to_owned(), None),
        Err(Trouble::Broken(reason)) => (reason, None),
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
                let gone = Failure::Source("the peer no longer has it".into());
                self.report(vec![(record.hash, Err(gone))]).await;
                continue;
            }
            let (hash, size) = (record.hash, record.size);
            if (header.total, header.offset, header.length) != (size, 0, size) {
                let reason = format!(
                    "the peer sends {} bytes for an asset of {size}: {}",
                    header.length,
                    hash.short()
                );
                self.report(vec![(hash, Err(Failure::Source(reason.clone())))]).await;
                return Err(Trouble::Violation(reason));
            }
            let received = if size <= SMALL_BYTES_MAX {
                self.small(stream, record).await
            } else {
                self.large(stream, record).await
            };
            if let Err(trouble) = received {
                let (Trouble::Broken(reason) | Trouble::Violation(reason)) = &trouble;
                self.report(vec![(hash, Err(Failure::Source(reason.clone())))]).await;
                return Err(trouble);
            }
        }
    }

    fn expect(&self, header: &ContentHeader) -> Result<AssetRecord, Trouble> {
        let hash = ContentHash::from_slice(&header.hash)
            .ok_or_else(|| Trouble::Violation("a content header without a hash".into()))?;
        // Nothing of that request is expected any more after a stall or in a fresh session: no offence.
        self.receiver
            .expected
            .take(header.request, &hash, Instant::now())
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
            // No failure of the store: smaller assets may well find room.
            self.report(vec![(hash, Err(Failure::Source(error.to_string())))]).await;
            return Err(Trouble::Broken("our disk does not take it".into()));
        }
        let mut file = match HashingFile::create(&self.receiver.partial_dir) {
            Ok(file) => file,
            Err(e) => {
                let what = format!("cannot create a file in {}: {e}", self.receiver.partial_dir.display());
                self.report(vec![(hash, Err(Failure::Store(what)))]).await;
                return Err(Trouble::Broken("our disk does not take it".into()));
            }
        };
        let mut left = record.size;
        while left > 0 {
            let chunk = self.chunk(stream, left).await?;
            left -= chunk.len() as u64;
            if let Err(error) = file.write(chunk).await {
                self.report(vec![(hash, Err(Failure::Store(error.to_string())))]).await;
                return Err(Trouble::Broken("our disk does not take it".into()));
            }
        }
        let file = match file.finish().await {
            Ok(file) => file,
            Err(error) => {
                self.report(vec![(hash, Err(Failure::Store(error.to_string())))]).await;
                return Ok(());
            }
        };
        if file.sha256 != hash {
            return Err(Trouble::Violation(format!("the peer sent wrong bytes for {}", hash.short())));
        }
        self.store(vec![IncomingAsset { record, content: IncomingContent::File(file) }]).await;
        Ok(())
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
                    let failure = Failure::Store(error.to_string());
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
        Outcome::Rejected(reason) => Err(Failure::Source(reason)),
    }
}
