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
    /// Sum of those contents' sizes.
    pub bytes: u64,
    /// Of the records of folders, where they are kept and told.
    pub entries: Option<EntrySummary>,
}

/// How many records of folders there are, and the fingerprint of their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct EntrySummary {
    /// Removed ones included.
    pub count: u64,
    /// As of records of assets.
    pub fingerprint: [u8; 16],
}

impl Summary {
    /// The same, without the records of folders where those are not `compared`.
    #[must_use]
    pub fn with_entries(self, compared: bool) -> Self {
        Self { entries: self.entries.filter(|_| compared), ..self }
    }

    /// Whether both have the same records; those of folders as far as both tell.
    pub fn same_records(&self, other: &Self) -> bool {
        self.same_assets(other) && self.same_entries(other)
    }

    pub fn same_assets(&self, other: &Self) -> bool {
        (self.count, self.fingerprint) == (other.count, other.fingerprint)
    }

    /// Whether both have the same records of folders, as far as both tell.
    pub fn same_entries(&self, other: &Self) -> bool {
        self.entries.zip(other.entries).is_none_or(|(one, other)| one == other)
    }
}
