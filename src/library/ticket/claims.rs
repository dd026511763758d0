//! What a ticket says, and how a member proves it without showing the rest.

use ed25519_dalek::SIGNATURE_LENGTH;
use iroh::EndpointId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{HELD, LibraryId, NAME_CHARS_MAX, SIGNED, TicketError, check_name};
use crate::library::codec::{CodecError, RowReader, RowWriter};
use crate::library::revocation::Revocations;

/// Longest claims, in bytes: far above what the fields allow.
pub const CLAIMS_BYTES_MAX: usize = 1024;
/// Of claims that set no limit to the age of lists of revoked tickets.
const VERSION: u8 = 1;
/// Of claims that set one.
const VERSION_WITH_LIMIT: u8 = 2;
/// How far the clocks of two honest machines may be apart.
pub const CLOCKS_APART_MAX_MS: u64 = 10 * 60 * 1000;

/// What a member may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Receive, and serve content to others.
    Read,
    /// Also add and edit.
    Write,
}

impl Access {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// The machines that a ticket lets in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// Any machine that has it.
    Bearer,
    Endpoint(EndpointId),
}

/// What a ticket says, and its signature covers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claims {
    pub library: LibraryId,
    /// What its owner calls it: for people.
    pub name: String,
    pub access: Access,
    pub subject: Subject,
    /// Milliseconds since the Unix epoch before which it is not valid.
    pub not_before_ms: u64,
    /// Milliseconds since the Unix epoch from which on it is not valid any more.
    pub expires_ms: Option<u64>,
    /// How many endpoints may use it; 0 for any number. Counted by the library's owner.
    pub uses: u32,
    /// Names it in the list of revocations.
    pub serial: u64,
    /// Tickets of an epoch below the library's are void.
    pub epoch: u64,
    /// How much was in the library when the ticket was issued: assets, and the sum of their sizes.
    pub held: (u64, u64),
    /// How old a list of revocations may become until records of members other than the owner wait for a newer one, in
    /// milliseconds; 0 for any age. Where there is no list, they wait as well.
    pub fresh_within_ms: u64,
    /// Public half of the key that is in the whole ticket.
    pub(super) holder: [u8; 32],
    /// Digest of what is not shown with the claims.
    pub(super) rest: [u8; 32],
}

