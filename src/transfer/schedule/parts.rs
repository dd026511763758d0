//! Where the parts of one large content are.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::SessionId;
use crate::store::groups::GroupSum;

/// What is done about a large content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartsPhase {
    Fetching,
    /// What others sent than the only source is being thrown away.
    Restricting,
    /// All parts are here, and it is to be stored.
    Complete,
    /// It is being checked and stored.
    Committing,
}

/// The parts of one large content. Memory is for those on their way alone, whatever size somebody claims.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) phase: PartsPhase,
    /// After wrong bytes from several, or a root that was wrong: the one that is asked alone, so that it is known who lies.
    pub(super) only: Option<SessionId>,
    /// What every group is proved for. Only those who say the same are asked then.
    pub(super) root: Option<GroupSum>,
    /// Whether somebody proved a part.
    pub(super) proved: bool,
    /// How often another root was taken because more said so.
    pub(super) outvoted: u8,
    /// Those that were asked alone.
    pub(super) tried: BTreeSet<SessionId>,
    size: u64,
    part_bytes: u64,
    /// No part from here up to `tail` was asked for yet.
    next: u64,
    /// Those from here on were asked for, from the end.
    tail: u64,
    /// Asked for once, and given back.
    returned: BTreeSet<u64>,
    /// Parts on their way, with the requests for each.
    flying: BTreeMap<u64, Vec<u64>>,
}

impl Parts {
    pub(super) fn new(size: u64, part_bytes: u64, root: Option<GroupSum>) -> Self {
        Self {
            root,
            proved: false,
            outvoted: 0,
            phase: PartsPhase::Fetching,
            only: None,
            tried: BTreeSet::new(),
            size,
            part_bytes,
            next: 0,
            tail: size.div_ceil(part_bytes),
            returned: BTreeSet::new(),
            flying: BTreeMap::new(),
        }
    }

    pub(super) fn range(&self, part: u64) -> Range<u64> {
        let start = part * self.part_bytes;
        start..(start + self.part_bytes).min(self.size)
    }

    pub(super) fn len(&self, part: u64) -> u64 {
        let range = self.range(part);
        range.end - range.start
    }

    /// Whether `session` may be asked for parts.
    pub(super) fn admits(&self, session: SessionId) -> bool {
        self.phase == PartsPhase::Fetching && self.only.is_none_or(|only| only == session)
    }

    pub(super) fn is_begun(&self) -> bool {
        self.next > 0 || self.tail < self.size.div_ceil(self.part_bytes)
    }

    pub(super) fn has_free(&self) -> bool {
        !self.returned.is_empty() || self.next < self.tail
    }

    /// The first part that nobody was asked for.
    pub(super) fn take(&mut self, request: u64) -> Option<u64> {
        let part = match self.returned.pop_first() {
            Some(part) => part,
            None if self.next < self.tail => {
                self.next += 1;
                self.next - 1
            }
            None => return None,
        };
        self.flying.insert(part, vec![request]);
        Some(part)
    }

    /// The last part that nobody was asked for.
    pub(super) fn take_last(&mut self, request: u64) -> Option<u64> {
        let part = if self.next < self.tail {
            self.tail -= 1;
            self.tail
        } else {
            self.returned.pop_last()?
        };
        self.flying.insert(part, vec![request]);
        Some(part)
    }

    /// Whether nothing further ahead has to be asked for.
    pub(super) fn is_ahead(&self, part: u64) -> bool {
        part < self.next || self.next == self.tail
    }

    /// Whether a part is on its way from one source and no other.
    pub(super) fn flies_alone(&self, part: u64) -> bool {
        self.flying.get(&part).is_some_and(|requests| requests.len() == 1)
    }

    /// A part is asked of a second source, too.
    pub(super) fn hedge(&mut self, part: u64, request: u64) {
        self.flying.entry(part).or_default().push(request);
    }

    /// A request for a part came to nothing.
    pub(super) fn give_back(&mut self, part: u64, request: u64) {
        let Some(requests) = self.flying.get_mut(&part) else { return };
        requests.retain(|other| *other != request);
        if requests.is_empty() {
            self.flying.remove(&part);
            self.returned.insert(part);
        }
    }

    /// A part is here; the requests for it.
    pub(super) fn done(&mut self, part: u64) -> Vec<u64> {
        let requests = self.flying.remove(&part).unwrap_or_default();
        if !self.has_free() && self.flying.is_empty() {
            self.phase = PartsPhase::Complete;
        }
        requests
    }

    /// All parts are wanted once more; how many bytes were here.
    pub(super) fn start_over(&mut self) -> u64 {
        let done = self.done_bytes();
        let tried = std::mem::take(&mut self.tried);
        let (proved, outvoted) = (self.proved, self.outvoted);
        *self = Self { proved, outvoted, tried, ..Self::new(self.size, self.part_bytes, self.root) };
        done
    }

    /// All parts are wanted once more, proved for another root; without one, from `only`, if it is said.
    pub(super) fn take_for(&mut self, root: Option<GroupSum>, only: Option<SessionId>) {
        self.start_over();
        (self.root, self.only, self.proved) = (root, only, false);
        self.tried.extend(only);
        self.phase = PartsPhase::Restricting;
    }

    pub(super) fn requests(&self) -> Vec<u64> {
        self.flying.values().flatten().copied().collect()
    }

    pub(super) fn first_request(&self) -> Option<u64> {
        self.flying.values().flatten().next().copied()
    }

    /// Bytes of the parts that are here.
    pub(super) fn done_bytes(&self) -> u64 {
        let untouched =
            (self.tail * self.part_bytes).min(self.size).saturating_sub(self.next * self.part_bytes);
        let begun = self.size - untouched;
        let open = self.returned.iter().chain(self.flying.keys()).map(|part| self.len(*part));
        begun - open.sum::<u64>()
    }
}
