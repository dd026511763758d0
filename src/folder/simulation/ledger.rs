//! What the simulation knows and no machine does: which contents and versions there ever were, and what nobody can be blamed for.

use std::collections::BTreeSet;

use super::machine::SimMachine;
use crate::entry::EntryRecord;
use crate::record::ContentHash;

#[derive(Debug, Default)]
pub(super) struct FolderLedger {
    /// Contents that a user saved, or a liar has.
    pub(super) saved: BTreeSet<ContentHash>,
    /// Contents that were in a folder: there has to be a way to each.
    owed: BTreeSet<ContentHash>,
    /// Those of them that a store forgot and that only a disk has: a user may still take them away.
    endangered: BTreeSet<ContentHash>,
    /// Versions that machines wrote, but for those that every store forgot.
    made: Vec<EntryRecord>,
    /// The first rule that was seen to be broken.
    fault: Option<String>,
}

impl FolderLedger {
    pub(super) fn blame(&mut self, why: impl FnOnce() -> String) {
        self.fault.get_or_insert_with(why);
    }

    pub(super) fn verdict(&mut self) -> Result<(), String> {
        self.fault.take().map_or(Ok(()), Err)
    }

    pub(super) fn note_made(&mut self, version: &EntryRecord) {
        if let Some(target) = version.target() {
            if !self.saved.contains(&target) {
                self.blame(|| format!("nobody ever saved what {version:?} names"));
            }
            self.owed.insert(target);
        }
        self.made.push(version.clone());
    }

    /// A program saved something where the folder has to find it.
    pub(super) fn owe(&mut self, content: ContentHash) {
        self.owed.insert(content);
    }

    /// A user overwrote or removed a file.
    pub(super) fn user_took(&mut self, content: ContentHash) {
        if self.endangered.remove(&content) {
            self.owed.remove(&content);
        }
    }

    /// A store was set back: what it alone had is gone. What a disk still has is not.
    pub(super) fn store_was_set_back(&mut self, machines: &[SimMachine]) {
        let machines: Vec<&SimMachine> = machines.iter().filter(|machine| !machine.is_liar).collect();
        let reachable: BTreeSet<ContentHash> =
            machines.iter().flat_map(|machine| machine.store.reachable()).collect();
        let on_disk: BTreeSet<ContentHash> = machines
            .iter()
            .flat_map(|machine| machine.disk.files.values().chain(machine.disk.hidden.values()))
            .map(|file| file.content.hash())
            .collect();
        for content in self.owed.clone() {
            if !reachable.contains(&content) {
                if on_disk.contains(&content) {
                    self.endangered.insert(content);
                } else {
                    self.owed.remove(&content);
                }
            }
        }
        self.made.retain(|version| machines.iter().any(|machine| machine.store.has_version(version)));
    }

    /// When all is calm: there is a way to every content, and no edit made way for one that did not see it.
    pub(super) fn check(&self, machines: &[SimMachine]) -> Result<(), String> {
        let machines: Vec<&SimMachine> = machines.iter().filter(|machine| !machine.is_liar).collect();
        let reachable: BTreeSet<ContentHash> =
            machines.iter().flat_map(|machine| machine.store.reachable()).collect();
        if let Some(lost) = self.owed.iter().find(|content| !reachable.contains(content)) {
            return Err(format!("lost: no path, copy or history leads to {lost}"));
        }
        let store = &machines[0].store;
        for version in self.made.iter().filter(|version| version.is_live()) {
            let Some(winner) = store.entries.get(&version.hash()) else {
                return Err(format!("no entry where {version:?} was made"));
            };
            let is_seen_or_copied = |version: &EntryRecord| {
                let copy = version.path.conflict(&version.by, version.hlc, &version.digest());
                winner == version
                    || winner.descends_from(version)
                    || store.entries.values().any(|entry| entry.path == copy)
            };
            // Of two versions with one content only one has a copy; and whoever saw a version, or says so, answers for it.
            let known = || machines.iter().flat_map(|machine| machine.store.versions(version.hash()));
            let is_answered_for = |version: &EntryRecord| {
                is_seen_or_copied(version) || known().any(|other| other.descends_from(version))
            };
            let is_kept = is_answered_for(version)
                || known().any(|other| other.target() == version.target() && is_answered_for(other));
            if !is_kept {
                return Err(format!(
                    "{winner:?} stands where {version:?} was made apart, and there is no copy"
                ));
            }
        }
        Ok(())
    }
}
