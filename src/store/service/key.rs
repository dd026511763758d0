//! The sync API key: where it is kept, and how one that is presented is compared.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use crate::identity::{self, IdentityError, Keeper, KeptSecret, Mend, TextFault};

pub const HEADER: &str = "X-Sync-Key";
/// The name of the key's file in a data directory.
pub const FILE_NAME: &str = "sync_api_key";

/// Why there is no key to work with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Its file cannot be read or written, others could read or change it, or it holds no secret.
    #[error(transparent)]
    Secret(#[from] IdentityError),
    /// Nothing, or characters that no header can carry.
    #[error("{place} holds no usable sync API key: it must be one line of visible ASCII characters{}", because(*fault))]
    Malformed {
        place: String,
        /// What is there instead, if it is no secret at all.
        fault: Option<TextFault>,
    },
}

fn because(fault: Option<TextFault>) -> String {
    fault.map(|fault| format!(" ({fault})")).unwrap_or_default()
}

/// Checks that `text` can be a key; `origin` names where it came from in the error.
pub fn parse(text: &str, origin: &str) -> Result<SecretString, KeyError> {
    let malformed = |fault| KeyError::Malformed { place: origin.to_owned(), fault };
    let key = identity::normal(identity::secret_in(text).map_err(|fault| malformed(Some(fault)))?);
    let usable = key.bytes().all(|byte| byte.is_ascii_graphic());
    if usable { Ok(key.as_str().into()) } else { Err(malformed(None)) }
}

/// The key in a file, and sentences about its permissions that somebody should know of.
pub type FoundKey = (SecretString, Vec<String>);

/// Reads the key in a file that a setting names.
pub fn read(path: &Path, mend: Mend) -> Result<FoundKey, KeyError> {
    found(path, identity::read_given(path, mend).map_err(failed)?)
}

/// Reads the key that this program made in its data directory; `None` if there is none.
pub fn read_if_there(path: &Path, mend: Mend) -> Result<Option<FoundKey>, KeyError> {
    let kept = identity::read_secret(path, Keeper::Node, mend).map_err(failed)?;
    kept.map(|kept| found(path, kept)).transpose()
}

/// Reads the key in `path`, or generates one there, readable by its owner alone. Says whether it is new.
pub fn read_or_generate(path: &Path) -> Result<(SecretString, bool), KeyError> {
    match read_if_there(path, Mend::Ours)? {
        Some((key, _)) => Ok((key, false)),
        None => Ok((generate(path)?, true)),
    }
}

fn found(path: &Path, kept: KeptSecret) -> Result<FoundKey, KeyError> {
    Ok((parse(&kept.text, &format!("'{}'", path.display()))?, kept.remarks))
}

fn failed(error: IdentityError) -> KeyError {
    if let IdentityError::Text { path, fault } = &error {
        return KeyError::Malformed { place: format!("'{}'", path.display()), fault: Some(*fault) };
    }
    KeyError::Secret(error)
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
    use std::os::unix::fs::PermissionsExt as _;

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
        assert!(matches!(read_or_generate(&path), Err(KeyError::Secret(IdentityError::Exposed { .. }))));
        let given = read(&path, Mend::Ours);
        assert!(matches!(given, Err(KeyError::Secret(IdentityError::Exposed { .. }))));
    }

    #[test]
    fn only_what_a_header_can_carry_is_a_key() {
        for bad in ["", "  \n", "two words", "é", "two\nlines", &"x".repeat(1025)] {
            assert!(parse(bad, "the test").is_err(), "{bad}");
        }
        for good in ["abc\n", "\u{feff} abc\r\n", "\u{ff41}\u{ff42}\u{ff43}"] {
            assert_eq!(parse(good, "the test").unwrap().expose_secret(), "abc");
        }
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
