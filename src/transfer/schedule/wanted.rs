//! One wanted asset and one request on its way.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::parts::{Parts, PartsPhase};
use super::{LARGE_CHARGE, SMALL_BYTES_MAX, SMALL_OVERHEAD, ScheduleLimits, SessionId};
use crate::record::{AssetRecord, ContentHash, LibraryId};
use crate::store::groups::GroupSum;

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
    pub(super) claims: RootClaims,
    pub(super) state: WantedState,
}

/// What sources say the BLAKE3 of a content is. Each speaks for itself: it is no part of a version, and a peer that has the content has
/// computed it.
#[derive(Debug, Default)]
pub(super) struct RootClaims {
    /// As far as the source can prove it, or was not asked to.
    by: Vec<(SessionId, GroupSum)>,
    /// Rare, and there may be very many wanted assets.
    wrong: Option<Box<WrongClaims>>,
}

#[derive(Debug, Default)]
struct WrongClaims {
    /// Sources whose proof was none for what they said.
    doubted: Vec<(SessionId, GroupSum)>,
    /// What turned out to be the BLAKE3 of another content.
    void: BTreeSet<GroupSum>,
}

impl RootClaims {
    /// A source says what its record has; once it could not prove that, it is not believed again.
    pub(super) fn add(&mut self, session: SessionId, root: Option<GroupSum>) {
        let Some(root) = root else { return };
        let is_wrong = self.wrong.as_ref().is_some_and(|wrong| {
            wrong.void.contains(&root) || wrong.doubted.iter().any(|(doubted, _)| *doubted == session)
        });
        if !is_wrong {
            self.remove(session);
            self.by.push((session, root));
        }
    }

    pub(super) fn of(&self, session: SessionId) -> Option<GroupSum> {
        self.by.iter().find(|(said_by, _)| *said_by == session).map(|(_, root)| *root)
    }

    /// A source cannot prove anything; what it said.
    pub(super) fn remove(&mut self, session: SessionId) -> Option<GroupSum> {
        let at = self.by.iter().position(|(said_by, _)| *said_by == session)?;
        Some(self.by.swap_remove(at).1)
    }

    /// What a source sent as proof was none for what it said.
    pub(super) fn doubt(&mut self, session: SessionId, root: GroupSum) {
        self.wrong.get_or_insert_default().doubted.push((session, root));
    }

    /// Sources whose proof was none, and that said this.
    pub(super) fn doubted(&self, root: &GroupSum) -> Vec<SessionId> {
        let all = self.wrong.iter().flat_map(|wrong| &wrong.doubted);
        all.filter(|(_, said)| said == root).map(|(session, _)| *session).collect()
    }

    /// A source is gone for good.
    pub(super) fn forget(&mut self, session: SessionId) {
        self.remove(session);
        if let Some(wrong) = &mut self.wrong {
            wrong.doubted.retain(|(doubted, _)| *doubted != session);
        }
    }

    /// This is no root of the content; nobody is asked to prove it again.
    pub(super) fn refute(&mut self, root: GroupSum) {
        self.wrong.get_or_insert_default().void.insert(root);
        self.by.retain(|(_, said)| *said != root);
    }

    /// How many say so.
    pub(super) fn count(&self, root: &GroupSum) -> usize {
        self.by.iter().filter(|(_, said)| said == root).count()
    }

    /// What most say; of those that as many say, `now`.
    pub(super) fn best(&self, now: Option<GroupSum>) -> Option<GroupSum> {
        let roots = self.by.iter().map(|(_, root)| *root);
        roots.max_by_key(|root| (self.count(root), Some(*root) == now, *root))
    }

    /// Whether somebody said something that could not be proved, or was wrong.
    pub(super) fn were_wrong(&self) -> bool {
        self.wrong.as_ref().is_some_and(|wrong| !wrong.doubted.is_empty() || !wrong.void.is_empty())
    }

    /// Those whose records say something else than `root`, which it is.
    pub(super) fn others_than(&self, root: Option<GroupSum>) -> Vec<SessionId> {
        let others = self.by.iter().filter(|(_, said)| root.is_some_and(|root| *said != root));
        let doubted = self.wrong.iter().flat_map(|wrong| &wrong.doubted);
        others.chain(doubted).map(|(session, _)| *session).collect()
    }
}

#[derive(Debug)]
pub(super) enum WantedState {
    /// To be asked for.
    Free,
    /// Asked for as a whole, by this request.
    Asked(u64),
    Parts(Parts),
    /// The content is stored, and the newest record of it is about to be.
    Stored,
}

impl WantedState {
    /// Of an asset of this size that nobody was asked for yet. With a root, it comes in parts from 64 KiB up.
    pub(super) fn new(size: u64, root: Option<GroupSum>, limits: &ScheduleLimits) -> Self {
        let least = if root.is_some() { SMALL_BYTES_MAX } else { limits.part_bytes.max(SMALL_BYTES_MAX) };
        if size > least { Self::Parts(Parts::new(size, limits.part_bytes, root)) } else { Self::Free }
    }
}

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
    pub key: WantKey,
    /// Who is asked, or the first who could be.
    pub session: Option<SessionId>,
    /// Whether it was asked for.
    pub started: bool,
}

/// How one wanted asset stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedStatus {
    pub key: WantKey,
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
                WantedState::Parts(parts) => self.admits(parts, session) && parts.has_free(),
            }
    }

    /// Whether `session` may be asked for parts, which are these.
    pub(super) fn admits(&self, parts: &Parts, session: SessionId) -> bool {
        let says_so = parts.root.is_none_or(|root| self.claims.of(session) == Some(root));
        says_so && parts.admits(session)
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
