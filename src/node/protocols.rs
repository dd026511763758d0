//! What is spoken on the endpoint besides sessions: who takes which connection, and how many of each.

use std::sync::Arc;

use iroh::endpoint::{Connection, VarInt};
use iroh_gossip::net::{GOSSIP_ALPN, Gossip};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::endpoint;
use super::resources::Resources;
use crate::peer::actor::code;
use crate::peer::dial::{ProtocolHandler, Protocols};
use crate::peer::list_peers::{self, ListPeersService};

/// Gossip connections that others may have open. A member of the swarm has about five neighbours; whoever does not know
/// the topic gains nothing by connecting.
const GOSSIP_CONNECTIONS_MAX: usize = 64;

/// All of it.
pub(super) fn all(resources: &Resources) -> Protocols {
    // A topic of one's own does not take the network's peers away from whoever asks for them by the passphrase.
    let keys = vec![resources.keys.presence().rpc().clone(), resources.presence.rpc().clone()];
    let listing = ListPeersService::new(resources.endpoint.id(), keys, resources.directory.clone());
    Arc::new([gossip(&resources.gossip), (list_peers::ALPN, listing.handler())])
}

/// Hands connections to gossip.
fn gossip(gossip: &Gossip) -> (&'static [u8], ProtocolHandler) {
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
