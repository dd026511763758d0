//! Machines, what is between them, and what happens to them.

mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::machine::{DropMachine, tag};
use super::{PlantedBug, SimFigures};
use crate::peer::letting_go::{
    DropEffect, DropInput, DropOutcome, DropRules, Dropping, HolderId, KeepAnswer, Nonce, PlaceTag,
    PreparedCopy, proof_of,
};
use crate::record::ContentHash;
use crate::seeded::Dice;
use crate::store::promises::{DROP_WITHIN, DropAnswer, KEPT_FOR, MarkAnswer, PromiseAnswer};
use crate::transfer::schedule::SessionId;

const SIZE: u64 = 300_000;
/// How long users make trouble.
const TROUBLE: Duration = Duration::from_hours(60);
/// Between two looks of a command at the time.
const SIM_TICK: Duration = Duration::from_secs(20);
const EVENTS_MAX: usize = 200_000;

#[derive(Clone, Copy, Debug)]
struct SimQuestion {
    from: usize,
    to: usize,
    /// The process that asked.
    run: u64,
    hash: ContentHash,
    nonce: Nonce,
    place: PlaceTag,
}

#[derive(Debug)]
enum DropEvent {
    /// A user lets go of everything on a machine.
    Drop(usize),
    Tick(usize, u64),
    /// A store does what its process asked of it.
    Store(usize, u64, DropEffect),
    /// The process hears what came of it.
    Told(usize, u64, DropInput),
    Asked(SimQuestion),
    /// The process that was asked has read its copy, which is right or not.
    Read(SimQuestion, u64, bool),
    Answered(SimQuestion, KeepAnswer),
    Kill(usize),
    Start(usize),
    SetClock(usize),
    Rot(usize, ContentHash),
    /// A user deletes an asset, and all machines hear of it.
    Delete(ContentHash),
    /// It is read on a machine, and fetched.
    Fetch(usize, ContentHash),
    /// A machine's user shuts another one out.
    Deny(usize, usize),
    /// Who lies loses what it has.
    Lose(usize),
}

pub(super) struct DropWorld {
    dice: Dice,
    bug: Option<PlantedBug>,
    now: Duration,
    min_copies: usize,
    machines: Vec<DropMachine>,
    contents: Vec<ContentHash>,
    deleted: Vec<ContentHash>,
    /// Contents that had a copy at an honest place in the beginning.
    guarded: Vec<ContentHash>,
    /// Places that lie.
    liars: usize,
    events: BTreeMap<(Duration, u64), DropEvent>,
    scheduled: u64,
    figures: SimFigures,
    is_told: bool,
}

fn sample(hash: ContentHash) -> Bytes {
    Bytes::copy_from_slice(&hash.0)
}

impl DropWorld {
    pub(super) fn new(seed: u64, bug: Option<PlantedBug>) -> Self {
        let mut dice = Dice(seed);
        let min_copies = 1 + dice.index(3);
        let count = min_copies + 1 + dice.index(4);
        // Some share a place.
        let mut places: Vec<usize> = Vec::new();
        for n in 0..count {
            let shared = n > 0 && dice.one_in(4);
            places.push(if shared { places[dice.index(n)] } else { n });
        }
        let lying: BTreeSet<usize> = (0..dice.index(min_copies)).map(|_| places[dice.index(count)]).collect();
        let mut machines: Vec<DropMachine> =
            places.iter().map(|place| DropMachine::new(*place, lying.contains(place))).collect();
        let contents: Vec<ContentHash> = (1..=2).map(|n| ContentHash([n; 32])).collect();
        for hash in &contents {
            for machine in &mut machines {
                machine.copy(*hash).held = !dice.one_in(6);
            }
        }
        let mut world = Self {
            dice,
            bug,
            now: Duration::ZERO,
            min_copies,
            machines,
            contents,
            deleted: Vec::new(),
            guarded: Vec::new(),
            liars: lying.len(),
            events: BTreeMap::new(),
            scheduled: 0,
            figures: SimFigures::default(),
            is_told: std::env::var_os("CAN_SYNC_SIM_TOLD").is_some(),
        };
        world.guarded =
            world.contents.iter().copied().filter(|hash| world.honest_copies(*hash) > 0).collect();
        world.plan();
        world
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.is_told {
            println!("{:?} {}", self.now, what());
        }
    }

