//! Sets of byte positions, as ranges. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

/// Positions in a content, kept as ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Start to end, the end not included.
    parts: BTreeMap<u64, u64>,
    len: u64,
}

impl Ranges {
    /// Adds a range; what is there already stays.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        // Whatever overlaps or touches it becomes a part of it.
        while let Some((&before, &until)) = self.parts.range(..=end).next_back() {
            if until < start {
                break;
            }
            (start, end) = (start.min(before), end.max(until));
            self.len -= until - before;
            self.parts.remove(&before);
        }
        self.len += end - start;
        self.parts.insert(start, end);
    }

    pub fn remove(&mut self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&start, &end)) = self.parts.range(..range.end).next_back() {
            if end <= range.start {
                break;
            }
            self.parts.remove(&start);
            self.len -= end - start;
            for rest in [start..range.start.max(start), range.end.min(end)..end] {
                if !rest.is_empty() {
                    self.len += rest.end - rest.start;
                    self.parts.insert(rest.start, rest.end);
                }
            }
            if start <= range.start {
                break;
            }
        }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.parts.iter().map(|(start, end)| *start..*end)
    }

    /// How far it goes from the beginning without a gap.
    pub fn prefix(&self) -> u64 {
        self.parts.get(&0).copied().unwrap_or(0)
    }

    /// How far it goes from `at` without a gap; `at` itself where that is not in it.
    pub fn until(&self, at: u64) -> u64 {
        let before = self.parts.range(..=at).next_back();
        before.map_or(at, |(_, end)| at.max(*end))
    }

    /// What of `range` is not in it, in order.
    pub fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        let first = self.parts.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        for (&start, &end) in self.parts.range(first..range.end) {
            if start > at {
                gaps.push(at..start);
            }
            at = at.max(end);
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }
}

impl FromIterator<Range<u64>> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut all = Self::default();
        ranges.into_iter().for_each(|range| all.insert(range));
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a set of single positions.
        #[test]
        fn it_is_a_set_of_positions(
            steps in prop::collection::vec((any::<bool>(), 0..60_u64, 0..20_u64), 0..60),
            question in (0..60_u64, 0..30_u64),
        ) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for (adds, start, len) in steps {
                if adds {
                    ranges.insert(start..start + len);
                    model.extend(start..start + len);
                } else {
                    ranges.remove(&(start..start + len));
                    model.retain(|at| !(start..start + len).contains(at));
                }
                prop_assert_eq!(ranges.len(), model.len() as u64);
                prop_assert!(ranges.iter().flatten().eq(model.iter().copied()));
                let parts: Vec<_> = ranges.iter().collect();
                prop_assert!(parts.windows(2).all(|pair| pair[0].end < pair[1].start), "{parts:?}");
            }
            let asked = question.0..question.0 + question.1;
            let missing: Vec<u64> = ranges.missing(asked.clone()).into_iter().flatten().collect();
            prop_assert!(asked.filter(|at| !model.contains(at)).eq(missing));
            let gap = (0..100).find(|at| !model.contains(at)).unwrap();
            prop_assert_eq!(ranges.prefix(), gap);
            let until = (question.0..100).find(|at| !model.contains(at)).unwrap();
            prop_assert_eq!(ranges.until(question.0), until);
        }
    }
}
