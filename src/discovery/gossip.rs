//! GossipActor: who is there, and that we are.
//!
//! **Owns** the subscription to the network's gossip topic and its tasks: the *follower*, which reads the topic, the local
//! network's ([`super::mdns`]), attempts to join, questions for a sign of life. **Talks to** PeersActor through
//! [`Candidates`], and keeps the [`SharedDirectory`] and the endpoint's addresses of others.
//!
//! The topic's name is a secret: whoever learns it hears the network's names, sizes and addresses. So we join through nobody
//! who has not proved, by a session or by an answer to [`Probe`], that it belongs to the network; channels only say whom to
//! ask. And we dial ourselves before we join: gossip hangs without a word on an id that it cannot reach.
//!
//! **Bounds**: the follower holds a permit for each message that it sends, and checks no more signatures than
//! `limits.max_announcements_per_sec`; 8 attempts to join, 16 questions. **A restart** loses the subscription and nothing
//! else: the directory outlives the actor, and the swarm is joined again through it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use iroh::address_lookup::memory::MemoryLookup;
use iroh::{Endpoint, EndpointAddr, EndpointId, SecretKey};
use iroh_gossip::api::{Event, GossipSender, GossipTopic};
use iroh_gossip::net::{GOSSIP_ALPN, Gossip};
use iroh_gossip::proto::{PlumtreeConfig, TopicId};
use iroh_tickets::endpoint::EndpointTicket;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::announcement::{ADDRS_MAX, Announcement, Signed, Unverified};
use super::candidates::Candidates;
use super::channel::{Channel, Channels};
use super::directory::gate::Gate;
use super::directory::{Effect, SWEEP_EVERY, SavedPeer, SharedDirectory};
use super::mdns::Mdns;
use crate::actor::ActorExit;
use crate::actor::tasks::Tasks;
use crate::identity::Key;
use crate::library::Library;
use crate::node::events::{EventLog, NodeEvent};
use crate::node::status::ActorDetail;
use crate::peer::address_book::AddressBook;
use crate::peer::effects::now_ms;

/// How often we say that we are there, in a network of up to about a thousand; receivers count us as fresh for 120 s.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(30);
const ANNOUNCE_EVERY_MAX: Duration = Duration::from_mins(1);
/// Shortest time between two announcements, however much changes: twice what receivers ask for, and longer in a large
/// network, up to what a flood of invented agents may make of it.
const ANNOUNCE_GAP: Duration = Duration::from_secs(2);
const ANNOUNCE_GAP_MAX: Duration = Duration::from_secs(10);
/// Announcements per second that all agents together make when they all change at once, as they do when an asset reaches
/// all of them; and when nothing changes.
const CHANGES_PER_SEC: u32 = 16;
const ANNOUNCEMENTS_PER_SEC: u32 = 32;
/// Limit of handing an announcement to gossip.
const BROADCAST_WITHIN: Duration = Duration::from_secs(5);
/// Limit of subscribing, and the wait after that failed or the stream broke.
const SUBSCRIBE_WITHIN: Duration = Duration::from_secs(10);
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(1);
/// Below this many neighbours, more are looked for.
const NEIGHBOURS_WANTED: usize = 4;
/// Attempts to join at once, and the limit of each: a question, a dial through a relay, and telling gossip.
const JOINS_MAX: usize = 8;
const JOIN_WITHIN: Duration = Duration::from_secs(20);
/// However many neighbours there are, this many others are joined this often: a swarm can split into parts that each have
/// enough.
const HEAL_EVERY: Duration = Duration::from_mins(3);
const HEAL_JOINS: usize = 3;
/// Limit of asking for a sign of life.
const PROBE_WITHIN: Duration = Duration::from_secs(10);
/// How often the directory is looked at, and how often what is new in it is written down.
const TICK: Duration = Duration::from_secs(1);
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// How long the last of it may take when we stop.
const SAVE_LAST_WITHIN: Duration = Duration::from_secs(1);
/// Remembered agents that are offered as candidates at a start.
const RESTORED_CANDIDATES_MAX: usize = 64;
/// Messages of the follower in the mailbox.
const FOLLOWER_PERMITS: usize = 64;
/// How long gossip keeps messages for neighbours that missed them, and what it has seen: as little as works, for that is
/// what a flood fills.
const GOSSIP_KEEPS_MESSAGES: Duration = Duration::from_secs(3);
const GOSSIP_KEEPS_IDS: Duration = Duration::from_secs(10);

