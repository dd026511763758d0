//! A real PeersActor on a real endpoint, whose PeerActors record what they are told and fail on command; and bare
//! endpoints to connect it with.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test picks out what it looks for")]

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use can_sync::testing::actor::status::ActorDetail;
use can_sync::testing::actor::{ServiceCell, ServiceRef};
use can_sync::testing::clock::Clock;
use can_sync::testing::discovery::address_book::AddressBook;
use can_sync::testing::discovery::channel::{Channel, ChannelSet, Channels};
use can_sync::testing::discovery::directory::SharedDirectory;
use can_sync::testing::discovery::hints::Hints;
use can_sync::testing::events::{EventLog, NodeEvent};
use can_sync::testing::identity::{LibraryKeys, NetworkKeys};
use can_sync::testing::library::ticket::{LibraryId, TicketSerial};
use can_sync::testing::library::{Libraries, Library};
use can_sync::testing::net::SESSION_ALPN as ALPN;
use can_sync::testing::net::close::is_close;
use can_sync::testing::net::endpoint;
use can_sync::testing::peer::args::{
    DiscoveryLinks, FirstPeers, PeerArgs, PeerLimits, PeersArgs, PeersLimits, Replica, SpawnPeer, spawn_peer,
};
use can_sync::testing::peer::deferrals::Deferrals;
use can_sync::testing::peer::delete_guard::DeleteGuard;
use can_sync::testing::peer::establish::Introduction;
use can_sync::testing::peer::messages::{PeerMsg, PeersMsg};
use can_sync::testing::peer::places::PlaceLimits;
use can_sync::testing::peer::report::{PeerReport, PeersReport};
use can_sync::testing::peer::roster::DialLimits;
use can_sync::testing::peer::supervisor::PeersActor;
use can_sync::testing::transfer::pace::Pace;
use can_sync::testing::transfer::partial::Partials;
use can_sync::testing::transfer::schedule::{PART_BYTES, ScheduleLimits, SessionId};
use iroh::endpoint::{Connection, ConnectionError};
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey};
use parking_lot::{Mutex, MutexGuard};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::nodes::{DEADLINE, eventually};
use super::scripted::ScriptedStore;

/// Keys of the network of these tests.
pub(crate) static KEYS: LazyLock<LibraryKeys> =
    LazyLock::new(|| NetworkKeys::derive(&"a network of tests".into()).mirror().clone());

/// An endpoint on loopback.
pub(crate) async fn bind(key: SecretKey) -> Endpoint {
    let addr = "127.0.0.1:0".parse().expect("an address");
    Box::pin(endpoint::bind(key, addr, RelayMode::Disabled)).await.expect("a free port")
}

/// Where an endpoint is.
pub(crate) fn addr_of(endpoint: &Endpoint) -> EndpointAddr {
    let sockets = endpoint.bound_sockets().into_iter();
    sockets.fold(EndpointAddr::new(endpoint.id()), EndpointAddr::with_ip_addr)
}

/// Limits as by default, but for the time for a session, which a busy machine may need.
pub(crate) fn peer_limits() -> PeerLimits {
    PeerLimits {
        establish: Duration::from_mins(1),
        streams: 32,
        stall: Duration::from_secs(30),
        probe_after: Duration::from_secs(15),
        upload: Pace::default(),
        download: Pace::default(),
    }
}

/// A bare endpoint, for the other end of connections.
pub(crate) struct Remote(pub(crate) Endpoint);

impl Remote {
    pub(crate) async fn bind() -> Self {
        Self(bind(SecretKey::generate()).await)
    }

    pub(crate) async fn with_key(key: SecretKey) -> Self {
        Self(bind(key).await)
    }

    pub(crate) fn id(&self) -> EndpointId {
        self.0.id()
    }

    pub(crate) fn addr(&self) -> EndpointAddr {
        addr_of(&self.0)
    }

    /// The next connection that comes in.
    pub(crate) async fn accept(&self) -> Connection {
        let accepted =
            async { self.0.accept().await.expect("the endpoint lives").await.expect("a handshake") };
        timeout(DEADLINE, Box::pin(accepted)).await.expect("somebody dials")
    }

    /// A connection to `other`.
    pub(crate) async fn dial(&self, other: &Endpoint) -> Connection {
        let connected = timeout(DEADLINE, Box::pin(self.0.connect(addr_of(other), ALPN))).await;
        connected.expect("an answer in time").expect("a connection")
    }
}

