//! BLAKE3 of content, and of each group of it, in one pass; and what proves a range of groups to be part of a content. Pure.
//!
//! BLAKE3 is a tree over chunks of 1 KiB. A group is a subtree of it: 64 KiB, the last one less. What a group hashes to is all that
//! is needed to check that part of the content by itself, and all groups together give the hash of the whole, the root: so a sum
//! for each group costs nothing beside the hash that is computed anyway, and vouches for exactly the same bytes.
//!
//! A proof of some groups that follow each other has their sums, and what the largest subtrees beside them hash to, from left to
//! right ([`proof_nodes`]). They fold to the root, or they are not of that content ([`check_proof`]). How many they are follows
//! from the size and the range alone, so nothing is taken from a stranger that was not expected, and in a content of any size it
//! is the groups asked for and a few dozen more.

use std::fmt;
use std::ops::Range;

use blake3::Hasher;
use blake3::hazmat::{HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// Length of a group, in bytes: what is read, and held in memory, before any of it is given away.
pub const GROUP_BYTES: usize = 64 * 1024;

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

pub fn group_count(size: u64) -> u64 {
    size.div_ceil(GROUP_BYTES as u64).max(1)
}

/// What a group of content hashes to that has several.
pub fn group_sum(group: usize, bytes: &[u8]) -> GroupSum {
    hasher(group).update(bytes).finalize_non_root()
}

/// Most groups that one proof is about: those of a part that is asked for at once.
pub const PROOF_GROUPS_MAX: u64 = 128;
/// Most hashes in a proof: beside each group of it, two for each level of the tree.
pub const PROOF_NODES_MAX: usize = 128 + 2 * 64;

/// The groups that a range of bytes touches.
pub fn groups_of(range: &Range<u64>) -> Range<u64> {
    range.start / GROUP_BYTES as u64..range.end.div_ceil(GROUP_BYTES as u64)
}

pub fn group_range(group: u64, size: u64) -> Range<u64> {
    let start = group * GROUP_BYTES as u64;
    start..(start + GROUP_BYTES as u64).min(size)
}

/// The subtrees, as ranges of groups, whose hashes prove `wanted` in content of `count` groups: each wanted group by itself,
/// and as few as possible beside them. Empty where that is no range of several groups' content, or too long for one proof.
pub fn proof_nodes(count: u64, wanted: &Range<u64>) -> Vec<Range<u64>> {
    let mut nodes = Vec::new();
    if is_provable(count, wanted) {
        collect_nodes(0..count, wanted, &mut nodes);
    }
    nodes
}

fn is_provable(count: u64, wanted: &Range<u64>) -> bool {
    let length = wanted.end.saturating_sub(wanted.start);
    count > 1 && length > 0 && length <= PROOF_GROUPS_MAX && wanted.end <= count
}

fn collect_nodes(node: Range<u64>, wanted: &Range<u64>, nodes: &mut Vec<Range<u64>>) {
    if is_leaf(&node, wanted) {
        return nodes.push(node);
    }
    let middle = node.start + left_groups(node.end - node.start);
    collect_nodes(node.start..middle, wanted, nodes);
    collect_nodes(middle..node.end, wanted, nodes);
}

/// Whether a proof has the hash of this subtree and nothing of what is below.
fn is_leaf(node: &Range<u64>, wanted: &Range<u64>) -> bool {
    let is_beside = node.end <= wanted.start || wanted.end <= node.start;
    is_beside || node.end - node.start == 1
}

/// The sums of the groups `wanted`, if `proof` has what [`proof_nodes`] says and folds to `root`.
pub fn check_proof(
    root: &GroupSum,
    count: u64,
    wanted: &Range<u64>,
    proof: &[GroupSum],
) -> Option<Vec<GroupSum>> {
    if !is_provable(count, wanted) || proof.len() > PROOF_NODES_MAX {
        return None;
    }
    let mut folding = Folding { wanted, rest: proof, sums: Vec::new() };
    let middle = left_groups(count);
    let (left, right) = (folding.fold(0..middle)?, folding.fold(middle..count)?);
    let is_root = merge_subtrees_root(&left, &right, Mode::Hash) == *root && folding.rest.is_empty();
    is_root.then_some(folding.sums)
}

struct Folding<'a> {
    wanted: &'a Range<u64>,
    rest: &'a [GroupSum],
    sums: Vec<GroupSum>,
}

impl Folding<'_> {
    fn fold(&mut self, node: Range<u64>) -> Option<GroupSum> {
        if is_leaf(&node, self.wanted) {
            let (sum, rest) = self.rest.split_first()?;
            self.rest = rest;
            if self.wanted.contains(&node.start) {
                self.sums.push(*sum);
            }
            return Some(*sum);
        }
        let middle = node.start + left_groups(node.end - node.start);
        let (left, right) = (self.fold(node.start..middle)?, self.fold(middle..node.end)?);
        Some(merge_subtrees_non_root(&left, &right, Mode::Hash))
    }
}

/// BLAKE3 of the whole, from two sums or more: of all groups, or of all subtrees of so many groups each, a power of two.
pub fn root(sums: &[GroupSum]) -> GroupSum {
    let (left, right) = split(sums);
    *merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).as_bytes()
}

/// What a subtree hashes to that is not all of it, from the sums of its groups, or of subtrees as for [`root`].
pub fn subtree(sums: &[GroupSum]) -> GroupSum {
    if let [sum] = sums {
        return *sum;
    }
    let (left, right) = split(sums);
    merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
}

