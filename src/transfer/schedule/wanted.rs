//! One wanted asset and one request on its way.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::parts::{Parts, PartsPhase};
use super::{LARGE_CHARGE, SMALL_BYTES_MAX, SMALL_OVERHEAD, ScheduleLimits, SessionId};
use crate::record::{AssetRecord, ContentHash, LibraryId};

/// What is wanted. A library speaks for itself: what it says of a content, and who of its members has it, counts for its
/// own record of the content and for no other library, nor for the mirror. Nor does a size that somebody says count for
/// another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WantKey {
    pub hash: ContentHash,
    /// Whose record of it; `None` for the mirror.
    pub library: Option<LibraryId>,
    /// How long it is said to be.
    pub size: u64,
}

impl WantKey {
    /// Of a record that `library` offers.
    #[must_use]
    pub fn new(library: Option<LibraryId>, record: &AssetRecord) -> Self {
        Self { hash: record.hash, library, size: record.size }
    }
}

#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) record: AssetRecord,
    /// `record` came after the one that is on its way into the store.
    pub(super) is_newer: bool,
    /// Sessions that have it and have not failed at it.
    pub(super) sources: Vec<SessionId>,
    pub(super) state: WantedState,
}

#[derive(Debug)]
pub(super) enum WantedState {
    /// To be asked for.
    Free,
    /// Asked for as a whole, by this request.
    Asked(u64),
    /// Asked for in parts.
    Parts(Parts),
    /// The content is stored, and the newest record of it is about to be.
    Stored,
}

impl WantedState {
    /// Of an asset of this size that nobody was asked for yet.
    pub(super) fn new(size: u64, limits: &ScheduleLimits) -> Self {
        if size > limits.part_bytes.max(SMALL_BYTES_MAX) {
            Self::Parts(Parts::new(size, limits.part_bytes))
        } else {
            Self::Free
        }
    }
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) session: SessionId,
    pub(super) asked_at: Instant,
    pub(super) work: Requested,
}

#[derive(Debug)]
pub(super) enum Requested {
    /// Whole assets that have not come yet.
    Assets(BTreeSet<WantKey>),
    Part {
        key: WantKey,
        part: u64,
        charge: u64,
    },
}

/// An asset that is wanted, for the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedAsset {
    /// Which, and for which library.
    pub key: WantKey,
    /// Who is asked, or the first who could be.
    pub session: Option<SessionId>,
    /// Whether it was asked for.
    pub started: bool,
}

/// How one wanted asset stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedStatus {
    /// Which, and for which library.
    pub key: WantKey,
    /// Sessions that have it.
    pub sources: Vec<SessionId>,
    /// Those of them that it was asked of.
    pub asked: Vec<SessionId>,
    /// Whether all of it is here, and it is being checked or stored.
    pub is_complete: bool,
    /// Whether nothing is asked for now because the store takes nothing.
    pub is_paused: bool,
    /// The only source, if wrong bytes came from one of several.
    pub only: Option<SessionId>,
}

impl Wanted {
    /// Whether there is something that `session` could be asked for and nobody was.
    pub(super) fn has_free_for(&self, session: SessionId) -> bool {
        self.sources.contains(&session)
            && match &self.state {
                WantedState::Free => true,
                WantedState::Asked(_) | WantedState::Stored => false,
                WantedState::Parts(parts) => parts.admits(session) && parts.has_free(),
            }
    }

    pub(super) fn is_started(&self) -> bool {
        match &self.state {
            WantedState::Free => false,
            WantedState::Asked(_) | WantedState::Stored => true,
            WantedState::Parts(parts) => {
                parts.first_request().is_some() || parts.phase != PartsPhase::Fetching
            }
        }
    }

    pub(super) fn requests(&self) -> Vec<u64> {
        match &self.state {
            WantedState::Free | WantedState::Stored => Vec::new(),
            WantedState::Asked(request) => vec![*request],
            WantedState::Parts(parts) => parts.requests(),
        }
    }

    pub(super) fn open_bytes(&self) -> u64 {
        match &self.state {
            WantedState::Parts(parts) => self.record.size - parts.done_bytes(),
            WantedState::Free | WantedState::Asked(_) => self.record.size,
            WantedState::Stored => 0,
        }
    }
}

impl Flight {
    pub(super) fn keys(&self) -> Vec<WantKey> {
        match &self.work {
            Requested::Assets(assets) => assets.iter().copied().collect(),
            Requested::Part { key, .. } => vec![*key],
        }
    }
}

pub(super) fn charge(size: u64) -> u64 {
    if size <= SMALL_BYTES_MAX { size + SMALL_OVERHEAD } else { LARGE_CHARGE.min(size) }
}
