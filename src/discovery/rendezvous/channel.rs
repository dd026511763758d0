//! What RendezvousActor knows of one channel.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use iroh::{EndpointAddr, EndpointId};
use pkarr::{PublicKey, SignedPacket};
use tokio::time::Instant;

use super::work::Location;
use crate::discovery::channel::Channel;
use crate::discovery::network::{KeyLookup, NetworkError, Transport};
use crate::discovery::slot::{SLOTS, Slot, SlotReading};

/// Agents whose addresses, or lack of them, are remembered per channel: two days' slots hold 384.
pub const LOCATED_MAX: usize = 1024;
/// Agents that wait to be located, per channel; the oldest make room.
pub const QUEUE_MAX: usize = 256;
/// For how long addresses are taken from memory.
const ADDRESS_LIFE: Duration = Duration::from_mins(5);
/// An agent without a record is looked for again after this, then twice as long each time, up to the second.
const MISS_MIN: Duration = Duration::from_secs(5);
const MISS_MAX: Duration = Duration::from_mins(15);
/// Agents that one look locates while somebody is connected: gossip tells of the others.
const IN_COMPANY: usize = 4;

pub(super) struct RendezvousChannel {
    pub(super) channel: Channel,
    pub(super) transport: Arc<Counted>,
    pub(super) scan_generation: u64,
    pub(super) publish_generation: u64,
    pub(super) busy: Busy,
    /// Looks that have begun, and whether one has ended well.
    pub(super) scans: u64,
    pub(super) scanned_once: bool,
    pub(super) published_once: bool,
    /// Looks since somebody is connected.
    pub(super) quiet: u32,
    pub(super) failures: u32,
    /// Writes that were repeated this period.
    pub(super) reclaims: u32,
    /// Where we wrote ourselves last, unless that was lost.
    pub(super) claimed: Option<Slot>,
    /// Our addresses changed, and that is about to be written.
    pub(super) moving: bool,
    /// How often that happened lately.
    pub(super) moves: u32,
    /// When our own record was written, by both clocks, and with which addresses.
    record: Option<((Instant, u64), EndpointAddr)>,
    day: u64,
    looks: Vec<SlotReading>,
    /// Agents that wrote a slot last, who are alive, before those that they listed.
    writers: VecDeque<EndpointId>,
    listed: VecDeque<EndpointId>,
    /// Agents that a user named.
    asked: VecDeque<EndpointId>,
    queued: HashSet<EndpointId>,
    locating: usize,
    lookups: usize,
    located: HashMap<EndpointId, Located>,
}

#[derive(Default)]
pub(super) struct Busy {
    pub(super) scanning: bool,
    pub(super) publishing: bool,
    pub(super) verifying: bool,
}

/// What came of looking for an agent's record.
struct Located {
    at: Instant,
    addr: Option<EndpointAddr>,
    misses: u32,
}

impl RendezvousChannel {
    pub(super) fn new(channel: Channel, transport: Arc<dyn Transport>) -> Self {
        let transport =
            Arc::new(Counted { transport, reads: AtomicU64::default(), writes: AtomicU64::default() });
        Self {
            channel,
            transport,
            scan_generation: 0,
            publish_generation: 0,
            busy: Busy::default(),
            scans: 0,
            scanned_once: false,
            published_once: false,
            quiet: 0,
            failures: 0,
            reclaims: 0,
            claimed: None,
            moving: false,
            moves: 0,
            record: None,
            day: 0,
            looks: vec![SlotReading::Unread; usize::from(SLOTS)],
            writers: VecDeque::new(),
            listed: VecDeque::new(),
            asked: VecDeque::new(),
            queued: HashSet::new(),
            locating: 0,
            lookups: 0,
            located: HashMap::new(),
        }
    }

    pub(super) fn describe(&self) -> String {
        let (reads, writes) = self.transport.counts();
        let mut text = format!("{}: {reads} reads, {writes} writes", self.channel.name());
        // Writing to a string does not fail.
        let _ = match self.claimed {
            Some(slot) => write!(text, ", slot {}", slot.index),
            None => write!(text, ", no slot"),
        };
        if self.failures > 0 {
            let _ = write!(text, ", failing ({} times)", self.failures);
        }
        text
    }

