//! What a library is called: its id for machines, its name for people.

use ed25519_dalek::{Signature, VerifyingKey};

pub use crate::record::LibraryId;

/// Longest name of a library, in characters.
pub const NAME_CHARS_MAX: usize = 64;

/// A ticket, by what revocations name it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TicketSerial {
    pub library: LibraryId,
    pub serial: u64,
}

impl LibraryId {
    pub(in crate::library) fn verify(&self, context: &[u8], message: &[u8], signature: &[u8; 64]) -> bool {
        let signed = [context, message].concat();
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(&signed, &Signature::from_bytes(signature)).is_ok())
    }
}

/// Why a library cannot be called so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a library needs a name")]
    Empty,
    #[error("the library's name has {0} characters: at most {NAME_CHARS_MAX}")]
    TooLong(usize),
    #[error("the library's name has control characters, or spaces at its ends: write it without")]
    Control,
}

pub fn check_name(name: &str) -> Result<(), NameError> {
    let chars = name.chars().count();
    if name.trim().is_empty() {
        Err(NameError::Empty)
    } else if chars > NAME_CHARS_MAX {
        Err(NameError::TooLong(chars))
    } else if name.trim() != name || name.chars().any(char::is_control) {
        Err(NameError::Control)
    } else {
        Ok(())
    }
}
