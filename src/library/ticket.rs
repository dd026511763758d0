//! Tickets: the right to read, or to write into, one library. Pure.
//!
//! A ticket is a capability. Its claims (which library, for whom, until when) are signed by the library's key; the rest
//! (the read secret, the filter, where members can be reached) is covered by a digest among the claims, so that a member
//! can prove its claims in a session without showing the rest. With each ticket goes a key of its own, named by the claims:
//! its holder signs with it for one connection, so that nobody can use the claims that another member has shown. The text is `canlib` and base32 in lower case, or all in
//! upper case, which makes smaller QR codes. There is one text of each ticket: anything changed is refused.

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use iroh::{EndpointAddr, EndpointId};
use iroh_tickets::endpoint::EndpointTicket;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::codec::{CodecError, Reader, Writer};
use super::filter::Filter;
use super::revocation::Revocations;
use crate::record::ParseIdError;

/// What the text begins with.
pub const PREFIX: &str = "canlib";
/// The only version so far.
const VERSION: u8 = 1;
/// Longest text that is looked at: a filter of 10,000 hashes fits.
pub const TEXT_BYTES_MAX: usize = 640 * 1024;
/// Longest name of a library, in characters.
pub const NAME_CHARS_MAX: usize = 64;
/// Most addresses in a ticket: the issuer's and those of a few members.
pub const ADDRS_MAX: usize = 4;
/// Longest of them, in bytes.
const ADDR_BYTES_MAX: usize = 2048;
/// Longest claims, in bytes: far above what the fields allow.
pub const CLAIMS_BYTES_MAX: usize = 1024;
/// How far the clocks of two honest machines may be apart.
pub const CLOCKS_APART_MAX_MS: u64 = 10 * 60 * 1000;

const SIGNED: &[u8] = b"can-sync 2026 v2 library ticket";
const HELD: &[u8] = b"can-sync 2026 v2 library ticket, held by whoever shows it";
const HOLDER_CONTEXT: &str = "can-sync 2026 v2 library ticket, key of its holder";
const REST_CONTEXT: &str = "can-sync 2026 v2 library ticket, what its claims do not show";

/// A library: the public half of its ed25519 key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LibraryId(pub [u8; 32]);

impl LibraryId {
    /// The first ten hexadecimal digits.
    #[must_use]
    pub fn short(&self) -> String {
        crate::record::RecordId(self.0).short()
    }

    pub(super) fn verify(&self, context: &[u8], message: &[u8], signature: &[u8; 64]) -> bool {
        let signed = [context, message].concat();
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(&signed, &Signature::from_bytes(signature)).is_ok())
    }
}

impl fmt::Display for LibraryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::record::RecordId(self.0).fmt(f)
    }
}

impl fmt::Debug for LibraryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LibraryId({})", self.short())
    }
}

impl FromStr for LibraryId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<crate::record::RecordId>().map(|id| Self(id.0))
    }
}

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
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Whom a ticket lets in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// Whoever has it.
    Bearer,
    /// One endpoint.
    Endpoint(EndpointId),
}

/// What a ticket says, and its signature covers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claims {
    /// Which library.
    pub library: LibraryId,
    /// What its owner calls it: for people.
    pub name: String,
    /// What the member may do.
    pub access: Access,
    /// Who may use it.
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
    /// Public half of the key that whoever has the whole ticket holds.
    holder: [u8; 32],
    rest: [u8; 32],
}