/// Waits until the other side closes the connection, and checks the code that it gives.
pub(crate) async fn assert_closed(connection: &Connection, code: u32) -> ConnectionError {
    let reason = timeout(DEADLINE, connection.closed()).await;
    let reason = reason.unwrap_or_else(|_| panic!("the connection is not closed with {code}"));
    assert!(is_close(&reason, code), "closed with {reason}, not with {code}");
    reason
}

// ---- PeerActors that record --------------------------------------------------------------------------------------------

/// What happened to one of them.
#[derive(Debug)]
pub(crate) enum Heard {
    /// It was started.
    Started { session: SessionId, peer: EndpointId, opens: bool },
    /// It was sent this.
    Told(SessionId, PeerMsg),
    /// It was stopped in order.
    Stopped(SessionId),
}

/// What all of them share with the test.
#[derive(Clone, Default)]
pub(crate) struct Stage(Arc<StageState>);

#[derive(Default)]
struct StageState {
    heard: Mutex<Vec<Heard>>,
    actors: Mutex<HashMap<SessionId, (ActorRef<PeerMsg>, PeerArgs)>>,
    cursed: Mutex<HashSet<EndpointId>>,
    count: watch::Sender<usize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

impl Stage {
    /// How PeersActor starts one.
    pub(crate) fn spawn_peer(&self) -> SpawnPeer {
        let stage = self.clone();
        Arc::new(move |args, supervisor| {
            let stage = stage.clone();
            Box::pin(async move {
                let (actor, _) = Actor::spawn_linked(None, RecordingPeer, (args, stage), supervisor).await?;
                Ok(actor)
            })
        })
    }

    fn note(&self, heard: Heard) {
        lock(&self.0.heard).push(heard);
        self.0.count.send_modify(|count| *count += 1);
    }

    /// Every PeerActor of this peer fails as soon as it runs.
    pub(crate) fn curse(&self, peer: EndpointId) {
        lock(&self.0.cursed).insert(peer);
    }

    /// The current PeerActor of a session.
    pub(crate) fn actor(&self, session: SessionId) -> ActorRef<PeerMsg> {
        lock(&self.0.actors)[&session].0.clone()
    }

    /// What it was started with.
    pub(crate) fn args(&self, session: SessionId) -> PeerArgs {
        lock(&self.0.actors)[&session].1.clone()
    }

    /// Has the PeerActor of a session `panic`, `fail`, `stop` or `hang`.
    pub(crate) fn command(&self, session: SessionId, what: &str) {
        self.actor(session).send_message(PeerMsg::Violation(what.to_owned())).expect("it runs");
    }

    /// Looks at everything that happened so far.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&[Heard]) -> T) -> T {
        at(&lock(&self.0.heard))
    }

    /// Waits until what happened satisfies `condition`, and gives what it gives.
    pub(crate) async fn wait_for<T>(
        &self,
        what: &str,
        mut condition: impl FnMut(&[Heard]) -> Option<T>,
    ) -> T {
        let mut count = self.0.count.subscribe();
        let found = async {
            loop {
                count.mark_unchanged();
                if let Some(found) = self.look(&mut condition) {
                    return found;
                }
                count.changed().await.expect("the stage lives");
            }
        };
        let found = timeout(DEADLINE, found).await;
        found.unwrap_or_else(|_| panic!("{what} did not happen; this did: {:#?}", lock(&self.0.heard)))
    }

    /// Waits for the `n`th start (from 0) of a PeerActor for `peer`; its session, and whether it opens the stream.
    pub(crate) async fn started(&self, peer: EndpointId, n: usize) -> (SessionId, bool) {
        self.wait_for("a start", |heard| starts(heard, peer).get(n).copied()).await
    }

    /// How many PeerActors were started for `peer`.
    pub(crate) fn starts(&self, peer: EndpointId) -> usize {
        self.look(|heard| starts(heard, peer).len())
    }

    /// Waits for the `n`th message (from 0) of a session that `pick` picks.
    pub(crate) async fn told<T>(
        &self,
        what: &str,
        session: SessionId,
        n: usize,
        pick: impl Fn(&PeerMsg) -> Option<T>,
    ) -> T {
        self.wait_for(what, |heard| told(heard, session).filter_map(&pick).nth(n)).await
    }
}

fn starts(heard: &[Heard], peer: EndpointId) -> Vec<(SessionId, bool)> {
    let start = |heard: &Heard| match heard {
        Heard::Started { session, peer: who, opens } if *who == peer => Some((*session, *opens)),
        _ => None,
    };
    heard.iter().filter_map(start).collect()
}

