//! What PeersActor and PeerActor understand.

use std::ops::Range;
use std::sync::Arc;

use iroh::endpoint::Connection;
use iroh::{EndpointAddr, EndpointId};
use ractor::RpcReplyPort;
use tokio::sync::OwnedSemaphorePermit;

use super::effects::KeepQuestion;
use super::establish::Established;
use super::letting_go::{DropInput, KeepAnswer, Nonce, PlaceTag};
use super::report::{DropRefused, DropsReport, PeersReport, TransferReport, WhyReport};
use super::session::{InlineContents, SessionInput};
use crate::actor::mailbox::counted;
use crate::actor::status::ActorDetail;
use crate::discovery::address_book::RememberedPeer;
use crate::discovery::channel::Channel;
use crate::library::ticket::TicketSerial;
use crate::net::handshakes::Pending;
use crate::record::{AssetRecord, ContentHash, LibraryId};
use crate::store::FeedEntry;
use crate::store::entries::StoredEntry;
use crate::store::groups::GroupSum;
use crate::transfer::commit::CommitOutcome;
use crate::transfer::receive::Results;
use crate::transfer::schedule::{FetchFailure, SessionId, WantKey};
use crate::transfer::search::TooMany;
use crate::wire::proto::{Kept, frame};

counted!(PeersMsg);

