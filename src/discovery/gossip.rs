//! GossipActor: who is there, and that we are.
//!
//! **Owns** its tasks: the *follower*, which subscribes to the network's gossip topic and reads it, the local network's
//! ([`super::mdns`]), attempts to join, questions for a sign of life. **Talks to** PeersActor through
//! [`Candidates`](super::candidates::Candidates), and keeps the [`SharedDirectory`](super::directory::SharedDirectory) and
//! the endpoint's addresses of others.
//!
//! The topic's name is a secret: an agent that learns it hears the network's names, sizes and addresses. So we join through nobody
//! who has not proved, by a session or by an answer to [`PresenceProbe`], that it belongs to the network; channels only say which agents to
//! ask. And we dial ourselves before we join: gossip hangs without a word on an id that it cannot reach.
//!
//! **Bounds**: the follower holds a permit for each message that it sends, and checks no more signatures than
//! `limits.max_announcements_per_sec`; 8 attempts to join, 16 questions. **A restart** loses the subscription and nothing
//! else: the directory outlives the actor, and the swarm is joined again through it.

mod follower;
mod messages;
mod standstill;
mod swarm;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use iroh::{EndpointAddr, EndpointId};
use iroh_gossip::api::GossipSender;
use iroh_gossip::net::GOSSIP_ALPN;
use iroh_tickets::endpoint::EndpointTicket;
use ractor::{Actor, ActorRef};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use self::follower::TopicFollower;
pub use self::messages::{GossipArgs, GossipMsg, NodeRun, PresenceProbe};
use self::standstill::StandstillWatch;
use self::swarm::Join;
pub use self::swarm::{start, topic_of};
use super::announcement::{ADDRS_MAX, Announcement, Signed};
use super::channel::{Channel, ChannelSet};
use super::directory::{DirectoryEffect, SWEEP_EVERY, SavedPeer};
use super::hints::{HINTS_AGAIN, HINTS_AT_ONCE};
use super::pace::{JoinPace, announce_period, counts_gap, jittered, news_gap};
use crate::actor::ActorResult;
use crate::actor::status::ActorDetail;
use crate::actor::tasks::Tasks;
use crate::clock::now_ms;
use crate::discovery::address_book::AddressBook;
use crate::events::NodeEvent;
use crate::net::close;

/// Limit of handing an announcement to gossip.
const BROADCAST_WITHIN: Duration = Duration::from_secs(5);
/// Attempts to join at once, and the limit of each: a question, a dial through a relay, and telling gossip.
const JOINS_MAX: usize = 8;
const JOIN_WITHIN: Duration = Duration::from_secs(20);
/// Limit of asking for a sign of life.
const PROBE_WITHIN: Duration = Duration::from_secs(10);
/// How often the directory is looked at, and how often what is new in it is written down.
const TICK: Duration = Duration::from_secs(1);
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// How long the last of it may take when we stop.
const SAVE_LAST_WITHIN: Duration = Duration::from_secs(1);
/// Remembered agents that are offered as candidates at a start.
const RESTORED_CANDIDATES_MAX: usize = 64;

pub struct GossipState {
    args: GossipArgs,
    tasks: Tasks<GossipMsg>,
    sender: Option<GossipSender>,
    neighbours: HashSet<EndpointId>,
    joining: HashSet<EndpointId>,
    said: Option<(Announcement, Instant)>,
    /// Something that others do not know yet, other than how much we hold.
    news: bool,
    /// How much we hold is not what we said.
    counts_news: bool,
    announce_at: Instant,
    sweep_at: Instant,
    save_at: Instant,
    joins: JoinPace,
    standstill: StandstillWatch,
    /// Neighbours that were hung up on, to be joined again with the next tick.
    hung_up: HashSet<EndpointId>,
    refused: Arc<AtomicU64>,
    /// When more of the hints that wait are taken.
    hints_at: Option<Instant>,
}

pub struct GossipActor;

impl Actor for GossipActor {
    type Msg = GossipMsg;
    type State = GossipState;
    type Arguments = GossipArgs;

