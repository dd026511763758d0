//! What a [`Dropping`](super::Dropping) is told, and what it has done.

use std::time::Duration;

use bytes::Bytes;

use super::{HolderId, Nonce, PlaceTag};
use crate::record::ContentHash;
use crate::store::promises::{DropAnswer, MarkAnswer};
use crate::transfer::schedule::SessionId;

/// What holds for all contents of a command.
#[derive(Clone, Copy, Debug)]
pub struct DropRules {
    /// Promises that are needed, each from another place.
    pub min_copies: usize,
    pub own_place: PlaceTag,
    pub until: Duration,
}

/// What a machine answers that was asked to keep a content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeepAnswer {
    /// It read all of its copy, and wrote down that it keeps it.
    Promised { place: PlaceTag, proof: [u8; 32] },
    /// It is about to let go of it itself.
    Dropping,
    /// It does not have it, or it is damaged.
    Lacks,
    /// Its copy is ours.
    SamePlace,
    /// It cannot say now.
    Unable,
}

/// What a [`Dropping`](super::Dropping) is told.
#[derive(Debug)]
pub enum DropInput {
    /// A machine of ours can be asked.
    HolderUp { session: SessionId, holder: HolderId },
    /// It cannot be asked any more, and will not answer.
    HolderGone { session: SessionId },
    /// A user shut it out: what it promised does not count any more.
    HolderDenied { holder: HolderId },
    /// Of [`DropEffect::Prepare`].
    Prepared { hash: ContentHash, answer: Result<PreparedCopy, String> },
    /// Of [`DropEffect::Ask`].
    Answered { session: SessionId, hash: ContentHash, nonce: Nonce, answer: KeepAnswer },
    /// Of [`DropEffect::LetGo`].
    LetGo { hash: ContentHash, answer: Result<DropAnswer, String> },
    /// Of [`DropEffect::Clear`], whatever came of it.
    Cleared { hash: ContentHash },
    /// A user wants it to end.
    Cancel,
    /// Time has passed.
    Tick,
}

#[derive(Clone, Debug)]
pub enum PreparedCopy {
    /// It is marked, and this is the piece that was asked for.
    Marked { sample: Bytes },
    /// It was not marked, and why.
    Not(MarkAnswer),
    /// It is pinned, or a library or a bound folder has it: since when it was looked at.
    Needed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropEffect {
    /// Mark the copy durably, and read a piece of it: [`DropInput::Prepared`].
    Prepare { hash: ContentHash, offset: u64, length: u64 },
    /// Ask a machine: [`DropInput::Answered`].
    Ask { session: SessionId, hash: ContentHash, nonce: Nonce, offset: u64 },
    /// Let go of the copy, if it is still marked, nobody was shut out of those that are
    /// [counted on](super::Dropping::counted_on), and it is not later than `by`: [`DropInput::LetGo`].
    LetGo { hash: ContentHash, by: Duration },
    /// Take the mark away: [`DropInput::Cleared`].
    Clear { hash: ContentHash },
}
