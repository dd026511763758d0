//! What is spoken on the endpoint besides sessions: who takes which connection, and how many of each.

use std::sync::Arc;

use iroh::endpoint::{Connection, VarInt};
use iroh_gossip::net::{GOSSIP_ALPN, Gossip};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::endpoint;
use crate::peer::actor::code;
use crate::peer::dial::ProtocolHandler;

/// Gossip connections that others may have open. A member of the swarm has about five neighbours; whoever does not know
/// the topic gains nothing by connecting.
const GOSSIP_CONNECTIONS_MAX: usize = 64;

/// Hands connections to gossip.
pub(super) fn gossip(gossip: &Gossip) -> (&'static [u8], ProtocolHandler) {
    let gossip = gossip.clone();
    let room = Arc::new(Semaphore::new(GOSSIP_CONNECTIONS_MAX));
    let handler = move |connection: Connection, pending: OwnedSemaphorePermit| {
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            return connection.close(VarInt::from_u32(code::BUSY), b"too many connections");
        };
        // Gossip proves nothing on its own: what it carries is signed, and its topic is a secret.
        drop(pending);
        let gossip = gossip.clone();
        tokio::spawn(async move {
            endpoint::open_gossip(&connection);
            if gossip.handle_connection(connection.clone()).await.is_ok() {
                connection.closed().await;
            }
            drop(place);
        });
    };
    (GOSSIP_ALPN, Arc::new(handler))
}
