//! How a [`Dropping`] goes on: what is begun, who is asked, and what is given up.

use std::time::Duration;

use super::{
    ASKED_OF_ONE_MAX, AT_ONCE, AfterClearing, BYTES_AT_ONCE, BYTES_PER_SEC, DropEffect, DropOutcome,
    DropStep, Dropping, HolderRefusal, KeptBecause, OpenQuestion, PATIENCE, PATIENCE_MAX, REST_MAX, REST_MIN,
    Random, SAMPLE_BYTES, TRIES_MAX, number, sample_offset,
};
use crate::record::ContentHash;
use crate::store::promises::DROP_WITHIN;
use crate::transfer::schedule::SessionId;

impl Dropping {
    /// Questions that were not answered in time.
    pub(super) fn give_up_late(&mut self, now: Duration) {
        for hash in &self.active {
            let step = self.items.get_mut(hash).map(|item| &mut item.step);
            let Some(DropStep::Asking(asking)) = step else { continue };
            let late: Vec<SessionId> = asking
                .open
                .iter()
                .filter(|(_, asked)| now >= asked.by)
                .map(|(session, _)| *session)
                .collect();
            for session in late {
                asking.open.remove(&session);
                if let Some(holder) = self.holders.get_mut(&session) {
                    holder.open = holder.open.saturating_sub(1);
                    let id = holder.id;
                    asking.refuse(id, HolderRefusal::Silent);
                }
            }
        }
    }

    /// The next content to begin with. What was tried in vain holds up no other.
    fn next(&self, now: Duration) -> Option<ContentHash> {
        let rested = || self.resting.first().filter(|(from, _)| *from <= now).map(|(_, hash)| *hash);
        self.fresh.front().copied().or_else(rested)
    }

    pub(super) fn begin(&mut self, now: Duration, random: Random<'_>, out: &mut Vec<DropEffect>) {
        if self.is_over_time(now) {
            let all = self
                .fresh
                .drain(..)
                .chain(std::mem::take(&mut self.resting).into_iter().map(|(_, hash)| hash));
            for hash in all.collect::<Vec<_>>() {
                let outcome = self.time_is_up();
                self.end(hash, outcome);
            }
            return;
        }
        while self.active.len() < AT_ONCE
            && let Some(hash) = self.next(now)
        {
            let size = self.items.get(&hash).map_or(0, |item| item.size);
            if !self.active.is_empty() && self.active_bytes.saturating_add(size) > BYTES_AT_ONCE {
                return;
            }
            if self.fresh.front() == Some(&hash) {
                self.fresh.pop_front();
            } else {
                self.resting.pop_first();
            }
            let Some(item) = self.items.get_mut(&hash) else { continue };
            self.active.insert(hash);
            self.active_bytes = self.active_bytes.saturating_add(size);
            item.tries += 1;
            let offset = sample_offset(size, number(random()));
            item.step = DropStep::Preparing { offset };
            out.push(DropEffect::Prepare { hash, offset, length: SAMPLE_BYTES.min(size - offset) });
        }
    }

    /// Asks, lets go, or gives up, as far as each content is.
    pub(super) fn pump(&mut self, now: Duration, random: Random<'_>, out: &mut Vec<DropEffect>) {
        let is_over_time = self.is_over_time(now);
        let patience = PATIENCE + Duration::from_secs(self.active_bytes / BYTES_PER_SEC);
        let by = now + patience.min(PATIENCE_MAX);
        for hash in self.active.iter().copied().collect::<Vec<_>>() {
            let Some(item) = self.items.get_mut(&hash) else { continue };
            let DropStep::Asking(asking) = &mut item.step else { continue };
            let is_late = asking.began.is_some_and(|began| now >= began + DROP_WITHIN);
            if asking.promises.len() >= self.rules.min_copies && !is_late {
                let by = asking.began.unwrap_or(now) + DROP_WITHIN;
                let promises = std::mem::take(&mut asking.promises).into_values().collect();
                item.step = DropStep::LettingGo { promises };
                out.push(DropEffect::LetGo { hash, by });
                continue;
            }
            if is_over_time || is_late {
                let outcome = if is_late { DropOutcome::Kept(KeptBecause::Late) } else { self.time_is_up() };
                self.clear(hash, AfterClearing::End(outcome), out);
                continue;
            }
            let missing = self.rules.min_copies - asking.promises.len();
            let mut is_anybody_busy = false;
            for (session, holder) in &mut self.holders {
                if asking.open.len() >= missing {
                    break;
                }
                if asking.tried.contains(session) || asking.has_promised(&holder.id) {
                    continue;
                }
                if holder.open >= ASKED_OF_ONE_MAX {
                    is_anybody_busy = true;
                    continue;
                }
                let nonce = random();
                holder.open += 1;
                asking.tried.insert(*session);
                asking.began.get_or_insert(now);
                asking.open.insert(*session, OpenQuestion { nonce, by });
                out.push(DropEffect::Ask { session: *session, hash, nonce, offset: asking.offset });
            }
            if asking.open.is_empty() && !is_anybody_busy {
                self.fall_short(hash, now, random, out);
            }
        }
    }

    /// Everybody was asked, and that was not enough.
    fn fall_short(
        &mut self,
        hash: ContentHash,
        now: Duration,
        random: Random<'_>,
        out: &mut Vec<DropEffect>,
    ) {
        let Some(item) = self.items.get_mut(&hash) else { return };
        let tries = item.tries;
        let DropStep::Asking(asking) = &mut item.step else { return };
        let rest = (REST_MIN * 2_u32.saturating_pow(tries.saturating_sub(1))).min(REST_MAX);
        let millis = u64::try_from(rest.as_millis()).unwrap_or(u64::MAX).max(1);
        let from = now + rest / 2 + Duration::from_millis(number(random()) % millis);
        let may_change = asking.refusals.iter().any(|(_, why)| why.may_change());
        let promises = std::mem::take(&mut asking.promises).into_values().collect();
        let refusals = std::mem::take(&mut asking.refusals);
        let too_few = KeptBecause::TooFew { promises, refusals };
        let then = if may_change && tries < TRIES_MAX && from < self.rules.until {
            self.shortfall = Some(too_few);
            AfterClearing::Again { from }
        } else {
            AfterClearing::End(DropOutcome::Kept(too_few))
        };
        self.clear(hash, then, out);
    }
}
