//! What the scheduler is told and what it decides, in its own terms.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::WantKey;
use crate::record::{AssetRecord, LibraryId};
use crate::store::groups::GroupSum;

/// One session; a peer gets a new number whenever it has a new one, so that late messages are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// How much may be on its way.
#[derive(Clone, Copy, Debug)]
pub struct ScheduleLimits {
    /// Bytes in flight from all peers.
    pub node_bytes: u64,
    /// Bytes in flight from one peer.
    pub peer_bytes: u64,
    /// Assets above this size are asked for in parts of it.
    pub part_bytes: u64,
    /// A source that sends next to nothing for so long is given up in any case.
    pub stall: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchFailure {
    /// The source's fault: gone, broken off, no progress. Another one is tried.
    Source(String),
    /// Nobody's fault: the connection broke that it came on, and the session goes on. The same source may be asked again.
    Interrupted(String),
    /// The source sent something else than was asked for. Another one is tried, and this one has lost its place.
    WrongBytes(String),
    /// The source cannot prove parts of what it has. They are taken from others, or the whole from one.
    NoProof(String),
    /// What the source sent as proof is none, for what its own record says. It lied in one of them, or its disk is wrong.
    FalseProof(String),
    /// Our store's fault: the same is tried again once the store works.
    Store(String),
    /// It cannot be taken here, whichever peer sends it: too large for the disk, for example.
    Asset(String),
}

impl FetchFailure {
    pub fn reason(&self) -> &str {
        let (Self::Source(reason)
        | Self::Interrupted(reason)
        | Self::WrongBytes(reason)
        | Self::NoProof(reason)
        | Self::FalseProof(reason)
        | Self::Store(reason)
        | Self::Asset(reason)) = self;
        reason
    }
}

/// What became of a large content whose parts were all here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    Stored,
    /// Not stored, and it is not the sources' fault: [`FetchFailure::Store`] or [`FetchFailure::Asset`].
    NotTaken(FetchFailure),
    /// Wrong bytes, all of them from one peer: this session, unless it is over.
    WrongFrom(Option<SessionId>),
    /// All of it was proved for the root that the sources say, and it is another content: these sessions sent it.
    WrongRoot(Vec<SessionId>),
    /// Wrong bytes from one of several: these sessions, and others that are over; how much of it each one sent.
    WrongFromSeveral(Vec<(SessionId, u64)>),
    /// Not all was here after all, or it was spoilt here: once more.
    Again,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScheduleDecision {
    /// Ask this session for these, in one request.
    Fetch {
        session: SessionId,
        /// Number of the request, unique in this scheduler's life.
        request: u64,
        /// In which library; `None` for the mirror.
        library: Option<LibraryId>,
        records: Vec<AssetRecord>,
    },
    /// Ask this session for a part of a large content, as far as it is not here.
    FetchPart {
        session: SessionId,
        /// Number of the request, from the same sequence.
        request: u64,
        key: WantKey,
        /// What each group is to be proved for: BLAKE3 of the whole, as this source says.
        root: Option<GroupSum>,
        range: Range<u64>,
    },
    /// What this session was asked for under this number is not wanted of it any more.
    Revoke { session: SessionId, request: u64 },
    /// Throw away what others sent of this content, and take it from this session alone; then say
    /// [`Scheduler::restricted`](super::Scheduler::restricted).
    Restrict { key: WantKey, session: SessionId },
    /// Throw away all that is here of this content, which is taken for another root from now on; then say
    /// [`Scheduler::restricted`](super::Scheduler::restricted).
    Restart(WantKey),
    /// This session's peer said a BLAKE3 of the content, and proved it neither with its own bytes nor with those that others proved:
    /// it lied.
    Lied { session: SessionId, key: WantKey, reason: String },
    /// The content is here, and has another BLAKE3 than this session's record says.
    Misnamed { session: SessionId, key: WantKey },
    /// All parts are here: check and store it, then say [`Scheduler::committed`](super::Scheduler::committed).
    Commit(WantKey, AssetRecord),
    /// The content is stored, this newer record of it is not: apply it, then say [`Scheduler::applied`](super::Scheduler::applied).
    Apply(WantKey, AssetRecord),
    /// Tell this session that these are durable here.
    Settled { session: SessionId, keys: Vec<WantKey> },
    /// Tell this session that this cannot be had from it, and from nobody else now.
    Failed { session: SessionId, key: WantKey, reason: String },
}

/// One `Settled` for each session, in front of what was decided after it.
pub(super) fn gather(decisions: Vec<ScheduleDecision>) -> Vec<ScheduleDecision> {
    let mut settled: BTreeMap<SessionId, Vec<WantKey>> = BTreeMap::new();
    let mut others = Vec::with_capacity(decisions.len());
    for decision in decisions {
        if let ScheduleDecision::Settled { session, keys } = decision {
            settled.entry(session).or_default().extend(keys);
        } else {
            others.push(decision);
        }
    }
    let settled = settled.into_iter().map(|(session, keys)| ScheduleDecision::Settled { session, keys });
    settled.chain(others).collect()
}