/// Asks an agent whether it is there. `true` only if it has proved as well that it belongs to the presence network: we join
/// through whoever did, and so tell it the topic.
pub type Probe = Arc<dyn Fn(EndpointAddr) -> BoxFuture<'static, bool> + Send + Sync>;

/// What GossipActor understands.
#[derive(Debug)]
pub enum GossipMsg {
    /// Other channels: somebody may be there, so join through them.
    Candidate {
        /// Where.
        addr: EndpointAddr,
        /// Which channel led there.
        channel: Channel,
    },
    /// PeersActor: a session with this peer is up, so it is alive and of our network.
    PeerUp {
        /// Where it is.
        addr: EndpointAddr,
        /// What it calls itself.
        name: String,
        /// Live assets that it holds.
        assets: u64,
    },
    /// PeersActor: the session with this peer is over.
    PeerGone {
        /// Whose.
        endpoint_id: EndpointId,
    },
    /// PeersActor: dialling this peer came to nothing.
    DialFailed {
        /// Whom.
        endpoint_id: EndpointId,
    },
    /// PeersActor: the network may be another one, so speak up and join afresh.
    JoinNow,
    /// Own task: who was remembered from the last run.
    Restored(Vec<SavedPeer>),
    /// Follower: we are subscribed, and this is where we speak.
    Subscribed(GossipSender),
    /// Follower: an announcement whose signature is good.
    Heard {
        /// It.
        signed: Box<Signed>,
        /// Bounds those that wait.
        permit: OwnedSemaphorePermit,
    },
    /// Follower: our neighbours in the swarm are these now.
    Neighbours {
        /// Who.
        ids: HashSet<EndpointId>,
        /// Bounds those that wait.
        permit: OwnedSemaphorePermit,
    },
    /// Own task: whether an agent gave a sign of life.
    Probed {
        /// Who was asked.
        endpoint_id: EndpointId,
        /// Whether it did.
        alive: bool,
    },
    /// Own task: an attempt to join through an agent ended.
    JoinEnded {
        /// Through whom.
        endpoint_id: EndpointId,
        /// Whether gossip has a connection to it now.
        joined: bool,
    },
    /// Own tasks: one of them panicked, and why.
    TaskFailed(String),
    /// Timer of the actor itself.
    Tick,
    /// Status: how it is.
    GetHealth {
        /// The answer.
        reply: RpcReplyPort<ActorDetail>,
    },
}

/// What it is started with.
#[derive(Clone)]
pub struct GossipArgs {
    /// Gossip on the endpoint, as [`start`] makes it; outlives the actor.
    pub gossip: Gossip,
    /// The QUIC endpoint; outlives the actor.
    pub endpoint: Endpoint,
    /// Signs what we say.
    pub secret_key: SecretKey,
    /// Where the network meets.
    pub topic: TopicId,
    /// What we call ourselves.
    pub name: String,
    /// Where we are.
    pub ticket: watch::Receiver<String>,
    /// What we hold.
    pub library: Arc<Library>,
    /// Who is there; outlives the actor.
    pub directory: SharedDirectory,
    /// Where it is kept.
    pub book: AddressBook,
    /// Who is told of whom we find.
    pub candidates: Candidates,
    /// How the ways of finding peers do.
    pub channels: Channels,
    /// The endpoint's addresses of others.
    pub lookup: MemoryLookup,
    /// What happens is told here.
    pub events: EventLog,
    /// Announcements whose signatures are checked.
    pub announcements_per_sec: u32,
    /// How to ask for a sign of life.
    pub probe: Probe,
    /// The local network; `None` leaves it alone.
    pub mdns: Option<Mdns>,
}

