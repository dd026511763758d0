//! Who this node is, and which network it belongs to: the endpoint key, the passphrase, and the keys that come from it.
//!
//! Everything secret is zeroised when dropped, never shown by `Debug` and kept in files that only their owner can read.

mod keys;
mod passphrase;
mod secret_file;
mod secret_text;

use std::io;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use iroh::SecretKey;
use zeroize::{Zeroize as _, Zeroizing};

pub use self::keys::{Key, LibraryKeys, NetworkKeys, PresenceKeys};
use self::passphrase::PASSPHRASE_BITS_MIN;
pub use self::passphrase::{
    PASSPHRASE_FILE, Passphrase, PassphraseOrigin, PassphraseSources, is_stdin, keep_passphrase,
    new_passphrase, rotate_passphrase, rotated_passphrase,
};
pub use self::secret_file::{
    Fault, Keeper, KeptSecret, Mend, check_dir, exposure, is_of_ours, open_own, private_dir, read_given,
    read_secret, write_secret,
};
pub use self::secret_text::{TextFault, normal, secret_in};

/// Who this node is, in its data directory.
pub const KEY_FILE: &str = "secret.key";

/// Why the identity of this node could not be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file or directory could not be read or written.
    #[error("cannot {action} '{}': {source}; check that this user may do so", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// A file that a setting names is not there.
    #[error("'{}' does not exist (No such file): check that the setting names the right one", path.display())]
    Missing { path: PathBuf },
    /// Others could read a secret, or put another one in its place.
    #[error("{}", exposed(path, *mode, *fault))]
    Exposed {
        /// The secret's file, or the directory that it is in.
        path: PathBuf,
        mode: u32,
        /// What others could do.
        fault: Fault,
    },
    /// A file that holds no secret.
    #[error("'{}': {fault}", path.display())]
    Text { path: PathBuf, fault: TextFault },
    /// A key file with something else in it.
    #[error(
        "'{}' does not hold a secret key (64 hexadecimal digits): restore it from a backup, or move it away to become \
         a new endpoint",
        path.display()
    )]
    MalformedKey { path: PathBuf },
    /// A setting that holds no passphrase.
    #[error("{0}; set a passphrase, or remove the setting to have one generated")]
    Passphrase(TextFault),
    /// Too easy to guess.
    #[error(
        "the passphrase is too weak (about {bits:.0} bits, at least {PASSPHRASE_BITS_MIN:.0} are needed): take a longer one, \
         or remove the setting to have one generated, or set `allow_weak_passphrase: true`"
    )]
    WeakPassphrase { bits: f64 },
}

/// Says what others could do, and how to end it.
fn exposed(path: &Path, mode: u32, fault: Fault) -> String {
    let (shown, is_dir) = (path.display(), path.is_dir());
    match fault {
        Fault::Foreign { user } => format!(
            "'{shown}' belongs to user {user}, who could change it: a secret has to be this user's or root's \
             (`chown` makes it so)"
        ),
        Fault::Writable if is_dir => format!(
            "the directory '{shown}' can be written by others (mode {mode:03o}), who could exchange the secrets in it: \
             run `chmod go-w '{shown}'`"
        ),
        Fault::Writable => {
            format!("'{shown}' can be written by others (mode {mode:03o}): run `chmod 600 '{shown}'`")
        }
        Fault::Readable => {
            format!("'{shown}' can be read by others (mode {mode:03o}): run `chmod 600 '{shown}'`")
        }
    }
}

/// The endpoint's key: the one in the data directory, or a new one that is kept there.
pub fn endpoint_key(data_dir: &Path) -> Result<SecretKey, IdentityError> {
    if let Some((key, _)) = existing_endpoint_key(data_dir, Mend::Ours)? {
        return Ok(key);
    }
    renew_endpoint_key(data_dir)
}

/// Puts another key in the place of the endpoint's key in a data directory. The former is not kept: any other machine that has it is that
/// endpoint from then on.
pub fn renew_endpoint_key(data_dir: &Path) -> Result<SecretKey, IdentityError> {
    let key = SecretKey::generate();
    let text = Zeroizing::new(HEXLOWER.encode(&key.to_bytes()));
    write_secret(&data_dir.join(KEY_FILE), &text)?;
    Ok(key)
}

/// As [`endpoint_key`], without making one; with what somebody should know of its permissions.
pub fn existing_endpoint_key(
    data_dir: &Path,
    mend: Mend,
) -> Result<Option<(SecretKey, Vec<String>)>, IdentityError> {
    let path = data_dir.join(KEY_FILE);
    let malformed = || IdentityError::MalformedKey { path: path.clone() };
    let kept = match read_secret(&path, Keeper::EndpointKey, mend) {
        Ok(Some(kept)) => kept,
        Ok(None) => return Ok(None),
        Err(IdentityError::Text { .. }) => return Err(malformed()),
        Err(error) => return Err(error),
    };
    let bytes = Zeroizing::new(HEXLOWER.decode(kept.text.as_bytes()).map_err(|_| malformed())?);
    let bytes: [u8; 32] = bytes.as_slice().try_into().map_err(|_| malformed())?;
    Ok(Some((SecretKey::from_bytes(&bytes), kept.remarks)))
}

/// Whether this data directory has been a node's.
pub fn has_endpoint_key(data_dir: &Path) -> bool {
    data_dir.join(KEY_FILE).exists()
}

/// 32 random bytes as text, for keys that only this machine's programs use.
pub fn random_token() -> Zeroizing<String> {
    let mut bytes: [u8; 32] = rand::random();
    let text = Zeroizing::new(HEXLOWER.encode(&bytes));
    bytes.zeroize();
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_endpoint_key_persists_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = endpoint_key(dir.path()).unwrap();
        assert_eq!(endpoint_key(dir.path()).unwrap().to_bytes(), first.to_bytes());
        let path = dir.path().join(KEY_FILE);
        assert_eq!(mode(&path), 0o600);
        for all in [0o644, 0o666] {
            set_mode(&path, all);
            let error = endpoint_key(dir.path()).unwrap_err();
            assert!(matches!(error, IdentityError::Exposed { .. }), "{error}");
        }
        for group in [0o640, 0o440, 0o660] {
            set_mode(&path, group);
            let (_, remarks) = existing_endpoint_key(dir.path(), Mend::Never).unwrap().unwrap();
            assert!(remarks[0].contains("secret.key"), "{remarks:?}");
            assert_eq!(mode(&path), group, "looking changes nothing");
            assert_eq!(endpoint_key(dir.path()).unwrap().to_bytes(), first.to_bytes());
            assert_eq!(mode(&path), 0o600);
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