    fn at(&mut self, after: Duration, event: DropEvent) {
        self.scheduled += 1;
        self.events.insert((self.now + after, self.scheduled), event);
    }

    /// Copies that are right, at places that do not lie.
    fn honest_copies(&self, hash: ContentHash) -> usize {
        self.machines.iter().filter(|machine| !machine.lies && machine.has(hash)).count()
    }

    /// How long something takes on the way.
    fn delay(&mut self) -> Duration {
        let most = match self.dice.below(40) {
            0 => Duration::from_hours(30),
            1 | 2 => Duration::from_mins(90),
            3..7 => Duration::from_mins(2),
            _ => Duration::from_secs(2),
        };
        self.dice.up_to(most)
    }

    pub(super) fn run(mut self) -> Result<SimFigures, String> {
        for _ in 0..EVENTS_MAX {
            let Some(((at, _), event)) = self.events.pop_first() else { return Ok(self.figures) };
            self.now = at;
            self.perform(event)?;
            for hash in &self.guarded {
                if !self.deleted.contains(hash) && self.honest_copies(*hash) == 0 {
                    return Err(format!("after {at:?} nobody has {} any more", hash.0[0]));
                }
            }
        }
        Err(format!("it does not end: {} events are left", self.events.len()))
    }

    fn is_running(&self, machine: usize, run: u64) -> bool {
        let machine = &self.machines[machine];
        machine.run == run && machine.started.is_some()
    }

    fn perform(&mut self, event: DropEvent) -> Result<(), String> {
        match event {
            DropEvent::Drop(machine) => self.begin(machine)?,
            DropEvent::Tick(machine, run) if self.is_running(machine, run) => {
                self.step(machine, DropInput::Tick)?;
                if self.machines[machine].job.as_ref().is_none_or(Dropping::is_over) {
                    self.finish(machine);
                } else {
                    self.at(SIM_TICK, DropEvent::Tick(machine, run));
                }
            }
            DropEvent::Store(machine, run, effect) if self.is_running(machine, run) => {
                self.store(machine, run, effect)?;
            }
            DropEvent::Told(machine, run, input) if self.is_running(machine, run) => {
                self.step(machine, input)?;
            }
            // Of a process that is no more.
            DropEvent::Tick(..) | DropEvent::Store(..) | DropEvent::Told(..) => {}
            DropEvent::Asked(question) => self.on_asked(question),
            DropEvent::Read(question, run, right) => self.on_read(question, run, right),
            DropEvent::Answered(question, answer) => self.on_answered(question, answer)?,
            DropEvent::Kill(machine) => self.kill(machine)?,
            DropEvent::Start(machine) => {
                self.tell(|| format!("{machine} starts"));
                self.machines[machine].start(self.now);
                self.others_hear(machine, true)?;
            }
            DropEvent::SetClock(machine) => self.machines[machine].off += Duration::from_hours(30),
            DropEvent::Rot(machine, hash) => self.rot(machine, hash),
            DropEvent::Delete(hash) => self.delete(hash),
            DropEvent::Fetch(machine, hash) => self.fetch(machine, hash),
            DropEvent::Deny(machine, denied) => self.deny(machine, denied)?,
            DropEvent::Lose(machine) => self.machines[machine].lose_everything(),
        }
        Ok(())
    }

