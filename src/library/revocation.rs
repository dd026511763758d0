//! What a library's owner took back: a signed list that members pass on to each other. Pure.

use std::collections::BTreeSet;

use ed25519_dalek::{Signer as _, SigningKey};

use super::codec::{CodecError, Reader, Writer};
use super::epoch::{EPOCH_BYTES_MAX, Epoch};
use super::ticket::{LibraryId, TicketError};

/// Most serials in a list; an owner with more to revoke revokes all, which voids every ticket of the epochs before.
pub const SERIALS_MAX: usize = 4096;
/// Longest encoded list, in bytes.
pub const LIST_BYTES_MAX: usize = SERIALS_MAX * 8 + 256 + EPOCH_BYTES_MAX;

const SIGNED: &[u8] = b"can-sync 2026 v2 library revocations";
/// Of a list of the first epoch.
const VERSION: u8 = 1;
/// Of one that tells an epoch.
const VERSION_WITH_EPOCH: u8 = 2;

/// What is void.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Grows with each change: of two lists the greater one holds.
    pub version: u64,
    /// Tickets of epochs below this are void.
    pub min_epoch: u64,
    /// Tickets with these serials are void.
    pub serials: BTreeSet<u64>,
    /// The epoch that began with it, and its key for those whose tickets still hold.
    pub epoch: Epoch,
}

/// A list that the library signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRevocations {
    /// The list.
    pub list: Revocations,
    signature: [u8; 64],
}

impl Revocations {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        let tells_epoch = self.epoch.number > 0;
        let version = if tells_epoch { VERSION_WITH_EPOCH } else { VERSION };
        out.u8(version).u64(self.version).u64(self.min_epoch).count(self.serials.len());
        for serial in &self.serials {
            out.u64(*serial);
        }
        if tells_epoch {
            self.epoch.encode(&mut out);
        }
        out.0
    }
}

impl SignedRevocations {
    /// Signs a list with the library's key.
    #[must_use]
    pub fn sign(key: &SigningKey, list: Revocations) -> Self {
        let signature = key.sign(&[SIGNED, &list.encode()].concat()).to_bytes();
        Self { list, signature }
    }

    /// The bytes for the wire and the disk.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.list.encode();
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// Reads and verifies what [`SignedRevocations::encode`] wrote for this library.
    ///
    /// # Errors
    /// If it is anything else, or the library did not sign it.
    pub fn decode(library: LibraryId, bytes: &[u8]) -> Result<Self, TicketError> {
        if bytes.len() > LIST_BYTES_MAX {
            return Err(TicketError::TooLong(bytes.len()));
        }
        let (encoded, signature) = bytes.split_last_chunk::<64>().ok_or(CodecError::Truncated)?;
        if !library.verify(SIGNED, encoded, signature) {
            return Err(TicketError::Signature);
        }
        let mut from = Reader::new(encoded);
        let format = from.u8()?;
        if ![VERSION, VERSION_WITH_EPOCH].contains(&format) {
            return Err(TicketError::Version(format));
        }
        let (version, min_epoch) = (from.u64()?, from.u64()?);
        let count = from.count(SERIALS_MAX, "number of serials")?;
        let serials = (0..count).map(|_| from.u64()).collect::<Result<BTreeSet<_>, _>>()?;
        let epoch = if format == VERSION { Epoch::default() } else { Epoch::decode(&mut from)? };
        from.end()?;
        let list = Revocations { version, min_epoch, serials, epoch };
        Ok(Self { list, signature: *signature })
    }
}
