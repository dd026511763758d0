//! The key schedule: what comes from the passphrase, from a topic's secret and from a library's read secret. Pure, but for
//! the time that stretching takes on purpose.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::secret_text::normal;

/// Argon2id with RFC 9106's second recommended choice. Part of the protocol's version: changing one of these makes
/// another network of the same passphrase.
const ARGON2_MEMORY_KIB: u32 = 64 * 1024;
const ARGON2_PASSES: u32 = 3;
const ARGON2_LANES: u32 = 4;
const ARGON2_SALT: &[u8] = b"can-sync/v2|default";

const CONTEXT_MIRROR: &str = "can-sync 2026 v3 mirror read secret";
const CONTEXT_AUTH: &str = "can-sync 2026 v3 library session authentication";
const CONTEXT_RECORD: &str = "can-sync 2026 v3 library record ids";
const CONTEXT_PLACE: &str = "can-sync 2026 v3 place of copies";
const CONTEXT_SLOT: &str = "can-sync 2026 v3 rendezvous slot";
const CONTEXT_SEAL: &str = "can-sync 2026 v3 rendezvous sealing";
const CONTEXT_LIST: &str = "can-sync 2026 v3 peer list sealing";
const CONTEXT_MDNS: &str = "can-sync 2026 v3 local network service";
const CONTEXT_PRESENCE: &str = "can-sync 2026 v3 presence";
const CONTEXT_TOPIC: &str = "can-sync 2026 v3 gossip topic";
const CONTEXT_PEERS_RPC: &str = "can-sync 2026 v3 peer list authentication";
const CONTEXT_NAMED_TOPIC: &str = "can-sync 2026 v3 named gossip topic";

/// 32 secret bytes.
#[derive(Clone, ZeroizeOnDrop, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    fn derive(context: &str, secret: &[u8; 32]) -> Self {
        Self(blake3::derive_key(context, secret))
    }

    /// One that was kept, or told.
    pub fn of_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// One that nobody else has.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The bytes, for a keyed hash.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(redacted)")
    }
}

/// What everyone in the network of one passphrase shares. Derive it once: it takes about 150 ms and 64 MiB on purpose.
#[derive(Clone, Debug)]
pub struct NetworkKeys {
    mirror: LibraryKeys,
    slot: Key,
    seal: Key,
    list: Key,
    mdns: Key,
    presence: PresenceKeys,
}

impl NetworkKeys {
    /// Stretches a passphrase (protocol page, *Keys*). Blocks; call it off the async threads.
    ///
    /// # Panics
    /// Never: the parameters are constants within Argon2's bounds.
    pub fn derive(passphrase: &SecretString) -> Self {
        let root = stretch(passphrase);
        Self {
            mirror: LibraryKeys::from_read_secret(&Key::derive(CONTEXT_MIRROR, &root)),
            slot: Key::derive(CONTEXT_SLOT, &root),
            seal: Key::derive(CONTEXT_SEAL, &root),
            list: Key::derive(CONTEXT_LIST, &root),
            mdns: Key::derive(CONTEXT_MDNS, &root),
            presence: PresenceKeys::from_secret(&Key::derive(CONTEXT_PRESENCE, &root)),
        }
    }

    /// Keys of the library that mirrors everything to every member.
    pub fn mirror(&self) -> &LibraryKeys {
        &self.mirror
    }

    /// What the signing keys of rendezvous slots derive from.
    pub fn slot(&self) -> &Key {
        &self.slot
    }

    /// Seals what rendezvous slots hold.
    pub fn seal(&self) -> &Key {
        &self.seal
    }

    /// Seals the lists of agents that agents publish under their own keys.
    pub fn list(&self) -> &Key {
        &self.list
    }

    /// What the name of the service on the local network derives from, so that networks do not see each other.
    pub fn mdns(&self) -> &Key {
        &self.mdns
    }