    fn begin(&mut self, machine: usize) -> Result<(), String> {
        let dropper = &self.machines[machine];
        if dropper.started.is_none() || dropper.job.is_some() {
            return Ok(());
        }
        let less = usize::from(self.bug == Some(PlantedBug::OneLess));
        let (run, uptime, own_place) = (dropper.run, dropper.uptime(self.now), tag(dropper.place));
        let until = uptime + Duration::from_mins(5) + self.dice.up_to(Duration::from_hours(1));
        let rules = DropRules { min_copies: self.min_copies - less, own_place, until };
        self.tell(|| format!("{machine} lets go, with {} promises", self.min_copies));
        let job = Dropping::new(rules, self.contents.iter().map(|hash| (*hash, SIZE)));
        self.machines[machine].job = Some(job);
        for other in 0..self.machines.len() {
            let is_denied = self.machines[machine].denied.contains(&other);
            if other != machine && !is_denied && self.machines[other].started.is_some() {
                self.step(machine, holder_up(other))?;
            }
        }
        self.at(SIM_TICK, DropEvent::Tick(machine, run));
        Ok(())
    }

    fn finish(&mut self, machine: usize) {
        let Some(job) = self.machines[machine].job.take() else { return };
        for (_, outcome) in job.ended() {
            match outcome {
                DropOutcome::Dropped { .. } => self.figures.dropped += 1,
                DropOutcome::Kept(_) => self.figures.kept += 1,
            }
        }
    }

    fn step(&mut self, machine: usize, input: DropInput) -> Result<(), String> {
        let (uptime, run) = (self.machines[machine].uptime(self.now), self.machines[machine].run);
        let dice = &mut self.dice;
        let Some(job) = &mut self.machines[machine].job else { return Ok(()) };
        let effects = job.handle(input, uptime, &mut || dice.bytes());
        for effect in effects {
            if let DropEffect::Ask { session, hash, nonce, .. } = effect {
                let place = tag(self.machines[machine].place);
                let to = usize::try_from(session.0).map_err(|error| error.to_string())?;
                self.tell(|| format!("{machine} asks {to} for {}", hash.0[0]));
                let after = self.delay();
                if !self.dice.one_in(12) {
                    self.at(
                        after,
                        DropEvent::Asked(SimQuestion { from: machine, to, run, hash, nonce, place }),
                    );
                }
            } else {
                let after = if self.dice.one_in(30) { self.delay() } else { Duration::from_millis(5) };
                self.at(after, DropEvent::Store(machine, run, effect));
            }
        }
        Ok(())
    }

    fn store(&mut self, machine: usize, run: u64, effect: DropEffect) -> Result<(), String> {
        let (now, bug) = (self.now, self.bug);
        let dropper = &mut self.machines[machine];
        let input = match effect {
            DropEffect::Ask { .. } => return Ok(()),
            DropEffect::Prepare { hash, .. } => {
                let answer = match dropper.mark(hash, now, bug) {
                    // A store gives no wrong byte.
                    MarkAnswer::Marked if dropper.verify(hash, None) => {
                        Ok(PreparedCopy::Marked { sample: sample(hash) })
                    }
                    MarkAnswer::Marked => Err("it cannot be read".to_owned()),
                    answer @ (MarkAnswer::Promised(_) | MarkAnswer::NotHeld) => Ok(PreparedCopy::Not(answer)),
                };
                self.tell(|| format!("{machine} marks {}: {answer:?}", hash.0[0]));
                DropInput::Prepared { hash, answer }
            }
            DropEffect::Clear { hash } => {
                dropper.clear(hash);
                DropInput::Cleared { hash }
            }
            DropEffect::LetGo { hash, by } => {
                let answer = dropper.let_go(hash, by, now, bug);
                self.tell(|| format!("{machine} lets go of {}: {answer:?}", hash.0[0]));
                if answer == DropAnswer::Dropped {
                    self.check_dropped(machine, hash)?;
                }
                DropInput::LetGo { hash, answer: Ok(answer) }
            }
        };
        let after = if self.dice.one_in(30) { self.delay() } else { Duration::from_millis(5) };
        self.at(after, DropEvent::Told(machine, run, input));
        Ok(())
    }

