//! What two agents compare before they reconcile.

/// Size and fingerprint of a library, ours or theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Summary {
    /// Records, tombstones included.
    pub count: u64,
    /// Negentropy fingerprint of all record ids.
    pub fingerprint: [u8; 16],
    /// Live assets whose contents are held.
    pub assets: u64,
    /// Sum of their sizes.
    pub bytes: u64,
}

impl Summary {
    /// Whether both have the same records.
    #[must_use]
    pub fn same_records(&self, other: &Self) -> bool {
        (self.count, self.fingerprint) == (other.count, other.fingerprint)
    }
}
