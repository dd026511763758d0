//! Taking files out of the folder, and giving them another name.

use std::collections::HashSet;
use std::io;

use rustix::fs::RenameFlags;

use super::super::{AgreedRow, MountPoint};
use super::held::{Descent, HeldDir, split};
use super::journal::{FolderJournal, JournalNote, NoteStep};
use super::own::{NoteId, OwnPath};
use super::placing::{ActEnd, AfterAct, DiskJudgement};
use super::stat::FileKind;
use super::writing::{batch_size, said_again};
use super::{FolderDir, HookPoint};
use crate::entry::{EntryPath, EntryRecord};

/// A file that is to be taken out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RemoveOrder<'a> {
    pub(crate) entry: &'a EntryRecord,
    /// What the file has to be.
    pub(crate) over: &'a AgreedRow,
    /// The name on the disk.
    pub(crate) name: &'a EntryPath,
}

/// A file that is about to be taken out.
struct TakenOut<'a> {
    order: &'a RemoveOrder<'a>,
    note: JournalNote,
    dir: HeldDir,
    name: String,
}

/// As far up as directories go.
const DEPTH_MAX: usize = 512;

impl FolderDir {
    /// Takes files out. What it returns is in the order of `orders`. Directories that are empty then go as well.
    ///
    /// # Errors
    /// For each: what the system or the journal says. The file is where it was, or the journal has a note: see
    /// [`recover`](Self::recover).
    pub(crate) fn remove(
        &self,
        orders: &[RemoveOrder<'_>],
        journal: &dyn FolderJournal,
        now_ms: u64,
    ) -> Vec<io::Result<ActEnd>> {
        let batches = orders.chunks(batch_size());
        batches.flat_map(|batch| self.remove_batch(batch, journal, now_ms)).collect()
    }

    fn remove_batch(
        &self,
        orders: &[RemoveOrder<'_>],
        journal: &dyn FolderJournal,
        now_ms: u64,
    ) -> Vec<io::Result<ActEnd>> {
        let mut ends: Vec<Option<io::Result<ActEnd>>> = orders.iter().map(|_| None).collect();
        let (mut taking, mut trashes) = (Vec::new(), HashSet::new());
        for (at, order) in orders.iter().enumerate() {
            match self.find_for_removal(order, &mut trashes, now_ms) {
                Ok(Some(found)) => taking.push((at, found)),
                Ok(None) => ends[at] = Some(Ok(ActEnd::LookAgain)),
                Err(error) => ends[at] = Some(Err(error)),
            }
        }
        let notes: Vec<JournalNote> = taking.iter().map(|(_, taking)| taking.note.clone()).collect();
        if let Err(error) = journal.note(&notes).and_then(|()| self.at(HookPoint::Noted)) {
            for (at, _) in taking.drain(..) {
                ends[at] = Some(Err(said_again(&error)));
            }
        }
        let (mut forgotten, mut emptied) = (Vec::new(), HashSet::new());
        let mut dirs = Vec::new();
        for (at, taking) in taking {
            let end = self.take_out(&taking, journal);
            if matches!(end, Ok(ActEnd::LookAgain)) {
                forgotten.push(taking.note.id);
            }
            if matches!(end, Ok(ActEnd::Done { .. })) {
                // Else each of them costs a listing of its directory when it is looked at again.
                self.drop_name(&taking.dir.path, &taking.name);
                emptied.insert(taking.dir.path.clone());
            }
            ends[at] = Some(end);
            dirs.push(taking.dir);
        }
        if let Err(error) = self.sync_out(&dirs) {
            // No row may say that a file is gone, and no note that it was put back, before that is durable: a name that came back after
            // a power cut would be taken for the user's, and its removal undone everywhere.
            forgotten.clear();
            for end in ends.iter_mut().filter(|end| matches!(end, Some(Ok(_)))) {
                *end = Some(Err(said_again(&error)));
            }
        }
        for directory in &emptied {
            self.remove_empty(directory, DEPTH_MAX).ok();
        }
        journal.forget(&forgotten).ok();
        let nothing = || Err(io::Error::other("nothing came of it"));
        ends.into_iter().map(|end| end.unwrap_or_else(nothing)).collect()
    }

    fn find_for_removal<'a>(
        &self,
        order: &'a RemoveOrder<'a>,
        trashes: &mut HashSet<MountPoint>,
        now_ms: u64,
    ) -> io::Result<Option<TakenOut<'a>>> {
        let (directory, name) = split(order.name.as_str());
        let Some(dir) = self.descend_written(directory, false)?.0.opened()? else { return Ok(None) };
        let Some((name, stat)) = self.find(&dir, name)? else { return Ok(None) };
        if !Self::may_be(&dir, &stat, order.over) {
            return Ok(None);
        }
        if !trashes.contains(&dir.mount) {
            self.open_trash(&dir.mount)?;
            trashes.insert(dir.mount.clone());
        }
        let id = NoteId::random();
        let note = JournalNote {
            id,
            step: NoteStep::Remove,
            entry: order.entry.clone(),
            over: Some(order.over.clone()),
            name: order.name.clone(),
            temporary: None,
            trash: OwnPath::trashed(&dir, id, now_ms, &name),
            at_ms: now_ms,
        };
        Ok(Some(TakenOut { order, note, dir, name }))
    }