    /// Who lets go has promises of enough honest places.
    fn check_dropped(&self, machine: usize, hash: ContentHash) -> Result<(), String> {
        if self.machines[machine].lies || self.deleted.contains(&hash) {
            return Ok(());
        }
        let (own, long) = (self.machines[machine].place, KEPT_FOR.saturating_sub(DROP_WITHIN));
        let keeps = |other: &DropMachine| {
            !other.lies && other.place != own && other.keeps(hash, machine, self.now, long, self.bug)
        };
        let others = self.machines.iter().enumerate();
        let counted = others.filter(|(n, other)| !self.machines[machine].denied.contains(n) && keeps(other));
        let places: BTreeSet<usize> = counted.map(|(_, other)| other.place).collect();
        if places.len() + self.liars < self.min_copies {
            let (found, needed) = (places.len(), self.min_copies);
            return Err(format!("{machine} lets go of {} with {found} of {needed} copies", hash.0[0]));
        }
        Ok(())
    }

    fn on_asked(&mut self, question: SimQuestion) {
        let (bug, SimQuestion { to, hash, nonce, place, .. }) = (self.bug, question);
        let holder = &mut self.machines[to];
        if holder.started.is_none() {
            return;
        }
        if holder.lies {
            let proof = proof_of(&nonce, &sample(hash));
            let answer = KeepAnswer::Promised { place: tag(holder.place), proof };
            return self.answer(question, answer);
        }
        if tag(holder.place) == place && bug != Some(PlantedBug::CountsMachines) {
            return self.answer(question, KeepAnswer::SamePlace);
        }
        let (run, right) = (holder.run, holder.verify(hash, bug));
        let most = if self.dice.one_in(8) { Duration::from_mins(20) } else { Duration::from_secs(3) };
        let after = self.dice.up_to(most);
        self.at(after, DropEvent::Read(question, run, right));
    }

    fn on_read(&mut self, question: SimQuestion, run: u64, right: bool) {
        let (now, bug) = (self.now, self.bug);
        let SimQuestion { from, to, hash, nonce, .. } = question;
        if !self.is_running(to, run) {
            return;
        }
        let holder = &mut self.machines[to];
        // What rots while it is read is found, too.
        if !right || !holder.verify(hash, bug) {
            return self.answer(question, KeepAnswer::Lacks);
        }
        let promised = holder.promise(hash, from, now, bug);
        // As if each machine were a place.
        let counts_machines = bug == Some(PlantedBug::CountsMachines);
        let place = if counts_machines { tag(100 + to) } else { tag(holder.place) };
        self.tell(|| format!("{to} promises {from} {}: {promised:?}", hash.0[0]));
        let answer = match promised {
            PromiseAnswer::Promised => KeepAnswer::Promised { place, proof: proof_of(&nonce, &sample(hash)) },
            PromiseAnswer::Dropping => KeepAnswer::Dropping,
            PromiseAnswer::NotHeld => KeepAnswer::Lacks,
            PromiseAnswer::TooMany => KeepAnswer::Unable,
        };
        self.answer(question, answer);
    }

    fn answer(&mut self, question: SimQuestion, answer: KeepAnswer) {
        let after = self.delay();
        if !self.dice.one_in(12) {
            self.at(after, DropEvent::Answered(question, answer));
        }
    }

    fn on_answered(&mut self, question: SimQuestion, answer: KeepAnswer) -> Result<(), String> {
        let SimQuestion { from, to, run, hash, nonce, .. } = question;
        if !self.is_running(from, run) {
            return Ok(());
        }
        self.step(from, DropInput::Answered { session: SessionId(to as u64), hash, nonce, answer })
    }
}

fn holder_up(machine: usize) -> DropInput {
    DropInput::HolderUp { session: SessionId(machine as u64), holder: holder_id(machine) }
}

fn holder_id(machine: usize) -> HolderId {
    [u8::try_from(machine).unwrap_or(u8::MAX); 32]
}
