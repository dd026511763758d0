//! A member that dials and is dialled, listens to all that is shown to it, and says what it likes.

use can_sync::testing::identity::Key;
use can_sync::testing::library::ticket::Ticket;
use can_sync::testing::net::SESSION_ALPN;
use can_sync::testing::net::auth::{Credential, Role, SESSION, Transcript};
use can_sync::testing::wire::WireError;
use can_sync::testing::wire::proto::{Auth, LibraryProof, LibraryTicket, Welcome, frame};
use iroh::endpoint::Connection;
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey};
use iroh_tickets::endpoint::EndpointTicket;
use prost::Message as _;
use tokio::time::timeout;

use super::nodes::{DEADLINE, TestNode};
use super::proving::Talk;

/// An endpoint, and the ticket that somebody gave it.
pub(crate) struct HostileMember {
    pub(crate) endpoint: Endpoint,
    ticket: Option<Ticket>,
}

impl HostileMember {
    /// One without any ticket.
    pub(crate) async fn new() -> Self {
        let bind = "127.0.0.1:0".parse().expect("an address");
        let endpoint =
            can_sync::testing::net::endpoint::bind(SecretKey::generate(), bind, RelayMode::Disabled).await;
        Self { endpoint: endpoint.expect("an endpoint"), ticket: None }
    }

    pub(crate) async fn invited(ticket: &str) -> Self {
        Self { ticket: Some(Ticket::parse(ticket).expect("a ticket")), ..Self::new().await }
    }

    pub(crate) fn id(&self) -> EndpointId {
        self.endpoint.id()
    }

    /// Where it is, for whoever is to dial it.
    pub(crate) fn endpoint_ticket(&self) -> String {
        let mut addr = EndpointAddr::new(self.id());
        for socket in self.endpoint.bound_sockets() {
            addr = addr.with_ip_addr(socket);
        }
        EndpointTicket::new(addr).to_string()
    }

    pub(crate) async fn dial(&self, node: &TestNode) -> Connection {
        self.dial_on(node, SESSION_ALPN).await
    }

    pub(crate) async fn dial_on(&self, node: &TestNode, alpn: &[u8]) -> Connection {
        let addr: EndpointTicket = node.ticket().parse().expect("a ticket");
        let connected = timeout(DEADLINE, Box::pin(self.endpoint.connect(addr, alpn))).await;
        connected.expect("in time").expect("a connection")
    }

    /// The next connection on which somebody wants a session.
    pub(crate) async fn is_dialled(&self) -> Connection {
        let next = async {
            loop {
                let incoming = self.endpoint.accept().await.expect("the endpoint lives");
                if let Ok(connection) = incoming.await
                    && connection.alpn() == SESSION_ALPN
                {
                    return connection;
                }
            }
        };
        timeout(DEADLINE, Box::pin(next)).await.expect("somebody dials")
    }

    pub(crate) async fn open(&self, connection: &Connection) -> Talk {
        self.try_open(connection).await.expect("a stream")
    }

    /// As [`Self::open`], where it may not be answered.
    pub(crate) async fn try_open(&self, connection: &Connection) -> Result<Talk, WireError> {
        Talk::open(connection, self.id(), &SESSION).await
    }

    /// Answers a control stream; what the other side offers, as it came.
    pub(crate) async fn listen(&self, connection: &Connection) -> (Talk, Auth) {
        let mut talk = Talk::accept(connection, self.id(), &SESSION, Vec::new()).await.expect("a stream");
        let offered = talk.hear_auth().await.expect("an Auth");
        (talk, offered)
    }

    /// What authenticates the library of its ticket.
    pub(crate) fn key(&self) -> Key {
        self.ticket.as_ref().expect("a ticket").session_key()
    }

    /// Its own ticket, as an honest member shows it on a stream.
    pub(crate) fn credential(&self, talk: &Talk) -> Credential {
        let ticket = self.ticket.as_ref().expect("a ticket");
        let proof = ticket.prove(&talk.transcript().between(talk.role())).to_vec().into();
        let shown = LibraryTicket { claims: ticket.signed.encode().into(), proof };
        Credential { key: self.key(), ticket: Some(shown.encode_to_vec()) }
    }

    /// Opens a session as an honest member does; what it was shown.
    pub(crate) async fn joins(&self, connection: &Connection) -> (Talk, Auth) {
        let mut talk = self.open(connection).await;
        talk.show(vec![self.credential(&talk)]).await.expect("sent");
        let shown = talk.hear_auth().await.expect("it is let in");
        let Ok(frame::Kind::Welcome(welcome)) = talk.hear().await else { panic!("no Welcome") };
        talk.say(frame::Kind::Welcome(Welcome { known: Vec::new(), ..welcome })).await.expect("sent");
        (talk, shown)
    }
}

/// Whether one of these proves `key` on this stream.
pub(crate) fn proves(shown: &Auth, transcript: &Transcript, prover: Role, key: &Key) -> bool {
    transcript.find(key, prover, &shown.libraries).is_some()
}

/// The proof of `key` among these.
pub(crate) fn proof_of(shown: &Auth, transcript: &Transcript, prover: Role, key: &Key) -> LibraryProof {
    transcript.find(key, prover, &shown.libraries).expect("it is shown").clone()
}
