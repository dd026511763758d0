//! The tasks through which connections come about: accepting, dialling, and following a ticket file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{Incoming, ServerConfig, VarInt};
use iroh::{Endpoint, EndpointAddr, EndpointId};
use iroh_tickets::endpoint::EndpointTicket;
use ractor::ActorRef;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::messages::PeersMsg;
use super::refusal::PeerRefusal;
use super::roster::KnownPeer;
use crate::discovery::channel::Channel;
use crate::library::Libraries;
use crate::library::registry::DeviceStanding;
use crate::net::BULK_ALPN;
use crate::net::bulk::BulkSessions;
use crate::net::close;
use crate::net::endpoint::{self, Protocols};
use crate::net::handshakes::{HandshakeAdmission, Pending, SharedHandshakes};

pub(super) const ADDRS_MAX: usize = 32;
/// Limit of a dial: holepunching and a relay's round trips included.
const DIAL_WITHIN: Duration = Duration::from_secs(15);
/// Limit of a dial to a peer that only hints led to: many of them may lead nowhere.
const DIAL_HINT_WITHIN: Duration = Duration::from_secs(8);
const TICKET_FILE_EVERY: Duration = Duration::from_secs(1);
const TICKET_FILE_BYTES_MAX: u64 = 64 * 1024;

#[derive(Clone)]
pub(super) struct Acceptor {
    pub(super) actor: ActorRef<PeersMsg>,
    pub(super) endpoint: Endpoint,
    pub(super) protocols: Protocols,
    /// Where the store's index stands; sessions begin once it was read.
    pub(super) cursor: watch::Receiver<Option<u64>>,
    /// For the handshake, and again for the store to be read.
    pub(super) within: Duration,
    /// Who may begin one.
    pub(super) handshakes: SharedHandshakes,
    pub(super) bulk: BulkSessions,
}

impl Acceptor {
    pub(super) async fn run(self) {
        let mut handshakes = JoinSet::new();
        let (from_elsewhere, from_here) =
            (endpoint::strangers(&self.endpoint), endpoint::strangers_within_machine(&self.endpoint));
        while let Some(incoming) = self.endpoint.accept().await {
            while handshakes.try_join_next().is_some() {}
            let (net, validated) = endpoint::remote_net(&incoming);
            let pending = match self.handshakes.begin(net, validated) {
                Ok(pending) => pending,
                Err(HandshakeAdmission::Retry) => {
                    // Only fails where the address was shown already.
                    let _ = incoming.retry();
                    continue;
                }
                Err(HandshakeAdmission::Begin | HandshakeAdmission::Ignore) => {
                    incoming.ignore();
                    continue;
                }
            };
            let is_here = endpoint::is_from_machine(&incoming);
            let server = Arc::clone(if is_here { &from_here } else { &from_elsewhere });
            handshakes.spawn(self.clone().handshake(incoming, server, pending));
        }
    }

    async fn handshake(mut self, incoming: Incoming, server: Arc<ServerConfig>, pending: Pending) {
        let accepting = match incoming.accept_with(server) {
            Ok(accepting) => accepting,
            Err(error) => return tracing::debug!(%error, "an incoming connection broke"),
        };
        let connection = match timeout(self.within, accepting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return tracing::debug!(%error, "an incoming connection failed its handshake"),
            Err(_) => return tracing::debug!("an incoming connection took too long over its handshake"),
        };
        let peer = connection.remote_id();
        if peer == self.endpoint.id() {
            let _ = self.actor.send_message(PeersMsg::OwnIdSeen);
            return connection.close(VarInt::from_u32(close::REFUSED), b"your endpoint id is mine");
        }
        if connection.alpn() == BULK_ALPN {
            return self.bulk.accept(connection, self.endpoint.id(), pending).await;
        }
        let other = self.protocols.iter().find(|(alpn, _)| *alpn == connection.alpn());
        if let Some((_, handler)) = other {
            // One for each of the handshakes, whose number is bounded.
            let _ = self.actor.send_message(PeersMsg::Knocked { endpoint_id: peer });
            return handler(connection, pending);
        }
        if timeout(self.within, self.cursor.wait_for(Option::is_some)).await.is_err() {
            return connection.close(VarInt::from_u32(close::SHUTDOWN), b"not ready yet");
        }
        let _ = self.actor.send_message(PeersMsg::Accepted { connection, pending });
    }
}

/// Whether a peer is dialled at all: none that was denied, and none that there is nothing to offer to.
pub(super) fn may_dial(libraries: &Libraries, id: &EndpointId, known: &KnownPeer) -> bool {
    let standing = libraries.standing(id);
    // It has shown already that it waits for our user.
    let waits = standing == DeviceStanding::Waiting && known.refusal == Some(PeerRefusal::ApprovalWanted);
    standing != DeviceStanding::Denied && (known.is_offered_mirror() && !waits || libraries.lead_to(id))
}

/// Dials once; `hint` says that nobody vouches for the peer.
pub(super) async fn dial(actor: ActorRef<PeersMsg>, endpoint: Endpoint, addr: EndpointAddr, hint: bool) {
    let endpoint_id = addr.id;
    let within = if hint { DIAL_HINT_WITHIN } else { DIAL_WITHIN };
    let result = match timeout(within, endpoint::connect(&endpoint, addr)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(format!("no answer within {} s", within.as_secs())),
    };
    let _ = actor.send_message(PeersMsg::Dialed { endpoint_id, result });
}

/// Dials a peer that is connected for libraries alone once more, to offer it the mirror.
pub(super) async fn dial_for_mirror(actor: ActorRef<PeersMsg>, endpoint: Endpoint, addr: EndpointAddr) {
    let endpoint_id = addr.id;
    let result = match timeout(DIAL_WITHIN, endpoint::connect(&endpoint, addr)).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} s", DIAL_WITHIN.as_secs())),
    };
    let _ = actor.send_message(PeersMsg::MirrorDialed { endpoint_id, result });
}

/// Looks for the ticket in a file, which may not be there yet, and again whenever the file changes: the other side
/// writes it anew when its addresses change.
pub(super) async fn watch_ticket_file(actor: ActorRef<PeersMsg>, path: PathBuf) {
    let mut last = String::new();
    loop {
        match read_ticket_file(&path).await {
            Ok(Some(text)) if text != last => {
                match text.trim().parse::<EndpointTicket>() {
                    Ok(ticket) => {
                        let candidate = PeersMsg::Candidate {
                            addr: ticket.endpoint_addr().clone(),
                            channel: Channel::Tickets,
                        };
                        if actor.send_message(candidate).is_err() {
                            return;
                        }
                    }
                    Err(error) => tracing::warn!(
                        path = %path.display(), %error,
                        "connect_ticket_file holds no ticket: copy the other node's ticket_file"
                    ),
                }
                last = text;
            }
            Ok(_) => {}
            Err(error) => {
                let shown = error.to_string();
                if shown != last {
                    tracing::warn!(path = %path.display(), %error, "cannot read connect_ticket_file");
                    last = shown;
                }
            }
        }
        sleep(TICKET_FILE_EVERY).await;
    }
}

async fn read_ticket_file(path: &PathBuf) -> std::io::Result<Option<String>> {
    match tokio::fs::metadata(path).await {
        Ok(metadata) if metadata.len() > TICKET_FILE_BYTES_MAX => {
            Err(std::io::Error::other("it is far too large for a ticket"))
        }
        Ok(_) => tokio::fs::read_to_string(path).await.map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
