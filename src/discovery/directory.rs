//! Everyone who has announced themselves, with what they said, by our own clock. Pure.
//!
//! An agent is **fresh** for two minutes, in a large network for longer, after it was last known to be alive, by an announcement,
//! a session or an answer. A silent one is asked once; without an answer it is **stale**, and the next sweep takes it off the
//! list. What other channels say of agents that were never alive here are **hints**: never listed, never passed on, good for
//! trying to join through them. An agent that was taken off the list goes on as a hint, so that a network that was cut in two
//! finds itself again.
//!
//! Time comes in: `now` is our own clock, `now_ms` the wall clock, which is only compared with what authors wrote. There are
//! at most 4,096 entries. When there is no room, hints go first, then the stale, then the agents that were silent for longest, those
//! that have proved themselves last; nobody goes who is connected.

mod entry;
pub mod gate;
mod joining;
mod marks;
mod saved;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iroh::{EndpointAddr, EndpointId};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use self::entry::{AgentStanding, DirectoryEntry, Rank};
pub(super) use self::marks::CLOCKS_APART_MAX_MS;
use self::marks::Marks;
pub use self::saved::SavedPeer;
use super::announcement::{Mark, NAME_CHARS_MAX, Signed, Unverified, printable};
use super::channel::{Channel, ChannelSet};
use super::pace::alive_for;

/// How long a sign of life counts in a network of up to some hundreds.
pub const FRESH_FOR: Duration = super::pace::ALIVE_FOR;
/// How often those who are stale are taken off the list.
pub const SWEEP_EVERY: Duration = Duration::from_mins(1);
/// Agents in the directory, hints included.
pub const ENTRIES_MAX: usize = 4096;
/// Shortest time between two announcements of one author that are looked at; honest ones keep twice as much.
const SPACING: Duration = Duration::from_secs(1);
/// Questions for a sign of life at once.
const PROBES_MAX: usize = 16;
/// After which a question counts as lost with its asker, and is asked again.
const PROBE_LOST_AFTER: Duration = Duration::from_mins(1);
/// How often an agent that goes on announcing itself is offered as a candidate again.
const OFFER_EVERY: Duration = Duration::from_mins(5);
/// Attempts without success after which a hint that no channel repeats is forgotten.
const FAILURES_MAX: u32 = 3;
/// How long such a hint is kept after somebody gave it.
const HINT_KEPT: Duration = Duration::from_hours(24);

