//! What a new backup may take the place of: one of the same node, of the same store, that has nothing which is gone by now.

use std::fs;

use super::BackupError;
use super::make::BackupRun;
use super::manifest::Manifest;
use crate::store::embedded::{CopiedDatabase, EmbeddedStore};
use crate::text::amounts::counted;

impl BackupRun {
    /// A directory of contents that belong to another node is no place for ours.
    pub(super) fn check_whose(&self, has_store: bool) -> Result<(), BackupError> {
        let Some(former) = &self.dir.former else { return Ok(()) };
        let same = match (&former.endpoint_id, &self.endpoint_id) {
            (Some(theirs), Some(ours)) => theirs == ours,
            (None, None) => {
                let theirs = former.store.as_ref().and_then(|store| store.id.clone());
                let ours = has_store.then(|| self.store_id()).flatten();
                theirs.is_none() || ours.is_none() || theirs == ours
            }
            (Some(_), None) | (None, Some(_)) => false,
        };
        if same {
            return self.check_store(former, has_store);
        }
        let whose = former.endpoint_id.as_deref().unwrap_or("a CAN Service without an agent");
        Err(BackupError::new(
            format!("the backup in '{}' is of another node: {whose}", self.dir.path.display()),
            "name another directory: one holds the backup of one node",
        ))
    }

    /// A store that is away, or was begun anew, is no reason to remove what is left of it.
    fn check_store(&self, former: &Manifest, has_store: bool) -> Result<(), BackupError> {
        let Some(theirs) = &former.store else { return Ok(()) };
        let ours = has_store.then(|| self.store_id()).flatten();
        let problem = match (&theirs.id, &ours) {
            _ if !has_store => "and there is none now",
            (Some(theirs), Some(ours)) if theirs != ours => "and another one is there now",
            _ => return Ok(()),
        };
        Err(BackupError::new(
            format!(
                "the backup in '{}' holds the store that was in '{}', {problem}",
                self.dir.path.display(),
                self.source.path().display()
            ),
            "look whether its disk is mounted; to back up what is there now, name another directory",
        ))
    }

    fn store_id(&self) -> Option<String> {
        let database = CopiedDatabase::open(&EmbeddedStore::database_file(&self.source.store())).ok()?;
        database.figures().ok()?.id.map(|id| id.to_string())
    }

    /// A store that lost changes is no reason to remove what the backup before has of them.
    pub(super) fn check_history(&self, database: &CopiedDatabase) -> Result<(), BackupError> {
        let store = self.source.store();
        let missing = self.acknowledged.saturating_sub(database.changes());
        if missing > 0 {
            return Err(BackupError::new(
                format!(
                    "the database in '{}' lacks {} that had been acknowledged: its log was removed, or it is an older copy",
                    store.display(),
                    counted(missing, "change")
                ),
                "put the right one back or restore a backup; or start the node, which makes up for it as far as other machines can, and \
                 back up into another directory",
            ));
        }
        let Some(former) = self.dir.former.as_ref() else { return Ok(()) };
        let Some(theirs) = &former.store else { return Ok(()) };
        let made_ms = former.made_at.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond);
        let lost_since =
            made_ms.zip(database.lost_at_ms()).is_some_and(|(made_ms, lost_ms)| lost_ms >= made_ms);
        if !lost_since && database.may_know(theirs.seq) {
            return Ok(());
        }
        Err(BackupError::new(
            format!(
                "the store in '{}' lost changes since the backup in '{}' was made ({}), or was set back: that backup may hold what \
                 is gone",
                store.display(),
                self.dir.path.display(),
                former.made_at
            ),
            "keep it, and back up into another directory; `can-sync restore` into an empty directory shows what is in it",
        ))
    }

    /// Contents that are all away are no damage of each.
    pub(super) fn check_contents(&self) -> Result<(), BackupError> {
        if self.contents.is_empty() {
            return Ok(());
        }
        let dir = EmbeddedStore::contents_dir(&self.source.store());
        let listed = fs::read_dir(&dir).map(|mut entries| entries.next().is_some());
        match listed {
            Ok(true) => Ok(()),
            Ok(false) => Err(BackupError::new(
                format!("the directory of contents '{}' is empty", dir.display()),
                "mount the disk that they are on, or put it back; what was backed up before is as it was",
            )),
            Err(error) => Err(BackupError::io("read the directory of contents", &dir, &error)),
        }
    }
}