    pub(super) fn waiting(&self) -> usize {
        self.queued.len()
    }

    pub(super) fn begin_scan(&mut self, contact: bool) {
        self.busy.scanning = true;
        self.scans += 1;
        self.lookups = 0;
        self.quiet = if contact { self.quiet.saturating_add(1) } else { 0 };
    }

    /// What is known of that day's slots.
    pub(super) fn looks_of(&mut self, day: u64) -> &mut Vec<SlotReading> {
        if self.day != day {
            self.day = day;
            self.looks.fill(SlotReading::Unread);
        }
        &mut self.looks
    }

    /// The same for a write, which tries again what was closed: that may have been the channel's fault.
    pub(super) fn worth_a_try(&mut self, day: u64) -> Vec<SlotReading> {
        let mut looks = self.looks_of(day).clone();
        looks
            .iter_mut()
            .filter(|look| **look == SlotReading::Closed)
            .for_each(|look| *look = SlotReading::Unread);
        looks
    }

    /// A slot held these, its writer first.
    pub(super) fn wanted(&mut self, ids: impl Iterator<Item = EndpointId>) {
        for (place, id) in ids.enumerate() {
            if !self.queued.insert(id) {
                continue;
            }
            if place == 0 { &mut self.writers } else { &mut self.listed }.push_back(id);
            self.make_room();
        }
    }

    /// A user named this one; it comes before all that slots hold.
    pub(super) fn asked(&mut self, id: EndpointId) {
        if !self.queued.insert(id) {
            self.writers.retain(|other| *other != id);
            self.listed.retain(|other| *other != id);
            if self.asked.contains(&id) {
                return;
            }
        }
        self.asked.push_back(id);
        self.make_room();
    }

    fn make_room(&mut self) {
        if self.queued.len() > QUEUE_MAX {
            let oldest = self.listed.pop_front().or_else(|| self.writers.pop_front());
            let oldest = oldest.or_else(|| self.asked.pop_front());
            oldest.map(|oldest| self.queued.remove(&oldest));
        }
    }

    /// The agent to hand on or look for next; none when enough lookups are under way.
    pub(super) fn next_wanted(&mut self, contact: bool, now: Instant) -> Option<Location> {
        while self.locating < self.transport.width() {
            // An agent that only writes names of others down does not keep us from those who are there themselves.
            let others = self.locating < (self.transport.width() / 2).max(1);
            let asked = self.asked.pop_front();
            let id = match asked.or_else(|| self.writers.pop_front()) {
                Some(id) => id,
                None if others => self.listed.pop_front()?,
                None => return None,
            };
            self.queued.remove(&id);
            match self.located.get(&id) {
                Some(Located { at, addr: Some(addr), .. }) if now.duration_since(*at) < ADDRESS_LIFE => {
                    return Some(Location::Known(addr.clone()));
                }
                Some(Located { at, addr: None, misses }) if now.duration_since(*at) < pause(*misses) => {}
                _ if asked.is_none() && contact && self.lookups >= IN_COMPANY => {}
                _ => {
                    self.locating += 1;
                    self.lookups += usize::from(asked.is_none());
                    return Some(Location::LookUp(id));
                }
            }
        }
        None
    }

    /// A lookup is over. One that failed says nothing of the agent, so the next look tries again.
    pub(super) fn located(
        &mut self,
        id: EndpointId,
        addr: &Result<Option<EndpointAddr>, NetworkError>,
        now: Instant,
    ) {
        self.locating = self.locating.saturating_sub(1);
        let Ok(addr) = addr else { return };
        if self.located.len() >= LOCATED_MAX && !self.located.contains_key(&id) {
            let oldest = self.located.iter().min_by_key(|(_, located)| located.at).map(|(id, _)| *id);
            oldest.map(|oldest| self.located.remove(&oldest));
        }
        let before = self.located.get(&id).map_or(0, |located| located.misses);
        let misses = if addr.is_some() { 0 } else { before.saturating_add(1) };
        self.located.insert(id, Located { at: now, addr: addr.clone(), misses });
    }

