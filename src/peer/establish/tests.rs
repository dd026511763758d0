//! The rules of the first frames against somebody who may send anything that was ever heard, in any order.
//!
//! Two honest nodes, each with two control streams to a member M of one library, which it may read. M hears every frame, knows
//! that library's secret, and so can open the tickets that are sealed with it. It makes frames of what it heard, of parts of it,
//! and of what it can compute. Whatever it does, a node believes that it knows the one secret that it knows, and that it holds
//! the one ticket that it holds.

use std::collections::HashMap;
use std::fmt;

use bytes::Bytes;
use iroh::SecretKey;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::identity::{Key, LibraryKeys};
use crate::library::SharedLibrary;
use crate::library::filter::Filter;
use crate::library::registry::Kept;
use crate::library::sharing::Sharing;
use crate::library::ticket::{Access, LibraryId, Subject, Terms, Ticket};
use crate::wire::proto::{Auth, LibraryProof};

/// Cases in the suite; `PROPTEST_CASES` has it try more.
const CASES: u32 = 10_000;
/// What M does in one case.
const ACTIONS: usize = 24;
/// Frames and parts of them that M keeps.
const HEARD_MAX: usize = 64;

const NODES: usize = 2;
const STREAMS: usize = 2;
/// The first of the libraries is the mirror, of which M knows nothing; nor of the second one.
const SECRETS: [u8; 3] = [50, 51, 52];
/// Of the third one it has a ticket.
const SHARED: usize = 2;

fn endpoint(n: usize) -> EndpointId {
    SecretKey::from_bytes(&[u8::try_from(n).unwrap() + 1; 32]).public()
}

fn m() -> EndpointId {
    endpoint(NODES)
}

/// Tickets of one library, by their holders: the nodes, whose tickets let anybody write who holds them, and M.
struct Tickets(Vec<Ticket>);

impl Tickets {
    fn of(library: u8) -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(&[library; 32]);
        let issue = |n: usize| {
            let access = if n == NODES { Access::Read } else { Access::Write };
            let terms = Terms { serial: n as u64, ..Terms::unlimited("a library".into(), access) };
            let filter = Filter::try_from(crate::library::filter::FilterSpec::default()).unwrap();
            Ticket::issue(&key, terms, [library; 32].into(), filter, Vec::new()).unwrap()
        };
        Self((0..=NODES).map(issue).collect())
    }
}

/// Everything that is made once for all cases: signing is slow.
struct Cast {
    /// By node, the libraries as it has them.
    nodes: Vec<Vec<Arc<Library>>>,
    ticket: Ticket,
    key: Key,
}

impl Cast {
    fn new() -> Self {
        let tickets: Vec<Tickets> = SECRETS[1..].iter().map(|secret| Tickets::of(*secret)).collect();
        let node = |n: usize| {
            let mirror = Arc::new(Library::new(LibraryKeys::of_read_secret(&[SECRETS[0]; 32])));
            let libraries = Libraries::of(Arc::clone(&mirror));
            let shared = tickets.iter().map(|tickets| {
                let kept = Kept {
                    key: None,
                    ticket: tickets.0[n].clone(),
                    created_ms: 0,
                    revocations: None,
                    sharing: Sharing::default(),
                };
                libraries.add(SharedLibrary::new(kept, HashMap::new()))
            });
            [mirror].into_iter().chain(shared).collect()
        };
        let ticket = tickets[SHARED - 1].0[NODES].clone();
        let key = LibraryKeys::of_read_secret(&[SECRETS[SHARED]; 32]).auth().clone();
        Self { nodes: (0..NODES).map(node).collect(), ticket, key }
    }
}

/// Choices of a case, made in advance.
struct Choices(std::vec::IntoIter<u32>);

