//! The sending end of a content stream: one stream answers one request, with a header before each content.
//!
//! Nothing is hashed here: the record vouches for the content and the receiver checks it, of large contents group by group, for
//! which the header has a proof where the receiver asks for one. Large contents go one after the other, in the order in which they
//! were asked for, as many at a time as the path takes ([`SendStreams`]); a request for a pack of small ones passes them by.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use iroh::endpoint::{Connection, SendStream, VarInt};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::active::ActiveTransfers;
use super::pace::Pace;
use super::schedule::SMALL_BYTES_MAX;
use super::streams::{PathLook, StreamCount};
use super::turns::{Turn, Turns};
use crate::library::Library;
use crate::net::bulk::{BulkCarrier, Carrying};
use crate::net::endpoint::{STREAM_WINDOW, path_in_use};
use crate::record::ContentHash;
use crate::store::groups::{GROUP_BYTES, groups_of};
use crate::store::{ContentReader, StoreError, StoreRef, StoredRecord};
use crate::wire;
use crate::wire::proto::{ContentHeader, ContentRequest, Want};

/// Contents that are read from the store at once; small ones have at most 64 KiB.
const READ_AT_ONCE: usize = 32;

/// A request for so many contents is worth a bulk connection, however small they are.
const PACK_WORTH_BULK: usize = 16;
/// Packs of small contents go ahead of large ones, which have the priorities from 0 downwards.
const PACK_PRIORITY: i32 = 1;

/// Content bytes that went to and came from one peer since the process started.
#[derive(Debug, Default)]
pub struct Traffic {
    pub sent: AtomicU64,
    pub received: AtomicU64,
    /// Streams of which something that came waits for us.
    held: AtomicUsize,
}

impl Traffic {
    /// Something that came waits for us, until this is dropped.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> TrafficHold {
        self.held.fetch_add(1, Ordering::Relaxed);
        TrafficHold(Arc::clone(self))
    }

    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed) > 0
    }
}

/// See [`Traffic::hold`].
#[derive(Debug)]
pub struct TrafficHold(Arc<Traffic>);

impl Drop for TrafficHold {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a request could not be served to its end.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("the peer took no data for {} s", .0.as_secs())]
    Stalled(Duration),
    #[error("the content stream broke: {0}")]
    Broken(String),
    /// Our store failed in the middle of a content.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The streams that carry large contents of one session. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SendStreams(Arc<StreamLine>);

#[derive(Debug)]
struct StreamLine {
    turns: Turns,
    count: Mutex<StreamCount>,
    /// Of the next stream for a large content: what was asked for first goes first.
    priority: AtomicI32,
}

impl Default for SendStreams {
    fn default() -> Self {
        let (turns, count) = (Turns::new(1), Mutex::default());
        Self(Arc::new(StreamLine { turns, count, priority: AtomicI32::new(0) }))
    }
}

impl SendStreams {
    /// The place in the line of a request that is about to be served. A request for several whole contents is one for small ones,
    /// and waits for no other.
    #[must_use]
    pub fn turn_for(&self, want: &Want) -> Option<Turn> {
        let is_pack = want.contents.len() > 1 && want.contents.iter().all(|content| content.length == 0);
        (!is_pack).then(|| self.0.turns.join())
    }

    /// Contents are going over this connection: chooses anew how many streams carry large ones, now and then.
    fn look(&self, connection: &Connection) {
        let now = Instant::now();
        let mut count = self.0.count.lock();
        if !count.is_due(now) {
            return;
        }
        let paths = connection.paths();
        let Some(path) = path_in_use(&paths) else {
            return;
        };
        let stats = path.stats();
        let mut hasher = std::hash::DefaultHasher::new();
        path.remote_addr().hash(&mut hasher);
        let which = (connection.stable_id(), hasher.finish());
        let look = PathLook { path: which, rtt: stats.rtt, sent: stats.sent_bytes };
        self.0.turns.set_at_once(count.look(now, look, STREAM_WINDOW));
    }

    fn next_priority(&self) -> i32 {
        // After two thousand million streams, it begins anew.
        let next = self.0.priority.fetch_sub(1, Ordering::Relaxed);
        next.min(0)
    }
}

