//! PeersActor notices another machine with our endpoint id: both run on copies of one data directory.
//!
//! Each takes the other's connections over, and neither is told by the other: they do not dial their own id. They meet where one
//! reaches the other by chance, and otherwise a peer shows it: it closes our connection for a newer one that we do not have.

use std::collections::HashSet;
use std::time::Duration;

use iroh::EndpointId;
use iroh::endpoint::{Connection, VarInt};
use ractor::ActorRef;
use tokio::time::Instant;

use super::PeersState;
use crate::net::auth::AuthError;
use crate::net::handshakes::Pending;
use crate::net::{close, endpoint};
use crate::peer::messages::PeersMsg;
use crate::transfer::schedule::SessionId;

/// How long it is told after the last sign of it.
const SHOWN: Duration = Duration::from_mins(10);

/// What is known of such a machine.
#[derive(Debug, Default)]
pub(super) struct Copied {
    seen: Option<Instant>,
    /// Peers that a newer connection came from while it is found out whether the older one is alive.
    watched: HashSet<EndpointId>,
}

impl Copied {
    fn is_shown(&self) -> bool {
        self.seen.is_some_and(|at| at.elapsed() < SHOWN)
    }
}

impl PeersState {
    pub(super) fn on_own_id_seen(&mut self) {
        if !self.copied.is_shown() {
            tracing::error!("{}", AuthError::OwnId(self.args.endpoint.id()));
        }
        self.copied.seen = Some(Instant::now());
    }

    /// A peer connects anew so often that it may have a twin: whether the older connection is alive decides. A peer that is
    /// killed again and again leaves dead ones.
    pub(super) fn watch_older(
        &mut self,
        myself: &ActorRef<PeersMsg>,
        connection: Connection,
        pending: Option<Pending>,
    ) {
        let id = connection.remote_id();
        let older = self.current.get(&id).and_then(|session| Some((*session, self.links.get(session)?)));
        let Some((session, link)) = older.filter(|_| self.copied.watched.insert(id)) else {
            return connection.close(VarInt::from_u32(close::DUPLICATE), b"another connection is kept");
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
        if self.current.get(&id) == Some(&session) {
            if alive {
                return connection.close(VarInt::from_u32(close::DUPLICATE), b"another connection is kept");
            }
            self.roster.shows_no_life(&id);
        }
        self.on_connection(myself, connection, pending).await;
    }

    /// A peer closed our connection for another one, and we have none with it.
    pub(super) fn on_closed_for_another(&mut self, id: &EndpointId) {
        // Once it is known, each goes on to show it.
        if self.roster.closed_for_another(id, Instant::now()) || self.copied.is_shown() {
            self.on_own_id_seen();
        }
    }

    /// What there is to say of it.
    pub(super) fn copied(&self) -> Option<String> {
        self.copied.is_shown().then(|| AuthError::OwnId(self.args.endpoint.id()).to_string())
    }
}
