//! Rendezvous slots: what all share, and what RendezvousActor does about them, with one channel.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use can_sync::testing::discovery::channel::Channel;
use can_sync::testing::discovery::slot::pace::{Timing, next_read, publishes};
use can_sync::testing::discovery::slot::{SLOTS, SlotEntry, SlotKeys, SlotReading};
use can_sync::testing::identity::Key;
use iroh::EndpointId;
use rand::RngExt as _;

use super::{SimEvent, Swarm};

/// A request and its answer.
const REQUEST: Duration = Duration::from_millis(80);
/// Requests at once.
const WIDTH: u32 = 8;
/// As RendezvousActor has them.
const RECLAIMS_MAX: u32 = 5;
const IN_COMPANY: usize = 4;
const ADDRESS_LIFE: Duration = Duration::from_mins(5);

/// Registers that the last writer wins, with the number of its version.
pub(super) struct SharedSlots {
    keys: SlotKeys,
    timing: Timing,
    registers: Vec<(u64, Vec<SlotEntry>)>,
}

impl SharedSlots {
    pub(super) fn new() -> Self {
        let keys = SlotKeys::Sealed { signing: Key::of_bytes([7; 32]), sealing: Key::of_bytes([8; 32]) };
        let registers = vec![(0, Vec::new()); usize::from(SLOTS)];
        Self { keys, timing: Timing::default(), registers }
    }
}

/// What one agent knows of the slots.
#[derive(Default)]
pub(super) struct SlotView {
    looks: Vec<SlotReading>,
    read: [Option<bool>; SLOTS as usize],
    thorough: bool,
    draw: f64,
    scanned_once: bool,
    published_once: bool,
    claimed: Option<u8>,
    reclaims: u32,
    quiet: u32,
    lookups: usize,
    locating: u32,
    wanted: VecDeque<EndpointId>,
    located: HashMap<EndpointId, Duration>,
}

#[derive(Debug)]
pub(super) enum SlotStep {
    Scan,
    /// The answer about this slot comes.
    Read(u8),
    LookUp(EndpointId),
    Publish,
    /// What was read of a slot before it is written.
    Claim {
        index: u8,
        overtaken: bool,
    },
    Write {
        index: u8,
        version: u64,
        entries: Vec<SlotEntry>,
        overtaken: bool,
    },
    Verify(u8),
    Verified(u8),
}

impl Swarm {
    pub(super) fn begin_slots(&mut self, n: usize) {
        self.agents[n].slots.looks = vec![SlotReading::Unread; usize::from(SLOTS)];
        // Its own record.
        self.figures.slot_writes += 1;
        self.after(Duration::ZERO, n, SimEvent::Slots(SlotStep::Scan));
        self.after(Duration::ZERO, n, SimEvent::Slots(SlotStep::Publish));
    }

    pub(super) fn on_slots(&mut self, n: usize, step: SlotStep) {
        match step {
            SlotStep::Scan => self.on_scan(n),
            SlotStep::Read(index) => self.on_read(n, index),
            SlotStep::LookUp(id) => self.on_looked_up(n, &id),
            SlotStep::Publish => {
                let alive = usize::try_from(self.alive_at(n)).unwrap_or(usize::MAX);
                let size = alive.max(self.agents[n].roster.connected_count()) + 1;
                let turn = publishes(size, self.random.random()) || !self.agents[n].slots.published_once;
                self.agents[n].slots.reclaims = 0;
                if turn {
                    self.claim(n, false);
                }
                let next = self.slots.timing.until_publish(self.random.random());
                self.after(next, n, SimEvent::Slots(SlotStep::Publish));
            }
            SlotStep::Claim { index, overtaken } => self.on_claim(n, index, overtaken),
            SlotStep::Write { index, version, entries, overtaken } => {
                self.on_write(n, index, version, entries, overtaken);
            }
            SlotStep::Verify(index) => {
                self.figures.slot_reads += 1;
                self.after(REQUEST, n, SimEvent::Slots(SlotStep::Verified(index)));
            }
            SlotStep::Verified(index) => self.on_verified(n, index),
        }
    }

    fn on_scan(&mut self, n: usize) {
        let (draw, again) = (self.random.random(), self.random.random());
        let company = self.agents[n].is_in_company();
        let view = &mut self.agents[n].slots;
        view.thorough = !company || !view.scanned_once;
        view.quiet = if company { view.quiet.saturating_add(1) } else { 0 };
        (view.read, view.draw, view.lookups) = ([None; SLOTS as usize], draw, 0);
        let (thorough, quiet) = (view.thorough, view.quiet);
        if thorough {
            for index in 0..SLOTS {
                self.figures.slot_reads += 1;
                let delay = REQUEST * (u32::from(index) / (WIDTH / 2) + 1);
                self.after(delay, n, SimEvent::Slots(SlotStep::Read(index)));
            }
        } else {
            self.read_next(n);
        }
        let next = self.slots.timing.until_scan(quiet, again);
        self.after(next, n, SimEvent::Slots(SlotStep::Scan));
    }

