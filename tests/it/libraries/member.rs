//! A member that speaks the protocol by hand: it sees every frame, and can ask for what an honest one would not.

use std::collections::HashMap;
use std::sync::Arc;

use can_sync::clock::Clock;
use can_sync::identity::LibraryKeys;
use can_sync::library::registry::Kept;
use can_sync::library::ticket::Ticket;
use can_sync::library::{Libraries, Library, Shared};
use can_sync::net::SESSION_ALPN as ALPN;
use can_sync::net::auth::{Credential, SESSION};
use can_sync::peer::establish::{ConnectionMemory, Established, Introduction, Meeting};
use can_sync::reconcile::engine::{Initiator, Limits};
use can_sync::record::{ContentHash, RecordId};
use can_sync::wire;
use can_sync::wire::decode::decode;
use can_sync::wire::proto::{
    ContentHeader, ContentRequest, Find, LibraryTicket, Offer, ReconClose, ReconMsg, ReconOpen, Records,
    Want, frame,
};
use iroh::endpoint::Connection;
use iroh::{Endpoint, EndpointAddr, RelayMode, SecretKey};
use iroh_tickets::endpoint::EndpointTicket;
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::nodes::{DEADLINE, TestNode};
use crate::support::proving::Talk;

/// The member.
pub(super) struct Member {
    endpoint: Endpoint,
    /// What it has, beside a mirror of a network of its own.
    libraries: Libraries,
    victim: EndpointAddr,
}

/// Its session, with everything that was said to it.
pub(super) struct Session {
    pub(super) connection: Connection,
    pub(super) established: Established,
    pub(super) heard: Vec<frame::Kind>,
}

impl Member {
    pub(super) async fn new(ticket: &str, victim: &TestNode) -> Self {
        let bind = "127.0.0.1:0".parse().expect("an address");
        let endpoint = can_sync::net::endpoint::bind(SecretKey::generate(), bind, RelayMode::Disabled).await;
        let mirror = Library::new(LibraryKeys::of_read_secret(&rand::random()));
        let libraries = Libraries::of(Arc::new(mirror));
        let ticket = Ticket::parse(ticket).expect("a ticket");
        let kept = Kept { key: None, ticket, created_ms: 0, revocations: None };
        libraries.add(Shared::new(kept, HashMap::new()));
        let victim: EndpointTicket = victim.ticket().parse().expect("a ticket");
        Self { endpoint: endpoint.expect("an endpoint"), libraries, victim: victim.into() }
    }

    pub(super) async fn connect(&self) -> Connection {
        let connected = timeout(DEADLINE, self.endpoint.connect(self.victim.clone(), ALPN)).await;
        connected.expect("in time").expect("a connection")
    }

    /// Shows the claims of a ticket that it has only seen, with its own ticket's key; how that ends.
    pub(super) async fn show_claims_of(&self, seen: &Ticket) -> Connection {
        let connection = self.connect().await;
        let library = self.libraries.shared().pop().expect("a library");
        let own = library.shared().expect("a ticket").ticket();
        let mut talk = Talk::open(&connection, self.endpoint.id(), &SESSION).await.expect("a stream");
        let proof = own.prove(&talk.transcript().between(talk.role())).to_vec().into();
        let ticket = LibraryTicket { claims: seen.signed.encode().into(), proof };
        let credential =
            Credential { key: library.keys().auth().clone(), ticket: Some(ticket.encode_to_vec()) };
        talk.show(vec![credential]).await.expect("sent");
        let next = talk.hear().await;
        assert!(next.is_err(), "it was let in: {next:?}");
        connection
    }

    pub(super) async fn session(&self) -> Result<Session, (Connection, String)> {
        let connection = self.connect().await;
        let ticket = watch::Sender::new(String::new()).subscribe();
        let meeting = Meeting {
            connection: &connection,
            own_id: self.endpoint.id(),
            libraries: &self.libraries,
            introduction: &Introduction { name: "by hand".into(), ticket, clock: Clock::system() },
            memory: &ConnectionMemory::default(),
            offers_mirror: false,
            within: DEADLINE,
        };
        match meeting.open().await {
            Ok(established) => {
                can_sync::net::endpoint::open_up(&connection, 200);
                Ok(Session { connection, established, heard: Vec::new() })
            }
            Err(error) => Err((connection, error.to_string())),
        }
    }
}

impl Session {
    pub(super) fn library(&self) -> bytes::Bytes {
        self.established.shared[0].blinded.clone()
    }

