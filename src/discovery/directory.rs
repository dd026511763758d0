//! Everyone who has announced themselves, with what they said, by our own clock. Pure.
//!
//! An agent is **fresh** for two minutes after it was last known to be alive, by an announcement, a session or an answer. A
//! silent one is asked once; without an answer it is **stale**, and the next sweep takes it off the list. What other channels
//! say of agents that were never alive here are **hints**: never listed, never passed on, good for trying to join through
//! them. An agent that was taken off the list goes on as a hint, so that a network that was cut in two finds itself again.
//!
//! Time comes in: `now` is our own clock, `now_ms` the wall clock, which is only compared with what authors wrote. There are
//! at most 4,096 entries. When there is no room, hints go first, then the stale, then whoever was silent for longest, those
//! that have proved themselves last; nobody goes who is connected.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use iroh::{EndpointAddr, EndpointId};
use tokio::time::Instant;

use self::entry::{Entry, Rank, Standing};
use super::announcement::{Mark, NAME_CHARS_MAX, Signed, Unverified, printable, verify};
use super::channel::{Channel, Sources};

mod entry;
pub mod gate;
#[cfg(test)]
mod tests;

/// How long a sign of life counts.
pub const FRESH_FOR: Duration = Duration::from_mins(2);
/// How often those who are stale are taken off the list.
pub const SWEEP_EVERY: Duration = Duration::from_mins(1);
/// Agents in the directory, hints included.
pub const ENTRIES_MAX: usize = 4096;
/// How far an author's clock may be from ours.
const CLOCKS_APART_MAX_MS: u64 = 10 * 60 * 1000;
/// Shortest time between two announcements of one author that are looked at; honest ones keep twice as much.
const SPACING: Duration = Duration::from_secs(1);
/// Announcements that are remembered against their replay. One that is older than clocks may be apart needs no remembering,
/// so this many authors in twenty minutes are protected, whether they are still listed or not.
const MARKS_MAX: usize = 2 * ENTRIES_MAX;
/// Questions for a sign of life at once.
const PROBES_MAX: usize = 16;
/// After which a question counts as lost with whoever asked it, and is asked again.
const PROBE_LOST_AFTER: Duration = Duration::from_mins(1);
/// How often an agent that goes on announcing itself is offered as a candidate again.
const OFFER_EVERY: Duration = Duration::from_mins(5);
/// How often a mere sign of life is written down.
const SAVE_EVERY: Duration = Duration::from_mins(5);
/// Attempts without success after which a hint that no channel repeats is forgotten.
const FAILURES_MAX: u32 = 3;
/// How long such a hint is kept after somebody gave it.
const HINT_KEPT: Duration = Duration::from_hours(24);

/// One agent, as others are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Who.
    pub id: EndpointId,
    /// What it calls itself: printable, at most 64 characters. Empty until it said so.
    pub name: String,
    /// Live assets that it said to hold.
    pub assets: u64,
    /// Bytes of those.
    pub total_bytes: u64,
    /// Since it was last known to be alive, by our own clock.
    pub age: Duration,
    /// Whether it did not answer when it was asked for a sign of life.
    pub stale: bool,
    /// Where it can be reached, as far as known.
    pub addr: EndpointAddr,
    /// Which channels led to it.
    pub sources: Sources,
    /// Its last announcement as it signed it (an encoded [`crate::proto::SignedAnnouncement`]), to be passed on.
    pub signed: Option<Bytes>,
}

/// What is kept of an agent from one start to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedPeer {
    /// Where it was reached.
    pub addr: EndpointAddr,
    /// What it called itself.
    pub name: String,
    /// Which channels led to it.
    pub sources: Sources,
    /// When it was last known to be alive, in milliseconds since the Unix epoch by our own clock.
    pub last_success_ms: u64,
    /// Its last announcement, as it signed it.
    pub signed: Option<Bytes>,
}

/// What the directory wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// An agent is there, or is somewhere else now, or still there after a while: whoever dials should know.
    Found(EndpointAddr),
    /// This is where this agent is, as it said itself or proved.
    Located(EndpointAddr),
    /// Ask it for a sign of life, and tell [`Directory::answered`].
    Probe(EndpointAddr),
    /// It was silent and did not answer.
    WentStale {
        /// Who.
        id: EndpointId,
        /// What it called itself.
        name: String,
    },
    /// Nothing is known of it any more.
    Forgotten(EndpointId),
}

/// Why an announcement does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Our own, come back.
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
    /// Nobody can make room for it.
    #[error("there is no room for it")]
    Full,
}

/// The directory, shared: GossipActor writes it, others read. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct SharedDirectory(Arc<Mutex<Directory>>);

