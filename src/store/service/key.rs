//! The sync API key: where it is kept, and how one that is presented is compared.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::identity::{self, IdentityError};

use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

/// The header that carries the key.
pub const HEADER: &str = "X-Sync-Key";
/// The name of the key's file in a data directory.
pub const FILE_NAME: &str = "sync_api_key";

/// Longest key that is accepted, in bytes.
const KEY_BYTES_MAX: u64 = 1024;

/// Why there is no key to work with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A new key could not be written.
    #[error(transparent)]
    Write(#[from] IdentityError),
    /// Not readable, not writable.
    #[error("cannot {action} the sync API key {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Others can read it.
    #[error("the sync API key {} can be read by other users: run `chmod 600` on it", .0.display())]
    Exposed(PathBuf),
    /// Empty, too long, or with characters that no header can carry.
    #[error(
        "{0} holds no usable sync API key: it must be one line of 1 to {KEY_BYTES_MAX} visible ASCII characters"
    )]
    Malformed(String),
}

/// Checks that `text` can be a key; `origin` names where it came from in the error.
///
/// # Errors
/// [`KeyError::Malformed`].
pub fn parse(text: &str, origin: &str) -> Result<SecretString, KeyError> {
    let key = text.trim();
    let usable = !key.is_empty()
        && key.len() as u64 <= KEY_BYTES_MAX
        && key.bytes().all(|byte| byte.is_ascii_graphic());
    if usable { Ok(key.into()) } else { Err(KeyError::Malformed(origin.to_owned())) }
}

/// Reads the key in `path`, which the user may have put there with permissions of their own.
///
/// # Errors
/// It cannot be read, or is no key.
pub fn read(path: &Path) -> Result<SecretString, KeyError> {
    let failed = |source| KeyError::Io { action: "read", path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    io::Read::read_to_string(&mut io::Read::take(file, KEY_BYTES_MAX + 2), &mut text).map_err(failed)?;
    parse(&text, &path.display().to_string())
}

/// Reads the key in `path`; `None` if there is no such file.
///
/// # Errors
/// It cannot be read, is no key, or others can read it.
pub fn read_if_there(path: &Path) -> Result<Option<SecretString>, KeyError> {
    match path.metadata() {
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => Err(KeyError::Exposed(path.to_owned())),
        Ok(_) => read(path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KeyError::Io { action: "read", path: path.to_owned(), source }),
    }
}

/// Reads the key in `path`, or generates one there, readable by its owner alone. Says whether it is new.
///
/// # Errors
/// It cannot be read or created, is no key, or others can read it.
pub fn read_or_generate(path: &Path) -> Result<(SecretString, bool), KeyError> {
    match read_if_there(path)? {
        Some(key) => Ok((key, false)),
        None => Ok((generate(path)?, true)),
    }
}

fn generate(path: &Path) -> Result<SecretString, KeyError> {
    let key = identity::random_token();
    identity::write_secret(path, &key)?;
    Ok(key.as_str().into())
}

/// Compares keys by their digests, so that neither content nor length shows in the time it takes.
pub(super) struct KeyCheck([u8; 32]);

impl KeyCheck {
    pub(super) fn new(key: &SecretString) -> Self {
        Self(digest(key.expose_secret().as_bytes()))
    }

    pub(super) fn accepts(&self, presented: &[u8]) -> bool {
        self.0.ct_eq(&digest(presented)).into()
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    *blake3::hash(key).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_is_private_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let (first, new) = read_or_generate(&path).unwrap();
        assert!(new);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let (second, new) = read_or_generate(&path).unwrap();
        assert!(!new);
        assert_eq!(first.expose_secret(), second.expose_secret());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        std::fs::write(&path, "secret").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read_or_generate(&path), Err(KeyError::Exposed(_))));
    }

    #[test]
    fn only_what_a_header_can_carry_is_a_key() {
        for bad in ["", "  \n", "two words", "é", &"x".repeat(1025)] {
            assert!(parse(bad, "the test").is_err(), "{bad}");
        }
        assert_eq!(parse("abc\n", "the test").unwrap().expose_secret(), "abc");
    }

    #[test]
    fn keys_compare_by_all_of_their_bytes() {
        let check = KeyCheck::new(&"secret".into());
        assert!(check.accepts(b"secret"));
        for wrong in [&b"secre"[..], b"secret ", b"", b"Secret"] {
            assert!(!check.accepts(wrong));
        }
    }
}
