//! What is done because somebody says so, and what cannot be done as it was planned.

use super::plan::{FolderAction, keep_version, own_version, plan, write};
use super::sight::{AgreedRow, DiskSight, FolderMode, PathSight, ReadFile, SeenFile};
use crate::entry::EntryRecord;

/// The user's answer to [`FolderAction::Ask`]: the file belongs to the folder again. `None` unless that was the question.
pub(crate) fn keep(sight: &PathSight<'_>) -> Option<FolderAction> {
    let (file, read, removal) = asked(sight)?;
    Some(keep_version(sight, removal, file, read))
}

/// The other answer: the file goes. `None` unless that was the question.
pub(crate) fn trash(sight: &PathSight<'_>) -> Option<FolderAction> {
    let (file, read, removal) = asked(sight)?;
    let over = own_version(sight, file, read);
    Some(FolderAction::Remove { removal: removal.clone(), over })
}

fn asked<'a>(sight: &PathSight<'a>) -> Option<(&'a SeenFile, ReadFile, &'a EntryRecord)> {
    let DiskSight::File(file) = sight.disk else { return None };
    let is_asked = plan(sight) == FolderAction::Ask;
    Some((file, file.read?, sight.store.entry?)).filter(|_| is_asked)
}

/// For a content that was taken out of the folder by mistake and cannot be put back, since the path has another file by now; or that a
/// program wrote to a file which had made way. After the copy is in the store: merge this version into it, and it has the path or a
/// copy. The row stays.
pub(crate) fn salvage(sight: &PathSight<'_>, file: &SeenFile, read: ReadFile) -> EntryRecord {
    own_version(sight, file, read).entry
}

/// What undoes a loss that the brake holds: one of this disk is written again, one of others' is overruled.
pub(crate) fn revert(sight: &PathSight<'_>) -> FolderAction {
    let action = plan(sight);
    let (Some(agreed), Some(entry)) = (sight.agreed, sight.store.entry) else { return action };
    match (&action, sight.disk, &agreed.entry.file) {
        // Nothing is in the file, and that is in the store, too.
        (FolderAction::Put(_), DiskSight::File(file), Some(_)) if sight.store.is_target_here => {
            match file.read {
                Some(read) => write(entry, Some(&own_version(sight, file, read)), file.is_aside),
                None => action,
            }
        }
        // Nothing else would write it.
        (FolderAction::Put(_), DiskSight::Gone(_) | DiskSight::Directory(_), Some(_))
            if sight.rules.mode == FolderMode::SendOnly && sight.store.is_target_here =>
        {
            let is_directory = matches!(sight.disk, DiskSight::Directory(_));
            write(entry, None, is_directory || sight.has_children)
        }
        (FolderAction::Put(_), DiskSight::Gone(_) | DiskSight::Directory(_), Some(_)) => FolderAction::Forget,
        (FolderAction::Remove { .. } | FolderAction::Write { .. }, _, Some(file)) => {
            let (at, file) = ((sight.folder, sight.path), Some(file.clone()));
            let again = EntryRecord::after(Some(entry), at, file, sight.author, entry.hlc);
            FolderAction::Put(AgreedRow { entry: again, disk: agreed.disk.clone() })
        }
        // It would be lost all the same, for instance because what it was is not here: it stays held.
        _ if action.loses(Some(agreed)).is_some() => FolderAction::Nothing,
        _ => action,
    }
}
