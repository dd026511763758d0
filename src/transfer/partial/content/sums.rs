//! Sums of the groups of a content that are here. Pure.

use std::collections::BTreeMap;

use crate::store::groups::{GroupSum, group_count};

/// Groups whose sums are kept together.
const TOGETHER: u64 = 128;
/// Groups of the longest content whose sums are kept, which takes 32 MiB then: of 64 GiB. The store makes those of a longer one
/// when it is first asked for them.
const GROUPS_MAX: u64 = 1 << 20;

/// Sums as far as they are known. Memory is for groups that came, whatever size somebody claims.
#[derive(Debug)]
pub(super) struct SumTable {
    count: u64,
    parts: BTreeMap<u64, Box<[Option<GroupSum>]>>,
}

impl SumTable {
    pub(super) fn new(size: u64) -> Self {
        Self { count: group_count(size), parts: BTreeMap::new() }
    }

    pub(super) fn put(&mut self, group: u64, sum: GroupSum) {
        if self.count > GROUPS_MAX || group >= self.count {
            return;
        }
        let fresh = || vec![None; usize::try_from(TOGETHER).unwrap_or(0)].into();
        let part = self.parts.entry(group / TOGETHER).or_insert_with(fresh);
        if let Some(place) = part.get_mut(usize::try_from(group % TOGETHER).unwrap_or(usize::MAX)) {
            *place = Some(sum);
        }
    }

    /// Whether the sum of a group is known, or is not kept anyway.
    pub(super) fn has(&self, group: u64) -> bool {
        self.count > GROUPS_MAX || self.get(group).is_some()
    }

    fn get(&self, group: u64) -> Option<GroupSum> {
        let part = self.parts.get(&(group / TOGETHER))?;
        *part.get(usize::try_from(group % TOGETHER).ok()?)?
    }

    /// Those of all groups, if they are known.
    pub(super) fn all(&self) -> Option<Vec<GroupSum>> {
        if self.count > GROUPS_MAX {
            return None;
        }
        (0..self.count).map(|group| self.get(group)).collect()
    }

    pub(super) fn clear(&mut self) {
        self.parts.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_for_what_came_and_never_for_what_is_too_much() {
        let mut sums = SumTable::new(300 * 64 * 1024);
        assert_eq!(sums.all(), None);
        for group in (0..300).rev() {
            assert!(!sums.has(group));
            sums.put(group, [u8::try_from(group % 256).unwrap(); 32]);
        }
        sums.put(300, [9; 32]);
        assert_eq!(sums.all().unwrap()[299], [43; 32]);
        assert_eq!(sums.parts.len(), 3);
        let mut sums = SumTable::new(1 << 40);
        sums.put(5, [1; 32]);
        assert!(sums.parts.is_empty() && sums.has(5) && sums.all().is_none());
    }
}
