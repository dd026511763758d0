//! PeersActor: who to connect to, and what all connections share.
//!
//! **Owns** the roster of known peers, every connection with its PeerActor, the scheduler that picks one source per
//! asset, and two kinds of tasks: the one that accepts connections and the dials. **Talks to** every PeerActor (changes
//! of the store, what to fetch) and hears from them (`SessionUp`, `Wanted`, `Finished`).
//!
//! A PeerActor that fails is started again on its connection, within the policy's budget; then the peer is left alone
//! for a while. Discovery never notices. **Bounds**: places for connections by class ([`Places`](super::places::Places)), for handshakes by where
//! they come from ([`SharedHandshakes`](crate::net::handshakes::SharedHandshakes)), hints that wait ([`Hints`](crate::discovery::hints::Hints)), the scheduler's bytes
//! in flight. **A restart** loses the connections: peers are dialled again from the address book, nothing that was received
//! is fetched twice.

use std::sync::Arc;
use std::time::Duration;

use super::args::PeersArgs;
use super::dial;
use super::dial::Acceptor;
use super::messages::{PeerMsg, PeersMsg};
use crate::actor::ActorResult;
use crate::actor::restart::ExitKind;
use crate::actor::status::{ActorDetail, ask_all};
use crate::actor::watch::BEAT;
use crate::clock::now_ms;
use crate::discovery::channel::Channel;
use crate::discovery::gossip::GossipMsg;
use crate::discovery::rendezvous::RendezvousMsg;
use crate::events::NodeEvent;
use crate::net::close;
use iroh::EndpointId;
use iroh::endpoint::VarInt;
use ractor::{Actor, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

mod book;
mod connections;
mod copied;
mod dates;
mod dialling;
mod feeding;
mod letting_go;
mod links;
mod overview;
mod searching;
mod second_connection;
mod sizes;
mod state;
mod transfers;

use links::GivenUp;
pub(super) use links::PeerLink;
pub use state::PeersState;

/// How often dials, rates and pauses are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often the speeds of sources are compared while parts of large contents are on their way.
const COMPARE: Duration = Duration::from_millis(250);
/// How often parts are looked for that nobody offers any more.
const REST_PARTS: Duration = Duration::from_secs(10);
/// How long parts have to become durable when we stop.
const KEEP_PARTS_WITHIN: Duration = Duration::from_secs(2);
const TRANSFERS_MAX: usize = 1000;
/// How long a peer is left alone that broke the rules.
const MISBEHAVED_HOLD: Duration = Duration::from_mins(5);
/// How often it is looked where own devices and named peers are.
const NETS_EVERY: Duration = Duration::from_secs(5);
/// Places where they may be.
const NETS_MAX: usize = 4096;
/// For iroh to look at the network afresh.
const NETWORK_CHANGE_WITHIN: Duration = Duration::from_secs(5);
/// How long the children have to end when we stop.
const STOP_CHILDREN_WITHIN: Duration = Duration::from_secs(2);

pub struct PeersActor;

impl Actor for PeersActor {
    type Msg = PeersMsg;
    type State = PeersState;
    type Arguments = PeersArgs;

    async fn pre_start(&self, myself: ActorRef<PeersMsg>, args: PeersArgs) -> ActorResult<PeersState> {
        myself.send_after(TICK, || PeersMsg::Tick);
        let mut state = PeersState::new(args, &myself);
        state.clear_marks();
        state.accept(&myself);
        let (actor, mut cursor) = (myself.clone(), state.args.replica.libraries.cursor());
        state.tasks.spawn(async move {
            // The library outlives every actor.
            let _ = cursor.wait_for(Option::is_some).await;
            let _ = actor.send_message(PeersMsg::StoreRead);
        });
        let (actor, mut addresses) = (myself.clone(), state.args.introduction.ticket.clone());
        state.tasks.spawn(async move {
            addresses.borrow_and_update();
            while addresses.changed().await.is_ok() {
                let _ = actor.send_message(PeersMsg::AddressChanged);
            }
        });
        let (deletes, store) =
            (Arc::clone(&state.args.replica.deletes), Arc::clone(&state.args.replica.store));
        state.tasks.spawn(deletes.look_again(store));
        let (actor, book) = (myself, state.args.first.book.clone());
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
        myself: ActorRef<PeersMsg>,
        message: PeersMsg,
        state: &mut PeersState,
    ) -> ActorResult {
        state.fetching.advance(Instant::now());
        match message {
            PeersMsg::StoreChanged(entries) => state.on_store_changed(entries),
            PeersMsg::EntriesChanged(changed) => state.on_entries_changed(&changed),
            PeersMsg::LibraryChanged { library, records } => state.on_library_changed(library, &records),
            PeersMsg::ContentsLoaded(contents) => state.on_contents_loaded(contents),
            PeersMsg::Arriving(hashes) => state.feeding.note_foreign(hashes),
            PeersMsg::Arrived { library, records } => state.on_arrived(library, &records),
            PeersMsg::StoreHealth(failure) => state.on_store_health(failure),
            PeersMsg::DialPeer { addr, reply } => drop(reply.send(state.on_dial_peer(&myself, addr))),
            PeersMsg::ForgetPeer { endpoint_id, reply } => {
                let _ = reply.send(state.on_forget_peer(&endpoint_id));
            }
            PeersMsg::DeviceDecided { endpoint_id } => state.on_device_decided(&myself, &endpoint_id),
            PeersMsg::DialNow => state.on_dial_now(&myself),
            PeersMsg::AddressChanged => state.on_address_changed(&myself),
            PeersMsg::Knocked { endpoint_id } => state.on_knocked(&myself, &endpoint_id),
            PeersMsg::Candidate { addr, channel } => {
                state.on_candidate(addr, channel);
                state.dial_due(&myself);
            }
            PeersMsg::HintsWaiting => state.take_hints(&myself),
            PeersMsg::Verify => state.verify(),
            PeersMsg::GetReport { reply } => drop(reply.send(overview::report(state))),
            PeersMsg::GetTransfers { reply } => drop(reply.send(state.transfers())),
            PeersMsg::FetchNow { hash, reply } => drop(reply.send(state.on_fetch_now(hash))),
            PeersMsg::Lacks { session, hashes, asked } => state.fetching.lacks(session, &hashes, asked),
            PeersMsg::Drops(message) => state.on_drops(message),
            PeersMsg::GetWhy { hash, reply } => drop(reply.send(state.why(&hash))),
            PeersMsg::GetHealth { reply } => state.on_get_health(reply),
            PeersMsg::Accepted { connection, pending } => {
                state.on_connection(&myself, connection, Some(pending)).await;
            }
            PeersMsg::OlderWatched { session, alive, connection, pending } => {
                state.on_older_watched(&myself, session, alive, connection, pending).await;
            }
            PeersMsg::RunWatched { older, alive, up } => state.on_run_watched(&myself, older, alive, *up),
            PeersMsg::RunHeard { endpoint_id, boot_id } => state.on_run_heard(endpoint_id, boot_id),
            PeersMsg::OwnIdProbed { found } => state.on_own_id_probed(found),
            PeersMsg::OwnIdSeen => state.on_own_id_seen(),
            PeersMsg::Dialed { endpoint_id, result } => state.on_dialed(&myself, endpoint_id, result).await,
            PeersMsg::MirrorDialed { endpoint_id, result } => {
                state.on_mirror_dialed(&myself, endpoint_id, result).await;
            }
            PeersMsg::SessionUp { session, .. } if state.is_in_doubt(session) => {
                state.watch_run(&myself, session, message);
            }
            PeersMsg::SessionUp { session, name, ticket, assets, tickets } => {
                state.on_session_up(session, name, &ticket, assets, tickets.as_deref());
            }
            PeersMsg::NotShared { endpoint_id, mirror, failed } => {
                state.on_not_shared(endpoint_id, mirror, failed);
            }
            PeersMsg::Remembered(entries) => state.on_remembered(&myself, entries),
            PeersMsg::StoreRead => {
                state.forget_stored_parts();
                state.start_accepting(&myself);
            }
            PeersMsg::TaskFailed(why) => return Err(format!("a task: {why}").into()),
            PeersMsg::SessionReset { session } => state.on_session_reset(session),
            PeersMsg::Wanted { session, library, records } => state.on_wanted(session, library, records),
            PeersMsg::Finished { session, results } => state.on_finished(session, results),
            PeersMsg::PartFinished { session, request, key, result } => {
                state.on_part_finished(session, request, key, result);
            }
            PeersMsg::Committed { key, outcome } => state.on_committed(&myself, key, outcome),
            PeersMsg::Applied { key, result } => state.on_applied(key, result),
            PeersMsg::Restricted { key, result } => state.on_restricted(key, result),
            PeersMsg::Recalled { recalled } => state.on_recalled(recalled),
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
        myself: ActorRef<PeersMsg>,
        event: SupervisionEvent,
        state: &mut PeersState,
    ) -> ActorResult {
        // An actor that we did not ask to stop stops by itself only when its connection is over.
        let Some((who, exit)) = ExitKind::of_event(event, true) else { return Ok(()) };
        if let Some(session) = state.links.actor_ended(who.get_id()) {
            state.on_peer_exit(&myself, session, exit);
        }
        Ok(())
    }

    async fn post_stop(&self, myself: ActorRef<PeersMsg>, state: &mut PeersState) -> ActorResult {
        state.tasks.shutdown().await;
        for link in state.links.values() {
            link.connection.close(VarInt::from_u32(close::SHUTDOWN), b"shutting down");
        }
        myself.stop_children_and_wait(Some("shutting down".into()), Some(STOP_CHILDREN_WITHIN)).await;
        // What is not durable by then is fetched again.
        let _ = timeout(KEEP_PARTS_WITHIN, state.args.replica.partials.rest(|_| false)).await;
        Ok(())
    }
}

impl PeersState {
    /// Why nothing moves, if so.
    pub(super) fn paused(&self) -> Option<&str> {
        let unread = (!self.accepting).then_some("the store was not read yet");
        self.fetching.paused().or(unread)
    }

    fn accept(&mut self, myself: &ActorRef<PeersMsg>) {
        let acceptor = Acceptor {
            actor: myself.clone(),
            endpoint: self.args.endpoint.clone(),
            protocols: Arc::clone(&self.args.protocols),
            cursor: self.args.replica.libraries.cursor(),
            within: self.args.limits.session.establish,
            handshakes: self.admission.handshakes.clone(),
            bulk: self.bulk.clone(),
        };
        self.tasks.spawn(acceptor.run());
    }

    /// The store was read: sessions may begin.
    fn start_accepting(&mut self, myself: &ActorRef<PeersMsg>) {
        self.accepting = true;
        if let Some(path) = self.args.first.connect_ticket_file.clone() {
            self.tasks.spawn(dial::watch_ticket_file(myself.clone(), path));
        }
        for addr in self.args.first.bootstrap.clone() {
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
        // A PeerActor that is down looks afresh when it starts.
        let _ = self.args.discovery.rendezvous.cast(RendezvousMsg::LookNow);
        let _ = self.args.discovery.gossip.cast(GossipMsg::JoinNow);
        self.roster.dial_now(Instant::now());
        self.dial_due(myself);
    }

    fn on_store_health(&mut self, failure: Option<String>) {
        let decisions = self.fetching.store_health(failure);
        self.carry_out(decisions);
    }

    fn verify(&mut self) {
        self.verify_round += 1;
        self.due.verify = Instant::now() + self.args.limits.verify_interval;
        for link in self.links.values().filter(|link| link.up) {
            link.cast(PeerMsg::Verify { round: self.verify_round });
        }
    }

    fn on_get_health(&self, reply: RpcReplyPort<ActorDetail>) {
        let children: Vec<_> = self.links.values().map(overview::asked).collect();
        let detail = format!("{} connected, {} known", self.links.connected(), self.roster.iter().count());
        // Asked from a task: a hung PeerActor must not hold us up.
        tokio::spawn(async move {
            let children = ask_all(children, |reply| PeerMsg::GetHealth { reply }).await;
            let _ = reply.send(ActorDetail { queued: None, detail: Some(detail), children });
        });
    }

    /// Gives a connection up in favour of other peers.
    fn give_up(&mut self, id: &EndpointId) {
        let Some(link) = self.links.current_mut(id) else { return };
        link.given_up = Some(GivenUp::Rotated);
        tracing::debug!(peer = %id.fmt_short(), "giving a connection up in favour of another peer");
        link.connection.close(VarInt::from_u32(close::ROTATED), b"making room for another peer");
    }

    fn on_tick(&mut self, myself: &ActorRef<PeersMsg>) {
        let now = Instant::now();
        for meter in self.traffic.values_mut() {
            meter.tick(TICK);
        }
        let decisions = self.fetching.tick(now, now_ms());
        self.carry_out(decisions);
        self.probe_again();
        self.compare_sources(myself);
        if now >= self.due.beat {
            self.due.beat = now + BEAT;
            self.links.beat();
        }
        if now >= self.due.rest_parts {
            self.due.rest_parts = now + REST_PARTS;
            self.rest_parts();
        }
        if now >= self.due.verify {
            self.verify();
        }
        self.roster.tick();
        self.take_hints(myself);
        self.know_nets(now);
        if let Some(id) = self.roster.rotate(now, rand::random()) {
            self.give_up(&id);
        }
        let scheduler = self.fetching.scheduler();
        self.args.replica.libraries.hold_rules().give_back(|hash| scheduler.wants(hash));
        self.tick_searches(myself);
        self.tick_drops();
        self.tick_dates(myself, now);
        self.tell_sizes(now);
        self.retry_lost(myself, now);
        self.dial_due(myself);
        self.offer_mirror(myself);
        self.args.events.set_progress(overview::progress(self));
        let in_sync = overview::is_in_sync(self);
        if in_sync && !self.was_in_sync {
            let assets = self.args.replica.libraries.mirror().summary().assets;
            self.args.events.publish(now_ms(), NodeEvent::InSync { assets });
        }
        self.was_in_sync = in_sync;
    }
}
