//! Rendezvous slots: eight places in pkarr that everyone with the passphrase can compute, read and write. Pure.
//!
//! Two formats ([`SlotKeys`]). *Sealed*: the keys change with the UTC day, and each slot holds an encrypted list of agents, of
//! which strangers see neither the members nor how many they are. *Compatible*: as agents before this one published and read
//! them, one endpoint id per slot, in clear.
//!
//! A slot is a last-writer-wins register that anyone in the network may overwrite at any time. So it is soft state: an agent that
//! writes merges what it has just read, looks later whether that survived, and writes again if not. All that is read is a
//! hint from a stranger until a session has authenticated.

pub mod pace;
pub mod packet;
pub mod seal;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use iroh::EndpointId;
use pkarr::Keypair;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::config::SlotFormat;
use crate::identity::{Key, NetworkKeys, normal};

pub const SLOTS: u8 = 8;
/// Agents that a sealed slot lists. With 24 entries, a packet has 944 of the 1,000 bytes that the DHT takes.
pub const ENTRIES_MAX: usize = 24;
/// An entry of a sealed slot that nobody has refreshed for so long is dropped.
pub const ENTRY_LIFE: Duration = Duration::from_mins(30);
/// The owner of a compatible slot who has not written for so long is gone: five periods.
pub const OWNER_LIFE: Duration = Duration::from_mins(5);
/// Packets that claim to come from further in the future are refused.
pub const AHEAD_MAX: Duration = Duration::from_mins(10);
/// Around midnight UTC, the slots of the other day are read as well: clocks differ, and agents stay where they wrote last.
const NEIGHBOUR_DAY_WITHIN_SECS: u64 = 60 * 60;

const DAY_SECS: u64 = 24 * 60 * 60;
const MICROS: u64 = 1_000_000;

const CONTEXT_SLOT_SEED: &str = "can-sync 2026 v3 rendezvous slot signing seed";
const CONTEXT_SLOT_SEAL: &str = "can-sync 2026 v3 rendezvous slot contents";

/// What a network's slots are signed and sealed with.
#[derive(Clone)]
pub enum SlotKeys {
    /// Encrypted, under keys that change daily.
    Sealed {
        /// What the signing keys derive from.
        signing: Key,
        /// What the sealing key derives from.
        sealing: Key,
    },
    /// As earlier agents wrote them.
    Compatible {
        /// The network's, as it was typed: these agents did not normalise it.
        passphrase: SecretString,
    },
}

impl fmt::Debug for SlotKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sealed { .. } => "SlotKeys(sealed, redacted)",
            Self::Compatible { .. } => "SlotKeys(compatible, redacted)",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Days since the Unix epoch, UTC; always 0 in the compatible format, whose keys do not change.
    pub day: u64,
    /// Which of the [`SLOTS`].
    pub index: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotEntry {
    pub id: EndpointId,
    /// When it wrote itself into a slot, in microseconds since the Unix epoch by our clock. Never in the future.
    pub alive_us: u64,
}

