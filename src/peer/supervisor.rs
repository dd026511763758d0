//! PeersActor: who to connect to, and what all connections share.
//!
//! **Owns** the roster of known peers, every connection with its PeerActor, the scheduler that picks one source per
//! asset, and two kinds of tasks: the one that accepts connections and the dials. **Talks to** every PeerActor (changes
//! of the store, what to fetch) and hears from them (`SessionUp`, `Wanted`, `Finished`).
//!
//! A PeerActor that fails is started again on its connection, within the policy's budget; then the peer is left alone
//! for a while. Discovery never notices. **Bounds**: `limits.max_connections`, `limits.max_pending_handshakes` of them unproven,
//! the scheduler's bytes in flight. **A restart** loses the connections: peers are dialled again from the address book,
//! nothing that was received is fetched twice.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use iroh::endpoint::{Connection, VarInt};
use iroh::{Endpoint, EndpointAddr, EndpointId};
use iroh_tickets::endpoint::EndpointTicket;
use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr, SupervisionEvent,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::actor::{Board, PeerActor, PeerArgs, PeerLimits, code, is_close};
use super::address_book::{AddressBook, Change, Entry};
use super::auth::Throttle;
use super::dial::{Acceptor, Protocols};
use super::effects::{DeleteGuard, now_ms};
use super::establish::Introduction;
use super::messages::{PeerMsg, PeersMsg};
use super::roster::{DialLimits, Known, Roster};
use super::{dial, overview};
use crate::actor::tasks::Tasks;
use crate::actor::{ActorExit, ServiceRef};
use crate::discovery::channel::{Channel, Channels};
use crate::discovery::directory::SharedDirectory;
use crate::discovery::gossip::GossipMsg;
use crate::discovery::rendezvous::RendezvousMsg;
use crate::library::Libraries;
use crate::library::registry::Standing;
use crate::node::events::{EventLog, NodeEvent};
use crate::node::policy::{ChildKind, policy};
use crate::node::restart::{Decision as Restart, ExitKind, History, decide};
use crate::node::status::ActorDetail;
use crate::record::ContentHash;
use crate::store::StoreRef;
use crate::transfer::moving::Moving;
use crate::transfer::partial::Partials;
use crate::transfer::schedule::{Limits, Scheduler, SessionId};
use crate::transfer::setbacks::Setbacks;

mod feeding;
mod transfers;

/// How often dials, rates and pauses are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often the speeds of sources are compared while parts of large contents are on their way.
const COMPARE: Duration = Duration::from_millis(250);
/// How often parts are looked for that nobody offers any more.
const REST_PARTS: Duration = Duration::from_secs(10);
/// How long parts have to become durable when we stop.
const KEEP_PARTS_WITHIN: Duration = Duration::from_secs(2);
/// Wait after the store failed to take content before it is tried again.
const STORE_PAUSE: Duration = Duration::from_secs(3);
/// Changes of the address book that may wait.
const BOOK_CHANGES_MAX: usize = 4096;
/// Transfers in one report.
const TRANSFERS_MAX: usize = 1000;
/// How long a peer is left alone that broke the rules.
const MISBEHAVED_HOLD: Duration = Duration::from_mins(5);
/// Contents with wrong bytes that one peer may send before it has broken the rules.
const WRONG_CONTENTS_MAX: usize = 3;
/// For iroh to look at the network afresh.
const NETWORK_CHANGE_WITHIN: Duration = Duration::from_secs(5);
/// How long the children have to end when we stop.
const STOP_CHILDREN_WITHIN: Duration = Duration::from_secs(2);

/// How a PeerActor is started; tests put another one in its place.
pub type SpawnPeer =
    Arc<dyn Fn(PeerArgs, ActorCell) -> BoxFuture<'static, Result<ActorRef<PeerMsg>, SpawnErr>> + Send + Sync>;

/// The real one.
#[must_use]
pub fn spawn_peer() -> SpawnPeer {
    Arc::new(|args, supervisor| {
        Box::pin(async move {
            let (actor, _) = Actor::spawn_linked(None, PeerActor, args, supervisor).await?;
            Ok(actor)
        })
    })
}

