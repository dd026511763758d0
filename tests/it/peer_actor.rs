//! PeerActor between a recording PeersActor, a real store, and a real connection whose other end the test drives frame by
//! frame.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test picks out what it looks for")]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use can_sync::testing::clock::Clock;
use can_sync::testing::events::{EventLog, NodeEvent};
use can_sync::testing::identity::{LibraryKeys, NetworkKeys};
use can_sync::testing::library::{Libraries, Library};
use can_sync::testing::net::auth;
use can_sync::testing::net::bulk::{BulkSessions, InboundWindow};
use can_sync::testing::net::close;
use can_sync::testing::net::endpoint::open_up;
use can_sync::testing::peer::actor::PeerActor;
use can_sync::testing::peer::args::{PeerArgs, PeerLimits, Replica};
use can_sync::testing::peer::deferrals::{Deferrals, Note};
use can_sync::testing::peer::delete_guard::DeleteGuard;
use can_sync::testing::peer::establish::{self, ConnectionMemory, Established, Introduction, Meeting};
use can_sync::testing::peer::held::SessionMemory;
use can_sync::testing::peer::messages::{PeerMsg, PeersMsg};
use can_sync::testing::peer::report::ConnectionState;
use can_sync::testing::reconcile::engine::{EngineLimits, Initiator};
use can_sync::testing::record::{AssetRecord, ContentHash, Hlc};
use can_sync::testing::store::embedded::{EmbeddedStore, IngestFields};
use can_sync::testing::store::{ContentStore as _, FeedEntry, Holding, StoreError, StoreRef};
use can_sync::testing::transfer::partial::Partials;
use can_sync::testing::transfer::receive::Results;
use can_sync::testing::transfer::schedule::{FetchFailure, SessionId, WantKey};
use can_sync::testing::wire;
use can_sync::testing::wire::proto::{
    Auth, Cancel, ContentHeader, ContentRequest, Find, Frame, Have, Hello, Lacks, LibraryProof, Offer, Ping,
    Pong, ReconMsg, ReconOpen, Want, Welcome, WireRecord, frame,
};
use iroh::SecretKey;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use ractor::{Actor, ActorRef};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::embedded;
use crate::support::nodes::{DEADLINE, eventually};
use crate::support::peers::{KEYS, Remote, assert_closed, peer_limits};
use crate::support::probe::Probe;
use crate::support::proving::Talk;
use crate::support::scripted::{Mood, ScriptedStore};
use crate::support::store::{LONG_AGO_MS, edited, held, noise, read, read_feed, record_of};

mod beginning;
mod bulk;
mod contents;
mod ending;
mod frames;

const SESSION: SessionId = SessionId(7);

/// How a test begins.
struct Setup {
    /// Whether the actor's side dialled.
    dials: bool,
    /// Whether the actor opens the control stream.
    opens: bool,
    limits: PeerLimits,
    /// What the other end knows.
    keys: LibraryKeys,
    /// A store other than a real one.
    store: Option<StoreRef>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { dials: false, opens: false, limits: peer_limits(), keys: KEYS.clone(), store: None }
    }
}

struct Test {
    actor: ActorRef<PeerMsg>,
    ends: JoinHandle<()>,
    args: PeerArgs,
    peers: Probe<PeersMsg>,
    /// The actor's store, unless the setup has another one.
    store: EmbeddedStore,
    /// The other end of the connection.
    connection: Connection,
    remote: Remote,
    memory: ConnectionMemory,
    /// What the other end shares.
    library: Arc<Library>,
    /// The actor's end.
    near: Remote,
    _dir: TempDir,
}

impl Test {
    async fn start(setup: Setup) -> Self {
        let (near, remote) =
            tokio::join!(Remote::with_key(SecretKey::generate()), Remote::with_key(SecretKey::generate()));
        let (connection, far) = if setup.dials {
            tokio::join!(near.dial(&remote.0), remote.accept())
        } else {
            tokio::join!(near.accept(), remote.dial(&near.0))
        };
        open_up(&far, 32);
        let window = InboundWindow::new(connection.clone());
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = embedded::open(&dir.path().join("store")).await;
        let partials = Partials::open(&dir.path().join("partial")).expect("a directory");
        let peers = Probe::spawn().await;
        let library = Arc::new(Library::new(KEYS.clone()));
        library.set_cursor(0);
        let args = PeerArgs {
            session: SESSION,
            connection,
            opens: setup.opens,
            window,
            endpoint: near.0.clone(),
            bulk: BulkSessions::default(),
            memory: Arc::default(),
            offers_mirror: true,
            introduction: introduction("under test", "its ticket"),
            replica: Replica {
                store: setup.store.unwrap_or_else(|| Arc::new(store.clone())),
                libraries: Arc::new(Libraries::of(library)),
                partials,
                deletes: Arc::new(DeleteGuard::new(false)),
                deferrals: Deferrals::in_memory(Clock::system()),
            },
            traffic: Arc::default(),
            receiving: can_sync::testing::transfer::active::ActiveTransfers::default(),
            sending: can_sync::testing::transfer::active::ActiveTransfers::default(),
            board: Arc::default(),
            peers: peers.service(),
            events: EventLog::default(),
            held: SessionMemory::default(),
            limits: setup.limits,
        };
        let (actor, ends) = Actor::spawn(None, PeerActor, args.clone()).await.expect("it starts");
        let library = Arc::new(Library::new(setup.keys));
        let (connection, memory) = (far, ConnectionMemory::default());
        Self { actor, ends, args, peers, store, connection, memory, remote, library, near, _dir: dir }
    }

