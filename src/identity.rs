//! Who this node is, and which network it belongs to: the endpoint key, the passphrase, and the keys that come from it.
//!
//! Everything secret is zeroised when dropped, never shown by `Debug` and kept in files that only their owner can read.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use data_encoding::HEXLOWER;
use diceware_wordlists::EFF_LONG_WORDLIST;
use iroh::SecretKey;
use rand::seq::IndexedRandom as _;
use secrecy::{ExposeSecret as _, SecretString};
use unicode_normalization::UnicodeNormalization as _;
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

/// Words of a generated passphrase: 7 × log2(7,776) is about 90 bits.
const PASSPHRASE_WORDS: usize = 7;
/// Weakest passphrase that is taken without `allow_weak_passphrase`, in bits as zxcvbn estimates them. Slot keys are
/// published, so anyone who watches relays can guess offline.
const PASSPHRASE_BITS_MIN: f64 = 50.0;
/// Longest passphrase in bytes; far beyond any use, it bounds the work of the strength estimate.
const PASSPHRASE_BYTES_MAX: usize = 1024;

/// Argon2id with RFC 9106's second recommended choice. Part of the protocol's version: changing one of these makes
/// another network of the same passphrase.
const ARGON2_MEMORY_KIB: u32 = 64 * 1024;
const ARGON2_PASSES: u32 = 3;
const ARGON2_LANES: u32 = 4;
const ARGON2_SALT: &[u8] = b"can-sync/v2|default";

const CONTEXT_MIRROR: &str = "can-sync 2026 v2 mirror read secret";
const CONTEXT_AUTH: &str = "can-sync 2026 v2 library session authentication";
const CONTEXT_RECORD: &str = "can-sync 2026 v2 library record ids";
const CONTEXT_SLOT: &str = "can-sync 2026 v2 rendezvous slot";
const CONTEXT_SEAL: &str = "can-sync 2026 v2 rendezvous sealing";
const CONTEXT_LIST: &str = "can-sync 2026 v2 peer list sealing";
const CONTEXT_MDNS: &str = "can-sync 2026 v2 local network service";
const CONTEXT_PRESENCE: &str = "can-sync 2026 v2 presence";
const CONTEXT_TOPIC: &str = "can-sync 2026 v2 gossip topic";
const CONTEXT_PEERS_RPC: &str = "can-sync 2026 v2 peer list authentication";
const CONTEXT_NAMED_TOPIC: &str = "can-sync 2026 v2 named gossip topic";

const KEY_FILE: &str = "secret.key";
/// Where the data directory keeps the passphrase that was made at the first start.
pub const PASSPHRASE_FILE: &str = "passphrase";

/// Why the identity of this node could not be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file or directory could not be read or written.
    #[error("cannot {action} '{}': {source}; check that this user may do so", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could read a secret.
    #[error("'{}' can be read by others (mode {mode:03o}): run `chmod 600 '{}'`", path.display(), path.display())]
    Permissions {
        /// The secret's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A key file with something else in it.
    #[error(
        "'{}' does not hold a secret key (64 hexadecimal digits): restore it from a backup, or move it away to become \
         a new endpoint",
        path.display()
    )]
    MalformedKey {
        /// The key's file.
        path: PathBuf,
    },
    /// Nothing in it.
    #[error("the passphrase from {origin} is empty: set one, or remove the setting to have one generated")]
    EmptyPassphrase {
        /// Where it came from.
        origin: PassphraseOrigin,
    },
    /// Longer than anyone needs.
    #[error("the passphrase from {origin} is longer than {PASSPHRASE_BYTES_MAX} bytes")]
    LongPassphrase {
        /// Where it came from.
        origin: PassphraseOrigin,
    },
    /// Too easy to guess.
    #[error(
        "the passphrase from {origin} is too weak (about {bits:.0} bits, at least {PASSPHRASE_BITS_MIN:.0} are needed): \
         take a longer one, or remove the setting to have one generated, or set `allow_weak_passphrase: true`"
    )]
    WeakPassphrase {
        /// Where it came from.
        origin: PassphraseOrigin,
        /// Estimated strength.
        bits: f64,
    },
}

/// Where the passphrase came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassphraseOrigin {
    /// Setting `sync_passphrase`.
    Config,
    /// The file that `sync_passphrase_file` names.
    File,
    /// The data directory, where an earlier start put it.
    DataDir,
    /// Made just now.
    Generated,
}

impl PassphraseOrigin {
    /// The word for it in `/status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::File => "file",
            Self::DataDir => "data_dir",
            Self::Generated => "generated",
        }
    }
}

