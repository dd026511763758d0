//! Which of a peer's deletions are applied: budgets, holds, and what somebody decided. Pure.
//!
//! Budgets and holds belong to a [`Deleter`]: a device in the mirror, or a ticket in a library, with however many endpoint
//! ids it is used. A library has a budget as well, twice as large, for all of them but the one that deleted most: so a single
//! greedy deleter uses up nothing of what the others have, and however many there are, no more than three budgets go. Once a
//! deletion goes beyond a budget, it and everything that this deleter brings after it is held back until somebody decides;
//! nobody else is stopped by that, even who passes on what waits already. Decisions are about one version of one asset in one
//! library, no matter which peer brings it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::sizes::Sizes;
use crate::library::registry::{Deleter, Deletion, DeletionChange, DeletionDecision, KeptDeletions};
use crate::record::{AssetRecord, ContentHash};

/// Spans of time, the deletions in each that need nobody's confirmation however small the set is, and the share of the set,
/// as a divisor, that may go: twenty or a tenth in an hour, twice that in a day.
const BUDGETS: [DeletionBudget; 2] = [
    DeletionBudget { span_ms: 60 * 60 * 1000, free: 20, divisor: 10 },
    DeletionBudget { span_ms: 24 * 60 * 60 * 1000, free: 40, divisor: 5 },
];
/// Deletions are counted by spans of so long.
const COUNTED_BY_MS: u64 = 5 * 60 * 1000;
/// For so long, the same deletion is not counted again when another peer brings it.
const KNOWN_FOR_MS: u64 = 10 * 60 * 1000;
/// What is brought back from a time that has not come is no longer ago than this: a clock that jumps frees nothing.
const BROUGHT_BACK_MS: u64 = 23 * 60 * 60 * 1000;
/// Deletions of the mirror that are held back or decided about, and as many of all other libraries together; further ones are
/// held back just the same, and not listed.
pub(super) const LISTED_MAX: usize = 100_000;
/// So many of each deleter are listed however many others are: nobody's hold can hide somebody else's.
pub(super) const LISTED_ALWAYS: usize = 100;
/// Deletions that were applied lately and are remembered one by one.
const KNOWN_MAX: usize = 100_000;

struct DeletionBudget {
    span_ms: u64,
    free: u64,
    divisor: u64,
}