/// What a session's PeerActors were sent.
pub(crate) fn told(heard: &[Heard], session: SessionId) -> impl Iterator<Item = &PeerMsg> {
    heard.iter().filter_map(move |heard| match heard {
        Heard::Told(who, message) if *who == session => Some(message),
        _ => None,
    })
}

struct RecordingPeer;

impl Actor for RecordingPeer {
    type Msg = PeerMsg;
    type State = (PeerArgs, Stage, JoinHandle<()>);
    type Arguments = (PeerArgs, Stage);

    async fn pre_start(
        &self,
        myself: ActorRef<PeerMsg>,
        (args, stage): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let (session, peer) = (args.session, args.connection.remote_id());
        lock(&stage.0.actors).insert(session, (myself.clone(), args.clone()));
        stage.note(Heard::Started { session, peer, opens: args.opens });
        if lock(&stage.0.cursed).contains(&peer) {
            myself.send_message(PeerMsg::Violation("panic".into()))?;
        }
        // As the real one: it ends with its connection.
        let connection = args.connection.clone();
        let watch = tokio::spawn(async move {
            let reason = connection.closed().await;
            let _ = myself.send_message(PeerMsg::ConnectionClosed(reason.to_string()));
        });
        Ok((args, stage, watch))
    }

    async fn handle(
        &self,
        myself: ActorRef<PeerMsg>,
        message: PeerMsg,
        (args, stage, _): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PeerMsg::Violation(command) => match command.as_str() {
                "panic" => panic!("planned panic of a PeerActor"),
                "fail" => return Err("planned failure of a PeerActor".into()),
                "stop" => myself.stop(None),
                _ => std::future::pending().await,
            },
            PeerMsg::ConnectionClosed(reason) => myself.stop(Some(reason)),
            PeerMsg::GetHealth { reply } => {
                let detail = Some("well".to_owned());
                let _ = reply.send(ActorDetail { detail, ..ActorDetail::default() });
            }
            other => stage.note(Heard::Told(args.session, other)),
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<PeerMsg>,
        (args, stage, _): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        stage.note(Heard::Stopped(args.session));
        Ok(())
    }
}

// ---- PeersActor --------------------------------------------------------------------------------------------------------

/// A PeersActor under test.
pub(crate) struct PeersRig {
    pub(crate) actor: ActorRef<PeersMsg>,
    pub(crate) ends: JoinHandle<()>,
    pub(crate) service: ServiceRef<PeersMsg>,
    pub(crate) args: PeersArgs,
    pub(crate) stage: Stage,
    _dir: TempDir,
}

impl PeersRig {
    /// With a store that was read and works.
    pub(crate) async fn start() -> Self {
        Self::start_with(SecretKey::generate(), |args| args.replica.libraries.set_cursor(0)).await
    }

    /// With this key, after `adjust` has changed what it starts from; the store was not read unless the library says so.
    pub(crate) async fn start_with(key: SecretKey, adjust: impl FnOnce(&mut PeersArgs)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let stage = Stage::default();
        let cell = Arc::new(ServiceCell::new("PeersActor"));
        let mut args = peers_args(bind(key).await, dir.path(), cell.service_ref());
        args.spawn_peer = stage.spawn_peer();
        adjust(&mut args);
        let (actor, ends) = Actor::spawn(None, PeersActor, args.clone()).await.expect("it starts");
        cell.set(Some(actor.clone()));
        Self { service: ServiceRef::fixed(actor.clone()), actor, ends, args, stage, _dir: dir }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.args.endpoint
    }

    pub(crate) fn tell(&self, message: PeersMsg) {
        self.service.cast(message).expect("it runs");
    }

    pub(crate) async fn dial(&self, addr: EndpointAddr) -> Result<(), String> {
        self.call(|reply| PeersMsg::DialPeer { addr, reply }).await
    }

