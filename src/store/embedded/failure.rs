//! What can go wrong below the store, and what becomes of it: an answer to the caller, and, where the disk can no
//! longer be trusted, the end of all writing.

use std::fmt;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rusqlite::ErrorCode;

use super::INLINE_BYTES_MAX;
use crate::store::StoreError;

/// Why a group of changes could not be committed.
#[derive(Debug)]
pub(super) enum Abort {
    Sql(rusqlite::Error),
    /// The file system said so.
    Io {
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
    pub(super) fn is_full(&self) -> bool {
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

    /// A write that failed for want of room where SQLite does not say so: it takes an exceeded quota for a broken disk. So
    /// another write is tried in `dir`.
    pub(super) fn or_full(self, dir: &Path) -> Self {
        let failed = match &self {
            Self::Sql(rusqlite::Error::SqliteFailure(error, _)) => error.code == ErrorCode::SystemIoFailure,
            Self::Sql(_) | Self::Io { .. } | Self::Refused(_) => false,
        };
        if failed
            && let Err(source) = try_write(dir)
            && is_full(&source)
        {
            return Self::Io { action: format!("write to {}", dir.display()), source };
        }
        self
    }

    /// Whether the disk can no longer be trusted with writes: what was reported as written may not be there.
    pub(super) fn is_fatal(&self) -> bool {
        if self.is_full() {
            return false;
        }
        match self {
            Self::Sql(error) if is_unread(error) => false,
            Self::Sql(rusqlite::Error::SqliteFailure(error, _)) => matches!(
                error.code,
                ErrorCode::SystemIoFailure
                    | ErrorCode::DatabaseCorrupt
                    | ErrorCode::NotADatabase
                    | ErrorCode::ReadOnly
            ),
            Self::Sql(error) => is_damage(error),
            Self::Io { source, .. } => is_fatal(source),
            Self::Refused(_) => false,
        }
    }

    /// The answer to a request for `action` on the store in `dir`.
    pub(super) fn answer(&self, action: &str, dir: &Path) -> StoreError {
        if self.is_full() {
            return full(dir);
        }
        match self {
            Self::Sql(error) if is_damage(error) => StoreError::io(action, damaged_database(dir, error)),
            Self::Sql(error) => StoreError::io(action, format!("the database in {}: {error}", dir.display())),
            Self::Io { action, source } => StoreError::io(action.clone(), source),
            Self::Refused(why) => StoreError::io(action, why),
        }
    }
}

/// Whether the database says something that it was never told: its pages are damaged.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    if let rusqlite::Error::SqliteFailure(error, _) = error {
        return matches!(error.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase);
    }
    matches!(
        error,
        rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
    )
}

/// Whether pages of a table are damaged, so that a row cannot be read. The file as such is a database.
pub(super) fn is_damaged_page(error: &rusqlite::Error) -> bool {
    is_damage(error) && error.sqlite_error_code() != Some(ErrorCode::NotADatabase)
}

/// Whether something could not be read or had just now, or no memory: nothing was written, so nothing is lost by it.
pub(super) fn is_unread(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi;
    let rusqlite::Error::SqliteFailure(error, _) = error else { return false };
    matches!(
        error.extended_code,
        ffi::SQLITE_IOERR_READ
            | ffi::SQLITE_IOERR_NOMEM
            | ffi::SQLITE_IOERR_FSTAT
            | ffi::SQLITE_IOERR_ACCESS
            | ffi::SQLITE_IOERR_LOCK
            | ffi::SQLITE_IOERR_RDLOCK
            | ffi::SQLITE_IOERR_CHECKRESERVEDLOCK
            | ffi::SQLITE_IOERR_SHMOPEN
            | ffi::SQLITE_IOERR_SHMLOCK
            | ffi::SQLITE_IOERR_SHMMAP
    )
}

pub(super) fn is_interrupted(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
}

/// That its pages are damaged, and what to do.
pub(super) fn damaged_database(dir: &Path, error: &dyn fmt::Display) -> String {
    format!(
        "the database in {} is damaged ({error}). Contents up to {} KiB lie in it, and all that is known of the others: read out what only \
         this machine has (`can-sync get`) while it still runs. Then stop, and restore the last backup into another directory \
         (`can-sync restore`); or, where other machines have everything, move store.db, store.db-wal and store.db-shm away, keep them, \
         and start again: larger contents stay, the rest comes back from those machines",
        dir.display(),
        INLINE_BYTES_MAX / 1024,
    )
}

/// Writes as much as a small change does, and removes it again.
fn try_write(dir: &Path) -> io::Result<()> {
    let file = tempfile::tempfile_in(dir)?;
    // As SQLite writes.
    file.write_all_at(&vec![7; 64 * 1024], 0)?;
    file.sync_all()
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn failed(code: i32) -> Abort {
        Abort::Sql(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None))
    }

    #[test]
    fn an_exceeded_quota_is_a_full_disk_and_not_a_broken_one() {
        for kind in [io::ErrorKind::QuotaExceeded, io::ErrorKind::StorageFull] {
            let abort = Abort::Io { action: "write".into(), source: kind.into() };
            assert!(abort.is_full() && !abort.is_fatal(), "{kind}");
            assert!(matches!(abort.answer("write", Path::new("/d")), StoreError::Full(_)));
        }
        // SQLite does not tell what the system said, so the disk is asked: this one has room.
        let dir = tempfile::tempdir().unwrap();
        let abort = failed(rusqlite::ffi::SQLITE_IOERR_WRITE).or_full(dir.path());
        assert!(!abort.is_full() && abort.is_fatal());
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=16k", "tmpfs"]).arg(dir.path()).status();
        if !mounted.is_ok_and(|status| status.success()) {
            // Said by the tests that fill a disk.
            return;
        }
        let full = failed(rusqlite::ffi::SQLITE_IOERR_WRITE).or_full(dir.path());
        let other = failed(rusqlite::ffi::SQLITE_CONSTRAINT).or_full(dir.path());
        assert!(Command::new("umount").arg(dir.path()).status().unwrap().success());
        assert!(full.is_full() && !full.is_fatal());
        assert!(!other.is_full() && !other.is_fatal(), "what has nothing to do with the disk");
    }
}