impl Choices {
    fn below(&mut self, limit: usize) -> usize {
        let choice = self.0.next().unwrap_or_default() as usize;
        if limit == 0 { 0 } else { choice % limit }
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        let chosen = self.below(all.len());
        all.get(chosen).cloned()
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// One control stream between a node and M, as the node has it.
struct Stream {
    handshake: Handshake,
    /// What M may know of it: both know their nonces.
    transcript: Option<Transcript>,
    nonce: [u8; 32],
}

/// What M has heard.
#[derive(Default)]
struct Heard {
    nonces: Vec<[u8; 32]>,
    proofs: Vec<LibraryProof>,
    /// What was sealed with the secret that it knows.
    tickets: Vec<Vec<u8>>,
    auths: Vec<Auth>,
}

fn keep<T>(all: &mut Vec<T>, one: T) {
    if all.len() < HEARD_MAX {
        all.push(one);
    }
}

/// A case under way.
struct Case<'a> {
    cast: &'a Cast,
    choices: Choices,
    streams: Vec<Vec<Option<Stream>>>,
    own_proofs: Vec<OwnProofs>,
    heard: Heard,
    nonces: u8,
    /// How often M was admitted by what it has.
    admitted: usize,
}

impl fmt::Debug for Case<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "World(admitted {})", self.admitted)
    }
}

/// What must not happen.
type Breach = String;

impl<'a> Case<'a> {
    fn new(cast: &'a Cast, choices: Vec<u32>) -> Self {
        Self {
            cast,
            choices: Choices(choices.into_iter()),
            streams: (0..NODES).map(|_| (0..STREAMS).map(|_| None).collect()).collect(),
            own_proofs: (0..NODES).map(|_| OwnProofs::default()).collect(),
            heard: Heard::default(),
            nonces: 0,
            admitted: 0,
        }
    }

    fn fresh_nonce(&mut self) -> [u8; 32] {
        self.nonces += 1;
        [self.nonces; 32]
    }

    /// The connection of a node with M, as one of the two sees it.
    fn binding(node: usize, own: bool) -> Binding {
        let ekm = [u8::try_from(node).unwrap() + 100; 32];
        if own { Binding::new(ekm, endpoint(node), m()) } else { Binding::new(ekm, m(), endpoint(node)) }
    }

    fn run(&mut self) -> Result<(), Breach> {
        for _ in 0..ACTIONS {
            let (node, stream) = (self.choices.below(NODES), self.choices.below(STREAMS));
            let action = if self.streams[node][stream].is_none() { 0 } else { self.choices.below(6) };
            match action {
                0 => self.begin(node, stream),
                1 | 2 => {
                    let nonce = self.nonce();
                    let hello = Hello { version: crate::net::auth::VERSION, nonce: nonce.to_vec().into() };
                    self.say(node, stream, frame::Kind::Hello(hello))?;
                }
                _ => {
                    let auth = self.auth(node, stream);
                    self.say(node, stream, frame::Kind::Auth(auth))?;
                }
            }
        }
        Ok(())
    }

    /// A new control stream in the place of an old one, which either side opens.
    fn begin(&mut self, node: usize, stream: usize) {
        let nonce = self.fresh_nonce();
        let binding = Self::binding(node, true);
        let handshake = if self.choices.once_in(2) {
            keep(&mut self.heard.nonces, nonce);
            Handshake::open(&SESSION, binding, nonce).0
        } else {
            let keys = self.cast.nodes[node].iter().map(|library| library.keys().auth().clone()).collect();
            Handshake::answer(&SESSION, binding, nonce, keys)
        };
        self.streams[node][stream] = Some(Stream { handshake, transcript: None, nonce });
    }

    /// A nonce of M's: a new one, or one that it heard.
    fn nonce(&mut self) -> [u8; 32] {
        let heard = self.choices.of(&self.heard.nonces);
        match heard {
            Some(heard) if self.choices.once_in(3) => heard,
            Some(_) | None => self.fresh_nonce(),
        }
    }

    /// What M shows on a stream.
    fn auth(&mut self, node: usize, stream: usize) -> Auth {
        if self.choices.once_in(3)
            && let Some(auth) = self.choices.of(&self.heard.auths)
        {
            return auth;
        }
        let count = 1 + self.choices.below(3);
        Auth { libraries: (0..count).map(|_| self.proof(node, stream)).collect() }
    }