impl DeletionBudget {
    /// Deletions that may be applied in this span, where so many assets count.
    fn allowed(&self, assets: u64) -> u64 {
        self.free.max(assets / self.divisor)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeletionRuling {
    Apply,
    /// It waits for somebody's decision.
    Hold,
    /// Somebody decided that it is not.
    Ignore,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeletionHold {
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// The deletions that wait, by the asset that they delete.
    pub deletions: BTreeMap<ContentHash, Deletion>,
}

/// What is known of peers' deletions.
#[derive(Debug, Default)]
pub struct Decisions {
    /// Applied lately, by the beginning of a span of [`COUNTED_BY_MS`].
    spent: BTreeMap<Deleter, BTreeMap<u64, u64>>,
    holds: BTreeMap<Deleter, DeletionHold>,
    decided: BTreeMap<String, HashMap<ContentHash, (Deletion, DeletionDecision)>>,
    /// Versions that were applied a moment ago, by library. A later deletion of the same asset is another one.
    known: HashMap<(String, [u8; 32]), u64>,
    sizes: Sizes,
}

impl Decisions {
    /// As they were written down.
    pub fn new(kept: KeptDeletions) -> Self {
        let mut decisions = Self::default();
        for (deleter, at_ms, count) in kept.spent {
            decisions.spent.entry(deleter).or_default().insert(at_ms, count);
        }
        for (deleter, since_ms, deletion) in kept.held {
            let hold = decisions.holds.entry(deleter).or_default();
            hold.since_ms = if hold.deletions.is_empty() { since_ms } else { hold.since_ms.min(since_ms) };
            hold.deletions.insert(deletion.hash, deletion);
        }
        for (library, deletion, decision) in kept.decided {
            decisions.decided.entry(library).or_default().insert(deletion.hash, (deletion, decision));
        }
        for (library, at_ms, least) in kept.sizes {
            decisions.sizes.insert(library, at_ms, least);
        }
        decisions
    }

    /// What was written down as later than now, by a clock that was ahead, or is behind now, counts as if the last of it was
    /// now. The rest was as long before as it says: a day's deletions are not one hour's. All of it counts for an hour more.
    pub fn bring_back(&mut self, now_ms: u64) -> Vec<DeletionChange> {
        let spent = self.spent.values().filter_map(|spans| spans.keys().next_back().copied());
        let latest_ms = spent.chain(self.sizes.latest()).max().unwrap_or_default();
        let least_ms = now_ms.saturating_sub(BROUGHT_BACK_MS);
        let date = |at| {
            if at <= now_ms { at } else { now_ms.saturating_sub(latest_ms.saturating_sub(at)).max(least_ms) }
        };
        self.redate(date, now_ms)
    }

    /// The clock was set: what was before is as long ago as it was.
    pub fn follow_clock(&mut self, by_ms: i64, now_ms: u64) -> Vec<DeletionChange> {
        self.redate(|at| at.saturating_add_signed(by_ms), now_ms)
    }

    fn redate(&mut self, date: impl Fn(u64) -> u64, now_ms: u64) -> Vec<DeletionChange> {
        let before = (self.spent_rows(), self.sizes.rows());
        for spans in self.spent.values_mut() {
            for (at, count) in std::mem::take(spans) {
                *spans.entry(date(at)).or_default() += count;
            }
        }
        self.sizes.redate(&date);
        self.known.values_mut().for_each(|at| *at = date(*at));
        let mut ahead = false;
        for hold in self.holds.values_mut() {
            ahead |= hold.since_ms > now_ms;
            hold.since_ms = hold.since_ms.min(now_ms);
        }
        let (spent, sizes) = (self.spent_rows(), self.sizes.rows());
        let changed = ahead || before != (spent.clone(), sizes.clone());
        if changed { vec![DeletionChange::Redated { spent, sizes, now_ms }] } else { Vec::new() }
    }

    fn spent_rows(&self) -> Vec<(Deleter, u64, u64)> {
        let rows = self.spent.iter().flat_map(|(by, spans)| spans.iter().map(move |span| (by, span)));
        rows.map(|(by, (at, count))| (by.clone(), *at, *count)).collect()
    }

    /// A library (`""` is the mirror) has so many live assets now.
    pub fn note_size(&mut self, library: &str, assets: u64, now_ms: u64) -> Vec<DeletionChange> {
        self.sizes.note(library, assets, now_ms)
    }

    /// What is known already about a deletion in a library, no matter which peer brings it.
    fn known_ruling(&self, library: &str, deletion: &Deletion) -> Option<DeletionRuling> {
        let decided = self.decided.get(library).and_then(|decided| decided.get(&deletion.hash));
        if let Some((_, decision)) = decided.filter(|(about, _)| about.digest == deletion.digest) {
            return Some(match decision {
                DeletionDecision::Confirmed => DeletionRuling::Apply,
                DeletionDecision::Rejected => DeletionRuling::Ignore,
            });
        }
        let waits = |(by, hold): (&Deleter, &DeletionHold)| {
            by.library == library && hold.deletions.get(&deletion.hash) == Some(deletion)
        };
        self.holds.iter().any(waits).then_some(DeletionRuling::Hold)
    }

    /// Whether this very deletion waits already, or was rejected: nothing has to be looked at for it.
    pub fn is_put_off(&self, library: &str, deletion: &Deletion) -> bool {
        matches!(self.known_ruling(library, deletion), Some(DeletionRuling::Hold | DeletionRuling::Ignore))
    }

    /// Rules on deletions that came together from one deleter, in a set of `assets` live assets. Those that are neither
    /// decided about nor waiting are applied all, or held back all.
    pub fn judge(
        &mut self,
        by: &Deleter,
        deletions: &[Deletion],
        assets: u64,
        now_ms: u64,
    ) -> (Vec<DeletionRuling>, Vec<DeletionChange>) {
        let mut changes = self.forget_old(now_ms);
        changes.extend(self.note_size(&by.library, assets, now_ms));
        let rulings: Vec<Option<DeletionRuling>> =
            deletions.iter().map(|deletion| self.known_ruling(&by.library, deletion)).collect();
        let open: Vec<Deletion> =
            deletions.iter().zip(&rulings).filter(|(_, ruling)| ruling.is_none()).map(|(d, _)| *d).collect();
        let others = if open.is_empty() {
            DeletionRuling::Apply
        } else if self.holds.contains_key(by) || !self.fits(by, &open, assets, now_ms) {
            self.hold_back(by, &open, now_ms, &mut changes);
            DeletionRuling::Hold
        } else {
            self.spend(by, &open, now_ms, &mut changes);
            DeletionRuling::Apply
        };
        (rulings.into_iter().map(|ruling| ruling.unwrap_or(others)).collect(), changes)
    }

    /// Whether so many more may be applied.
    fn fits(&self, by: &Deleter, deletions: &[Deletion], assets: u64, now_ms: u64) -> bool {
        let counted = |d: &&Deletion| !self.known.contains_key(&(by.library.clone(), d.digest));
        let fresh = deletions.iter().filter(counted).count() as u64;
        let here = || self.spent.iter().filter(|(one, _)| one.library == by.library);
        BUDGETS.iter().all(|budget| {
            let since = now_ms.saturating_sub(budget.span_ms);
            let spent = |spans: &BTreeMap<u64, u64>, until: u64| -> u64 {
                let counted = spans.iter().filter(|(at, _)| **at + COUNTED_BY_MS > since && **at < until);
                counted.map(|(_, count)| count).sum()
            };
            let by_all = |until| here().map(|(_, spans)| spent(spans, until)).sum::<u64>();
            let together = by_all(u64::MAX);
            // What went already was part of the set when the span began.
            let least = self.sizes.least(&by.library, now_ms, by_all);
            let allowed = budget.allowed(least.unwrap_or(u64::MAX).min(assets + together));
            let own = self.spent.get(by).map_or(0, |spans| spent(spans, u64::MAX)) + fresh;
            let others = here().filter(|(one, _)| *one != by).map(|(_, spans)| spent(spans, u64::MAX));
            let most = others.max().unwrap_or_default().max(own);
            own <= allowed && together + fresh - most <= 2 * allowed
        })
    }

    fn spend(
        &mut self,
        by: &Deleter,
        deletions: &[Deletion],
        now_ms: u64,
        changes: &mut Vec<DeletionChange>,
    ) {
        let mut fresh = 0;
        for deletion in deletions {
            let key = (by.library.clone(), deletion.digest);
            if !self.known.contains_key(&key) {
                fresh += 1;
                if self.known.len() < KNOWN_MAX {
                    self.known.insert(key, now_ms);
                }
            }
        }
        if fresh > 0 {
            let at = now_ms - now_ms % COUNTED_BY_MS;
            let count = self.spent.entry(by.clone()).or_default().entry(at).or_default();
            *count += fresh;
            changes.push(DeletionChange::Spent(by.clone(), at, *count));
        }
    }

    fn hold_back(
        &mut self,
        by: &Deleter,
        deletions: &[Deletion],
        now_ms: u64,
        changes: &mut Vec<DeletionChange>,
    ) {
        let room = LISTED_MAX.saturating_sub(self.listed(by.library.is_empty()));
        let hold = self.holds.entry(by.clone()).or_default();
        let mut room = room.max(LISTED_ALWAYS.saturating_sub(hold.deletions.len()));
        if hold.deletions.is_empty() {
            hold.since_ms = now_ms;
        }
        for deletion in deletions {
            let known = hold.deletions.get(&deletion.hash);
            if known == Some(deletion) || (known.is_none() && room == 0) {
                continue;
            }
            room -= usize::from(known.is_none());
            hold.deletions.insert(deletion.hash, *deletion);
            changes.push(DeletionChange::Held(by.clone(), hold.since_ms, *deletion));
        }
    }

    /// How much of the mirror is listed, or of all the other libraries.
    fn listed(&self, mirror: bool) -> usize {
        let held = self.holds.iter().filter(|(by, _)| by.library.is_empty() == mirror);
        let decided = self.decided.iter().filter(|(library, _)| library.is_empty() == mirror);
        held.map(|(_, hold)| hold.deletions.len()).sum::<usize>()
            + decided.map(|(_, decided)| decided.len()).sum::<usize>()
    }

    /// What counts no more.
    fn forget_old(&mut self, now_ms: u64) -> Vec<DeletionChange> {
        self.known.retain(|_, at| now_ms.saturating_sub(*at) < KNOWN_FOR_MS);
        let longest = BUDGETS.iter().map(|budget| budget.span_ms).max().unwrap_or_default();
        let before = now_ms.saturating_sub(longest + COUNTED_BY_MS);
        let mut any = false;
        for spans in self.spent.values_mut() {
            let kept = spans.split_off(&before);
            any |= !std::mem::replace(spans, kept).is_empty();
        }
        self.spent.retain(|_, spans| !spans.is_empty());
        if any { vec![DeletionChange::SpentBefore(before)] } else { Vec::new() }
    }

    pub fn holds(&self) -> impl Iterator<Item = (&Deleter, &DeletionHold)> {
        self.holds.iter()
    }

    #[must_use]
    pub fn hold(&self, by: &Deleter) -> Option<&DeletionHold> {
        self.holds.get(by)
    }

    pub fn held(&self) -> u64 {
        match self.holds.len() {
            0 => 0,
            1 => self.holds.values().map(|hold| hold.deletions.len()).sum::<usize>() as u64,
            _ => {
                let hashes = self.holds.values().flat_map(|hold| hold.deletions.keys());
                hashes.collect::<BTreeSet<_>>().len() as u64
            }
        }
    }

    /// Decisions that nobody has come for yet: deletions that were confirmed, and all that were rejected.
    pub fn decided(&self) -> (u64, u64) {
        let all = self.decided.values().flat_map(HashMap::values);
        let (mut confirmed, mut rejected) = (0, 0);
        for (_, decision) in all {
            match decision {
                DeletionDecision::Confirmed => confirmed += 1,
                DeletionDecision::Rejected => rejected += 1,
            }
        }
        (confirmed, rejected)
    }

    /// Somebody decided about everything that waits of these. Where they are confirmed, what these bring next is counted from
    /// nothing. Returns what was decided about, by library.
    pub fn decide(
        &mut self,
        deleters: &[Deleter],
        decision: DeletionDecision,
    ) -> (Vec<(String, Deletion)>, Vec<DeletionChange>) {
        let (mut about, mut changes) = (Vec::new(), Vec::new());
        for by in deleters {
            let Some(hold) = self.holds.remove(by) else { continue };
            if decision == DeletionDecision::Confirmed {
                self.spent.remove(by);
                changes.push(DeletionChange::Refreshed(by.clone()));
            }
            for deletion in hold.deletions.into_values() {
                changes.push(DeletionChange::Released(by.clone(), deletion.hash));
                let decided = self.decided.entry(by.library.clone()).or_default();
                decided.insert(deletion.hash, (deletion, decision));
                changes.push(DeletionChange::Decided(by.library.clone(), deletion, decision));
                about.push((by.library.clone(), deletion));
            }
        }
        // The same deletions, brought by others.
        let decided = &self.decided;
        let is_decided = |library: &str, deletion: &Deletion| {
            let found = decided.get(library).and_then(|decided| decided.get(&deletion.hash));
            found.is_some_and(|(about, _)| about.digest == deletion.digest)
        };
        for (by, hold) in &mut self.holds {
            hold.deletions.retain(|hash, deletion| {
                let stays = !is_decided(&by.library, deletion);
                if !stays {
                    changes.push(DeletionChange::Released(by.clone(), *hash));
                }
                stays
            });
        }
        self.holds.retain(|_, hold| !hold.deletions.is_empty());
        (about, changes)
    }

    pub fn concerns(&self, hash: &ContentHash) -> bool {
        self.holds.values().any(|hold| hold.deletions.contains_key(hash))
            || self.decided.values().any(|decided| decided.contains_key(hash))
    }

    /// The store has these now: what is deleted, or newer than a deletion of it, needs no decision any more.
    pub fn note(&mut self, records: &[AssetRecord]) -> Vec<DeletionChange> {
        let mut changes = Vec::new();
        for record in records {
            let over = |deletion: &Deletion| record.deleted || record.hlc > deletion.hlc;
            self.forget(&record.hash, over, &mut changes);
        }
        self.holds.retain(|_, hold| !hold.deletions.is_empty());
        changes
    }

    /// The store has nothing under these hashes any more.
    pub fn note_gone(&mut self, hashes: &[ContentHash]) -> Vec<DeletionChange> {
        let mut changes = Vec::new();
        for hash in hashes {
            self.forget(hash, |_| true, &mut changes);
        }
        self.holds.retain(|_, hold| !hold.deletions.is_empty());
        changes
    }

    fn forget(
        &mut self,
        hash: &ContentHash,
        over: impl Fn(&Deletion) -> bool,
        changes: &mut Vec<DeletionChange>,
    ) {
        for (by, hold) in &mut self.holds {
            if hold.deletions.get(hash).is_some_and(&over) {
                hold.deletions.remove(hash);
                changes.push(DeletionChange::Released(by.clone(), *hash));
            }
        }
        for (library, decided) in &mut self.decided {
            if decided.get(hash).is_some_and(|(about, _)| over(about)) {
                decided.remove(hash);
                changes.push(DeletionChange::Undecided(library.clone(), *hash));
            }
        }
    }

    /// A library is gone, and with it everything about it.
    pub fn forget_library(&mut self, library: &str) -> Vec<DeletionChange> {
        self.spent.retain(|by, _| by.library != library);
        self.holds.retain(|by, _| by.library != library);
        self.known.retain(|(of, _), _| of != library);
        self.sizes.forget(library);
        self.decided.remove(library);
        vec![DeletionChange::LibraryGone(library.to_owned())]
    }

    /// Assets that something is known about, for a look at the store.
    pub fn hashes(&self) -> Vec<ContentHash> {
        let held = self.holds.values().flat_map(|hold| hold.deletions.keys());
        let decided = self.decided.values().flat_map(HashMap::keys);
        held.chain(decided).copied().collect::<BTreeSet<_>>().into_iter().collect()
    }
}