    fn read_next(&mut self, n: usize) {
        let view = &self.agents[n].slots;
        if let Some(index) = next_read(view.read, false, view.draw) {
            self.figures.slot_reads += 1;
            self.after(REQUEST, n, SimEvent::Slots(SlotStep::Read(index)));
        }
    }

    /// Notes what is in a slot now.
    fn note(&mut self, n: usize, index: u8) -> (u64, Vec<SlotEntry>) {
        let (version, entries) = self.slots.registers[usize::from(index)].clone();
        let (now, own) = (self.now, self.agents[n].id);
        let view = &mut self.agents[n].slots;
        view.looks[usize::from(index)] = SlotReading::Read(entries.clone());
        for entry in entries.iter().filter(|entry| entry.id != own) {
            let lately = view.located.get(&entry.id).is_some_and(|at| now < *at + ADDRESS_LIFE);
            if !lately && !view.wanted.contains(&entry.id) {
                view.wanted.push_back(entry.id);
            }
        }
        self.locate(n);
        (version, entries)
    }

    /// Looks for as many agents as may be looked for at once; in company, for few.
    fn locate(&mut self, n: usize) {
        let (now, company) = (self.now, self.agents[n].is_in_company());
        while self.agents[n].slots.locating < WIDTH {
            let view = &mut self.agents[n].slots;
            let Some(id) = view.wanted.pop_front() else { return };
            if company && view.lookups >= IN_COMPANY {
                continue;
            }
            view.lookups += 1;
            view.locating += 1;
            view.located.insert(id, now);
            self.figures.slot_reads += 1;
            self.after(REQUEST, n, SimEvent::Slots(SlotStep::LookUp(id)));
        }
    }

    fn on_read(&mut self, n: usize, index: u8) {
        let (_, entries) = self.note(n, index);
        let room = self.slots.keys.has_room(&entries, self.now_us());
        let view = &mut self.agents[n].slots;
        view.read[usize::from(index)] = Some(room);
        if !view.thorough {
            return self.read_next(n);
        }
        let gone = entries.iter().all(|entry| entry.id != self.agents[n].id);
        if gone && self.agents[n].slots.claimed == Some(index) && !self.agents[n].is_in_company() {
            self.lost(n);
        }
        let view = &mut self.agents[n].slots;
        if view.read.iter().all(Option::is_some) && !view.scanned_once {
            view.scanned_once = true;
            self.claim(n, false);
        }
    }

    fn on_looked_up(&mut self, n: usize, id: &EndpointId) {
        let (now, addr) = (self.instant(), self.agents[self.by_id[id]].addr());
        self.agents[n].slots.locating -= 1;
        self.agents[n].roster.candidate(addr.clone(), Channel::Relays, now);
        let effects = self.agents[n].directory.hint(&addr, Channel::Relays, now);
        self.carry_out(n, effects);
        self.dial_due(n);
        self.join_more(n);
        self.locate(n);
    }

    fn claim(&mut self, n: usize, overtaken: bool) {
        let agent = &self.agents[n];
        let Some(index) = self.slots.keys.claim(&agent.id, &agent.slots.looks, self.now_us()) else { return };
        self.figures.slot_reads += 1;
        self.after(REQUEST, n, SimEvent::Slots(SlotStep::Claim { index, overtaken }));
    }

    fn on_claim(&mut self, n: usize, index: u8, overtaken: bool) {
        let (version, entries) = self.note(n, index);
        let (now_us, own) = (self.now_us(), self.agents[n].id);
        let best = self.slots.keys.claim(&own, &self.agents[n].slots.looks, now_us);
        if best.is_some_and(|best| best != index) {
            return self.claim(n, overtaken);
        }
        let entries = self.slots.keys.with_own(own, &entries, now_us);
        self.figures.slot_writes += 1;
        self.after(REQUEST / 2, n, SimEvent::Slots(SlotStep::Write { index, version, entries, overtaken }));
    }

    fn on_write(&mut self, n: usize, index: u8, version: u64, entries: Vec<SlotEntry>, overtaken: bool) {
        let register = &mut self.slots.registers[usize::from(index)];
        if register.0 != version && !overtaken {
            return self.claim(n, true);
        }
        *register = (register.0 + 1, entries);
        let draw = self.random.random();
        let view = &mut self.agents[n].slots;
        (view.claimed, view.published_once) = (Some(index), true);
        let delay = self.slots.timing.until_verify(draw) * (view.reclaims + 1);
        self.after(delay, n, SimEvent::Slots(SlotStep::Verify(index)));
    }

    fn on_verified(&mut self, n: usize, index: u8) {
        let (_, entries) = self.note(n, index);
        if entries.iter().all(|entry| entry.id != self.agents[n].id) {
            self.lost(n);
        }
    }

    fn lost(&mut self, n: usize) {
        let view = &mut self.agents[n].slots;
        if view.claimed.take().is_some() && view.reclaims < RECLAIMS_MAX {
            view.reclaims += 1;
            self.claim(n, false);
        }
    }
}