/// What it is started with.
#[derive(Clone)]
pub struct PeersArgs {
    /// The QUIC endpoint; outlives the actor.
    pub endpoint: Endpoint,
    /// What we say of ourselves.
    pub introduction: Introduction,
    /// What may be shared.
    pub libraries: Arc<Libraries>,
    /// Where assets live.
    pub store: StoreRef,
    /// Large contents until they are complete.
    pub partials: Partials,
    /// Peers met before.
    pub book: AddressBook,
    /// A file with the ticket of a peer to connect to.
    pub connect_ticket_file: Option<PathBuf>,
    /// Peers to try first.
    pub bootstrap: Vec<EndpointAddr>,
    /// How the ways of finding peers do.
    pub channels: Channels,
    /// Who is told of sessions and of dials that came to nothing.
    pub gossip: ServiceRef<GossipMsg>,
    /// Who looks peers up that are not where they were.
    pub rendezvous: ServiceRef<RendezvousMsg>,
    /// Who takes connections that are no sessions.
    pub protocols: Protocols,
    /// Who has announced themselves.
    pub directory: SharedDirectory,
    /// How many peers are connected: discovery looks less often once somebody is.
    pub connected: watch::Sender<usize>,
    /// Whether and how peers' deletions are applied.
    pub deletes: Arc<DeleteGuard>,
    /// Most connections.
    pub max_connections: usize,
    /// Most connections that have not proved themselves yet.
    pub max_pending: usize,
    /// Bytes in flight.
    pub in_flight: Limits,
    /// How peers are dialled.
    pub dialling: DialLimits,
    /// Waits and speeds of every session.
    pub limits: PeerLimits,
    /// Time between two comparisons with every connected peer.
    pub verify_interval: Duration,
    /// What happens is told here.
    pub events: EventLog,
    /// How a PeerActor is started.
    pub spawn_peer: SpawnPeer,
    /// Ourselves, for the children: leads to whichever incarnation runs.
    pub myself: ServiceRef<PeersMsg>,
}

/// One connection.
pub(super) struct PeerLink {
    pub(super) endpoint_id: EndpointId,
    pub(super) connection: Connection,
    pub(super) actor: Option<ActorRef<PeerMsg>>,
    pub(super) history: History,
    board: Arc<Mutex<Board>>,
    /// Whether a session came about.
    pub(super) up: bool,
    /// Whether it shares libraries by ticket alone: the network of the passphrase does not hear of it.
    foreign: bool,
    /// Large contents under way from it, and to it.
    receiving: Moving,
    sending: Moving,
    /// Whether we gave it up in favour of another peer.
    rotated: bool,
    /// Held until it did.
    permit: Option<OwnedSemaphorePermit>,
}

/// Its state.
pub struct PeersState {
    pub(super) args: PeersArgs,
    pub(super) roster: Roster,
    pub(super) links: HashMap<SessionId, PeerLink>,
    pub(super) current: HashMap<EndpointId, SessionId>,
    actors: HashMap<ActorId, SessionId>,
    pub(super) traffic: HashMap<EndpointId, overview::Meter>,
    /// Changes of the address book, in order.
    book: mpsc::Sender<Change>,
    /// How often the actors of each peer failed; of peers without a connection.
    histories: HashMap<EndpointId, History>,
    pub(super) scheduler: Scheduler,
    throttle: Throttle,
    /// Changes of the store on their way to the PeerActors.
    feeding: feeding::Feeding,
    /// What went wrong with which content.
    setbacks: Setbacks,
    /// Whether [`PeersMsg::CompareSources`] will come.
    comparing: bool,
    /// When parts that nobody offers are next looked at.
    rest_parts_at: Instant,
    /// Contents that came with wrong bytes, by peer.
    distrusted: HashMap<EndpointId, HashSet<ContentHash>>,
    tasks: Tasks<PeersMsg>,
    next_session: u64,
    /// Why the store does not work, as CanServiceActor says.
    store_failure: Option<String>,
    /// Why the store took no content lately.
    ingest_failure: Option<String>,
    /// Whether the store was read once; sessions begin after that.
    accepting: bool,
    resume_at: Option<Instant>,
    /// Rounds of comparing afresh that were asked for.
    pub(super) verify_round: u64,
    verify_at: Instant,
    was_in_sync: bool,
}