    /// Asks; it must answer soon, whatever its PeerActors do.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        query: impl FnOnce(ractor::RpcReplyPort<T>) -> PeersMsg + Send,
    ) -> T {
        self.service.call(query, Duration::from_secs(10)).await.expect("it answers")
    }

    pub(crate) async fn report(&self) -> PeersReport {
        self.call(|reply| PeersMsg::GetReport { reply }).await
    }

    pub(crate) async fn peer(&self, id: EndpointId) -> Option<PeerReport> {
        self.report().await.peers.into_iter().find(|peer| peer.endpoint_id == id.to_string())
    }

    /// A connection from `remote` whose session is said to be up.
    pub(crate) async fn session(&self, remote: &Remote) -> (SessionId, Connection) {
        let before = self.stage.starts(remote.id());
        let connection = remote.dial(self.endpoint()).await;
        let (session, _) = self.stage.started(remote.id(), before).await;
        self.up(session, "remote");
        (session, connection)
    }

    pub(crate) fn up(&self, session: SessionId, name: &str) {
        self.tell(PeersMsg::SessionUp {
            session,
            name: name.to_owned(),
            ticket: String::new(),
            assets: 0,
            tickets: None,
        });
    }

    /// As [`PeersRig::up`], for a member of a library.
    pub(crate) fn up_as_member(&self, session: SessionId, serial: u64) {
        let ticket = TicketSerial { library: LibraryId([7; 32]), serial };
        self.tell(PeersMsg::SessionUp {
            session,
            name: "member".to_owned(),
            ticket: String::new(),
            assets: 0,
            tickets: Some(vec![ticket]),
        });
    }

    /// How many peers it knows, from an answer within a time that a busy machine needs as well.
    pub(crate) async fn health(&self) -> usize {
        let detail = self.service.call(|reply| PeersMsg::GetHealth { reply }, Duration::from_secs(10)).await;
        let detail = detail.expect("an answer in time").detail.expect("a word about itself");
        let known = detail.split(", ").nth(1).and_then(|known| known.split(' ').next());
        known.and_then(|known| known.parse().ok()).unwrap_or_else(|| panic!("'{detail}'"))
    }

    /// What was published so far.
    pub(crate) fn events(&self) -> Vec<NodeEvent> {
        self.args.events.since(0).0.into_iter().map(|logged| logged.event).collect()
    }

    /// Waits until the report satisfies `condition`.
    pub(crate) async fn wait_for_report(&self, what: &str, condition: impl Fn(&PeersReport) -> bool) {
        eventually(what, async || {
            let report = self.report().await;
            if condition(&report) { Ok(()) } else { Err(format!("{report:#?}")) }
        })
        .await;
    }
}

/// What a PeersActor starts from, with the limits that are the default.
pub(crate) fn peers_args(endpoint: Endpoint, dir: &Path, myself: ServiceRef<PeersMsg>) -> PeersArgs {
    PeersArgs {
        endpoint,
        introduction: Introduction {
            name: "under test".to_owned(),
            ticket: watch::Sender::new(String::new()).subscribe(),
            clock: Clock::system(),
            boot_id: 1,
        },
        protocols: Arc::new([]),
        replica: Replica {
            store: ScriptedStore::new().as_ref(),
            libraries: Arc::new(Libraries::of(Arc::new(Library::new(KEYS.clone())))),
            partials: Partials::open(&dir.join("partial")).expect("a directory"),
            deletes: Arc::new(DeleteGuard::new(false)),
            deferrals: Deferrals::in_memory(Clock::system()),
        },
        discovery: DiscoveryLinks {
            channels: Channels::default(),
            gossip: ServiceCell::new("GossipActor").service_ref(),
            rendezvous: ServiceCell::new("RendezvousActor").service_ref(),
            directory: SharedDirectory::default(),
            hints: Hints::default(),
            connected: watch::Sender::new(0),
        },
        first: FirstPeers {
            book: AddressBook::open(&dir.join("agent.db")).expect("an address book"),
            connect_ticket_file: None,
            bootstrap: Vec::new(),
        },
        limits: PeersLimits {
            places: PlaceLimits { connections: 64, pending: 32 },
            in_flight: ScheduleLimits {
                node_bytes: 64 << 20,
                peer_bytes: 8 << 20,
                part_bytes: PART_BYTES,
                stall: Duration::from_secs(30),
            },
            dialling: DialLimits {
                dialled_max: 16,
                hints_at_once_max: 8,
                known_max: 4096,
                sealed: ChannelSet::from([Channel::Relays, Channel::Dht, Channel::Mdns, Channel::Gossip]),
                backoff_min: Duration::from_secs(1),
                backoff_max: Duration::from_mins(5),
            },
            session: peer_limits(),
            verify_interval: Duration::from_hours(1),
            min_copies: 2,
        },
        events: EventLog::default(),
        spawn_peer: spawn_peer(),
        myself,
    }
}
