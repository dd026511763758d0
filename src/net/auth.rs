//! Proof that both ends of a connection know the same secrets, made for one stream between two named ends. Pure.
//!
//! Both ends export the same keying material from the TLS session (RFC 5705), and each sends a fresh nonce in its `Hello`. The
//! [`Transcript`] of a stream is a hash of that material, of both ids in their roles and of both nonces, so what was made for
//! one stream means nothing on another, nor to anybody else. Of a secret, one shows an id that is blinded by the transcript,
//! and a proof that names its prover and its verifier: sent back, sent on or sent again, a proof is worth nothing.
//!
//! The side that opened the stream shows first ([`Handshake`]), with what it claims ([`Credential::ticket`]) sealed for those
//! who know the secret. The other side checks both, and shows proofs of what it lets the first into, and of nothing else.
//! Who knows none of the secrets sees random bytes.

mod bulk;
mod handshake;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::Duration;

use chacha20poly1305::aead::Aead as _;
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};
use iroh::EndpointId;
use iroh::endpoint::{Connection, Side};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;
use zeroize::Zeroizing;

pub use self::bulk::{BULK_EXPORTER_LABEL, BulkProof, BulkSecret};
pub use self::handshake::{AuthError, Credential, Handshake, HandshakeStep, ProvedSecret};
use crate::identity::Key;
use crate::wire::proto::LibraryProof;

/// Version of the protocol, in `Hello`.
pub const VERSION: u32 = 3;
/// Most secrets in one `Auth` frame.
pub const LIBRARIES_MAX: usize = crate::wire::decode::LIBRARIES_PER_FRAME_MAX;
/// Longest `Auth` frame: so many secrets, each with a sealed ticket.
pub const AUTH_BYTES_MAX: usize = 48 * 1024;
/// Longest ticket that is sealed. All are padded to this, so that none can be told from another, or from random bytes.
pub const TICKET_BYTES_MAX: usize = 638;
/// A ticket with its length, and what sealing adds.
const SEALED_BYTES: usize = 2 + TICKET_BYTES_MAX + 16;
/// Proofs of our own that are remembered for a connection; the oldest go first.
const OWN_PROOFS_MAX: usize = 256;
/// Failures that one endpoint may have within [`FAILURE_WINDOW`] before its connections are refused unheard.
pub const FAILURES_MAX: usize = 3;
/// See [`FAILURES_MAX`].
pub const FAILURE_WINDOW: Duration = Duration::from_mins(1);
/// Endpoints whose failures are remembered. Ids are free, so this only bounds memory.
const THROTTLED_MAX: usize = 1024;

/// What keeps the proofs of one protocol apart from those of another.
#[derive(Debug)]
pub struct Domain {
    /// Label of the TLS exporter (RFC 5705).
    pub exporter_label: &'static [u8],
    transcript: &'static str,
    /// Key context of sealed tickets; `None` where no tickets are shown.
    tickets: Option<&'static str>,
}

pub const SESSION: Domain = Domain {
    exporter_label: b"EXPORTER-can-sync-auth-v3",
    transcript: "can-sync 2026 v3 transcript",
    tickets: Some("can-sync 2026 v3 tickets"),
};

pub const LIST_PEERS: Domain = Domain {
    exporter_label: b"EXPORTER-can-sync-peers-v3",
    transcript: "can-sync 2026 v3 peers transcript",
    tickets: None,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Opener,
    Answerer,
}

impl Role {
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Opener => Self::Answerer,
            Self::Answerer => Self::Opener,
        }
    }
}

/// A connection, as seen from one of its ends.
#[derive(Clone)]
pub struct Binding {
    ekm: [u8; 32],
    own_id: EndpointId,
    peer: EndpointId,
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Binding({} with {})", self.own_id.fmt_short(), self.peer.fmt_short())
    }
}

impl Binding {
    /// Of a connection whose 32 bytes of exported keying material are `ekm`.
    pub fn new(ekm: [u8; 32], own_id: EndpointId, peer: EndpointId) -> Self {
        Self { ekm, own_id, peer }
    }

    /// Of a connection that `own_id` has.
    pub fn of(connection: &Connection, own_id: EndpointId, domain: &Domain) -> Result<Self, AuthError> {
        Self::labelled(connection, own_id, domain.exporter_label)
    }

