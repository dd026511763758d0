//! Slots as signed packets: one TXT record named [`RECORD`] in a DNS packet of at most 1,000 bytes. Pure.
//!
//! Compatible: the record's text is the endpoint id in 64 hexadecimal digits. Sealed: its strings, joined, are a nonce and a
//! sealed list (`version: u8`, `count: u8`, then `count` times `id: [u8; 32]`, `age: u16` in seconds, little-endian), always of
//! the same length.

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use iroh::EndpointId;
use pkarr::dns::rdata::{RData, TXT};
use pkarr::dns::{CharacterString, Name};
use pkarr::{Keypair, SignedPacket, Timestamp};

use super::{ENTRIES_MAX, ENTRY_LIFE, MICROS, Slot, SlotEntry, SlotKeys, merge, seal};

pub const RECORD: &str = "_can_sync";
/// How long others may keep a slot's packet.
pub const TTL_SECS: u32 = 300;

/// Bytes of one string in a TXT record.
const STRING_MAX: usize = 255;
/// Bytes of all the strings that we join; a packet has 1,000 at most.
const JOINED_MAX: usize = 1000;
const VERSION: u8 = 1;
const ENTRY_BYTES: usize = 32 + 2;
const LIST_BYTES: usize = 2 + ENTRIES_MAX * ENTRY_BYTES;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot make a rendezvous packet of {bytes} bytes: {reason}")]
pub struct PacketError {
    /// Bytes that were to go in.
    pub bytes: usize,
    pub reason: String,
}

impl SlotKeys {
    /// The packet with these in the slot, [`SlotKeys::with_own`]'s answer, dated `at_us`.
    ///
    /// # Errors
    /// If it does not fit, which at most [`SlotKeys::room`] entries do.
    pub fn pack(
        &self,
        slot: Slot,
        entries: &[SlotEntry],
        at_us: u64,
        nonce: [u8; seal::NONCE],
    ) -> Result<SignedPacket, PacketError> {
        let keypair = self.keypair(slot);
        let content = match self {
            Self::Sealed { sealing, .. } => {
                let plain = encode(entries, at_us);
                seal::seal(&Self::sealing_key(sealing), keypair.public_key().as_bytes(), &plain, nonce)
            }
            Self::Compatible { .. } => {
                entries.first().map(|own| HEXLOWER.encode(own.id.as_bytes()).into_bytes()).unwrap_or_default()
            }
        };
        sign(&keypair, &content, TTL_SECS, at_us)
    }

    /// Who is in a packet of this slot. Nobody for anything that is not of our making.
    pub fn unpack(&self, packet: &SignedPacket, now_us: u64) -> Vec<SlotEntry> {
        // Clocks differ; nobody was alive in the future.
        let written_us = packet.timestamp().as_u64().min(now_us);
        match self {
            Self::Sealed { sealing, .. } => {
                let key = Self::sealing_key(sealing);
                let bound_to = packet.public_key();
                let plain = contents(packet).find_map(|c| seal::open(&key, bound_to.as_bytes(), &c));
                merge(&plain.map(|plain| decode(&plain, written_us)).unwrap_or_default(), &[], now_us)
            }
            Self::Compatible { .. } => {
                let id = contents(packet).find_map(|content| parse_id(&content));
                id.map(|id| SlotEntry { id, alive_us: written_us }).into_iter().collect()
            }
        }
    }
}

/// A packet with `content` in a record named [`RECORD`].
pub fn sign(
    keypair: &Keypair,
    content: &[u8],
    ttl_secs: u32,
    at_us: u64,
) -> Result<SignedPacket, PacketError> {
    let failed = |reason: String| PacketError { bytes: content.len(), reason };
    let mut txt = TXT::new();
    for string in content.chunks(STRING_MAX) {
        txt.add_char_string(CharacterString::new(string).map_err(|e| failed(e.to_string()))?);
    }
    let name = Name::new(RECORD).map_err(|e| failed(e.to_string()))?;
    let builder = SignedPacket::builder().txt(name, txt, ttl_secs).timestamp(Timestamp::from(at_us));
    builder.sign(keypair).map_err(|e| failed(e.to_string()))
}

/// What is in the packet's records named [`RECORD`], in order.
pub fn contents(packet: &SignedPacket) -> impl Iterator<Item = Vec<u8>> {
    packet.resource_records(RECORD).filter_map(|record| {
        let RData::TXT(txt) = &record.rdata else { return None };
        joined(txt)
    })
}

/// The record's strings, one after another. The library gives them split at the first `=`.
fn joined(txt: &TXT<'_>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for (key, value) in txt.iter_raw() {
        bytes.extend_from_slice(key);
        if let Some(value) = value {
            bytes.push(b'=');
            bytes.extend_from_slice(value);
        }
        if bytes.len() > JOINED_MAX {
            return None;
        }
    }
    Some(bytes)
}

fn parse_id(text: &[u8]) -> Option<EndpointId> {
    let bytes: [u8; 32] = HEXLOWER_PERMISSIVE.decode(text).ok()?.try_into().ok()?;
    EndpointId::from_bytes(&bytes).ok()
}

pub fn encode(entries: &[SlotEntry], now_us: u64) -> Vec<u8> {
    let entries = &entries[..entries.len().min(ENTRIES_MAX)];
    // Below 256 by the constant.
    let mut plain = vec![VERSION, u8::try_from(entries.len()).unwrap_or(u8::MAX)];
    for entry in entries {
        plain.extend_from_slice(entry.id.as_bytes());
        let age = u16::try_from(entry.age(now_us).as_secs()).unwrap_or(u16::MAX);
        plain.extend_from_slice(&age.to_le_bytes());
    }
    plain.resize(LIST_BYTES, 0);
    plain
}

/// The list in the order in which its writer put it. Entries that are no endpoint ids, or older than any that is written,
/// are left out; one of another version, or shorter than it says, is empty.
pub(in crate::discovery) fn decode(plain: &[u8], written_us: u64) -> Vec<SlotEntry> {
    let [VERSION, count, rest @ ..] = plain else { return Vec::new() };
    let count = usize::from(*count);
    if count > ENTRIES_MAX || rest.len() < count * ENTRY_BYTES {
        return Vec::new();
    }
    let entry = |bytes: &[u8]| {
        let (id, age) = bytes.split_first_chunk::<32>()?;
        let age_secs = u64::from(u16::from_le_bytes(age.try_into().ok()?));
        let id = EndpointId::from_bytes(id).ok()?;
        let alive_us = written_us.saturating_sub(age_secs * MICROS);
        (age_secs <= ENTRY_LIFE.as_secs()).then_some(SlotEntry { id, alive_us })
    };
    rest.chunks_exact(ENTRY_BYTES).take(count).filter_map(entry).collect()
}
