//! The bodies of the sync API: length-delimited protobuf messages, with raw content between them where a header says
//! so. Service and client share this, so that neither can say what the other does not understand.

use std::fmt::Display;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use prost::Message;

use crate::entry::{EntryDigest, EntryHash, FolderRecord};
use crate::record::{ContentHash, Hlc};
use crate::store::entries::{EntryOutcome, HistoryPlace};
use crate::store::{Holding, ItemOutcome, Redating};
use crate::wire::decode::{Inbound, decode};
use crate::wire::proto::entry_result::Outcome as WireEntryOutcome;
use crate::wire::proto::ingest_result::Outcome as WireOutcome;
use crate::wire::proto::{EntryResult, IngestResult, RecordError, WireEntry, WireHolding, WireRedating};

/// Media type of these bodies.
pub const PROTOBUF: &str = "application/x-protobuf";
/// Set on a page of the feed that stands for a reset.
pub const FEED_RESET: &str = "x-feed-reset";
/// Up to which number a page of the feed has all there is.
pub const FEED_END: &str = "x-feed-end";
/// Names the store, on answers that have numbers of its feed.
pub const STORE_ID: &str = "x-store-id";
/// Asks with the feed for changes of folders, too. A header: a service that knows none refuses parameters that it does not know.
pub const FEED_ENTRIES: &str = "x-feed-entries";
/// Where the next page of a list of entries begins, if there is one.
pub const NEXT_CURSOR: &str = "x-next-cursor";
/// A place in the history of a path, as a parameter says it.
pub fn history_cursor(HistoryPlace { hlc, digest }: HistoryPlace) -> String {
    format!("{}-{}", hlc.0, data_encoding::HEXLOWER.encode(&digest.0))
}

/// The same back; `None` for what says no place.
pub fn history_place_of(text: &str) -> Option<HistoryPlace> {
    let (hlc, digest) = text.split_once('-')?;
    let digest = data_encoding::HEXLOWER.decode(digest.as_bytes()).ok()?;
    Some(HistoryPlace { hlc: Hlc(hlc.parse().ok()?), digest: EntryDigest(digest.try_into().ok()?) })
}

/// Most records, hashes or assets of one request, and most entries of one page.
pub const BATCH_MAX: usize = 1_000;
/// Most hashes in a query string; more go into a body, as URLs have limits on their way.
pub const QUERY_HASHES_MAX: usize = 50;
/// Longest message. A record holds at most 16 KiB of text, with little around it.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Content that is handed over in memory; larger content goes through a file.
pub const SMALL_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the connection was cut: {0}")]
    Cut(String),
    #[error("nothing came for {} s", .0.as_secs())]
    Stalled(Duration),
    #[error("the body ended too early")]
    Truncated,
    #[error("a message of {0} bytes is longer than any may be")]
    TooLong(u64),
    #[error("a message cannot be read: {0}")]
    Malformed(String),
}

/// Reads messages and content from a body, in bounded memory: never more than one message and one chunk.
pub struct BodyReader<S> {
    stream: S,
    /// What has arrived and was not taken yet.
    buffer: BytesMut,
    stall: Duration,
}

impl<S, E> BodyReader<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Display,
{
    /// Reads from `stream`, waiting at most `stall` for each chunk.
    pub fn new(stream: S, stall: Duration) -> Self {
        Self { stream, buffer: BytesMut::new(), stall }
    }

    /// The next message, or `None` at the end of the body.
    pub async fn message<M: Inbound>(&mut self) -> Result<Option<M>, BodyError> {
        loop {
            if let Some((prefix, length)) = self.message_length()? {
                let end = prefix + length;
                if self.buffer.len() >= end {
                    let bytes = self.buffer.split_to(end).freeze().slice(prefix..);
                    return decode(bytes).map(Some).map_err(|error| BodyError::Malformed(error.to_string()));
                }
            }
            match self.pull().await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(BodyError::Truncated),
            }
        }
    }

    /// The next bytes of content of which `left` are still to come; never empty, never more than that.
    pub async fn content(&mut self, left: u64) -> Result<Bytes, BodyError> {
        let at_most = |length: usize| usize::try_from(left).unwrap_or(length).min(length);
        if !self.buffer.is_empty() {
            return Ok(self.buffer.split_to(at_most(self.buffer.len())).freeze());
        }
        let mut chunk = self.pull().await?.ok_or(BodyError::Truncated)?;
        let mine = chunk.split_to(at_most(chunk.len()));
        self.buffer.extend_from_slice(&chunk);
        Ok(mine)
    }

    /// Where the message at the head of the buffer begins, and its length, once that much is known.
    fn message_length(&self) -> Result<Option<(usize, usize)>, BodyError> {
        // A length within the limit takes at most four bytes; ten is the longest that exists.
        let mut length = 0u64;
        for (index, byte) in self.buffer.iter().take(10).enumerate() {
            length |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return match usize::try_from(length) {
                    Ok(short) if short <= MESSAGE_BYTES_MAX => Ok(Some((index + 1, short))),
                    Ok(_) | Err(_) => Err(BodyError::TooLong(length)),
                };
            }
        }
        if self.buffer.len() >= 10 { Err(BodyError::TooLong(u64::MAX)) } else { Ok(None) }
    }

    async fn pull(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            let next = tokio::time::timeout(self.stall, self.stream.next()).await;
            match next.map_err(|_| BodyError::Stalled(self.stall))? {
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => return Ok(Some(chunk)),
                Some(Err(error)) => return Err(BodyError::Cut(error.to_string())),
                None => return Ok(None),
            }
        }
    }
}

