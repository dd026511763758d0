//! What an agent says of itself to its network, signed with its endpoint key. Pure.
//!
//! An announcement travels through agents that did not write it, so nothing of it counts before its signature was checked:
//! [`Unverified`] shows only what is needed to drop a flood without that work, [`Signed`] is what is believed. A signature
//! says who wrote it; it does not say that the author belongs to our network, which only a session or a question does.

use std::net::SocketAddr;

use bytes::Bytes;
use iroh::{EndpointAddr, EndpointId, RelayUrl, SecretKey, Signature, TransportAddr};
use prost::Message as _;

use crate::text::is_hazard;
use crate::wire::decode::{ANNOUNCED_ADDRS_MAX, DecodeError, decode};
use crate::wire::proto::{SignedAnnouncement, WireAnnouncement};

/// Longest encoded announcement. Gossip's messages hold 4,096 bytes with their framing, and larger ones vanish without a word.
pub const ANNOUNCEMENT_BYTES_MAX: usize = 3584;
pub const NAME_CHARS_MAX: usize = 64;
pub const ADDRS_MAX: usize = ANNOUNCED_ADDRS_MAX;
const VERSION_CHARS_MAX: usize = 32;
const RELAY_URL_BYTES_MAX: usize = 512;
/// What a signature is made over begins with this, so that it can never be taken for a signature of something else.
const DOMAIN: &[u8] = b"can-sync announcement v1";

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnouncementError {
    #[error("an announcement has {0} bytes; {ANNOUNCEMENT_BYTES_MAX} are the most")]
    TooLong(usize),
    #[error("an announcement cannot be read")]
    Malformed,
    /// Signed by nobody, or by somebody else than it names, or altered.
    #[error("an announcement is not signed by the agent that it names")]
    Signature,
    /// A field that no honest author writes.
    #[error("the {0} of an announcement is not acceptable")]
    Field(&'static str),
}

impl From<DecodeError> for AnnouncementError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::TooMany { .. } => Self::Field("number of addresses"),
            DecodeError::Malformed(_) => Self::Malformed,
        }
    }
}

/// What an agent says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub id: EndpointId,
    /// What it calls itself: printable, at most 64 characters.
    pub name: String,
    /// Live assets whose contents are held.
    pub assets: u64,
    pub total_bytes: u64,
    /// Of all records of the mirror.
    pub fingerprint: [u8; 16],
    /// Milliseconds since the Unix epoch, by the author's clock.
    pub timestamp_ms: u64,
    /// Chosen at random when the author started.
    pub boot_id: u64,
    /// Rises with each announcement since then.
    pub counter: u64,
    /// Where it listens; at most 16.
    pub addrs: Vec<SocketAddr>,
    pub relay_url: Option<RelayUrl>,
    /// Its version: printable, at most 32 characters.
    pub version: String,
}

/// An announcement whose signature and fields were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    pub announcement: Announcement,
    /// As its author signed it: an encoded [`SignedAnnouncement`] and nothing else, to be passed on.
    pub bytes: Bytes,
}

/// An announcement that may come from anybody.
#[derive(Clone, Debug)]
pub struct Unverified {
    claims: WireAnnouncement,
    id: EndpointId,
    envelope: SignedAnnouncement,
}

impl Announcement {
    /// Signed with the author's key, as it travels. What would not fit is left out: characters of a name beyond the 64th,
    /// those that cannot be printed, addresses beyond the 16th, a relay with an endless URL.
    pub fn sign(&self, key: &SecretKey) -> Bytes {
        let relay_url = self.relay_url.as_ref().map(ToString::to_string);
        let wire = WireAnnouncement {
            endpoint_id: key.public().as_bytes().to_vec().into(),
            name: printable(&self.name, NAME_CHARS_MAX),
            asset_count: self.assets,
            total_bytes: self.total_bytes,
            root_fingerprint: self.fingerprint.to_vec().into(),
            timestamp_ms: self.timestamp_ms,
            boot_id: self.boot_id,
            counter: self.counter,
            addrs: self.addrs.iter().take(ADDRS_MAX).map(ToString::to_string).collect(),
            relay_url: relay_url.filter(|url| url.len() <= RELAY_URL_BYTES_MAX).unwrap_or_default(),
            version: printable(&self.version, VERSION_CHARS_MAX),
        };
        let announcement = wire.encode_to_vec();
        let signature = key.sign(&signed_part(&announcement)).to_bytes().to_vec();
        SignedAnnouncement { announcement: announcement.into(), signature: signature.into() }
            .encode_to_vec()
            .into()
    }

    /// Whether `other` says the same of who the agent is and where, whatever it holds.
    pub fn is_same_agent_as(&self, other: &Self) -> bool {
        let Self { assets, total_bytes, fingerprint, timestamp_ms, boot_id, counter, .. } = *other;
        Self { assets, total_bytes, fingerprint, timestamp_ms, boot_id, counter, ..self.clone() } == *other
    }

    /// Whether `other` says the same of what the agent holds.
    pub fn holds_as_much_as(&self, other: &Self) -> bool {
        let held = |of: &Self| (of.assets, of.total_bytes, of.fingerprint);
        held(self) == held(other)
    }