/// Starts gossip on an endpoint. Connections on [`GOSSIP_ALPN`] go to [`Gossip::handle_connection`].
///
/// # Panics
/// Outside of a tokio runtime.
#[must_use]
pub fn start(endpoint: &Endpoint) -> Gossip {
    let broadcast = PlumtreeConfig {
        message_cache_retention: GOSSIP_KEEPS_MESSAGES,
        message_id_retention: GOSSIP_KEEPS_IDS,
        ..PlumtreeConfig::default()
    };
    Gossip::builder().broadcast_config(broadcast).spawn(endpoint.clone())
}

/// The topic of a presence network.
#[must_use]
pub fn topic_of(key: &Key) -> TopicId {
    TopicId::from_bytes(*key.expose())
}

/// Its state.
pub struct GossipState {
    args: GossipArgs,
    tasks: Tasks<GossipMsg>,
    sender: Option<GossipSender>,
    neighbours: HashSet<EndpointId>,
    joining: HashSet<EndpointId>,
    /// What we said last, and when.
    said: Option<(Announcement, Instant)>,
    /// Something that others do not know yet.
    news: bool,
    announce_at: Instant,
    sweep_at: Instant,
    save_at: Instant,
    heal_at: Instant,
    refused: Arc<AtomicU64>,
}

/// The actor.
pub struct GossipActor;

impl Actor for GossipActor {
    type Msg = GossipMsg;
    type State = GossipState;
    type Arguments = GossipArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        args: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        args.directory.lock().begin(args.endpoint.id(), rand::random(), Instant::now());
        let mut tasks = Tasks::new(myself.clone(), GossipMsg::TaskFailed);
        let refused = Arc::new(AtomicU64::new(0));
        let follower = Follower { actor: myself.clone(), args: args.clone(), refused: Arc::clone(&refused) };
        tasks.spawn(async move {
            // Who was there the last time comes before anything else.
            follower.restore().await;
            follower.run().await;
        });
        if let Some(mdns) = args.mdns.clone() {
            let (ticket, candidates) = (args.ticket.clone(), args.candidates.clone());
            tasks.spawn(mdns.watch(args.endpoint.id(), ticket, candidates, args.channels.clone()));
        }
        myself.send_after(TICK, || GossipMsg::Tick);
        let now = Instant::now();
        Ok(GossipState {
            args,
            tasks,
            sender: None,
            neighbours: HashSet::new(),
            joining: HashSet::new(),
            said: None,
            news: true,
            announce_at: now,
            sweep_at: now + SWEEP_EVERY,
            save_at: now + SAVE_EVERY,
            heal_at: now + jittered(HEAL_EVERY),
            refused,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            GossipMsg::Candidate { addr, channel } => state.on_candidate(&myself, &addr, channel),
            GossipMsg::PeerUp { addr, name, assets } => state.on_peer_up(&myself, &addr, &name, assets),
            GossipMsg::PeerGone { endpoint_id } => state.args.directory.lock().peer_gone(&endpoint_id),
            GossipMsg::DialFailed { endpoint_id } => {
                let effects = state.args.directory.lock().dial_failed(&endpoint_id, Instant::now());
                state.carry_out(&myself, effects);
            }
            GossipMsg::JoinNow => {
                state.news = true;
                state.args.directory.lock().join_again(Instant::now());
                state.join(&myself, JOINS_MAX);
            }
            GossipMsg::Restored(saved) => state.on_restored(saved),
            GossipMsg::Subscribed(sender) => {
                state.sender = Some(sender);
                state.news = true;
                state.join_more(&myself);
            }
            GossipMsg::Heard { signed, permit } => {
                state.on_heard(&myself, *signed);
                drop(permit);
            }
            GossipMsg::Neighbours { ids, permit } => {
                state.on_neighbours(&myself, ids);
                drop(permit);
            }
            GossipMsg::Probed { endpoint_id, alive } => {
                let effects =
                    state.args.directory.lock().answered(&endpoint_id, alive, Instant::now(), now_ms());
                state.carry_out(&myself, effects);
            }
            GossipMsg::JoinEnded { endpoint_id, joined } => {
                state.joining.remove(&endpoint_id);
                let effects = state.args.directory.lock().join_ended(&endpoint_id, joined, Instant::now());
                state.carry_out(&myself, effects);
                state.join_more(&myself);
            }
            GossipMsg::TaskFailed(why) => {
                return Err(ActorExit::Transient(format!("a task of gossip: {why}")).into());
            }
            GossipMsg::Tick => {
                state.on_tick(&myself);
                myself.send_after(TICK, || GossipMsg::Tick);
            }
            GossipMsg::GetHealth { reply } => {
                let _ = reply.send(state.detail());
            }
        }
        // News do not wait for the next tick.
        state.announce_if_due();
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let unsaved = state.args.directory.lock().unsaved(Instant::now());
        let _ = timeout(SAVE_LAST_WITHIN, save(state.args.book.clone(), unsaved)).await;
        state.tasks.shutdown().await;
        Ok(())
    }
}