    fn take_out(&self, taking: &TakenOut<'_>, journal: &dyn FolderJournal) -> io::Result<ActEnd> {
        let TakenOut { order, note, dir, name } = taking;
        self.at(HookPoint::Placing)?;
        match self.move_to_trash(dir, name, &note.trash) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ActEnd::LookAgain),
            Err(error) => {
                let is_there = dir.stat(name).is_ok_and(|stat| stat.is_some());
                let Some(trash) = self.place_of(&note.trash)? else { return Err(error) };
                if is_there && trash.dir.stat(&trash.name)?.is_none() {
                    journal.forget(&[note.id]).ok();
                }
                return Err(error);
            }
            Ok(()) => {}
        }
        let Some(trash) = self.place_of(&note.trash)? else {
            return Err(io::Error::other(format!("it went to {}, which is gone", note.trash)));
        };
        match self.judge(&trash.dir, &trash.name, Some(order.over)).unwrap_or(DiskJudgement::Changed) {
            DiskJudgement::Agreed => {
                let row = Box::new(AgreedRow { entry: order.entry.clone(), disk: None });
                Ok(ActEnd::Done { row, after: AfterAct::Watch(Box::new(note.clone().into_old())) })
            }
            DiskJudgement::Missing => {
                let row = Box::new(AgreedRow { entry: order.entry.clone(), disk: None });
                Ok(ActEnd::Done { row, after: AfterAct::Forget(note.id) })
            }
            DiskJudgement::Changed => {
                self.at(HookPoint::PuttingBack)?;
                match self.give((&trash.dir, &trash.name), (dir, name)) {
                    Ok(()) => Ok(ActEnd::LookAgain),
                    Err(_) => Ok(ActEnd::Salvage(Box::new(note.clone()))),
                }
            }
        }
    }

    /// Gives a file another name, if that one is free. `false` where it is not, or where the file is not there: look again.
    ///
    /// # Errors
    /// What the system says, also that it cannot rename without replacing: the file has its name.
    pub(crate) fn step_aside(&self, from: &EntryPath, to: &EntryPath) -> io::Result<bool> {
        let (directory, name) = split(from.as_str());
        let Descent::Open(dir) = self.descend_written(directory, false)?.0 else { return Ok(false) };
        let Some((name, stat)) = self.find(&dir, name)? else { return Ok(false) };
        if stat.kind != FileKind::File {
            return Ok(false);
        }
        let (directory, new_name) = split(to.as_str());
        let (descent, made_dirs) = self.descend_written(directory, true)?;
        let Descent::Open(new_dir) = descent else { return Ok(false) };
        self.at(HookPoint::Placing)?;
        let renamed = if self.find(&new_dir, new_name)?.is_some() {
            Err(io::Error::from(io::ErrorKind::AlreadyExists))
        } else {
            // Where the system cannot do it at once, nothing else is as safe: both names are the user's.
            let rename = rustix::fs::renameat_with;
            rename(&dir, name.as_str(), &new_dir, new_name, RenameFlags::NOREPLACE).map_err(io::Error::from)
        };
        if renamed.is_err() {
            self.remove_empty(&new_dir.path, made_dirs)?;
        }
        match renamed {
            Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {
                return Ok(false);
            }
            done => done?,
        }
        self.note_name(&new_dir.path, new_name);
        // A directory took the file's name at the last moment.
        if new_dir.stat(new_name)?.is_some_and(|stat| stat.kind != FileKind::File) {
            rustix::fs::renameat_with(&new_dir, new_name, &dir, name.as_str(), RenameFlags::NOREPLACE).ok();
            return Ok(false);
        }
        new_dir.sync()?;
        dir.sync()?;
        Ok(true)
    }
}
