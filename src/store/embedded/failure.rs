//! What can go wrong below the store, and what becomes of it: an answer to the caller, and, where the disk can no
//! longer be trusted, the end of all writing.

use std::io;
use std::path::Path;

use rusqlite::ErrorCode;

use crate::store::StoreError;

/// Why a group of changes could not be committed.
#[derive(Debug)]
pub(super) enum Abort {
    Sql(rusqlite::Error),
    /// The file system said so.
    Io {
        /// What was attempted, on what.
        action: String,
        source: io::Error,
    },
    /// We will not go on, and why.
    Refused(String),
}

impl From<rusqlite::Error> for Abort {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl Abort {
    /// Whether it only means that the disk is full, which passes.
    fn is_full(&self) -> bool {
        match self {
            Self::Sql(rusqlite::Error::SqliteFailure(error, _)) => {
                // The index of the WAL is a file too, and growing it fails with a code of its own.
                error.code == ErrorCode::DiskFull
                    || error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
            }
            Self::Io { source, .. } => is_full(source),
            Self::Sql(_) | Self::Refused(_) => false,
        }
    }

    /// Whether the disk can no longer be trusted with writes: what was reported as written may not be there.
    pub(super) fn is_fatal(&self) -> bool {
        if self.is_full() {
            return false;
        }
        match self {
            Self::Sql(rusqlite::Error::SqliteFailure(error, _)) => matches!(
                error.code,
                ErrorCode::SystemIoFailure
                    | ErrorCode::DatabaseCorrupt
                    | ErrorCode::NotADatabase
                    | ErrorCode::ReadOnly
            ),
            Self::Io { source, .. } => is_fatal(source),
            Self::Sql(_) | Self::Refused(_) => false,
        }
    }

    /// The answer to a request for `action` on the store in `dir`.
    pub(super) fn answer(&self, action: &str, dir: &Path) -> StoreError {
        if self.is_full() {
            return full(dir);
        }
        match self {
            Self::Sql(error) => StoreError::Io {
                action: action.into(),
                reason: format!("the database in {}: {error}", dir.display()),
            },
            Self::Io { action, source } => {
                StoreError::Io { action: action.clone(), reason: source.to_string() }
            }
            Self::Refused(why) => StoreError::Io { action: action.into(), reason: why.clone() },
        }
    }
}

/// Whether the disk, or the user's share of it, is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether a write or an fsync failed in a way after which nothing that was written may be trusted.
pub(super) fn is_fatal(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    error.raw_os_error() == Some(EIO) || error.kind() == io::ErrorKind::ReadOnlyFilesystem
}

/// The disk under `dir` is full.
pub(super) fn full(dir: &Path) -> StoreError {
    StoreError::Full(format!("the disk that holds {} is full: free some space on it", dir.display()))
}

/// A failed operation of the file system, for the caller.
pub(crate) fn io_error(action: String, dir: &Path, source: &io::Error) -> StoreError {
    if is_full(source) { full(dir) } else { StoreError::Io { action, reason: source.to_string() } }
}
