//! Which root a large content is taken for, and what follows when one is not what its sources say.

use super::parts::PartsPhase;
use super::wanted::{Wanted, WantedState};
use super::{FetchFailure, ScheduleDecision, Scheduler, SessionId, WantKey};
use crate::store::groups::GroupSum;

/// How often a content is begun anew because more sources say another root. Afterwards it is taken to its end, whoever comes and
/// goes.
const OUTVOTED_MAX: u8 = 4;

impl Wanted {
    /// Sources whose records say another root than the content has, now that it is here.
    pub(super) fn misnamed(&self) -> Vec<SessionId> {
        let WantedState::Parts(parts) = &self.state else { return Vec::new() };
        self.claims.others_than(parts.root)
    }
}

impl Scheduler {
    /// Sources or what they say have changed: a content is begun anew if its root has nobody left, or if more say another one and
    /// less than half of it is here.
    pub(super) fn weigh_roots(&mut self, key: WantKey, out: &mut Vec<ScheduleDecision>) {
        let Some(wanted) = self.wanted.get_mut(&key) else { return };
        if wanted.sources.is_empty() {
            return;
        }
        let parts = match &mut wanted.state {
            WantedState::Free => {
                let root = wanted.claims.best(None);
                wanted.state = WantedState::new(wanted.record.size, root, &self.limits);
                return;
            }
            WantedState::Parts(parts) if parts.phase == PartsPhase::Fetching => parts,
            WantedState::Asked(_) | WantedState::Parts(_) | WantedState::Stored => return,
        };
        let best = wanted.claims.best(parts.root);
        if best == parts.root {
            return;
        }
        let said = parts.root.map_or(0, |root| wanted.claims.count(&root));
        match (parts.root, best) {
            // What nobody proved so far goes on, unless it has not begun.
            (None, Some(_)) if parts.only.is_some() || parts.is_begun() => {}
            (Some(_), Some(_)) if said > 0 => {
                let is_early = parts.done_bytes() < key.size / 2;
                if is_early && parts.outvoted < OUTVOTED_MAX {
                    parts.outvoted += 1;
                    self.take_for(key, best, out);
                }
            }
            _ => self.take_for(key, best, out),
        }
    }

    /// A content is taken for another root from now on, from its beginning; for none, from one source at a time if somebody has said
    /// something wrong.
    fn take_for(&mut self, key: WantKey, root: Option<GroupSum>, out: &mut Vec<ScheduleDecision>) {
        let requests = self.wanted.get(&key).map(Wanted::requests).unwrap_or_default();
        for request in requests {
            self.take_back(request, key, out);
        }
        self.start_over(key);
        let were_wrong = self.wanted.get(&key).is_some_and(|wanted| wanted.claims.were_wrong());
        let only = if root.is_none() && were_wrong { self.fastest(key, &[]) } else { None };
        let Some(parts) = self.parts_mut(&key) else { return };
        parts.take_for(root, only);
        out.push(ScheduleDecision::Restart(key));
    }

    /// Begins a content anew: from the sources that can prove it, if there are any; else from one source at a time.
    pub(super) fn take_from_others(
        &mut self,
        key: WantKey,
        givers: &[(SessionId, u64)],
        out: &mut Vec<ScheduleDecision>,
    ) {
        let Some(wanted) = self.wanted.get(&key).filter(|wanted| !wanted.sources.is_empty()) else { return };
        match wanted.claims.best(None) {
            Some(root) => self.take_for(key, Some(root), out),
            None => self.choose_only(key, givers, out),
        }
    }

    /// A source did not prove what it was asked for; with a `lie`, what it sent as proof was none.
    pub(super) fn unproved(
        &mut self,
        session: SessionId,
        key: WantKey,
        lie: Option<String>,
        out: &mut Vec<ScheduleDecision>,
    ) {
        for request in self.requests_of(session, &key) {
            self.take_back(request, key, out);
        }
        let Some(wanted) = self.wanted.get_mut(&key) else { return };
        let Some(said) = wanted.claims.remove(session) else {
            // It was asked for no proof.
            return self.failed(session, key, FetchFailure::Source("it did not come".into()), out);
        };
        let is_proved = match &wanted.state {
            WantedState::Parts(parts) => parts.proved && parts.root == Some(said),
            WantedState::Free | WantedState::Asked(_) | WantedState::Stored => false,
        };
        match lie {
            Some(reason) if is_proved => self.lied(session, key, reason, out),
            Some(_) => wanted.claims.doubt(session, said),
            None => {}
        }
        self.weigh_roots(key, out);
        self.requeue(key);
    }

    /// A part came and was proved: who could not prove the same root lied.
    pub(super) fn root_is_proved(&mut self, key: WantKey, out: &mut Vec<ScheduleDecision>) {
        let Some(wanted) = self.wanted.get_mut(&key) else { return };
        let WantedState::Parts(parts) = &mut wanted.state else { return };
        let Some(root) = parts.root else { return };
        parts.proved = true;
        let liars = wanted.claims.doubted(&root);
        for session in liars {
            let reason = "it sent wrong bytes: its proof was none, and others proved the same content";
            self.lied(session, key, reason.to_owned(), out);
        }
    }

    fn lied(&mut self, session: SessionId, key: WantKey, reason: String, out: &mut Vec<ScheduleDecision>) {
        out.push(ScheduleDecision::Lied { session, key, reason: reason.clone() });
        self.failed(session, key, FetchFailure::WrongBytes(reason), out);
    }

    /// All of a content was proved for its root, and is another one. `givers` sent it.
    pub(super) fn root_is_wrong(
        &mut self,
        key: WantKey,
        givers: &[SessionId],
        out: &mut Vec<ScheduleDecision>,
    ) {
        self.start_over(key);
        let Some(wanted) = self.wanted.get_mut(&key) else { return };
        if let WantedState::Parts(parts) = &wanted.state
            && let Some(root) = parts.root
        {
            wanted.claims.refute(root);
        }
        for giver in givers {
            let reason = "it sent wrong bytes".to_owned();
            self.failed(*giver, key, FetchFailure::WrongBytes(reason), out);
        }
        self.weigh_roots(key, out);
    }
}
