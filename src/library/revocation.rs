//! What a library's owner took back: a signed list that members pass on to each other. Pure.

use std::collections::BTreeSet;

use ed25519_dalek::{Signer as _, SigningKey};

use super::codec::{CodecError, RowReader, RowWriter};
use super::epoch::{EPOCH_BYTES_MAX, Epoch};
use super::ticket::{LibraryId, TicketError};

/// Most serials in a list; an owner with more to revoke revokes all, which voids every ticket of the epochs before.
pub const SERIALS_MAX: usize = 4096;
/// Longest encoded list, in bytes.
pub const LIST_BYTES_MAX: usize = SERIALS_MAX * 8 + 256 + EPOCH_BYTES_MAX;
/// Shortest age that an owner can allow a list: a day without the owner is nothing unusual.
pub const FRESH_WITHIN_SECS_MIN: u64 = 24 * 3600;
/// Longest age that an owner can allow a list.
pub const FRESH_WITHIN_SECS_MAX: u64 = 365 * 24 * 3600;
/// How often the owner signs a list anew whose age is limited, at the least.
const SIGNED_ANEW_MS: u64 = 12 * 3600 * 1000;
/// A list that was signed so much later than now was signed while the owner's clock was wrong.
const AHEAD_MAX_MS: u64 = 10 * 60 * 1000;

pub(super) const SIGNED: &[u8] = b"can-sync 2026 v2 library revocations";
/// Of a list of the first epoch.
const VERSION: u8 = 1;
/// Of one that tells an epoch.
const VERSION_WITH_EPOCH: u8 = 2;
/// Of one that tells when it was signed.
const VERSION_WITH_DATE: u8 = 3;

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
    /// When it was signed, in milliseconds since the Unix epoch; 0 for lists that do not tell.
    pub signed_ms: u64,
    /// How old it may become until records of members other than the owner wait for a newer one, in milliseconds; 0 for any
    /// age.
    pub fresh_within_ms: u64,
}

/// A list that the library signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRevocations {
    pub list: Revocations,
    signature: [u8; 64],
}

/// What this node knows of the age of the list that it has, by its own clock: a list tells what its owner's showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListDates {
    pub received_ms: u64,
    /// When the owner itself last said that it is the newest; 0 if it never did.
    pub told_ms: u64,
}

impl ListDates {
    /// As of when a list that was signed at `signed_ms` says what was taken back, at `now_ms`; 0 if nothing tells.
    ///
    /// What the owner says counts from when it was said, for its clock may be behind. A list that was signed by a clock that is
    /// ahead of ours counts from when it came: it is not new for as long as that clock was ahead.
    fn as_of_ms(self, signed_ms: u64, now_ms: u64) -> u64 {
        let latest_ms = now_ms.saturating_add(AHEAD_MAX_MS);
        let signed = [signed_ms, self.received_ms].into_iter().find(|ms| *ms <= latest_ms);
        let told = Some(self.told_ms).filter(|ms| *ms <= latest_ms);
        signed.max(told).unwrap_or_default()
    }
}

/// How old a list is, and how old it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// How old a list may be, in milliseconds; 0 for any age.
    pub limit_ms: u64,
    /// How old the list is, in milliseconds; `None` where there is none.
    pub age_ms: Option<u64>,
}

impl Freshness {
    /// Of the list that is known since the moments in `dates`, where a ticket sets a limit, too (0 for none): the shorter one
    /// counts.
    pub fn of(list: Option<&Revocations>, dates: ListDates, by_ticket_ms: u64, now_ms: u64) -> Self {
        let limits = [list.map_or(0, |list| list.fresh_within_ms), by_ticket_ms];
        let limit_ms = limits.into_iter().filter(|limit_ms| *limit_ms > 0).min().unwrap_or_default();
        let age_ms = list.map(|list| now_ms.saturating_sub(dates.as_of_ms(list.signed_ms, now_ms)));
        Self { limit_ms, age_ms }
    }

