//! PeersActor's connections: which are kept, their PeerActors, and what is left of them when they are over.

use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{Connection, VarInt};
use iroh::{EndpointAddr, EndpointId};
use iroh_tickets::endpoint::EndpointTicket;
use ractor::ActorRef;
use tokio::time::Instant;

use super::{GivenUp, MISBEHAVED_HOLD, PeerLink, PeersState};
use crate::actor::policy::{ChildKind, policy};
use crate::actor::restart::{ExitKind, RestartDecision as Restart, decide};
use crate::clock::now_ms;
use crate::discovery::gossip::GossipMsg;
use crate::events::NodeEvent;
use crate::library::registry::DeviceStanding;
use crate::library::ticket::TicketSerial;
use crate::net::close::{self, is_close};
use crate::net::endpoint::{self, remote_addrs};
use crate::net::handshakes::Pending;
use crate::peer::args::PeerArgs;
use crate::peer::dial;
use crate::peer::establish::ConnectionMemory;
use crate::peer::messages::{PeerMsg, PeersMsg};
use crate::peer::places::Class;
use crate::peer::refusal::PeerRefusal;
use crate::peer::roster::{ConnectionRuling, KnownPeer};
use crate::peer::windows::ProvedConnections;
use crate::transfer::schedule::SessionId;

impl PeersState {
    /// Takes in a connection that we dialled (without `pending`) or accepted.
    pub(super) async fn on_connection(
        &mut self,
        myself: &ActorRef<PeersMsg>,
        connection: Connection,
        pending: Option<Pending>,
    ) {
        let id = connection.remote_id();
        if self.is_own_probe(&id) {
            return connection.close(VarInt::from_u32(close::REFUSED), b"this is your own node");
        }
        let now = Instant::now();
        let dialed_here = pending.is_none();
        let refuse = |code: u32, reason: &str| connection.close(VarInt::from_u32(code), reason.as_bytes());
        if self.admission.throttle.refuses(id, now) {
            refuse(close::NOT_SHARED, "no shared library");
            return self.roster.dial_failed(&id, "it does not know our passphrase".into(), now, 1.0);
        }
        // It may be back before we were told of the end of the connection that it was shut out from.
        let shut_out = self.links.current(&id);
        if self.args.replica.libraries.standing(&id) == DeviceStanding::Denied {
            refuse(close::DENIED, "this machine was denied by its owner");
            self.roster.shut_out(&id, EndpointAddr::from_parts(id, remote_addrs(&connection)));
            return self.roster.dial_failed(&id, "it was denied".into(), now, 1.0);
        }
        if self.roster.holds(&id, now) || shut_out.is_some_and(|link| link.shared_view().misbehaved.is_some())
        {
            refuse(close::BUSY, "left alone for a while");
            return self.roster.dial_failed(&id, "it is left alone for a while".into(), now, 1.0);
        }
        let replaced = self.links.current_session(&id);
        if !dialed_here
            && replaced.is_none()
            && let Err(why) = self.admission.places.may_enter(self.class_of(&id))
        {
            return refuse(close::BUSY, &why.to_string());
        }
        let up = self.links.current(&id);
        let is_up = up.is_some_and(|link| link.up && link.connection.close_reason().is_none());
        if is_up && self.is_doubled(&id) {
            return self.watch_older(myself, connection, pending);
        }
        if is_up && (self.is_for_libraries(&id) || self.roster.comes_beside(&id, dialed_here, now)) {
            // The peer may want the mirror, or not have the first one any more: that is decided once it has a session.
            return self.take_second(myself, connection, pending, ConnectionMemory::default()).await;
        }
        let ruling = self.roster.connected(id, dialed_here, now);
        match ruling {
            ConnectionRuling::Keep | ConnectionRuling::Supersede => {}
            ConnectionRuling::TurnAway => return refuse(close::DUPLICATE, "another connection is kept"),
        }
        let session = self.add_link(connection, replaced, ConnectionMemory::default());
        // It has another place now.
        drop(pending);
        if let Some(old) = self.links.make_current(id, session) {
            self.close_duplicate(old);
        }
        self.spawn_actor(myself, session, dialed_here).await;
    }

    /// Keeps a connection, with a place of its own, or the one of another that it takes over.
    pub(super) fn add_link(
        &mut self,
        connection: Connection,
        replaced: Option<SessionId>,
        memory: ConnectionMemory,
    ) -> SessionId {
        let id = connection.remote_id();
        let session = self.links.add(PeerLink::new(connection, memory));
        self.admission.places.enter(session, self.class_of(&id), replaced);
        self.fetching.connected(session, id);
        session
    }

    pub(super) fn close_duplicate(&self, session: SessionId) {
        if let Some(link) = self.links.get(session) {
            link.connection.close(VarInt::from_u32(close::DUPLICATE), b"another connection is kept");
        }
    }