/// Messages of PeersActor: everything that concerns more than one peer.
#[derive(Debug)]
pub enum PeersMsg {
    /// CanServiceActor: these records changed, in sequence.
    StoreChanged(Arc<[FeedEntry]>),
    /// CanServiceActor: these records of folders changed, in sequence.
    EntriesChanged(Arc<[StoredEntry]>),
    /// LibraryActor: a library has these now, otherwise than the store.
    LibraryChanged { library: LibraryId, records: Arc<[FeedEntry]> },
    /// CanServiceActor: the store stopped working (why) or works again (`None`).
    StoreHealth(Option<String>),
    /// HTTP API and discovery: dial this address now, and remember it. Answers once the dial is under way, or says why
    /// it is not.
    DialPeer {
        /// Where; an id with no address is looked up.
        addr: EndpointAddr,
        /// Whether it took the request; the session's fate shows in the report.
        reply: RpcReplyPort<Result<(), String>>,
    },
    /// HTTP API: forget a peer and close its session.
    ForgetPeer { endpoint_id: EndpointId, reply: RpcReplyPort<bool> },
    /// HTTP API: a user approved or denied a machine: one that is let in is dialled now.
    DeviceDecided { endpoint_id: EndpointId },
    /// SignalActor: the network may have changed; forget back-offs and dial now.
    DialNow,
    /// Own task: this node's addresses are others now, so a path may have come back.
    AddressChanged,
    /// Accept task: a peer connected for something else than a session, so it is there.
    Knocked { endpoint_id: EndpointId },
    /// HTTP API: compare with every connected peer afresh; the report shows `Reconciling` until that is done.
    Verify,
    /// HTTP API, status: everything to tell.
    GetReport { reply: RpcReplyPort<PeersReport> },
    /// HTTP API: what moves now, at most 1,000.
    GetTransfers { reply: RpcReplyPort<Vec<TransferReport>> },
    /// HTTP API: a user wants this content now: it is fetched before everything else, and peers are asked whether they have
    /// it. [`PeersMsg::GetWhy`] tells how that stands.
    FetchNow { hash: ContentHash, reply: RpcReplyPort<Result<(), TooMany>> },
    /// HTTP API: why a content is not here.
    GetWhy { hash: ContentHash, reply: RpcReplyPort<WhyReport> },
    /// Status: how it is, with one child per PeerActor.
    GetHealth { reply: RpcReplyPort<ActorDetail> },
    /// Ticket file and discovery: a peer may be there.
    Candidate { addr: EndpointAddr, channel: Channel },
    /// Discovery: hints wait in the actor's [`Hints`](crate::discovery::hints::Hints).
    HintsWaiting,
    /// Accept task: a connection came in; its place among the handshakes bounds how many such messages there are.
    Accepted {
        connection: Connection,
        /// Held until there is another place for it.
        pending: Pending,
    },
    /// Own task: whether the connection with a peer, of which it is known that two machines have its id, shows a sign of life.
    OlderWatched {
        session: SessionId,
        alive: bool,
        /// The newer one, and its place among the handshakes if it came in.
        connection: Connection,
        pending: Option<Pending>,
    },
    /// Own task: whether the connection with a peer shows a sign of life although another run of the peer has a session on a newer
    /// one.
    RunWatched {
        older: SessionId,
        alive: bool,
        /// The news of the newer session.
        up: Box<PeersMsg>,
    },
    /// GossipActor: an agent announced itself in another run than before; if it is our own id, another machine did.
    RunHeard { endpoint_id: EndpointId, boot_id: u64 },
    /// Own task: whether somebody else answers by our own endpoint id at an address.
    OwnIdProbed { found: bool },
    /// Accept task, PeerActor: a machine connected that has our own endpoint id, or a peer of our network says that there is one.
    OwnIdSeen,
    /// Dial task: it succeeded or failed.
    Dialed { endpoint_id: EndpointId, result: Result<Connection, String> },
    /// Dial task: as `Dialed`, for a second connection on which the mirror is offered to a peer that is connected for libraries
    /// alone.
    MirrorDialed { endpoint_id: EndpointId, result: Result<Connection, String> },
    /// PeerActor: its session is up.
    SessionUp {
        session: SessionId,
        /// What the peer calls itself.
        name: String,
        /// Where else it can be reached: an endpoint ticket, or nothing.
        ticket: String,
        assets: u64,
        /// By which tickets it was let into libraries; `None` for one of our network, which shares everything.
        tickets: Option<Vec<TicketSerial>>,
    },
    /// PeerActor: nothing is shared with the other side.
    NotShared {
        endpoint_id: EndpointId,
        /// Whether that concerns the mirror: it does not know our passphrase.
        mirror: bool,
        /// Whether it tried to prove something in vain.
        failed: bool,
    },
    /// Own task: the peers met before, from the address book.
    Remembered(Vec<RememberedPeer>),
    /// Own task: the store was read for the first time, so sessions may begin.
    StoreRead,
    /// Own tasks: one of them panicked, and why.
    TaskFailed(String),
    /// PeerActor: its session begins anew on the same connection; whatever was asked for is void.
    SessionReset { session: SessionId },
    /// PeerActor: the peer has these and we want their content.
    Wanted {
        session: SessionId,
        /// In which library; `None` for the mirror.
        library: Option<LibraryId>,
        records: Vec<AssetRecord>,
    },
    /// PeerActor: the peer was asked for these and does not have them, or cannot be asked.
    Lacks { session: SessionId, hashes: Vec<ContentHash>, asked: bool },
    /// HTTP API, PeerActor and own tasks: letting go of contents by promise.
    Drops(DropsMessage),
    /// Own task: contents of assets that were made here, to go along with the offers of the oldest changes that wait
    /// for them.
    ContentsLoaded(InlineContents),
    /// A PeerActor's task: these came with an offer and are about to be stored.
    Arriving(Vec<ContentHash>),
    /// A PeerActor's task: these came with an offer and are durable.
    Arrived {
        /// For which library; `None` for the mirror.
        library: Option<LibraryId>,
        records: Vec<AssetRecord>,
    },
    /// PeerActor: what became of contents that the scheduler had it ask for.
    Finished { session: SessionId, results: Results },
    /// PeerActor: what became of a part of a large content that the scheduler had it ask for.
    PartFinished { session: SessionId, request: u64, key: WantKey, result: Result<(), FetchFailure> },
    /// Own task: what became of a large content whose parts were all here.
    Committed {
        key: WantKey,
        /// Whether it is stored, or whose fault it is.
        outcome: CommitOutcome,
    },
    /// Own task: a newer record of a stored content is applied, or could not be.
    Applied { key: WantKey, result: Result<(), FetchFailure> },
    /// Own task: what others sent of a content than its only source was thrown away, or could not be.
    Restricted { key: WantKey, result: Result<(), FetchFailure> },
    /// Own task: versions that were written here while our clock was ahead were looked at.
    Recalled {
        /// How many have another date now.
        recalled: u64,
    },
    /// Timer of the actor itself: start a PeerActor again on this session's connection.
    Respawn { session: SessionId },
    /// Timer of the actor itself, while parts of large contents are on their way: look at how fast they come.
    CompareSources,
    /// Timer of the actor itself.
    Tick,
}

/// What concerns the command that lets go of contents.
#[derive(Debug)]
pub enum DropsMessage {
    /// HTTP API: let go of these copies, with their sizes, as far as enough other machines promise to keep theirs. One such command at
    /// a time.
    Begin { contents: Vec<(ContentHash, u64)>, reply: RpcReplyPort<Result<u64, DropRefused>> },
    /// HTTP API: how the last command stands, with what became of contents behind the first `after`; `None` if there was none.
    GetReport { after: usize, reply: RpcReplyPort<Option<DropsReport>> },
    /// HTTP API: end the command; what is not begun stays. Whether there was one.
    Cancel { reply: RpcReplyPort<bool> },
    /// Own tasks: what the store did for the command with this number.
    Told { command: u64, input: DropInput },
    /// PeerActor: what the peer says that was asked to keep a content.
    Answered { session: SessionId, hash: ContentHash, nonce: Nonce, answer: KeepAnswer },
}