impl GossipState {
    fn detail(&self) -> ActorDetail {
        let (fresh, known) = {
            let directory = self.args.directory.lock();
            (directory.fresh(Instant::now()), directory.known())
        };
        let (neighbours, refused) = (self.neighbours.len(), self.refused.load(Ordering::Relaxed));
        let detail = match &self.sender {
            Some(_) => format!(
                "{neighbours} neighbours, {fresh} agents alive of {known} known, {refused} announcements refused"
            ),
            None => "not subscribed yet".to_owned(),
        };
        ActorDetail { detail: Some(detail), ..ActorDetail::default() }
    }

    // ---- Who is there -------------------------------------------------------------------------------------------------

    fn on_candidate(&mut self, myself: &ActorRef<GossipMsg>, addr: &EndpointAddr, channel: Channel) {
        // What we found ourselves comes back this way, because it goes to everybody.
        if channel == Channel::Gossip {
            return;
        }
        let effects = self.args.directory.lock().hint(addr, channel, Instant::now());
        self.carry_out(myself, effects);
        self.join_more(myself);
    }

    fn on_peer_up(&mut self, myself: &ActorRef<GossipMsg>, addr: &EndpointAddr, name: &str, assets: u64) {
        let effects = self.args.directory.lock().peer_up(addr, name, assets, Instant::now(), now_ms());
        self.carry_out(myself, effects);
        self.join_more(myself);
    }