impl SharedDirectory {
    /// Exclusive access, for a moment: never held over an await.
    pub fn lock(&self) -> MutexGuard<'_, Directory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everyone.
#[derive(Debug, Default)]
pub struct Directory {
    me: Option<EndpointId>,
    /// Which run of ours, and how many announcements it made.
    run: Option<(u64, u64)>,
    own: Option<Bytes>,
    entries: HashMap<EndpointId, Entry>,
    /// The last announcement of each author.
    marks: HashMap<EndpointId, Mark>,
    restored: bool,
}

impl Directory {
    /// Everyone who is fresh or stale, by id.
    #[must_use]
    pub fn listings(&self, now: Instant) -> Vec<Listing> {
        let mut listings: Vec<Listing> =
            self.entries.iter().filter_map(|(id, entry)| entry.listing(*id, now)).collect();
        listings.sort_unstable_by_key(|listing| listing.id);
        listings
    }

    /// Agents that were alive within the last two minutes, ourselves not among them.
    #[must_use]
    pub fn fresh(&self, now: Instant) -> usize {
        self.entries.values().filter(|entry| entry.age(now).is_some_and(|age| age < FRESH_FOR)).count()
    }

    /// Our own announcement as we last signed it.
    #[must_use]
    pub fn own(&self) -> Option<Bytes> {
        self.own.clone()
    }

    /// How many entries there are, hints included.
    #[must_use]
    pub fn known(&self) -> usize {
        self.entries.len()
    }

    /// Where an agent is, if anything is known of it.
    #[must_use]
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

    /// The swarm is to be joined again, as at a start: everything may be different now.
    pub fn join_again(&mut self, now: Instant) {
        for entry in self.entries.values_mut() {
            entry.join_again(now);
        }
    }

    /// The place of our next announcement: the run, and its counter.
    pub fn next_own(&mut self) -> (u64, u64) {
        let (boot_id, counter) = self.run.get_or_insert_default();
        *counter += 1;
        (*boot_id, *counter)
    }

    /// Keeps our own announcement.
    pub fn set_own(&mut self, signed: Bytes) {
        self.own = Some(signed);
    }

    // ---- Signs of life ------------------------------------------------------------------------------------------------

    /// Whether an announcement is worth checking its signature. Changes nothing: it may be forged.
    ///
    /// # Errors
    /// Why it is not.
    pub fn admits(&self, claimed: &Unverified, now: Instant, now_ms: u64) -> Result<(), Refusal> {
        self.admits_mark(&claimed.author(), claimed.mark(), now, now_ms)
    }

    /// Whether its author is somebody who was alive here.
    #[must_use]
    pub fn knows(&self, id: &EndpointId) -> bool {
        self.entries.get(id).is_some_and(|entry| entry.alive.is_some())
    }

    fn admits_mark(&self, id: &EndpointId, mark: Mark, now: Instant, now_ms: u64) -> Result<(), Refusal> {
        if Some(*id) == self.me {
            return Err(Refusal::Own);
        }
        if mark.timestamp_ms.abs_diff(now_ms) > CLOCKS_APART_MAX_MS {
            return Err(Refusal::Time);
        }
        if self.marks.get(id).is_some_and(|last| !mark.is_after(last)) {
            return Err(Refusal::Replayed);
        }
        let heard = self.entries.get(id).and_then(|entry| entry.heard);
        if heard.is_some_and(|heard| now.saturating_duration_since(heard) < SPACING) {
            return Err(Refusal::TooSoon);
        }
        Ok(())
    }

