//! Taking a file out and looking at it: what writing, removing and recovering have in common.

use std::collections::HashSet;
use std::io;

use rustix::fs::Mode;
use rustix::io::Errno;

use super::super::{AgreedRow, CameOut};
use super::held::{Descent, HeldDir, below};
use super::journal::{FolderJournal, JournalNote};
use super::own::{NoteId, OwnPath, TRASH};
use super::stat::{FileKind, RawStat};
use super::writing::sync_dirs;
use super::{FolderDir, HookPoint};

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ActEnd {
    /// It is done. The row is to be written, and with it, in one transaction, the journal.
    Done {
        row: Box<AgreedRow>,
        /// What becomes of the note.
        after: AfterAct,
    },
    /// The disk shows something else than what was planned by, and is as it was but for that: look at the path again.
    LookAgain,
    /// Somebody's file is in the trash, at [`JournalNote::trash`], and cannot be put back: copy it
    /// ([`copy_trashed`](FolderDir::copy_trashed)), take it into the store, merge a version
    /// ([salvage](super::super::salvage())), and drop the note then. What is no file stays in the trash and is named in status.
    Salvage(Box<JournalNote>),
}

/// What becomes of the note of an action that is done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum AfterAct {
    /// It goes.
    Forget(NoteId),
    /// This one takes its place: a file that made way is watched for ten minutes; see [`FolderDir::old_file`].
    Watch(Box<JournalNote>),
}

/// What a file that was taken out is, beside what it was to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DiskJudgement {
    Agreed,
    /// Somebody wrote to it: it is to be [salvaged](super::super::salvage()).
    Changed,
    Missing,
}

/// A directory of the trash, and a name in it.
pub(super) struct TrashPlace {
    pub(super) dir: HeldDir,
    pub(super) name: String,
}

impl FolderDir {
    /// Opens the trash of a file system, and makes it if it is not there.
    pub(super) fn open_trash(&self, mount: &str) -> io::Result<HeldDir> {
        let Descent::Open(top) = self.descend(mount)? else {
            return Err(io::Error::other(format!("{mount:?} is no directory any more")));
        };
        match rustix::fs::mkdirat(&top, TRASH, Mode::RWXU) {
            Ok(()) => top.sync()?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let path = below(mount, TRASH);
        match self.descend(&path)? {
            Descent::Open(dir) if dir.key == top.key => Ok(dir),
            Descent::Open(_) => Err(io::Error::other(format!("{path} is on another file system"))),
            Descent::Missing { .. } | Descent::Blocked { .. } | Descent::Unmounted(_) => {
                Err(io::Error::other(format!("{path} is no directory: rename or remove what is there")))
            }
        }
    }

    /// Opens the directory of one of our own files; `None` where it is not there.
    pub(super) fn place_of(&self, path: &OwnPath) -> io::Result<Option<TrashPlace>> {
        let (directory, name) = path.split();
        match self.descend(directory)? {
            Descent::Open(dir) => Ok(Some(TrashPlace { dir, name: name.to_owned() })),
            Descent::Missing { .. } | Descent::Blocked { kind: FileKind::File, .. } => Ok(None),
            Descent::Blocked { .. } | Descent::Unmounted(_) => {
                Err(io::Error::other(format!("{directory} cannot be looked at now")))
            }
        }
    }

    /// As [`Self::place_of`], where something is there.
    pub(super) fn found_at(&self, path: &OwnPath) -> io::Result<Option<(TrashPlace, RawStat)>> {
        let Some(place) = self.place_of(path)? else { return Ok(None) };
        Ok(place.dir.stat(&place.name)?.map(|stat| (place, stat)))
    }

    /// Looks at a file that was taken out. An error says nothing about it.
    pub(super) fn judge(
        &self,
        dir: &HeldDir,
        name: &str,
        over: Option<&AgreedRow>,
    ) -> io::Result<DiskJudgement> {
        self.at(HookPoint::Looking)?;
        let Some(stat) = dir.stat(name)? else { return Ok(DiskJudgement::Missing) };
        let (FileKind::File, Some(over)) = (stat.kind, over) else { return Ok(DiskJudgement::Changed) };
        let agreed = over.disk.as_ref().map(|disk| disk.stat.executable);
        let seen = stat.seen(dir.traits, agreed);
        let judged = match over.came_out(seen, None) {
            CameOut::NeedsHash => match self.hash_at(dir, name, &stat)? {
                Some(hash) => over.came_out(seen, Some(hash)),
                None => CameOut::Changed,
            },
            known @ (CameOut::Agreed | CameOut::Changed) => known,
        };
        Ok(if judged == CameOut::Agreed { DiskJudgement::Agreed } else { DiskJudgement::Changed })
    }

    /// Whether a file that is in its place may be what was agreed: it is not read.
    pub(super) fn may_be(dir: &HeldDir, stat: &RawStat, over: &AgreedRow) -> bool {
        let agreed = over.disk.as_ref().map(|disk| disk.stat.executable);
        // What the entry says of the size is somebody's word.
        stat.kind == FileKind::File
            && over.disk.as_ref().is_some_and(|disk| disk.stat.size == stat.size)
            && over.came_out(stat.seen(dir.traits, agreed), None) != CameOut::Changed
    }

    /// Moves something from a directory into the trash, under the name that is noted. Durable after [`sync_out`](Self::sync_out); a
    /// name that comes back after a power cut is in the journal, or in the way of nobody.
    pub(super) fn move_to_trash(&self, dir: &HeldDir, name: &str, trash: &OwnPath) -> io::Result<()> {
        self.at(HookPoint::Trashing)?;
        let Some(place) = self.place_of(trash)? else { return Err(io::ErrorKind::NotFound.into()) };
        self.take((dir, name), (&place.dir, &place.name))?;
        self.at(HookPoint::Trashed)
    }

    /// Makes durable what went from these directories into the trash.
    pub(super) fn sync_out(&self, dirs: &[HeldDir]) -> io::Result<()> {
        let mut mounts = HashSet::new();
        for dir in dirs {
            if mounts.insert(&dir.mount)
                && let Descent::Open(trash) = self.descend(&below(&dir.mount, TRASH))?
            {
                trash.sync()?;
            }
        }
        sync_dirs(dirs)
    }

    /// Removes a file that was made here, if it still is that one. `false` where it is not.
    pub(super) fn drop_made(dir: &HeldDir, name: &str, made: &RawStat) -> io::Result<bool> {
        match dir.stat(name)? {
            None => Ok(true),
            Some(now) if now.is_same_file(made) => {
                dir.remove(name)?;
                Ok(true)
            }
            Some(_) => Ok(false),
        }
    }

    /// For what is under a temporary name and is somebody's: it goes to the trash, to be salvaged. Where even that fails it stays where it
    /// is, and the note says so.
    pub(super) fn keep_for_salvage(
        &self,
        dir: &HeldDir,
        name: &str,
        note: JournalNote,
        journal: &dyn FolderJournal,
    ) -> io::Result<ActEnd> {
        if self.move_to_trash(dir, name, &note.trash).is_ok() {
            return Ok(ActEnd::Salvage(Box::new(note)));
        }
        let Some(trash) = note.temporary.clone() else {
            return Err(io::Error::other(format!("{name} cannot be moved to the trash")));
        };
        let note = JournalNote { trash, temporary: None, ..note };
        journal.note(std::slice::from_ref(&note))?;
        Ok(ActEnd::Salvage(Box::new(note)))
    }
}
