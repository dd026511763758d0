//! What came of letting go of a content.

use std::time::Duration;

use super::HolderId;

/// A machine's promise to keep its copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TakenPromise {
    pub holder: HolderId,
    pub lasts_until: Duration,
}

/// Why a machine's copy does not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HolderRefusal {
    /// It is about to let go of it itself.
    Dropping,
    /// It does not have it, or it is damaged.
    Lacks,
    /// Its copy is ours: both use one place.
    SamePlace,
    /// Another machine promised the copy of that place.
    PlaceCounted,
    Unable,
    /// It did not show that it has the bytes.
    WrongProof,
    Silent,
    /// Its session ended before it answered.
    Lost,
    /// A user shut it out after it had promised.
    Denied,
}

impl HolderRefusal {
    /// Whether it may be otherwise soon.
    pub fn may_change(self) -> bool {
        match self {
            Self::Dropping | Self::Unable | Self::Silent | Self::Lost => true,
            Self::Lacks | Self::SamePlace | Self::PlaceCounted | Self::WrongProof | Self::Denied => false,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DropOutcome {
    /// It is not here any more, and these are to keep it.
    Dropped {
        promises: Vec<TakenPromise>,
    },
    Kept(KeptBecause),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeptBecause {
    /// Too few promised to keep it.
    TooFew {
        promises: Vec<TakenPromise>,
        /// The others that were asked.
        refusals: Vec<(HolderId, HolderRefusal)>,
    },
    /// It is promised to another machine.
    Promised { to: HolderId, lasts: Duration },
    /// It was not here.
    NotHeld,
    /// It was pinned, or a folder had it, when it was about to be let go of.
    Needed,
    /// There were enough promises, and too late.
    Late,
    /// One of those that promised was shut out at the last moment.
    ShutOut,
    /// The command's time was up.
    TimeIsUp,
    /// A user ended it.
    Cancelled,
    /// The store could not do it.
    Failed(String),
}