#[derive(Clone)]
pub struct Sender {
    /// Chooses the connection.
    pub carrier: BulkCarrier,
    pub streams: SendStreams,
    pub store: StoreRef,
    /// Bytes sent are counted here.
    pub traffic: Arc<Traffic>,
    /// Large contents under way are noted here.
    pub moving: ActiveTransfers,
    /// A stream that takes no byte for so long is given up.
    pub stall: Duration,
    /// How fast content may go out.
    pub pace: Pace,
    /// The libraries whose contents the peer may have; `None` for all that the store holds. What is in none of them and
    /// what does not exist are answered alike, and neither is looked for.
    pub within: Option<Arc<[Arc<Library>]>>,
}

/// The stream that answers one request; it is opened once there is something to say. Dropped before its end, it is reset.
struct AnswerStream<'a> {
    sender: &'a Sender,
    /// The request's place among those for large contents.
    turn: Option<Turn>,
    worth_bulk: bool,
    open: Option<(SendStream, Carrying)>,
    /// Whether it broke with its bulk connection.
    is_lost: bool,
}

impl AnswerStream<'_> {
    /// A large content is about to be sent.
    async fn come_for_large(&mut self) {
        self.worth_bulk = true;
        if let Some(turn) = &self.turn {
            turn.come().await;
        }
    }

    async fn send(&mut self, mut chunks: [Bytes; 2]) -> Result<(), SendError> {
        let sender = self.sender;
        let (stream, carrying) = match &mut self.open {
            Some(open) => open,
            open @ None => {
                let carrying = sender.carrier.carry(self.worth_bulk).await;
                let opened = sender.limited(carrying.connection().open_uni()).await;
                let stream = opened.inspect_err(|_| self.is_lost = carrying.is_lost())?;
                let is_large = self.worth_bulk && self.turn.is_some();
                let priority = if is_large { sender.streams.next_priority() } else { PACK_PRIORITY };
                // One that was stopped already says so when it is written to.
                let _ = stream.set_priority(priority);
                open.insert((stream, carrying))
            }
        };
        let written = sender.limited(stream.write_all_chunks(&mut chunks)).await;
        written.inspect_err(|_| self.is_lost = carrying.is_lost())?;
        sender.streams.look(carrying.connection());
        Ok(())
    }

    fn finish(mut self) -> Result<(), SendError> {
        let Some((mut stream, _)) = self.open.take() else { return Ok(()) };
        stream.finish().map_err(|e| SendError::Broken(e.to_string()))
    }
}

impl Drop for AnswerStream<'_> {
    fn drop(&mut self) {
        if let Some((stream, _)) = &mut self.open {
            // Dropping it would end it as if it were complete. One that is closed already needs no reset.
            let _ = stream.reset(VarInt::from_u32(1));
        }
    }
}

impl Sender {
    /// Sends everything that `want` asks for over one new stream, in order. `turn` is its place among the requests for large
    /// contents ([`SendStreams::turn_for`]). After an error, the stream is reset, and the receiver asks again.
    pub async fn serve(&self, want: Want, turn: Option<Turn>) -> Result<(), SendError> {
        let worth_bulk = want.contents.len() >= PACK_WORTH_BULK;
        let mut stream = AnswerStream { sender: self, turn, worth_bulk, open: None, is_lost: false };
        let mut served = self.serve_all(&mut stream, want.clone()).await;
        if stream.is_lost {
            // Who saw none of it waits for it, and takes it from elsewhere as well; who did asks anew.
            stream.open = None;
            served = self.serve_all(&mut stream, want).await;
        }
        served?;
        stream.finish()
    }

    /// Those of these contents that the peer may have, as its libraries are at this moment.
    async fn may_have(&self, contents: &[ContentRequest]) -> HashSet<ContentHash> {
        let hashes = contents.iter().filter_map(|content| ContentHash::from_slice(&content.hash));
        let Some(libraries) = &self.within else { return hashes.collect() };
        // What no index knows is not looked for.
        let known: Vec<ContentHash> =
            hashes.filter(|hash| libraries.iter().any(|library| library.has(hash))).collect();
        let stored =
            if known.is_empty() { Vec::new() } else { self.store.records(known).await.unwrap_or_default() };
        let in_one = |stored: &&StoredRecord| libraries.iter().any(|library| library.serves(stored));
        stored.iter().filter(in_one).map(|stored| stored.record.hash).collect()
    }

    async fn serve_all(&self, stream: &mut AnswerStream<'_>, want: Want) -> Result<(), SendError> {
        for contents in want.contents.chunks(READ_AT_ONCE) {
            let allowed = self.may_have(contents).await;
            let small = self.small_contents(&allowed).await;
            for content in contents {
                match small.get(content.hash.as_ref()).filter(|_| content.offset == 0 && content.length == 0)
                {
                    Some(bytes) => self.serve_small(stream, want.request, content, bytes.clone()).await?,
                    None => self.serve_one(stream, want.request, content, &allowed).await?,
                }
            }
        }
        Ok(())
    }

