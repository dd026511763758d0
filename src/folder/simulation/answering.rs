//! What waits for somebody: removals that the brake holds, and files that were removed before they were found.

use std::collections::BTreeSet;

use super::super::{DiskSight, FolderAction, PathLoss, SeenFile, keep, revert, trash};
use super::SimTrouble;
use super::machine::{Crashed, SimMachine};
use crate::entry::{EntryHash, EntryPath, EntryRecord};

impl SimMachine {
    pub(super) fn judge(
        &mut self,
        actions: &[(EntryHash, EntryPath, DiskSight, FolderAction)],
        trouble: &SimTrouble,
    ) -> BTreeSet<EntryHash> {
        let lost = |(hash, _, _, action): &(EntryHash, EntryPath, DiskSight, FolderAction)| {
            let content = action.loses(self.db.rows.get(hash))?;
            Some(PathLoss { entry: *hash, content })
        };
        let losses: Vec<PathLoss> = actions.iter().filter_map(lost).collect();
        self.db.brake.keep_only(&losses.iter().map(|loss| loss.entry).collect());
        let live = |entry: &&EntryRecord| entry.is_live();
        let files = self.store.entries.values().filter(live).count() as u64;
        let entries = &self.store.entries;
        let with = |content| {
            let has = |entry: &&EntryRecord| entry.target() == Some(content);
            let lost = losses.iter().filter(|loss| loss.content == content);
            // Those whose removal is in the store already count among the losses alone.
            let gone = lost.filter(|loss| entries.get(&loss.entry).is_none_or(|entry| !has(&entry)));
            entries.values().filter(has).count() as u64 + gone.count() as u64
        };
        let now_ms = self.clock(trouble);
        self.db.brake.judge(&losses, files, now_ms, with)
    }

    /// The user answers what was asked, and says what of that which is held is meant.
    pub(super) fn answer(&mut self, trouble: &mut SimTrouble) -> Result<(), Crashed> {
        let is_meant = trouble.dice.one_in(2);
        self.is_busy |= !self.db.brake.held.is_empty();
        if is_meant {
            self.db.brake.confirm();
        }
        let held = self.db.brake.to_revert();
        for (hash, path) in self.paths() {
            let disk = self.observe(&path, &None, trouble.bug);
            let (reverted, is_keeping) = (held.contains(&hash), trouble.dice.one_in(2));
            let action = self.with_sight(&path, &disk, trouble, |sight| {
                let answer = if is_keeping { keep(sight) } else { trash(sight) };
                answer.or_else(|| reverted.then(|| revert(sight)))
            });
            if let Some(action) = action {
                // The user's own decision, whatever remembers the content.
                if let (FolderAction::Remove { .. }, DiskSight::File(SeenFile { read: Some(read), .. })) =
                    (&action, &disk)
                {
                    trouble.ledger.user_took(read.hash);
                }
                self.is_busy |= self.perform(&path, &disk, action, trouble)?;
            }
        }
        Ok(())
    }
}