    /// The next incarnation, as PeersActor starts it.
    async fn again(&mut self) {
        self.args.opens = true;
        let (actor, ends) = Actor::spawn(None, PeerActor, self.args.clone()).await.expect("it starts");
        (self.actor, self.ends) = (actor, ends);
    }

    fn tell(&self, message: PeerMsg) {
        self.actor.send_message(message).expect("it runs");
    }

    fn meeting<'a>(&'a self, libraries: &'a Libraries, introduction: &'a Introduction) -> Meeting<'a> {
        Meeting {
            connection: &self.connection,
            own_id: self.remote.id(),
            libraries,
            introduction,
            memory: &self.memory,
            offers_mirror: true,
            within: DEADLINE,
        }
    }

    /// The other end opens a control stream.
    async fn open(&self) -> Established {
        let introduction = introduction("the other end", "our ticket");
        let libraries = Libraries::of(Arc::clone(&self.library));
        self.meeting(&libraries, &introduction).open().await.expect("a session")
    }

    /// The other end answers the control stream that the actor opens.
    async fn answer(&self) -> Established {
        let (send, mut receive) = self.accept_bi().await;
        let hello = self.first_frame(&mut receive).await;
        self.answer_on(hello, send, receive).await.expect("a session")
    }

    async fn answer_on(
        &self,
        hello: frame::Kind,
        send: SendStream,
        receive: RecvStream,
    ) -> Result<Established, establish::EstablishError> {
        let frame::Kind::Hello(first) = hello else { panic!("{hello:?} is no hello") };
        let introduction = introduction("the other end", "our ticket");
        let streams = (send, receive);
        let libraries = Libraries::of(Arc::clone(&self.library));
        self.meeting(&libraries, &introduction).answer(first, streams).await
    }

    async fn accept_bi(&self) -> (SendStream, RecvStream) {
        timeout(DEADLINE, self.connection.accept_bi()).await.expect("a stream in time").expect("a stream")
    }

    async fn first_frame(&self, receive: &mut RecvStream) -> frame::Kind {
        timeout(DEADLINE, wire::read_frame(receive)).await.expect("a frame in time").expect("a frame")
    }

    /// Waits until the `n`th session was said to be up.
    async fn up(&mut self, n: usize) {
        let ups = |seen: &[PeersMsg]| seen.iter().filter(|m| matches!(m, PeersMsg::SessionUp { .. })).count();
        self.peers.wait_for("the session", |seen| ups(seen) == n).await;
        // The standing is published a moment later, in the same handler.
        self.health().await;
    }

    async fn not_shared(&mut self) {
        let id = self.remote.id();
        let said = |m: &PeersMsg| matches!(m, PeersMsg::NotShared { endpoint_id, .. } if *endpoint_id == id);
        self.peers.wait_for("that nothing is shared", |seen| seen.iter().any(said)).await;
    }

    fn resets(&self) -> usize {
        self.peers.look(resets)
    }

    fn standing(&self) -> Option<ConnectionState> {
        self.args.board.lock().standing.as_ref().map(|standing| standing.state)
    }

    async fn health(&self) -> String {
        let actor = can_sync::testing::actor::ServiceRef::fixed(self.actor.clone());
        let answer = actor.call(|reply| PeerMsg::GetHealth { reply }, DEADLINE).await;
        answer.expect("it answers").detail.expect("it says something")
    }

    async fn ends_in_order(mut self) {
        timeout(DEADLINE, &mut self.ends).await.expect("it ends").expect("in order");
        assert!(self.connection.close_reason().is_some());
    }

    /// Stores an asset on the actor's side, and has its index follow.
    async fn ingest(&self, content: &[u8]) -> ContentHash {
        let hash = embedded::upload(&self.store, content, IngestFields::default()).await.asset.record.hash;
        let feed = read_feed(&self.store, 0, 1000).await;
        let last = feed.last().map_or(0, |entry| entry.seq);
        self.args.replica.libraries.mirror().apply(feed);
        self.args.replica.libraries.mirror().set_store_status(self.store.status().await.expect("its status"));
        self.args.replica.libraries.mirror().set_cursor(last);
        hash
    }

    /// Asks how the actor's side stands.
    async fn ping(&self, session: &mut Established) -> Pong {
        let libraries = vec![establish::summary_to_wire(&session.shared[0].blinded, &self.library.summary())];
        let question = frame::Kind::Ping(Ping { nonce: 99, libraries, ..Ping::default() });
        wire::write_frame(&mut session.send, question).await.expect("it is taken");
        pick(session, |kind| match kind {
            frame::Kind::Pong(pong) if pong.nonce == 99 => Some(pong),
            _ => None,
        })
        .await
    }

    /// Answers a request as an honest peer does.
    async fn send_content(&self, request: u64, contents: &[(&AssetRecord, &[u8])]) {
        self.send_all_on(&self.connection, request, contents).await;
    }

    /// As [`Self::send_content`], on another connection.
    async fn send_all_on(&self, connection: &Connection, request: u64, contents: &[(&AssetRecord, &[u8])]) {
        let mut stream = connection.open_uni().await.expect("a stream");
        for (record, content) in contents {
            // Taken or not: that is for the test to see elsewhere.
            let _ = stream.write_chunk(wire::encode(&header(request, record))).await;
            let _ = stream.write_all(content).await;
        }
        let _ = stream.finish();
        let _ = timeout(DEADLINE, stream.stopped()).await.expect("an end");
    }

    async fn send_raw(&self, header: &ContentHeader, content: &[u8]) {
        let mut stream = self.connection.open_uni().await.expect("a stream");
        let _ = stream.write_chunk(wire::encode(header)).await;
        let _ = stream.write_all(content).await;
        let _ = stream.finish();
        let _ = timeout(DEADLINE, stream.stopped()).await.expect("an end");
    }

    /// Every result that was told, in order.
    fn finished(&self) -> Results {
        self.peers.look(|seen| seen.iter().flat_map(results).cloned().collect())
    }

    async fn wait_finished(&mut self, count: usize) {
        let counted = |seen: &[PeersMsg]| seen.iter().flat_map(results).count() == count;
        self.peers.wait_for("results", counted).await;
    }
}

