//! Backups of a data directory, made while its node runs or not, and data directories made of backups.
//!
//! A backup is made from outside of the node, by a user who may read the data directory: SQLite copies a database as it is at one
//! moment even while the node writes it, and contents are files that nobody changes. So no route exists that could be told to write somewhere.
//!
//! ```text
//! can-sync-backup      says whose directory this is; made first
//! manifest.json        what the backup consists of; replaced in one step, last
//! lock                 held while a process works here
//! content/ab/cd/abcd…  contents, named by their hashes; those of the backup before are not copied again
//! states/7/            databases, secrets and the list of contents of one backup
//! tmp/                 what is being written
//! ```
//!
//! Until the new manifest is durable, nothing is removed that the former one names: whatever ends a backup, the former or the new one
//! is whole.

use std::fmt;
use std::io;
use std::path::Path;

mod contents;
mod guard;
mod make;
mod manifest;
mod place;
mod restore;
pub(crate) mod snapshot;
mod target;

pub(crate) use self::make::{BackupOptions, BackupReport, BackupRun};
pub(crate) use self::restore::RestoreRun;
pub(crate) use self::target::problem;
use serde::Serialize;

use crate::identity;

/// Says that a directory is for backups alone.
pub(crate) const BACKUP_MARK: &str = "can-sync-backup";
/// In a data directory that is being restored: what came so far.
pub(crate) const RESTORING: &str = "restoring";

/// In a data directory that was made of snapshots: of which. Its node belongs to a network, whether or not it has met anybody.
pub(crate) const RESTORED_FROM: &str = "restored_from";

/// Files of the data directory with secrets or remarks about them in them. The first one is who the node is.
const SECRETS: [&str; 5] = [
    identity::KEY_FILE,
    identity::PASSPHRASE_FILE,
    "passphrase.former",
    "passphrase.rotated",
    crate::store::service::key::FILE_NAME,
];
/// Databases of a data directory beside the store's, and whether a restored node can do without.
const DATABASES: [(&str, bool); 3] = [("libraries.db", false), ("agent.db", true), ("clock.db", true)];
/// What makes a node the one that it is: a copy that is to be another one has none of them.
const IDENTITY: [&str; 3] = [identity::KEY_FILE, "libraries.db", "agent.db"];
/// Where a state has the store's database.
const STORE_DB: &str = "store.db";
/// The table of it that has the small contents.
const SMALL_CONTENTS: &str = "contents";
/// Where a state has the list of contents.
const CONTENTS_LIST: &str = "contents";

/// Why a backup or a restoration does not go on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BackupError {
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl BackupError {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }

    /// Of the system, about a path.
    fn io(action: &str, path: &Path, error: &io::Error) -> Self {
        let kind = error.kind();
        let hint = if kind == io::ErrorKind::PermissionDenied {
            "run this as the user that the node runs as, or as root"
        } else if [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded].contains(&kind) {
            "make room there, or name another directory; what was there before is as it was"
        } else if kind == io::ErrorKind::ReadOnlyFilesystem {
            "name a directory that can be written"
        } else {
            "check the directory and the disk that it is on"
        };
        Self::new(format!("cannot {action} '{}': {error}", path.display()), hint)
    }

    fn database(action: &str, path: &Path, problem: impl fmt::Display) -> Self {
        let message = format!("cannot {action} '{}': {problem}", path.display());
        Self::new(
            message,
            "what was backed up before is as it was; `can-sync doctor` says more of a database",
        )
    }
}

/// A content that is not in a backup, or not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct BackupFinding {
    pub(crate) hash: String,
    pub(crate) name: Option<String>,
    pub(crate) size: u64,
    pub(crate) problem: String,
}
