//! A look at the whole folder.
//!
//! A directory's names are all read before anything is said of one: where that fails, nothing is, but that it is unknown. So memory is
//! needed for the largest directory, and for the names of directories that are still to be looked at.

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;

use super::super::{MountPoint, SeenFile};
use super::held::{HeldDir, ListedName, below};
use super::ignoring::IgnoreRules;
use super::marker::{FolderGone, MARKER};
use super::own::OwnPath;
use super::stat::{FileKind, RawStat};
use super::{FolderDir, HookPoint};
use crate::entry::EntryPath;
use crate::entry::path::is_own;
use crate::text::{escaped_name, folded};

/// A file, and which path it stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FileAt {
    /// Its name on the disk.
    pub(crate) name: EntryPath,
    /// The entry's: another one where the file is aside.
    pub(crate) path: EntryPath,
    /// What it is. Not read.
    pub(crate) file: SeenFile,
    /// Whether `executable` is the file's own; else it is to be what was agreed.
    pub(crate) has_modes: bool,
}

/// Why something is left as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum PassedOver {
    #[error("it is {}", match .0 {
        FileKind::Symlink => "a symbolic link",
        FileKind::Fifo => "a named pipe",
        FileKind::Socket => "a socket",
        FileKind::File | FileKind::Directory | FileKind::Device => "a device",
    })]
    Kind(FileKind),
    #[error("its name is no UTF-8")]
    NotUtf8,
    #[error("no file of that name can be on every machine")]
    Path,
    #[error("its name differs from another's in case or in the way it is written alone")]
    Twin,
    #[error("something is mounted on it")]
    Mounted,
    #[error("it is a folder of its own")]
    OtherFolder,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Sighted {
    File(FileAt),
    Directory {
        name: EntryPath,
        /// The file system that it is on; its own name where that begins there.
        mount: MountPoint,
    },
    /// What the user leaves out; of directories all that is below them.
    Ignored(EntryPath),
    /// Something that is left as it is; of directories with all that is below them.
    PassedOver {
        /// As text, if need be with `%XX`.
        name: String,
        /// The same, if entries can have it.
        path: Option<EntryPath>,
        why: PassedOver,
    },
    /// Nothing can be said of this path and all below it; the empty path is the root.
    Unknown {
        name: String,
        why: String,
    },
    /// A file with the name of a temporary one: see [`FolderDir::rescue`].
    Stray(OwnPath),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct LookCounts {
    pub(crate) files: u64,
    /// Directories that were listed to the end.
    pub(crate) directories: u64,
    pub(crate) unknown: u64,
}

#[derive(Debug)]
pub(crate) enum LookEnd {
    /// All was seen, but for what is unknown.
    Done(LookCounts),
    /// The caller had enough, or [`FolderDir::stop_flag`] is set.
    Stopped,
    /// The directory is not there, or was not all the time: what was said is worth nothing.
    Gone(FolderGone),
}

/// What to leave out, and which names stay.
#[derive(Clone, Copy)]
pub(crate) struct LookRules<'a> {
    pub(crate) ignored: &'a IgnoreRules,
    /// Whether rows have this very spelling: as a file's, or with `true` as a directory above one. Of names that are the same to people
    /// that one stays.
    pub(crate) knows: &'a dyn Fn(&EntryPath, bool) -> bool,
}

/// Calls it with what is met.
type Each<'a> = &'a mut dyn FnMut(Sighted) -> ControlFlow<()>;

/// A file or a directory that may have twins.
struct NameCandidate {
    name: String,
    path: EntryPath,
    stat: RawStat,
}

impl FolderDir {
    pub(crate) fn look(
        &self,
        rules: LookRules<'_>,
        each: &mut dyn FnMut(Sighted) -> ControlFlow<()>,
    ) -> LookEnd {
        if let Err(gone) = self.check() {
            return LookEnd::Gone(gone);
        }
        let mut counts = LookCounts::default();
        let mut open = vec![String::new()];
        while let Some(directory) = open.pop() {
            if self.check_stop().is_err() {
                return LookEnd::Stopped;
            }
            let said = match self.look_in(&directory, rules, &mut counts, &mut open, each) {
                Ok(said) => said,
                Err(error) => {
                    counts.unknown += 1;
                    each(Sighted::Unknown { name: directory, why: error.to_string() })
                }
            };
            if said.is_break() {
                return LookEnd::Stopped;
            }
        }
        self.check().map_or_else(LookEnd::Gone, |()| LookEnd::Done(counts))
    }