    async fn pre_start(&self, myself: ActorRef<GossipMsg>, args: GossipArgs) -> ActorResult<GossipState> {
        args.directory.lock().begin(args.endpoint.id(), args.run.boot_id, Instant::now());
        let mut tasks = Tasks::new(myself.clone(), GossipMsg::TaskFailed);
        let refused = Arc::new(AtomicU64::new(0));
        let follower =
            TopicFollower { actor: myself.clone(), args: args.clone(), refused: Arc::clone(&refused) };
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
            counts_news: false,
            announce_at: now,
            sweep_at: now + SWEEP_EVERY,
            save_at: now + SAVE_EVERY,
            joins: JoinPace::default(),
            standstill: StandstillWatch::default(),
            hung_up: HashSet::new(),
            refused,
            hints_at: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<GossipMsg>,
        message: GossipMsg,
        state: &mut GossipState,
    ) -> ActorResult {
        match message {
            GossipMsg::HintsWaiting => state.take_hints(&myself),
            GossipMsg::Candidate { addr, channel } => {
                state.on_candidate(&myself, &addr, channel);
                state.join_more(&myself);
            }
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
                return Err(format!("a task of gossip: {why}").into());
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

    async fn post_stop(&self, _: ActorRef<GossipMsg>, state: &mut GossipState) -> ActorResult {
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
        if channel == Channel::Gossip || (self.args.shut_out)(&addr.id) {
            return;
        }
        let effects = self.args.directory.lock().hint(addr, channel, Instant::now());
        self.carry_out(myself, effects);
    }

    /// Takes some of the hints that wait.
    fn take_hints(&mut self, myself: &ActorRef<GossipMsg>) {
        let now = Instant::now();
        if self.hints_at.is_some_and(|at| now < at) {
            return;
        }
        let (hints, more) = self.args.hints.take(HINTS_AT_ONCE);
        self.hints_at = more.then_some(now + HINTS_AGAIN);
        if more {
            myself.send_after(HINTS_AGAIN, || GossipMsg::HintsWaiting);
        }
        if hints.is_empty() {
            return;
        }
        for (addr, channel) in hints {
            self.on_candidate(myself, &addr, channel);
        }
        self.join_more(myself);
    }

    fn on_peer_up(&mut self, myself: &ActorRef<GossipMsg>, addr: &EndpointAddr, name: &str, assets: u64) {
        let effects = self.args.directory.lock().peer_up(addr, name, assets, Instant::now(), now_ms());
        self.carry_out(myself, effects);
        self.join_more(myself);
    }

    fn on_heard(&mut self, myself: &ActorRef<GossipMsg>, signed: Signed) {
        // It may have been shut out since it was let through.
        if (self.args.shut_out)(&signed.announcement.id) {
            return;
        }
        let (id, boot_id) = (signed.announcement.id, signed.announcement.boot_id);
        let (before, heard) = {
            let mut directory = self.args.directory.lock();
            (directory.boot_of(&id), directory.hear(signed, Instant::now(), now_ms()))
        };
        match heard {
            Ok(effects) => {
                if before != Some(boot_id) {
                    (self.args.run_heard)(id, boot_id);
                }
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
        let sources: HashMap<EndpointId, ChannelSet> =
            saved.iter().map(|peer| (peer.addr.id, peer.sources)).collect();
        let addrs = self.args.directory.lock().restore(saved, Instant::now(), now_ms());
        for addr in addrs.into_iter().take(RESTORED_CANDIDATES_MAX) {
            let sources = sources.get(&addr.id).copied().unwrap_or_default();
            self.args.candidates.restored(&addr, sources);
        }
    }

    fn on_tick(&mut self, myself: &ActorRef<GossipMsg>) {
        let now = Instant::now();
        let own = self.own();
        self.news |= self.said.as_ref().is_none_or(|(said, _)| !said.is_same_agent_as(&own));
        self.counts_news = self.said.as_ref().is_some_and(|(said, _)| !said.holds_as_much_as(&own));
        let mut effects = self.args.directory.lock().forget(|id| (self.args.shut_out)(id));
        effects.extend(self.args.directory.lock().tick(now));
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
        self.go_on_if_still(myself);
        self.take_hints(myself);
        self.join_more(myself);
    }

    /// Hangs up on all neighbours where one of them holds gossip up, and joins them again once gossip has noticed: which one it is,
    /// gossip does not tell.
    fn go_on_if_still(&mut self, myself: &ActorRef<GossipMsg>) {
        for id in std::mem::take(&mut self.hung_up) {
            if !self.joining.contains(&id) {
                // They were let in before, and the endpoint knows where they are.
                self.join_through(myself, EndpointAddr::new(id), true);
            }
        }
        if self.standstill.stands_still(self.args.gossip.metrics().actor_tick_main.get()) {
            let closed = self.args.gate.hang_up(GOSSIP_ALPN, (close::TIMEOUT, "gossip was held up"));
            self.hung_up.clone_from(&self.neighbours);
            tracing::warn!(
                closed,
                "gossip stood still: a neighbour reads nothing; its neighbours are joined anew"
            );
        }
        if let Some(sender) = self.sender.clone() {
            // A step for it to make, and nothing comes of it.
            self.tasks.spawn(async move {
                let _ = timeout(TICK, sender.join_peers(Vec::new())).await;
            });
        }
    }

    fn carry_out(&mut self, myself: &ActorRef<GossipMsg>, effects: Vec<DirectoryEffect>) {
        for effect in effects {
            match effect {
                DirectoryEffect::Found(addr) => self.args.candidates.found(addr, Channel::Gossip),
                // In place of what was there: addresses that are only added are never rid of.
                DirectoryEffect::Located(addr) => drop(self.args.lookup.set_endpoint_info(addr)),
                DirectoryEffect::Forgotten(id) => drop(self.args.lookup.remove_endpoint_info(id)),
                DirectoryEffect::Probe(addr) => {
                    let (actor, probe) = (myself.clone(), Arc::clone(&self.args.probe));
                    self.tasks.spawn(async move {
                        let endpoint_id = addr.id;
                        let alive = timeout(PROBE_WITHIN, probe(addr)).await.unwrap_or(false);
                        let _ = actor.send_message(GossipMsg::Probed { endpoint_id, alive });
                    });
                }
                DirectoryEffect::WentStale { id, name } => {
                    tracing::info!(peer = %id.fmt_short(), "silent, and does not answer");
                    let event = NodeEvent::PeerStale { endpoint_id: id.to_string(), name };
                    self.args.events.publish(now_ms(), event);
                }
            }
        }
    }

    // ---- The swarm ----------------------------------------------------------------------------------------------------

    fn on_neighbours(&mut self, myself: &ActorRef<GossipMsg>, ids: HashSet<EndpointId>) {
        // A new agent has not heard us yet. One that we have heard has heard us, too: neighbours come and go, and all
        // agents hear what we say.
        {
            let directory = self.args.directory.lock();
            self.news |= self.neighbours.is_empty() && !ids.is_empty();
            self.news |= ids.iter().any(|id| !self.neighbours.contains(id) && !directory.has_heard(id));
        }
        self.neighbours = ids;
        self.join_more(myself);
    }

    /// Looks for more neighbours where there are few.
    fn join_more(&mut self, myself: &ActorRef<GossipMsg>) {
        let count = self.joins.joins(self.neighbours.len(), Instant::now(), rand::random());
        self.join(myself, count);
    }

    fn join(&mut self, myself: &ActorRef<GossipMsg>, count: usize) {
        if self.sender.is_none() {
            return;
        }
        let count = count.min(JOINS_MAX).saturating_sub(self.joining.len());
        if count == 0 {
            return;
        }
        let but = self.neighbours.union(&self.joining).copied().collect();
        let through = self.args.directory.lock().choose_to_join(&but, count, rand::random(), Instant::now());
        for (addr, proven) in through {
            self.join_through(myself, addr, proven);
        }
    }

    fn join_through(&mut self, myself: &ActorRef<GossipMsg>, addr: EndpointAddr, proven: bool) {
        let Some(sender) = self.sender.clone() else { return };
        self.joining.insert(addr.id);
        let join = Join {
            gossip: self.args.gossip.clone(),
            endpoint: self.args.endpoint.clone(),
            sender,
            probe: (!proven).then(|| Arc::clone(&self.args.probe)),
        };
        let (actor, endpoint_id) = (myself.clone(), addr.id);
        self.tasks.spawn(async move {
            let joined = timeout(JOIN_WITHIN, Box::pin(join.run(addr))).await.unwrap_or(false);
            let _ = actor.send_message(GossipMsg::JoinEnded { endpoint_id, joined });
        });
    }

    // ---- Ourselves ----------------------------------------------------------------------------------------------------

    /// What there is to say of ourselves, without its place among our announcements.
    fn own(&self) -> Announcement {
        let addr = self.args.ticket.borrow().parse::<EndpointTicket>();
        let addr =
            addr.map_or_else(|_| EndpointAddr::new(self.args.endpoint.id()), |t| t.endpoint_addr().clone());
        let summary = (self.args.summary)();
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
        if now < self.announce_at && !self.news && !self.counts_news {
            return;
        }
        let others = self.args.directory.lock().settled();
        let gap = if self.news { news_gap(others) } else { counts_gap(others) };
        if self.said.as_ref().is_some_and(|(_, at)| now.saturating_duration_since(*at) < gap) {
            return;
        }
        let Some(sender) = self.sender.clone() else { return };
        let (boot_id, counter) = self.args.directory.lock().next_own();
        let own = Announcement { timestamp_ms: now_ms(), boot_id, counter, ..self.own() };
        let bytes = own.sign(&self.args.secret_key);
        self.args.directory.lock().set_own(bytes.clone());
        self.said = Some((own, now));
        (self.news, self.counts_news) = (false, false);
        self.announce_at = now + jittered(announce_period(others), rand::random());
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
