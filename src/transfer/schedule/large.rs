//! Large contents that are complete, and what becomes of them: stored, taken again from one source alone, or started over.

use std::collections::BTreeSet;

use super::decision::gather;
use super::parts::PartsPhase;
use super::wanted::{Requested, Wanted, WantedState};
use super::{
    Committed, FetchFailure, HEDGE_FACTOR, HEDGE_SECS, ScheduleDecision, Scheduler, SessionId, WantKey,
};

impl Scheduler {
    /// What others sent of a content was thrown away, as [`ScheduleDecision::Restrict`] said; or that failed.
    pub fn restricted(&mut self, key: WantKey, result: Result<(), FetchFailure>) -> Vec<ScheduleDecision> {
        let mut out = Vec::new();
        if let Some(parts) = self.parts_mut(&key).filter(|parts| parts.phase == PartsPhase::Restricting) {
            parts.phase = PartsPhase::Fetching;
            let only = parts.only;
            match result {
                Ok(()) => {}
                Err(FetchFailure::Store(_)) => self.paused = true,
                Err(failure) => self.fail_all(key, failure.reason(), &mut out),
            }
            if self.wanted.get(&key).is_some_and(|w| only.is_none_or(|only| w.sources.contains(&only))) {
                self.requeue(key);
            } else {
                // It left meanwhile.
                self.choose_only(key, &[], &mut out);
            }
            self.weigh_roots(key, &mut out);
        }
        out.extend(self.assign());
        gather(out)
    }

    /// What became of [`ScheduleDecision::Commit`].
    pub fn committed(&mut self, key: WantKey, result: Committed) -> Vec<ScheduleDecision> {
        let mut out = Vec::new();
        if self.parts_mut(&key).is_none_or(|parts| parts.phase != PartsPhase::Committing) {
            return out;
        }
        match result {
            Committed::Stored => self.stored(key, &mut out),
            Committed::NotTaken(failure) => {
                if let Some(parts) = self.parts_mut(&key) {
                    parts.phase = PartsPhase::Complete;
                }
                match failure {
                    FetchFailure::Store(_) => {
                        self.paused = true;
                        self.ready.insert(key);
                    }
                    failure @ (FetchFailure::Source(_)
                    | FetchFailure::Interrupted(_)
                    | FetchFailure::WrongBytes(_)
                    | FetchFailure::NoProof(_)
                    | FetchFailure::FalseProof(_)
                    | FetchFailure::Asset(_)) => self.fail_all(key, failure.reason(), &mut out),
                }
            }
            Committed::WrongFrom(liar) => {
                self.start_over(key);
                if let Some(liar) = liar {
                    let reason = "it sent wrong bytes".to_owned();
                    self.failed(liar, key, FetchFailure::WrongBytes(reason), &mut out);
                }
                self.keep_to_one(key, &mut out);
            }
            Committed::WrongFromSeveral(givers) => {
                self.start_over(key);
                self.take_from_others(key, &givers, &mut out);
            }
            Committed::WrongRoot(givers) => self.root_is_wrong(key, &givers, &mut out),
            Committed::Again => {
                self.start_over(key);
                self.keep_to_one(key, &mut out);
            }
        }
        self.drop_if_orphan(key, &mut out);
        out.extend(self.assign());
        gather(out)
    }

    /// What became of [`ScheduleDecision::Apply`].
    pub fn applied(&mut self, key: WantKey, result: Result<(), FetchFailure>) -> Vec<ScheduleDecision> {
        let mut out = Vec::new();
        if let Some(wanted) =
            self.wanted.get_mut(&key).filter(|wanted| matches!(wanted.state, WantedState::Stored))
        {
            match result {
                Ok(()) => self.stored(key, &mut out),
                Err(FetchFailure::Store(_)) => {
                    self.paused = true;
                    self.ready.insert(key);
                }
                Err(FetchFailure::Source(_)) => {
                    // The content went away again.
                    let root = wanted.claims.best(None);
                    wanted.state = WantedState::new(wanted.record.size, root, &self.limits);
                    self.wanted_bytes = self.wanted_bytes.saturating_add(wanted.record.size);
                    self.requeue(key);
                }
                Err(failure) => self.fail_all(key, failure.reason(), &mut out),
            }
        }
        self.drop_if_orphan(key, &mut out);
        out.extend(self.assign());
        gather(out)
    }