/// Appends a message behind its length.
pub fn put(body: &mut Vec<u8>, message: &impl Message) {
    body.reserve(message.encoded_len() + 4);
    // A vector grows as needed, so that this cannot fail.
    let _ = message.encode_length_delimited(body);
}

pub fn result_of(hash: ContentHash, outcome: ItemOutcome) -> IngestResult {
    let (outcome, reason) = match outcome {
        ItemOutcome::Stored => (WireOutcome::Stored, String::new()),
        ItemOutcome::Unchanged => (WireOutcome::Unchanged, String::new()),
        ItemOutcome::NeedsContent => (WireOutcome::NeedsContent, String::new()),
        ItemOutcome::Rejected(reason) => (WireOutcome::Rejected, reason),
        ItemOutcome::Absent => (WireOutcome::Absent, String::new()),
    };
    IngestResult { hash: hash.0.to_vec().into(), outcome: outcome.into(), reason }
}

/// An outcome as it was received; `None` for one that does not exist.
pub fn outcome_of(result: IngestResult) -> Option<ItemOutcome> {
    match WireOutcome::try_from(result.outcome).ok()? {
        WireOutcome::Unspecified => None,
        WireOutcome::Stored => Some(ItemOutcome::Stored),
        WireOutcome::Unchanged => Some(ItemOutcome::Unchanged),
        WireOutcome::NeedsContent => Some(ItemOutcome::NeedsContent),
        WireOutcome::Rejected => Some(ItemOutcome::Rejected(result.reason)),
        WireOutcome::Absent => Some(ItemOutcome::Absent),
    }
}

/// What became of an entry, as it is sent.
pub fn entry_result_of(hash: EntryHash, outcome: EntryOutcome) -> EntryResult {
    let (outcome, reason, found) = match outcome {
        EntryOutcome::Stored => (WireEntryOutcome::Stored, String::new(), None),
        EntryOutcome::Unchanged => (WireEntryOutcome::Unchanged, String::new(), None),
        EntryOutcome::Changed(found) => (WireEntryOutcome::Changed, String::new(), found),
        EntryOutcome::Rejected(reason) => (WireEntryOutcome::Rejected, reason, None),
    };
    let found = found.as_deref().map(WireEntry::from);
    EntryResult { hash: hash.0.to_vec().into(), outcome: outcome.into(), reason, found }
}

/// What became of an entry, as it was received.
pub fn entry_outcome_of(result: EntryResult) -> Result<EntryOutcome, String> {
    match WireEntryOutcome::try_from(result.outcome) {
        Ok(WireEntryOutcome::Stored) => Ok(EntryOutcome::Stored),
        Ok(WireEntryOutcome::Unchanged) => Ok(EntryOutcome::Unchanged),
        Ok(WireEntryOutcome::Changed) => {
            let found = result.found.map(FolderRecord::try_from).transpose();
            Ok(EntryOutcome::Changed(found.map_err(|error| error.to_string())?.map(Box::new)))
        }
        Ok(WireEntryOutcome::Rejected) => Ok(EntryOutcome::Rejected(result.reason)),
        Ok(WireEntryOutcome::Unspecified) | Err(_) => Err("an outcome is unknown".into()),
    }
}

pub fn wire_holding(holding: Holding) -> WireHolding {
    match holding {
        Holding::Held => WireHolding::Held,
        Holding::Wanted => WireHolding::Wanted,
        Holding::Unwanted => WireHolding::Unwanted,
    }
}

