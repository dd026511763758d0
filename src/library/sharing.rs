//! By what terms versions of a user's own belong to a library, and since when those hold. Pure.

/// The terms of one library. What a user agrees to later does not tell members what was here, and went, before that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// Versions belong that were written no earlier, in milliseconds since the Unix epoch; 0 for all.
    pub since_ms: u64,
    /// When the user agreed to that, in milliseconds since the Unix epoch.
    pub agreed_ms: u64,
    pub former: Option<FormerSharing>,
}

/// Terms that others took the place of; see [`Sharing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormerSharing {
    pub since_ms: u64,
    pub agreed_ms: u64,
}

impl Sharing {
    /// Terms that hold from `now_ms` on, and none before.
    pub fn agreed(since_ms: u64, now_ms: u64) -> Self {
        Self { since_ms, agreed_ms: now_ms, former: None }
    }

    /// The same library with terms that a user agrees to at `now_ms`.
    #[must_use]
    pub fn renewed(self, since_ms: u64, now_ms: u64) -> Self {
        if since_ms == self.since_ms {
            return self;
        }
        let former = FormerSharing { since_ms: self.since_ms, agreed_ms: self.agreed_ms };
        Self { since_ms, agreed_ms: now_ms, former: Some(former) }
    }

    /// Since when versions belonged by the terms of a moment; `None` if none did yet.
    pub fn since_at(&self, at_ms: u64) -> Option<u64> {
        if at_ms >= self.agreed_ms {
            return Some(self.since_ms);
        }
        self.former.filter(|former| at_ms >= former.agreed_ms).map(|former| former.since_ms)
    }
}