    fn on_heard(&mut self, myself: &ActorRef<GossipMsg>, signed: Signed) {
        let heard = self.args.directory.lock().hear(signed, Instant::now(), now_ms());
        match heard {
            Ok(effects) => {
                self.args.channels.succeeded(Channel::Gossip, now_ms());
                self.carry_out(myself, effects);
            }
            // It was admitted before its signature was checked; another one came in between.
            Err(refusal) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                tracing::trace!(%refusal, "an announcement does not count");
            }
        }
    }

    fn on_restored(&mut self, saved: Vec<SavedPeer>) {
        let addrs = self.args.directory.lock().restore(saved, Instant::now(), now_ms());
        for addr in addrs.into_iter().take(RESTORED_CANDIDATES_MAX) {
            self.args.candidates.found(addr, Channel::Saved);
        }
    }

    fn on_tick(&mut self, myself: &ActorRef<GossipMsg>) {
        let now = Instant::now();
        let own = self.own();
        self.news |= self.said.as_ref().is_none_or(|(said, _)| !says_the_same(said, &own));
        let effects = self.args.directory.lock().tick(now);
        self.carry_out(myself, effects);
        if now >= self.sweep_at {
            self.sweep_at = now + SWEEP_EVERY;
            let effects = self.args.directory.lock().sweep(now, now_ms());
            self.carry_out(myself, effects);
        }
        if now >= self.save_at {
            self.save_at = now + SAVE_EVERY;
            let unsaved = self.args.directory.lock().unsaved(now);
            if !unsaved.is_empty() {
                self.tasks.spawn(save(self.args.book.clone(), unsaved));
            }
        }
        if now >= self.heal_at {
            self.heal_at = now + jittered(HEAL_EVERY);
            self.join(myself, HEAL_JOINS);
        }
        self.join_more(myself);
    }

    fn carry_out(&mut self, myself: &ActorRef<GossipMsg>, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Found(addr) => self.args.candidates.found(addr, Channel::Gossip),
                // In place of what was there: addresses that are only added are never rid of.
                Effect::Located(addr) => drop(self.args.lookup.set_endpoint_info(addr)),
                Effect::Forgotten(id) => drop(self.args.lookup.remove_endpoint_info(id)),
                Effect::Probe(addr) => {
                    let (actor, probe) = (myself.clone(), Arc::clone(&self.args.probe));
                    self.tasks.spawn(async move {
                        let endpoint_id = addr.id;
                        let alive = timeout(PROBE_WITHIN, probe(addr)).await.unwrap_or(false);
                        let _ = actor.send_message(GossipMsg::Probed { endpoint_id, alive });
                    });
                }
                Effect::WentStale { id, name } => {
                    tracing::info!(peer = %id.fmt_short(), "silent, and does not answer");
                    let event = NodeEvent::PeerStale { endpoint_id: id.to_string(), name };
                    self.args.events.publish(now_ms(), event);
                }
            }
        }
    }

    // ---- The swarm ----------------------------------------------------------------------------------------------------

    fn on_neighbours(&mut self, myself: &ActorRef<GossipMsg>, ids: HashSet<EndpointId>) {
        // Whoever is new next to us has not heard us yet.
        self.news |= ids.iter().any(|id| !self.neighbours.contains(id));
        self.neighbours = ids;
        self.join_more(myself);
    }

    /// Looks for more neighbours where there are few.
    fn join_more(&mut self, myself: &ActorRef<GossipMsg>) {
        let missing = NEIGHBOURS_WANTED.saturating_sub(self.neighbours.len());
        if missing > 0 {
            // One more than are missing: some of them do not answer.
            self.join(myself, missing + 1);
        }
    }

    fn join(&mut self, myself: &ActorRef<GossipMsg>, count: usize) {
        let Some(sender) = &self.sender else { return };
        let count = count.min(JOINS_MAX).saturating_sub(self.joining.len());
        if count == 0 {
            return;
        }
        let but = self.neighbours.union(&self.joining).copied().collect();
        let through = self.args.directory.lock().to_join(&but, count, rand::random(), Instant::now());
        for (addr, proven) in through {
            self.joining.insert(addr.id);
            let join = Join {
                gossip: self.args.gossip.clone(),
                endpoint: self.args.endpoint.clone(),
                sender: sender.clone(),
                probe: (!proven).then(|| Arc::clone(&self.args.probe)),
            };
            let (actor, endpoint_id) = (myself.clone(), addr.id);
            self.tasks.spawn(async move {
                let joined = timeout(JOIN_WITHIN, Box::pin(join.run(addr))).await.unwrap_or(false);
                let _ = actor.send_message(GossipMsg::JoinEnded { endpoint_id, joined });
            });
        }
    }

    // ---- Ourselves ----------------------------------------------------------------------------------------------------

    /// What there is to say of ourselves, without its place among our announcements.
    fn own(&self) -> Announcement {
        let addr = self.args.ticket.borrow().parse::<EndpointTicket>();
        let addr =
            addr.map_or_else(|_| EndpointAddr::new(self.args.endpoint.id()), |t| t.endpoint_addr().clone());
        let summary = self.args.library.summary();
        Announcement {
            id: self.args.endpoint.id(),
            name: self.args.name.clone(),
            assets: summary.assets,
            total_bytes: summary.bytes,
            fingerprint: summary.fingerprint,
            timestamp_ms: 0,
            boot_id: 0,
            counter: 0,
            addrs: addr.ip_addrs().copied().take(ADDRS_MAX).collect::<Vec<SocketAddr>>(),
            relay_url: addr.relay_urls().next().cloned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn announce_if_due(&mut self) {
        let now = Instant::now();
        if now < self.announce_at && !self.news {
            return;
        }
        let fresh = u32::try_from(self.args.directory.lock().fresh(now)).unwrap_or(u32::MAX);
        let gap = gap(fresh);
        if self.said.as_ref().is_some_and(|(_, at)| now.saturating_duration_since(*at) < gap) {
            return;
        }
        let Some(sender) = self.sender.clone() else { return };
        let (boot_id, counter) = self.args.directory.lock().next_own();
        let own = Announcement { timestamp_ms: now_ms(), boot_id, counter, ..self.own() };
        let bytes = own.sign(&self.args.secret_key);
        self.args.directory.lock().set_own(bytes.clone());
        self.said = Some((own, now));
        self.news = false;
        self.announce_at = now + jittered(period(fresh));
        self.tasks.spawn(async move {
            match timeout(BROADCAST_WITHIN, sender.broadcast(bytes)).await {
                Ok(Ok(())) => {}
                // The follower notices as well, and subscribes again.
                Ok(Err(error)) => tracing::debug!(%error, "an announcement was not taken"),
                Err(_) => tracing::debug!("an announcement was not taken in time"),
            }
        });
    }
}

/// How long to wait between announcements of changes, with this many others.
fn gap(fresh: u32) -> Duration {
    let shared = Duration::from_secs(u64::from(fresh / CHANGES_PER_SEC));
    shared.clamp(ANNOUNCE_GAP, ANNOUNCE_GAP_MAX)
}

/// How often to announce ourselves, with this many others.
fn period(fresh: u32) -> Duration {
    let shared = Duration::from_secs(u64::from(fresh / ANNOUNCEMENTS_PER_SEC));
    shared.clamp(ANNOUNCE_EVERY, ANNOUNCE_EVERY_MAX)
}

/// A tenth less at most, so that agents which started together do not speak together for ever.
fn jittered(period: Duration) -> Duration {
    period.mul_f64(1.0 - 0.1 * rand::random::<f64>())
}

/// Whether two announcements differ only in when they were made.
fn says_the_same(one: &Announcement, other: &Announcement) -> bool {
    let Announcement { timestamp_ms, boot_id, counter, .. } = *other;
    Announcement { timestamp_ms, boot_id, counter, ..one.clone() } == *other
}

/// Writes down what is new; what cannot be written costs a lookup at the next start.
async fn save(book: AddressBook, peers: Vec<SavedPeer>) {
    if peers.is_empty() {
        return;
    }
    match spawn_blocking(move || book.save_directory(&peers)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the next start will not know of these agents"),
        Err(error) => tracing::warn!(%error, "the address book failed"),
    }
}

/// What an attempt to join needs.
struct Join {
    gossip: Gossip,
    endpoint: Endpoint,
    sender: GossipSender,
    /// Asks first, where the agent has not proved itself yet.
    probe: Option<Probe>,
}

impl Join {
    /// Whether gossip has a connection to the agent now and was told to join through it.
    async fn run(self, addr: EndpointAddr) -> bool {
        let id = addr.id;
        if let Some(probe) = self.probe
            && !probe(addr.clone()).await
        {
            return false;
        }
        let connection = match self.endpoint.connect(addr, GOSSIP_ALPN).await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::debug!(peer = %id.fmt_short(), %error, "the swarm is not joined through it");
                return false;
            }
        };
        self.gossip.handle_connection(connection).await.is_ok()
            && self.sender.join_peers(vec![id]).await.is_ok()
    }
}

