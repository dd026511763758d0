//! The receiving end of a content stream: checks every header against what was asked for, keeps small contents in
//! memory until a batch is full, streams larger ones into files that are hashed as they are written, and hands both to
//! the store. Parts of large ones are written at their place, group by group as each is proved, and somebody else looks at the
//! whole.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use iroh::EndpointId;
use iroh::endpoint::RecvStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::active::{ActiveTransfers, TransferGuard};
use super::pace::Pace;
use super::partial::Partials;
use super::schedule::{FetchFailure, SMALL_BYTES_MAX, WantKey};
use super::send::Traffic;
use super::take::Taker;
use crate::record::{AssetRecord, ContentHash, LibraryId};
use crate::store::groups::GroupSum;
use crate::store::hashing_file::HashingFile;
use crate::store::{IncomingAsset, IncomingContent, ItemOutcome, ReceivedFile, StoreError};
use crate::wire::proto::ContentHeader;
use crate::wire::{self, WireError};

mod expected;
mod part;
mod source;

use self::expected::Announced;
pub use self::expected::{Expected, Left, PartOf};
pub use self::part::{check_room, check_room_for_parts};
pub use self::source::{Breaks, BulkSource};

/// Small contents that go to the store together.
const BATCH_ASSETS: usize = 256;
const BATCH_BYTES: usize = 1024 * 1024;
/// Batches of one stream that the store works on while the next one is being received.
const BATCHES_IN_STORE: usize = 2;
/// Bytes taken from the network at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// Why a content was refused whose hash is another than its record's.
const WRONG_BYTES: &str = "the peer sent wrong bytes";

/// What became of contents that were asked for: here, or not.
pub type Results = Vec<(WantKey, Result<(), FetchFailure>)>;

/// What became of what was asked for.
#[derive(Debug)]
pub enum ReceiveOutcome {
    Contents(Results),
    /// A part of a large one.
    Part {
        request: u64,
        key: WantKey,
        result: Result<(), FetchFailure>,
    },
}

#[derive(Clone)]
pub struct Receiver {
    pub taker: Taker,
    pub partials: Partials,
    pub peer: EndpointId,
    pub expected: Arc<Expected>,
    /// Bytes received are counted here.
    pub traffic: Arc<Traffic>,
    /// Large contents under way are noted here.
    pub moving: ActiveTransfers,
    /// A transfer without progress for so long is given up.
    pub stall: Duration,
    /// How fast content may come in.
    pub pace: Pace,
    /// Results go here as they come.
    pub results: mpsc::Sender<ReceiveOutcome>,
    /// The bulk connection that the streams are on; `None` for the session's own connection.
    pub bulk: Option<Arc<BulkSource>>,
}

impl Receiver {
    /// What a stream that ended early means.
    fn broken(&self, reason: String) -> FetchFailure {
        match &self.bulk {
            Some(bulk) => bulk.failure(reason),
            None => FetchFailure::Source(reason),
        }
    }
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
    let (storing, batch) = (JoinSet::new(), Vec::new());
    let mut intake = Intake { receiver, library: None, storing, batch, batch_bytes: 0 };
    let first = intake.header(&mut stream).await;
    let request = first.as_ref().ok().and_then(|header| header.as_ref()).map(|header| header.request);
    let revoked = request.map(|request| intake.receiver.expected.revoked(request)).unwrap_or_default();
    let outcome = tokio::select! {
        outcome = async {
            match first? {
                Some(first) => intake.run(&mut stream, first).await,
                None => Ok(()),
            }
        } => outcome,
        // Dropped, the stream tells its sender to stop.
        () = revoked.cancelled() => Err(Trouble::Broken("it is not wanted of the peer any more".into())),
    };
    intake.flush().await;
    while intake.stored().await {}
    let (reason, violation) = match outcome {
        Ok(()) => ("the peer did not send it".to_owned(), None),
        Err(Trouble::Broken(reason) | Trouble::Reported(reason)) => (reason, None),
        Err(Trouble::Violation(reason)) => (reason.clone(), Some(Violation(reason))),
    };
    if let Some(request) = request {
        let failure = intake.receiver.broken(reason);
        match intake.receiver.expected.end(request) {
            Left::Assets(missing) => {
                let failures = missing.into_iter().map(|key| (key, Err(failure.clone()))).collect();
                intake.report(failures).await;
            }
            Left::Part(key) => intake.report_part(request, key, Err(failure)).await,
            Left::Nothing => {}
        }
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
    /// What the stream brings is for this library, or for the mirror.
    library: Option<LibraryId>,
    storing: JoinSet<Results>,
    batch: Vec<IncomingAsset>,
    batch_bytes: usize,
}

impl Intake {
    async fn header(&self, stream: &mut RecvStream) -> Result<Option<ContentHeader>, Trouble> {
        let header = timeout(self.receiver.stall, wire::read_header(stream)).await;
        Ok(header.map_err(|_| self.stalled())??)
    }