/// The actor.
pub struct PeersActor;

impl Actor for PeersActor {
    type Msg = PeersMsg;
    type State = PeersState;
    type Arguments = PeersArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        args: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        myself.send_after(TICK, || PeersMsg::Tick);
        let mut state = PeersState::new(args, &myself);
        state.accept(&myself);
        let (actor, mut cursor) = (myself.clone(), state.args.libraries.cursor());
        state.tasks.spawn(async move {
            // The library outlives every actor.
            let _ = cursor.wait_for(Option::is_some).await;
            let _ = actor.send_message(PeersMsg::StoreRead);
        });
        let (actor, book) = (myself, state.args.book.clone());
        state.tasks.spawn(async move {
            let entries = spawn_blocking(move || book.entries()).await.map_err(|e| e.to_string());
            match entries.and_then(|entries| entries.map_err(|e| e.to_string())) {
                Ok(entries) => drop(actor.send_message(PeersMsg::Remembered(entries))),
                Err(error) => tracing::warn!(error, "peers met before are not dialled"),
            }
        });
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PeersMsg::StoreChanged(entries) => state.on_store_changed(entries),
            PeersMsg::ContentsLoaded(contents) => state.on_contents_loaded(contents),
            PeersMsg::Arriving(hashes) => state.feeding.note_foreign(hashes),
            PeersMsg::Arrived(records) => state.on_arrived(&records),
            PeersMsg::StoreHealth(failure) => state.on_store_health(failure),
            PeersMsg::DialPeer { addr, reply } => {
                let _ = reply.send(state.on_dial_peer(&myself, addr));
            }
            PeersMsg::ForgetPeer { endpoint_id, reply } => {
                let _ = reply.send(state.on_forget_peer(&endpoint_id));
            }
            PeersMsg::DialNow => state.on_dial_now(&myself),
            PeersMsg::Candidate { addr, channel } => state.on_hint(&myself, addr, channel),
            PeersMsg::Verify => state.verify(),
            PeersMsg::ConfirmDeletions { reply } => {
                let _ = reply.send(state.args.deletes.confirm(Instant::now()));
                state.verify();
            }
            PeersMsg::GetReport { reply } => {
                let _ = reply.send(overview::report(state));
            }
            PeersMsg::GetTransfers { reply } => {
                let _ = reply.send(state.transfers());
            }
            PeersMsg::GetWhy { hash, reply } => drop(reply.send(state.why(&hash))),
            PeersMsg::GetHealth { reply } => state.on_get_health(reply),
            PeersMsg::Accepted { connection, permit } => {
                state.on_connection(&myself, connection, Some(permit)).await;
            }
            PeersMsg::Dialed { endpoint_id, result } => match result {
                Ok(connection) if state.roster.get(&endpoint_id).is_none() => {
                    connection.close(VarInt::from_u32(code::SHUTDOWN), b"forgotten while it was dialled");
                }
                Ok(connection) => state.on_connection(&myself, connection, None).await,
                Err(error) => {
                    tracing::debug!(peer = %endpoint_id.fmt_short(), error, "a dial failed");
                    state.roster.dial_failed(&endpoint_id, error, Instant::now(), rand::random());
                    if state.roster.get(&endpoint_id).is_some_and(Known::is_wanted) {
                        state.locate(endpoint_id);
                    }
                    // Gossip may be down; it then starts anew, without what failed.
                    let _ = state.args.gossip.cast(GossipMsg::DialFailed { endpoint_id });
                    state.dial_due(&myself);
                }
            },
            PeersMsg::SessionUp { session, name, ticket, assets, foreign } => {
                state.on_session_up(session, name, &ticket, assets, foreign);
            }
            PeersMsg::NotShared { endpoint_id } => state.on_not_shared(endpoint_id),
            PeersMsg::Remembered(entries) => state.on_remembered(&myself, entries),
            PeersMsg::StoreRead => {
                state.forget_stored_parts();
                state.start_accepting(&myself);
            }
            PeersMsg::TaskFailed(why) => {
                return Err(ActorExit::Transient(format!("a task: {why}")).into());
            }
            PeersMsg::SessionReset { session } => state.on_session_reset(session),
            PeersMsg::Wanted { session, records } => state.on_wanted(session, records),
            PeersMsg::Finished { session, results } => state.on_finished(session, results),
            PeersMsg::PartFinished { session, request, hash, result } => {
                state.on_part_finished(session, request, hash, result);
            }
            PeersMsg::Committed { hash, size, outcome } => state.on_committed(&myself, hash, size, outcome),
            PeersMsg::Applied { hash, result } => state.on_applied(hash, result),
            PeersMsg::Restricted { hash, result } => state.on_restricted(hash, result),
            PeersMsg::Respawn { session } => state.spawn_actor(&myself, session, true).await,
            PeersMsg::CompareSources => state.on_compare_sources(&myself),
            PeersMsg::Tick => {
                state.on_tick(&myself);
                myself.send_after(TICK, || PeersMsg::Tick);
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        // An actor that we did not ask to stop stops by itself only when its connection is over.
        let Some((who, exit)) = ExitKind::of_event(event, true) else { return Ok(()) };
        if let Some(session) = state.actors.remove(&who.get_id()) {
            state.on_peer_exit(&myself, session, &exit);
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        myself: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.tasks.shutdown().await;
        for link in state.links.values() {
            link.connection.close(VarInt::from_u32(code::SHUTDOWN), b"shutting down");
        }
        myself.stop_children_and_wait(Some("shutting down".into()), Some(STOP_CHILDREN_WITHIN)).await;
        // What is not durable by then is fetched again.
        let _ = timeout(KEEP_PARTS_WITHIN, state.args.partials.rest(|_| false)).await;
        Ok(())
    }
}

impl PeersState {
    fn new(args: PeersArgs, myself: &ActorRef<PeersMsg>) -> Self {
        let roster = Roster::new(args.endpoint.id(), args.dialling.clone());
        let scheduler = Scheduler::new(args.in_flight, Instant::now());
        let verify_at = Instant::now() + args.verify_interval;
        let mut tasks = Tasks::new(myself.clone(), PeersMsg::TaskFailed);
        let (book, changes) = mpsc::channel(BOOK_CHANGES_MAX);
        tasks.spawn(args.book.clone().keep(changes));
        Self {
            args,
            roster,
            links: HashMap::new(),
            current: HashMap::new(),
            actors: HashMap::new(),
            traffic: HashMap::new(),
            book,
            histories: HashMap::new(),
            scheduler,
            throttle: Throttle::default(),
            feeding: feeding::Feeding::default(),
            setbacks: Setbacks::default(),
            comparing: false,
            rest_parts_at: Instant::now() + REST_PARTS,
            distrusted: HashMap::new(),
            tasks,
            next_session: 1,
            store_failure: None,
            ingest_failure: None,
            accepting: false,
            resume_at: None,
            verify_round: 0,
            verify_at,
            was_in_sync: false,
        }
    }

