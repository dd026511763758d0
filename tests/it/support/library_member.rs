//! A member that speaks the protocol by hand: it sees every frame, and can ask for what an honest one would not.

use std::collections::HashMap;
use std::sync::Arc;

use can_sync::testing::clock::Clock;
use can_sync::testing::identity::LibraryKeys;
use can_sync::testing::library::registry::Kept;
use can_sync::testing::library::sharing::Sharing;
use can_sync::testing::library::ticket::Ticket;
use can_sync::testing::library::{Libraries, Library, SharedLibrary};
use can_sync::testing::net::SESSION_ALPN as ALPN;
use can_sync::testing::net::auth::{Credential, SESSION};
use can_sync::testing::peer::establish::{
    ConnectionMemory, Established, Introduction, Meeting, summary_to_wire,
};
use can_sync::testing::reconcile::Summary;
use can_sync::testing::reconcile::engine::{EngineLimits, Initiator};
use can_sync::testing::record::{AssetRecord, ContentHash, RecordId};
use can_sync::testing::store::StoreStatus;
use can_sync::testing::wire;
use can_sync::testing::wire::decode::decode;
use can_sync::testing::wire::proto::{
    ContentHeader, ContentRequest, Find, Have, LibraryTicket, Offer, Ping, Pong, ReconClose, ReconMsg,
    ReconOpen, Records, Want, WireRecord, frame,
};
use iroh::endpoint::Connection;
use iroh::{Endpoint, EndpointAddr, RelayMode, SecretKey};
use iroh_tickets::endpoint::EndpointTicket;
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::hostile::{hash_of, header};
use super::nodes::{DEADLINE, TestNode};
use super::proving::Talk;

/// The member.
pub(crate) struct Member {
    endpoint: Endpoint,
    /// What it has, beside a mirror of a network of its own.
    libraries: Libraries,
    victim: EndpointAddr,
}

/// Its session, with everything that was said to it.
pub(crate) struct Session {
    pub(crate) connection: Connection,
    pub(crate) established: Established,
    pub(crate) heard: Vec<frame::Kind>,
}

impl Member {
    pub(crate) async fn new(ticket: &str, victim: &TestNode) -> Self {
        let bind = "127.0.0.1:0".parse().expect("an address");
        let endpoint =
            can_sync::testing::net::endpoint::bind(SecretKey::generate(), bind, RelayMode::Disabled).await;
        let mirror = Library::new(LibraryKeys::of_read_secret(&rand::random()));
        let libraries = Libraries::of(Arc::new(mirror));
        libraries.set_store_status(StoreStatus { keeps_entries: true, ..StoreStatus::default() });
        let ticket = Ticket::parse(ticket).expect("a ticket");
        let kept = Kept { key: None, ticket, created_ms: 0, revocations: None, sharing: Sharing::default() };
        let library = libraries.add(SharedLibrary::new(kept, HashMap::new()));
        let victim: EndpointTicket = victim.ticket().parse().expect("a ticket");
        // It knows whom it dials.
        library.shared().expect("a ticket").met(victim.endpoint_addr().id, 0);
        Self { endpoint: endpoint.expect("an endpoint"), libraries, victim: victim.into() }
    }

    pub(crate) async fn connect(&self) -> Connection {
        let connected = timeout(DEADLINE, self.endpoint.connect(self.victim.clone(), ALPN)).await;
        connected.expect("in time").expect("a connection")
    }

    /// Shows the claims of a ticket that it has only seen, with its own ticket's key; how that ends.
    pub(crate) async fn show_claims_of(&self, seen: &Ticket) -> Connection {
        let connection = self.connect().await;
        let library = self.libraries.shared().pop().expect("a library");
        let own = library.shared().expect("a ticket").ticket();
        let mut talk = Talk::open(&connection, self.endpoint.id(), &SESSION).await.expect("a stream");
        let proof = own.prove(&talk.transcript().between(talk.role())).to_vec().into();
        let ticket = LibraryTicket { claims: seen.signed.encode().into(), proof };
        let credential =
            Credential { key: library.session_keys().current, ticket: Some(ticket.encode_to_vec()) };
        talk.show(vec![credential]).await.expect("sent");
        let next = talk.hear().await;
        assert!(next.is_err(), "it was let in: {next:?}");
        connection
    }

