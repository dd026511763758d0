//! The data directory that is made by a restoration: empty at first, and whole at the end, or not there for a node.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use super::place::{is_empty, make_dir, remove_dir, remove_file};
use super::{BackupError, DATABASES, RESTORED_FROM, RESTORING, SECRETS};
use crate::disk::{free_bytes, sync_dir};
use crate::identity;
use crate::node::DataDir;
use crate::text::amounts;

/// Room that a restored node needs beyond what is copied.
const SPARE_BYTES: u64 = 16 << 20;

/// Takes an empty place, from which what an earlier attempt left is removed. Other restorations are kept out of it for as long as the
/// answer lives.
pub(super) fn take_target(target: &Path) -> Result<File, BackupError> {
    let failed = |action: &'static str| move |error: io::Error| BackupError::io(action, target, &error);
    if target.symlink_metadata().is_ok() && !target.is_dir() {
        return Err(BackupError::io("use", target, &io::ErrorKind::NotADirectory.into()));
    }
    make_dir(target).map_err(failed("make"))?;
    let place = File::open(target).map_err(failed("open"))?;
    if matches!(place.try_lock(), Err(TryLockError::WouldBlock)) {
        return Err(BackupError::new(
            format!("another restoration into '{}' is under way", target.display()),
            "wait until it has ended",
        ));
    }
    if target.join(RESTORING).is_dir() && is_only_ours(target).map_err(failed("look into"))? {
        clear(target).map_err(failed("empty"))?;
    }
    if !is_empty(target).map_err(failed("look into"))? {
        return Err(BackupError::new(
            format!("'{}' is not empty", target.display()),
            "name a directory that is empty or does not exist: nothing is restored over what is there",
        ));
    }
    Ok(place)
}

/// Makes the directory in which it is restored, if there is room for so many bytes.
pub(super) fn begin_draft(target: &Path, bytes: u64) -> Result<(), BackupError> {
    let needed = bytes + SPARE_BYTES;
    if let Some(free) = free_bytes(target).filter(|free| *free < needed) {
        return Err(BackupError::new(
            format!(
                "the data directory needs {} in '{}', and {} are free",
                amounts::bytes(needed),
                target.display(),
                amounts::bytes(free)
            ),
            "make room there, or name a directory on another disk",
        ));
    }
    identity::private_dir(target)
        .map_err(|error| BackupError::new(error.to_string(), "close it to others"))?;
    make_dir(&target.join(RESTORING))
        .and_then(|()| sync_dir(target))
        .map_err(|error| BackupError::io("write into", target, &error))
}

/// Moves everything up that was restored.
pub(super) fn move_up(target: &Path) -> Result<(), BackupError> {
    let draft = target.join(RESTORING);
    let moved = || -> io::Result<()> {
        sync_dir(&draft)?;
        for entry in fs::read_dir(&draft)? {
            let entry = entry?;
            // Who the node is, last.
            if entry.file_name() != identity::KEY_FILE {
                fs::rename(entry.path(), target.join(entry.file_name()))?;
            }
        }
        let key = draft.join(identity::KEY_FILE);
        if key.is_file() {
            fs::rename(&key, target.join(identity::KEY_FILE))?;
        }
        sync_dir(target)?;
        fs::remove_dir(&draft)?;
        sync_dir(target)
    };
    moved().map_err(|error| BackupError::io("finish", target, &error))
}

/// Whether there is nothing but what an attempt that did not end left. Where a node has run, there is more.
fn is_only_ours(target: &Path) -> io::Result<bool> {
    let store = DataDir::new(target).store();
    for entry in fs::read_dir(target)? {
        let entry = entry?;
        let name = entry.file_name();
        let known =
            SECRETS.into_iter().chain(DATABASES.map(|(name, _)| name)).chain([RESTORING, RESTORED_FROM]);
        if entry.path() != store && !known.into_iter().any(|known| name == known) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes what an attempt that did not end left: what it was making, and what it had moved up.
fn clear(target: &Path) -> io::Result<()> {
    for name in SECRETS.into_iter().chain(DATABASES.map(|(name, _)| name)).chain([RESTORED_FROM]) {
        remove_file(&target.join(name))?;
    }
    remove_dir(&DataDir::new(target).store())?;
    remove_dir(&target.join(RESTORING))?;
    sync_dir(target)
}

/// Whether a data directory was not completely restored; a sentence.
pub(crate) fn problem(data_dir: &Path) -> Option<String> {
    data_dir.join(RESTORING).symlink_metadata().ok()?;
    let shown = data_dir.display();
    Some(format!(
        "the data directory '{shown}' was not completely restored: run the `can-sync restore` that was to make it once more"
    ))
}