fn split(sums: &[GroupSum]) -> (&[GroupSum], &[GroupSum]) {
    let left = left_groups(sums.len() as u64);
    sums.split_at(usize::try_from(left).unwrap_or(sums.len()).min(sums.len()))
}

/// The left side of BLAKE3's tree is the largest power of two that leaves something for the right side.
fn left_groups(groups: u64) -> u64 {
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
        let left: Vec<u64> = (2..=9).map(left_groups).collect();
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

    #[test]
    fn bytes_lie_in_groups() {
        let group = GROUP_BYTES as u64;
        for (range, groups) in [
            (0..1, 0..1),
            (group - 1..group + 1, 0..2),
            (group..2 * group, 1..2),
            (5 * group + 1..9 * group + 1, 5..10),
        ] {
            assert_eq!(groups_of(&range), groups, "{range:?}");
        }
        assert_eq!(group_range(0, 10), 0..10);
        assert_eq!(group_range(1, group + 10), group..group + 10);
        assert_eq!(group_range(3, 9 * group), 3 * group..4 * group);
    }

    /// Of content of so many groups, with sums by chance.
    fn tree(count: u64) -> Vec<GroupSum> {
        (0..count).map(|group| *blake3::hash(&group.to_le_bytes()).as_bytes()).collect()
    }

    fn prove(sums: &[GroupSum], wanted: &Range<u64>) -> Vec<GroupSum> {
        let index = |group: u64| usize::try_from(group).unwrap();
        let nodes = proof_nodes(sums.len() as u64, wanted).into_iter();
        nodes.map(|node| subtree(&sums[index(node.start)..index(node.end)])).collect()
    }

    #[test]
    fn a_proof_of_the_largest_content_is_small() {
        let count = group_count(u64::MAX);
        for wanted in [0..1, count - 1..count, count / 2 - 64..count / 2 + 64, 5..5 + PROOF_GROUPS_MAX] {
            let nodes = proof_nodes(count, &wanted);
            assert!((2..=PROOF_NODES_MAX).contains(&nodes.len()), "{}", nodes.len());
            assert_eq!(check_proof(&[0; 32], count, &wanted, &vec![[0; 32]; nodes.len()]), None);
        }
        assert_eq!(proof_nodes(count, &(0..PROOF_GROUPS_MAX + 1)), [], "too long");
        assert_eq!(proof_nodes(count, &(count - 1..count + 1)), [], "past the end");
        assert_eq!(proof_nodes(1, &(0..1)), [], "one group is its own root");
        assert_eq!(proof_nodes(9, &(3..3)), []);
    }

    #[test]
    fn what_may_not_be_asked_for_is_not_proved_by_true_hashes_either() {
        let (sums, mut nodes) = (tree(200), Vec::new());
        let wanted = 0..PROOF_GROUPS_MAX + 1;
        collect_nodes(0..200, &wanted, &mut nodes);
        let index = |group: u64| usize::try_from(group).unwrap();
        let proof: Vec<GroupSum> =
            nodes.iter().map(|node| subtree(&sums[index(node.start)..index(node.end)])).collect();
        assert_eq!(check_proof(&root(&sums), 200, &wanted, &proof), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn a_proof_gives_the_sums_that_it_was_made_of(
            count in 2..700_u64,
            at in any::<prop::sample::Index>(),
            length in 1..=PROOF_GROUPS_MAX,
        ) {
            let (sums, start) = (tree(count), at.index(usize::try_from(count).unwrap()) as u64);
            let wanted = start..(start + length).min(count);
            let proof = prove(&sums, &wanted);
            let found = check_proof(&root(&sums), count, &wanted, &proof);
            let index = |group: u64| usize::try_from(group).unwrap();
            prop_assert_eq!(found.as_deref(), Some(&sums[index(wanted.start)..index(wanted.end)]));
        }

        /// Another hash somewhere, more or fewer of them, an order of their own, another root: nothing passes. Of another range or
        /// another number of groups the same hashes may be a proof, too, and then they prove what is true.
        #[test]
        fn a_proof_that_was_changed_proves_nothing(
            count in 2..300_u64,
            at in any::<prop::sample::Index>(),
            length in 1..20_u64,
            change in 0..7_u8,
            place in any::<prop::sample::Index>(),
            bit in 0..256_usize,
        ) {
            let (sums, start) = (tree(count), at.index(usize::try_from(count).unwrap()) as u64);
            let wanted = start..(start + length).min(count);
            let (mut proof, mut root) = (prove(&sums, &wanted), root(&sums));
            let (mut said, mut of) = (wanted.clone(), count);
            let place = place.index(proof.len());
            match change {
                0 => proof[place][bit / 8] ^= 1 << (bit % 8),
                1 => drop(proof.remove(place)),
                2 => proof.insert(place, [7; 32]),
                3 => proof.rotate_left(1),
                4 => said = if said.end < count { said.start + 1..said.end + 1 } else { 0..said.end - said.start },
                5 => of += 1,
                _ => root[bit / 8] ^= 1 << (bit % 8),
            }
            let found = check_proof(&root, of, &said, &proof);
            if matches!(change, 4 | 5) {
                let index = |group: u64| usize::try_from(group).unwrap();
                prop_assert!(found.is_none_or(|found| found == sums[index(said.start)..index(said.end)]));
            } else {
                prop_assert_eq!(found, None);
            }
        }

        #[test]
        fn subtrees_of_a_power_of_two_of_groups_fold_to_the_same_root(count in 9..600_u64, power in 0..4_u32) {
            let sums = tree(count);
            let nodes: Vec<GroupSum> = sums.chunks(1 << power).map(subtree).collect();
            prop_assert_eq!(root(&nodes), root(&sums));
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