    /// Keys of the network's presence: who is there, without what they hold.
    pub fn presence(&self) -> &PresenceKeys {
        &self.presence
    }
}

/// Keys of one presence network: a gossip topic, and the right to ask its members for their peers.
#[derive(Clone, Debug)]
pub struct PresenceKeys {
    topic: Key,
    rpc: Key,
}

impl PresenceKeys {
    /// Of the topic `name`. With a secret, only those who know it as well; it is stretched as a passphrase is, which takes
    /// as long. Without one, everybody who knows the name. Blocks.
    pub fn of_topic(name: &str, secret: Option<&SecretString>) -> Self {
        let root = secret.map_or_else(|| Zeroizing::new([0; 32]), stretch);
        let mut material = Zeroizing::new(root.to_vec());
        material.extend_from_slice(name.as_bytes());
        Self::from_secret(&Key(blake3::derive_key(CONTEXT_NAMED_TOPIC, &material)))
    }

    fn from_secret(secret: &Key) -> Self {
        Self {
            topic: Key::derive(CONTEXT_TOPIC, secret.expose()),
            rpc: Key::derive(CONTEXT_PEERS_RPC, secret.expose()),
        }
    }

    pub fn topic(&self) -> &Key {
        &self.topic
    }

    /// Proves membership to an agent that is asked for its list of peers.
    pub fn rpc(&self) -> &Key {
        &self.rpc
    }
}

/// What comes from a library's read secret.
#[derive(Clone, Debug)]
pub struct LibraryKeys {
    auth: Key,
    record: Key,
    place: Key,
}

impl LibraryKeys {
    pub fn of_read_secret(secret: &[u8; 32]) -> Self {
        Self::from_read_secret(&Key(*secret))
    }

    fn from_read_secret(secret: &Key) -> Self {
        Self {
            auth: Key::derive(CONTEXT_AUTH, secret.expose()),
            record: Key::derive(CONTEXT_RECORD, secret.expose()),
            place: Key::derive(CONTEXT_PLACE, secret.expose()),
        }
    }

    /// Proves membership in a session.
    pub fn auth(&self) -> &Key {
        &self.auth
    }

    /// Names places where copies are, so that they mean nothing to others.
    pub fn place(&self) -> &Key {
        &self.place
    }

    /// Makes record ids that mean nothing to others.
    pub fn record(&self) -> &Key {
        &self.record
    }
}

/// Argon2id of a secret that people choose.
fn stretch(secret: &SecretString) -> Zeroizing<[u8; 32]> {
    let normal = normal(secret.expose_secret());
    let mut root = Zeroizing::new([0; 32]);
    let params = Params::new(ARGON2_MEMORY_KIB, ARGON2_PASSES, ARGON2_LANES, Some(root.len()));
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.expect("constants within Argon2's bounds"))
        .hash_password_into(normal.as_bytes(), ARGON2_SALT, root.as_mut_slice())
        .expect("constants within Argon2's bounds");
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_depend_on_the_passphrase_and_not_on_its_unicode_form_or_what_is_around_it() {
        let keys = |text: &str| NetworkKeys::derive(&text.into());
        let composed = keys("caf\u{e9} and more");
        for same in
            ["cafe\u{301} and more", "\u{feff}caf\u{e9} and more\r\n", "caf\u{e9}\u{a0}and \u{ff4d}ore "]
        {
            assert_eq!(composed.mirror.auth, keys(same).mirror.auth, "{same:?}");
        }
        let topic = |secret: &str| PresenceKeys::of_topic("t", Some(&secret.into()));
        assert_eq!(topic("a secret").rpc, topic(" a secret\n").rpc);
        let other = keys("another passphrase");
        assert_ne!(composed.mirror.auth, other.mirror.auth);
        assert_ne!(composed.mirror.auth, composed.mirror.record);
        assert_eq!(format!("{:?}", composed.mirror.auth), "Key(redacted)");
    }
}