    /// An agent has announced itself, and it was checked that it was that agent.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn hear(&mut self, signed: Signed, now: Instant, now_ms: u64) -> Result<Vec<Effect>, Refusal> {
        let Signed { announcement, bytes } = signed;
        let (id, mark) = (announcement.id, announcement.mark());
        self.admits_mark(&id, mark, now, now_ms)?;
        let mut effects = Vec::new();
        let addr = announcement.addr();
        let entry = self.entry(id, Rank::Heard, now, &mut effects).ok_or(Refusal::Full)?;
        let moved = entry.addr.addrs != addr.addrs;
        let due = entry.offered.is_none_or(|at| now.saturating_duration_since(at) >= OFFER_EVERY);
        if moved || due || entry.standing == Standing::Stale || entry.alive.is_none() {
            entry.offered = Some(now);
            effects.push(Effect::Located(addr.clone()));
            effects.push(Effect::Found(addr.clone()));
        }
        entry.unsaved |= moved || entry.name != announcement.name || entry.signed.is_none();
        entry.sources.insert(Channel::Gossip);
        entry.addr = addr;
        entry.name = announcement.name;
        entry.assets = announcement.assets;
        entry.total_bytes = announcement.total_bytes;
        entry.signed = Some(bytes);
        entry.heard = Some(now);
        entry.lives(now, now_ms);
        self.remember(id, mark);
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
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(entry) = self.entry(addr.id, Rank::Proven, now, &mut effects) else { return effects };
        entry.name = printable(name, NAME_CHARS_MAX);
        entry.assets = assets;
        if !addr.is_empty() && entry.addr.addrs != addr.addrs {
            // What the session was told is the latest.
            entry.addr = addr.clone();
            entry.unsaved = true;
            effects.push(Effect::Located(addr.clone()));
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
    pub fn answered(&mut self, id: &EndpointId, alive: bool, now: Instant, now_ms: u64) -> Vec<Effect> {
        let Some(entry) = self.entries.get_mut(id) else { return Vec::new() };
        if alive {
            entry.proven = true;
            entry.lives(now, now_ms);
            return Vec::new();
        }
        // Unless it was heard of meanwhile.
        if !matches!(entry.standing, Standing::Asked { .. }) {
            return Vec::new();
        }
        entry.standing = Standing::Stale;
        entry.connected = false;
        vec![Effect::WentStale { id: *id, name: entry.name.clone() }]
    }

    /// Asks those who were silent for too long, as many at once as is sensible.
    pub fn tick(&mut self, now: Instant) -> Vec<Effect> {
        let mut asked = 0;
        let mut silent: Vec<(Duration, EndpointId)> = Vec::new();
        for (id, entry) in &mut self.entries {
            match entry.standing {
                Standing::Asked { since } if now.saturating_duration_since(since) < PROBE_LOST_AFTER => {
                    asked += 1;
                }
                Standing::Stale => {}
                Standing::Fresh | Standing::Asked { .. } => {
                    silent.extend(entry.age(now).filter(|age| *age >= FRESH_FOR).map(|age| (age, *id)));
                }
            }
        }
        silent.sort_unstable_by(|a, b| b.cmp(a));
        silent.truncate(PROBES_MAX.saturating_sub(asked));
        let mut effects = Vec::new();
        for (_, id) in silent {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.standing = Standing::Asked { since: now };
                effects.push(Effect::Probe(entry.addr.clone()));
            }
        }
        effects
    }

    /// Takes those who are stale off the list, and forgets hints that came to nothing.
    pub fn sweep(&mut self, now: Instant, now_ms: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.entries.retain(|id, entry| {
            if entry.standing == Standing::Stale {
                entry.become_hint();
            }
            let old = now.saturating_duration_since(entry.hinted) >= HINT_KEPT;
            let keep = entry.alive.is_some() || entry.failures < FAILURES_MAX || !old;
            if !keep {
                effects.push(Effect::Forgotten(*id));
            }
            keep
        });
        self.marks.retain(|_, mark| is_recent(mark, now_ms));
        effects
    }

    // ---- Hints and joining --------------------------------------------------------------------------------------------

    /// A channel led to an agent that may or may not exist. Whoever is known to be alive keeps the addresses that it gave
    /// itself.
    pub fn hint(&mut self, addr: &EndpointAddr, channel: Channel, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(entry) = self.entry(addr.id, Rank::Hint, now, &mut effects) else { return effects };
        entry.hinted = now;
        entry.unsaved |= entry.sources.insert(channel) && entry.alive.is_some();
        if entry.alive.is_none() || entry.addr.is_empty() {
            entry.merge_addrs(addr);
        }
        effects
    }

    /// Dialling an agent came to nothing. That ends no entry of somebody who was heard of lately: behind a firewall one can
    /// be well and out of reach.
    pub fn dial_failed(&mut self, id: &EndpointId, now: Instant) -> Vec<Effect> {
        let Some(entry) = self.entries.get_mut(id) else { return Vec::new() };
        entry.fail(now);
        let silent = entry.age(now).is_none_or(|age| age >= FRESH_FOR);
        if silent
            && entry.failures >= FAILURES_MAX
            && entry.standing != Standing::Stale
            && entry.alive.is_some()
        {
            entry.standing = Standing::Stale;
            entry.connected = false;
            return vec![Effect::WentStale { id: *id, name: entry.name.clone() }];
        }
        Vec::new()
    }

    /// Up to `count` agents through which to join the swarm, and whether each has proved itself; they are not given again
    /// for a while. Those whose last attempts worked come first, then chance decides, from `seed`.
    pub fn to_join(
        &mut self,
        but: &HashSet<EndpointId>,
        count: usize,
        seed: u64,
        now: Instant,
    ) -> Vec<(EndpointAddr, bool)> {
        let mut open: Vec<(u32, bool, u64, EndpointId)> = self
            .entries
            .iter()
            .filter(|(id, entry)| entry.join_at <= now && !entry.addr.is_empty() && !but.contains(*id))
            .map(|(id, entry)| (entry.failures.min(FAILURES_MAX), !entry.proven, shuffled(id, seed), *id))
            .collect();
        open.sort_unstable();
        open.truncate(count);
        let mut chosen = Vec::with_capacity(open.len());
        for (_, _, _, id) in open {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.join_later(now);
                chosen.push((entry.addr.clone(), entry.proven));
            }
        }
        chosen
    }