    pub(super) async fn send(&mut self, kind: frame::Kind) {
        let sent = timeout(DEADLINE, wire::write_frame(&mut self.established.send, kind)).await;
        sent.expect("in time").expect("sent");
    }

    /// Reads frames, keeping each, until one is what is wanted.
    pub(super) async fn until<T>(&mut self, what: &str, pick: impl Fn(&frame::Kind) -> Option<T>) -> T {
        loop {
            let read = timeout(DEADLINE, wire::read_frame(&mut self.established.receive)).await;
            let read = read.unwrap_or_else(|_| panic!("no {what} in time"));
            let kind = read.unwrap_or_else(|e| panic!("{e}: {:?}", self.connection.close_reason()));
            let found = pick(&kind);
            self.heard.push(kind);
            if let Some(found) = found {
                return found;
            }
        }
    }

    /// What a comparison with nothing at all finds.
    pub(super) async fn reconcile(&self) -> Vec<RecordId> {
        let empty = Library::new(LibraryKeys::of_read_secret(&[0; 32]));
        let (mut initiator, first) = Initiator::new(empty.snapshot(), Limits::default());
        let (mut send, mut receive) = self.connection.open_bi().await.expect("a stream");
        let open = ReconOpen { library: self.library(), message: first.into() };
        wire::write_frame(&mut send, frame::Kind::ReconOpen(open)).await.expect("sent");
        let mut need = Vec::new();
        loop {
            let answer = timeout(DEADLINE, wire::read_frame(&mut receive)).await.expect("in time");
            let Ok(frame::Kind::ReconMsg(answer)) = answer else { panic!("no answer") };
            let step = initiator.handle(&answer.message).expect("an answer that makes sense");
            need.extend(step.need);
            let Some(reply) = step.reply else { break };
            let reply = frame::Kind::ReconMsg(ReconMsg { message: reply.into() });
            wire::write_frame(&mut send, reply).await.expect("sent");
        }
        wire::write_frame(&mut send, frame::Kind::ReconClose(ReconClose::default())).await.expect("sent");
        need
    }

    /// Asks for records by their ids; what is offered, and how many are gone.
    pub(super) async fn records(&mut self, rids: &[RecordId]) -> (Vec<ContentHash>, usize) {
        let rids_out = rids.iter().map(|rid| bytes::Bytes::copy_from_slice(&rid.0)).collect();
        self.send(frame::Kind::Records(Records { library: self.library(), rids: rids_out })).await;
        let (mut offered, mut gone) = (Vec::new(), 0);
        while offered.len() + gone < rids.len() {
            let Offer { records, gone: more, .. } = self
                .until("Offer", |kind| match kind {
                    frame::Kind::Offer(offer) => Some(offer.clone()),
                    _ => None,
                })
                .await;
            gone += more.len();
            offered.extend(records.iter().filter_map(|record| ContentHash::from_slice(&record.hash)));
        }
        (offered, gone)
    }

    /// Asks for contents by their names; which of them are said not to be there.
    pub(super) async fn find(&mut self, hashes: &[ContentHash]) -> Vec<ContentHash> {
        let hashes = hashes.iter().map(|hash| bytes::Bytes::copy_from_slice(&hash.0)).collect();
        self.send(frame::Kind::Find(Find { hashes })).await;
        let lacks = |kind: &frame::Kind| match kind {
            frame::Kind::Lacks(lacks) => Some(lacks.hashes.clone()),
            _ => None,
        };
        let lacks = self.until("Lacks", lacks).await;
        lacks.iter().filter_map(|hash| ContentHash::from_slice(hash)).collect()
    }

    /// Asks for a content; the header that answers, and how many bytes follow it.
    pub(super) async fn content(&mut self, request: u64, hash: ContentHash) -> (ContentHeader, usize) {
        let wanted = ContentRequest { hash: hash.0.to_vec().into(), offset: 0, length: 0 };
        self.send(frame::Kind::Want(Want { request, contents: vec![wanted] })).await;
        let stream = timeout(DEADLINE, self.connection.accept_uni()).await.expect("in time");
        let mut stream = stream.expect("a stream");
        let read = timeout(DEADLINE, stream.read_to_end(1 << 20)).await.expect("in time").expect("all of it");
        let length = u32::from_be_bytes(read[..4].try_into().expect("a length")) as usize;
        let header = decode(read[4..4 + length].to_vec().into()).expect("a header");
        (header, read.len() - 4 - length)
    }
}
