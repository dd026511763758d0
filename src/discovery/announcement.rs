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

/// Why an announcement is not believed.
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
    #[must_use]
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
    #[must_use]
    pub fn is_same_agent_as(&self, other: &Self) -> bool {
        let Self { assets, total_bytes, fingerprint, timestamp_ms, boot_id, counter, .. } = *other;
        Self { assets, total_bytes, fingerprint, timestamp_ms, boot_id, counter, ..self.clone() } == *other
    }

    /// Whether `other` says the same of what the agent holds.
    #[must_use]
    pub fn holds_as_much_as(&self, other: &Self) -> bool {
        let held = |of: &Self| (of.assets, of.total_bytes, of.fingerprint);
        held(self) == held(other)
    }

    /// Its place among its author's.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { timestamp_ms: self.timestamp_ms, boot_id: self.boot_id, counter: self.counter }
    }

    /// Where it says it can be reached.
    #[must_use]
    pub fn addr(&self) -> EndpointAddr {
        let ips = self.addrs.iter().copied().map(TransportAddr::Ip);
        EndpointAddr::from_parts(self.id, ips.chain(self.relay_url.clone().map(TransportAddr::Relay)))
    }
}

impl Unverified {
    /// Reads what came from outside, without any work that is worth provoking.
    ///
    /// # Errors
    /// If it is too long, or no announcement.
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
    #[must_use]
    pub fn author(&self) -> EndpointId {
        self.id
    }

    /// What it says of its place among its author's announcements.
    #[must_use]
    pub fn mark(&self) -> Mark {
        let WireAnnouncement { timestamp_ms, boot_id, counter, .. } = self.claims;
        Mark { timestamp_ms, boot_id, counter }
    }

    /// Checks the signature, then every field.
    ///
    /// # Errors
    /// If it was written by somebody else, altered, or holds what no honest author writes.
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
    #[must_use]
    pub fn is_after(&self, last: &Self) -> bool {
        if self.boot_id == last.boot_id {
            self.counter > last.counter
        } else {
            self.timestamp_ms > last.timestamp_ms
        }
    }
}