/// Why a ticket is not accepted: the rule that it breaks, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Some other text.
    #[error(
        "that is no library ticket: one begins with '{PREFIX}'; copy all of what `can-sync library invite` printed"
    )]
    NotATicket,
    /// Longer than any ticket.
    #[error("the ticket has {0} bytes: none is longer than {TEXT_BYTES_MAX}")]
    TooLong(usize),
    /// Not base32.
    #[error("the ticket is damaged, for it has characters that no ticket has: copy it again, all of it")]
    Characters,
    /// Made by another version.
    #[error("the ticket is of version {0}, we know version {VERSION}: update can-sync")]
    Version(u8),
    /// Cut off, or something in it makes no sense.
    #[error("the ticket is damaged: {0}; copy it again, all of it")]
    Malformed(#[from] CodecError),
    /// Not signed by the library that it names.
    #[error("the ticket's signature does not match: it was altered; ask for another one")]
    Signature,
    /// Claims that were seen, and not held.
    #[error(
        "the ticket was shown without a proof of having it: update can-sync on the machine that shows it"
    )]
    NotHeld,
    /// Too early.
    #[error("the ticket is not valid before {at}: wait, or check this machine's clock")]
    NotYetValid {
        /// When it is, RFC 3339.
        at: String,
    },
    /// Too late.
    #[error("the ticket expired at {at}: ask for another one")]
    Expired {
        /// When it did, RFC 3339.
        at: String,
    },
    /// Issued to somebody else.
    #[error(
        "the ticket is for the endpoint {0} alone: ask for one for this machine, whose id `can-sync id` prints"
    )]
    Subject(EndpointId),
    /// Taken back.
    #[error("the ticket (serial {0}) was revoked: ask the library's owner for another one")]
    Revoked(u64),
    /// Taken back together with all others of its time.
    #[error(
        "the ticket was revoked together with all that were issued before: ask the library's owner for another one"
    )]
    OldEpoch,
    /// Used by as many endpoints as it may.
    #[error("the ticket was used as often as it may be ({0}): ask for another one")]
    Spent(u32),
    /// Of a library whose key we do not know, or not one that its owner gave out.
    #[error("the ticket is for another library")]
    OtherLibrary,
    /// Limited in its uses and shown to somebody who does not count them.
    #[error(
        "the ticket may be used a limited number of times, which its issuer counts: connect to the issuer first"
    )]
    NeedsIssuer,
}

/// A time for people.
fn time(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| format!("{ms} ms"), |at| format!("{at:.0}"))
}

impl Claims {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u8(VERSION).raw(&self.library.0).text(&self.name);
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
        out.raw(&self.holder).raw(&self.rest);
        out.0
    }

    fn decode(bytes: &[u8]) -> Result<Self, TicketError> {
        let mut from = Reader::new(bytes);
        let version = from.u8()?;
        if version != VERSION {
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
        let (held, holder, rest) = ((from.u64()?, from.u64()?), from.array()?, from.array()?);
        from.end()?;
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
            holder,
            rest,
        })
    }

    /// Checks what depends on time alone. Clocks may be ten minutes apart: a ticket that was issued just now is valid
    /// for a clock that is behind. `leeway_ms` is what its end is extended by: nothing for whoever lets others in.
    ///
    /// # Errors
    /// [`TicketError::NotYetValid`], [`TicketError::Expired`].
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
    ///
    /// # Errors
    /// [`TicketError::Subject`].
    pub fn check_subject(&self, id: EndpointId) -> Result<(), TicketError> {
        match self.subject {
            Subject::Endpoint(subject) if subject != id => Err(TicketError::Subject(subject)),
            Subject::Endpoint(_) | Subject::Bearer => Ok(()),
        }
    }

    /// Checks that the library's owner did not take it back.
    ///
    /// # Errors
    /// [`TicketError::Revoked`], [`TicketError::OldEpoch`].
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
    ///
    /// # Errors
    /// The first rule that is broken.
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

/// Why a library cannot be called so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing.
    #[error("a library needs a name")]
    Empty,
    /// Too much.
    #[error("the library's name has {0} characters: at most {NAME_CHARS_MAX}")]
    TooLong(usize),
    /// No text.
    #[error("the library's name has control characters, or spaces at its ends: write it without")]
    Control,
}

/// Checks a library's name.
///
/// # Errors
/// The rule that it breaks.
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

/// Claims with their signature: what a member shows in a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedClaims {
    /// What is claimed.
    pub claims: Claims,
    signature: [u8; 64],
}