/// A holding as it was received; `None` for one that does not exist.
pub fn holding_of(wire: i32) -> Option<Holding> {
    match WireHolding::try_from(wire).ok()? {
        WireHolding::Unspecified => None,
        WireHolding::Held => Some(Holding::Held),
        WireHolding::Wanted => Some(Holding::Wanted),
        WireHolding::Unwanted => Some(Holding::Unwanted),
    }
}

impl From<&Redating> for WireRedating {
    fn from(redating: &Redating) -> Self {
        let hash = Bytes::copy_from_slice(&redating.hash().0);
        match redating {
            Redating::Reassert { other, .. } => Self { hash, now_ms: None, hlc: other.0 },
            Redating::Recall { now_ms, known, .. } => Self { hash, now_ms: Some(*now_ms), hlc: known.0 },
        }
    }
}

impl TryFrom<WireRedating> for Redating {
    type Error = RecordError;

    fn try_from(wire: WireRedating) -> Result<Self, Self::Error> {
        let len = wire.hash.len();
        let hash =
            ContentHash::from_slice(&wire.hash).ok_or(RecordError::FieldLength { field: "hash", len })?;
        Ok(match wire.now_ms {
            None => Self::Reassert { hash, other: Hlc(wire.hlc) },
            Some(now_ms) => Self::Recall { hash, now_ms, known: Hlc(wire.hlc) },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    const STALL: Duration = Duration::from_secs(1);

    fn reader(chunks: Vec<Vec<u8>>) -> BodyReader<impl Stream<Item = Result<Bytes, Infallible>> + Unpin> {
        BodyReader::new(futures::stream::iter(chunks.into_iter().map(|chunk| Ok(chunk.into()))), STALL)
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    fn result(reason: &str) -> IngestResult {
        IngestResult { hash: Bytes::new(), outcome: 1, reason: reason.into() }
    }

    proptest! {
        /// Wherever the network cuts, the same messages and the same content come out.
        #[test]
        fn cuts_do_not_matter(
            parts in prop::collection::vec(("[a-z]{0,200}", prop::collection::vec(any::<u8>(), 0..300)), 0..8),
            cuts in prop::collection::vec(1..50usize, 1..20),
        ) {
            let mut body = Vec::new();
            for (text, content) in &parts {
                put(&mut body, &result(text));
                body.extend_from_slice(content);
            }
            let mut chunks = Vec::new();
            let mut cuts = cuts.iter().cycle();
            while !body.is_empty() {
                let rest = body.split_off(body.len().min(*cuts.next().unwrap()));
                chunks.push(std::mem::replace(&mut body, rest));
            }
            block_on(async move {
                let mut reader = reader(chunks);
                for (text, content) in parts {
                    let message: IngestResult = reader.message().await.unwrap().unwrap();
                    assert_eq!(message, result(&text));
                    let mut got = Vec::new();
                    while got.len() < content.len() {
                        got.extend_from_slice(&reader.content((content.len() - got.len()) as u64).await.unwrap());
                    }
                    assert_eq!(got, content);
                }
                assert!(reader.message::<IngestResult>().await.unwrap().is_none());
            });
        }

        #[test]
        fn garbage_is_refused_or_read_but_never_trusted(body in prop::collection::vec(any::<u8>(), 0..200)) {
            block_on(async move {
                let mut reader = reader(vec![body]);
                while let Ok(Some(_)) = reader.message::<IngestResult>().await {}
                assert!(reader.buffer.len() <= 200);
            });
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_kept() {
        let error = block_on(async { reader(vec![vec![0xff; 9], vec![1]]).message::<IngestResult>().await });
        assert!(matches!(error, Err(BodyError::TooLong(_))));
        let error = block_on(async { reader(vec![vec![0xff; 20]]).message::<IngestResult>().await });
        assert!(matches!(error, Err(BodyError::TooLong(_))));
    }

    #[test]
    fn a_body_that_ends_inside_is_truncated() {
        let mut body = Vec::new();
        put(&mut body, &result("abc"));
        body.pop();
        let error = block_on(async { reader(vec![body]).message::<IngestResult>().await });
        assert!(matches!(error, Err(BodyError::Truncated)));
        let error = block_on(async { reader(vec![]).content(1).await });
        assert!(matches!(error, Err(BodyError::Truncated)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_is_given_up() {
        let mut reader = BodyReader::new(futures::stream::pending::<Result<Bytes, Infallible>>(), STALL);
        assert!(matches!(reader.message::<IngestResult>().await, Err(BodyError::Stalled(_))));
    }
}