/// Reads and checks an announcement from outside.
///
/// # Errors
/// As [`Unverified::read`] and [`Unverified::verify`].
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
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes(&[n; 32])
    }

    fn announcement(n: u8) -> Announcement {
        Announcement {
            id: key(n).public(),
            name: "küche".to_owned(),
            assets: 3,
            total_bytes: 1 << 40,
            fingerprint: [9; 16],
            timestamp_ms: 1_763_000_000_000,
            boot_id: 77,
            counter: 5,
            addrs: vec!["192.0.2.7:4711".parse().unwrap(), "[2001:db8::1]:4711".parse().unwrap()],
            relay_url: Some("https://relay.example".parse().unwrap()),
            version: "0.1.0".to_owned(),
        }
    }

    /// Signed by an author that writes what it likes.
    fn forged(key: &SecretKey, change: impl FnOnce(&mut WireAnnouncement)) -> Bytes {
        let honest: SignedAnnouncement = decode(announcement(1).sign(key)).unwrap();
        let mut wire: WireAnnouncement = decode(honest.announcement).unwrap();
        change(&mut wire);
        let bytes = wire.encode_to_vec();
        let signature = key.sign(&signed_part(&bytes)).to_bytes().to_vec();
        SignedAnnouncement { announcement: bytes.into(), signature: signature.into() }.encode_to_vec().into()
    }

    #[test]
    fn what_was_signed_is_what_is_read() {
        let bytes = announcement(1).sign(&key(1));
        let signed = verify(&bytes).unwrap();
        assert_eq!((&signed.announcement, &signed.bytes), (&announcement(1), &bytes));
        assert_eq!(signed.announcement.addr().addrs.len(), 3);
    }

    #[test]
    fn the_largest_one_fits() {
        let largest = Announcement {
            name: "\u{10348}".repeat(100),
            version: "\u{10348}".repeat(100),
            assets: u64::MAX,
            total_bytes: u64::MAX,
            timestamp_ms: u64::MAX,
            boot_id: u64::MAX,
            counter: u64::MAX,
            addrs: vec!["[1111:2222:3333:4444:5555:6666:7777:8888%4294967295]:65535".parse().unwrap(); 40],
            relay_url: Some(format!("https://{}.example", "r".repeat(490)).parse().unwrap()),
            ..announcement(1)
        };
        let bytes = largest.sign(&key(1));
        assert!(bytes.len() <= ANNOUNCEMENT_BYTES_MAX, "{}", bytes.len());
        let read = verify(&bytes).unwrap().announcement;
        assert_eq!((read.name.chars().count(), read.addrs.len()), (NAME_CHARS_MAX, ADDRS_MAX));
        assert!(read.relay_url.is_some());
    }

    #[test]
    fn only_its_author_signs_it_and_only_as_an_announcement() {
        // Signed by another key than the one it names.
        let stolen = forged(&key(2), |wire| wire.endpoint_id = key(1).public().as_bytes().to_vec().into());
        assert_eq!(verify(&stolen), Err(AnnouncementError::Signature));
        // The same bytes, signed for another purpose.
        let mut envelope: SignedAnnouncement = decode(announcement(1).sign(&key(1))).unwrap();
        envelope.signature = key(1).sign(&envelope.announcement).to_bytes().to_vec().into();
        assert_eq!(verify(&envelope.encode_to_vec().into()), Err(AnnouncementError::Signature));
    }

    #[test]
    fn what_no_honest_author_writes_is_refused_although_it_is_signed() {
        let refused = |change: fn(&mut WireAnnouncement)| verify(&forged(&key(1), change)).unwrap_err();
        let field = AnnouncementError::Field;
        assert_eq!(refused(|wire| wire.name = "x".repeat(65)), field("name"));
        assert_eq!(refused(|wire| wire.name = "a\u{1b}[2J".into()), field("name"));
        assert_eq!(refused(|wire| wire.name = "a\u{202e}b".into()), field("name"));
        assert_eq!(refused(|wire| wire.version = "\n".into()), field("version"));
        assert_eq!(refused(|wire| wire.root_fingerprint = vec![0; 17].into()), field("fingerprint"));
        assert_eq!(refused(|wire| wire.addrs = vec!["1.1.1.1:1".into(); 17]), field("number of addresses"));
        assert_eq!(refused(|wire| wire.addrs = vec!["localhost:1".into()]), field("address"));
        assert_eq!(refused(|wire| wire.relay_url = "not a url".into()), field("relay"));
        assert_eq!(refused(|wire| wire.endpoint_id = vec![1; 31].into()), AnnouncementError::Malformed);
        let long = forged(&key(1), |wire| wire.relay_url = "x".repeat(4000));
        assert_eq!(verify(&long), Err(AnnouncementError::TooLong(long.len())));
    }

    #[test]
    fn addresses_where_nobody_is_are_dropped() {
        let bytes = forged(&key(1), |wire| {
            wire.addrs =
                ["0.0.0.0:5", "[::]:5", "224.0.0.251:5", "10.0.0.1:0", "10.0.0.1:5"].map(String::from).into();
        });
        assert_eq!(verify(&bytes).unwrap().announcement.addrs, ["10.0.0.1:5".parse().unwrap()]);
    }

    #[test]
    fn what_was_put_around_it_is_not_passed_on() {
        let honest = announcement(1).sign(&key(1));
        // A field that this version does not know.
        let padded: Bytes = [honest.as_ref(), &[0x7a, 3, 1, 2, 3]].concat().into();
        assert_eq!(verify(&padded).unwrap().bytes, honest);
    }

    #[test]
    fn a_run_counts_and_runs_follow_each_other_by_time() {
        let mark = |timestamp_ms, boot_id, counter| Mark { timestamp_ms, boot_id, counter };
        let last = mark(100, 1, 5);
        assert!(mark(50, 1, 6).is_after(&last), "a clock that was set back does not silence a run");
        assert!(!mark(200, 1, 5).is_after(&last));
        assert!(mark(101, 2, 0).is_after(&last));
        assert!(!mark(100, 2, 9).is_after(&last), "an earlier run, replayed");
    }

    proptest! {
        #[test]
        fn nothing_from_outside_makes_it_panic(bytes in vec(any::<u8>(), 0..600)) {
            let _ = verify(&Bytes::from(bytes));
        }

        #[test]
        fn a_single_changed_byte_is_refused(at in any::<prop::sample::Index>(), change in 1..=255_u8) {
            let mut bytes = announcement(1).sign(&key(1)).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            prop_assert!(verify(&Bytes::from(bytes)).is_err());
        }
    }

    #[test]
    fn every_single_bit_counts() {
        let honest = announcement(1).sign(&key(1)).to_vec();
        for bit in 0..honest.len() * 8 {
            let mut bytes = honest.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&Bytes::from(bytes)).is_err(), "bit {bit}");
        }
    }
}