impl SignedClaims {
    /// The bytes for the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.claims.encode();
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// Reads and verifies what [`SignedClaims::encode`] wrote.
    ///
    /// # Errors
    /// If it is anything else, or the library did not sign it.
    pub fn decode(bytes: &[u8]) -> Result<Self, TicketError> {
        if bytes.len() > CLAIMS_BYTES_MAX {
            return Err(TicketError::TooLong(bytes.len()));
        }
        // The version first: another one may look different altogether.
        match bytes.first() {
            Some(&version) if version != VERSION => return Err(TicketError::Version(version)),
            Some(_) => {}
            None => return Err(CodecError::Truncated.into()),
        }
        let (claims, signature) = bytes.split_last_chunk::<64>().ok_or(CodecError::Truncated)?;
        let decoded = Claims::decode(claims)?;
        if !decoded.library.verify(SIGNED, claims, signature) {
            return Err(TicketError::Signature);
        }
        Ok(Self { claims: decoded, signature: *signature })
    }

    /// Checks that whoever shows the claims has the whole ticket: `proof` is what [`Ticket::prove`] made of the same
    /// `binding`.
    ///
    /// # Errors
    /// [`TicketError::NotHeld`].
    pub fn check_held(&self, binding: &[u8], proof: &[u8]) -> Result<(), TicketError> {
        let proof = proof.try_into().map_err(|_| TicketError::NotHeld)?;
        let held = LibraryId(self.claims.holder).verify(HELD, binding, proof);
        if held { Ok(()) } else { Err(TicketError::NotHeld) }
    }
}

/// What an owner decides about a new ticket.
#[derive(Clone, Debug)]
pub struct Terms {
    /// See [`Claims::name`].
    pub name: String,
    /// See [`Claims::access`].
    pub access: Access,
    /// See [`Claims::subject`].
    pub subject: Subject,
    /// See [`Claims::not_before_ms`].
    pub not_before_ms: u64,
    /// See [`Claims::expires_ms`].
    pub expires_ms: Option<u64>,
    /// See [`Claims::uses`].
    pub uses: u32,
    /// See [`Claims::serial`].
    pub serial: u64,
    /// See [`Claims::epoch`].
    pub epoch: u64,
    /// See [`Claims::held`].
    pub held: (u64, u64),
}

/// A whole ticket. Whoever has it can read the library.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// What it proves.
    pub signed: SignedClaims,
    /// The secret half of the key that its claims name.
    holder: Zeroizing<[u8; 32]>,
    /// The library's read secret.
    pub secret: Zeroizing<[u8; 32]>,
    /// What belongs to the library.
    pub filter: Filter,
    /// Where the issuer and a few members can be reached.
    pub addrs: Vec<EndpointAddr>,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("claims", &self.signed.claims)
            .field("holder", &"redacted")
            .field("secret", &"redacted")
            .field("filter", &self.filter)
            .field("addrs", &self.addrs)
            .finish()
    }
}

/// What the claims cover by a digest.
fn rest(holder: &[u8; 32], secret: &[u8; 32], filter: &Filter, addrs: &[EndpointAddr]) -> Zeroizing<Vec<u8>> {
    let mut out = Writer::default();
    filter.encode(&mut out);
    out.count(addrs.len());
    for addr in addrs {
        out.text(&EndpointTicket::new(addr.clone()).to_string());
    }
    // The secrets last, so that no growing buffer leaves a copy of them behind.
    let mut rest = Zeroizing::new(Vec::with_capacity(out.0.len() + holder.len() + secret.len()));
    rest.extend_from_slice(&out.0);
    rest.extend_from_slice(holder);
    rest.extend_from_slice(secret);
    rest
}

/// The key that goes with a ticket: only the library's owner, who knows `key`, and the ticket itself have it.
fn holder_of(key: &SigningKey, claims: &Claims) -> Zeroizing<[u8; 32]> {
    let mut hasher = blake3::Hasher::new_derive_key(HOLDER_CONTEXT);
    hasher.update(Zeroizing::new(key.to_bytes()).as_slice()).update(&claims.encode());
    Zeroizing::new(*hasher.finalize().as_bytes())
}