impl fmt::Display for PassphraseOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "sync_passphrase",
            Self::File => "sync_passphrase_file",
            Self::DataDir => "the data directory",
            Self::Generated => "the generator",
        })
    }
}

/// Makes a directory that only its owner can enter, or checks that it is one that we may write to.
///
/// # Errors
/// What the system says, with the path.
pub fn private_dir(path: &Path) -> Result<(), IdentityError> {
    let failed = |action| move |source| IdentityError::Io { action, path: path.to_owned(), source };
    let existed = path.is_dir();
    fs::create_dir_all(path).map_err(failed("create"))?;
    #[cfg(unix)]
    if !existed {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed("restrict"))?;
    }
    Ok(())
}

/// Writes a secret so that a crash leaves either all of it or nothing, readable by its owner alone.
///
/// # Errors
/// What the system says, with the path.
pub fn write_secret(path: &Path, text: &str) -> Result<(), IdentityError> {
    let failed = |source| IdentityError::Io { action: "write", path: path.to_owned(), source };
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A named temporary file is created with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    writeln!(file, "{text}").map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    fs::File::open(dir).and_then(|d| d.sync_all()).map_err(failed)
}

/// Reads a secret that [`write_secret`] wrote; `None` if there is no such file.
///
/// # Errors
/// [`IdentityError::Permissions`] if others can read it, otherwise what the system says.
pub fn read_secret(path: &Path) -> Result<Option<Zeroizing<String>>, IdentityError> {
    let failed = |source| IdentityError::Io { action: "read", path: path.to_owned(), source };
    let text = match fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Permissions { path: path.to_owned(), mode });
        }
    }
    Ok(Some(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())))
}

/// The endpoint's key: the one in the data directory, or a new one that is kept there.
///
/// # Errors
/// If the file cannot be read or written, can be read by others, or holds something else.
pub fn endpoint_key(data_dir: &Path) -> Result<SecretKey, IdentityError> {
    if let Some(key) = existing_endpoint_key(data_dir)? {
        return Ok(key);
    }
    let key = SecretKey::generate();
    let text = Zeroizing::new(HEXLOWER.encode(&key.to_bytes()));
    write_secret(&data_dir.join(KEY_FILE), &text)?;
    Ok(key)
}

/// As [`endpoint_key`], without making one.
///
/// # Errors
/// As there.
pub fn existing_endpoint_key(data_dir: &Path) -> Result<Option<SecretKey>, IdentityError> {
    let path = data_dir.join(KEY_FILE);
    let Some(text) = read_secret(&path)? else { return Ok(None) };
    let malformed = || IdentityError::MalformedKey { path: path.clone() };
    let bytes = Zeroizing::new(HEXLOWER.decode(text.as_bytes()).map_err(|_| malformed())?);
    let bytes: [u8; 32] = bytes.as_slice().try_into().map_err(|_| malformed())?;
    Ok(Some(SecretKey::from_bytes(&bytes)))
}

/// A passphrase and where it came from.
#[derive(Debug, Clone)]
pub struct Passphrase {
    /// The words.
    pub secret: SecretString,
    /// Where they came from.
    pub origin: PassphraseOrigin,
}

impl Passphrase {
    /// The passphrase to use: the configured one, else the one in the configured file, else the one in the data
    /// directory, else a new one that is kept there.
    ///
    /// # Errors
    /// If a file cannot be read or written, or the passphrase is empty, far too long, or too weak without
    /// `allow_weak`.
    pub fn load(
        configured: Option<&SecretString>,
        file: Option<&Path>,
        data_dir: &Path,
        allow_weak: bool,
    ) -> Result<Self, IdentityError> {
        if let Some(found) = Self::existing(configured, file, data_dir, allow_weak)? {
            return Ok(found);
        }
        let generated = generate_passphrase();
        write_secret(&data_dir.join(PASSPHRASE_FILE), &generated)?;
        Ok(Self { secret: generated.as_str().into(), origin: PassphraseOrigin::Generated })
    }

    /// As [`Passphrase::load`], without making one.
    ///
    /// # Errors
    /// As there.
    pub fn existing(
        configured: Option<&SecretString>,
        file: Option<&Path>,
        data_dir: &Path,
        allow_weak: bool,
    ) -> Result<Option<Self>, IdentityError> {
        let found = if let Some(secret) = configured {
            Some(Self { secret: secret.clone(), origin: PassphraseOrigin::Config })
        } else if let Some(path) = file {
            let missing = || IdentityError::Io {
                action: "read",
                path: path.to_owned(),
                source: io::Error::from(io::ErrorKind::NotFound),
            };
            let text = read_secret(path)?.ok_or_else(missing)?;
            Some(Self { secret: text.as_str().into(), origin: PassphraseOrigin::File })
        } else {
            read_secret(&data_dir.join(PASSPHRASE_FILE))?
                .map(|text| Self { secret: text.as_str().into(), origin: PassphraseOrigin::DataDir })
        };
        if let Some(passphrase) = &found {
            passphrase.check(allow_weak)?;
        }
        Ok(found)
    }

