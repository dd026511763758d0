//! Why a store cannot do what it is asked.

use std::fmt;

use super::entries::FolderPlaces;
use crate::record::ContentHash;

/// Why a store could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoreError {
    /// No live asset of this hash.
    #[error("no asset {0}")]
    NotFound(ContentHash),
    /// A live asset whose content is not here.
    #[error("the content of {0} is not held here")]
    NotHeld(ContentHash),
    /// An asset whose content a file of a folder has.
    #[error("{0}")]
    InFolder(Box<FolderPlaces>),
    /// A store without records of folders.
    #[error("this store keeps no folders")]
    NoFolders,
    /// An asset that was changed since the caller looked at it.
    #[error("the asset {0} was changed meanwhile")]
    Changed(ContentHash),
    /// Stored bytes that no longer hash to their name, or cannot be read.
    #[error(
        "the stored content of {0} is damaged: it is set aside, and fetched again if another machine has it"
    )]
    Corrupt(ContentHash),
    /// No room, or less than the reserve.
    #[error("{0}")]
    Full(String),
    /// More content than may be here.
    #[error("{0}")]
    OverQuota(String),
    /// The store takes no writes, until it is started again or its contents are back; or what is asked for is away with these.
    #[error("the store is read-only: {0}")]
    ReadOnly(String),
    /// Too much is asked at once: later it may be answered.
    #[error("{0}")]
    Busy(String),
    /// The caller's fault: what was asked makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// An external CAN Service that does not answer, or answers with a server error.
    #[error("the CAN Service at {url} is not available: {reason}")]
    Unavailable { url: String, reason: String },
    /// An external CAN Service that does not know our key.
    #[error("the CAN Service at {url} refuses our key: set sync_api_key to the service's own")]
    Unauthorized { url: String },
    /// An external CAN Service that cannot do it at all.
    #[error("the CAN Service at {url} cannot {what}: it is older than this program; update it")]
    Unsupported { url: String, what: &'static str },
    /// Object storage that does not answer, or refuses: nothing is known of what is there.
    #[error("the object storage {url} cannot be used: {reason}")]
    BucketAway {
        /// Where contents are, as people know it.
        url: String,
        /// What happened, and what to do.
        reason: String,
    },
    /// Anything else below: SQLite, the file system.
    #[error("{action}: {reason}")]
    Io {
        /// What was attempted, on what.
        action: String,
        reason: String,
    },
}

impl StoreError {
    pub(crate) fn io(action: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::Io { action: action.into(), reason: reason.to_string() }
    }
}