    /// Why nothing moves, if so.
    pub(super) fn paused(&self) -> Option<&str> {
        let unread = (!self.accepting).then_some("the store was not read yet");
        self.store_failure.as_deref().or(self.ingest_failure.as_deref()).or(unread)
    }

    fn on_remembered(&mut self, myself: &ActorRef<PeersMsg>, entries: Vec<Entry>) {
        if !entries.is_empty() {
            self.args.channels.up(Channel::Saved);
        }
        for entry in entries {
            let id = entry.addr.id;
            self.on_candidate(entry.addr, Channel::Saved);
            if let Some(known) = self.roster.get_mut(&id).filter(|known| known.last_seen_ms.is_none()) {
                known.name = entry.name;
                known.last_seen_ms = entry.last_seen_ms;
            }
        }
        self.dial_due(myself);
    }

    fn accept(&mut self, myself: &ActorRef<PeersMsg>) {
        let acceptor = Acceptor {
            actor: myself.clone(),
            endpoint: self.args.endpoint.clone(),
            protocols: Arc::clone(&self.args.protocols),
            cursor: self.args.libraries.cursor(),
            within: self.args.limits.establish,
        };
        self.tasks.spawn(acceptor.run(Arc::new(Semaphore::new(self.args.max_pending))));
    }