    fn check(&self, allow_weak: bool) -> Result<(), IdentityError> {
        let origin = self.origin;
        let text = self.secret.expose_secret();
        if text.trim().is_empty() {
            return Err(IdentityError::EmptyPassphrase { origin });
        }
        if text.len() > PASSPHRASE_BYTES_MAX {
            return Err(IdentityError::LongPassphrase { origin });
        }
        if !allow_weak {
            let bits = zxcvbn::zxcvbn(text, &["can-sync"]).guesses_log10() * std::f64::consts::LOG2_10;
            if bits < PASSPHRASE_BITS_MIN {
                return Err(IdentityError::WeakPassphrase { origin, bits });
            }
        }
        Ok(())
    }
}

/// Makes a new passphrase and keeps it in `path`, in place of whatever is there.
///
/// # Errors
/// If the file cannot be written.
pub fn new_passphrase(path: &Path) -> Result<Zeroizing<String>, IdentityError> {
    let passphrase = generate_passphrase();
    write_secret(path, &passphrase)?;
    Ok(passphrase)
}

/// Seven words of the EFF's long list, joined by hyphens.
fn generate_passphrase() -> Zeroizing<String> {
    let mut rng = rand::rng();
    let words: Vec<&str> =
        (0..PASSPHRASE_WORDS).filter_map(|_| EFF_LONG_WORDLIST.choose(&mut rng).copied()).collect();
    Zeroizing::new(words.join("-"))
}

/// 32 secret bytes.
#[derive(Clone, ZeroizeOnDrop, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    fn derive(context: &str, secret: &[u8; 32]) -> Self {
        Self(blake3::derive_key(context, secret))
    }

    /// The bytes, for a keyed hash.
    #[must_use]
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
    #[must_use]
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
    #[must_use]
    pub fn mirror(&self) -> &LibraryKeys {
        &self.mirror
    }

    /// What the signing keys of rendezvous slots derive from.
    #[must_use]
    pub fn slot(&self) -> &Key {
        &self.slot
    }

    /// Seals what rendezvous slots hold.
    #[must_use]
    pub fn seal(&self) -> &Key {
        &self.seal
    }

    /// Seals the lists of agents that agents publish under their own keys.
    #[must_use]
    pub fn list(&self) -> &Key {
        &self.list
    }

    /// What the name of the service on the local network derives from, so that networks do not see each other.
    #[must_use]
    pub fn mdns(&self) -> &Key {
        &self.mdns
    }

    /// Keys of the network's presence: who is there, without what they hold.
    #[must_use]
    pub fn presence(&self) -> &PresenceKeys {
        &self.presence
    }
}

/// Keys of one presence network: a gossip topic, and the right to ask its members whom they know.
#[derive(Clone, Debug)]
pub struct PresenceKeys {
    topic: Key,
    rpc: Key,
}

impl PresenceKeys {
    /// Of the topic `name`. With a secret, only those who know it as well; it is stretched as a passphrase is, which takes
    /// as long. Without one, everybody who knows the name. Blocks.
    #[must_use]
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

    /// The gossip topic.
    #[must_use]
    pub fn topic(&self) -> &Key {
        &self.topic
    }

    /// Proves membership to whoever is asked for its list of peers.
    #[must_use]
    pub fn rpc(&self) -> &Key {
        &self.rpc
    }
}

/// Argon2id of a secret that people choose.
fn stretch(secret: &SecretString) -> Zeroizing<[u8; 32]> {
    let normal: Zeroizing<String> = Zeroizing::new(secret.expose_secret().nfkc().collect());
    let mut root = Zeroizing::new([0; 32]);
    let params = Params::new(ARGON2_MEMORY_KIB, ARGON2_PASSES, ARGON2_LANES, Some(root.len()));
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.expect("constants within Argon2's bounds"))
        .hash_password_into(normal.as_bytes(), ARGON2_SALT, root.as_mut_slice())
        .expect("constants within Argon2's bounds");
    root
}

/// What comes from a library's read secret.
#[derive(Clone, Debug)]
pub struct LibraryKeys {
    auth: Key,
    record: Key,
}

