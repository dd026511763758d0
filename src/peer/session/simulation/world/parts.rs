//! What the simulated network consists of, and what can happen in it.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::MS;
use crate::peer::session::{InlineContents, Session, SessionEffect};
use crate::peer::wishes::Wishes;
use crate::reconcile::Summary;
use crate::reconcile::engine::{Initiator, Responder};
use crate::record::{AssetRecord, ContentHash, LibraryId};
use crate::seeded::Dice;
use crate::store::FeedEntry;
use crate::transfer::schedule::{FetchFailure, SessionId, WantKey};

/// How long something takes: mostly little, at times much.
pub(super) fn delay(dice: &mut Dice) -> u64 {
    let longest = if dice.one_in(20) { 600 * MS } else { 30 * MS };
    dice.below(longest)
}

/// One end of one life of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct At {
    pub(super) link: usize,
    pub(super) end: usize,
    pub(super) life: u64,
}

impl At {
    pub(super) fn other(self) -> Self {
        Self { end: 1 - self.end, ..self }
    }
}

/// What arrives in the order in which it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum SimChannel {
    Control(At),
    PeersActor(usize),
    PeerActor(At),
}

pub(super) enum SimEvent {
    User,
    Trouble,
    Feed(usize),
    /// What libraries have otherwise than the store is written down, and told.
    Keep(usize),
    /// There is a connection again.
    Mend(usize),
    /// A second passed for what this agent fetches.
    FetchTick(usize),
    Peers(usize, Box<PeersNews>),
    Side(At, News),
}

pub(super) enum PeersNews {
    Changed(Arc<[FeedEntry]>),
    LibraryChanged(LibraryId, Arc<[FeedEntry]>),
    Wanted(SessionId, Option<LibraryId>, Vec<AssetRecord>),
    Finished(SessionId, Vec<(WantKey, Result<(), FetchFailure>)>),
    PartFinished(SessionId, u64, ContentHash, Result<(), FetchFailure>),
    Commit(WantKey, AssetRecord),
    Apply(WantKey, AssetRecord),
    Restrict(WantKey),
    /// The session begins, perhaps anew: what an earlier one was asked for is void.
    Reset(SessionId),
}

/// For one end of a connection.
pub(super) enum News {
    /// The answering side introduces itself.
    Greet,
    /// The opening side has heard that, and answers.
    Greeted(Vec<Summary>),
    /// The answering side has heard that.
    Met {
        ours: Vec<Summary>,
        theirs: Vec<Summary>,
    },
    Frame(Bytes),
    Changed(Arc<[FeedEntry]>, Arc<InlineContents>),
    LibraryChanged(LibraryId, Arc<[FeedEntry]>),
    Fetch(u64, Option<LibraryId>, Vec<AssetRecord>),
    FetchPart(u64, WantKey, Range<u64>),
    PartReceived(u64, ContentHash, Result<(), FetchFailure>),
    Revoke(u64),
    /// Contents that the other side is missing in one of the libraries.
    Find(usize, Vec<ContentHash>),
    Lacks(usize, Vec<ContentHash>),
    Settled(Vec<WantKey>),
    Failed(WantKey, String),
    Perform(usize, SessionEffect),
    Summary {
        lane: usize,
        nonce: u64,
        answer: bool,
        seq: u64,
        until: u64,
    },
    ToResponder(usize, u64, Vec<u8>),
    ToInitiator(usize, u64, Vec<u8>),
    ReconEnds(usize, u64, Result<(), String>),
    Content {
        request: u64,
        items: Vec<(ContentHash, bool)>,
        broken: bool,
    },
    Received(Vec<(WantKey, Result<(), FetchFailure>)>),
    Tick,
}

/// One library on one connection, at one end.
pub(super) struct SimLane {
    pub(super) library: Option<LibraryId>,
    pub(super) session: Option<Session>,
    pub(super) wishes: Wishes,
    /// Versions that the peer has offered.
    pub(super) heard: HashSet<[u8; 32]>,
    /// Whether our feed had not caught up when we last asked.
    pub(super) asked_behind: bool,
}

impl SimLane {
    pub(super) fn new(library: Option<LibraryId>, now: Instant) -> Self {
        let (session, wishes, heard) = (None, Wishes::new(now), HashSet::new());
        Self { library, session, wishes, heard, asked_behind: false }
    }
}

pub(super) struct SimSide {
    pub(super) agent: usize,
    pub(super) id: SessionId,
    pub(super) lanes: Vec<SimLane>,
    pub(super) early: Vec<Arc<[FeedEntry]>>,
    pub(super) early_lost: bool,
    pub(super) expected: HashMap<u64, (Option<LibraryId>, Vec<AssetRecord>)>,
    /// Parts that were asked for: their contents, and what was missing of them.
    pub(super) expected_parts: HashMap<u64, (WantKey, Vec<Range<u64>>)>,
    pub(super) initiators: HashMap<u64, Initiator>,
    pub(super) responders: HashMap<u64, Responder>,
}

impl SimSide {
    pub(super) fn is_up(&self) -> bool {
        self.lanes.iter().all(|lane| lane.session.is_some())
    }
}

pub(super) struct SimLink {
    /// Who dials, who accepts.
    pub(super) agents: [usize; 2],
    /// What both share: the mirror, or libraries.
    pub(super) lanes: Vec<Option<LibraryId>>,
    pub(super) life: u64,
    pub(super) sides: Option<[SimSide; 2]>,
}
