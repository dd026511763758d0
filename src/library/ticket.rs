//! Tickets: the right to read, or to write into, one library. Pure.
//!
//! A ticket is a capability. Its claims (which library, which machine, until when) are signed by the library's key; the rest
//! (the read secret, the filter, where members can be reached) is covered by a digest among the claims, so that a member
//! can prove its claims in a session without showing the rest. With each ticket goes a key of its own, named by the claims:
//! its holder signs with it for one connection, so that nobody can use the claims that another member has shown. The text is
//! `canlib` and base32 in lower case, or all in upper case, which makes smaller QR codes. There is one text of each ticket:
//! anything changed is refused.

mod claims;
mod error;
pub mod fuzz;
mod naming;
#[cfg(test)]
mod tests;

use std::fmt;

use data_encoding::BASE32_NOPAD;
use ed25519_dalek::{Signer as _, SigningKey};
use iroh::EndpointAddr;
use iroh_tickets::endpoint::EndpointTicket;
use zeroize::Zeroizing;

pub use self::claims::{Access, CLAIMS_BYTES_MAX, CLOCKS_APART_MAX_MS, Claims, SignedClaims, Subject};
pub use self::error::TicketError;
pub use self::naming::{LibraryId, NAME_CHARS_MAX, NameError, TicketSerial, check_name};
use super::codec::{CodecError, RowReader, RowWriter};
use super::filter::Filter;
use crate::identity::{Key, LibraryKeys};

/// What the text begins with.
pub const PREFIX: &str = "canlib";
/// Of tickets whose sessions are proved with a key that comes from the read secret.
const VERSION: u8 = 1;
/// Of tickets that have that key, as of every epoch but the first.
const VERSION_WITH_KEY: u8 = 2;
/// The same two where the filter has a folder: versions from before folders would take it for one of everything.
const VERSION_OF_FOLDER: u8 = 3;
const VERSION_OF_FOLDER_WITH_KEY: u8 = 4;
/// Longest text that is looked at: a filter of 10,000 hashes fits.
pub const TEXT_BYTES_MAX: usize = 640 * 1024;
/// Most addresses in a ticket: the issuer's and those of a few members.
pub const ADDRS_MAX: usize = 4;
const ADDR_BYTES_MAX: usize = 2048;

const SIGNED: &[u8] = b"can-sync 2026 v2 library ticket";
/// Goes before everything that a holder's key signs, and it signs nothing else.
const HELD: &[u8] = b"held";
const HOLDER_CONTEXT: &str = "can-sync 2026 v2 library ticket, key of its holder";
const SEALING_CONTEXT: &str = "can-sync 2026 v3 library ticket, what seals for its holder";
const REST_CONTEXT: &str = "can-sync 2026 v2 library ticket, what its claims do not show";

/// What an owner decides about a new ticket; the fields are those of [`Claims`].
#[derive(Clone, Debug)]
pub struct Terms {
    pub name: String,
    pub access: Access,
    pub subject: Subject,
    pub not_before_ms: u64,
    pub expires_ms: Option<u64>,
    pub uses: u32,
    pub serial: u64,
    pub epoch: u64,
    pub held: (u64, u64),
    pub fresh_within_ms: u64,
}

impl Terms {
    /// Of the first epoch and with serial 0: any machine may use the ticket, at any time, and lists may have any age.
    pub fn unlimited(name: String, access: Access) -> Self {
        Self {
            name,
            access,
            subject: Subject::Bearer,
            not_before_ms: 0,
            expires_ms: None,
            uses: 0,
            serial: 0,
            epoch: 0,
            held: (0, 0),
            fresh_within_ms: 0,
        }
    }
}

/// A whole ticket. Anyone who has it can read the library.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    pub signed: SignedClaims,
    /// The secret half of the key that its claims name.
    holder: Zeroizing<[u8; 32]>,
    /// The library's read secret.
    pub secret: Zeroizing<[u8; 32]>,
    /// The key that proves membership in the epoch of the claims, where it does not come from the read secret.
    session: Option<Key>,
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
            .field("session", &self.session)
            .field("filter", &self.filter)
            .field("addrs", &self.addrs)
            .finish()
    }
}

impl Ticket {
    /// Issues a ticket of the library whose key is `key`.
    pub fn issue(
        key: &SigningKey,
        terms: Terms,
        secret: Zeroizing<[u8; 32]>,
        filter: Filter,
        addrs: Vec<EndpointAddr>,
    ) -> Result<Self, NameError> {
        Self::issue_with(key, terms, (secret, None), filter, addrs)
    }