    /// Whether our record has to be written: never was, lately not, or with other addresses. The network forgets it while the
    /// machine sleeps, too.
    pub(super) fn record_is_stale(
        &self,
        addr: &EndpointAddr,
        refresh: Duration,
        (now, now_us): (Instant, u64),
    ) -> bool {
        self.record.as_ref().is_none_or(|((at, at_us), written)| {
            let age = now.duration_since(*at).max(Duration::from_micros(now_us.saturating_sub(*at_us)));
            written != addr || age >= refresh
        })
    }

    pub(super) fn record_written(&mut self, addr: EndpointAddr, now: (Instant, u64)) {
        self.record = Some((now, addr));
    }

    /// The addresses that were written last in this run.
    pub(super) fn record_addr(&self) -> Option<&EndpointAddr> {
        self.record.as_ref().map(|(_, addr)| addr)
    }

    /// Somebody wrote over our record.
    pub(super) fn forget_record(&mut self) {
        self.record = None;
    }

    /// Forgets how the channel did, what was found out through it, and that our record was written.
    pub(super) fn begin_afresh(&mut self) {
        (self.quiet, self.failures, self.moves) = (0, 0, 0);
        self.record = None;
        self.located.clear();
    }
}

fn pause(misses: u32) -> Duration {
    MISS_MIN.saturating_mul(2_u32.saturating_pow(misses.saturating_sub(1))).min(MISS_MAX)
}

/// A transport, and how often it was used.
#[derive(Debug)]
pub(super) struct Counted {
    transport: Arc<dyn Transport>,
    reads: AtomicU64,
    writes: AtomicU64,
}

impl Counted {
    fn counts(&self) -> (u64, u64) {
        (self.reads.load(Ordering::Relaxed), self.writes.load(Ordering::Relaxed))
    }
}

impl Transport for Counted {
    fn resolve(&self, key: PublicKey) -> BoxFuture<'_, Result<KeyLookup, NetworkError>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.transport.resolve(key)
    }

    fn publish(&self, packet: SignedPacket) -> BoxFuture<'_, Result<(), NetworkError>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.transport.publish(packet)
    }

    fn width(&self) -> usize {
        self.transport.width()
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;

    #[derive(Debug)]
    struct Nowhere;

    impl Transport for Nowhere {
        fn resolve(&self, _: PublicKey) -> BoxFuture<'_, Result<KeyLookup, NetworkError>> {
            Box::pin(async { Ok(KeyLookup::Nothing) })
        }

        fn publish(&self, _: SignedPacket) -> BoxFuture<'_, Result<(), NetworkError>> {
            Box::pin(async { Ok(()) })
        }

        fn width(&self) -> usize {
            1
        }
    }

    fn id(n: u16) -> EndpointId {
        let mut key = [1; 32];
        key[..2].copy_from_slice(&n.to_le_bytes());
        SecretKey::from_bytes(&key).public()
    }

    #[test]
    fn a_record_is_written_anew_after_the_machine_slept() {
        const HOUR: Duration = Duration::from_hours(1);
        let mut line = RendezvousChannel::new(Channel::Dht, Arc::new(Nowhere));
        let addr = EndpointAddr::new(id(1));
        let now = Instant::now();
        assert!(line.record_is_stale(&addr, HOUR, (now, 1_000)));
        line.record_written(addr.clone(), (now, 1_000));
        assert!(!line.record_is_stale(&addr, HOUR, (now + HOUR / 2, 1_000 + 1_800_000_000)));
        assert!(line.record_is_stale(&addr, HOUR, (now + HOUR, 2_000)), "the wall clock was set back");
        assert!(
            line.record_is_stale(&addr, HOUR, (now, 1_000 + 3_600_000_000)),
            "the other clock stood still"
        );
    }

    #[test]
    fn whom_a_user_named_comes_first_and_stays_bounded() {
        let mut line = RendezvousChannel::new(Channel::Dht, Arc::new(Nowhere));
        line.wanted([id(1), id(2)].into_iter());
        line.asked(id(2));
        line.asked(id(2));
        let Some(Location::LookUp(first)) = line.next_wanted(true, Instant::now()) else { panic!("nobody") };
        assert_eq!(first, id(2));
        for n in 10..2000 {
            line.asked(id(n));
        }
        assert_eq!(line.waiting(), QUEUE_MAX);
        assert_eq!(line.asked.len() + line.writers.len() + line.listed.len(), QUEUE_MAX);
    }
}