    /// Its place among its author's.
    pub fn mark(&self) -> Mark {
        Mark { timestamp_ms: self.timestamp_ms, boot_id: self.boot_id, counter: self.counter }
    }

    /// Where it says it can be reached.
    pub fn addr(&self) -> EndpointAddr {
        let ips = self.addrs.iter().copied().map(TransportAddr::Ip);
        EndpointAddr::from_parts(self.id, ips.chain(self.relay_url.clone().map(TransportAddr::Relay)))
    }
}

impl Unverified {
    /// Reads what came from outside, without any work that is worth provoking.
    pub fn read(bytes: &Bytes) -> Result<Self, AnnouncementError> {
        if bytes.len() > ANNOUNCEMENT_BYTES_MAX {
            return Err(AnnouncementError::TooLong(bytes.len()));
        }
        let envelope: SignedAnnouncement = decode(bytes.clone())?;
        let claims: WireAnnouncement = decode(envelope.announcement.clone())?;
        let id: [u8; 32] =
            claims.endpoint_id.as_ref().try_into().map_err(|_| AnnouncementError::Malformed)?;
        let id = EndpointId::from_bytes(&id).map_err(|_| AnnouncementError::Malformed)?;
        Ok(Self { claims, id, envelope })
    }

    /// Who is said to have written it.
    pub fn author(&self) -> EndpointId {
        self.id
    }

    /// What it says of its place among its author's announcements.
    pub fn mark(&self) -> Mark {
        let WireAnnouncement { timestamp_ms, boot_id, counter, .. } = self.claims;
        Mark { timestamp_ms, boot_id, counter }
    }

    /// Checks the signature, then every field.
    pub fn verify(self) -> Result<Signed, AnnouncementError> {
        let Self { claims, id, envelope } = self;
        let signature: [u8; Signature::LENGTH] =
            envelope.signature.as_ref().try_into().map_err(|_| AnnouncementError::Signature)?;
        id.verify(&signed_part(&envelope.announcement), &Signature::from_bytes(&signature))
            .map_err(|_| AnnouncementError::Signature)?;
        let announcement = check(id, claims)?;
        // Encoded anew: what somebody on the way put around it is not passed on.
        Ok(Signed { announcement, bytes: envelope.encode_to_vec().into() })
    }
}

/// Where an announcement stands among its author's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// When it was written, by the author's clock.
    pub timestamp_ms: u64,
    pub boot_id: u64,
    /// Which one within that.
    pub counter: u64,
}

impl Mark {
    /// Whether it was written after `last`: later in the same run, or in another run at a later time.
    pub fn is_after(&self, last: &Self) -> bool {
        if self.boot_id == last.boot_id {
            self.counter > last.counter
        } else {
            self.timestamp_ms > last.timestamp_ms
        }
    }
}

/// Reads and checks an announcement from outside.
pub fn verify(bytes: &Bytes) -> Result<Signed, AnnouncementError> {
    Unverified::read(bytes)?.verify()
}

/// What of `text` can be shown, at most `chars_max` characters.
pub(crate) fn printable(text: &str, chars_max: usize) -> String {
    text.chars().filter(|c| !is_hazard(*c)).take(chars_max).collect()
}

fn is_text(text: &str, chars_max: usize) -> bool {
    !text.contains(is_hazard) && text.chars().count() <= chars_max
}

fn signed_part(announcement: &[u8]) -> Vec<u8> {
    [DOMAIN, announcement].concat()
}

fn check(id: EndpointId, claims: WireAnnouncement) -> Result<Announcement, AnnouncementError> {
    let field = AnnouncementError::Field;
    if !is_text(&claims.name, NAME_CHARS_MAX) {
        return Err(field("name"));
    }
    if !is_text(&claims.version, VERSION_CHARS_MAX) {
        return Err(field("version"));
    }
    let fingerprint = claims.root_fingerprint.as_ref().try_into().map_err(|_| field("fingerprint"))?;
    let addrs = claims.addrs.iter().map(|addr| addr.parse::<SocketAddr>());
    let addrs: Vec<SocketAddr> = addrs.collect::<Result<_, _>>().map_err(|_| field("address"))?;
    if claims.relay_url.len() > RELAY_URL_BYTES_MAX {
        return Err(field("relay"));
    }
    let relay_url = Some(claims.relay_url).filter(|url| !url.is_empty());
    let relay_url = relay_url.map(|url| url.parse()).transpose().map_err(|_| field("relay"))?;
    Ok(Announcement {
        id,
        name: claims.name,
        assets: claims.asset_count,
        total_bytes: claims.total_bytes,
        fingerprint,
        timestamp_ms: claims.timestamp_ms,
        boot_id: claims.boot_id,
        counter: claims.counter,
        // Nobody can be reached at these, and dialling them may hit ourselves or a whole network.
        addrs: addrs.into_iter().filter(is_dialable).collect(),
        relay_url,
        version: claims.version,
    })
}

/// Whether a connection to this address can be meant.
pub(super) fn is_dialable(addr: &SocketAddr) -> bool {
    addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast()
}

#[cfg(test)]
mod tests;