    /// Of a bulk connection that `own_id` has.
    pub fn of_bulk(connection: &Connection, own_id: EndpointId) -> Result<Self, AuthError> {
        Self::labelled(connection, own_id, BULK_EXPORTER_LABEL)
    }

    fn labelled(connection: &Connection, own_id: EndpointId, label: &[u8]) -> Result<Self, AuthError> {
        let peer = connection.remote_id();
        let (dialer, acceptor) = match connection.side() {
            Side::Client => (own_id, peer),
            Side::Server => (peer, own_id),
        };
        let context = [*dialer.as_bytes(), *acceptor.as_bytes()].concat();
        let mut ekm = [0; 32];
        connection
            .export_keying_material(&mut ekm, label, &context)
            .map_err(|error| AuthError::Binding(format!("{error:?}")))?;
        Ok(Self::new(ekm, own_id, peer))
    }
}

/// What ties proofs to one stream.
#[derive(Clone)]
pub struct Transcript {
    hash: [u8; 32],
    opener: EndpointId,
    answerer: EndpointId,
}

impl fmt::Debug for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transcript({} to {})", self.opener.fmt_short(), self.answerer.fmt_short())
    }
}

impl Transcript {
    /// Of a stream on the connection of `binding` where this end is `role`, with the nonces of both ends in their `Hello`s.
    pub fn new(
        domain: &Domain,
        binding: &Binding,
        role: Role,
        own_nonce: &[u8; 32],
        peer_nonce: &[u8; 32],
    ) -> Self {
        let Binding { ekm, own_id, peer } = binding;
        let (opener, answerer, first, second) = match role {
            Role::Opener => (*own_id, *peer, own_nonce, peer_nonce),
            Role::Answerer => (*peer, *own_id, peer_nonce, own_nonce),
        };
        let mut hasher = blake3::Hasher::new_derive_key(domain.transcript);
        hasher.update(ekm).update(opener.as_bytes()).update(answerer.as_bytes()).update(first).update(second);
        Self { hash: *hasher.finalize().as_bytes(), opener, answerer }
    }

    /// The hash, known to both ends and to nobody else: further keys of this session derive from it.
    pub fn secret(&self) -> &[u8; 32] {
        &self.hash
    }

    /// What names a prover, who it proves something to, and this stream.
    pub fn between(&self, prover: Role) -> [u8; 96] {
        let (prover, verifier) = match prover {
            Role::Opener => (&self.opener, &self.answerer),
            Role::Answerer => (&self.answerer, &self.opener),
        };
        let mut bytes = [0; 96];
        bytes[..32].copy_from_slice(prover.as_bytes());
        bytes[32..64].copy_from_slice(verifier.as_bytes());
        bytes[64..].copy_from_slice(&self.hash);
        bytes
    }

    /// The id, on this stream, of what `key` authenticates: the same from both ends.
    pub fn blinded(&self, key: &Key) -> [u8; 32] {
        *blake3::Hasher::new_keyed(key.expose()).update(b"id").update(&self.hash).finalize().as_bytes()
    }

    /// What `prover` shows for knowing `key`, which must serve nothing else.
    pub fn prove(&self, key: &Key, prover: Role) -> LibraryProof {
        let mut hasher = blake3::Hasher::new_keyed(key.expose());
        let proof = hasher.update(b"proof").update(&self.between(prover)).finalize();
        LibraryProof {
            blinded: self.blinded(key).to_vec().into(),
            proof: proof.as_bytes().to_vec().into(),
            ticket: bytes::Bytes::new(),
        }
    }

