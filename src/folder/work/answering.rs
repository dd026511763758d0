//! What is done because somebody says so.

use std::collections::BTreeSet;

use super::{FolderWork, LookScope, WorkError};
use crate::entry::{EntryHash, EntryPath, EntryRecord};
use crate::folder::{FolderAction, FolderMode, PathSight, keep, plan, revert, trash};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FolderCommand {
    /// Nothing is done until [`Resume`](Self::Resume).
    Pause,
    Resume,
    /// Carries out the removals that wait.
    Confirm,
    /// Puts back the files whose removals wait.
    Revert,
    /// Puts into the folder the file that was removed elsewhere before it was found here; all such files without a path.
    Keep(Option<EntryPath>),
    /// Moves such a file, or all of them, to the trash.
    Trash(Option<EntryPath>),
    /// Gives a path what it had at that time, or before it was changed last.
    Restore {
        path: EntryPath,
        /// Milliseconds since the Unix epoch.
        at_ms: Option<u64>,
    },
    Look,
}

impl FolderWork {
    /// Does what somebody asked for; a sentence that says what was done.
    pub(crate) fn obey(&mut self, command: &FolderCommand) -> Result<Result<String, String>, WorkError> {
        if !matches!(command, FolderCommand::Pause | FolderCommand::Resume) {
            self.load()?;
            if let Some(why) = self.refusal(command) {
                return Ok(Err(why.into()));
            }
            self.try_all_again();
            if *command != FolderCommand::Look {
                self.look(&LookScope { is_full: true, ..LookScope::default() })?;
            }
        }
        match command {
            FolderCommand::Pause => self.pause(true),
            FolderCommand::Resume => self.pause(false),
            FolderCommand::Look => Ok(Ok("everything is looked at".into())),
            FolderCommand::Confirm => self.confirm(),
            FolderCommand::Revert => {
                let put_back = |sight: &PathSight<'_>| {
                    Some(revert(sight)).filter(|action| *action != FolderAction::Nothing)
                };
                self.answer(self.brake.to_revert(), put_back, "are put back")
            }
            FolderCommand::Keep(path) => self.answer(self.asked_for(path.as_ref()), keep, "are kept"),
            FolderCommand::Trash(path) => {
                self.answer(self.asked_for(path.as_ref()), trash, "are in the trash")
            }
            FolderCommand::Restore { path, at_ms } => self.restore(path, *at_ms),
        }
    }

    fn pause(&mut self, paused: bool) -> Result<Result<String, String>, WorkError> {
        let marker = self.binding.marker;
        let changed = self.context.rows.change_settings(marker, |settings| settings.paused = paused)?;
        let Some(settings) = changed else {
            return Ok(Err("the folder is not bound any more".into()));
        };
        self.binding.settings = settings;
        Ok(Ok(if paused { "the folder is paused" } else { "the folder goes on" }.into()))
    }

    /// Why a folder that is kept as this one does nothing of the kind.
    fn refusal(&self, command: &FolderCommand) -> Option<&'static str> {
        let settings = self.binding.settings;
        if settings.paused {
            return Some("the folder is paused: resume it first");
        }
        let writes_entries =
            matches!(command, FolderCommand::Revert | FolderCommand::Keep(_) | FolderCommand::Restore { .. });
        match settings.rules().mode {
            FolderMode::ReadOnly if writes_entries => Some(
                "the folder is read-only on this machine, and changes nothing on others: do it on one that is not; \
                 files that others removed stay here as long as that is not confirmed",
            ),
            FolderMode::SendOnly if matches!(command, FolderCommand::Restore { .. }) => Some(
                "the folder is send-only on this machine, and nothing is written to its directory: do it on one that is not",
            ),
            FolderMode::Both | FolderMode::ReadOnly | FolderMode::SendOnly => None,
        }
    }

    fn confirm(&mut self) -> Result<Result<String, String>, WorkError> {
        let held = self.brake.held.len();
        if held == 0 {
            return Ok(Err("nothing waits".into()));
        }
        let mut confirmed = self.brake.clone();
        confirmed.confirm();
        self.context.rows.save_brake(self.binding.marker, &confirmed)?;
        self.brake = confirmed;
        Ok(Ok(format!("{held} removals are carried out")))
    }

    fn asked_for(&self, path: Option<&EntryPath>) -> Vec<EntryHash> {
        let asked = self.asked.iter().filter(|(_, asked)| path.is_none_or(|path| asked.is_same(path)));
        asked.map(|(hash, _)| *hash).collect()
    }

    /// Does what the answer makes of each path; how many there were, and what became of them.
    fn answer(
        &mut self,
        hashes: Vec<EntryHash>,
        answer: impl Fn(&PathSight<'_>) -> Option<FolderAction>,
        done: &str,
    ) -> Result<Result<String, String>, WorkError> {
        self.open()?;
        // What was read is read again: nothing is answered about a file by what it was before.
        let todo: BTreeSet<EntryHash> = hashes.into_iter().collect();
        for hash in &todo {
            self.observe_again(*hash)?;
        }
        // Whoever answers does not wait for the turns of paths.
        let answers = self.ask_store(&todo)?;
        let is_unread = |hash: &EntryHash| self.with_sight(*hash, &answers, plan) == Some(FolderAction::Read);
        let unread: Vec<EntryHash> = todo.iter().copied().filter(is_unread).collect();
        for hash in self.read_all(unread)? {
            self.observe_again(hash)?;
        }
        let answers = self.ask_store(&todo)?;
        let mut actions = Vec::new();
        for hash in &todo {
            match self.with_sight(*hash, &answers, &answer).flatten() {
                // It could not be read: what was asked of it stays so.
                None | Some(FolderAction::Read) => {}
                Some(action) => actions.push((*hash, action)),
            }
        }
        actions.sort_by_key(|(_, action)| action.phase());
        let count = actions.len();
        self.perform(actions)?;
        Ok(if count == 0 { Err("nothing waits".into()) } else { Ok(format!("{count} {done}")) })
    }

    fn restore(&mut self, path: &EntryPath, at_ms: Option<u64>) -> Result<Result<String, String>, WorkError> {
        let hash = EntryHash::of(self.binding.marker.folder, path);
        let Some(now) = self.entries.get(&hash).cloned() else {
            return Ok(Err(format!("the folder never had {path}")));
        };
        let mut versions = self.history(path)?;
        versions.push(now.clone());
        let is_older = |version: &&EntryRecord| match at_ms {
            Some(at_ms) => version.hlc.ms() <= at_ms,
            None => version.target() != now.target(),
        };
        let wanted = versions.iter().filter(is_older).filter(|version| version.is_live());
        let Some(file) = EntryRecord::newest(wanted).and_then(|version| version.file.clone()) else {
            return Ok(Err(format!(
                "there is no such version of {path}: `history` shows those that are known"
            )));
        };
        if !self.are_here([file.target])?.contains(&file.target) {
            return Ok(Err(format!(
                "its content is not here, and has to be fetched first: can-sync fetch {}",
                file.target
            )));
        }
        let at = (self.binding.marker.folder, path);
        let version = EntryRecord::after(Some(&now), at, Some(file), &self.author(), now.hlc);
        if !self.put_all(&[(hash, version, None)])?.contains(&hash) {
            return Ok(Err(format!(
                "the store did not take the version of {path}: `folder status` says why"
            )));
        }
        Ok(Ok(format!("{path} is restored")))
    }
}