    pub(crate) async fn session(&self) -> Result<Session, (Connection, String)> {
        let connection = self.connect().await;
        let ticket = watch::Sender::new(String::new()).subscribe();
        let meeting = Meeting {
            connection: &connection,
            own_id: self.endpoint.id(),
            libraries: &self.libraries,
            introduction: &Introduction {
                name: "by hand".into(),
                ticket,
                clock: Clock::system(),
                boot_id: 1,
            },
            memory: &ConnectionMemory::default(),
            offers_mirror: false,
            within: DEADLINE,
        };
        match meeting.open().await {
            Ok(established) => {
                can_sync::testing::net::endpoint::open_up(&connection, 200);
                Ok(Session { connection, established, heard: Vec::new() })
            }
            Err(error) => Err((connection, error.to_string())),
        }
    }
}

impl Session {
    pub(crate) fn library(&self) -> bytes::Bytes {
        self.established.shared[0].blinded.clone()
    }

    pub(crate) async fn send(&mut self, kind: frame::Kind) {
        let sent = timeout(DEADLINE, wire::write_frame(&mut self.established.send, kind)).await;
        sent.expect("in time").expect("sent");
    }

    /// Reads frames, keeping each, until one is what is wanted.
    pub(crate) async fn until<T>(&mut self, what: &str, pick: impl Fn(&frame::Kind) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let read = timeout_at(deadline, wire::read_frame(&mut self.established.receive)).await;
            let read = read.unwrap_or_else(|_| panic!("no {what} in time, but {:?}", self.heard.last()));
            let kind = read.unwrap_or_else(|e| panic!("{e}: {:?}", self.connection.close_reason()));
            let found = pick(&kind);
            if let frame::Kind::Ping(Ping { nonce, .. }) = &kind {
                // It is still there.
                let mine = summary_to_wire(&self.library(), &Summary::default());
                let pong = Pong { nonce: *nonce, libraries: vec![mine], ..Pong::default() };
                self.send(frame::Kind::Pong(pong)).await;
            }
            self.heard.push(kind);
            if let Some(found) = found {
                return found;
            }
        }
    }

    /// What a comparison with nothing at all finds.
    pub(crate) async fn reconcile(&self) -> Vec<RecordId> {
        let empty = Library::new(LibraryKeys::of_read_secret(&[0; 32]));
        let (mut initiator, first) = Initiator::new(empty.snapshot(), EngineLimits::default());
        let (mut send, mut receive) = self.connection.open_bi().await.expect("a stream");
        let open = ReconOpen { library: self.library(), message: first.into(), entries: false, more: false };
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
    pub(crate) async fn records(&mut self, rids: &[RecordId]) -> (Vec<ContentHash>, usize) {
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

    /// Asks for records by their ids, and waits for nothing.
    pub(crate) async fn ask(&mut self, rids: &[RecordId]) {
        let rids = rids.iter().map(|rid| bytes::Bytes::copy_from_slice(&rid.0)).collect();
        self.send(frame::Kind::Records(Records { library: self.library(), rids })).await;
    }

    /// All records that were offered so far.
    pub(crate) fn offered(&self) -> Vec<AssetRecord> {
        let offers = self.heard.iter().filter_map(|kind| match kind {
            frame::Kind::Offer(offer) => Some(&offer.records),
            _ => None,
        });
        offers.flatten().map(|record| AssetRecord::try_from(record.clone()).expect("a record")).collect()
    }

    /// Says that these are here.
    pub(crate) async fn confirm(&mut self, records: &[AssetRecord]) {
        let hashes = records.iter().map(|record| bytes::Bytes::copy_from_slice(&record.hash.0)).collect();
        self.send(frame::Kind::Have(Have { hashes, library: self.library(), ..Have::default() })).await;
    }

    /// Asks for contents by their names; which of them are said not to be there.
    pub(crate) async fn find(&mut self, hashes: &[ContentHash]) -> Vec<ContentHash> {
        let hashes = hashes.iter().map(|hash| bytes::Bytes::copy_from_slice(&hash.0)).collect();
        let library = self.library();
        self.send(frame::Kind::Find(Find { hashes, library })).await;
        let lacks = |kind: &frame::Kind| match kind {
            frame::Kind::Lacks(lacks) => Some(lacks.hashes.clone()),
            _ => None,
        };
        let lacks = self.until("Lacks", lacks).await;
        lacks.iter().filter_map(|hash| ContentHash::from_slice(hash)).collect()
    }

    /// Answers a request with content that is all there.
    pub(crate) async fn give(&self, request: u64, content: &[u8]) {
        let hash = hash_of(content);
        self.answer(&header(request, hash, content.len() as u64), content).await;
    }

    /// Answers a request with that there is nothing.
    pub(crate) async fn deny(&self, request: u64, hash: ContentHash) {
        self.answer(&ContentHeader { gone: true, ..header(request, hash, 0) }, &[]).await;
    }

    async fn answer(&self, header: &ContentHeader, content: &[u8]) {
        let stream = timeout(DEADLINE, self.connection.open_uni()).await.expect("in time");
        let mut stream = stream.expect("a stream");
        stream.write_chunk(wire::encode(header)).await.expect("sent");
        stream.write_all(content).await.expect("sent");
        stream.finish().expect("sent");
    }

    /// Says of an asset what it likes, whether it is true or not.
    pub(crate) async fn offer(&mut self, record: &AssetRecord, held: bool) {
        let absent = if held { Vec::new() } else { vec![1] };
        let (library, records) = (self.library(), vec![WireRecord::from(record)]);
        self.send(frame::Kind::Offer(Offer { library, records, absent: absent.into(), ..Offer::default() }))
            .await;
    }

    /// Waits until a content is asked for; the number of the request.
    pub(crate) async fn wanted(&mut self, hash: ContentHash) -> u64 {
        self.until("request", |kind| match kind {
            frame::Kind::Want(want) => {
                want.contents.iter().any(|content| content.hash == hash.0.to_vec()).then_some(want.request)
            }
            _ => None,
        })
        .await
    }

    /// Waits for what becomes of an offer: confirmed, or refused, and why.
    pub(crate) async fn answered(&mut self, hash: ContentHash) -> Result<(), String> {
        self.until("answer", |kind| match kind {
            frame::Kind::Have(have) => {
                have.hashes.iter().any(|had| *had == hash.0.to_vec()).then_some(Ok(()))
            }
            frame::Kind::Error(error) => {
                (error.hash.as_deref() == Some(&hash.0[..])).then(|| Err(error.message.clone()))
            }
            _ => None,
        })
        .await
    }

    /// Asks for a content; the header that answers, and how many bytes follow it.
    pub(crate) async fn content(&mut self, request: u64, hash: ContentHash) -> (ContentHeader, usize) {
        let wanted = ContentRequest { hash: hash.0.to_vec().into(), offset: 0, length: 0, proved: false };
        self.send(frame::Kind::Want(Want { request, contents: vec![wanted] })).await;
        let stream = timeout(DEADLINE, self.connection.accept_uni()).await.expect("in time");
        let mut stream = stream.expect("a stream");
        let read = timeout(DEADLINE, stream.read_to_end(1 << 20)).await.expect("in time").expect("all of it");
        let length = u32::from_be_bytes(read[..4].try_into().expect("a length")) as usize;
        let header = decode(read[4..4 + length].to_vec().into()).expect("a header");
        (header, read.len() - 4 - length)
    }
}