    /// The store was read: sessions may begin.
    fn start_accepting(&mut self, myself: &ActorRef<PeersMsg>) {
        self.accepting = true;
        if let Some(path) = self.args.connect_ticket_file.clone() {
            self.tasks.spawn(dial::watch_ticket_file(myself.clone(), path));
        }
        for addr in self.args.bootstrap.clone() {
            self.on_candidate(addr, Channel::Bootstrap);
        }
        self.dial_due(myself);
    }

    /// The network may be another one.
    fn on_dial_now(&mut self, myself: &ActorRef<PeersMsg>) {
        let endpoint = self.args.endpoint.clone();
        self.tasks.spawn(async move {
            // Whatever iroh has not noticed by then, it notices by itself later.
            let _ = timeout(NETWORK_CHANGE_WITHIN, endpoint.network_change()).await;
        });
        // Whoever is down looks afresh when it starts.
        let _ = self.args.rendezvous.cast(RendezvousMsg::LookNow);
        let _ = self.args.gossip.cast(GossipMsg::JoinNow);
        self.roster.dial_now(Instant::now());
        self.dial_due(myself);
    }

    fn on_hint(&mut self, myself: &ActorRef<PeersMsg>, addr: EndpointAddr, channel: Channel) {
        self.on_candidate(addr, channel);
        self.dial_due(myself);
    }

    /// A channel led to a peer.
    fn on_candidate(&mut self, addr: EndpointAddr, channel: Channel) {
        let id = addr.id;
        if Known::names(channel) {
            // It may be of our topic and not of our passphrase, so that no session ever tells gossip of it. Gossip may be
            // down; a session then does.
            let _ = self.args.gossip.cast(GossipMsg::Candidate { addr: addr.clone(), channel });
        }
        // What comes through the other channels was counted on its way here.
        if self.roster.candidate(addr, channel, Instant::now()) && channel.is_static() {
            self.args.channels.found(channel, id);
        }
    }

    fn on_store_health(&mut self, failure: Option<String>) {
        self.store_failure = failure;
        if self.store_failure.is_some() {
            self.scheduler.pause();
            return;
        }
        if self.ingest_failure.is_none() {
            let decisions = self.scheduler.resume();
            self.carry_out(decisions);
        }
    }

    fn on_dial_peer(&mut self, myself: &ActorRef<PeersMsg>, addr: EndpointAddr) -> Result<(), String> {
        let id = addr.id;
        self.on_candidate(addr.clone(), Channel::Tickets);
        if self.roster.get(&id).is_none() {
            return Err(if id == self.args.endpoint.id() {
                "that is this node's own address".into()
            } else {
                "too many peers are known already".into()
            });
        }
        self.remember(&id, addr);
        self.dial_due(myself);
        Ok(())
    }

    fn on_forget_peer(&mut self, id: &EndpointId) -> bool {
        if let Some(link) = self.current.get(id).and_then(|session| self.links.get(session)) {
            link.connection.close(VarInt::from_u32(code::SHUTDOWN), b"forgotten");
        }
        self.change_book(Change::Forget(*id));
        self.roster.forget(id)
    }

    /// Has somebody looked up whom a user named, and who is not where the user said, or of whom the user said no more than the
    /// id.
    fn locate(&self, endpoint_id: EndpointId) {
        // It may be down; the next attempt asks again.
        let _ = self.args.rendezvous.cast(RendezvousMsg::Locate { endpoint_id });
    }

    fn dial_due(&mut self, myself: &ActorRef<PeersMsg>) {
        if !self.accepting || self.links.len() >= self.args.max_connections {
            return;
        }
        for (addr, hint) in self.roster.due(Instant::now(), rand::random()) {
            self.tasks.spawn(dial::dial(myself.clone(), self.args.endpoint.clone(), addr, hint));
        }
    }

