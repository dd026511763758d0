//! The trash, files that made way, and temporary files that nobody knows.

use std::collections::BTreeSet;
use std::io;
use std::ops::ControlFlow;

use super::super::{FileStat, MountPoint};
use super::FolderDir;
use super::held::{Descent, below, split};
use super::journal::JournalNote;
use super::own::{NoteId, OwnPath, TRASH};
use super::placing::DiskJudgement;
use super::stat::FileKind;
use crate::entry::EntryPath;
use crate::record::ContentHash;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TrashedFile {
    pub(crate) path: OwnPath,
    /// What its name was, cut if it was long.
    pub(crate) name: String,
    /// When it was taken out.
    pub(crate) at_ms: u64,
    pub(crate) kind: FileKind,
    pub(crate) stat: FileStat,
}

/// What came of putting a file back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PutBack {
    /// It has its name again.
    Done,
    /// Something else has the name: it is in the trash.
    Taken,
    /// It is not in the trash.
    Gone,
}

impl FolderDir {
    /// Looks at a file that made way, and reads it if its looks prove nothing.
    ///
    /// # Errors
    /// What the system says: it is unknown.
    pub(crate) fn old_file(&self, note: &JournalNote) -> io::Result<DiskJudgement> {
        let Some(place) = self.place_of(&note.trash)? else { return Ok(DiskJudgement::Missing) };
        self.judge(&place.dir, &place.name, note.over.as_ref())
    }

    /// Names what went into the trash of the root and of these mount points until `until_ms`, the oldest first in each, and from the one
    /// after `after` on. What is not named as we name files is left out, and stays.
    ///
    /// # Errors
    /// What the system says of a trash that is there.
    pub(crate) fn trash(
        &self,
        mounts: &BTreeSet<MountPoint>,
        (after, until_ms): (Option<&OwnPath>, u64),
        each: &mut dyn FnMut(TrashedFile) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let root = MountPoint::new();
        let mounts = std::iter::once(&root).chain(mounts.iter().filter(|mount| !mount.is_empty()));
        let after = after.map(OwnPath::split);
        let directories = mounts.map(|mount| below(mount, TRASH));
        for directory in directories.skip_while(|path| after.is_some_and(|(last, _)| last != path)) {
            let Descent::Open(dir) = self.descend(&directory)? else { continue };
            let is_left =
                |name: &String| after.is_none_or(|(last, known)| last != directory || name.as_str() > known);
            let mut names: Vec<String> = dir
                .list()?
                .into_iter()
                .filter_map(|listed| String::from_utf8(listed.name.into()).ok())
                .filter(is_left)
                .collect();
            names.sort_unstable();
            for name in names {
                let Some((at_ms, old_name)) = OwnPath::read_trashed(&name) else { continue };
                if at_ms > until_ms {
                    continue;
                }
                let Some(stat) = dir.stat(&name)? else { continue };
                let Some(path) = OwnPath::parse(&below(&dir.path, &name)) else { continue };
                let (old_name, kind) = (old_name.to_owned(), stat.kind);
                let stat = stat.seen(dir.traits, None);
                if each(TrashedFile { path, name: old_name, at_ms, kind, stat }).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Removes a file from the trash for good, whose content is in the store: it must be what `read` found
    /// ([`copy_trashed`](Self::copy_trashed), with its stat). `false` where it is not, or is not there.
    ///
    /// # Errors
    /// What the system says: it is there.
    pub(crate) fn drop_trashed(&self, path: &OwnPath, read: FileStat) -> io::Result<bool> {
        let Some((place, stat)) = self.found_at(path)? else { return Ok(false) };
        if stat.kind != FileKind::File || stat.seen(place.dir.traits, None) != read {
            return Ok(false);
        }
        place.dir.remove(&place.name)?;
        Ok(true)
    }

    /// The hash of a file in the trash and its looks; `None` where it is none, or somebody writes to it.
    pub(crate) fn hash_trashed(&self, path: &OwnPath) -> io::Result<Option<(FileStat, ContentHash)>> {
        let Some((place, stat)) = self.found_at(path)? else { return Ok(None) };
        if stat.kind != FileKind::File {
            return Ok(None);
        }
        let hash = self.hash_at(&place.dir, &place.name, &stat)?;
        Ok(hash.map(|hash| (stat.seen(place.dir.traits, None), hash)))
    }

    /// Gives a file in the trash a name in the folder, never another's.
    ///
    /// # Errors
    /// What the system says: it is in the trash.
    pub(crate) fn put_back(&self, path: &OwnPath, name: &EntryPath) -> io::Result<PutBack> {
        let Some((place, _)) = self.found_at(path)? else { return Ok(PutBack::Gone) };
        let (directory, name) = split(name.as_str());
        let (descent, made_dirs) = self.descend_written(directory, true)?;
        let Descent::Open(dir) = descent else { return Ok(PutBack::Taken) };
        if self.find(&dir, name)?.is_some() {
            return Ok(PutBack::Taken);
        }
        match self.give((&place.dir, &place.name), (&dir, name)) {
            Ok(()) => {
                self.note_name(&dir.path, name);
                dir.sync()?;
                place.dir.sync()?;
                Ok(PutBack::Done)
            }
            Err(error) => {
                self.remove_empty(&dir.path, made_dirs)?;
                if error.kind() == io::ErrorKind::AlreadyExists { Ok(PutBack::Taken) } else { Err(error) }
            }
        }
    }

    /// A [stray](super::Sighted::Stray) goes to the trash: it may be the user's. One of those that are `noted` stays. Says where it went.
    ///
    /// # Errors
    /// What the system says: it is where it was.
    pub(crate) fn rescue(
        &self,
        stray: &OwnPath,
        noted: &[JournalNote],
        now_ms: u64,
    ) -> io::Result<Option<OwnPath>> {
        let is_noted = noted.iter().any(|note| {
            let temporary = note.temporary.as_ref();
            temporary.is_some_and(|own| own == stray || own.making() == *stray) || note.trash == *stray
        });
        let Some((place, _)) = self.found_at(stray)?.filter(|_| !is_noted) else { return Ok(None) };
        let trash = OwnPath::trashed(&place.dir, NoteId::random(), now_ms, &place.name);
        self.open_trash(&place.dir.mount)?;
        self.move_to_trash(&place.dir, &place.name, &trash)?;
        self.sync_out(&[place.dir])?;
        Ok(Some(trash))
    }
}
