//! What is spoken on the endpoint besides sessions: who takes which connection, and how many of each.

use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{Connection, VarInt};
use iroh_gossip::net::{GOSSIP_ALPN, Gossip};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::resources::Resources;
use crate::discovery::directory::SharedDirectory;
use crate::discovery::list_peers::{self, ListPeersService};
use crate::library::Libraries;
use crate::library::registry::DeviceStanding;
use crate::net::endpoint::{self, ProtocolHandler, Protocols};
use crate::net::handshakes::Pending;
use crate::net::{BULK_ALPN, SESSION_ALPN, close, gate};

/// Gossip connections that agents may have open which were alive here before. A member of the swarm has about five
/// neighbours.
const GOSSIP_MEMBERS_MAX: usize = 64;
/// As many again for agents that we do not know yet. An agent that does not know the topic gains nothing by connecting, and takes
/// no place for long.
const GOSSIP_STRANGERS_MAX: usize = 32;
/// By then, a member has announced itself.
const STRANGERS_STAY: Duration = Duration::from_mins(2);

pub(super) fn all(resources: &Resources) -> Protocols {
    // A topic of one's own does not take the network's peers away from those who ask for them by the passphrase.
    let keys = vec![resources.keys.presence().rpc().clone(), resources.presence.rpc().clone()];
    let listing = ListPeersService::new(resources.endpoint.id(), keys, resources.directory.clone());
    Arc::new([gossip(&resources.gossip, &resources.directory), (list_peers::ALPN, listing.handler())])
}

/// Who may not use what. A denied machine nothing at all; one that waits for approval may show that it knows the passphrase, in
/// a session, and take part in libraries, whose contents have connections of their own, but it neither hears who is there nor is
/// asked.
pub(super) fn shut_out(libraries: &Arc<Libraries>) -> gate::GatePolicy {
    let libraries = Arc::clone(libraries);
    Arc::new(move |id, alpn| match libraries.standing(id) {
        DeviceStanding::Denied => Some((close::DENIED, "this machine was denied by its owner")),
        DeviceStanding::Waiting if alpn != SESSION_ALPN && alpn != BULK_ALPN => Some((
            close::UNAPPROVED,
            "this machine waits for approval: `can-sync approve` on the other side lets it in",
        )),
        DeviceStanding::Waiting | DeviceStanding::Approved => None,
    })
}

fn gossip(gossip: &Gossip, directory: &SharedDirectory) -> (&'static [u8], ProtocolHandler) {
    let (gossip, directory) = (gossip.clone(), directory.clone());
    let members = Arc::new(Semaphore::new(GOSSIP_MEMBERS_MAX));
    let strangers = Arc::new(Semaphore::new(GOSSIP_STRANGERS_MAX));
    let handler = move |connection: Connection, pending: Pending| {
        let id = connection.remote_id();
        let is_member = directory.lock().knows(&id);
        let room = if is_member { &members } else { &strangers };
        let Ok(place) = Arc::clone(room).try_acquire_owned() else {
            return connection.close(VarInt::from_u32(close::BUSY), b"too many connections");
        };
        // Gossip proves nothing on its own: what it carries is signed, and its topic is a secret.
        drop(pending);
        let (gossip, directory, members) = (gossip.clone(), directory.clone(), Arc::clone(&members));
        tokio::spawn(async move {
            endpoint::open_gossip(&connection);
            if gossip.handle_connection(connection.clone()).await.is_err() {
                return;
            }
            if is_member {
                connection.closed().await;
            } else if timeout(STRANGERS_STAY, connection.closed()).await.is_err() {
                match members.try_acquire_owned() {
                    Ok(_place) if directory.lock().knows(&id) => {
                        drop(place);
                        connection.closed().await;
                    }
                    Ok(_) | Err(_) => {
                        connection.close(VarInt::from_u32(close::BUSY), b"no member of this swarm");
                    }
                }
            }
        });
    };
    (GOSSIP_ALPN, Arc::new(handler))
}