impl Ticket {
    /// Issues a ticket of the library whose key is `key`.
    ///
    /// # Errors
    /// If the name breaks its rules.
    pub fn issue(
        key: &SigningKey,
        terms: Terms,
        secret: Zeroizing<[u8; 32]>,
        filter: Filter,
        mut addrs: Vec<EndpointAddr>,
    ) -> Result<Self, NameError> {
        check_name(&terms.name)?;
        addrs.retain(|addr| EndpointTicket::new(addr.clone()).to_string().len() <= ADDR_BYTES_MAX);
        addrs.truncate(ADDRS_MAX);
        let Terms { name, access, subject, not_before_ms, expires_ms, uses, serial, epoch, held } = terms;
        let library = LibraryId(key.verifying_key().to_bytes());
        let mut claims = Claims {
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
            holder: [0; 32],
            rest: [0; 32],
        };
        let holder = holder_of(key, &claims);
        claims.holder = SigningKey::from_bytes(&holder).verifying_key().to_bytes();
        claims.rest = blake3::derive_key(REST_CONTEXT, &rest(&holder, &secret, &filter, &addrs));
        let signature = key.sign(&[SIGNED, &claims.encode()].concat()).to_bytes();
        Ok(Self { signed: SignedClaims { claims, signature }, holder, secret, filter, addrs })
    }

    /// Proves to have the whole ticket where it is shown; `binding` is of that connection alone.
    #[must_use]
    pub fn prove(&self, binding: &[u8]) -> [u8; 64] {
        SigningKey::from_bytes(&self.holder).sign(&[HELD, binding].concat()).to_bytes()
    }

    /// What it claims.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.signed.claims
    }

    /// The text: a secret.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let rest = rest(&self.holder, &self.secret, &self.filter, &self.addrs);
        let mut out = Zeroizing::new(Vec::with_capacity(rest.len() + CLAIMS_BYTES_MAX));
        let mut head = Writer::default();
        head.u8(VERSION).bytes(&self.signed.encode());
        out.extend_from_slice(&head.0);
        out.extend_from_slice(&rest);
        let encoded = Zeroizing::new(BASE32_NOPAD.encode(&out));
        Zeroizing::new(format!("{PREFIX}{}", encoded.to_ascii_lowercase()))
    }

    /// Reads a text and checks its signature; what depends on time, owner and place is for the caller to check.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        if text.len() > TEXT_BYTES_MAX {
            return Err(TicketError::TooLong(text.len()));
        }
        let upper = if text.bytes().any(|b| b.is_ascii_lowercase()) {
            if text.bytes().any(|b| b.is_ascii_uppercase()) {
                return Err(if text.to_ascii_lowercase().starts_with(PREFIX) {
                    TicketError::Characters
                } else {
                    TicketError::NotATicket
                });
            }
            Zeroizing::new(text.to_ascii_uppercase())
        } else {
            Zeroizing::new(text.to_owned())
        };
        let encoded = upper.strip_prefix("CANLIB").ok_or(TicketError::NotATicket)?;
        let bytes =
            Zeroizing::new(BASE32_NOPAD.decode(encoded.as_bytes()).map_err(|_| TicketError::Characters)?);
        Self::decode(&bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Self, TicketError> {
        let mut from = Reader::new(bytes);
        let version = from.u8()?;
        if version != VERSION {
            return Err(TicketError::Version(version));
        }
        let signed = SignedClaims::decode(from.bytes(CLAIMS_BYTES_MAX, "claims")?)?;
        let filter = Filter::decode(&mut from)?;
        let count = from.count(ADDRS_MAX, "number of addresses")?;
        let mut addrs = Vec::with_capacity(count);
        for _ in 0..count {
            let text = from.text(ADDR_BYTES_MAX, "address")?;
            let ticket: EndpointTicket = text.parse().map_err(|_| CodecError::Value("address"))?;
            // The digest is over what we would write, so anything else must not be read.
            if ticket.to_string() != text {
                return Err(CodecError::Value("address").into());
            }
            addrs.push(ticket.into());
        }
        let (holder, secret) = (Zeroizing::new(from.array()?), Zeroizing::new(from.array()?));
        from.end()?;
        let covered = blake3::derive_key(REST_CONTEXT, &rest(&holder, &secret, &filter, &addrs));
        let public = SigningKey::from_bytes(&holder).verifying_key().to_bytes();
        if covered != signed.claims.rest || public != signed.claims.holder {
            return Err(TicketError::Signature);
        }
        Ok(Self { signed, holder, secret, filter, addrs })
    }
}