    pub(super) async fn spawn_actor(&mut self, myself: &ActorRef<PeersMsg>, session: SessionId, opens: bool) {
        let Some(link) = self.links.get_mut(session) else { return };
        if link.connection.close_reason().is_some() {
            return self.link_over(session, None);
        }
        let meter = self.traffic.entry(link.endpoint_id).or_default();
        let args = PeerArgs {
            session,
            connection: link.connection.clone(),
            opens,
            endpoint: self.args.endpoint.clone(),
            bulk: self.bulk.clone(),
            window: link.window.clone(),
            memory: Arc::clone(&link.memory),
            offers_mirror: self.roster.get(&link.endpoint_id).is_some_and(KnownPeer::is_offered_mirror),
            introduction: self.args.introduction.clone(),
            replica: self.args.replica.clone(),
            traffic: Arc::clone(&meter.traffic),
            receiving: link.receiving.clone(),
            sending: link.sending.clone(),
            board: Arc::clone(&link.board),
            peers: self.args.myself.clone(),
            events: self.args.events.clone(),
            held: self.held.clone(),
            limits: self.args.limits.session.clone(),
        };
        match (self.args.spawn_peer)(args, myself.get_cell()).await {
            Ok(actor) => self.links.actor_started(session, actor),
            Err(error) => self.on_peer_exit(myself, session, ExitKind::of_spawn_error(&error)),
        }
    }

    pub(super) fn on_session_up(
        &mut self,
        session: SessionId,
        name: String,
        ticket: &str,
        assets: u64,
        tickets: Option<&[TicketSerial]>,
    ) {
        let was_connected = self.take_place(session);
        let Some(link) = self.links.get_mut(session) else { return };
        let id = link.endpoint_id;
        let named = self.roster.get(&id).is_some_and(KnownPeer::is_wanted);
        let class = match self.admission.places.prove(session, named, tickets) {
            Ok(class) => class,
            Err(why) => {
                tracing::debug!(peer = %id.fmt_short(), %why, "no place for a peer");
                link.given_up = Some(GivenUp::Refused);
                link.connection.close(VarInt::from_u32(close::BUSY), why.to_string().as_bytes());
                return;
            }
        };
        let foreign = tickets.is_some();
        link.foreign = foreign;
        self.share_windows();
        let Some(link) = self.links.get_mut(session) else { return };
        let first = !std::mem::replace(&mut link.up, true) && !was_connected;
        let refused = link.memory.has_offered_mirror();
        if self.verify_round > 0 {
            link.cast(PeerMsg::Verify { round: self.verify_round });
        }
        self.roster.came_back(&id, Instant::now());
        self.roster.session_up(&id, class, !foreign, now_ms());
        if foreign {
            self.roster.libraries_alone(&id, refused, Instant::now());
        }
        let Some(known) = self.roster.get_mut(&id) else { return };
        for channel in known.sources.iter().filter(|channel| channel.is_static()) {
            self.args.discovery.channels.succeeded(channel, now_ms());
        }
        known.name.clone_from(&name);
        // Where it says it is, and where it was seen: either may be what works next time.
        let mut addr = ticket
            .parse::<EndpointTicket>()
            .map(|ticket| ticket.endpoint_addr().clone())
            .ok()
            .filter(|addr| addr.id == id && addr.addrs.len() <= dial::ADDRS_MAX)
            .unwrap_or_else(|| EndpointAddr::new(id));
        addr.addrs.extend(remote_addrs(&link.connection));
        known.addr = addr.clone();
        if !foreign {
            let gossip = GossipMsg::PeerUp { addr: addr.clone(), name: name.clone(), assets };
            // Gossip may be down; it then begins with the peers of the address book, which has this one.
            let _ = self.args.discovery.gossip.cast(gossip);
        }
        self.count_connected();
        if first {
            tracing::info!(peer = %id.fmt_short(), name, "connected");
            let event = NodeEvent::PeerConnected { endpoint_id: id.to_string(), name };
            self.args.events.publish(now_ms(), event);
        }
        self.remember(&id, addr);
        self.ask_for_searched(session);
    }

    /// Gives each connection the window that it may have beside the others there are.
    fn share_windows(&self) {
        let [own, members, _] = self.admission.places.counts();
        let proved = ProvedConnections { own, members };
        for (session, link) in self.links.iter() {
            let Some(class) = self.admission.places.proved(session) else { continue };
            let window = proved.window(class);
            link.window.set(window);
        }
    }

    /// Discovery looks for members of our network; agents of other networks know nothing of them.
    pub(super) fn count_connected(&self) {
        let ours = self.links.values().filter(|link| link.up && !link.foreign);
        self.args.discovery.connected.send_replace(ours.count());
    }

    pub(super) fn on_not_shared(&mut self, id: EndpointId, mirror: bool, failed: bool) {
        let now = Instant::now();
        if failed {
            self.admission.throttle.failed(id, now);
            self.admission.knocked = Some((id, now_ms()));
        }
        if mirror {
            self.roster.not_shared(&id, now);
        } else if let Some(known) = self.roster.get_mut(&id) {
            known.last_error = Some("it lets us into none of the libraries that we joined".into());
        }
        // The end of its actor may have come first.
        if self.roster.get(&id).is_none() && !self.links.is_connected(&id) {
            self.links.forget_history(&id);
            self.traffic.remove(&id);
        }
    }

