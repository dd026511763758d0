//! BLAKE3 of content, and of each group of it, in one pass. Pure.
//!
//! BLAKE3 is a tree over chunks of 1 KiB. A group is a subtree of it: 256 KiB, the last one less. What a group hashes to is all that
//! is needed to check that part of the content by itself, and all groups together give the hash of the whole: so a sum for each
//! group costs nothing beside the hash that is computed anyway, and vouches for exactly the same bytes.

use std::fmt;

use blake3::Hasher;
use blake3::hazmat::{HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// Length of a group, in bytes: what is read, and held in memory, before any of it is given away.
pub const GROUP_BYTES: usize = 256 * 1024;

/// What a group hashes to: a chaining value of BLAKE3.
pub type GroupSum = [u8; 32];

/// Hashes content that comes in pieces.
#[derive(Clone, Default)]
pub struct GroupHasher {
    group: Hasher,
    group_bytes: usize,
    done: Vec<GroupSum>,
}

impl fmt::Debug for GroupHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupHasher").field("groups", &self.done.len()).finish_non_exhaustive()
    }
}

impl GroupHasher {
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.group_bytes == GROUP_BYTES {
                self.done.push(self.group.finalize_non_root());
                self.group = hasher(self.done.len());
                self.group_bytes = 0;
            }
            let (now, later) = bytes.split_at(bytes.len().min(GROUP_BYTES - self.group_bytes));
            self.group.update(now);
            self.group_bytes += now.len();
            bytes = later;
        }
    }

    /// BLAKE3 of all that came, and the sum of each group. One group alone has no sum: its hash is that of the whole.
    #[must_use]
    pub fn finish(&self) -> ([u8; 32], Vec<GroupSum>) {
        if self.done.is_empty() {
            return (*self.group.finalize().as_bytes(), Vec::new());
        }
        let mut sums = self.done.clone();
        sums.push(self.group.finalize_non_root());
        (root(&sums), sums)
    }
}

/// The hasher of a group, of which there are several.
fn hasher(group: usize) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(group as u64 * GROUP_BYTES as u64);
    hasher
}

/// How many groups content of this size has.
#[must_use]
pub fn group_count(size: u64) -> u64 {
    size.div_ceil(GROUP_BYTES as u64).max(1)
}

/// What a group of content hashes to that has several.
#[must_use]
pub fn group_sum(group: usize, bytes: &[u8]) -> GroupSum {
    hasher(group).update(bytes).finalize_non_root()
}

/// BLAKE3 of the whole, from two sums or more.
fn root(sums: &[GroupSum]) -> [u8; 32] {
    let (left, right) = sums.split_at(left_groups(sums.len()));
    *merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).as_bytes()
}

fn subtree(sums: &[GroupSum]) -> GroupSum {
    if let [sum] = sums {
        return *sum;
    }
    let (left, right) = sums.split_at(left_groups(sums.len()));
    merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
}

/// The left side of BLAKE3's tree is the largest power of two that leaves something for the right side.
fn left_groups(groups: usize) -> usize {
    groups.div_ceil(2).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut content = vec![0; bytes];
        Hasher::new().finalize_xof().fill(&mut content);
        content
    }

    #[test]
    fn the_left_side_is_the_largest_power_of_two() {
        let left: Vec<usize> = (2..=9).map(left_groups).collect();
        assert_eq!(left, [1, 2, 2, 4, 4, 4, 4, 8]);
    }

    #[test]
    fn every_length_around_the_edges_of_groups_has_the_hash_that_blake3_says() {
        let content = noise(9 * GROUP_BYTES);
        let around =
            |groups: usize| [groups * GROUP_BYTES - 1, groups * GROUP_BYTES, groups * GROUP_BYTES + 1];
        for bytes in [0, 1, 1024].into_iter().chain((1..9).flat_map(around)) {
            let mut hasher = GroupHasher::default();
            hasher.update(&content[..bytes]);
            let (hash, sums) = hasher.finish();
            assert_eq!(hash, *blake3::hash(&content[..bytes]).as_bytes(), "{bytes} bytes");
            let expected = if bytes <= GROUP_BYTES { 0 } else { bytes.div_ceil(GROUP_BYTES) };
            assert_eq!(sums.len(), expected, "{bytes} bytes");
            if expected > 0 {
                assert_eq!(sums.len() as u64, group_count(bytes as u64));
            }
            for (group, sum) in sums.iter().enumerate() {
                let end = ((group + 1) * GROUP_BYTES).min(bytes);
                assert_eq!(*sum, group_sum(group, &content[group * GROUP_BYTES..end]));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn pieces_do_not_matter(pieces in prop::collection::vec(0..400_000usize, 0..6)) {
            let content = noise(pieces.iter().sum());
            let (mut hasher, mut rest) = (GroupHasher::default(), content.as_slice());
            for piece in pieces {
                let (now, later) = rest.split_at(piece);
                hasher.update(now);
                rest = later;
            }
            prop_assert_eq!(hasher.finish().0, *blake3::hash(&content).as_bytes());
        }
    }
}