    /// Whether a content is one that waits for its turn.
    async fn is_large(&self, hash: ContentHash) -> bool {
        let found = self.store.records(vec![hash]).await.unwrap_or_default();
        found.first().is_some_and(|stored| stored.record.size > SMALL_BYTES_MAX)
    }

    /// What of these can be had in one read.
    async fn small_contents(&self, hashes: &HashSet<ContentHash>) -> HashMap<[u8; 32], Bytes> {
        let hashes = hashes.iter().copied().collect();
        // Whatever is not here is read one by one, where a failure has its own answer.
        let found = self.store.small_contents(hashes).await.unwrap_or_default();
        found.into_iter().map(|(hash, bytes)| (hash.0, bytes)).collect()
    }

    async fn serve_small(
        &self,
        stream: &mut AnswerStream<'_>,
        request: u64,
        wanted: &ContentRequest,
        content: Bytes,
    ) -> Result<(), SendError> {
        // What is small waits for nothing.
        stream.turn = None;
        let length = content.len() as u64;
        let hash = wanted.hash.clone();
        let header = ContentHeader { request, hash, length, total: length, ..ContentHeader::default() };
        self.pace.take(content.len()).await;
        stream.send([wire::encode(&header), content]).await?;
        self.traffic.sent.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    async fn serve_one(
        &self,
        stream: &mut AnswerStream<'_>,
        request: u64,
        wanted: &ContentRequest,
        allowed: &HashSet<ContentHash>,
    ) -> Result<(), SendError> {
        let length = (wanted.length > 0).then_some(wanted.length);
        let mut hash = ContentHash::from_slice(&wanted.hash).filter(|hash| allowed.contains(hash));
        if let Some(large) = hash
            && self.is_large(large).await
        {
            stream.come_for_large().await;
            // Its turn may come much later, and what the peer may have is decided when it gets it.
            let still = self.may_have(std::slice::from_ref(wanted)).await;
            hash = hash.filter(|hash| still.contains(hash));
        }
        let reader = match hash {
            Some(hash) => self.store.content(hash, wanted.offset, length).await,
            None => Err(StoreError::Invalid("no hash of a content that the peer may have".into())),
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
                return stream.send([wire::encode(&header), Bytes::new()]).await;
            }
        };
        header.total = total;
        header.length = length.unwrap_or(u64::MAX).min(total.saturating_sub(wanted.offset));
        if let Some(hash) = hash.filter(|_| wanted.proved) {
            header.proof = self.proof(hash, wanted.offset..wanted.offset + header.length).await;
        }
        let mut left = header.length;
        let passage = hash.filter(|_| total > SMALL_BYTES_MAX).map(|hash| self.moving.begin(hash, total));
        let mut front = wire::encode(&header);
        // The header goes out together with the first chunk.
        while let Some(chunk) = chunks.next().await.transpose()? {
            left = left.saturating_sub(chunk.len() as u64);
            let mut rest = chunk;
            while !rest.is_empty() {
                // With a limit, small steps: everybody who waits gets some within a stall's time.
                let piece = rest.split_to(rest.len().min(self.pace.step_bytes()));
                let bytes = piece.len();
                self.pace.take(bytes).await;
                stream.send([std::mem::take(&mut front), piece]).await?;
                self.traffic.sent.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            if let Some(passage) = &passage {
                passage.set(header.offset + header.length - left);
            }
        }
        if left > 0 {
            return Err(SendError::Broken("the store ended a content early".into()));
        }
        if front.is_empty() { Ok(()) } else { stream.send([front, Bytes::new()]).await }
    }

    /// Proves whole groups of a content; empty where the store cannot.
    async fn proof(&self, hash: ContentHash, range: Range<u64>) -> Bytes {
        if !range.start.is_multiple_of(GROUP_BYTES as u64) {
            return Bytes::new();
        }
        match self.store.proof(hash, groups_of(&range)).await {
            Ok(proof) => Bytes::from(proof.into_flattened()),
            Err(error) => {
                tracing::debug!(%hash, %error, "a content cannot be proved");
                Bytes::new()
            }
        }
    }

    async fn limited<T, E: std::fmt::Display>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, SendError> {
        match timeout(self.stall, work).await {
            Ok(result) => result.map_err(|e| SendError::Broken(e.to_string())),
            Err(_) => Err(SendError::Stalled(self.stall)),
        }
    }
}