    /// Takes in a connection that we dialled (without `permit`) or accepted.
    async fn on_connection(
        &mut self,
        myself: &ActorRef<PeersMsg>,
        connection: Connection,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let id = connection.remote_id();
        let now = Instant::now();
        let dialed_here = permit.is_none();
        let refuse = |code: u32, reason: &str| connection.close(VarInt::from_u32(code), reason.as_bytes());
        if self.throttle.refuses(id, now) {
            refuse(code::NOT_SHARED, "no shared library");
            return self.roster.dial_failed(&id, "it does not know our passphrase".into(), now, 1.0);
        }
        // It may be back before we were told of the end of the connection that it was shut out from.
        let shut_out = self.current.get(&id).and_then(|session| self.links.get(session));
        if self.args.libraries.standing(&id) == Standing::Denied {
            refuse(code::REFUSED, "this machine was denied by its owner");
            return self.roster.dial_failed(
                &id,
                "it was denied: `can-sync approve` lets it in".into(),
                now,
                1.0,
            );
        }
        if self.roster.holds(&id, now) || shut_out.is_some_and(|link| link.board().misbehaved.is_some()) {
            refuse(code::BUSY, "left alone for a while");
            return self.roster.dial_failed(&id, "it is left alone for a while".into(), now, 1.0);
        }
        if self.links.len() >= self.args.max_connections && !self.current.contains_key(&id) {
            refuse(code::BUSY, "too many connections");
            return self.roster.dial_failed(&id, "we have too many connections".into(), now, 1.0);
        }
        if !self.roster.connected(id, dialed_here, now) {
            return refuse(code::DUPLICATE, "another connection is kept");
        }
        let session = SessionId(self.next_session);
        self.next_session += 1;
        if let Some(old) = self.current.insert(id, session)
            && let Some(link) = self.links.get(&old)
        {
            link.connection.close(VarInt::from_u32(code::DUPLICATE), b"another connection is kept");
        }
        let link = PeerLink {
            endpoint_id: id,
            connection,
            actor: None,
            history: self.histories.remove(&id).unwrap_or_default(),
            board: Arc::default(),
            up: false,
            foreign: false,
            receiving: Moving::default(),
            sending: Moving::default(),
            rotated: false,
            permit,
        };
        self.links.insert(session, link);
        self.spawn_actor(myself, session, dialed_here).await;
    }

    async fn spawn_actor(&mut self, myself: &ActorRef<PeersMsg>, session: SessionId, opens: bool) {
        let Some(link) = self.links.get_mut(&session) else { return };
        if link.connection.close_reason().is_some() {
            return self.link_over(session, None);
        }
        let meter = self.traffic.entry(link.endpoint_id).or_default();
        let args = PeerArgs {
            session,
            connection: link.connection.clone(),
            opens,
            own_id: self.args.endpoint.id(),
            introduction: self.args.introduction.clone(),
            libraries: Arc::clone(&self.args.libraries),
            store: Arc::clone(&self.args.store),
            partials: self.args.partials.clone(),
            deletes: Arc::clone(&self.args.deletes),
            traffic: Arc::clone(&meter.traffic),
            receiving: link.receiving.clone(),
            sending: link.sending.clone(),
            board: Arc::clone(&link.board),
            peers: self.args.myself.clone(),
            events: self.args.events.clone(),
            limits: self.args.limits.clone(),
        };
        match (self.args.spawn_peer)(args, myself.get_cell()).await {
            Ok(actor) => {
                link.history.started(std::time::Instant::now());
                self.actors.insert(actor.get_id(), session);
                link.actor = Some(actor);
            }
            Err(error) => self.on_peer_exit(myself, session, &ExitKind::of_spawn_error(&error)),
        }
    }