    async fn run(&mut self, stream: &mut RecvStream, first: ContentHeader) -> Result<(), Trouble> {
        let request = first.request;
        let mut next = Some(first);
        while let Some(header) = next {
            if header.request != request {
                return Err(Trouble::Violation("one stream answers two requests".into()));
            }
            match self.expect(&header)? {
                Announced::Asset(library, record) => {
                    self.library = library;
                    self.asset(stream, &header, *record).await?;
                }
                Announced::Range(key, root, range) => self.range(stream, &header, key, root, range).await?,
            }
            next = self.header(stream).await?;
        }
        Ok(())
    }

    async fn asset(
        &mut self,
        stream: &mut RecvStream,
        header: &ContentHeader,
        record: AssetRecord,
    ) -> Result<(), Trouble> {
        let (key, size) = (WantKey::new(self.library, &record), record.size);
        if header.gone {
            let gone = FetchFailure::Source("the peer cannot serve it now".into());
            self.report(vec![(key, Err(gone))]).await;
            return Ok(());
        }
        if (header.total, header.offset, header.length) != (size, 0, size) {
            let lie = format!("{WRONG_BYTES}: {} bytes for an asset of {size}", header.length);
            return self.refuse(key, FetchFailure::WrongBytes(lie)).await;
        }
        let received = if size <= SMALL_BYTES_MAX {
            self.small(stream, record).await
        } else {
            self.large(stream, record).await
        };
        match received {
            Err(Trouble::Broken(reason)) => self.refuse(key, self.receiver.broken(reason)).await,
            other => other,
        }
    }

    /// Takes in one range of a part, and reports the part with its last.
    async fn range(
        &mut self,
        stream: &mut RecvStream,
        header: &ContentHeader,
        key: WantKey,
        root: Option<GroupSum>,
        range: Range<u64>,
    ) -> Result<(), Trouble> {
        let (size, length) = (key.size, range.end - range.start);
        let result = if header.gone {
            Err(FetchFailure::Source("the peer cannot serve it now".into()))
        } else if (header.total, header.offset, header.length) != (size, range.start, length) {
            let what = format!("{} bytes at {} of {}", header.length, header.offset, header.total);
            let asked = format!("{length} at {} of {size}", range.start);
            Err(FetchFailure::WrongBytes(format!("{WRONG_BYTES}: {what}, asked for {asked}")))
        } else {
            let moving = self.receiver.moving.begin(key.hash, size);
            let part = match part::sums_of(header, root, &range) {
                Ok(sums) => self.part(stream, key, root, range, sums).await,
                Err(failure) => Ok(Err(failure)),
            };
            drop(moving);
            match part {
                Ok(result) => result,
                Err(Trouble::Broken(reason)) => Err(self.receiver.broken(reason)),
                Err(trouble) => return Err(trouble),
            }
        };
        let left = self.receiver.expected.ranges_left(header.request);
        match result {
            Ok(()) if left => Ok(()),
            Ok(()) => {
                self.report_part(header.request, key, Ok(())).await;
                Ok(())
            }
            Err(failure) => {
                let reason = failure.reason().to_owned();
                self.receiver.expected.end(header.request);
                self.report_part(header.request, key, Err(failure)).await;
                Err(Trouble::Reported(reason))
            }
        }
    }

    /// Reports what became of a content, and ends the stream.
    async fn refuse(&self, key: WantKey, failure: FetchFailure) -> Result<(), Trouble> {
        let reason = failure.reason().to_owned();
        self.report(vec![(key, Err(failure))]).await;
        Err(Trouble::Reported(reason))
    }

    fn expect(&self, header: &ContentHeader) -> Result<Announced, Trouble> {
        let hash = ContentHash::from_slice(&header.hash)
            .ok_or_else(|| Trouble::Violation("a content header without a hash".into()))?;
        // Nothing of that request is expected any more after a stall or in a fresh session: no offence.
        self.receiver
            .expected
            .take(header, &hash)
            .ok_or_else(|| Trouble::Broken("a content that is not expected (any more)".into()))
    }

