//! Whether a directory can be a folder, and what is written to it for that.

use std::path::{Path, PathBuf};

use super::FolderError;
use super::binding::off_thread;
use crate::disk::free_bytes;
use crate::folder::files::{FolderDir, FolderMarker, distant_kind, room_needed};
use crate::folder::report::FolderRoom;
use crate::folder::rows::{FolderBinding, FolderSettings};
use crate::folder::work::FolderContext;
use crate::text::amounts;

pub(super) async fn real_path(path: &Path) -> Result<PathBuf, FolderError> {
    if !path.is_absolute() {
        return Err(FolderError::Invalid("the path of the directory has to be absolute".into()));
    }
    let asked = path.to_owned();
    let real = off_thread(move || std::fs::canonicalize(&asked)).await?.map_err(|e| {
        let shown = path.display();
        if e.kind() == std::io::ErrorKind::NotFound {
            FolderError::Invalid(format!(
                "there is no directory {shown}: make it, or connect the disk that it is on"
            ))
        } else {
            FolderError::Invalid(format!("cannot find {shown}: {e}"))
        }
    })?;
    if real.to_str().is_none() {
        let shown = real.display();
        return Err(FolderError::Invalid(format!(
            "the path {shown} is no UTF-8 text: choose another directory"
        )));
    }
    Ok(real)
}

/// The marker of a directory, if it has one; an error where no folder may be at all.
pub(super) async fn marker_at(
    context: &FolderContext,
    real: &Path,
) -> Result<Option<FolderMarker>, FolderError> {
    let (forbidden, real) = (context.forbidden.clone(), real.to_owned());
    let looked = off_thread(move || {
        if !real.is_dir() {
            return Err(format!("{} is not a directory", real.display()));
        }
        FolderDir::marker_at(&real, &forbidden).map_err(|error| error.to_string())
    });
    looked.await?.map_err(FolderError::Invalid)
}

/// Whether a directory suits: its file system, and, where `counts`, the room that its files need.
pub(super) async fn suits(
    context: &FolderContext,
    path: &Path,
    settings: FolderSettings,
    counts: bool,
) -> Result<Option<FolderRoom>, FolderError> {
    let (path, temporary) = (path.to_owned(), context.temporary.clone());
    let (store, is_here) = (context.store.clone(), context.is_store_here);
    let reserve_bytes = context.reserve_bytes;
    let looked = off_thread(move || {
        if let Some(kind) = distant_kind(&path).filter(|_| !settings.scan_only) {
            let shown = path.display();
            return Err(format!(
                "{shown} is on a file system of other machines ({kind}), whose changes are not heard of: add it with --scan-only, \
                 and they are found by looking from time to time"
            ));
        }
        if !counts {
            return Ok(None);
        }
        let needed = room_needed(&path, &temporary);
        let free = free_bytes(&temporary).filter(|_| is_here);
        let free = free.map(|free| free.saturating_sub(reserve_bytes));
        let room = FolderRoom {
            files: needed.files,
            bytes: needed.bytes,
            free_bytes: free,
            shares_blocks: needed.shares_blocks,
        };
        let lacks = free.is_some_and(|free| free < needed.bytes) || store.check_room(needed.bytes).is_err();
        if lacks && !needed.shares_blocks {
            let (shown, free) = (path.display(), free.unwrap_or_default());
            return Err(format!(
                "what is in {shown} is kept in the store as well, which needs {} ({} bytes), and {} ({free} bytes) are free beside what \
                 the disk is to keep: make room, or name in .can-syncignore what is to be left out",
                amounts::bytes(needed.bytes),
                needed.bytes,
                amounts::bytes(free),
            ));
        }
        Ok(Some(room))
    });
    looked.await?.map_err(FolderError::Invalid)
}

/// Writes the binding, and then the marker: a crash in between leaves a directory that counts as missing, and can be added again. `left`
/// is the marker of a folder that the directory was before, `former` the binding that the folder had.
pub(super) async fn mark(
    context: &FolderContext,
    binding: FolderBinding,
    left: Option<FolderMarker>,
    former: Option<FolderBinding>,
    goes_on: bool,
) -> Result<(), FolderError> {
    let (forbidden, rows) = (context.forbidden.clone(), context.rows.clone());
    let marked = off_thread(move || -> Result<(), String> {
        rows.bind(&binding, goes_on).map_err(|error| error.to_string())?;
        let done = left
            .map_or(Ok(()), |left| FolderDir::leave(&binding.path, left))
            .and_then(|()| FolderDir::bind(&binding.path, binding.marker, &forbidden));
        let Err(error) = done else { return Ok(()) };
        let undone = match former {
            Some(former) => rows.bind(&former, true),
            None => rows.unbind(binding.marker),
        };
        Err(undone.map_or_else(|also| format!("{error}; {also}"), |()| error.to_string()))
    });
    marked.await?.map_err(FolderError::Invalid)
}
