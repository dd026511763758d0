//! What becomes of files that were taken out: after a crash, when they cannot be put back, and some time later.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;

use super::contents::io_error;
use super::{FolderWork, WorkError};
use crate::entry::EntryHash;
use crate::folder::files::{
    DiskJudgement, FolderJournal as _, JournalNote, NoteStep, OwnPath, PutBack, Recovered, TrashedFile,
};
use crate::folder::rows::RowChange;
use crate::folder::{DiskSight, MountPoint, PathSight, ReadFile, SeenFile, StoreSight, salvage};
use crate::record::{ContentHash, Hlc};

/// How long a file that made way is watched: who has it open may still write to it.
const WATCHED_MS: u64 = 10 * 60 * 1000;
/// How often the journal is read for such files.
const TIDY_EVERY_MS: u64 = 60 * 1000;
const TRASH_KEPT_MS: u64 = 30 * 24 * 3600 * 1000;
/// Files of the trash that are looked at with one look.
const PURGED_MAX: usize = 1_000;
/// From one round through the trash to the next.
const PURGE_EVERY_MS: u64 = 24 * 3600 * 1000;

impl FolderWork {
    /// What the journal has when a folder is opened.
    pub(super) fn recover(&mut self) -> Result<(), WorkError> {
        let journal = self.context.rows.journal(self.binding.marker);
        let failed = |source| WorkError::Io { action: "cannot look at what was under way".into(), source };
        let (runtime, store) = (self.runtime.clone(), self.context.store.clone());
        let is_kept = move |hash: ContentHash| {
            let records = super::wait(&runtime, store.records(vec![hash]));
            records.is_ok_and(|found| found.iter().any(|one| !one.record.deleted && one.holding.is_held()))
        };
        for recovered in self.held()?.recover(&journal, &is_kept).map_err(failed)? {
            match recovered {
                Recovered::Settled(_) | Recovered::Watched(_) => {}
                Recovered::Salvage(note) => self.salvage(&note)?,
                Recovered::Later(note, error) => {
                    self.must_recover = true;
                    self.problem(format!("what was under way with {} is not settled: {error}", note.name));
                }
            }
        }
        Ok(())
    }

    /// Takes a file in the trash into the store, as a version of its own.
    pub(super) fn salvage(&mut self, note: &JournalNote) -> Result<(), WorkError> {
        // Until it is done, the note stays.
        self.must_recover = true;
        if self.is_reader() {
            return self.give_back(note);
        }
        let Some(copied) = self.copy_trashed(&note.trash, &note.name)? else {
            self.problem(format!("{} is in the trash as {}, and cannot be read", note.name, note.trash));
            return Ok(());
        };
        let (stat, read) = (copied.stat, ReadFile { hash: copied.hash, at_ms: copied.at_ms });
        if !self.ingest(vec![copied])?.contains(&read.hash) {
            return Ok(());
        }
        let path = &note.entry.path;
        self.note_had(&BTreeSet::from([read.hash]), &BTreeSet::new())?;
        let hash = EntryHash::of(self.binding.marker.folder, path);
        self.read_named(&BTreeSet::from([hash]))?;
        let file = SeenFile { stat, mount: MountPoint::new(), is_aside: false, read: Some(read) };
        let (gone, author) = (DiskSight::Gone(MountPoint::new()), self.author());
        let sight = PathSight {
            folder: self.binding.marker.folder,
            path,
            disk: &gone,
            agreed: self.agreed.get(&hash),
            store: StoreSight { entry: self.entries.get(&hash), ..StoreSight::default() },
            has_children: false,
            rules: self.binding.settings.rules(),
            author: &author,
        };
        let version = salvage(&sight, &file, read);
        self.problem(format!("{path} changed while it was replaced: what it had is kept as a copy"));
        if self.put_all(&[(hash, version, None)])?.contains(&hash) {
            self.change_rows(vec![RowChange::DropNote(note.id)])?;
        }
        Ok(())
    }

