//! What a session hears from its shell, and what it has the shell do.

use std::sync::Arc;

use bytes::Bytes;

use super::{InlineContents, OfferVerdict};
use crate::entry::{EntryHash, FolderRecord};
use crate::reconcile::Summary;
use crate::record::{AssetRecord, ContentHash, RecordId};
use crate::store::entries::StoredEntry;
use crate::store::{FeedEntry, StoredRecord};
use crate::wire::proto::{Want, frame};

#[derive(Debug)]
pub enum SessionInput {
    /// The peer sent a frame, other than those that the shell answers itself.
    Frame(frame::Kind),
    /// A `Ping` or `Pong` with the peer's summary, and ours at this moment.
    Compared {
        /// Whether it answers our own question.
        answer: bool,
        nonce: u64,
        theirs: Summary,
        ours: Summary,
        /// Whether both had caught up with their stores: only then is being equal worth anything.
        certain: bool,
    },
    /// Our store's feed moved on; with the contents of small assets that were made here.
    StoreChanged {
        entries: Arc<[FeedEntry]>,
        contents: Arc<InlineContents>,
    },
    Entries(EntryNews),
    /// Outcome of [`SessionEffect::Store`] for what the store did not take: it is to be fetched like anything else.
    NotStored(Vec<AssetRecord>),
    Judged(Vec<(AssetRecord, OfferVerdict)>),
    /// Outcome of [`SessionEffect::Load`] and [`SessionEffect::Resolve`].
    Loaded {
        /// What the store has of it.
        records: Vec<StoredRecord>,
    },
    /// The peer asked for these by their names.
    Found(Vec<AssetRecord>),
    /// Outcome of [`SessionEffect::Resolve`]: the contents whose records have these ids, and the ids that are gone.
    Resolved {
        found: Vec<(RecordId, ContentHash)>,
        gone: Vec<RecordId>,
    },
    /// The scheduler: ask this peer for these contents, as one request of this number.
    Fetch {
        request: u64,
        records: Vec<AssetRecord>,
    },
    /// These are durable here, whichever peer they came from, or were applied.
    Settled(Vec<ContentHash>),
    /// These could not be had.
    Failed(Vec<(ContentHash, String)>),
    /// A reconciliation that we opened found these differences so far.
    Differences {
        /// We have them, the peer does not.
        have: Vec<ContentHash>,
        /// The peer has them, we do not.
        need: Vec<RecordId>,
    },
    ReconEnded {
        opened_here: bool,
        result: Result<(), String>,
    },
    /// Changes of the store were missed; a reconciliation will find them.
    ChangesLost,
    /// Our clock shows another time than before, or a newer list of revocations came.
    Reconsider,
    /// A user wants to know for sure: compare afresh.
    Verify {
        /// Number of this wish; the standing says when it was fulfilled.
        round: u64,
    },
    Tick,
}

impl SessionInput {
    /// Our store's feed moved on, by what was not made here or is offered without its content.
    pub fn changed(entries: Arc<[FeedEntry]>) -> Self {
        Self::StoreChanged { entries, contents: Arc::default() }
    }
}

/// What the shell tells the session of records of folders.
#[derive(Debug)]
pub enum EntryNews {
    /// Our store's feed moved on.
    Changed(Arc<[StoredEntry]>),
    /// Outcome of [`SessionEffect::LoadEntries`]: what the store has of it.
    Loaded(Vec<FolderRecord>),
    /// Outcome of [`SessionEffect::Resolve`], before that of assets: the names of those with these ids.
    Resolved(Vec<(RecordId, EntryHash)>),
    /// Outcome of [`SessionEffect::TakeEntries`].
    Taken {
        /// The store has these, or newer versions.
        settled: Vec<EntryHash>,
        /// The store does not take these, and why.
        failed: Vec<(EntryHash, String)>,
        /// These are dated too far ahead, by so many milliseconds.
        later: Vec<(FolderRecord, u64)>,
    },
    /// A reconciliation that we opened found these differences so far.
    Differences {
        /// We have them, the peer does not.
        have: Vec<EntryHash>,
        /// The peer has them, we do not.
        need: Vec<RecordId>,
    },
}

#[derive(Debug, PartialEq)]
pub enum SessionEffect {
    Send(frame::Kind),
    /// Compare these with ours ([`judge_holding`](super::judge_holding)); answer with [`SessionInput::Judged`].
    Judge(Vec<AssetRecord>),
    /// The same, of records whose contents the peer does not hold.
    JudgeAbsent(Vec<AssetRecord>),
    /// Store these without content; answer with [`SessionInput::Settled`] or [`SessionInput::Failed`].
    Apply(Vec<AssetRecord>),
    /// Store these, whose contents are on neither side; answer with [`SessionInput::Settled`] or [`SessionInput::Failed`].
    TakeAbsent(Vec<AssetRecord>),
    /// Write what is here of these once more, later than them; answer with [`SessionInput::Settled`] or [`SessionInput::Failed`].
    Reassert(Vec<AssetRecord>),
    /// Store these, whose contents came with the offer; answer with [`SessionInput::Settled`], [`SessionInput::Failed`] or
    /// [`SessionInput::NotStored`].
    Store(Vec<(AssetRecord, Bytes)>),
    /// Load these from the store; answer with [`SessionInput::Loaded`].
    Load(Vec<ContentHash>),
    /// Store these records of folders; answer with [`EntryNews::Taken`].
    TakeEntries(Vec<FolderRecord>),
    /// Load these from the store; answer with [`EntryNews::Loaded`].
    LoadEntries(Vec<EntryHash>),
    /// Find the records with these ids; answer with [`SessionInput::Resolved`].
    Resolve(Vec<RecordId>),
    /// Have the scheduler find a source for these: the peer has them.
    Announce(Vec<AssetRecord>),
    /// Send these contents on content streams.
    Serve(Want),
    /// Stop sending what this request asked for.
    CancelServe(u64),
    /// Let our feed catch up with the store, then send a `Ping` (or a `Pong`, when `answer`) with our summary.
    SendSummary {
        nonce: u64,
        /// Whether it answers the peer's question.
        answer: bool,
    },
    Reconcile,
    Close {
        code: u32,
        /// For the peer's log and ours.
        reason: String,
    },
}
