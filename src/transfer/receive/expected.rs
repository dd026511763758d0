//! What was asked for in one session and has not come.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::record::{AssetRecord, ContentHash};
use crate::wire::proto::ContentHeader;

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
    what: What,
    since: Instant,
    revoked: CancellationToken,
}

#[derive(Debug)]
enum What {
    Assets(HashMap<ContentHash, AssetRecord>),
    Part(PartOf),
}

/// A part of a large content, as far as it was missing when it was asked for.
#[derive(Clone, Debug)]
pub struct PartOf {
    /// Which content.
    pub hash: ContentHash,
    /// Size of the whole.
    pub size: u64,
    /// What of it has not begun to come, in order.
    pub ranges: Vec<Range<u64>>,
}

/// What a header announces.
#[derive(Debug)]
pub(super) enum Announced {
    Asset(Box<AssetRecord>),
    Range { hash: ContentHash, size: u64, range: Range<u64> },
}

/// What did not come of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Left {
    /// These assets.
    Assets(Vec<ContentHash>),
    /// All or some of the part that was asked for, of this content.
    Part(ContentHash),
    /// Nothing.
    Nothing,
}

impl Expected {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request for whole assets is about to be sent.
    pub fn add(&self, request: u64, records: Vec<AssetRecord>, now: Instant) {
        self.insert(request, What::Assets(records.into_iter().map(|r| (r.hash, r)).collect()), now);
    }

    /// A request for a part is about to be sent.
    pub fn add_part(&self, request: u64, part: PartOf, now: Instant) {
        self.insert(request, What::Part(part), now);
    }

    fn insert(&self, request: u64, what: What, now: Instant) {
        let revoked = CancellationToken::new();
        self.waiting().requests.insert(request, Request { what, since: now, revoked });
    }

    /// What arrives now; each is taken once.
    pub(super) fn take(&self, header: &ContentHeader, hash: &ContentHash) -> Option<Announced> {
        let mut waiting = self.waiting();
        match &mut waiting.requests.get_mut(&header.request)?.what {
            What::Assets(records) => records.remove(hash).map(|record| Announced::Asset(Box::new(record))),
            What::Part(part) if part.hash == *hash && !part.ranges.is_empty() => {
                let (hash, size, range) = (part.hash, part.size, part.ranges.remove(0));
                Some(Announced::Range { hash, size, range })
            }
            What::Part(_) => None,
        }
    }

    /// Whether more ranges of a part are expected.
    pub(super) fn ranges_left(&self, request: u64) -> bool {
        self.waiting().requests.get(&request).is_some_and(|request| request.what.left() != Left::Nothing)
    }

    /// Something came at `now`.
    pub(super) fn progress(&self, now: Instant) {
        self.waiting().last_progress = Some(now);
    }

    /// Is cancelled when the request is revoked.
    pub(super) fn revoked(&self, request: u64) -> CancellationToken {
        self.waiting().requests.get(&request).map(|request| request.revoked.clone()).unwrap_or_default()
    }

    /// The stream of a request is over: what it left out is no longer expected.
    pub(super) fn end(&self, request: u64) -> Left {
        self.waiting().requests.remove(&request).map_or(Left::Nothing, |request| request.what.left())
    }

    /// A request is not wanted any more, whatever has come of it.
    pub fn revoke(&self, request: u64) {
        if let Some(request) = self.waiting().requests.remove(&request) {
            request.revoked.cancel();
        }
    }

    /// When nothing at all came for `stall`: the requests that waited for so long, with what is missing of them. They
    /// are no longer expected.
    pub fn take_stalled(&self, stall: Duration, now: Instant) -> Vec<(u64, Left)> {
        let mut waiting = self.waiting();
        if waiting.last_progress.is_some_and(|at| now.duration_since(at) <= stall) {
            return Vec::new();
        }
        let stalled = |request: &Request| {
            // What has begun to come has a limit of its own.
            now.duration_since(request.since) > stall && request.what.left() != Left::Nothing
        };
        let requests = waiting.requests.extract_if(|_, request| stalled(request));
        requests
            .map(|(number, request)| {
                request.revoked.cancel();
                (number, request.what.left())
            })
            .collect()
    }
}

impl What {
    fn left(&self) -> Left {
        match self {
            Self::Assets(records) if records.is_empty() => Left::Nothing,
            Self::Assets(records) => Left::Assets(records.keys().copied().collect()),
            Self::Part(part) if part.ranges.is_empty() => Left::Nothing,
            Self::Part(part) => Left::Part(part.hash),
        }
    }
}
