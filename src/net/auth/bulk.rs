//! What ties a bulk connection to the session whose contents it carries. Pure.

use std::fmt;

use iroh::EndpointId;
use subtle::ConstantTimeEq as _;

use super::{Binding, Role, Transcript};
use crate::identity::Key;

/// Label of the TLS exporter of a bulk connection.
pub const BULK_EXPORTER_LABEL: &[u8] = b"EXPORTER-can-sync-bulk-v3";
/// Context of the key that a session's bulk connections are proved with.
const BULK_KEY_CONTEXT: &str = "can-sync 2026 v3 bulk";

/// A proof that a connection is a bulk connection of one session, made by one end for the other.
pub type BulkProof = [u8; 32];

/// What the bulk connections of one session are proved with: only its two ends can derive it.
#[derive(Clone)]
pub struct BulkSecret {
    key: Key,
    role: Role,
}

impl fmt::Debug for BulkSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BulkSecret({:?})", self.role)
    }
}

impl BulkSecret {
    /// Of the session on the control stream of `transcript`, where this end is `role`.
    pub fn new(transcript: &Transcript, role: Role) -> Self {
        Self { key: Key::of_bytes(blake3::derive_key(BULK_KEY_CONTEXT, transcript.secret())), role }
    }

    /// Which end of the control stream this is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// What `prover` shows on the connection of `binding`, on which contents flow from `sender` to the other end.
    pub fn prove(&self, binding: &Binding, sender: Role, prover: Role) -> BulkProof {
        let id_of =
            |role: Role| -> &EndpointId { if role == self.role { &binding.own_id } else { &binding.peer } };
        let direction = match sender {
            Role::Opener => 0,
            Role::Answerer => 1,
        };
        let mut hasher = blake3::Hasher::new_keyed(self.key.expose());
        hasher.update(b"bulk").update(&[direction]);
        hasher.update(id_of(prover).as_bytes()).update(id_of(prover.other()).as_bytes());
        *hasher.update(&binding.ekm).finalize().as_bytes()
    }

    /// Whether the other end made this proof for us, for contents that flow from `sender` on the connection of `binding`.
    pub fn is_proved(&self, binding: &Binding, sender: Role, shown: &BulkProof) -> bool {
        self.prove(binding, sender, self.role.other()).ct_eq(shown).into()
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;
    use crate::net::auth::SESSION;

    fn id(n: u8) -> EndpointId {
        SecretKey::from_bytes(&[n; 32]).public()
    }

    /// A connection between 1 and 2, as seen by each.
    fn ends(ekm: u8) -> (Binding, Binding) {
        (Binding::new([ekm; 32], id(1), id(2)), Binding::new([ekm; 32], id(2), id(1)))
    }

    /// The secret of a session that 1 opened with 2, at each end.
    fn secrets(nonce: u8) -> (BulkSecret, BulkSecret) {
        let (near, far) = ends(9);
        let here = Transcript::new(&SESSION, &near, Role::Opener, &[nonce; 32], &[2; 32]);
        let there = Transcript::new(&SESSION, &far, Role::Answerer, &[2; 32], &[nonce; 32]);
        (BulkSecret::new(&here, Role::Opener), BulkSecret::new(&there, Role::Answerer))
    }

    #[test]
    fn each_end_believes_the_other_in_either_direction() {
        let ((opener, answerer), (near, far)) = (secrets(1), ends(3));
        for sender in [Role::Opener, Role::Answerer] {
            assert!(answerer.is_proved(&far, sender, &opener.prove(&near, sender, Role::Opener)));
            assert!(opener.is_proved(&near, sender, &answerer.prove(&far, sender, Role::Answerer)));
        }
    }

    #[test]
    fn a_proof_says_who_made_it() {
        let ((opener, _), (near, _)) = (secrets(1), ends(3));
        let own = opener.prove(&near, Role::Opener, Role::Opener);
        assert!(!opener.is_proved(&near, Role::Opener, &own), "sent back to its maker");
    }

    #[test]
    fn a_proof_says_which_direction() {
        let ((opener, answerer), (near, far)) = (secrets(1), ends(3));
        let other = opener.prove(&near, Role::Answerer, Role::Opener);
        assert!(!answerer.is_proved(&far, Role::Opener, &other));
    }

    #[test]
    fn a_proof_says_which_connection_between_which_ends() {
        let ((opener, answerer), (near, far)) = (secrets(1), ends(3));
        let shown = opener.prove(&near, Role::Opener, Role::Opener);
        assert!(!answerer.is_proved(&ends(4).1, Role::Opener, &shown), "another connection");
        let with_another = Binding::new([3; 32], id(2), id(5));
        assert!(!answerer.is_proved(&with_another, Role::Opener, &shown), "of somebody else");
        let to_another = Binding::new([3; 32], id(5), id(1));
        assert!(!answerer.is_proved(&to_another, Role::Opener, &shown), "for somebody else");
        assert!(answerer.is_proved(&far, Role::Opener, &shown));
    }

    #[test]
    fn a_proof_is_of_one_session() {
        let ((opener, _), (_, later), (near, far)) = (secrets(1), secrets(2), ends(3));
        assert!(!later.is_proved(&far, Role::Opener, &opener.prove(&near, Role::Opener, Role::Opener)));
    }
}