    pub(super) fn on_peer_exit(&mut self, myself: &ActorRef<PeersMsg>, session: SessionId, exit: ExitKind) {
        let Some(link) = self.links.get_mut(session) else { return };
        link.actor = None;
        let exit = match link.watched.take() {
            Some(watched) => watched.explain(exit),
            None => exit,
        };
        link.shared_view().standing = None;
        let decision = decide(
            policy(ChildKind::Peer),
            &exit,
            &mut link.history,
            std::time::Instant::now(),
            rand::random(),
        );
        let restarts = link.history.restarts();
        let decisions = self.fetching.session_ended(session);
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
    pub(super) fn link_over(&mut self, session: SessionId, hold: Option<(Duration, String)>) {
        let Some(link) = self.links.remove(session) else { return };
        self.admission.places.leave(session);
        self.copied.forget(session);
        self.share_windows();
        self.count_connected();
        let id = link.endpoint_id;
        let decisions = self.fetching.disconnected(session);
        self.carry_out(decisions);
        let closed = link.connection.close_reason();
        if endpoint::is_told_by_double(&link.connection, self.args.endpoint.id()) {
            self.on_own_id_seen();
        }
        let rotated = link.given_up == Some(GivenUp::Rotated)
            || closed.as_ref().is_some_and(|reason| is_close(reason, close::ROTATED));
        let told = closed.as_ref().and_then(PeerRefusal::of_close);
        link.connection.close(VarInt::from_u32(close::SHUTDOWN), b"given up for now");
        if !self.links.end_current(&id, session) {
            return self.second_over(session, &link);
        }
        self.fetching.searches_mut().gone(&id);
        let doubled = closed.as_ref().is_some_and(|reason| is_close(reason, close::DOUBLED));
        if link.up {
            // Gossip may be down; it then starts with nobody connected.
            let _ = self.args.discovery.gossip.cast(GossipMsg::PeerGone { endpoint_id: id });
        }
        let now = Instant::now();
        let reason = closed.map_or_else(|| "the session failed".to_owned(), |reason| reason.to_string());
        if link.up {
            tracing::info!(peer = %id.fmt_short(), reason, "disconnected");
            let event = NodeEvent::PeerLost { endpoint_id: id.to_string(), reason: reason.clone() };
            self.args.events.publish(now_ms(), event);
        }
        if link.up && rotated {
            self.links.keep_history(id, link.history);
            return self.roster.rotated(&id, now);
        }
        let refusal = link.shared_view().refusal.take();
        let refusal = refusal.or(told);
        let kept = refusal.is_some_and(|refusal| {
            let addr = EndpointAddr::from_parts(id, remote_addrs(&link.connection));
            self.roster.refused(&id, refusal, addr)
        });
        let proven = link.up || link.shared_view().proven && link.given_up != Some(GivenUp::Refused);
        if !proven && !kept && self.roster.get(&id).is_none_or(KnownPeer::is_stranger) {
            // A peer that only knocked, or was a wrong hint, is forgotten: ids cost nothing to make.
            self.roster.forget(&id);
            self.traffic.remove(&id);
            return;
        }
        let misbehaved = link.shared_view().misbehaved.take();
        self.links.keep_history(id, link.history);
        let worked = link.up && misbehaved.is_none();
        self.roster.disconnected(&id, worked, Some(reason).filter(|_| link.up), now, rand::random());
        let waited =
            self.roster.get(&id).is_some_and(|known| known.refusal == Some(PeerRefusal::ApprovalWanted));
        if waited && self.args.replica.libraries.standing(&id) == DeviceStanding::Approved {
            // Its user let it in while it was being turned away.
            self.roster.let_in(&id, now);
        }
        if doubled {
            // Members of libraries could say anything, and so could a peer that has proved nothing yet.
            let is_believed = link.up && !link.foreign || self.roster.get(&id).is_some_and(KnownPeer::is_own);
            self.on_closed_for_double(&id, is_believed);
        }
        let misbehaved = misbehaved.map(|reason| (MISBEHAVED_HOLD, reason));
        if let Some((for_, why)) = hold.or(misbehaved) {
            let until = now.checked_add(for_).unwrap_or(now + Duration::from_hours(24));
            self.roster.hold(&id, until, why);
        }
        if self.roster.get(&id).is_none() {
            // There are more such peers than may be known.
            self.traffic.remove(&id);
            self.links.forget_history(&id);
        }
    }

    /// What a peer seems to be that connects, by what it proved before and what led to it.
    fn class_of(&self, id: &EndpointId) -> Class {
        match self.roster.get(id).map_or(Class::Stranger, KnownPeer::class) {
            Class::Stranger => {
                self.args.replica.libraries.ticket_of(id).map_or(Class::Stranger, Class::Member)
            }
            class @ (Class::Named | Class::Own | Class::Member(_)) => class,
        }
    }
}
