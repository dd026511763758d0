//! Giving out work: every source with room gets the next pack, asset or part, and one that is done helps a slower one.

use std::collections::HashSet;

use super::parts::PartsPhase;
use super::wanted::{Flight, Requested, WantedState, charge};
use super::{
    HEDGE_FACTOR, HEDGE_SECS, PACK_ASSETS, PACK_BYTES, ScheduleDecision, Scheduler, SessionId, WantKey,
};
use crate::record::{AssetRecord, LibraryId};

impl Scheduler {
    /// Gives every source with room something to do, and the store what is complete.
    pub(super) fn assign(&mut self) -> Vec<ScheduleDecision> {
        let mut decisions = Vec::new();
        if self.paused {
            return decisions;
        }
        while let Some(key) = self.ready.pop_first() {
            let Some(wanted) = self.wanted.get_mut(&key) else { continue };
            wanted.is_newer = false;
            decisions.push(match &mut wanted.state {
                WantedState::Parts(parts) => {
                    parts.phase = PartsPhase::Committing;
                    ScheduleDecision::Commit(key, wanted.record.clone())
                }
                WantedState::Stored => ScheduleDecision::Apply(key, wanted.record.clone()),
                WantedState::Free | WantedState::Asked(_) => continue,
            });
        }
        let sessions: Vec<SessionId> = self.sources.keys().copied().collect();
        // A round gives each source one request; rounds go on while somebody got one.
        let mut progress = true;
        while progress {
            progress = false;
            for session in &sessions {
                if let Some(decision) = self.next_request_for(*session) {
                    progress = true;
                    decisions.push(decision);
                }
            }
        }
        decisions
    }

    pub(super) fn next_request_for(&mut self, session: SessionId) -> Option<ScheduleDecision> {
        if self.sources.get(&session)?.rests(self.now) {
            return None;
        }
        self.next_pack_for(session)
            .or_else(|| self.next_overdue_for(session))
            .or_else(|| self.next_large_for(session))
            .or_else(|| self.next_hedge_for(session))
    }

    pub(super) fn next_pack_for(&mut self, session: SessionId) -> Option<ScheduleDecision> {
        let request = self.next_request;
        let source = self.sources.get_mut(&session)?;
        // One request is about one library.
        let mut library = None;
        let mut pack = Vec::new();
        let mut named = HashSet::new();
        let mut pack_bytes = 0;
        while pack.len() < PACK_ASSETS && pack_bytes < PACK_BYTES {
            let Some(key) = source.small.front().copied() else { break };
            // And about one size of each content.
            if library.is_some_and(|library| library != key.library) || named.contains(&key.hash) {
                break;
            }
            let Some(wanted) = self.wanted.get_mut(&key).filter(|w| w.has_free_for(session)) else {
                source.small.pop_front();
                continue;
            };
            let cost = charge(wanted.record.size);
            if !source.has_room(&self.limits, self.in_flight, cost, false) {
                break;
            }
            source.small.pop_front();
            library = Some(key.library);
            named.insert(key.hash);
            self.in_flight += cost;
            source.bytes += cost;
            pack_bytes += wanted.record.size;
            wanted.state = WantedState::Asked(request);
            wanted.is_newer = false;
            pack.push(wanted.record.clone());
        }
        library.map(|library| self.fetch(session, library, pack, false))
    }

    pub(super) fn next_large_for(&mut self, session: SessionId) -> Option<ScheduleDecision> {
        let source = self.sources.get_mut(&session)?;
        loop {
            let key = source.large.front().copied()?;
            let Some(wanted) = self.wanted.get_mut(&key).filter(|w| w.has_free_for(session)) else {
                source.large.pop_front();
                continue;
            };
            let cost = charge(wanted.record.size.min(self.limits.part_bytes));
            if !source.has_room(&self.limits, self.in_flight, cost, true) {
                return None;
            }
            if let WantedState::Parts(parts) = &mut wanted.state {
                let part = if source.is_overtaken {
                    parts.take_last(self.next_request)
                } else {
                    parts.take(self.next_request)
                }?;
                return self.fetch_part(session, key, part);
            }
            source.large.pop_front();
            self.in_flight += cost;
            source.bytes += cost;
            wanted.state = WantedState::Asked(self.next_request);
            wanted.is_newer = false;
            let record = wanted.record.clone();
            return Some(self.fetch(session, key.library, vec![record], true));
        }
    }

