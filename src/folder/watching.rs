//! Hears of changes in a directory.

use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use ractor::ActorRef;

use super::actor::FolderMsg;
use super::files::{IGNORE_FILE, is_temporary};
use crate::entry::path::OWN_PREFIX;

/// What is heard of files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskChange {
    /// Somebody writes to them, and may go on.
    Writing,
    /// They were closed, renamed or removed, and are as they are meant.
    Whole,
    /// Their modes, owners or times changed; whether they are open it does not say.
    Described,
}

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
        return Some(FolderMsg::DiskChanged { paths: Vec::new(), change: DiskChange::Whole });
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
    let change = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Remove(_)
        | EventKind::Modify(ModifyKind::Name(_)) => DiskChange::Whole,
        EventKind::Modify(ModifyKind::Metadata(_)) => DiskChange::Described,
        EventKind::Create(_) | EventKind::Modify(_) => DiskChange::Writing,
        EventKind::Access(_) | EventKind::Any | EventKind::Other => return None,
    };
    let is_ours = |path: &PathBuf| {
        path.components().any(|part| part.as_os_str().to_string_lossy().starts_with(OWN_PREFIX))
    };
    let inside = event.paths.into_iter().filter_map(|path| Some(path.strip_prefix(root).ok()?.to_owned()));
    let inside: Vec<PathBuf> = inside.collect();
    // Nobody knows which paths are left out no more, or from now on.
    if inside.iter().any(|path| path.as_os_str() == IGNORE_FILE) {
        return Some(FolderMsg::DiskChanged { paths: Vec::new(), change });
    }
    let paths: Vec<PathBuf> = inside.into_iter().filter(|path| !is_ours(path)).collect();
    (!paths.is_empty()).then_some(FolderMsg::DiskChanged { paths, change })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// What is heard of a directory until a file of this name is closed in it: whether everything is to be looked at, and other names.
    fn heard_of(dir: &Path, act: impl FnOnce()) -> (bool, Vec<PathBuf>) {
        const LAST: &str = "last";
        let (said, hears) = mpsc::channel();
        let (root, mut placed) = (dir.to_owned(), None);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if let Some(FolderMsg::DiskChanged { paths, change }) = heard(&root, event.unwrap(), &mut placed)
            {
                said.send((paths, change != DiskChange::Writing)).unwrap();
            }
        })
        .unwrap();
        watcher.watch(dir, RecursiveMode::Recursive).unwrap();
        act();
        fs::write(dir.join(LAST), "").unwrap();
        let (mut is_full, mut names) = (false, Vec::new());
        loop {
            let (paths, is_whole) = hears.recv_timeout(Duration::from_secs(20)).unwrap();
            if is_whole && paths == [Path::new(LAST)] {
                return (is_full, names);
            }
            is_full |= is_whole && paths.is_empty();
            names.extend(paths.into_iter().filter(|path| path.as_os_str() != LAST));
        }
    }

    #[test]
    fn whatever_becomes_of_the_ignore_file_everything_is_looked_at() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().canonicalize().unwrap();
        let rules = dir.join(IGNORE_FILE);
        fs::create_dir(dir.join("below")).unwrap();
        let everything = (true, Vec::new());
        assert_eq!(heard_of(&dir, || fs::write(&rules, "*.tmp\n").unwrap()), everything, "made");
        assert_eq!(heard_of(&dir, || fs::write(&rules, "").unwrap()), everything, "emptied");
        assert!(heard_of(&dir, || fs::rename(&rules, dir.join("old")).unwrap()).0, "renamed away");
        assert!(heard_of(&dir, || fs::rename(dir.join("old"), &rules).unwrap()).0, "put in place");
        assert_eq!(heard_of(&dir, || fs::remove_file(&rules).unwrap()), everything, "removed");
        // Others of our own say nothing, and one in a directory below leaves nothing out.
        for name in [".can-sync-trash", ".can-sync-folder", "below/.can-syncignore"] {
            assert_eq!(heard_of(&dir, || fs::write(dir.join(name), "x").unwrap()), (false, Vec::new()));
        }
    }
}
