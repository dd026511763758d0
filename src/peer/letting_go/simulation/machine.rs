//! A machine: what its disk has, what its process knows, and its store's decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::PlantedBug;
use crate::peer::letting_go::{Dropping, HolderId, PlaceTag};
use crate::record::ContentHash;
use crate::store::promises::{DropAnswer, KEPT_FOR, LastingPromise, MarkAnswer, OwnCopy, PromiseAnswer};

#[derive(Clone, Debug, Default)]
pub(super) struct SimCopy {
    pub(super) held: bool,
    /// Its bytes are not right any more, and nobody has noticed.
    pub(super) rotten: bool,
    marked: bool,
    promised: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct DropMachine {
    pub(super) place: usize,
    /// It promises everything and keeps nothing.
    pub(super) lies: bool,
    disk: BTreeMap<ContentHash, SimCopy>,
    /// Which process runs, and since when; none between a kill and the next start.
    pub(super) run: u64,
    pub(super) started: Option<Duration>,
    /// How far the time of day is off.
    pub(super) off: Duration,
    /// Until when promises last that this process gave.
    until: BTreeMap<(ContentHash, usize), Duration>,
    pub(super) job: Option<Dropping>,
    /// Machines that its user shut out.
    pub(super) denied: BTreeSet<usize>,
}

pub(super) fn tag(place: usize) -> PlaceTag {
    [u8::try_from(place).expect("few places") + 1; 32]
}

impl DropMachine {
    pub(super) fn new(place: usize, lies: bool) -> Self {
        Self {
            place,
            lies,
            disk: BTreeMap::new(),
            run: 0,
            started: Some(Duration::ZERO),
            off: Duration::ZERO,
            until: BTreeMap::new(),
            job: None,
            denied: BTreeSet::new(),
        }
    }

    /// How long the process has run.
    pub(super) fn uptime(&self, now: Duration) -> Duration {
        now.saturating_sub(self.started.unwrap_or(now))
    }

    /// What is kept of it is what was durable.
    pub(super) fn kill(&mut self, bug: Option<PlantedBug>) {
        self.run += 1;
        self.started = None;
        self.job = None;
        self.until.clear();
        if bug == Some(PlantedBug::PromiseNotDurable) {
            self.disk.values_mut().for_each(|copy| copy.promised.clear());
        }
    }

    pub(super) fn start(&mut self, now: Duration) {
        self.started = Some(now);
        // Whoever marked them is no more.
        self.disk.values_mut().for_each(|copy| copy.marked = false);
    }

    fn clock(&self, now: Duration, bug: Option<PlantedBug>) -> Duration {
        let uptime = self.uptime(now);
        if bug == Some(PlantedBug::BelievesTheTimeOfDay) { uptime + self.off } else { uptime }
    }

    /// Until when it is promised to that one, by its uptime.
    fn until(&self, hash: ContentHash, to: usize) -> Duration {
        self.until.get(&(hash, to)).copied().unwrap_or(KEPT_FOR)
    }

    fn own_copy(&self, hash: ContentHash) -> OwnCopy {
        let Some(copy) = self.disk.get(&hash) else { return OwnCopy::default() };
        let lasting =
            copy.promised.iter().map(|to| LastingPromise { to: tag(*to), until: self.until(hash, *to) });
        let promised = lasting.max_by_key(|promised| promised.until);
        OwnCopy { held: copy.held, dropping: copy.marked, promised }
    }

    pub(super) fn copy(&mut self, hash: ContentHash) -> &mut SimCopy {
        self.disk.entry(hash).or_default()
    }

    /// Whether it is here, and right.
    pub(super) fn has(&self, hash: ContentHash) -> bool {
        self.disk.get(&hash).is_some_and(|copy| copy.held && !copy.rotten)
    }

    pub(super) fn is_rotten(&self, hash: ContentHash) -> bool {
        self.disk.get(&hash).is_some_and(|copy| copy.rotten)
    }

    pub(super) fn lose_everything(&mut self) {
        self.disk.values_mut().for_each(|copy| copy.held = false);
    }

    pub(super) fn mark(&mut self, hash: ContentHash, now: Duration, bug: Option<PlantedBug>) -> MarkAnswer {
        let mut copy = self.own_copy(hash);
        if bug == Some(PlantedBug::MarksWhatIsPromised) {
            copy.promised = None;
        }
        let answer = copy.mark(self.clock(now, bug));
        if answer == MarkAnswer::Marked {
            self.copy(hash).marked = true;
        }
        answer
    }

    pub(super) fn clear(&mut self, hash: ContentHash) {
        self.copy(hash).marked = false;
    }

    /// Reads it; whether it is here, and right.
    pub(super) fn verify(&mut self, hash: ContentHash, bug: Option<PlantedBug>) -> bool {
        let copy = self.copy(hash);
        if copy.rotten && bug != Some(PlantedBug::ReadsNothing) {
            (copy.held, copy.rotten) = (false, false);
        }
        copy.held
    }

    pub(super) fn promise(
        &mut self,
        hash: ContentHash,
        to: usize,
        now: Duration,
        bug: Option<PlantedBug>,
    ) -> PromiseAnswer {
        let mut copy = self.own_copy(hash);
        if bug == Some(PlantedBug::PromisesWhatGoes) {
            copy.dropping = false;
        }
        let answer = copy.promise();
        if answer == PromiseAnswer::Promised {
            let until = self.clock(now, bug) + KEPT_FOR;
            self.until.insert((hash, to), until);
            let promised = &mut self.copy(hash).promised;
            if !promised.contains(&to) {
                promised.push(to);
            }
        }
        answer
    }

    pub(super) fn let_go(
        &mut self,
        hash: ContentHash,
        by: Duration,
        now: Duration,
        bug: Option<PlantedBug>,
    ) -> DropAnswer {
        let mut copy = self.own_copy(hash);
        if matches!(bug, Some(PlantedBug::MarksWhatIsPromised | PlantedBug::PromisesWhatGoes)) {
            copy.promised = None;
        }
        let keepers = self.job.as_ref().map(|job| job.counted_on(&hash)).unwrap_or_default();
        let is_denied = |keeper: &HolderId| self.denied.contains(&usize::from(keeper[0]));
        if keepers.iter().any(is_denied) && bug != Some(PlantedBug::CountsTheDenied) {
            return DropAnswer::Unpromised;
        }
        let by = if bug == Some(PlantedBug::GoesLate) { Duration::MAX } else { by };
        let answer = copy.drop(by, self.clock(now, bug));
        if answer == DropAnswer::Dropped {
            let copy = self.copy(hash);
            (copy.held, copy.rotten, copy.marked) = (false, false, false);
        }
        answer
    }

    /// Whether it has it, right, and has promised that one to keep it for so long at least, as far as it knows.
    pub(super) fn keeps(
        &self,
        hash: ContentHash,
        to: usize,
        now: Duration,
        long: Duration,
        bug: Option<PlantedBug>,
    ) -> bool {
        let is_promised = self.disk.get(&hash).is_some_and(|copy| copy.promised.contains(&to));
        let lasts = self.until(hash, to).saturating_sub(self.clock(now, bug));
        self.has(hash) && is_promised && lasts >= long
    }
}
