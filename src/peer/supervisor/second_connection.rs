//! Second connections. Who is connected for libraries alone may turn out to be a machine of our network: the mirror is then
//! offered on a connection of its own, beside the first, which goes on until the new one has a session.

use iroh::EndpointId;
use iroh::endpoint::{Connection, VarInt};
use ractor::ActorRef;
use tokio::time::Instant;

use super::{MISBEHAVED_HOLD, PeerLink, PeersState};
use crate::net::close;
use crate::net::handshakes::Pending;
use crate::peer::dial;
use crate::peer::establish::ConnectionMemory;
use crate::peer::messages::PeersMsg;
use crate::peer::places::Class;
use crate::transfer::schedule::SessionId;

impl PeersState {
    /// Whether there is a session with a peer that is for libraries alone.
    pub(super) fn is_for_libraries(&self, id: &EndpointId) -> bool {
        let link = self.links.current(id);
        link.is_some_and(|link| link.up && link.foreign && link.connection.close_reason().is_none())
    }

    /// Dials those who are to be offered the mirror now.
    pub(super) fn offer_mirror(&mut self, myself: &ActorRef<PeersMsg>) {
        if !self.accepting || !self.admission.places.has_room_for(Class::Own) {
            return;
        }
        for addr in self.roster.offer_mirror(Instant::now()) {
            if self.links.second_session(&addr.id).is_none() {
                self.tasks.spawn(dial::dial_for_mirror(myself.clone(), self.args.endpoint.clone(), addr));
            }
        }
    }

    pub(super) async fn on_mirror_dialed(
        &mut self,
        myself: &ActorRef<PeersMsg>,
        id: EndpointId,
        result: Result<Connection, String>,
    ) {
        match result {
            Ok(connection) if self.is_for_libraries(&id) => {
                self.take_second(myself, connection, None, ConnectionMemory::for_mirror()).await;
            }
            // The first one is over meanwhile, or is for the mirror by now.
            Ok(connection) => connection.close(VarInt::from_u32(close::SHUTDOWN), b"not needed any more"),
            Err(error) => tracing::debug!(peer = %id.fmt_short(), error, "the mirror could not be offered"),
        }
    }

    /// Takes in a second connection. There is one at a time; of two that were dialled at once, both ends keep the one dialled by
    /// the smaller id.
    pub(super) async fn take_second(
        &mut self,
        myself: &ActorRef<PeersMsg>,
        connection: Connection,
        pending: Option<Pending>,
        memory: ConnectionMemory,
    ) {
        let (id, dialed_here) = (connection.remote_id(), pending.is_none());
        let old = self.links.second_session(&id);
        let other_way =
            old.and_then(|old| self.links.get(old)).is_some_and(|old| old.is_dialed_here() != dialed_here);
        let ours_wins = self.args.endpoint.id().as_bytes() < id.as_bytes();
        if other_way && dialed_here != ours_wins {
            return connection.close(VarInt::from_u32(close::DUPLICATE), b"another connection is kept");
        }
        let session = self.add_link(connection, None, memory);
        // It has another place now.
        drop(pending);
        if let Some(old) = self.links.make_second(id, session) {
            self.close_duplicate(old);
        }
        self.spawn_actor(myself, session, dialed_here).await;
    }

    /// The session on a connection is up: one beside another takes the other's place. Whether the peer was connected before.
    pub(super) fn take_place(&mut self, session: SessionId) -> bool {
        let Some(link) = self.links.get(session) else { return false };
        let (id, dialed_here) = (link.endpoint_id, link.is_dialed_here());
        if !self.links.end_second(&id, session) {
            return false;
        }
        self.roster.replaced(&id, dialed_here, Instant::now());
        let Some(old) = self.links.make_current(id, session) else { return false };
        self.admission.places.leave(old);
        self.close_duplicate(old);
        self.links.get(old).is_some_and(|old| old.up)
    }

    /// A connection is over that was not a peer's current one.
    pub(super) fn second_over(&mut self, session: SessionId, link: &PeerLink) {
        let id = link.endpoint_id;
        self.links.end_second(&id, session);
        // A peer that breaks the rules on one of them loses both.
        let Some(why) = link.shared_view().misbehaved.take() else { return };
        let current = self.links.current(&id);
        if let Some(current) = current {
            current.shared_view().misbehaved = Some(why);
            current.connection.close(VarInt::from_u32(close::VIOLATION), b"it broke the rules");
        } else {
            self.roster.hold(&id, Instant::now() + MISBEHAVED_HOLD, why);
        }
    }
}
