//! What was asked for in one session and has not come.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::record::{AssetRecord, ContentHash, LibraryId};
use crate::store::groups::GroupSum;
use crate::transfer::schedule::WantKey;
use crate::wire::proto::ContentHeader;

/// The requests of one session that wait for their contents.
#[derive(Debug, Default)]
pub struct Expected {
    waiting: Mutex<WaitingRequests>,
}

#[derive(Debug, Default)]
struct WaitingRequests {
    requests: HashMap<u64, Request>,
    /// When anything came last; a request that waits behind others at the sender makes no progress of its own.
    last_progress: Option<Instant>,
}

#[derive(Debug)]
struct Request {
    what: What,
    since: Instant,
    begun: bool,
    revoked: CancellationToken,
}

#[derive(Debug)]
enum What {
    Assets(Option<LibraryId>, HashMap<ContentHash, AssetRecord>),
    Part(PartOf),
}

/// A part of a large content, as far as it was missing when it was asked for.
#[derive(Clone, Debug)]
pub struct PartOf {
    /// Which content, and for which library.
    pub key: WantKey,
    /// BLAKE3 of the whole, as the peer said, which every range is to be proved for; else what comes is taken as it is.
    pub root: Option<GroupSum>,
    /// What of it has not begun to come, in order.
    pub ranges: Vec<Range<u64>>,
}

#[derive(Debug)]
pub(super) enum Announced {
    Asset(Option<LibraryId>, Box<AssetRecord>),
    Range(WantKey, Option<GroupSum>, Range<u64>),
}

/// What did not come of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Left {
    Assets(Vec<WantKey>),
    /// All or some of the part that was asked for, of this content.
    Part(WantKey),
    Nothing,
}

impl Expected {
    fn waiting(&self) -> MutexGuard<'_, WaitingRequests> {
        self.waiting.lock()
    }

    /// A request for whole assets of a library (`None` for the mirror) is about to be sent.
    pub fn add(&self, request: u64, library: Option<LibraryId>, records: Vec<AssetRecord>, now: Instant) {
        let records = records.into_iter().map(|record| (record.hash, record)).collect();
        self.insert(request, What::Assets(library, records), now);
    }

    /// A request for a part is about to be sent.
    pub fn add_part(&self, request: u64, part: PartOf, now: Instant) {
        self.insert(request, What::Part(part), now);
    }

    fn insert(&self, request: u64, what: What, now: Instant) {
        let revoked = CancellationToken::new();
        self.waiting().requests.insert(request, Request { what, since: now, begun: false, revoked });
    }

    /// What arrives now; each is taken once.
    pub(super) fn take(&self, header: &ContentHeader, hash: &ContentHash) -> Option<Announced> {
        let mut waiting = self.waiting();
        let request = waiting.requests.get_mut(&header.request)?;
        request.begun = true;
        match &mut request.what {
            What::Assets(library, records) => {
                records.remove(hash).map(|record| Announced::Asset(*library, Box::new(record)))
            }
            What::Part(part) if part.key.hash == *hash && !part.ranges.is_empty() => {
                Some(Announced::Range(part.key, part.root, part.ranges.remove(0)))
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

    /// The requests of which nothing has begun to come, with what they were for. They are no longer expected.
    pub fn take_unbegun(&self) -> Vec<(u64, Left)> {
        let mut waiting = self.waiting();
        let requests = waiting.requests.extract_if(|_, request| !request.begun);
        requests
            .map(|(number, request)| {
                request.revoked.cancel();
                (number, request.what.left())
            })
            .collect()
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
            Self::Assets(_, records) if records.is_empty() => Left::Nothing,
            Self::Assets(library, records) => {
                Left::Assets(records.values().map(|record| WantKey::new(*library, record)).collect())
            }
            Self::Part(part) if part.ranges.is_empty() => Left::Nothing,
            Self::Part(part) => Left::Part(part.key),
        }
    }
}
