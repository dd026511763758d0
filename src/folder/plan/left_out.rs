//! Paths that the user leaves out, and those that were left out for a while.

use super::Shown;
use crate::folder::FolderAction;
use crate::folder::sight::{AgreedRow, PathSight};

/// The user leaves the path out. What was agreed is remembered, so that an edit from before the path is taken in again is one of that.
pub(super) fn left_out(agreed: &AgreedRow) -> FolderAction {
    let row = agreed.left_out(true);
    if row == *agreed { FolderAction::Nothing } else { FolderAction::Agree(row) }
}

/// Whether a file is gone, here or elsewhere, that was left out meanwhile. That is as if it had never been bound: nobody loses a file
/// because another one stopped to leave it out.
pub(super) fn loses_while_left_out(sight: &PathSight<'_>, agreed: &AgreedRow, shown: &Shown<'_>) -> bool {
    match shown {
        Shown::Gone => true,
        Shown::Agreed(_) => {
            sight.store.entry.is_some_and(|entry| !entry.is_live() && entry.supersedes(&agreed.entry))
        }
        Shown::Changed(..) | Shown::Unread | Shown::Elsewhere => false,
    }
}