counted!(PeerMsg);

/// Messages of PeerActor, which has one connection. What its own tasks tell names the control stream that it is of (`epoch`), and
/// the library that is shared on it (`lane`).
#[derive(Debug)]
pub enum PeerMsg {
    /// PeersActor: these records changed, in sequence; with the contents of small assets that were made here.
    StoreChanged { entries: Arc<[FeedEntry]>, contents: Arc<InlineContents> },
    /// PeersActor: these records of folders changed, in sequence.
    EntriesChanged(Arc<[StoredEntry]>),
    /// PeersActor: a library has these now, otherwise than the store.
    LibraryChanged { library: LibraryId, records: Arc<[FeedEntry]> },
    /// PeersActor: ask the peer for these, as one request.
    Fetch {
        request: u64,
        /// In which library; `None` for the mirror.
        library: Option<LibraryId>,
        records: Vec<AssetRecord>,
    },
    /// PeersActor: ask the peer for a part of a large content, as far as it is not here.
    FetchPart {
        request: u64,
        key: WantKey,
        /// What its groups are to be proved for: BLAKE3 of the whole, as the peer says.
        root: Option<GroupSum>,
        range: Range<u64>,
    },
    /// PeersActor: what this request asked for is not wanted of the peer any more.
    Revoke { request: u64 },
    /// PeersActor: ask the peer whether it has these; PeersActor hears `Wanted` or `Lacks`.
    Find(Vec<ContentHash>),
    /// PeersActor: ask the peer to keep its copy; PeersActor hears `Drops`, unless the session ends before.
    Keep {
        /// Where our own copies are.
        place: PlaceTag,
        question: KeepQuestion,
    },
    /// Own tasks: whether the peer is promised what it asked for.
    KeepDecided { epoch: u64, kept: Box<Kept> },
    /// PeersActor: these are durable here, whichever peer they came from.
    Settled(Vec<WantKey>),
    /// PeersActor: this cannot be had from the peer.
    Failed { key: WantKey, reason: String },
    /// PeersActor: compare afresh; the standing says when this round is done.
    Verify { round: u64 },
    /// PeersActor: another machine has the peer's endpoint id, and the peer does not know it.
    TellDoubled,
    /// PeersActor: our clock shows another time than before; what had to wait may have to wait no longer.
    ClockChanged,
    /// Own tasks: a session was established, on a control stream that either side opened.
    Established(Box<Established>),
    /// Own tasks: the control stream that we opened did not become a session.
    EstablishFailed(super::establish::EstablishError),
    /// Reader task: a frame of the control stream; the permit bounds how many wait.
    Frame {
        epoch: u64,
        kind: frame::Kind,
        /// Held while it waits.
        permit: OwnedSemaphorePermit,
    },
    /// Reader and writer task: the control stream ended or broke.
    ControlEnded { epoch: u64, reason: String, violation: bool },
    /// Own tasks: the outcome of an effect.
    Outcome {
        epoch: u64,
        /// Which of the libraries that are shared on it.
        lane: usize,
        input: SessionInput,
    },
    /// Own tasks: our feed has caught up; send our summary.
    SummaryReady {
        epoch: u64,
        /// Which of the libraries that are shared on it.
        lane: usize,
        nonce: u64,
        /// Whether it answers the peer's question.
        answer: bool,
        /// Whether the feed did not catch up in time: the summary may lack what was stored lately.
        behind: bool,
    },
    /// Own tasks: what the peer asked for by name was looked for.
    Looked {
        epoch: u64,
        /// In which of its libraries.
        lane: usize,
        found: Vec<AssetRecord>,
        lacks: Vec<ContentHash>,
    },
    /// Own task: contents of the mirror that the peer offers are not where the store keeps its own: they are wanted.
    NotTakenOver { epoch: u64, records: Vec<AssetRecord> },
    /// Own tasks: contents arrived, or did not.
    Received { epoch: u64, results: Results },
    /// Own tasks: a part of a large content arrived, or did not.
    PartReceived { epoch: u64, request: u64, key: WantKey, result: Result<(), FetchFailure> },
    /// Own task: the connection broke that the peer's contents came on.
    BulkLost {
        epoch: u64,
        /// What that means for contents that did not come.
        failure: FetchFailure,
    },
    /// Own tasks: the peer broke the rules.
    Violation(String),
    /// Own task: a library's newer list of revocations, verified and written down.
    RevocationsTaken,
    /// Own tasks: one of them panicked, and why.
    TaskFailed(String),
    /// Own task: the connection is over.
    ConnectionClosed(String),
    /// Status: how it is.
    GetHealth { reply: RpcReplyPort<ActorDetail> },
    /// Timer of the actor itself.
    Tick,
}
