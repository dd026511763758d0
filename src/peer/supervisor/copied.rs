//! PeersActor notices endpoint ids that two machines have, which run on copies of one data directory: a peer's, and its own.
//!
//! **A peer's**: another run of it has a session on a newer connection, and the older one is alive. The older one stays, the newer
//! one is closed with a code of its own, and both are told: nothing takes turns. Whichever is turned away comes again twice a
//! minute, and has the place once the other one is gone. Announcements of two runs in turns show it, too ([`Doubles`]).
//!
//! **Our own**: a peer of our network says so, somebody connects with it, or announces itself with it. Without any third machine,
//! the local network or a user may say where somebody with our id is: an endpoint with a key of its own dials there. What
//! answers by our id has our key, and is told so in turn, by a signature with that key; if it was ourselves, that dial comes in
//! here. As long as both run, this is repeated.

use std::collections::HashSet;
use std::time::Duration;

use iroh::endpoint::{Connection, VarInt};
use iroh::{EndpointAddr, EndpointId, SecretKey, TransportAddr};
use iroh_tickets::endpoint::EndpointTicket;
use ractor::ActorRef;
use tokio::time::Instant;

use super::PeersState;
use crate::net::auth::AuthError;
use crate::net::handshakes::Pending;
use crate::net::{close, endpoint};
use crate::peer::doubles::{DOUBLED_FOR, Doubles, Sighting};
use crate::peer::messages::{PeerMsg, PeersMsg};
use crate::transfer::schedule::SessionId;

/// A machine that stays connected is told of another one with its id this often.
const TELL_EVERY: Duration = Duration::from_secs(20);
/// Peers that are named in the report because two machines have their ids.
const TOLD_MAX: usize = 8;
/// Addresses of somebody with our own id are tried this often, and so many of them.
const PROBE_EVERY: Duration = Duration::from_secs(20);
const PROBE_ADDRS_MAX: usize = 4;

/// What is known of such machines.
#[derive(Debug, Default)]
pub(super) struct EndpointCopies {
    /// When there was a sign that our own id is another machine's, too.
    own: Option<Instant>,
    peers: Doubles,
    /// Peers that a newer connection came from while it is found out whether the older one is alive.
    watched: HashSet<EndpointId>,
    /// Sessions of other runs, after it was found out that the older connection is not alive.
    cleared: HashSet<SessionId>,
    told: Option<Instant>,
    /// The last try at addresses of our own id.
    probe: Option<Probe>,
}

/// A try at addresses of our own id.
#[derive(Debug)]
struct Probe {
    at: Instant,
    addr: EndpointAddr,
    key: EndpointId,
    /// Whether that dial came in here.
    came: bool,
}

impl EndpointCopies {
    fn is_own_shown(&self) -> bool {
        self.own.is_some_and(|at| at.elapsed() < DOUBLED_FOR)
    }

    fn may_probe(&self) -> bool {
        self.probe.as_ref().is_none_or(|probe| probe.at.elapsed() >= PROBE_EVERY)
    }

    pub(super) fn forget(&mut self, session: SessionId) {
        self.cleared.remove(&session);
    }
}

impl PeersState {
    pub(super) fn on_own_id_seen(&mut self) {
        if !self.copied.is_own_shown() {
            tracing::error!("{}", AuthError::OwnId(self.args.endpoint.id()));
        }
        self.copied.own = Some(Instant::now());
    }

    /// A peer closed our connection because it has one with another machine that has our id.
    pub(super) fn on_closed_for_double(&mut self, id: &EndpointId, is_believed: bool) {
        if is_believed {
            self.on_own_id_seen();
        }
        self.roster.prefers_double(id, Instant::now(), rand::random());
    }

    /// Two machines have a peer's id: says so once, and to that one of them that is connected here.
    fn on_doubled(&mut self, id: EndpointId) {
        let now = Instant::now();
        let is_news = self.copied.peers.note_both(id, now);
        self.tell_doubled(id, is_news);
    }