impl Claims {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = RowWriter::default();
        let limited = self.fresh_within_ms > 0;
        // Claims without a limit are signed as they were before there were such.
        out.u8(if limited { VERSION_WITH_LIMIT } else { VERSION }).raw(&self.library.0).text(&self.name);
        out.u8(match self.access {
            Access::Read => 0,
            Access::Write => 1,
        });
        match &self.subject {
            Subject::Bearer => out.u8(0),
            Subject::Endpoint(id) => out.u8(1).raw(id.as_bytes()),
        };
        out.u64(self.not_before_ms);
        match self.expires_ms {
            None => out.u8(0),
            Some(at) => out.u8(1).u64(at),
        };
        out.u32(self.uses).u64(self.serial).u64(self.epoch).u64(self.held.0).u64(self.held.1);
        if limited {
            out.u64(self.fresh_within_ms);
        }
        out.raw(&self.holder).raw(&self.rest);
        out.0
    }

    /// Reads what [`Claims::encode`] wrote. Another version may look different altogether behind its number.
    fn read(from: &mut RowReader<'_>) -> Result<Self, TicketError> {
        let version = from.u8()?;
        if ![VERSION, VERSION_WITH_LIMIT].contains(&version) {
            return Err(TicketError::Version(version));
        }
        let library = LibraryId(from.array()?);
        let name = from.text(4 * NAME_CHARS_MAX, "name")?;
        if check_name(&name).is_err() {
            return Err(CodecError::Value("name").into());
        }
        let access = match from.u8()? {
            0 => Access::Read,
            1 => Access::Write,
            _ => return Err(CodecError::Value("access").into()),
        };
        let subject = match from.u8()? {
            0 => Subject::Bearer,
            1 => Subject::Endpoint(
                EndpointId::from_bytes(&from.array()?).map_err(|_| CodecError::Value("endpoint id"))?,
            ),
            _ => return Err(CodecError::Value("subject").into()),
        };
        let not_before_ms = from.u64()?;
        let expires_ms = match from.u8()? {
            0 => None,
            1 => Some(from.u64()?),
            _ => return Err(CodecError::Value("expiry").into()),
        };
        let (uses, serial, epoch) = (from.u32()?, from.u64()?, from.u64()?);
        let held = (from.u64()?, from.u64()?);
        let fresh_within_ms = if version == VERSION { 0 } else { from.u64()? };
        if version != VERSION && fresh_within_ms == 0 {
            return Err(CodecError::Value("age of lists").into());
        }
        let (holder, rest) = (from.array()?, from.array()?);
        Ok(Self {
            library,
            name,
            access,
            subject,
            not_before_ms,
            expires_ms,
            uses,
            serial,
            epoch,
            held,
            fresh_within_ms,
            holder,
            rest,
        })
    }

    /// Checks what depends on time alone. Clocks may be ten minutes apart: a ticket that was issued just now is valid
    /// for a clock that is behind. `leeway_ms` is what its end is extended by: nothing for the side that lets the other one in.
    pub fn check_time(&self, now_ms: u64, leeway_ms: u64) -> Result<(), TicketError> {
        if now_ms.saturating_add(CLOCKS_APART_MAX_MS) < self.not_before_ms {
            return Err(TicketError::NotYetValid { at: time(self.not_before_ms) });
        }
        match self.expires_ms {
            Some(at) if now_ms >= at.saturating_add(leeway_ms) => Err(TicketError::Expired { at: time(at) }),
            Some(_) | None => Ok(()),
        }
    }

    /// Checks whether `id` may use it.
    pub fn check_subject(&self, id: EndpointId) -> Result<(), TicketError> {
        match self.subject {
            Subject::Endpoint(subject) if subject != id => Err(TicketError::Subject(subject)),
            Subject::Endpoint(_) | Subject::Bearer => Ok(()),
        }
    }

    /// Checks that the library's owner did not take it back.
    pub fn check_revoked(&self, revocations: &Revocations) -> Result<(), TicketError> {
        if self.epoch < revocations.min_epoch {
            Err(TicketError::OldEpoch)
        } else if revocations.serials.contains(&self.serial) {
            Err(TicketError::Revoked(self.serial))
        } else {
            Ok(())
        }
    }

    /// Everything that can be checked of claims that `id` shows, except how often they were used. The library's owner
    /// needs no leave to its own library, but its claims must be its own as well.
    pub fn check(
        &self,
        library: LibraryId,
        id: EndpointId,
        revocations: &Revocations,
        now_ms: u64,
    ) -> Result<(), TicketError> {
        if self.library != library {
            return Err(TicketError::OtherLibrary);
        }
        self.check_subject(id)?;
        self.check_revoked(revocations)?;
        self.check_time(now_ms, 0)
    }
}

/// Claims with their signature: what a member shows in a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedClaims {
    pub claims: Claims,
    pub(super) signature: [u8; SIGNATURE_LENGTH],
}

impl SignedClaims {
    /// The bytes for the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.claims.encode();
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// Reads and verifies what [`SignedClaims::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, TicketError> {
        if bytes.len() > CLAIMS_BYTES_MAX {
            return Err(TicketError::TooLong(bytes.len()));
        }
        let mut from = RowReader::new(bytes);
        let claims = Claims::read(&mut from)?;
        let signature = from.array::<SIGNATURE_LENGTH>()?;
        from.end()?;
        if !claims.library.verify(SIGNED, &bytes[..bytes.len() - SIGNATURE_LENGTH], &signature) {
            return Err(TicketError::Signature);
        }
        Ok(Self { claims, signature })
    }

    /// Stands for all of them in what a holder signs.
    pub(super) fn digest(&self) -> [u8; 32] {
        *blake3::hash(&self.encode()).as_bytes()
    }

    /// Checks that the peer that shows the claims has the whole ticket: `proof` is what
    /// [`Ticket::prove`](super::Ticket::prove) made of the same `binding`.
    pub fn check_held(&self, binding: &[u8], proof: &[u8]) -> Result<(), TicketError> {
        let proof = proof.try_into().map_err(|_| TicketError::NotHeld)?;
        let signed = [&self.digest(), binding].concat();
        let held = LibraryId(self.claims.holder).verify(HELD, &signed, proof);
        if held { Ok(()) } else { Err(TicketError::NotHeld) }
    }
}

/// A time for people.
fn time(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| format!("{ms} ms"), |at| format!("{at:.0}"))
}