/// Reads the topic, and lets through what is worth it.
struct Follower {
    actor: ActorRef<GossipMsg>,
    args: GossipArgs,
    refused: Arc<AtomicU64>,
}

impl Follower {
    /// Reads who was remembered, once per run of the node.
    async fn restore(&self) {
        if self.args.directory.lock().is_restored() {
            return;
        }
        let book = self.args.book.clone();
        let saved = spawn_blocking(move || book.directory()).await.map_err(|e| e.to_string());
        let saved = saved.and_then(|saved| saved.map_err(|e| e.to_string())).unwrap_or_else(|error| {
            tracing::warn!(error, "agents met before are not looked for");
            Vec::new()
        });
        let _ = self.actor.send_message(GossipMsg::Restored(saved));
    }

    /// Never ends.
    async fn run(self) {
        let permits = Arc::new(Semaphore::new(FOLLOWER_PERMITS));
        let mut gate = Gate::new(self.args.announcements_per_sec, Instant::now());
        // The last subscription ends only once there is another: with none, gossip leaves the swarm.
        let mut last = None;
        loop {
            let subscribed =
                timeout(SUBSCRIBE_WITHIN, self.args.gossip.subscribe(self.args.topic, Vec::new())).await;
            match subscribed {
                Ok(Ok(topic)) => {
                    drop(last.take());
                    last = Some(self.read(topic, &permits, &mut gate).await);
                }
                Ok(Err(error)) => self.down(&format!("the topic cannot be subscribed to: {error}")),
                Err(_) => self.down("gossip does not answer"),
            }
            sleep(SUBSCRIBE_AGAIN).await;
        }
    }

