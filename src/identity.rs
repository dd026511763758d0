//! Who this node is, and which network it belongs to: the endpoint key, the passphrase, and the keys that come from it.
//!
//! Everything secret is zeroised when dropped, never shown by `Debug` and kept in files that only their owner can read.

mod keys;
mod passphrase;
mod secret_file;

use std::io;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use iroh::SecretKey;
use zeroize::{Zeroize as _, Zeroizing};

pub use self::keys::{Key, LibraryKeys, NetworkKeys, PresenceKeys};
use self::passphrase::{PASSPHRASE_BITS_MIN, PASSPHRASE_BYTES_MAX};
pub use self::passphrase::{PASSPHRASE_FILE, Passphrase, PassphraseOrigin, new_passphrase};
pub use self::secret_file::{private_dir, read_secret, write_secret};

const KEY_FILE: &str = "secret.key";

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
    use std::fs;

    use super::*;

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
}