fn introduction(name: &str, ticket: &str) -> Introduction {
    let ticket = watch::Sender::new(ticket.to_owned()).subscribe();
    Introduction { name: name.to_owned(), ticket, clock: Clock::system(), boot_id: 1 }
}

fn hello(version: u32) -> frame::Kind {
    frame::Kind::Hello(Hello { version, nonce: vec![7; 32].into() })
}

fn find(hashes: &[ContentHash]) -> frame::Kind {
    let hashes = hashes.iter().map(|hash| Bytes::copy_from_slice(&hash.0)).collect();
    frame::Kind::Find(Find { hashes, ..Find::default() })
}

fn header(request: u64, record: &AssetRecord) -> ContentHeader {
    let (hash, size) = (record.hash.0.to_vec().into(), record.size);
    ContentHeader { request, hash, offset: 0, length: size, total: size, ..ContentHeader::default() }
}

fn want_of(request: u64, hashes: Vec<ContentHash>) -> frame::Kind {
    let one = |hash: ContentHash| ContentRequest {
        hash: hash.0.to_vec().into(),
        offset: 0,
        length: 0,
        proved: false,
    };
    frame::Kind::Want(Want { request, contents: hashes.into_iter().map(one).collect() })
}

/// A change of the actor's store: an asset of `n` bytes.
fn changed(n: usize) -> PeerMsg {
    let record = record_of(&noise(n, n as u64));
    let entry = FeedEntry { seq: n as u64, record, holding: Holding::Held, formers: Vec::new() };
    PeerMsg::StoreChanged { entries: [entry].into(), contents: Arc::default() }
}

/// Reads frames until `pick` picks one.
async fn pick<T>(session: &mut Established, pick: impl Fn(frame::Kind) -> Option<T>) -> T {
    loop {
        let kind = timeout(DEADLINE, wire::read_frame(&mut session.receive)).await.expect("a frame in time");
        if let Some(found) = pick(kind.expect("a frame")) {
            return found;
        }
    }
}

async fn want(session: &mut Established) -> Want {
    pick(session, |kind| match kind {
        frame::Kind::Want(want) => Some(want),
        _ => None,
    })
    .await
}

async fn offer(session: &mut Established) -> Offer {
    pick(session, |kind| match kind {
        frame::Kind::Offer(offer) => Some(offer),
        _ => None,
    })
    .await
}

async fn have(session: &mut Established) -> Have {
    pick(session, |kind| match kind {
        frame::Kind::Have(have) => Some(have),
        _ => None,
    })
    .await
}

fn resets(seen: &[PeersMsg]) -> usize {
    seen.iter().filter(|message| matches!(message, PeersMsg::SessionReset { session: SESSION })).count()
}

/// Everything that was announced, in order.
fn wanted(seen: &[PeersMsg]) -> Vec<AssetRecord> {
    let records = |message: &PeersMsg| match message {
        PeersMsg::Wanted { session: SESSION, library: None, records } => records.clone(),
        _ => Vec::new(),
    };
    seen.iter().flat_map(records).collect()
}

fn results(message: &PeersMsg) -> &[(WantKey, Result<(), FetchFailure>)] {
    match message {
        PeersMsg::Finished { session: SESSION, results } => results,
        _ => &[],
    }
}
