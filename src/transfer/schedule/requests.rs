//! Requests on their way: what each was for, and what becomes of it when they end.

use std::collections::BTreeSet;

use super::parts::PartsPhase;
use super::source::JUDGED_AFTER;
use super::wanted::{Flight, Requested, Wanted, WantedState, charge};
use super::{FetchFailure, SMALL_BYTES_MAX, ScheduleDecision, Scheduler, SessionId, WantKey};

impl Scheduler {
    /// Takes back what a source is too slow for: what others have, or, if so little `came` that it never ends,
    /// everything.
    pub(super) fn take_from(
        &mut self,
        session: SessionId,
        came: Option<u64>,
        out: &mut Vec<ScheduleDecision>,
    ) {
        let theirs = self.flights.iter().filter(|(_, flight)| flight.session == session);
        let theirs: Vec<(u64, Vec<WantKey>)> =
            theirs.map(|(request, flight)| (*request, flight.keys())).collect();
        let (mut took, mut for_others) = (false, BTreeSet::new());
        for (request, keys) in theirs {
            let others_have = |key: &WantKey| {
                let sources = self.wanted.get(key).map(|wanted| wanted.sources.iter());
                sources.into_iter().flatten().any(|other| {
                    *other != session && self.sources.get(other).is_some_and(|other| !other.rests(self.now))
                })
            };
            let (shared, alone): (Vec<WantKey>, Vec<WantKey>) =
                keys.into_iter().partition(|key| others_have(key));
            if came.is_none() && !alone.is_empty() {
                continue;
            }
            took = true;
            self.revoke(request, out);
            for key in shared {
                self.requeue(key);
                for_others.insert(key);
            }
            let came = came.unwrap_or(0);
            let reason = format!("no progress: {came} bytes in {} s or more", JUDGED_AFTER.as_secs());
            for key in alone {
                self.failed(session, key, FetchFailure::Source(reason.clone()), out);
            }
        }
        if took && let Some(source) = self.sources.get_mut(&session) {
            source.rest(self.now);
        }
        // Nobody else is asked for what it was asked for alone.
        for key in for_others {
            if self.parts_mut(&key).is_some_and(|parts| parts.only == Some(session)) {
                self.choose_only(key, &[], out);
            }
        }
    }

    pub(super) fn requests_of(&self, session: SessionId, key: &WantKey) -> Vec<u64> {
        let requests = self.wanted.get(key).map(Wanted::requests).unwrap_or_default();
        let theirs =
            |request: &u64| self.flights.get(request).is_some_and(|flight| flight.session == session);
        requests.into_iter().filter(theirs).collect()
    }

    /// An asset without a source is forgotten, unless it is being stored.
    pub(super) fn drop_if_orphan(&mut self, key: WantKey, out: &mut Vec<ScheduleDecision>) {
        let Some(wanted) = self.wanted.get(&key).filter(|wanted| wanted.sources.is_empty()) else { return };
        let storing = match &wanted.state {
            WantedState::Parts(parts) => matches!(parts.phase, PartsPhase::Complete | PartsPhase::Committing),
            WantedState::Stored => true,
            WantedState::Free | WantedState::Asked(_) => false,
        };
        if !storing {
            self.forget(&key, out);
        }
    }

    pub(super) fn forget(&mut self, key: &WantKey, out: &mut Vec<ScheduleDecision>) {
        let requests = self.wanted.get(key).map(Wanted::requests).unwrap_or_default();
        for request in requests {
            self.take_back(request, *key, out);
        }
        self.ready.remove(key);
        if let Some(wanted) = self.wanted.remove(key) {
            self.wanted_bytes = self.wanted_bytes.saturating_sub(wanted.open_bytes());
        }
    }

    /// An asset, or all that is left, of a request came or is not expected any more.
    pub(super) fn land(&mut self, request: u64, key: Option<WantKey>) {
        let Some(flight) = self.flights.get_mut(&request) else { return };
        let session = flight.session;
        let (charge, large, over) = match (&mut flight.work, key) {
            (Requested::Assets(assets), Some(key)) => {
                if !assets.remove(&key) {
                    return;
                }
                let size = self.wanted.get(&key).map_or(0, |wanted| wanted.record.size);
                (charge(size), size > SMALL_BYTES_MAX, assets.is_empty())
            }
            (Requested::Part { charge, .. }, _) => (*charge, true, true),
            (Requested::Assets(_), None) => return,
        };
        if over {
            self.flights.remove(&request);
        }
        self.in_flight -= charge;
        if let Some(source) = self.sources.get_mut(&session) {
            source.bytes -= charge;
            source.requests -= usize::from(over);
            source.large_requests -= usize::from(over && large);
        }
    }

    /// One content of a request is not expected of its source any more; the request is revoked with its last.
    pub(super) fn take_back(&mut self, request: u64, key: WantKey, out: &mut Vec<ScheduleDecision>) {
        let Some(flight) = self.flights.get(&request) else { return };
        let session = flight.session;
        if let Requested::Part { key, part, .. } = flight.work
            && let Some(parts) = self.parts_mut(&key)
        {
            parts.give_back(part, request);
        }
        self.land(request, Some(key));
        if let Some(wanted) = self.wanted.get_mut(&key)
            && let WantedState::Asked(_) = wanted.state
        {
            wanted.state = WantedState::Free;
        }
        if !self.flights.contains_key(&request) {
            out.push(ScheduleDecision::Revoke { session, request });
        }
    }

    pub(super) fn revoke(&mut self, request: u64, out: &mut Vec<ScheduleDecision>) {
        let keys = self.flights.get(&request).map(Flight::keys).unwrap_or_default();
        for key in keys {
            self.take_back(request, key, out);
        }
    }

    /// Puts an asset at the head of its sources' queues, if there is something to ask for.
    pub(super) fn requeue(&mut self, key: WantKey) {
        let Some(wanted) = self.wanted.get(&key) else { return };
        for session in &wanted.sources {
            if wanted.has_free_for(*session)
                && let Some(source) = self.sources.get_mut(session)
            {
                let queue = source.queue(wanted.record.size);
                if queue.front() != Some(&key) {
                    queue.push_front(key);
                }
            }
        }
    }
}
