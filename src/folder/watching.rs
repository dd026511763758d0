//! Hears of changes in a directory.

use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use ractor::ActorRef;

use super::actor::FolderMsg;
use super::files::is_temporary;
use crate::entry::path::OWN_PREFIX;

/// Starts to watch everything below a directory.
///
/// # Errors
/// Why it cannot be watched: the folder is looked at from time to time then.
pub(super) fn watch(root: &Path, actor: ActorRef<FolderMsg>) -> Result<RecommendedWatcher, String> {
    let below = root.to_owned();
    let mut placed = None;
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let message = match event {
            Ok(event) => match heard(&below, event, &mut placed) {
                Some(message) => message,
                None => return,
            },
            Err(error) => FolderMsg::WatchFailed { why: error.to_string() },
        };
        // An actor that is gone takes the watcher along.
        let _ = actor.send_message(message);
    })
    .map_err(|error| error.to_string())?;
    watcher.watch(root, RecursiveMode::Recursive).map_err(|error| error.to_string())?;
    Ok(watcher)
}

/// What an event says. `placed` remembers the last rename of a file of our own: what it is called then has its row.
fn heard(root: &Path, event: notify::Event, placed: &mut Option<usize>) -> Option<FolderMsg> {
    if event.need_rescan() {
        return Some(FolderMsg::DiskChanged { paths: Vec::new(), is_whole: true });
    }
    if let EventKind::Modify(ModifyKind::Name(mode)) = event.kind
        && let Some(tracker) = event.tracker()
    {
        if mode == RenameMode::From && event.paths.iter().any(|path| is_temporary(path)) {
            *placed = Some(tracker);
            return None;
        }
        if *placed == Some(tracker) {
            return None;
        }
    }
    let is_whole = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Remove(_)
        | EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Metadata(_)) => true,
        EventKind::Create(_) | EventKind::Modify(_) => false,
        EventKind::Access(_) | EventKind::Any | EventKind::Other => return None,
    };
    let is_ours = |path: &PathBuf| {
        path.components().any(|part| part.as_os_str().to_string_lossy().starts_with(OWN_PREFIX))
    };
    let inside = event.paths.into_iter().filter_map(|path| Some(path.strip_prefix(root).ok()?.to_owned()));
    let paths: Vec<PathBuf> = inside.filter(|path| !is_ours(path)).collect();
    (!paths.is_empty()).then_some(FolderMsg::DiskChanged { paths, is_whole })
}
