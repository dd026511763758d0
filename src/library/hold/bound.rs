//! Contents that files of bound folders have: they stay here, whoever lets go of what.

use std::collections::HashSet;

use super::HoldRules;
use crate::entry::{FolderId, FolderRecord};
use crate::record::ContentHash;
use crate::store::entries::PLACES_MAX;
use crate::store::{StoreError, StoreRef, StoreResult};

const LOOKED_FOR_AT_ONCE: usize = 100;

#[derive(Debug, Default)]
pub(super) struct BoundFolders {
    /// How late that was read; `None` until it was.
    at: Option<u64>,
    folders: HashSet<FolderId>,
}

impl HoldRules {
    /// Says which folders are bound here, as it was read at `at`: what was read earlier may come later.
    pub fn set_bound(&self, at: u64, folders: HashSet<FolderId>) {
        let mut bound = self.bound.write();
        if bound.at.is_none_or(|known| known <= at) {
            *bound = BoundFolders { at: Some(at), folders };
        }
    }

    /// Which folders are bound here; `None` while nobody knows.
    fn bound_folders(&self) -> Option<HashSet<FolderId>> {
        let bound = self.bound.read();
        bound.at.map(|_| bound.folders.clone())
    }

    /// Those of these contents that files of folders have which are bound here now. Where there are too many files to tell, all of them.
    ///
    /// # Errors
    /// A store that does not answer; [`StoreError::Busy`] while it is not known which folders are bound.
    pub async fn in_bound_folders(
        &self,
        store: &StoreRef,
        contents: &[ContentHash],
    ) -> StoreResult<HashSet<ContentHash>> {
        let unknown = || StoreError::Busy("it is not known yet which folders are bound here".to_owned());
        let bound = self.bound_folders().ok_or_else(unknown)?;
        let mut found = HashSet::new();
        if bound.is_empty() {
            return Ok(found);
        }
        for some in contents.chunks(LOOKED_FOR_AT_ONCE) {
            let entries = match store.entries_with(some.to_vec()).await {
                Ok(entries) => entries,
                Err(StoreError::NoFolders) => return Ok(found),
                Err(error) => return Err(error),
            };
            if entries.len() >= PLACES_MAX {
                // Some may not have been told.
                found.extend(some);
                continue;
            }
            let entries = entries.into_iter().filter_map(FolderRecord::into_entry);
            let here = entries.filter(|entry| bound.contains(&entry.folder));
            found.extend(here.filter_map(|entry| Some(entry.file?.target)));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_earlier_changes_nothing_that_was_read_later() {
        let rules = HoldRules::default();
        assert_eq!(rules.bound_folders(), None);
        let folders = |n: u8| HashSet::from([FolderId([n; 32])]);
        rules.set_bound(0, folders(1));
        assert_eq!(rules.bound_folders(), Some(folders(1)));
        rules.set_bound(2, folders(2));
        rules.set_bound(1, folders(1));
        assert_eq!(rules.bound_folders(), Some(folders(2)));
        rules.set_bound(3, HashSet::new());
        assert_eq!(rules.bound_folders(), Some(HashSet::new()));
    }
}
