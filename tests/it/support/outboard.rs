//! What proves parts of a content, for those who speak the protocol by hand.

use std::ops::Range;

use can_sync::testing::store::groups::{GroupHasher, GroupSum, proof_nodes, subtree};

/// The sums of the groups of a content, and what they fold to.
pub(crate) struct Outboard {
    pub(crate) root: GroupSum,
    sums: Vec<GroupSum>,
}

impl Outboard {
    pub(crate) fn of(content: &[u8]) -> Self {
        let mut hasher = GroupHasher::default();
        hasher.update(content);
        let (root, sums) = hasher.finish();
        Self { root, sums }
    }

    /// What proves these groups.
    pub(crate) fn prove(&self, groups: &Range<u64>) -> Vec<GroupSum> {
        let index = |group: u64| usize::try_from(group).expect("a group");
        let nodes = proof_nodes(self.sums.len() as u64, groups).into_iter();
        nodes.map(|node| subtree(&self.sums[index(node.start)..index(node.end)])).collect()
    }
}
