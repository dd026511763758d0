//! Why something about libraries cannot be done.

use super::filter::FilterError;
use super::hold::TooManyPins;
use super::registry::RegistryError;
use super::revocation::{FRESH_WITHIN_SECS_MAX, FRESH_WITHIN_SECS_MIN};
use super::ticket::{LibraryId, NameError, TicketError};
use crate::clock::Doubt;
use crate::store::StoreError;

/// Why something about libraries cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("a library of this node is called '{0}' already: give this one another name")]
    NameTaken(String),
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// The invitation makes no sense.
    #[error("{0}")]
    Terms(&'static str),
    #[error(
        "fresh_within_secs is {0}, and can be from {FRESH_WITHIN_SECS_MIN} (1 day) to {FRESH_WITHIN_SECS_MAX} (365 days): leave it \
         out for no limit"
    )]
    FreshWithin(u64),
    #[error("there is no library {0} on this node")]
    Unknown(LibraryId),
    #[error("no ticket of this library has the number {0}")]
    NoTicket(u64),
    #[error("that is this node's own library: give the ticket to somebody else")]
    Own,
    #[error("only the node that created the library can do that: it has the library's key")]
    NotOwner,
    #[error("this node has as many libraries as it can have: delete one first")]
    Full,
    #[error("this node knows no folder '{0}': `can-sync folder list` shows those that it knows")]
    FolderUnknown(String),
    #[error("several folders are called '{0}': name one by its id")]
    FolderAmbiguous(String),
    #[error("this library is no folder: what matches its filter is shared already")]
    NoFolder,
    #[error("the folder '{0}' came here by a ticket: only who owns it can share it")]
    FolderForeign(String),
    #[error(
        "no directory of this machine is bound to the folder '{0}', and what is shared of a folder is what this machine's directory \
         had: bind one first (can-sync folder add DIR --name NAME)"
    )]
    FolderNotBound(String),
    #[error("what the library has is still being read: try again in a while")]
    Filling,
    #[error("the folder of that ticket is in this network already, so that it does not need one")]
    FolderHere,
    #[error("the folder of that ticket is here already, by the library {0}: delete that one first")]
    FolderElsewhere(LibraryId),
    #[error(
        "into the folder of another network nobody writes: the ticket allows what this version does not know"
    )]
    FolderWrite,
    #[error(
        "it is not known what time it is, and so not what is put here from now on and what was here before: {0}; then join again, \
         or share what is here already (--share-existing)"
    )]
    Clock(Doubt),
    #[error(transparent)]
    TooManyPins(#[from] TooManyPins),
    #[error(
        "a folder is not pinned: what a directory needs is held once it is bound to the folder (can-sync folder add DIR --name NAME)"
    )]
    PinnedFolder,
    #[error("this node keeps no libraries")]
    NoRegistry,
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("it failed: {0}")]
    Failed(String),
}
