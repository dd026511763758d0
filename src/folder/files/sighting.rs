//! What the disk shows at one path.

use std::io;

use super::super::{DiskSight, SeenFile};
use super::FolderDir;
use super::held::{Descent, HeldDir, below, split};
use super::looking::LookRules;
use super::stat::{FileKind, RawStat};
use crate::entry::{EntryPath, composed};

impl FolderDir {
    /// Looks at one path. `name` is how the disk writes it, where that is known; `agreed` whether the file was executable when that was
    /// last known, for file systems that cannot say.
    ///
    /// A file whose twin is there as well is [`DiskSight::Foreign`] unless this spelling stays.
    pub(crate) fn sight(
        &self,
        path: &EntryPath,
        name: &EntryPath,
        rules: LookRules<'_>,
        agreed: Option<bool>,
    ) -> DiskSight {
        if rules.ignored.is_ignored(name, false) {
            return DiskSight::Ignored;
        }
        // An error says nothing about the file.
        let at_name = self.sight_name(name, rules, agreed).unwrap_or(DiskSight::Unknown);
        if !matches!(at_name, DiskSight::Directory(_) | DiskSight::Gone(_)) {
            return at_name;
        }
        match self.sight_name(&path.aside(self.marker.folder), rules, agreed) {
            Ok(DiskSight::File(file)) => DiskSight::File(SeenFile { is_aside: true, ..file }),
            Ok(DiskSight::Unknown) | Err(_) => DiskSight::Unknown,
            Ok(DiskSight::Directory(_) | DiskSight::Gone(_) | DiskSight::Foreign | DiskSight::Ignored) => {
                let is_left_out =
                    matches!(at_name, DiskSight::Directory(_)) && rules.ignored.is_ignored(name, true);
                if is_left_out { DiskSight::Ignored } else { at_name }
            }
        }
    }

    /// How the disk writes a name that it may write otherwise than it was heard of, or is in a row: files are opened by that alone. The
    /// name itself where that cannot be told.
    pub(crate) fn as_written(&self, name: &EntryPath) -> EntryPath {
        if name.as_str().is_ascii() {
            return name.clone();
        }
        let (directory, last) = split(name.as_str());
        let written = || -> io::Result<Option<EntryPath>> {
            let Descent::Open(dir) = self.descend_written(directory, false)?.0 else { return Ok(None) };
            let found = self.find(&dir, last)?;
            Ok(found.and_then(|(found, _)| EntryPath::parse(&below(&dir.path, &found)).ok()))
        };
        written().ok().flatten().unwrap_or_else(|| name.clone())
    }

    /// Whether a directory stands at a name. What cannot be told is none.
    pub(crate) fn is_directory(&self, name: &EntryPath) -> bool {
        let (directory, name) = split(name.as_str());
        let Ok(Descent::Open(dir)) = self.descend(directory) else { return false };
        dir.stat(name).is_ok_and(|stat| stat.is_some_and(|stat| stat.kind == FileKind::Directory))
    }

    /// What a name shows, whatever the user leaves out.
    fn sight_name(
        &self,
        path: &EntryPath,
        rules: LookRules<'_>,
        agreed: Option<bool>,
    ) -> io::Result<DiskSight> {
        let (directory, name) = split(path.as_str());
        let dir = match self.descend_written(directory, false)?.0 {
            Descent::Open(dir) => dir,
            Descent::Missing { at, component } => return self.gone(&at, &component),
            // A file is where a directory was: nothing can be below it.
            Descent::Blocked { at, kind: FileKind::File, .. } => return Ok(DiskSight::Gone(at.mount)),
            Descent::Blocked { .. } | Descent::Unmounted(_) => return Ok(DiskSight::Unknown),
        };
        let Some((_, stat)) = self.find(&dir, name)? else { return self.gone(&dir, name) };
        self.sight_stat(&dir, path, &stat, rules, agreed)
    }

    fn sight_stat(
        &self,
        dir: &HeldDir,
        path: &EntryPath,
        stat: &RawStat,
        rules: LookRules<'_>,
        agreed: Option<bool>,
    ) -> io::Result<DiskSight> {
        match stat.kind {
            FileKind::Directory => return Ok(DiskSight::Directory(dir.mount.clone())),
            FileKind::File if !stat.is_mounted_on(dir.key) => {}
            FileKind::File | FileKind::Symlink | FileKind::Fifo | FileKind::Socket | FileKind::Device => {
                return Ok(DiskSight::Foreign);
            }
        }
        let (_, name) = split(path.as_str());
        let mut twins = self.twins(dir, name)?;
        if !twins.is_empty() && self.lacks(dir, name)? {
            let is_this = |twin: &String| composed(twin) == composed(name);
            if !twins.iter().any(is_this) {
                // A file system that folds case has the file under another name.
                return Ok(DiskSight::Gone(dir.mount.clone()));
            }
            twins.retain(|twin| !is_this(twin));
        }
        if !twins.is_empty() && !stays(dir, path, &twins, rules) {
            return Ok(DiskSight::Foreign);
        }
        let (stat, mount) = (stat.seen(dir.traits, agreed), dir.mount.clone());
        Ok(DiskSight::File(SeenFile { stat, mount, is_aside: false, read: None }))
    }

    /// A name is gone only from a directory that was listed to the end without it.
    fn gone(&self, dir: &HeldDir, name: &str) -> io::Result<DiskSight> {
        let is_gone = self.lacks(dir, name)? && dir.stat(name)?.is_none();
        Ok(if is_gone { DiskSight::Gone(dir.mount.clone()) } else { DiskSight::Unknown })
    }
}

/// Whether this one of several names that are the same stays: the first that rows know, else the first.
fn stays(dir: &HeldDir, path: &EntryPath, twins: &[String], rules: LookRules<'_>) -> bool {
    let own = (rules.knows)(path, false);
    twins.iter().all(|twin| {
        let Ok(other) = EntryPath::parse(&below(&dir.path, twin)) else { return true };
        let kind = dir.stat(twin).ok().flatten().map(|stat| stat.kind);
        let is_directory = match kind {
            Some(FileKind::File) => false,
            Some(FileKind::Directory) => true,
            Some(FileKind::Symlink | FileKind::Fifo | FileKind::Socket | FileKind::Device) | None => {
                return true;
            }
        };
        match (own, (rules.knows)(&other, is_directory)) {
            (true, false) => true,
            (false, true) => false,
            (true, true) | (false, false) => path.as_str() < other.as_str(),
        }
    })
}
