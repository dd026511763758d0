//! The passphrase: where it comes from, and whether it is one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use diceware_wordlists::EFF_LONG_WORDLIST;
use rand::seq::IndexedRandom as _;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::secret_text::{normal, secret_in};
use super::{IdentityError, Keeper, KeptSecret, Mend, read_given, read_secret, write_secret};

/// Words of a generated passphrase: 7 × log2(7,776) is about 90 bits.
const PASSPHRASE_WORDS: usize = 7;
/// Weakest passphrase that is taken without `allow_weak_passphrase`, in bits as zxcvbn estimates them. Slot keys are
/// published, so anyone who watches relays can guess offline.
pub(super) const PASSPHRASE_BITS_MIN: f64 = 50.0;
/// Where the data directory keeps the passphrase: the one that was made at the first start, or the one that a start was
/// given and that nobody else keeps.
pub const PASSPHRASE_FILE: &str = "passphrase";
/// Where the data directory keeps passphrases that others replaced, for a person to look up.
const FORMER_FILE: &str = "passphrase.former";
/// Says, in the data directory, that a person had the passphrase there made in place of another one.
const ROTATED_FILE: &str = "passphrase.rotated";
const FORMER_MAX: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassphraseOrigin {
    /// Setting `sync_passphrase`.
    Config,
    /// The file that `sync_passphrase_file` names.
    File,
    /// The data directory, where an earlier start put it.
    DataDir,
    Generated,
}

impl PassphraseOrigin {
    /// The word for it in `/status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::File => "file",
            Self::DataDir => "data_dir",
            Self::Generated => "generated",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Passphrase {
    pub secret: SecretString,
    pub origin: PassphraseOrigin,
    /// Sentences about permissions that somebody should know of.
    pub remarks: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
pub struct PassphraseSources<'a> {
    /// Setting `sync_passphrase`.
    pub configured: Option<&'a SecretString>,
    /// Setting `sync_passphrase_file`.
    pub file: Option<&'a Path>,
    pub data_dir: &'a Path,
}

impl PassphraseSources<'_> {
    /// The setting that decides.
    pub fn setting(&self) -> &'static str {
        match (self.configured, self.file) {
            (Some(_), _) => "sync_passphrase",
            (None, Some(_)) => "sync_passphrase_file",
            (None, None) => "data_dir",
        }
    }
}

impl Passphrase {
    /// The passphrase to use: the configured one, else the one in the configured file, else the one in the data directory.
    pub fn existing(sources: PassphraseSources<'_>, mend: Mend) -> Result<Option<Self>, IdentityError> {
        let PassphraseSources { configured, file, data_dir } = sources;
        let found = |kept: KeptSecret, origin| Self {
            secret: kept.text.as_str().into(),
            origin,
            remarks: kept.remarks,
        };
        if let Some(secret) = configured {
            let text = secret_in(secret.expose_secret()).map_err(IdentityError::Passphrase)?;
            let origin = PassphraseOrigin::Config;
            return Ok(Some(Self { secret: text.into(), origin, remarks: Vec::new() }));
        }
        if let Some(path) = file {
            return Ok(Some(found(read_given(path, mend)?, PassphraseOrigin::File)));
        }
        let kept = read_secret(&data_dir.join(PASSPHRASE_FILE), Keeper::Node, mend)?;
        Ok(kept.map(|kept| found(kept, PassphraseOrigin::DataDir)))
    }

    /// Makes one and keeps it in the data directory.
    pub fn generate(data_dir: &Path) -> Result<Self, IdentityError> {
        let generated = new_passphrase(&data_dir.join(PASSPHRASE_FILE))?;
        let secret = generated.as_str().into();
        Ok(Self { secret, origin: PassphraseOrigin::Generated, remarks: Vec::new() })
    }

    /// Whether it is hard enough to guess.
    pub fn check_strength(&self) -> Result<(), IdentityError> {
        let text = normal(self.secret.expose_secret());
        let bits = zxcvbn::zxcvbn(&text, &["can-sync"]).guesses_log10() * std::f64::consts::LOG2_10;
        if bits < PASSPHRASE_BITS_MIN {
            return Err(IdentityError::WeakPassphrase { bits });
        }
        Ok(())
    }
}

/// Whether a path stands for standard input, where a secret is named.
pub fn is_stdin(path: &Path) -> bool {
    path == Path::new("-") || path == Path::new("/dev/stdin")
}

/// Keeps a passphrase that a start was given in the data directory, so that the next start needs nothing. One that is there
/// and says something else is kept beside it. Says whether that was so.
pub fn keep_passphrase(data_dir: &Path, secret: &SecretString) -> Result<bool, IdentityError> {
    let path = data_dir.join(PASSPHRASE_FILE);
    let kept = read_secret(&path, Keeper::Node, Mend::Ours)?;
    let replaced = kept.filter(|kept| *normal(&kept.text) != *normal(secret.expose_secret()));
    if let Some(replaced) = &replaced {
        keep_former(data_dir, &replaced.text)?;
    }
    if replaced.is_some() || !path.exists() {
        write_secret(&path, secret.expose_secret())?;
    }
    Ok(replaced.is_some())
}