/// One agent, as others are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentListing {
    pub id: EndpointId,
    /// What it calls itself: printable, at most 64 characters. Empty until it said so.
    pub name: String,
    /// Live assets that it said to hold.
    pub assets: u64,
    pub total_bytes: u64,
    /// Since it was last known to be alive, by our own clock.
    pub age: Duration,
    /// Whether it did not answer when it was asked for a sign of life.
    pub stale: bool,
    /// Where it can be reached, as far as known.
    pub addr: EndpointAddr,
    pub sources: ChannelSet,
    /// Its last announcement as it signed it (an encoded [`crate::wire::proto::SignedAnnouncement`]), to be passed on.
    pub signed: Option<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryEffect {
    /// An agent is there, or is somewhere else now, or still there after a while: dialling actors should know.
    Found(EndpointAddr),
    /// This is where this agent is, as it said itself or proved.
    Located(EndpointAddr),
    /// Ask it for a sign of life, and tell [`Directory::answered`].
    Probe(EndpointAddr),
    /// It was silent and did not answer.
    WentStale { id: EndpointId, name: String },
    /// Nothing is known of it any more.
    Forgotten(EndpointId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnouncementRefusal {
    #[error("it is our own")]
    Own,
    /// Its time is too far from ours: old, or from the future, or a clock is wrong.
    #[error("its author's clock is more than ten minutes from ours")]
    Time,
    /// Heard before, or something later was.
    #[error("it is not newer than what was heard already")]
    Replayed,
    /// Sooner after the last one than any honest author speaks.
    #[error("its author speaks too often")]
    TooSoon,
    #[error("there is no room for it")]
    Full,
}

/// The directory, shared: GossipActor writes it, others read. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct SharedDirectory(Arc<Mutex<Directory>>);

impl SharedDirectory {
    /// Exclusive access, for a moment: never held over an await.
    pub fn lock(&self) -> MutexGuard<'_, Directory> {
        self.0.lock()
    }
}

#[derive(Debug, Default)]
pub struct Directory {
    me: Option<EndpointId>,
    /// Which run of ours, and how many announcements it made.
    run: Option<(u64, u64)>,
    own: Option<Bytes>,
    entries: HashMap<EndpointId, DirectoryEntry>,
    marks: Marks,
    restored: bool,
    settled: u32,
    alive: u32,
}

impl Directory {
    /// Everyone who is fresh or stale, by id.
    pub fn listings(&self, now: Instant) -> Vec<AgentListing> {
        let mut listings: Vec<AgentListing> =
            self.entries.iter().filter_map(|(id, entry)| entry.listing(*id, now)).collect();
        listings.sort_unstable_by_key(|listing| listing.id);
        listings
    }

    /// Agents that are fresh, ourselves not among them.
    pub fn fresh(&self, now: Instant) -> usize {
        let fresh_for = self.fresh_for();
        self.entries.values().filter(|entry| entry.age(now).is_some_and(|age| age < fresh_for)).count()
    }

    /// How many others the network has, as of the last [`Directory::tick`]: those that are alive and have proved themselves, or spoke
    /// more than once.
    pub fn settled(&self) -> u32 {
        self.settled
    }

    /// How long a sign of life counts. In a large network each agent announces itself less often; an agent that has just come has
    /// heard each of the others once, and for longer than two minutes not again.
    fn fresh_for(&self) -> Duration {
        alive_for(self.alive)
    }

    /// Our own announcement as we last signed it.
    pub fn own(&self) -> Option<Bytes> {
        self.own.clone()
    }

    /// How many entries there are, hints included.
    pub fn known(&self) -> usize {
        self.entries.len()
    }

    /// Where an agent is, if anything is known of it.
    pub fn addr(&self, id: &EndpointId) -> Option<EndpointAddr> {
        self.entries.get(id).map(|entry| entry.addr.clone())
    }

    /// Says who we are; `boot_id` names this run, unless a run goes on after its actor failed. Then the swarm is to be joined
    /// again: through those who proved themselves at once, through others a little later, lest one of them was the reason.
    pub fn begin(&mut self, me: EndpointId, boot_id: u64, now: Instant) {
        self.me = Some(me);
        self.run.get_or_insert((boot_id, 0));
        self.entries.remove(&me);
        self.join_again(now);
    }

    /// The place of our next announcement: the run, and its counter.
    pub fn next_own(&mut self) -> (u64, u64) {
        let (boot_id, counter) = self.run.get_or_insert_default();
        *counter += 1;
        (*boot_id, *counter)
    }

    pub fn set_own(&mut self, signed: Bytes) {
        self.own = Some(signed);
    }

    // ---- Signs of life ------------------------------------------------------------------------------------------------

    /// Whether an announcement is worth checking its signature. Changes nothing: it may be forged.
    pub fn admits(&self, claimed: &Unverified, now: Instant, now_ms: u64) -> Result<(), AnnouncementRefusal> {
        self.admits_mark(&claimed.author(), claimed.mark(), now, now_ms)
    }

    /// Which run of an agent announced itself last, as far as that is remembered.
    pub fn boot_of(&self, id: &EndpointId) -> Option<u64> {
        self.marks.0.get(id).map(|mark| mark.boot_id)
    }

    /// Whether its author is somebody who was alive here.
    pub fn knows(&self, id: &EndpointId) -> bool {
        self.entries.get(id).is_some_and(|entry| entry.alive.is_some())
    }

    /// Whether its author announced itself lately.
    pub fn has_heard(&self, id: &EndpointId) -> bool {
        self.entries.get(id).is_some_and(|entry| entry.heard.is_some())
    }

    fn admits_mark(
        &self,
        id: &EndpointId,
        mark: Mark,
        now: Instant,
        now_ms: u64,
    ) -> Result<(), AnnouncementRefusal> {
        if Some(*id) == self.me {
            return Err(AnnouncementRefusal::Own);
        }
        self.marks.admit(id, mark, now_ms)?;
        let heard = self.entries.get(id).and_then(|entry| entry.heard);
        if heard.is_some_and(|heard| now.saturating_duration_since(heard) < SPACING) {
            return Err(AnnouncementRefusal::TooSoon);
        }
        Ok(())
    }

    /// An agent has announced itself, and it was checked that it was that agent.
    pub fn hear(
        &mut self,
        signed: Signed,
        now: Instant,
        now_ms: u64,
    ) -> Result<Vec<DirectoryEffect>, AnnouncementRefusal> {
        let Signed { announcement, bytes } = signed;
        let (id, mark) = (announcement.id, announcement.mark());
        self.admits_mark(&id, mark, now, now_ms)?;
        let mut effects = Vec::new();
        let addr = announcement.addr();
        let entry = self.entry(id, Rank::Heard, now, &mut effects).ok_or(AnnouncementRefusal::Full)?;
        let moved = entry.addr.addrs != addr.addrs;
        let due = entry.offered.is_none_or(|at| now.saturating_duration_since(at) >= OFFER_EVERY);
        if moved || due || entry.standing == AgentStanding::Stale || entry.alive.is_none() {
            entry.offered = Some(now);
            effects.push(DirectoryEffect::Located(addr.clone()));
            effects.push(DirectoryEffect::Found(addr.clone()));
        }
        entry.unsaved |= moved || entry.name != announcement.name || entry.signed.is_none();
        entry.sources.insert(Channel::Gossip);
        entry.addr = addr;
        entry.name = announcement.name;
        entry.assets = announcement.assets;
        entry.total_bytes = announcement.total_bytes;
        entry.signed = Some(bytes);
        entry.heard = Some(now);
        entry.times_heard = entry.times_heard.saturating_add(1);
        entry.lives(now, now_ms);
        self.marks.remember(id, mark);
        Ok(effects)
    }

    /// A session with this agent is up: it is alive and of our network.
    pub fn peer_up(
        &mut self,
        addr: &EndpointAddr,
        name: &str,
        assets: u64,
        now: Instant,
        now_ms: u64,
    ) -> Vec<DirectoryEffect> {
        let mut effects = Vec::new();
        let Some(entry) = self.entry(addr.id, Rank::Proven, now, &mut effects) else { return effects };
        entry.name = printable(name, NAME_CHARS_MAX);
        entry.assets = assets;
        if !addr.is_empty() && entry.addr.addrs != addr.addrs {
            // What the session was told is the latest.
            entry.addr = addr.clone();
            entry.unsaved = true;
            effects.push(DirectoryEffect::Located(addr.clone()));
        }
        (entry.proven, entry.connected) = (true, true);
        entry.join_at = now;
        entry.lives(now, now_ms);
        effects
    }

    /// The session with this agent is over.
    pub fn peer_gone(&mut self, id: &EndpointId) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.connected = false;
        }
    }

    /// Whether an agent that was asked for a sign of life gave one, and proved that it is of our network.
    pub fn answered(
        &mut self,
        id: &EndpointId,
        alive: bool,
        now: Instant,
        now_ms: u64,
    ) -> Vec<DirectoryEffect> {
        let Some(entry) = self.entries.get_mut(id) else { return Vec::new() };
        if alive {
            entry.proven = true;
            entry.lives(now, now_ms);
            return Vec::new();
        }
        // Unless it was heard of meanwhile.
        if !matches!(entry.standing, AgentStanding::Asked { .. }) {
            return Vec::new();
        }
        entry.standing = AgentStanding::Stale;
        entry.connected = false;
        vec![DirectoryEffect::WentStale { id: *id, name: entry.name.clone() }]
    }

    /// Asks those who were silent for too long, as many at once as is sensible.
    pub fn tick(&mut self, now: Instant) -> Vec<DirectoryEffect> {
        let count = |of: fn(&DirectoryEntry) -> bool| {
            u32::try_from(self.entries.values().filter(|entry| of(entry)).count()).unwrap_or(u32::MAX)
        };
        (self.alive, self.settled) =
            (count(|entry| entry.alive.is_some()), count(DirectoryEntry::is_settled));
        let fresh_for = self.fresh_for();
        let mut asked = 0;
        let mut silent: Vec<(Duration, EndpointId)> = Vec::new();
        for (id, entry) in &mut self.entries {
            match entry.standing {
                AgentStanding::Asked { since } if now.saturating_duration_since(since) < PROBE_LOST_AFTER => {
                    asked += 1;
                }
                AgentStanding::Stale => {}
                AgentStanding::Fresh | AgentStanding::Asked { .. } => {
                    silent.extend(entry.age(now).filter(|age| *age >= fresh_for).map(|age| (age, *id)));
                }
            }
        }
        silent.sort_unstable_by(|a, b| b.cmp(a));
        silent.truncate(PROBES_MAX.saturating_sub(asked));
        let mut effects = Vec::new();
        for (_, id) in silent {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.standing = AgentStanding::Asked { since: now };
                effects.push(DirectoryEffect::Probe(entry.addr.clone()));
            }
        }
        effects
    }

    /// Takes those who are stale off the list, and forgets hints that came to nothing.
    pub fn sweep(&mut self, now: Instant, now_ms: u64) -> Vec<DirectoryEffect> {
        let mut effects = Vec::new();
        self.entries.retain(|id, entry| {
            if entry.standing == AgentStanding::Stale {
                entry.become_hint();
            }
            let old = now.saturating_duration_since(entry.hinted) >= HINT_KEPT;
            let keep = entry.alive.is_some() || entry.failures < FAILURES_MAX || !old;
            if !keep {
                effects.push(DirectoryEffect::Forgotten(*id));
            }
            keep
        });
        self.marks.sweep(now_ms);
        effects
    }

    pub fn forget(&mut self, is_shut_out: impl Fn(&EndpointId) -> bool) -> Vec<DirectoryEffect> {
        let gone = self.entries.extract_if(|id, _| is_shut_out(id));
        gone.map(|(id, _)| DirectoryEffect::Forgotten(id)).collect()
    }

    // ---- Room ---------------------------------------------------------------------------------------------------------

    /// The entry of an agent, a new one if there is room for it or somebody of no higher rank makes some.
    fn entry(
        &mut self,
        id: EndpointId,
        rank: Rank,
        now: Instant,
        effects: &mut Vec<DirectoryEffect>,
    ) -> Option<&mut DirectoryEntry> {
        if Some(id) == self.me {
            return None;
        }
        if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(&id) {
            let others = self.entries.iter().filter(|(_, entry)| !entry.connected && entry.rank() <= rank);
            let least = *others.min_by_key(|(_, entry)| entry.worth())?.0;
            self.entries.remove(&least);
            effects.push(DirectoryEffect::Forgotten(least));
        }
        Some(self.entries.entry(id).or_insert_with(|| DirectoryEntry::new(id, now)))
    }
}