    /// Whether it is older than it may be, or is missing.
    pub fn is_stale(&self) -> bool {
        self.limit_ms > 0 && self.age_ms.is_none_or(|age_ms| age_ms > self.limit_ms)
    }
}

impl Revocations {
    /// Whether its owner has to sign it anew at `now_ms`, long before members think it too old.
    pub fn is_due(&self, now_ms: u64) -> bool {
        let due_after = SIGNED_ANEW_MS.min(self.fresh_within_ms / 2);
        let of_wrong_clock = self.signed_ms > now_ms.saturating_add(AHEAD_MAX_MS);
        self.fresh_within_ms > 0 && (of_wrong_clock || now_ms.saturating_sub(self.signed_ms) >= due_after)
    }

    /// The same once more, dated `now_ms`.
    #[must_use]
    pub fn dated(self, now_ms: u64) -> Self {
        Self { version: self.version + 1, signed_ms: now_ms, ..self }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = RowWriter::default();
        let tells_date = self.signed_ms > 0 || self.fresh_within_ms > 0;
        let tells_epoch = self.epoch.number > 0 || tells_date;
        // What was signed before lists told more has to be encoded as it was.
        let version = match (tells_date, tells_epoch) {
            (true, _) => VERSION_WITH_DATE,
            (false, true) => VERSION_WITH_EPOCH,
            (false, false) => VERSION,
        };
        out.u8(version).u64(self.version).u64(self.min_epoch).count(self.serials.len());
        for serial in &self.serials {
            out.u64(*serial);
        }
        if tells_epoch {
            self.epoch.encode(&mut out);
        }
        if tells_date {
            out.u64(self.signed_ms).u64(self.fresh_within_ms);
        }
        out.0
    }
}

impl SignedRevocations {
    /// Signs a list with the library's key.
    pub fn sign(key: &SigningKey, list: Revocations) -> Self {
        let signature = key.sign(&[SIGNED, &list.encode()].concat()).to_bytes();
        Self { list, signature }
    }

    /// The bytes for the wire and the disk.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.list.encode();
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// Reads and verifies what [`SignedRevocations::encode`] wrote for this library.
    pub fn decode(library: LibraryId, bytes: &[u8]) -> Result<Self, TicketError> {
        if bytes.len() > LIST_BYTES_MAX {
            return Err(TicketError::TooLong(bytes.len()));
        }
        let (encoded, signature) = bytes.split_last_chunk::<64>().ok_or(CodecError::Truncated)?;
        if !library.verify(SIGNED, encoded, signature) {
            return Err(TicketError::Signature);
        }
        let mut from = RowReader::new(encoded);
        let format = from.u8()?;
        if ![VERSION, VERSION_WITH_EPOCH, VERSION_WITH_DATE].contains(&format) {
            return Err(TicketError::Version(format));
        }
        let (version, min_epoch) = (from.u64()?, from.u64()?);
        let count = from.count(SERIALS_MAX, "number of serials")?;
        let serials = (0..count).map(|_| from.u64()).collect::<Result<BTreeSet<_>, _>>()?;
        let epoch = if format == VERSION { Epoch::default() } else { Epoch::decode(&mut from)? };
        let (signed_ms, fresh_within_ms) = match format {
            VERSION_WITH_DATE => (from.u64()?, from.u64()?),
            _ => (0, 0),
        };
        from.end()?;
        if format == VERSION_WITH_DATE && signed_ms == 0 && fresh_within_ms == 0 {
            return Err(CodecError::Value("date").into());
        }
        let list = Revocations { version, min_epoch, serials, epoch, signed_ms, fresh_within_ms };
        // What is kept and passed on is encoded anew, and has to be what was signed.
        if list.encode() != encoded {
            return Err(CodecError::Value("order").into());
        }
        Ok(Self { list, signature: *signature })
    }
}

#[cfg(test)]
mod tests;