/// Adds a passphrase to the former ones, one on a line, the last one last.
fn keep_former(data_dir: &Path, text: &str) -> Result<(), IdentityError> {
    let path = data_dir.join(FORMER_FILE);
    let before = match fs::read_to_string(&path) {
        Ok(text) => Zeroizing::new(text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Zeroizing::default(),
        Err(source) => return Err(IdentityError::Io { action: "read", path, source }),
    };
    let others: Vec<&str> = before.lines().filter(|line| *line != text).collect();
    let newest = others.len().saturating_sub(FORMER_MAX - 1);
    let lines = others[newest..].iter().copied().chain([text]);
    write_secret(&path, &Zeroizing::new(lines.collect::<Vec<_>>().join("\n")))
}

/// Makes a new passphrase and keeps it in `path`, in place of whatever is there.
pub fn new_passphrase(path: &Path) -> Result<Zeroizing<String>, IdentityError> {
    let passphrase = generate_passphrase();
    write_secret(path, &passphrase)?;
    Ok(passphrase)
}

/// Makes a new passphrase for the data directory. From then on no start goes by another one without a word.
pub fn rotate_passphrase(data_dir: &Path) -> Result<Zeroizing<String>, IdentityError> {
    // First: a crash in between leaves a passphrase that is still the right one.
    write_secret(
        &data_dir.join(ROTATED_FILE),
        "`can-sync passphrase rotate` made the passphrase beside this file",
    )?;
    new_passphrase(&data_dir.join(PASSPHRASE_FILE))
}

/// The passphrase that [`rotate_passphrase`] made, and the file that says so.
pub fn rotated_passphrase(data_dir: &Path) -> Result<Option<(SecretString, PathBuf)>, IdentityError> {
    let mark = data_dir.join(ROTATED_FILE);
    if !mark.exists() {
        return Ok(None);
    }
    let kept = read_secret(&data_dir.join(PASSPHRASE_FILE), Keeper::Node, Mend::Never)?;
    Ok(kept.map(|kept| (kept.text.as_str().into(), mark)))
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
    use crate::identity::TextFault;

    fn existing(dir: &Path, configured: Option<&str>) -> Result<Option<Passphrase>, IdentityError> {
        let configured = configured.map(SecretString::from);
        let sources = PassphraseSources { configured: configured.as_ref(), file: None, data_dir: dir };
        Passphrase::existing(sources, Mend::Ours)
    }

    #[test]
    fn a_generated_passphrase_is_kept_and_strong() {
        let dir = tempfile::tempdir().unwrap();
        assert!(existing(dir.path(), None).unwrap().is_none());
        let first = Passphrase::generate(dir.path()).unwrap();
        first.check_strength().unwrap();
        let again = existing(dir.path(), None).unwrap().unwrap();
        assert_eq!(again.origin, PassphraseOrigin::DataDir);
        assert_eq!(again.secret.expose_secret(), first.secret.expose_secret());
        let configured = existing(dir.path(), Some("other words \n")).unwrap().unwrap();
        assert_eq!(configured.origin, PassphraseOrigin::Config);
        assert_eq!(configured.secret.expose_secret(), "other words");
    }

    #[test]
    fn a_passphrase_that_was_given_is_kept_and_loses_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        assert!(!keep_passphrase(dir.path(), &"\u{b4}first words ".into()).unwrap());
        let kept = existing(dir.path(), None).unwrap().unwrap();
        assert_eq!(normal(kept.secret.expose_secret()), normal("\u{b4}first words"));
        assert!(
            !keep_passphrase(dir.path(), &"\u{b4}\u{ff46}irst words".into()).unwrap(),
            "another spelling of it"
        );
        assert_eq!(file(FORMER_FILE), None);
        assert!(keep_passphrase(dir.path(), &"second words".into()).unwrap());
        assert_eq!(file(PASSPHRASE_FILE).unwrap(), "second words\n");
        assert_eq!(file(FORMER_FILE).unwrap(), "\u{b4}first words\n");
        assert!(keep_passphrase(dir.path(), &"third words".into()).unwrap());
        assert_eq!(file(FORMER_FILE).unwrap(), "\u{b4}first words\nsecond words\n");
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
        let strength = |text: &str| existing(dir.path(), Some(text)).unwrap().unwrap().check_strength();
        assert!(matches!(strength("hunter2"), Err(IdentityError::WeakPassphrase { .. })));
        // Letters that look long and count as seven.
        let wide = "\u{ff48}\u{ff55}\u{ff4e}\u{ff54}\u{ff45}\u{ff52}\u{ff12}";
        assert!(matches!(strength(wide), Err(IdentityError::WeakPassphrase { .. })));
        assert!(matches!(
            strength(" hunter2                              "),
            Err(IdentityError::WeakPassphrase { .. })
        ));
        for (text, expected) in [("  \r\n", TextFault::Empty), ("a\nb", TextFault::Control)] {
            let error = existing(dir.path(), Some(text)).unwrap_err();
            assert!(matches!(error, IdentityError::Passphrase(fault) if fault == expected), "{error}");
        }
        assert!(!dir.path().join(PASSPHRASE_FILE).exists());
    }
}