    /// One entry of it.
    fn proof(&mut self, node: usize, stream: usize) -> LibraryProof {
        let mut proof = if self.choices.once_in(2) {
            self.choices.of(&self.heard.proofs).unwrap_or_default()
        } else {
            self.computed(node, stream).unwrap_or_default()
        };
        if self.choices.once_in(4)
            && let Some(other) = self.choices.of(&self.heard.proofs)
        {
            match self.choices.below(3) {
                0 => proof.blinded = other.blinded,
                1 => proof.proof = other.proof,
                _ => proof.ticket = other.ticket,
            }
        }
        if self.choices.once_in(8) {
            let mut altered = proof.proof.to_vec();
            if let Some(byte) = altered.first_mut() {
                *byte ^= 1;
            }
            proof.proof = Bytes::from(altered);
        }
        proof
    }

    /// What can be made with the secret that M knows: in either role, for any stream, with any ticket.
    fn computed(&mut self, node: usize, stream: usize) -> Option<LibraryProof> {
        let elsewhere = self.choices.once_in(6);
        let (node, stream) =
            if elsewhere { (self.choices.below(NODES), self.choices.below(STREAMS)) } else { (node, stream) };
        let there = self.streams[node][stream].as_ref()?;
        let transcript = there.transcript.clone()?;
        let own_role = there.handshake.role().other();
        let role = if self.choices.once_in(6) { own_role.other() } else { own_role };
        let stolen = self.choices.of(&self.heard.tickets);
        let ticket = match stolen {
            Some(stolen) if self.choices.once_in(2) => stolen,
            Some(_) | None => {
                let proof = self.cast.ticket.prove(&transcript.between(own_role)).to_vec().into();
                let claims = self.cast.ticket.signed.encode().into();
                LibraryTicket { claims, proof }.encode_to_vec()
            }
        };
        let credential = Credential { key: self.cast.key.clone(), ticket: Some(ticket) };
        transcript.show(&SESSION, &credential, role)
    }

    /// M says something, and the node does what it does.
    fn say(&mut self, node: usize, stream: usize, kind: frame::Kind) -> Result<(), Breach> {
        let nothing = OwnProofs::default();
        // The rules hold without that list, too: it only says that somebody tried.
        let own = if self.choices.once_in(2) { &self.own_proofs[node] } else { &nothing };
        let Some(there) = &mut self.streams[node][stream] else { return Ok(()) };
        let nonce = if let frame::Kind::Hello(hello) = &kind {
            <[u8; 32]>::try_from(&hello.nonce[..]).ok()
        } else {
            None
        };
        let step = match there.handshake.handle(kind, own) {
            Ok(step) => step,
            Err(AuthError::OutOfOrder) => return Ok(()),
            Err(_) => {
                self.streams[node][stream] = None;
                return Ok(());
            }
        };
        if let Some(nonce) = nonce {
            let role = there.handshake.role().other();
            let seen_by_m =
                Transcript::new(&SESSION, &Self::binding(node, false), role, &nonce, &there.nonce);
            there.transcript = Some(seen_by_m);
            keep(&mut self.heard.nonces, there.nonce);
        }
        match step {
            HandshakeStep::Send(_) => Ok(()),
            HandshakeStep::Show => {
                let all = self.cast.nodes[node].clone();
                self.show(node, stream, &all);
                Ok(())
            }
            HandshakeStep::Judge(proved) => {
                let admitted = self.judge(node, stream, proved)?;
                if self.streams[node][stream].as_ref().is_some_and(|s| s.handshake.role() == Role::Answerer)
                    && !admitted.is_empty()
                {
                    self.show(node, stream, &admitted);
                }
                Ok(())
            }
        }
    }