    /// As [`Ticket::issue`], in an epoch that has a session key of its own.
    pub fn issue_with(
        key: &SigningKey,
        terms: Terms,
        (secret, session): (Zeroizing<[u8; 32]>, Option<Key>),
        filter: Filter,
        mut addrs: Vec<EndpointAddr>,
    ) -> Result<Self, NameError> {
        check_name(&terms.name)?;
        addrs.retain(|addr| EndpointTicket::new(addr.clone()).to_string().len() <= ADDR_BYTES_MAX);
        addrs.truncate(ADDRS_MAX);
        let Terms {
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
        } = terms;
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
            fresh_within_ms,
            holder: [0; 32],
            rest: [0; 32],
        };
        let holder = holder_of(key, &claims);
        claims.holder = SigningKey::from_bytes(&holder).verifying_key().to_bytes();
        let rest = rest(&holder, (&secret, session.as_ref()), &filter, &addrs);
        claims.rest = blake3::derive_key(REST_CONTEXT, &rest);
        let signature = key.sign(&[SIGNED, &claims.encode()].concat()).to_bytes();
        Ok(Self { signed: SignedClaims { claims, signature }, holder, secret, session, filter, addrs })
    }

    /// Proves to have the whole ticket where it is shown: `binding` names the peer that shows it, the one that it is shown to, and the one stream.
    pub fn prove(&self, binding: &[u8]) -> [u8; 64] {
        let signed = [HELD, &self.signed.digest(), binding].concat();
        SigningKey::from_bytes(&self.holder).sign(&signed).to_bytes()
    }

    /// The key that proves membership in a session, in the epoch of the claims.
    pub fn session_key(&self) -> Key {
        self.session.clone().unwrap_or_else(|| LibraryKeys::of_read_secret(&self.secret).auth().clone())
    }

    /// What seals for the ticket's holder; the library's owner keeps it.
    pub fn sealing_key(&self) -> Key {
        Key::of_bytes(blake3::derive_key(SEALING_CONTEXT, self.holder.as_slice()))
    }

    pub fn claims(&self) -> &Claims {
        &self.signed.claims
    }

    /// The text: a secret.
    pub fn to_text(&self) -> Zeroizing<String> {
        let rest = rest(&self.holder, (&self.secret, self.session.as_ref()), &self.filter, &self.addrs);
        let mut out = Zeroizing::new(Vec::with_capacity(rest.len() + CLAIMS_BYTES_MAX));
        let mut head = RowWriter::default();
        let version = match (self.filter.folder().is_some(), self.session.is_some()) {
            (false, false) => VERSION,
            (false, true) => VERSION_WITH_KEY,
            (true, false) => VERSION_OF_FOLDER,
            (true, true) => VERSION_OF_FOLDER_WITH_KEY,
        };
        head.u8(version).bytes(&self.signed.encode());
        out.extend_from_slice(&head.0);
        out.extend_from_slice(&rest);
        let encoded = Zeroizing::new(BASE32_NOPAD.encode(&out));
        Zeroizing::new(format!("{PREFIX}{}", encoded.to_ascii_lowercase()))
    }

    /// Reads a text and checks its signature; what depends on time, owner and place is for the caller to check.
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
        let mut from = RowReader::new(bytes);
        let version = from.u8()?;
        let (has_folder, has_key) = match version {
            VERSION => (false, false),
            VERSION_WITH_KEY => (false, true),
            VERSION_OF_FOLDER => (true, false),
            VERSION_OF_FOLDER_WITH_KEY => (true, true),
            version => return Err(TicketError::Version(version)),
        };
        let signed = SignedClaims::decode(from.bytes(CLAIMS_BYTES_MAX, "claims")?)?;
        let filter = Filter::decode(&mut from, has_folder)?;
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
        let session = if has_key { Some(Key::of_bytes(from.array()?)) } else { None };
        from.end()?;
        let rest = rest(&holder, (&secret, session.as_ref()), &filter, &addrs);
        let covered = blake3::derive_key(REST_CONTEXT, &rest);
        let public = SigningKey::from_bytes(&holder).verifying_key().to_bytes();
        if covered != signed.claims.rest || public != signed.claims.holder {
            return Err(TicketError::Signature);
        }
        Ok(Self { signed, holder, secret, session, filter, addrs })
    }
}

/// What the claims cover by a digest.
fn rest(
    holder: &[u8; 32],
    (secret, session): (&[u8; 32], Option<&Key>),
    filter: &Filter,
    addrs: &[EndpointAddr],
) -> Zeroizing<Vec<u8>> {
    let mut out = RowWriter::default();
    filter.encode(&mut out);
    out.count(addrs.len());
    for addr in addrs {
        out.text(&EndpointTicket::new(addr.clone()).to_string());
    }
    // The secrets last, so that no growing buffer leaves a copy of them behind.
    let mut rest = Zeroizing::new(Vec::with_capacity(out.0.len() + 3 * 32));
    rest.extend_from_slice(&out.0);
    rest.extend_from_slice(holder);
    rest.extend_from_slice(secret);
    if let Some(session) = session {
        rest.extend_from_slice(session.expose());
    }
    rest
}

/// The key that goes with a ticket: only the library's owner, who knows `key`, and the ticket itself have it.
fn holder_of(key: &SigningKey, claims: &Claims) -> Zeroizing<[u8; 32]> {
    let mut hasher = blake3::Hasher::new_derive_key(HOLDER_CONTEXT);
    hasher.update(Zeroizing::new(key.to_bytes()).as_slice()).update(&claims.encode());
    Zeroizing::new(*hasher.finalize().as_bytes())
}
