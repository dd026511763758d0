//! Proof that both ends of a connection know the same library's secret. Pure.
//!
//! Both ends export the same keying material from the TLS session (RFC 5705), so a proof made for one connection is
//! worth nothing on another. The side that opens the control stream goes first and shows, for each library that it
//! offers, an id blinded by that material and a proof; the other side answers for the libraries that it shares, and
//! for those alone. Whoever knows none of the secrets sees random bytes.

use std::collections::HashMap;
use std::time::Duration;

use iroh::EndpointId;
use iroh::endpoint::{Connection, Side};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

use crate::identity::{Key, LibraryKeys};
use crate::wire::proto::LibraryProof;

/// TLS exporter label (RFC 5705); the version makes proofs of different protocol versions unrelated.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-can-sync-auth-v2";
/// Most libraries in one `Auth` frame.
pub const LIBRARIES_MAX: usize = crate::wire::decode::LIBRARIES_PER_FRAME_MAX;
/// Failures that one endpoint may have within [`FAILURE_WINDOW`] before its connections are refused unheard.
pub const FAILURES_MAX: usize = 3;
/// See [`FAILURES_MAX`].
pub const FAILURE_WINDOW: Duration = Duration::from_mins(1);
/// Endpoints whose failures are remembered. Ids are free, so this only bounds memory.
const THROTTLED_MAX: usize = 1024;

/// Which end of the control stream makes a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The end that opened it.
    Opener,
    /// The other end.
    Answerer,
}

impl Role {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Opener => b"opener",
            Self::Answerer => b"answerer",
        }
    }
}

/// What ties proofs to one connection: the exported material, and both ends' ids.
#[derive(Clone, Debug)]
pub struct Binding {
    ekm: [u8; 32],
    dialer: EndpointId,
    acceptor: EndpointId,
}

/// The TLS session does not give keying material.
#[derive(Debug, thiserror::Error)]
#[error("the connection cannot be bound to a proof: {0}")]
pub struct BindError(String);

impl Binding {
    /// What ties proofs to this connection.
    ///
    /// # Errors
    /// If the TLS session gives no keying material.
    pub fn of(connection: &Connection, own_id: EndpointId) -> Result<Self, BindError> {
        let other = connection.remote_id();
        let (dialer, acceptor) = match connection.side() {
            Side::Client => (own_id, other),
            Side::Server => (other, own_id),
        };
        let mut ekm = [0; 32];
        connection
            .export_keying_material(&mut ekm, EXPORTER_LABEL, &Self::context(dialer, acceptor))
            .map_err(|e| BindError(format!("{e:?}")))?;
        Ok(Self::new(ekm, dialer, acceptor))
    }

    /// From 32 bytes of keying material, exported with [`EXPORTER_LABEL`] and [`Binding::context`].
    #[must_use]
    pub fn new(ekm: [u8; 32], dialer: EndpointId, acceptor: EndpointId) -> Self {
        Self { ekm, dialer, acceptor }
    }

    /// Context of the export: both ids, dialler first.
    #[must_use]
    pub fn context(dialer: EndpointId, acceptor: EndpointId) -> [u8; 64] {
        let mut context = [0; 64];
        context[..32].copy_from_slice(dialer.as_bytes());
        context[32..].copy_from_slice(acceptor.as_bytes());
        context
    }

    /// What `role` signs to show that something is its own on this connection.
    #[must_use]
    pub fn held(&self, role: Role) -> Vec<u8> {
        [role.label(), &self.ekm, self.dialer.as_bytes(), self.acceptor.as_bytes()].concat()
    }

    /// The id, on this connection, of what `key` authenticates.
    #[must_use]
    pub fn blinded(&self, key: &Key) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(key.expose());
        *hasher.update(b"id").update(&self.ekm).finalize().as_bytes()
    }

    /// What `role` shows for a library.
    #[must_use]
    pub fn prove(&self, keys: &LibraryKeys, role: Role) -> LibraryProof {
        self.prove_key(keys.auth(), role)
    }

    /// What `role` shows for knowing `key`, which must serve nothing else.
    #[must_use]
    pub fn prove_key(&self, key: &Key, role: Role) -> LibraryProof {
        let mut hasher = blake3::Hasher::new_keyed(key.expose());
        hasher.update(role.label()).update(&self.ekm);
        hasher.update(self.dialer.as_bytes()).update(self.acceptor.as_bytes());
        LibraryProof {
            blinded: self.blinded(key).to_vec().into(),
            proof: hasher.finalize().as_bytes().to_vec().into(),
        }
    }

    /// Whether one of the proofs shown by `role` is right for this library. Takes the same time for each proof.
    #[must_use]
    pub fn verify(&self, keys: &LibraryKeys, role: Role, shown: &[LibraryProof]) -> bool {
        self.verify_key(keys.auth(), role, shown)
    }

    /// Whether one of the proofs shown by `role` is right for `key`. Takes the same time for each proof.
    #[must_use]
    pub fn verify_key(&self, key: &Key, role: Role, shown: &[LibraryProof]) -> bool {
        let right = self.prove_key(key, role);
        shown.iter().take(LIBRARIES_MAX).fold(false, |found, proof| {
            let same = proof.blinded.ct_eq(&right.blinded) & proof.proof.ct_eq(&right.proof);
            found | bool::from(same)
        })
    }
}

/// Remembers who failed to prove membership, and refuses them for a while.
#[derive(Debug, Default)]
pub struct Throttle {
    failures: HashMap<EndpointId, Vec<Instant>>,
}

impl Throttle {
    /// Counts a failure at `now`.
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

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;
    use crate::identity::NetworkKeys;

    fn ids() -> (EndpointId, EndpointId) {
        (SecretKey::from_bytes(&[1; 32]).public(), SecretKey::from_bytes(&[2; 32]).public())
    }

    #[test]
    fn a_proof_holds_for_its_library_role_and_connection_alone() {
        let (dialer, acceptor) = ids();
        let ours = NetworkKeys::derive(&"one network".into());
        let other = NetworkKeys::derive(&"another network".into());
        let here = Binding::new([3; 32], dialer, acceptor);
        let proof = [here.prove(ours.mirror(), Role::Opener)];

        assert!(here.verify(ours.mirror(), Role::Opener, &proof));
        assert!(!here.verify(ours.mirror(), Role::Answerer, &proof), "reflected");
        assert!(!here.verify(other.mirror(), Role::Opener, &proof), "another library");
        let elsewhere = Binding::new([4; 32], dialer, acceptor);
        assert!(!elsewhere.verify(ours.mirror(), Role::Opener, &proof), "replayed on another connection");
        let swapped = Binding::new([3; 32], acceptor, dialer);
        assert!(!swapped.verify(ours.mirror(), Role::Opener, &proof), "ends swapped");
        assert!(!here.verify(ours.mirror(), Role::Opener, &[]));
        let cut = [LibraryProof { proof: proof[0].proof.slice(..31), ..proof[0].clone() }];
        assert!(!here.verify(ours.mirror(), Role::Opener, &cut));
    }

    #[test]
    fn three_failures_within_a_minute_are_enough() {
        let (id, other) = ids();
        let mut throttle = Throttle::default();
        let start = Instant::now();
        for _ in 0..FAILURES_MAX {
            assert!(!throttle.refuses(id, start));
            throttle.failed(id, start);
        }
        assert!(throttle.refuses(id, start));
        assert!(!throttle.refuses(other, start));
        assert!(!throttle.refuses(id, start + FAILURE_WINDOW));
    }
}