impl SlotEntry {
    /// For how long it has not been heard of.
    pub fn age(&self, now_us: u64) -> Duration {
        Duration::from_micros(now_us.saturating_sub(self.alive_us))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SlotReading {
    #[default]
    Unread,
    /// It could not be read or cannot be written, such as one with a packet from the future, which nothing can replace.
    Closed,
    /// Who is in it. Empty also for one with something in it that is not ours: that may be overwritten.
    Read(Vec<SlotEntry>),
}

impl SlotKeys {
    /// In the format that the configuration names.
    pub fn new(format: SlotFormat, keys: &NetworkKeys, passphrase: &SecretString) -> Self {
        match format {
            SlotFormat::Sealed => Self::Sealed { signing: keys.slot().clone(), sealing: keys.seal().clone() },
            SlotFormat::Compatible => {
                Self::Compatible { passphrase: normal(passphrase.expose_secret()).as_str().into() }
            }
        }
    }

    /// The day whose slots are written.
    pub fn day(&self, now_us: u64) -> u64 {
        match self {
            Self::Sealed { .. } => now_us / MICROS / DAY_SECS,
            Self::Compatible { .. } => 0,
        }
    }

    /// The other day whose slots are read as well, within an hour of midnight UTC.
    pub fn neighbour_day(&self, now_us: u64) -> Option<u64> {
        let (day, second) = (self.day(now_us), now_us / MICROS % DAY_SECS);
        match self {
            Self::Sealed { .. } if second < NEIGHBOUR_DAY_WITHIN_SECS => day.checked_sub(1),
            Self::Sealed { .. } if second >= DAY_SECS - NEIGHBOUR_DAY_WITHIN_SECS => Some(day + 1),
            Self::Sealed { .. } | Self::Compatible { .. } => None,
        }
    }

    /// What a slot's packets are signed with.
    pub fn keypair(&self, slot: Slot) -> Keypair {
        let seed = match self {
            Self::Sealed { signing, .. } => {
                let mut material = Zeroizing::new(signing.expose().to_vec());
                material.extend_from_slice(&slot.day.to_le_bytes());
                material.push(slot.index);
                Zeroizing::new(blake3::derive_key(CONTEXT_SLOT_SEED, &material))
            }
            Self::Compatible { passphrase } => {
                let text = format!("can-sync-rendezvous:{}:{}", passphrase.expose_secret(), slot.index);
                Zeroizing::new(*blake3::hash(Zeroizing::new(text).as_bytes()).as_bytes())
            }
        };
        Keypair::from_secret_key(&seed)
    }

    /// Agents that fit into one slot.
    pub fn room(&self) -> usize {
        match self {
            Self::Sealed { .. } => ENTRIES_MAX,
            Self::Compatible { .. } => 1,
        }
    }

    /// For how long an agent that does not write keeps its place.
    pub fn life(&self) -> Duration {
        match self {
            Self::Sealed { .. } => ENTRY_LIFE,
            Self::Compatible { .. } => OWNER_LIFE,
        }
    }

    /// Whether one more agent fits into a slot with these.
    pub fn has_room(&self, entries: &[SlotEntry], now_us: u64) -> bool {
        entries.iter().filter(|entry| entry.age(now_us) <= self.life()).count() < self.room()
    }

    /// Which slot to write: the one that already holds `own`; else the lowest with room; else the one that a hash of the id
    /// points to, unless that would take a live owner's only place. A slot that was not read counts as one with room, so
    /// read what this names, and ask again. `None` when there is no place.
    pub fn claim(&self, own: &EndpointId, looks: &[SlotReading], now_us: u64) -> Option<u8> {
        let lowest = |fits: &dyn Fn(&SlotReading) -> bool| {
            looks.iter().position(fits).and_then(|i| u8::try_from(i).ok())
        };
        let holds = |look: &SlotReading| matches!(look, SlotReading::Read(entries) if entries.iter().any(|e| e.id == *own));
        let fits = |look: &SlotReading| match look {
            SlotReading::Unread => true,
            SlotReading::Closed => false,
            SlotReading::Read(entries) => self.has_room(entries, now_us),
        };
        let fallback = || match self {
            Self::Compatible { .. } => None,
            Self::Sealed { .. } => {
                let hashed = hashed_slot(own);
                let order = (hashed..looks.len()).chain(0..hashed.min(looks.len()));
                let open = order.into_iter().find(|i| looks[*i] != SlotReading::Closed);
                open.and_then(|i| u8::try_from(i).ok())
            }
        };
        lowest(&holds).or_else(|| lowest(&fits)).or_else(fallback)
    }

    /// What to write into a slot that holds `entries`: ourselves first, and in the sealed format the others that are still
    /// alive, the freshest first, as many as fit.
    pub fn with_own(&self, own: EndpointId, entries: &[SlotEntry], now_us: u64) -> Vec<SlotEntry> {
        let mut all = vec![SlotEntry { id: own, alive_us: now_us }];
        let others: Vec<SlotEntry> = entries.iter().filter(|entry| entry.id != own).copied().collect();
        all.extend(merge(&others, &[], now_us));
        all.truncate(self.room());
        all
    }

    fn sealing_key(sealing: &Key) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(CONTEXT_SLOT_SEAL, sealing.expose()))
    }
}

/// Everyone in either list who was heard of within [`ENTRY_LIFE`], each once, with the latest sign of life; the freshest first,
/// at most [`ENTRIES_MAX`].
pub fn merge(one: &[SlotEntry], other: &[SlotEntry], now_us: u64) -> Vec<SlotEntry> {
    let mut all: Vec<SlotEntry> =
        one.iter().chain(other).filter(|entry| entry.age(now_us) <= ENTRY_LIFE).copied().collect();
    all.sort_by(|a, b| a.id.cmp(&b.id).then(b.alive_us.cmp(&a.alive_us)));
    all.dedup_by_key(|entry| entry.id);
    all.sort_by(|a, b| b.alive_us.cmp(&a.alive_us).then(a.id.cmp(&b.id)));
    all.truncate(ENTRIES_MAX);
    all
}

/// Where an agent goes that finds no place.
fn hashed_slot(id: &EndpointId) -> usize {
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(id.as_bytes()).as_bytes()[..8]);
    // The remainder is below eight.
    usize::try_from(u64::from_le_bytes(first) % u64::from(SLOTS)).unwrap_or(0)
}