    /// The first part that another source should have sent long since, measured by how long this one took over its last.
    fn next_overdue_for(&mut self, session: SessionId) -> Option<ScheduleDecision> {
        let mine = self.sources.get(&session)?;
        mine.last_part?;
        let overdue = self.flights.values().filter_map(|flight| {
            let Requested::Part { key, part, charge } = flight.work else { return None };
            let wanted = self.wanted.get(&key).filter(|wanted| wanted.sources.contains(&session))?;
            let WantedState::Parts(parts) = &wanted.state else { return None };
            let eligible = flight.session != session
                && wanted.admits(parts, session)
                && parts.flies_alone(part)
                && parts.is_ahead(part)
                && mine.has_room(&self.limits, self.in_flight, charge, true);
            let age = self.now.duration_since(flight.asked_at);
            (eligible && age > mine.patience_with_others(parts.len(part))?).then_some((key, part))
        });
        let (key, part) = overdue.min()?;
        self.hedge(session, key, part)
    }

    fn hedge(&mut self, session: SessionId, key: WantKey, part: u64) -> Option<ScheduleDecision> {
        let request = self.next_request;
        self.parts_mut(&key)?.hedge(part, request);
        self.fetch_part(session, key, part)
    }

    /// Another source was asked later for what this request is for, and has sent it.
    pub(super) fn overtake(&mut self, request: u64) {
        let session = self.flights.get(&request).map(|flight| flight.session);
        if let Some(source) = session.and_then(|session| self.sources.get_mut(&session)) {
            source.is_overtaken = true;
        }
    }

    /// A part that another source is expected to take much longer over than this one, which has nothing else to do.
    pub(super) fn next_hedge_for(&mut self, session: SessionId) -> Option<ScheduleDecision> {
        let mine = self.sources.get(&session)?;
        let expected = |flight: &Flight, len: u64| {
            let age = self.now.duration_since(flight.asked_at).as_secs_f64();
            let theirs = self.sources.get(&flight.session)?;
            Some(theirs.secs_for(len, 0).map_or(f64::INFINITY, |all| (all - age).max(0.0)).min(1e9))
                .filter(|_| theirs.rate > 0.0 || age > HEDGE_SECS)
        };
        let slowest = self.flights.values().filter_map(|flight| {
            let Requested::Part { key, part, charge } = flight.work else { return None };
            let wanted = self.wanted.get(&key)?;
            let WantedState::Parts(parts) = &wanted.state else { return None };
            let eligible = flight.session != session
                && wanted.sources.contains(&session)
                && wanted.admits(parts, session)
                && parts.flies_alone(part)
                && mine.has_room(&self.limits, self.in_flight, charge, true);
            let secs = expected(flight, parts.len(part)).filter(|_| eligible)?;
            let better = match mine.secs_for(parts.len(part), 1) {
                Some(mine) => mine * HEDGE_FACTOR + HEDGE_SECS < secs,
                // One try shows how fast it is.
                None => mine.large_requests == 0 && HEDGE_FACTOR * HEDGE_SECS < secs,
            };
            better.then_some((secs, key, part))
        });
        let (_, key, part) = slowest.max_by(|a, b| a.0.total_cmp(&b.0))?;
        self.hedge(session, key, part)
    }

    pub(super) fn fetch(
        &mut self,
        session: SessionId,
        library: Option<LibraryId>,
        records: Vec<AssetRecord>,
        large: bool,
    ) -> ScheduleDecision {
        let work = Requested::Assets(records.iter().map(|record| WantKey::new(library, record)).collect());
        let request = self.take_off(session, work, large);
        ScheduleDecision::Fetch { session, request, library, records }
    }

    pub(super) fn fetch_part(
        &mut self,
        session: SessionId,
        key: WantKey,
        part: u64,
    ) -> Option<ScheduleDecision> {
        let wanted = self.wanted.get(&key)?;
        let WantedState::Parts(parts) = &wanted.state else { return None };
        let (size, range, root) = (key.size, parts.range(part), parts.root);
        let charge = charge(size.min(self.limits.part_bytes));
        self.in_flight += charge;
        self.sources.get_mut(&session)?.bytes += charge;
        let request = self.take_off(session, Requested::Part { key, part, charge }, true);
        Some(ScheduleDecision::FetchPart { session, request, key, root, range })
    }

    pub(super) fn take_off(&mut self, session: SessionId, work: Requested, large: bool) -> u64 {
        let request = self.next_request;
        self.next_request += 1;
        if let Some(source) = self.sources.get_mut(&session) {
            source.requests += 1;
            source.large_requests += usize::from(large);
        }
        self.flights.insert(request, Flight { session, asked_at: self.now, work });
        request
    }
}