    fn tell_doubled(&mut self, id: EndpointId, is_news: bool) {
        let now = Instant::now();
        let name = self.roster.get(&id).map(|known| known.name.clone()).unwrap_or_default();
        if is_news && self.is_of_ours(&id) {
            tracing::warn!(
                peer = %id.fmt_short(), name,
                "two machines have this peer's endpoint id, and run on copies of one data directory; the one that is connected \
                 stays so; stop the copy, run `can-sync id --new` there, and start it again"
            );
        }
        let told_lately = self.copied.told.is_some_and(|at| now.duration_since(at) < TELL_EVERY);
        if is_news || !told_lately {
            self.copied.told = Some(now);
            let current = self.links.current(&id);
            if let Some(link) = current.filter(|link| link.up) {
                link.cast(PeerMsg::TellDoubled);
            }
        }
    }

    /// Whether it is a machine that our user has to do with: others could be several on purpose, and are told of to nobody.
    fn is_of_ours(&self, id: &EndpointId) -> bool {
        self.roster.get(id).is_some_and(|known| known.is_own() || known.is_wanted())
    }

    pub(super) fn is_doubled(&self, id: &EndpointId) -> bool {
        self.copied.peers.is_doubled(id, Instant::now())
    }

    // ---- Connections --------------------------------------------------------------------------------------------------

    /// A peer comes whose id two machines have: whether the connection that there is is alive decides.
    pub(super) fn watch_older(
        &mut self,
        myself: &ActorRef<PeersMsg>,
        connection: Connection,
        pending: Option<Pending>,
    ) {
        let id = connection.remote_id();
        let older = self.links.current_session(&id).zip(self.links.current(&id));
        let Some((session, link)) = older.filter(|_| self.copied.watched.insert(id)) else {
            return turn_away(&connection);
        };
        let (actor, older) = (myself.clone(), link.connection.clone());
        self.tasks.spawn(async move {
            let alive = endpoint::is_alive(&older).await;
            let _ = actor.send_message(PeersMsg::OlderWatched { session, alive, connection, pending });
        });
    }

    pub(super) async fn on_older_watched(
        &mut self,
        myself: &ActorRef<PeersMsg>,
        session: SessionId,
        alive: bool,
        connection: Connection,
        pending: Option<Pending>,
    ) {
        let id = connection.remote_id();
        self.copied.watched.remove(&id);
        if alive && self.links.current_session(&id) == Some(session) {
            turn_away(&connection);
            return self.on_doubled(id);
        }
        if let Some(link) = self.links.get(session).filter(|_| !alive) {
            link.connection.close(VarInt::from_u32(close::SHUTDOWN), b"no sign of life");
            self.link_over(session, None);
        }
        self.on_connection(myself, connection, pending).await;
    }

    /// Whether the session on a second connection is with another run of the peer than the session on the first, which is up.
    pub(super) fn is_in_doubt(&mut self, session: SessionId) -> bool {
        let Some(link) = self.links.get(session) else { return false };
        let (id, boot_id) = (link.endpoint_id, link.shared_view().boot_id);
        if let Some(boot_id) = boot_id {
            let now = Instant::now();
            if self.copied.peers.note(id, boot_id, Sighting::Session, now) {
                self.tell_doubled(id, true);
            }
        }
        let older = self.links.current_session(&id).filter(|older| *older != session);
        let Some(older) = older.and_then(|older| self.links.get(older)) else { return false };
        let is_another = older.up && older.shared_view().boot_id != boot_id;
        is_another && older.connection.close_reason().is_none() && !self.copied.cleared.contains(&session)
    }

    /// Another run has a session: finds out whether the one before is there, too, before the newer connection counts.
    pub(super) fn watch_run(&mut self, myself: &ActorRef<PeersMsg>, session: SessionId, up: PeersMsg) {
        let id = self.links.get(session).map(|link| link.endpoint_id);
        let older = id.and_then(|id| self.links.current_session(&id).zip(self.links.current(&id)));
        let Some((older, link)) = older else { return };
        let (actor, connection) = (myself.clone(), link.connection.clone());
        self.tasks.spawn(async move {
            let alive = endpoint::is_alive(&connection).await;
            let _ = actor.send_message(PeersMsg::RunWatched { older, alive, up: Box::new(up) });
        });
    }

    pub(super) fn on_run_watched(
        &mut self,
        myself: &ActorRef<PeersMsg>,
        older: SessionId,
        alive: bool,
        up: PeersMsg,
    ) {
        let PeersMsg::SessionUp { session, .. } = up else { return };
        let Some(link) = self.links.get(session) else { return };
        let id = link.endpoint_id;
        if alive && self.links.current_session(&id) == Some(older) {
            turn_away(&link.connection);
            return self.on_doubled(id);
        }
        self.copied.cleared.insert(session);
        let _ = myself.send_message(up);
    }