    /// A content that somebody said something wrong about, and that nobody proves, comes from one source at a time.
    fn keep_to_one(&mut self, key: WantKey, out: &mut Vec<ScheduleDecision>) {
        let Some(wanted) = self.wanted.get(&key) else { return };
        let WantedState::Parts(parts) = &wanted.state else { return };
        let is_open = parts.phase == PartsPhase::Fetching && parts.only.is_none();
        if is_open && parts.root.is_none() && wanted.claims.were_wrong() {
            self.take_from_others(key, &[], out);
        }
    }

    /// All parts are wanted once more; those that are here after all cost nothing.
    pub(super) fn start_over(&mut self, key: WantKey) {
        if let Some(parts) = self.parts_mut(&key) {
            let done = parts.start_over();
            self.wanted_bytes = self.wanted_bytes.saturating_add(done);
            self.requeue(key);
        }
    }

    /// Where the only source of a content turns out to be much slower than another one, that one is asked alone.
    pub(super) fn replace_slow_only(&mut self, out: &mut Vec<ScheduleDecision>) {
        // Only what is on its way has a source that is slow: that is little, and in order.
        let under_way: BTreeSet<WantKey> = self
            .flights
            .values()
            .filter_map(|flight| match flight.work {
                Requested::Part { key, .. } => Some(key),
                Requested::Assets(_) => None,
            })
            .collect();
        let slow: Vec<WantKey> = under_way
            .into_iter()
            .filter(|key| self.wanted.get(key).is_some_and(|wanted| self.is_too_slow_alone(wanted)))
            .collect();
        for key in slow {
            self.choose_only(key, &[], out);
        }
    }

    /// Whether another source than the only one of a content is expected to be done with all of it much sooner. What is here
    /// is lost with the change, so one whose speed is not known has its chance early on, and once.
    #[expect(clippy::cast_precision_loss, reason = "times are for comparing")]
    fn is_too_slow_alone(&self, wanted: &Wanted) -> bool {
        let WantedState::Parts(parts) = &wanted.state else { return false };
        let Some(only) = parts.only.filter(|_| parts.phase == PartsPhase::Fetching) else { return false };
        let rate_of = |session: &SessionId| {
            self.sources.get(session).map(|source| source.rate).filter(|rate| *rate > 0.0)
        };
        let Some(rate) = rate_of(&only) else { return false };
        let (size, left) = (wanted.record.size, wanted.open_bytes());
        let is_early = left > size / 4 * 3;
        wanted.sources.iter().filter(|other| **other != only).any(|other| {
            let all = match rate_of(other) {
                Some(rate) => size as f64 / rate,
                None if is_early && !parts.tried.contains(other) => 0.0,
                None => f64::INFINITY,
            };
            all * HEDGE_FACTOR + HEDGE_SECS < left as f64 / rate
        })
    }

    /// Which source of a content is expected to be done first, given what each has sent already. Of one whose speed is not known,
    /// the best is hoped; that it is slow shows soon. One that was too slow just now is the last.
    #[expect(clippy::cast_precision_loss, reason = "times are for comparing")]
    pub(super) fn fastest(&self, key: WantKey, givers: &[(SessionId, u64)]) -> Option<SessionId> {
        let wanted = self.wanted.get(&key)?;
        let size = wanted.record.size;
        let secs = |session: SessionId| {
            let given = givers.iter().find(|giver| giver.0 == session).map_or(0, |giver| giver.1);
            let left = size.saturating_sub(given) as f64;
            let source = self.sources.get(&session);
            if source.is_some_and(|source| source.rests(self.now)) {
                return f64::INFINITY;
            }
            let rate = source.map_or(0.0, |source| source.rate);
            // Of those whose speed is not known, who sent the most.
            if rate > 0.0 { left / rate } else { left * 1e-12 }
        };
        wanted.sources.iter().copied().min_by(|a, b| secs(*a).total_cmp(&secs(*b)))
    }

    /// From now on one source alone gives a content.
    pub(super) fn choose_only(
        &mut self,
        key: WantKey,
        givers: &[(SessionId, u64)],
        out: &mut Vec<ScheduleDecision>,
    ) {
        let Some(only) = self.fastest(key, givers) else { return };
        let requests = self.wanted.get(&key).map(Wanted::requests).unwrap_or_default();
        for request in requests {
            self.take_back(request, key, out);
        }
        self.start_over(key);
        let Some(parts) = self.parts_mut(&key) else { return };
        parts.only = Some(only);
        parts.tried.insert(only);
        parts.phase = PartsPhase::Restricting;
        out.push(ScheduleDecision::Restrict { key, session: only });
    }
}