    /// How an attempt to join through an agent ended; `Ok` also says that it proved itself.
    pub fn join_ended(&mut self, id: &EndpointId, joined: bool, now: Instant) -> Vec<Effect> {
        let Some(entry) = self.entries.get_mut(id) else { return Vec::new() };
        if !joined {
            entry.fail(now);
            return Vec::new();
        }
        entry.proven = true;
        entry.failures = 0;
        vec![Effect::Located(entry.addr.clone())]
    }

    // ---- From one start to the next ----------------------------------------------------------------------------------

    /// Whether [`Directory::restore`] was called.
    #[must_use]
    pub fn is_restored(&self) -> bool {
        self.restored
    }

    /// Takes in what was kept at the last run, as hints: somebody who was alive then may not be now. Gives back those with
    /// addresses, the last alive first. What was altered since it was written is left out.
    pub fn restore(&mut self, saved: Vec<SavedPeer>, now: Instant, now_ms: u64) -> Vec<EndpointAddr> {
        self.restored = true;
        let mut saved = saved;
        saved.sort_unstable_by_key(|peer| std::cmp::Reverse(peer.last_success_ms));
        let mut addrs = Vec::new();
        for peer in saved {
            let signed = peer.signed.as_ref().and_then(|bytes| verify(bytes).ok());
            let signed = signed.filter(|signed| signed.announcement.id == peer.addr.id);
            let id = peer.addr.id;
            let Some(entry) = self.entry(id, Rank::Hint, now, &mut Vec::new()) else { continue };
            entry.merge_addrs(&peer.addr);
            entry.sources.extend(peer.sources);
            entry.sources.insert(Channel::Saved);
            if entry.name.is_empty() {
                entry.name = printable(&peer.name, NAME_CHARS_MAX);
            }
            entry.last_success_ms = entry.last_success_ms.max(Some(peer.last_success_ms));
            if !entry.addr.is_empty() {
                addrs.push(entry.addr.clone());
            }
            let mark = signed.map(|signed| signed.announcement.mark());
            if let Some(mark) = mark.filter(|mark| is_recent(mark, now_ms)) {
                self.remember(id, mark);
            }
        }
        addrs
    }

    /// What should be written down now: who is new or has moved, and signs of life now and then.
    pub fn unsaved(&mut self, now: Instant) -> Vec<SavedPeer> {
        let mut unsaved = Vec::new();
        for entry in self.entries.values_mut() {
            let (Some(alive), Some(last_success_ms)) = (entry.alive, entry.last_success_ms) else { continue };
            let due =
                entry.saved.is_none_or(|at| alive > at && now.saturating_duration_since(at) >= SAVE_EVERY);
            if entry.unsaved || due {
                entry.unsaved = false;
                entry.saved = Some(now);
                unsaved.push(SavedPeer {
                    addr: entry.addr.clone(),
                    name: entry.name.clone(),
                    sources: entry.sources.clone(),
                    last_success_ms,
                    signed: entry.signed.clone(),
                });
            }
        }
        unsaved
    }

    // ---- Room ---------------------------------------------------------------------------------------------------------

    /// The entry of an agent, a new one if there is room for it or somebody of no higher rank makes some.
    fn entry(
        &mut self,
        id: EndpointId,
        rank: Rank,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Option<&mut Entry> {
        if Some(id) == self.me {
            return None;
        }
        if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(&id) {
            let others = self.entries.iter().filter(|(_, entry)| !entry.connected && entry.rank() <= rank);
            let least = *others.min_by_key(|(_, entry)| entry.worth())?.0;
            self.entries.remove(&least);
            effects.push(Effect::Forgotten(least));
        }
        Some(self.entries.entry(id).or_insert_with(|| Entry::new(id, now)))
    }

    fn remember(&mut self, id: EndpointId, mark: Mark) {
        if self.marks.len() >= MARKS_MAX && !self.marks.contains_key(&id) {
            let oldest = self.marks.iter().min_by_key(|(_, mark)| mark.timestamp_ms).map(|(id, _)| *id);
            oldest.and_then(|oldest| self.marks.remove(&oldest));
        }
        self.marks.insert(id, mark);
    }
}

/// Whether an announcement could still be replayed.
fn is_recent(mark: &Mark, now_ms: u64) -> bool {
    mark.timestamp_ms.saturating_add(CLOCKS_APART_MAX_MS) >= now_ms
}

/// Another order of ids for each seed.
fn shuffled(id: &EndpointId, seed: u64) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&id.as_bytes()[..8]);
    (u64::from_le_bytes(first) ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31) ^ seed
}