    fn look_in(
        &self,
        directory: &str,
        rules: LookRules<'_>,
        counts: &mut LookCounts,
        open: &mut Vec<String>,
        each: Each<'_>,
    ) -> io::Result<ControlFlow<()>> {
        let Some(dir) = self.descend(directory)?.opened()? else {
            return Err(io::Error::other("it was a directory a moment ago"));
        };
        self.at(HookPoint::Listing)?;
        let mut names = dir.list()?;
        names.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        if !directory.is_empty() && names.iter().any(|listed| *listed.name == *MARKER.as_bytes()) {
            let path = EntryPath::parse(directory).ok();
            let why = PassedOver::OtherFolder;
            return Ok(each(Sighted::PassedOver { name: directory.to_owned(), path, why }));
        }
        counts.directories += 1;
        let mut candidates = Vec::new();
        for listed in names {
            if let Some(sighted) = self.weigh(&dir, &listed, rules, &mut candidates) {
                counts.unknown += u64::from(matches!(sighted, Sighted::Unknown { .. }));
                if each(sighted).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        let twins = twins_of(&candidates, rules.knows);
        let first = open.len();
        for (at, NameCandidate { name: _, path, stat }) in candidates.into_iter().enumerate() {
            let sighted = if twins[at] {
                let (name, path) = (path.as_str().to_owned(), Some(path));
                Sighted::PassedOver { name, path, why: PassedOver::Twin }
            } else if stat.kind == FileKind::Directory {
                open.push(path.as_str().to_owned());
                let is_mount = stat.is_mounted_on(dir.key);
                let mount = if is_mount { path.as_str().to_owned() } else { dir.mount.clone() };
                Sighted::Directory { name: path, mount }
            } else if stat.is_mounted_on(dir.key) {
                let (name, path) = (path.as_str().to_owned(), Some(path));
                Sighted::PassedOver { name, path, why: PassedOver::Mounted }
            } else {
                counts.files += 1;
                Sighted::File(self.file_at(&dir, path, &stat))
            };
            if each(sighted).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        // In their order.
        open[first..].reverse();
        Ok(ControlFlow::Continue(()))
    }

    fn file_at(&self, dir: &HeldDir, name: EntryPath, stat: &RawStat) -> FileAt {
        let plain = name.plain(self.marker.folder);
        let is_aside = plain.is_some();
        let file =
            SeenFile { stat: stat.seen(dir.traits, None), mount: dir.mount.clone(), is_aside, read: None };
        FileAt { path: plain.unwrap_or_else(|| name.clone()), name, file, has_modes: dir.traits.has_modes }
    }

    /// Says what a name is, or takes it as a candidate. Nothing, for our own files and what is gone by now.
    fn weigh(
        &self,
        dir: &HeldDir,
        listed: &ListedName,
        rules: LookRules<'_>,
        candidates: &mut Vec<NameCandidate>,
    ) -> Option<Sighted> {
        let passed = |path: Option<EntryPath>, name: &str, why| {
            Some(Sighted::PassedOver { name: below(&dir.path, name), path, why })
        };
        let Ok(name) = std::str::from_utf8(&listed.name) else {
            return passed(None, &escaped_name(&listed.name), PassedOver::NotUtf8);
        };
        if is_own(name) {
            return OwnPath::stray(&dir.path, name).map(Sighted::Stray);
        }
        let Ok(path) = EntryPath::parse(&below(&dir.path, name)) else {
            return passed(None, name, PassedOver::Path);
        };
        if let Some(kind) = listed.kind
            && rules.ignored.is_left_out(path.as_str(), kind == FileKind::Directory)
        {
            return Some(Sighted::Ignored(path));
        }
        let unknown = |error: &io::Error| {
            Some(Sighted::Unknown { name: below(&dir.path, name), why: error.to_string() })
        };
        match self.at(HookPoint::Looking).and_then(|()| dir.stat(name)) {
            Err(error) => unknown(&error),
            // Whoever misses it asks for it by its path.
            Ok(None) => None,
            Ok(Some(stat)) if rules.ignored.is_left_out(path.as_str(), stat.kind == FileKind::Directory) => {
                Some(Sighted::Ignored(path))
            }
            Ok(Some(stat)) => match stat.kind {
                FileKind::File | FileKind::Directory => {
                    candidates.push(NameCandidate { name: name.to_owned(), path, stat });
                    None
                }
                kind @ (FileKind::Symlink | FileKind::Fifo | FileKind::Socket | FileKind::Device) => {
                    passed(Some(path), name, PassedOver::Kind(kind))
                }
            },
        }
    }
}

/// Which of them have to stay behind another of the same name.
fn twins_of(candidates: &[NameCandidate], knows: &dyn Fn(&EntryPath, bool) -> bool) -> Vec<bool> {
    let mut kept: HashMap<String, usize> = HashMap::with_capacity(candidates.len());
    let mut is_twin = vec![false; candidates.len()];
    for (at, candidate) in candidates.iter().enumerate() {
        let key = folded(&candidate.name);
        let Some(first) = kept.get(&key).copied() else {
            kept.insert(key, at);
            continue;
        };
        let is_known = |at: usize| {
            let NameCandidate { path, stat, .. } = &candidates[at];
            knows(path, stat.kind == FileKind::Directory)
        };
        let loser = if is_known(at) && !is_known(first) { first } else { at };
        is_twin[loser] = true;
        kept.insert(key, if loser == at { first } else { at });
    }
    is_twin
}