impl LibraryKeys {
    /// Of the library with this read secret.
    #[must_use]
    pub fn of_read_secret(secret: &[u8; 32]) -> Self {
        Self::from_read_secret(&Key(*secret))
    }

    fn from_read_secret(secret: &Key) -> Self {
        Self {
            auth: Key::derive(CONTEXT_AUTH, secret.expose()),
            record: Key::derive(CONTEXT_RECORD, secret.expose()),
        }
    }

    /// Proves membership in a session.
    #[must_use]
    pub fn auth(&self) -> &Key {
        &self.auth
    }

    /// Makes record ids that mean nothing to others.
    #[must_use]
    pub fn record(&self) -> &Key {
        &self.record
    }
}

/// 32 random bytes as text, for keys that only this machine's programs use.
#[must_use]
pub fn random_token() -> Zeroizing<String> {
    let mut bytes: [u8; 32] = rand::random();
    let text = Zeroizing::new(HEXLOWER.encode(&bytes));
    bytes.zeroize();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(dir: &Path, configured: Option<&str>, weak: bool) -> Result<Passphrase, IdentityError> {
        Passphrase::load(configured.map(SecretString::from).as_ref(), None, dir, weak)
    }

    #[test]
    fn the_endpoint_key_persists_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = endpoint_key(dir.path()).unwrap();
        assert_eq!(endpoint_key(dir.path()).unwrap().to_bytes(), first.to_bytes());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let path = dir.path().join(KEY_FILE);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            let error = endpoint_key(dir.path()).unwrap_err();
            assert!(matches!(error, IdentityError::Permissions { mode: 0o644, .. }), "{error}");
        }
    }

    #[test]
    fn a_key_file_with_something_else_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        write_secret(&dir.path().join(KEY_FILE), "not a key").unwrap();
        assert!(matches!(endpoint_key(dir.path()), Err(IdentityError::MalformedKey { .. })));
        assert_eq!(fs::read_to_string(dir.path().join(KEY_FILE)).unwrap(), "not a key\n");
    }

    #[test]
    fn a_generated_passphrase_is_kept_and_strong() {
        let dir = tempfile::tempdir().unwrap();
        let first = load(dir.path(), None, false).unwrap();
        assert_eq!(first.origin, PassphraseOrigin::Generated);
        let again = load(dir.path(), None, false).unwrap();
        assert_eq!(again.origin, PassphraseOrigin::DataDir);
        assert_eq!(again.secret.expose_secret(), first.secret.expose_secret());
        let configured = load(dir.path(), Some("correct horse battery staple and more"), false).unwrap();
        assert_eq!(configured.origin, PassphraseOrigin::Config);
    }

    #[test]
    fn every_word_of_a_passphrase_is_worth_what_is_counted_on() {
        let words: std::collections::BTreeSet<_> = EFF_LONG_WORDLIST.into_iter().collect();
        assert_eq!(words.len(), 7_776);
        assert!(words.iter().all(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')));
        assert!(words.iter().all(|word| word.len() >= 3));
        let made: std::collections::BTreeSet<_> = (0..8).map(|_| generate_passphrase().to_string()).collect();
        assert_eq!(made.len(), 8);
    }

    #[test]
    fn weak_empty_and_endless_passphrases_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            load(dir.path(), Some("hunter2"), false),
            Err(IdentityError::WeakPassphrase { .. })
        ));
        assert!(load(dir.path(), Some("hunter2"), true).is_ok());
        assert!(matches!(load(dir.path(), Some("  "), true), Err(IdentityError::EmptyPassphrase { .. })));
        let long = "x".repeat(PASSPHRASE_BYTES_MAX + 1);
        assert!(matches!(load(dir.path(), Some(&long), true), Err(IdentityError::LongPassphrase { .. })));
        assert!(
            !dir.path().join(PASSPHRASE_FILE).exists(),
            "a configured passphrase is not written anywhere"
        );
    }

    #[test]
    fn keys_depend_on_the_passphrase_and_not_on_its_unicode_form() {
        let keys = |text: &str| NetworkKeys::derive(&text.into());
        let composed = keys("caf\u{e9} and more");
        assert_eq!(composed.mirror.auth, keys("cafe\u{301} and more").mirror.auth);
        let other = keys("another passphrase");
        assert_ne!(composed.mirror.auth, other.mirror.auth);
        assert_ne!(composed.mirror.auth, composed.mirror.record);
        assert_eq!(format!("{:?}", composed.mirror.auth), "Key(redacted)");
    }
}