    /// Who is let in by what was proved.
    fn judge(
        &mut self,
        node: usize,
        stream: usize,
        proved: Vec<ProvedSecret>,
    ) -> Result<Vec<Arc<Library>>, Breach> {
        let Some(there) = &self.streams[node][stream] else { return Ok(Vec::new()) };
        let transcript = there.handshake.transcript().expect("it has one").clone();
        let between = transcript.between(there.handshake.role().other());
        let mut admitted = Vec::new();
        for ProvedSecret { index, ticket } in proved {
            if index != SHARED {
                return Err(format!("node {node} believes that M knows secret {index}"));
            }
            let library = &self.cast.nodes[node][index];
            let shared = library.shared().expect("no mirror");
            let Ok(claims) =
                admission::check_ticket(shared, m(), &ticket.unwrap_or_default(), &between, 1_000_000)
            else {
                continue;
            };
            if claims != self.cast.ticket.signed {
                return Err(format!("node {node} believes that M holds ticket {}", claims.claims.serial));
            }
            self.admitted += 1;
            admitted.push(Arc::clone(library));
        }
        Ok(admitted)
    }

    /// The node shows something, and M hears it.
    fn show(&mut self, node: usize, stream: usize, libraries: &[Arc<Library>]) {
        let Some(there) = &mut self.streams[node][stream] else { return };
        let (transcript, role) =
            (there.handshake.transcript().expect("it has one").clone(), there.handshake.role());
        let offered = |library: &Arc<Library>| (Arc::clone(library), library.session_keys().current);
        let credentials =
            libraries.iter().map(|library| credential(&offered(library), &transcript, role)).collect();
        let mut counter = 0_u8;
        let noise = |bytes: &mut [u8]| {
            counter = counter.wrapping_add(1);
            bytes.fill(counter);
        };
        let shown = there.handshake.show(credentials, noise, &mut self.own_proofs[node]).expect("its turn");
        let frame::Kind::Auth(auth) = shown else { panic!("{shown:?}") };
        for proof in &auth.libraries {
            keep(&mut self.heard.proofs, proof.clone());
        }
        let own = transcript.find(&self.cast.key, role, &auth.libraries);
        if let Some(ticket) = own.and_then(|shown| transcript.ticket(&SESSION, &self.cast.key, role, shown)) {
            keep(&mut self.heard.tickets, ticket);
        }
        keep(&mut self.heard.auths, auth);
    }
}

#[test]
fn nobody_is_ever_admitted_to_a_secret_or_a_ticket_that_it_does_not_hold() {
    let cast = Cast::new();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { Config::default().cases } else { CASES };
    let mut runner = TestRunner::new(Config { cases, ..Config::default() });
    let admitted = std::cell::Cell::new(0_u64);
    let choices = proptest::collection::vec(any::<u32>(), ACTIONS * 12);
    let outcome = runner.run(&choices, |choices| {
        let mut world = Case::new(&cast, choices);
        let run = world.run();
        admitted.set(admitted.get() + world.admitted as u64);
        prop_assert_eq!(run, Ok(()));
        Ok(())
    });
    outcome.unwrap();
    assert!(admitted.get() > u64::from(cases) / 100, "it hardly ever plays by the rules");
}

#[test]
fn the_longest_ticket_fits_where_it_is_sealed() {
    let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
    let terms = Terms {
        name: "\u{1f9a6}".repeat(crate::library::ticket::NAME_CHARS_MAX),
        access: Access::Write,
        subject: Subject::Endpoint(m()),
        not_before_ms: u64::MAX,
        expires_ms: Some(u64::MAX),
        uses: u32::MAX,
        serial: u64::MAX,
        epoch: u64::MAX,
        held: (u64::MAX, u64::MAX),
        fresh_within_ms: u64::MAX,
    };
    let filter = Filter::try_from(crate::library::filter::FilterSpec::default()).unwrap();
    let ticket = Ticket::issue(&key, terms, [2; 32].into(), filter, Vec::new()).unwrap();
    let shown = LibraryTicket { claims: ticket.signed.encode().into(), proof: vec![0; 64].into() };
    assert!(shown.encoded_len() <= crate::net::auth::TICKET_BYTES_MAX, "{}", shown.encoded_len());
    assert_eq!(ticket.claims().library, LibraryId(key.verifying_key().to_bytes()));
}
