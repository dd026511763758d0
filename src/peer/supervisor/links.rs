//! Every connection to a peer, and which of a peer's connections counts.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use iroh::EndpointId;
use iroh::endpoint::{Connection, Side};
use parking_lot::{Mutex, MutexGuard};
use ractor::{ActorId, ActorRef};

use crate::actor::restart::History;
use crate::actor::watch::WatchedActor;
use crate::net::bulk::InboundWindow;
use crate::peer::actor::SharedView;
use crate::peer::establish::ConnectionMemory;
use crate::peer::messages::PeerMsg;
use crate::transfer::active::ActiveTransfers;
use crate::transfer::schedule::SessionId;

pub(in crate::peer) struct PeerLink {
    pub(in crate::peer) endpoint_id: EndpointId,
    pub(in crate::peer) connection: Connection,
    pub(in crate::peer) actor: Option<ActorRef<PeerMsg>>,
    pub(super) watched: Option<WatchedActor>,
    /// Messages that found no actor.
    pub(super) undelivered: AtomicU64,
    pub(in crate::peer) history: History,
    pub(super) board: Arc<Mutex<SharedView>>,
    pub(super) memory: Arc<ConnectionMemory>,
    pub(in crate::peer) up: bool,
    /// Whether it shares libraries by ticket alone: the network of the passphrase does not hear of it.
    pub(super) foreign: bool,
    /// Large contents under way from it, and to it.
    pub(in crate::peer) receiving: ActiveTransfers,
    pub(super) sending: ActiveTransfers,
    /// Why we gave it up, if we did.
    pub(super) given_up: Option<GivenUp>,
    /// What it may have on its way to us.
    pub(super) window: InboundWindow,
}

/// Why a connection that works is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// In favour of another peer.
    Rotated,
    /// There was no place for it once it had proved itself.
    Refused,
}

impl PeerLink {
    pub(super) fn new(connection: Connection, memory: ConnectionMemory) -> Self {
        Self {
            endpoint_id: connection.remote_id(),
            actor: None,
            watched: None,
            undelivered: AtomicU64::new(0),
            history: History::default(),
            board: Arc::default(),
            memory: Arc::new(memory),
            up: false,
            foreign: false,
            receiving: ActiveTransfers::default(),
            sending: ActiveTransfers::default(),
            given_up: None,
            window: InboundWindow::new(connection.clone()),
            connection,
        }
    }

    pub(in crate::peer) fn shared_view(&self) -> MutexGuard<'_, SharedView> {
        self.board.lock()
    }

    pub(super) fn is_dialed_here(&self) -> bool {
        self.connection.side() == Side::Client
    }

    pub(super) fn cast(&self, message: PeerMsg) {
        // Between two incarnations nobody is there: the next one compares everything anyway.
        let sent = self.actor.as_ref().is_some_and(|actor| actor.send_message(message).is_ok());
        self.undelivered.fetch_add(u64::from(!sent), Ordering::Relaxed);
    }
}

/// All connections. A peer has one that counts, its current one; and, for a while, a second one that may take its place.
#[derive(Default)]
pub(in crate::peer) struct Links {
    by_session: HashMap<SessionId, PeerLink>,
    current: HashMap<EndpointId, SessionId>,
    second: HashMap<EndpointId, SessionId>,
    actors: HashMap<ActorId, SessionId>,
    /// How often the actors of peers failed that have no connection.
    histories: HashMap<EndpointId, History>,
    last_session: u64,
}

impl Links {
    /// Takes in a connection that is nobody's current one yet.
    pub(super) fn add(&mut self, mut link: PeerLink) -> SessionId {
        self.last_session += 1;
        let session = SessionId(self.last_session);
        link.history = self.histories.remove(&link.endpoint_id).unwrap_or_default();
        self.by_session.insert(session, link);
        session
    }

    pub(in crate::peer) fn get(&self, session: SessionId) -> Option<&PeerLink> {
        self.by_session.get(&session)
    }

    pub(super) fn get_mut(&mut self, session: SessionId) -> Option<&mut PeerLink> {
        self.by_session.get_mut(&session)
    }

    pub(super) fn remove(&mut self, session: SessionId) -> Option<PeerLink> {
        self.by_session.remove(&session)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionId, &PeerLink)> {
        self.by_session.iter().map(|(session, link)| (*session, link))
    }

    pub(in crate::peer) fn values(&self) -> impl Iterator<Item = &PeerLink> {
        self.by_session.values()
    }

    pub(super) fn connected(&self) -> usize {
        self.current.len()
    }

    pub(super) fn is_connected(&self, id: &EndpointId) -> bool {
        self.current.contains_key(id)
    }

    pub(in crate::peer) fn current(&self, id: &EndpointId) -> Option<&PeerLink> {
        self.current.get(id).and_then(|session| self.by_session.get(session))
    }

    pub(super) fn current_mut(&mut self, id: &EndpointId) -> Option<&mut PeerLink> {
        self.current.get(id).and_then(|session| self.by_session.get_mut(session))
    }

    pub(super) fn current_session(&self, id: &EndpointId) -> Option<SessionId> {
        self.current.get(id).copied()
    }

    /// Makes a connection the current one of its peer; returns the one that was.
    pub(super) fn make_current(&mut self, id: EndpointId, session: SessionId) -> Option<SessionId> {
        self.current.insert(id, session)
    }

    /// The peer has no current connection, if it was this one. Whether it was.
    pub(super) fn end_current(&mut self, id: &EndpointId, session: SessionId) -> bool {
        take_if(&mut self.current, id, session)
    }

    pub(super) fn second_session(&self, id: &EndpointId) -> Option<SessionId> {
        self.second.get(id).copied()
    }

    /// Puts a connection beside the current one of its peer; returns the one that was there.
    pub(super) fn make_second(&mut self, id: EndpointId, session: SessionId) -> Option<SessionId> {
        self.second.insert(id, session)
    }

    /// The peer has no second connection, if it was this one. Whether it was.
    pub(super) fn end_second(&mut self, id: &EndpointId, session: SessionId) -> bool {
        take_if(&mut self.second, id, session)
    }

    pub(super) fn actor_started(&mut self, session: SessionId, actor: ActorRef<PeerMsg>) {
        let Some(link) = self.by_session.get_mut(&session) else { return };
        link.history.started(Instant::now());
        self.actors.insert(actor.get_id(), session);
        link.watched = Some(WatchedActor::new(actor.get_cell()));
        link.actor = Some(actor);
    }

    /// Has those killed that have not come on for long.
    pub(super) fn beat(&mut self) {
        self.by_session.values_mut().filter_map(|link| link.watched.as_mut()).for_each(WatchedActor::beat);
    }

    /// The connection whose actor ended.
    pub(super) fn actor_ended(&mut self, actor: ActorId) -> Option<SessionId> {
        self.actors.remove(&actor)
    }

    /// Keeps how often a peer's actors failed until it is connected again.
    pub(super) fn keep_history(&mut self, id: EndpointId, history: History) {
        self.histories.insert(id, history);
    }

    pub(super) fn forget_history(&mut self, id: &EndpointId) {
        self.histories.remove(id);
    }
}

fn take_if(sessions: &mut HashMap<EndpointId, SessionId>, id: &EndpointId, session: SessionId) -> bool {
    let is_it = sessions.get(id) == Some(&session);
    if is_it {
        sessions.remove(id);
    }
    is_it
}