    fn down(&self, why: &str) {
        self.args.channels.down(Channel::Gossip, why);
    }

    /// Reads until the stream breaks or has lost something, such as who our neighbours are. Gives back what keeps the
    /// subscription alive.
    async fn read(
        &self,
        topic: GossipTopic,
        permits: &Arc<Semaphore>,
        gate: &mut Gate,
    ) -> iroh_gossip::api::GossipReceiver {
        let (sender, mut receiver) = topic.split();
        let _ = self.actor.send_message(GossipMsg::Subscribed(sender));
        self.args.channels.up(Channel::Gossip);
        self.tell_neighbours(HashSet::new(), permits).await;
        loop {
            match receiver.next().await {
                Some(Ok(Event::Received(message))) => {
                    let Some(signed) = self.checked(&message.content, gate) else {
                        self.refused.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    // A semaphore that nobody closes.
                    let Ok(permit) = Arc::clone(permits).acquire_owned().await else { return receiver };
                    let _ = self.actor.send_message(GossipMsg::Heard { signed: Box::new(signed), permit });
                }
                Some(Ok(Event::NeighborUp(_) | Event::NeighborDown(_))) => {
                    let ids = receiver.neighbors().collect();
                    self.tell_neighbours(ids, permits).await;
                }
                Some(Ok(Event::Lagged)) => {
                    tracing::debug!("gossip was faster than we are");
                    return receiver;
                }
                Some(Err(error)) => {
                    self.down(&format!("the subscription broke: {error}"));
                    return receiver;
                }
                None => {
                    self.down("the subscription ended");
                    return receiver;
                }
            }
        }
    }

    async fn tell_neighbours(&self, ids: HashSet<EndpointId>, permits: &Arc<Semaphore>) {
        if let Ok(permit) = Arc::clone(permits).acquire_owned().await {
            let _ = self.actor.send_message(GossipMsg::Neighbours { ids, permit });
        }
    }

    /// What came, if it is an announcement that counts: size and place first, then as many signatures as are allowed.
    fn checked(&self, content: &bytes::Bytes, gate: &mut Gate) -> Option<Signed> {
        let claimed = Unverified::read(content).ok()?;
        let now = Instant::now();
        let known = {
            let directory = self.args.directory.lock();
            directory.admits(&claimed, now, now_ms()).ok()?;
            directory.knows(&claimed.author())
        };
        if !gate.admits(known, now) {
            return None;
        }
        claimed.verify().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_network_speaks_less_often_and_stays_fresh() {
        assert_eq!([0, 32, 80, 10_000].map(|n| gap(n).as_secs()), [2, 2, 5, 10]);
        assert_eq!([0, 900, 1_600, 10_000].map(|n| period(n).as_secs()), [30, 30, 50, 60]);
        for _ in 0..100 {
            let jittered = jittered(ANNOUNCE_EVERY);
            assert!((ANNOUNCE_EVERY.mul_f64(0.9)..=ANNOUNCE_EVERY).contains(&jittered), "{jittered:?}");
        }
    }
}