    /// The first of the proofs that `prover` showed which is right for `key`. Takes the same time for each proof.
    pub fn find<'a>(&self, key: &Key, prover: Role, shown: &'a [LibraryProof]) -> Option<&'a LibraryProof> {
        let right = self.prove(key, prover);
        shown.iter().take(LIBRARIES_MAX).fold(None, |found, proof| {
            let same = proof.blinded.ct_eq(&right.blinded) & proof.proof.ct_eq(&right.proof);
            found.or(bool::from(same).then_some(proof))
        })
    }

    /// What `prover` shows of a credential, with its ticket sealed; `None` if that is longer than any.
    pub fn show(&self, domain: &Domain, credential: &Credential, prover: Role) -> Option<LibraryProof> {
        let Credential { key, ticket } = credential;
        let ticket = match domain.tickets.zip(ticket.as_ref()) {
            Some((context, ticket)) => self.seal(context, key, prover, ticket)?.into(),
            None => bytes::Bytes::new(),
        };
        Some(LibraryProof { ticket, ..self.prove(key, prover) })
    }

    /// The ticket that `prover` showed with its proof of `key`, if it is one.
    pub fn ticket(&self, domain: &Domain, key: &Key, prover: Role, shown: &LibraryProof) -> Option<Vec<u8>> {
        self.open(domain.tickets?, key, prover, &shown.ticket)
    }

    /// Seals a ticket of at most [`TICKET_BYTES_MAX`] bytes for those who know `key`. What comes out has always the same length.
    fn seal(&self, context: &str, key: &Key, prover: Role, ticket: &[u8]) -> Option<Vec<u8>> {
        let len = u16::try_from(ticket.len()).ok().filter(|len| usize::from(*len) <= TICKET_BYTES_MAX)?;
        let mut plain = Zeroizing::new(vec![0; 2 + TICKET_BYTES_MAX]);
        plain[..2].copy_from_slice(&len.to_be_bytes());
        plain[2..2 + ticket.len()].copy_from_slice(ticket);
        self.cipher(context, key).encrypt(&nonce(prover), plain.as_slice()).ok()
    }

    /// What [`Transcript::seal`] was given; `None` for anything else.
    fn open(&self, context: &str, key: &Key, prover: Role, sealed: &[u8]) -> Option<Vec<u8>> {
        let plain = self.cipher(context, key).decrypt(&nonce(prover), sealed).ok()?;
        let (len, rest) = plain.split_first_chunk::<2>()?;
        Some(rest.get(..usize::from(u16::from_be_bytes(*len)))?.to_vec())
    }

    fn cipher(&self, context: &str, key: &Key) -> XChaCha20Poly1305 {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        let sealing = Zeroizing::new(*hasher.update(key.expose()).update(&self.hash).finalize().as_bytes());
        XChaCha20Poly1305::new((&*sealing).into())
    }
}

/// The nonce of what `prover` seals. The key is of one secret and one stream, for which each end has chosen a nonce afresh, and
/// each end seals at most one ticket with it: two constants never meet the same key twice.
fn nonce(prover: Role) -> XNonce {
    XNonce::from(match prover {
        Role::Opener => [0; 24],
        Role::Answerer => [1; 24],
    })
}

/// Proofs that we showed on one connection, on whatever stream. Blinded ids are not among them: those are alike on both sides.
#[derive(Debug, Default)]
pub struct OwnProofs(VecDeque<[u8; 32]>);

impl OwnProofs {
    /// Takes note of proofs that we are about to show.
    pub fn note(&mut self, proofs: &[LibraryProof]) {
        for proof in proofs.iter().filter_map(|proof| proof.proof.as_ref().try_into().ok()) {
            if self.0.len() >= OWN_PROOFS_MAX {
                self.0.pop_front();
            }
            self.0.push_back(proof);
        }
    }

    /// Whether one of our own is among what the other side shows: no honest endpoint sends it back.
    pub fn is_among(&self, shown: &[LibraryProof]) -> bool {
        shown.iter().any(|shown| self.0.iter().any(|own| own[..] == shown.proof[..]))
    }
}

/// Remembers who failed to prove membership, and refuses them for a while.
#[derive(Debug, Default)]
pub struct Throttle {
    failures: HashMap<EndpointId, Vec<Instant>>,
}

impl Throttle {
    pub fn failed(&mut self, id: EndpointId, now: Instant) {
        self.forget_old(now);
        if self.failures.len() < THROTTLED_MAX || self.failures.contains_key(&id) {
            self.failures.entry(id).or_default().push(now);
        }
    }

    /// Whether `id` has failed too often lately to be heard.
    pub fn refuses(&mut self, id: EndpointId, now: Instant) -> bool {
        self.forget_old(now);
        self.failures.get(&id).is_some_and(|at| at.len() >= FAILURES_MAX)
    }

    fn forget_old(&mut self, now: Instant) {
        self.failures.retain(|_, at| {
            at.retain(|t| now.duration_since(*t) < FAILURE_WINDOW);
            !at.is_empty()
        });
    }
}
