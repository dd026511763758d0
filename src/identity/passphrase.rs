//! The passphrase: where it comes from, and whether it is one.

use std::fmt;
use std::io;
use std::path::Path;

use diceware_wordlists::EFF_LONG_WORDLIST;
use rand::seq::IndexedRandom as _;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::{IdentityError, read_secret, write_secret};

/// Words of a generated passphrase: 7 × log2(7,776) is about 90 bits.
const PASSPHRASE_WORDS: usize = 7;
/// Weakest passphrase that is taken without `allow_weak_passphrase`, in bits as zxcvbn estimates them. Slot keys are
/// published, so anyone who watches relays can guess offline.
pub(super) const PASSPHRASE_BITS_MIN: f64 = 50.0;
/// Longest passphrase in bytes; far beyond any use, it bounds the work of the strength estimate.
pub(super) const PASSPHRASE_BYTES_MAX: usize = 1024;
/// Where the data directory keeps the passphrase that was made at the first start.
pub const PASSPHRASE_FILE: &str = "passphrase";

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

#[cfg(test)]
mod tests {
    use super::*;

    fn load(dir: &Path, configured: Option<&str>, weak: bool) -> Result<Passphrase, IdentityError> {
        Passphrase::load(configured.map(SecretString::from).as_ref(), None, dir, weak)
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
}