    fn on_session_up(&mut self, session: SessionId, name: String, ticket: &str, assets: u64, foreign: bool) {
        let Some(link) = self.links.get_mut(&session) else { return };
        let id = link.endpoint_id;
        link.permit = None;
        link.foreign = foreign;
        let first = !std::mem::replace(&mut link.up, true);
        if self.verify_round > 0 {
            link.cast(PeerMsg::Verify { round: self.verify_round });
        }
        self.roster.session_up(&id, now_ms());
        let Some(known) = self.roster.get_mut(&id) else { return };
        for channel in known.sources.iter().filter(|channel| channel.is_static()) {
            self.args.channels.succeeded(*channel, now_ms());
        }
        known.name.clone_from(&name);
        // Where it says it is, and where it was seen: either may be what works next time.
        let mut addr = ticket
            .parse::<EndpointTicket>()
            .map(|ticket| ticket.endpoint_addr().clone())
            .ok()
            .filter(|addr| addr.id == id && addr.addrs.len() <= dial::ADDRS_MAX)
            .unwrap_or_else(|| EndpointAddr::new(id));
        addr.addrs.extend(link.connection.paths().iter().map(|path| path.remote_addr().clone()));
        known.addr = addr.clone();
        if !foreign {
            let gossip = GossipMsg::PeerUp { addr: addr.clone(), name: name.clone(), assets };
            // Gossip may be down; it then begins with the peers of the address book, which has this one.
            let _ = self.args.gossip.cast(gossip);
        }
        self.count_connected();
        if first {
            tracing::info!(peer = %id.fmt_short(), name, "connected");
            let event = NodeEvent::PeerConnected { endpoint_id: id.to_string(), name };
            self.args.events.publish(now_ms(), event);
        }
        self.remember(&id, addr);
    }

    /// Discovery looks for members of our network, of whom foreign ones know nothing.
    fn count_connected(&self) {
        let ours = self.links.values().filter(|link| link.up && !link.foreign);
        self.args.connected.send_replace(ours.count());
    }

    fn remember(&mut self, id: &EndpointId, addr: EndpointAddr) {
        let Some(known) = self.roster.get(id) else { return };
        let entry = Entry { addr, name: known.name.clone(), last_seen_ms: known.last_seen_ms };
        self.change_book(Change::Remember(entry));
    }

    /// Changes are made in order by one task; with too many waiting, one is left out.
    fn change_book(&self, change: Change) {
        if self.book.try_send(change).is_err() {
            tracing::warn!("the next start will not know of a change of the address book");
        }
    }

    fn on_not_shared(&mut self, id: EndpointId) {
        let now = Instant::now();
        self.throttle.failed(id, now);
        self.roster.not_shared(&id, now);
        // The end of its actor may have come first.
        if self.roster.get(&id).is_none() && !self.current.contains_key(&id) {
            self.histories.remove(&id);
            self.traffic.remove(&id);
        }
    }

    fn on_peer_exit(&mut self, myself: &ActorRef<PeersMsg>, session: SessionId, exit: &ExitKind) {
        let Some(link) = self.links.get_mut(&session) else { return };
        link.actor = None;
        link.board().standing = None;
        let decision = decide(
            policy(ChildKind::Peer),
            exit,
            &mut link.history,
            std::time::Instant::now(),
            rand::random(),
        );
        let restarts = link.history.restarts();
        let decisions = self.scheduler.session_ended(session);
        self.carry_out(decisions);
        let reason = exit.reason();
        match decision {
            Restart::LetGo => self.link_over(session, None),
            Restart::Respawn { after } => {
                tracing::warn!(reason, ?after, "a PeerActor failed and is started again");
                let kind = ChildKind::Peer.to_string();
                self.args.events.publish(now_ms(), NodeEvent::ActorRestarted { kind, reason, restarts });
                myself.send_after(after, move || PeersMsg::Respawn { session });
            }
            Restart::BackOff { for_, why } | Restart::Degrade { retry_after: for_, why } => {
                tracing::warn!(why, ?for_, "a peer is left alone for a while");
                self.link_over(session, Some((for_, why)));
            }
            Restart::Escalate { why } => self.link_over(session, Some((Duration::MAX, why))),
        }
    }

