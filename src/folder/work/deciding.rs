//! What is to be done, and what the brake lets pass of it.

use std::collections::{BTreeSet, HashMap};

use super::asking::StoreAnswers;
use super::{FolderWork, Observed, WorkError};
use crate::entry::{EntryHash, EntryRecord};
use crate::folder::{FolderAction, FolderMode, FolderRules, PathLoss, PathSight, StoreSight, plan};
use crate::record::ContentHash;

/// More rounds than any path needs; what is left then is looked at later.
const ROUNDS_MAX: u32 = 16;
/// What has to be in the store before anything is taken off a disk, or out of the folder.
const LAST_EARLY_PHASE: u8 = 3;

impl FolderWork {
    /// Plans and acts until nothing is left to do.
    pub(super) fn settle(&mut self, todo: &mut BTreeSet<EntryHash>) -> Result<(), WorkError> {
        for _ in 0..ROUNDS_MAX {
            self.check_stop()?;
            let mut actions = self.planned(todo)?;
            actions.sort_by_key(|(_, action)| action.phase());
            let is_early = |action: &FolderAction| action.phase() <= LAST_EARLY_PHASE;
            let early = actions.iter().filter(|(_, action)| is_early(action)).count();
            let later = if early > 0 { actions.split_off(early) } else { Vec::new() };
            let passing = self.judged(&mut actions)?;
            if let Some(dir) = &self.dir {
                dir.check()?;
            }
            let mut next: BTreeSet<EntryHash> = later.into_iter().map(|(hash, _)| hash).collect();
            next.extend(if early > 0 { self.perform_in_parts(passing)? } else { self.perform(passing)? });
            next.append(&mut self.stirred);
            *todo = next;
            if todo.is_empty() {
                return Ok(());
            }
        }
        for hash in std::mem::take(todo) {
            self.put_off(hash, None);
        }
        Ok(())
    }

    /// What is to be done about each path, but for nothing.
    pub(super) fn planned(
        &mut self,
        todo: &BTreeSet<EntryHash>,
    ) -> Result<Vec<(EntryHash, FolderAction)>, WorkError> {
        let answers = self.ask_store(todo)?;
        let mut actions = Vec::new();
        for hash in todo {
            self.waiting.remove(hash);
            self.asked.remove(hash);
            self.kept_here.remove(hash);
            let planned = self.with_sight(*hash, &answers, |sight| (plan(sight), kept_here(sight)));
            let (action, own) = planned.unwrap_or((FolderAction::Nothing, None));
            if let (Some(why), Some(observed)) = (own, self.observed.get(hash)) {
                self.kept_here.insert(*hash, (observed.path.clone(), why));
            }
            if matches!(action, FolderAction::Nothing | FolderAction::Ask) {
                self.forget_failure(*hash);
                let asked = self.observed.get(hash).filter(|_| action == FolderAction::Ask);
                self.asked.extend(asked.map(|observed| (*hash, observed.path.clone())));
            } else if self.comes_later(*hash, &action) {
                self.undecided.insert(*hash);
            } else {
                actions.push((*hash, action));
            }
        }
        Ok(actions)
    }

    /// Calls `then` with all that is known of a path; `None` for one that nobody looked at.
    pub(super) fn with_sight<T>(
        &self,
        hash: EntryHash,
        answers: &StoreAnswers,
        then: impl FnOnce(&PathSight<'_>) -> T,
    ) -> Option<T> {
        let Observed { path, disk, .. } = self.observed.get(&hash)?;
        let (agreed, entry) = (self.agreed.get(&hash), self.entries.get(&hash));
        let read = self.read_of(hash);
        let shown = read.or_else(|| agreed.and_then(|row| row.entry.target()));
        let is_here = |target: ContentHash| answers.is_here(target);
        let history = answers.history(hash);
        let before = history.iter().filter(|version| read.is_some() && version.target() == read);
        let store = StoreSight {
            entry,
            is_target_here: entry.and_then(EntryRecord::target).is_some_and(is_here),
            is_shown_here: shown.is_some_and(is_here),
            is_agreed_kept: agreed
                .is_some_and(|row| entry == Some(&row.entry) || history.contains(&row.entry)),
            shown_before: EntryRecord::newest(before),
        };
        let has_children = self.below.get(path.composed().as_ref()).is_some_and(|count| *count > 0);
        let (folder, rules, author) =
            (self.binding.marker.folder, self.binding.settings.rules(), self.author());
        Some(then(&PathSight { folder, path, disk, agreed, store, has_children, rules, author: &author }))
    }

    /// Those of the actions that the brake lets pass; the brake is saved first.
    fn judged(
        &mut self,
        actions: &mut Vec<(EntryHash, FolderAction)>,
    ) -> Result<Vec<(EntryHash, FolderAction)>, WorkError> {
        let lost = |(hash, action): &(EntryHash, FolderAction)| {
            let content = action.loses(self.agreed.get(hash))?;
            Some(PathLoss { entry: *hash, content })
        };
        let losses: Vec<PathLoss> = actions.iter().filter_map(lost).collect();
        let actions = std::mem::take(actions);
        if losses.is_empty() {
            return Ok(actions);
        }
        let lost: BTreeSet<EntryHash> = losses.iter().map(|loss| loss.entry).collect();
        self.losses.extend(&lost);
        let mut live_with: HashMap<ContentHash, u64> = HashMap::new();
        let mut files = 0;
        for target in self.entries.values().filter_map(EntryRecord::target) {
            *live_with.entry(target).or_default() += 1;
            files += 1;
        }
        for loss in &losses {
            // Those whose removal is in the store already count among the losses alone.
            if self.entries.get(&loss.entry).and_then(EntryRecord::target) != Some(loss.content) {
                *live_with.entry(loss.content).or_default() += 1;
                files += 1;
            }
        }
        let before = self.brake.clone();
        let with = |content: ContentHash| live_with.get(&content).copied().unwrap_or_default();
        let passing = self.brake.judge(&losses, files, self.context.clock.own_ms(), with);
        if self.brake != before {
            self.context.rows.save_brake(self.binding.marker, &self.brake)?;
        }
        Ok(actions.into_iter().filter(|(hash, _)| !lost.contains(hash) || passing.contains(hash)).collect())
    }
}

/// What a reader has of its own at a path: it would show elsewhere if the folder went both ways.
fn kept_here(sight: &PathSight<'_>) -> Option<&'static str> {
    if sight.rules.mode != FolderMode::ReadOnly {
        return None;
    }
    let rules = FolderRules { mode: FolderMode::Both, ..sight.rules };
    let store = StoreSight { is_shown_here: true, ..sight.store };
    let FolderAction::Put(row) = plan(&PathSight { store, rules, ..*sight }) else { return None };
    Some(match (row.entry.is_live(), sight.agreed) {
        (true, Some(_)) => {
            "it was changed here, and stays here alone: the folder is read-only on this machine"
        }
        (true, None) => "it is here alone: the folder is read-only on this machine",
        (false, _) => "it was removed here alone: the folder is read-only on this machine",
    })
}