    /// The same where nothing of this machine is to show elsewhere: the file gets a name of its own in the directory.
    fn give_back(&mut self, note: &JournalNote) -> Result<(), WorkError> {
        let failed = |source| WorkError::Io { action: format!("cannot look at {}", note.trash), source };
        let Some((stat, hash)) = self.held()?.hash_trashed(&note.trash).map_err(failed)? else {
            self.problem(format!("{} is in the trash as {}, and cannot be read", note.name, note.trash));
            return Ok(());
        };
        let written = Hlc::from_ms(u64::try_from(stat.mtime_ns / 1_000_000).unwrap_or_default());
        let name = note.entry.path.conflict(&self.author().by, written, &hash.0);
        match self.held()?.put_back(&note.trash, &name).map_err(failed)? {
            PutBack::Done => {
                self.problem(format!("{} changed while it was replaced: it is {name} now", note.name));
            }
            PutBack::Gone => {}
            PutBack::Taken => {
                self.problem(format!("{} is in the trash as {}: {name} is there", note.name, note.trash));
                return Ok(());
            }
        }
        self.change_rows(vec![RowChange::DropNote(note.id)])
    }

    /// Files that made way long enough ago. There may be as many as the folder has, so that they are not counted with every look.
    pub(super) fn tidy(&mut self) -> Result<(), WorkError> {
        let now_ms = self.now_ms();
        // A clock that was set back is no reason to wait.
        if self.tidied_ms.is_some_and(|then| (then..then.saturating_add(TIDY_EVERY_MS)).contains(&now_ms)) {
            return Ok(());
        }
        let journal = self.context.rows.journal(self.binding.marker);
        let failed = |source| WorkError::Io { action: "cannot look at files that made way".into(), source };
        let mut settled = Vec::new();
        for note in journal.all().map_err(failed)? {
            if note.step != NoteStep::Old || note.at_ms.saturating_add(WATCHED_MS) > now_ms {
                continue;
            }
            match self.held()?.old_file(&note) {
                Ok(DiskJudgement::Agreed | DiskJudgement::Missing) => {
                    settled.push(RowChange::DropNote(note.id));
                }
                Ok(DiskJudgement::Changed) => self.salvage(&note)?,
                Err(error) => self.problem(format!("cannot look at {}: {error}", note.trash)),
            }
            self.check_stop()?;
        }
        self.change_rows(settled)?;
        self.tidied_ms = Some(now_ms);
        Ok(())
    }

    /// Files that have been in the trash for long and whose contents are in the store leave it. Those that the store lacks are looked at
    /// again with the next round.
    pub(super) fn purge(&mut self) -> Result<(), WorkError> {
        let now_ms = self.now_ms();
        // A clock that was set back is no reason to wait.
        if self.purged_ms.is_some_and(|then| (then..then.saturating_add(PURGE_EVERY_MS)).contains(&now_ms)) {
            return Ok(());
        }
        let mounts = self.mounts();
        let mut old: Vec<TrashedFile> = Vec::new();
        let span = (self.purge_after.as_ref(), now_ms.saturating_sub(TRASH_KEPT_MS));
        let listed = self.held()?.trash(&mounts, span, &mut |trashed| {
            old.push(trashed);
            if old.len() < PURGED_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        let is_over = old.len() < PURGED_MAX && listed.is_ok();
        self.purge_after = old.last().map(|last| last.path.clone()).filter(|_| !is_over);
        self.purged_ms = is_over.then_some(now_ms);
        if let Err(error) = listed {
            self.problem(format!("cannot list the trash: {error}"));
        }
        let mut read: HashMap<OwnPath, _> = HashMap::new();
        for trashed in &old {
            if let Ok(Some(found)) = self.held()?.hash_trashed(&trashed.path) {
                read.insert(trashed.path.clone(), found);
            }
            self.check_stop()?;
        }
        let here = self.are_here(read.values().map(|(_, hash)| *hash))?;
        for (path, (stat, hash)) in read {
            if here.contains(&hash) {
                self.held()?.drop_trashed(&path, stat).ok();
            }
        }
        Ok(())
    }

    /// Files with the names of temporary ones go to the trash.
    pub(super) fn rescue(&mut self, strays: Vec<OwnPath>) -> Result<(), WorkError> {
        if strays.is_empty() {
            return Ok(());
        }
        let noted = self.context.rows.journal(self.binding.marker).all();
        let noted = noted.map_err(io_error("cannot read what is on its way in a folder"))?;
        for stray in strays {
            match self.held()?.rescue(&stray, &noted, self.now_ms()) {
                Ok(None) => {}
                Ok(Some(to)) => self.problem(format!("{stray} is in the trash now, as {to}")),
                Err(error) => self.problem(format!("cannot look at {stray}: {error}")),
            }
        }
        Ok(())
    }
}