    async fn small(&mut self, stream: &mut RecvStream, record: AssetRecord) -> Result<(), Trouble> {
        let len = usize::try_from(record.size).map_err(|e| Trouble::Violation(e.to_string()))?;
        let mut content = BytesMut::zeroed(len);
        let until = Instant::now() + self.receiver.stall;
        let mut filled = 0;
        while filled < len {
            let read = timeout_at(until, stream.read(&mut content[filled..]))
                .await
                .map_err(|_| self.stalled())?
                .map_err(|e| Trouble::Broken(e.to_string()))?
                .ok_or_else(|| Trouble::Broken("the stream ended inside a content".into()))?;
            filled += read;
            // Piece by piece, so that one that drips is seen to drip.
            self.count(read).await;
        }
        self.batch_bytes += len;
        self.batch.push(IncomingAsset { record, content: IncomingContent::Bytes(content.freeze()) });
        if self.batch.len() >= BATCH_ASSETS || self.batch_bytes >= BATCH_BYTES {
            self.flush().await;
        }
        Ok(())
    }

    async fn large(&mut self, stream: &mut RecvStream, record: AssetRecord) -> Result<(), Trouble> {
        let (key, hash) = (WantKey::new(self.library, &record), record.hash);
        if let Err(failure) = check_room(&self.receiver.taker.store, record.size) {
            return self.refuse(key, failure).await;
        }
        let moving = self.receiver.moving.begin(hash, record.size);
        match self.large_file(stream, record.size, &moving).await? {
            Ok(file) if file.sha256 == hash => {
                self.store(vec![IncomingAsset { record, content: IncomingContent::File(file) }]).await;
                Ok(())
            }
            Ok(_) => {
                self.report(vec![(key, Err(FetchFailure::WrongBytes(WRONG_BYTES.into())))]).await;
                Ok(())
            }
            Err(failure) => self.refuse(key, failure).await,
        }
    }

    /// Receives one content into a file; the inner error is our own disk's.
    async fn large_file(
        &self,
        stream: &mut RecvStream,
        size: u64,
        moving: &TransferGuard,
    ) -> Result<Result<ReceivedFile, FetchFailure>, Trouble> {
        let dir = self.receiver.partials.dir();
        let mut file = match HashingFile::create(dir) {
            Ok(file) => file,
            Err(e) => {
                return Ok(Err(FetchFailure::Store(format!(
                    "cannot create a file in {}: {e}",
                    dir.display()
                ))));
            }
        };
        let mut left = size;
        while left > 0 {
            let chunk = self.chunk(stream, left).await?;
            left -= chunk.len() as u64;
            let held = self.receiver.traffic.hold();
            if let Err(error) = file.write(chunk).await {
                return Ok(Err(FetchFailure::Store(error.to_string())));
            }
            drop(held);
            moving.set(size - left);
        }
        Ok(file.finish().await.map_err(|error| FetchFailure::Store(error.to_string())))
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
        let _held = self.receiver.traffic.hold();
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
        let (taker, library) = (self.receiver.taker.clone(), self.library);
        let held = self.receiver.traffic.hold();
        self.storing.spawn(async move {
            let _held = held;
            let keys: Vec<WantKey> = batch.iter().map(|asset| WantKey::new(library, &asset.record)).collect();
            match taker.ingest(library, batch).await {
                Ok(outcomes) => keys.into_iter().zip(outcomes.into_iter().map(result)).collect(),
                Err(error) => {
                    let failure = if let StoreError::Invalid(reason) | StoreError::OverQuota(reason) = &error
                    {
                        // The same would be refused again.
                        FetchFailure::Asset(reason.clone())
                    } else {
                        FetchFailure::Store(error.to_string())
                    };
                    keys.into_iter().map(|key| (key, Err(failure.clone()))).collect()
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
            let _ = self.receiver.results.send(ReceiveOutcome::Contents(results)).await;
        }
    }

    async fn report_part(&self, request: u64, key: WantKey, result: Result<(), FetchFailure>) {
        let _ = self.receiver.results.send(ReceiveOutcome::Part { request, key, result }).await;
    }
}

fn result(outcome: ItemOutcome) -> Result<(), FetchFailure> {
    match outcome {
        ItemOutcome::Stored | ItemOutcome::Unchanged => Ok(()),
        ItemOutcome::NeedsContent | ItemOutcome::Absent => {
            Err(FetchFailure::Store("the store lost the content again".into()))
        }
        ItemOutcome::Rejected(reason) => {
            Err(FetchFailure::WrongBytes(format!("{WRONG_BYTES}, or a wrong record: {reason}")))
        }
    }
}