    // ---- What is heard ------------------------------------------------------------------------------------------------

    /// An announcement, signed with the key of `id`, of another run than the one that was heard before.
    pub(super) fn on_run_heard(&mut self, id: EndpointId, boot_id: u64) {
        if id == self.args.endpoint.id() {
            return self.on_own_id_seen();
        }
        // Anybody who knows the topic may announce ids that nobody has.
        if !self.is_of_ours(&id) {
            return;
        }
        let now = Instant::now();
        let known = self.is_doubled(&id);
        if self.copied.peers.note(id, boot_id, Sighting::Announcement, now) || known {
            self.tell_doubled(id, !known);
        }
    }

    /// Somebody with our own id is said to be at some place: looks who answers there. Whether that is worth it.
    pub(super) fn probe_own_id(&mut self, addr: &EndpointAddr) -> bool {
        let own = self.args.introduction.ticket.borrow().parse::<EndpointTicket>();
        let own = own.map(|ticket| ticket.endpoint_addr().addrs.clone()).unwrap_or_default();
        let elsewhere = addr.addrs.iter().filter(|addr| addr.is_ip() && !own.contains(*addr));
        let addrs: Vec<TransportAddr> = elsewhere.take(PROBE_ADDRS_MAX).cloned().collect();
        if addrs.is_empty() {
            return false;
        }
        if !self.copied.may_probe() {
            return true;
        }
        let key = SecretKey::generate();
        let (actor, addr) = (self.args.myself.clone(), EndpointAddr::from_parts(addr.id, addrs));
        let probe = Probe { at: Instant::now(), addr: addr.clone(), key: key.public(), came: false };
        self.copied.probe = Some(probe);
        self.tasks.spawn(async move {
            let found = endpoint::is_answered(key, addr).await;
            // A restart of ours asks again.
            let _ = actor.cast(PeersMsg::OwnIdProbed { found });
        });
        true
    }

    /// Whether a connection is our own dial to our own id.
    pub(super) fn is_own_probe(&mut self, id: &EndpointId) -> bool {
        let probe = self.copied.probe.as_mut().filter(|probe| probe.key == *id);
        probe.is_some_and(|probe| {
            probe.came = true;
            true
        })
    }

    pub(super) fn on_own_id_probed(&mut self, found: bool) {
        let Some(probe) = &self.copied.probe else { return };
        let came_here = probe.came;
        tracing::debug!(found, came_here, "looked who answers by our own endpoint id");
        if found && !came_here {
            let (own, addr) = (self.args.endpoint.secret_key().clone(), probe.addr.clone());
            self.tasks.spawn(async move { endpoint::tell_double(&own, addr).await });
            self.on_own_id_seen();
        }
    }

    /// Looks again at the place where somebody with our own id was, as long as that is shown.
    pub(super) fn probe_again(&mut self) {
        if self.copied.is_own_shown()
            && self.copied.may_probe()
            && let Some(addr) = self.copied.probe.as_ref().map(|probe| probe.addr.clone())
        {
            self.probe_own_id(&addr);
        }
    }

    // ---- What there is to say -----------------------------------------------------------------------------------------

    pub(super) fn copied(&self) -> Option<String> {
        self.copied.is_own_shown().then(|| AuthError::OwnId(self.args.endpoint.id()).to_string())
    }

    pub(super) fn copied_peers(&self) -> Vec<String> {
        let of = |id: EndpointId| {
            let name = self.roster.get(&id).map(|known| known.name.clone()).unwrap_or_default();
            let called = if name.is_empty() { id.fmt_short().to_string() } else { name };
            format!(
                "two machines have the endpoint id of {called}, {}: a copied data directory; stop the copy, run `can-sync id --new` \
                 there, and start it again",
                id.fmt_short()
            )
        };
        let doubled = self.copied.peers.doubled(Instant::now()).into_iter();
        doubled.filter(|id| self.is_of_ours(id)).take(TOLD_MAX).map(of).collect()
    }
}

fn turn_away(connection: &Connection) {
    let why = b"another machine with your endpoint id is connected, and stays so: a copied data directory";
    connection.close(VarInt::from_u32(close::DOUBLED), why);
}