    /// A connection is over, or given up for a while.
    fn link_over(&mut self, session: SessionId, hold: Option<(Duration, String)>) {
        let Some(link) = self.links.remove(&session) else { return };
        self.count_connected();
        let id = link.endpoint_id;
        let decisions = self.scheduler.session_ended(session);
        self.carry_out(decisions);
        let closed = link.connection.close_reason();
        let rotated = link.rotated || closed.as_ref().is_some_and(|reason| is_close(reason, code::ROTATED));
        link.connection.close(VarInt::from_u32(code::SHUTDOWN), b"given up for now");
        if self.current.get(&id) != Some(&session) {
            return;
        }
        self.current.remove(&id);
        if link.up {
            // Gossip may be down; it then starts with nobody connected.
            let _ = self.args.gossip.cast(GossipMsg::PeerGone { endpoint_id: id });
        }
        let now = Instant::now();
        let reason = closed.map_or_else(|| "the session failed".to_owned(), |reason| reason.to_string());
        if link.up {
            tracing::info!(peer = %id.fmt_short(), reason, "disconnected");
            let event = NodeEvent::PeerLost { endpoint_id: id.to_string(), reason: reason.clone() };
            self.args.events.publish(now_ms(), event);
        }
        if link.up && rotated {
            self.histories.insert(id, link.history);
            return self.roster.rotated(&id, now);
        }
        let proven = link.up || link.board().proven;
        if !proven && self.roster.get(&id).is_none_or(Known::is_stranger) {
            // Nothing is kept of whoever only knocked, or was a wrong hint: ids cost nothing to make.
            self.roster.forget(&id);
            self.traffic.remove(&id);
            return;
        }
        let misbehaved = link.board().misbehaved.take();
        self.histories.insert(id, link.history);
        let worked = link.up && misbehaved.is_none();
        self.roster.disconnected(&id, worked, Some(reason).filter(|_| link.up), now, rand::random());
        let misbehaved = misbehaved.map(|reason| (MISBEHAVED_HOLD, reason));
        if let Some((for_, why)) = hold.or(misbehaved) {
            let until = now.checked_add(for_).unwrap_or(now + Duration::from_hours(24));
            self.roster.hold(&id, until, why);
        }
    }

    fn verify(&mut self) {
        self.verify_round += 1;
        self.verify_at = Instant::now() + self.args.verify_interval;
        for link in self.links.values().filter(|link| link.up) {
            link.cast(PeerMsg::Verify { round: self.verify_round });
        }
    }

    fn on_get_health(&self, reply: RpcReplyPort<ActorDetail>) {
        let children: Vec<_> = self
            .links
            .values()
            .map(|link| (link.endpoint_id, link.actor.clone(), link.history.clone()))
            .collect();
        let detail = format!("{} connected, {} known", self.current.len(), self.roster.iter().count());
        // Asked from a task: a hung PeerActor must not hold us up.
        tokio::spawn(async move {
            let children = overview::ask_children(children).await;
            let _ = reply.send(ActorDetail { queued: None, detail: Some(detail), children });
        });
    }

    fn on_tick(&mut self, myself: &ActorRef<PeersMsg>) {
        let now = Instant::now();
        for meter in self.traffic.values_mut() {
            meter.tick(TICK);
        }
        if self.resume_at.is_some_and(|at| at <= now) {
            self.resume_at = None;
            self.ingest_failure = None;
        }
        if self.store_failure.is_none() && self.ingest_failure.is_none() {
            let decisions = self.scheduler.resume();
            self.carry_out(decisions);
        }
        self.compare_sources(myself);
        if now >= self.rest_parts_at {
            self.rest_parts_at = now + REST_PARTS;
            self.rest_parts();
        }
        if now >= self.verify_at {
            self.verify();
        }
        if let Some(id) = self.roster.rotate(now, rand::random())
            && let Some(link) = self.current.get(&id).and_then(|session| self.links.get_mut(session))
        {
            link.rotated = true;
            tracing::debug!(peer = %id.fmt_short(), "giving a connection up in favour of another peer");
            link.connection.close(VarInt::from_u32(code::ROTATED), b"making room for another peer");
        }
        self.dial_due(myself);
        let in_sync = overview::is_in_sync(self);
        if in_sync && !self.was_in_sync {
            let assets = self.args.libraries.mirror().summary().assets;
            self.args.events.publish(now_ms(), NodeEvent::InSync { assets });
        }
        self.was_in_sync = in_sync;
    }
}

impl PeerLink {
    pub(super) fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cast(&self, message: PeerMsg) {
        // Between two incarnations nobody is there: the next one compares everything anyway.
        if let Some(actor) = &self.actor {
            let _ = actor.send_message(message);
        }
    }
}
