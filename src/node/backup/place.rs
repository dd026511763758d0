//! The directory that a backup is in.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::manifest::{MANIFEST, Manifest};
use super::{BACKUP_MARK, BackupError};
use crate::disk::{open_plain, sync_dir};
use crate::record::ContentHash;

const MARK_TEXT: &str = "A backup made by can-sync: `can-sync restore` makes a data directory of it. It holds the keys of the node.\n\
                         There is a whole one as soon as there is manifest.json.\n";
const LOCK: &str = "lock";
const TMP: &str = "tmp";
const STATES: &str = "states";
const CONTENT: &str = "content";
/// What a file system puts into its own root.
const FOREIGN: &str = "lost+found";

/// A directory for backups, held by this process.
#[derive(Debug)]
pub(super) struct BackupDir {
    pub(super) path: PathBuf,
    /// The backup that is in it.
    pub(super) former: Option<Manifest>,
    _lock: Option<File>,
}

impl BackupDir {
    /// Takes a directory to make a backup of `source` in.
    pub(super) fn take(path: &Path, source: &Path) -> Result<Self, BackupError> {
        check_apart(path, source)?;
        let failed = |action: &'static str, at: &Path| {
            let at = at.to_owned();
            move |error: io::Error| BackupError::io(action, &at, &error)
        };
        if !path.is_dir() {
            if path.symlink_metadata().is_ok() {
                return Err(BackupError::io("use", path, &io::ErrorKind::NotADirectory.into()));
            }
            make_dir(path).map_err(failed("make", path))?;
        }
        let mark = path.join(BACKUP_MARK);
        if !mark.is_file() {
            if let Some(found) = anything_in(path).map_err(failed("look into", path))? {
                return Err(BackupError::new(
                    format!("'{}' is not empty and holds no backup: there is '{found}'", path.display()),
                    "name an empty directory, one that does not exist, or one with an earlier backup of this node",
                ));
            }
            let mut file = private(&mark).map_err(failed("write", &mark))?;
            file.write_all(MARK_TEXT.as_bytes())
                .and_then(|()| file.sync_all())
                .map_err(failed("write", &mark))?;
            sync_dir(path).map_err(failed("fsync", path))?;
        }
        let lock = path.join(LOCK);
        let held = private(&lock).map_err(failed("open", &lock))?;
        match held.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy(path)),
            Err(TryLockError::Error(error)) => return Err(BackupError::io("lock", &lock, &error)),
        }
        let former = Manifest::read(path)?;
        let dir = Self { path: path.to_owned(), former, _lock: Some(held) };
        for name in [STATES, CONTENT, TMP] {
            let place = path.join(name);
            if place.symlink_metadata().is_ok_and(|meta| !meta.is_dir()) {
                return Err(BackupError::io("use", &place, &io::ErrorKind::NotADirectory.into()));
            }
        }
        // Of runs that were killed.
        dir.drop_states(dir.former.as_ref().map(|former| former.state.clone()).as_deref())
            .map_err(failed("empty", &path.join(STATES)))?;
        let tmp = dir.tmp();
        remove_dir(&tmp).and_then(|()| make_dir(&tmp)).map_err(failed("empty", &tmp))?;
        Ok(dir)
    }

    /// Takes a directory to read the backup that is in it.
    pub(super) fn open(path: &Path) -> Result<(Self, Manifest), BackupError> {
        let none = |problem: &str| {
            BackupError::new(
                format!("there is no backup in '{}': {problem}", path.display()),
                "name the directory that `can-sync backup` was given",
            )
        };
        if !path.is_dir() {
            return Err(none("it is no directory"));
        }
        // Where nothing can be written, nobody changes it.
        let lock = File::open(path.join(LOCK)).ok();
        if lock.as_ref().is_some_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))) {
            return Err(busy(path));
        }
        let problem = if path.join(BACKUP_MARK).is_file() {
            "none was ever completed"
        } else {
            "no manifest.json is in it"
        };
        let manifest = Manifest::read(path)?.ok_or_else(|| none(problem))?;
        let dir = Self { path: path.to_owned(), former: Some(manifest.clone()), _lock: lock };
        Ok((dir, manifest))
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.path.join(TMP)
    }

    pub(super) fn state(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn content(&self, hash: ContentHash) -> PathBuf {
        let name = hash.to_string();
        self.path.join(CONTENT).join(&name[..2]).join(&name[2..4]).join(name)
    }

    /// Makes the directory of the next state; its name, relative to the backup.
    pub(super) fn new_state(&self) -> io::Result<String> {
        let states = self.path.join(STATES);
        make_dir(&states)?;
        let mut last = 0;
        for entry in fs::read_dir(&states)? {
            let number = entry?.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or(0);
            last = last.max(number);
        }
        let name = format!("{STATES}/{}", last + 1_u64);
        DirBuilder::new().mode(0o700).create(self.path.join(&name))?;
        Ok(name)
    }

    /// Makes the names of a state's files durable, and its own.
    pub(super) fn settle(&self, state: &str) -> io::Result<()> {
        sync_dir(&self.state(state))?;
        sync_dir(&self.path.join(STATES))?;
        sync_dir(&self.path)
    }

    /// Removes all states but this one.
    fn drop_states(&self, kept: Option<&str>) -> io::Result<()> {
        let states = self.path.join(STATES);
        if !states.is_dir() {
            return Ok(());
        }
        for entry in fs::read_dir(states)? {
            let path = entry?.path();
            if kept.is_none_or(|kept| path != self.state(kept)) {
                remove_dir(&path)?;
            }
        }
        Ok(())
    }

    /// Removes what belongs to no state but this one, and to no content but these; how many contents.
    pub(super) fn sweep(&self, state: &str, contents: &HashSet<ContentHash>) -> io::Result<u64> {
        self.drop_states(Some(state))?;
        remove_dir(&self.tmp())?;
        let mut removed = 0;
        for entry in walk(&self.path.join(CONTENT))? {
            let hash: Option<ContentHash> =
                entry.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            if hash.is_some_and(|hash| !contents.contains(&hash) && entry == self.content(hash)) {
                fs::remove_file(&entry)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// The files two directories down.
fn walk(contents: &Path) -> io::Result<Vec<PathBuf>> {
    let mut level = if contents.is_dir() { vec![contents.to_owned()] } else { Vec::new() };
    for _ in 0..3 {
        let mut next = Vec::new();
        for dir in level.iter().filter(|path| path.symlink_metadata().is_ok_and(|meta| meta.is_dir())) {
            for entry in fs::read_dir(dir)? {
                next.push(entry?.path());
            }
        }
        level = next;
    }
    Ok(level)
}

fn busy(path: &Path) -> BackupError {
    BackupError::new(
        format!("another process makes or reads a backup in '{}'", path.display()),
        "wait until it is done",
    )
}

/// One name of what is in a directory, if there is something.
fn anything_in(path: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name != FOREIGN {
            return Ok(Some(name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

/// Whether a directory is there, and nothing in it.
pub(super) fn is_empty(path: &Path) -> io::Result<bool> {
    anything_in(path).map(|found| found.is_none())
}

/// Neither may be in the other: a backup of a backup grows with each one, and what is removed there is removed here.
pub(super) fn check_apart(backup: &Path, data_dir: &Path) -> Result<(), BackupError> {
    let real = |path: &Path| real_path(path).map_err(|error| BackupError::io("find", path, &error));
    let (backup_real, data_real) = (real(backup)?, real(data_dir)?);
    if backup_real.starts_with(&data_real) || data_real.starts_with(&backup_real) {
        return Err(BackupError::new(
            format!(
                "'{}' and the data directory '{}' lie in one another",
                backup.display(),
                data_dir.display()
            ),
            "name a directory apart from it, best on another disk",
        ));
    }
    Ok(())
}

/// Where a path leads, also if its end does not exist yet.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut missing = Vec::new();
    let mut known = path.as_path();
    loop {
        match fs::canonicalize(known) {
            Ok(real) => return Ok(missing.iter().rev().fold(real, |path: PathBuf, name| path.join(name))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (Some(parent), Some(name)) = (known.parent(), known.file_name()) else {
                    return Err(error);
                };
                missing.push(name.to_owned());
                known = parent;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Opens a file for the owner's eyes only, making it if it is not there.
pub(super) fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Makes a directory and those above it, for the owner's eyes only.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes a file; it may be gone already.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes a directory with all that is in it; it may be gone already.
pub(super) fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Copies a small file, durably and for the owner's eyes only.
pub(super) fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = open_plain(from)?;
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut source, &mut target)?;
    target.sync_all()
}

/// What is in the manifest's place, for errors.
pub(super) fn manifest_path(dir: &Path) -> PathBuf {
    dir.join(MANIFEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_directory_lies_in_the_other_by_whatever_name() {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        fs::create_dir_all(data.join("below")).unwrap();
        std::os::unix::fs::symlink(&data, home.path().join("link")).unwrap();
        for inside in ["data", "data/new", "data/below", "data/a/b", "link/new", "data/below/../new", "."] {
            assert!(check_apart(&home.path().join(inside), &data).is_err(), "{inside}");
            assert!(check_apart(&data, &home.path().join(inside)).is_err(), "{inside}");
        }
        for apart in ["data2", "other/data", "dat"] {
            assert_eq!(check_apart(&home.path().join(apart), &data), Ok(()), "{apart}");
        }
    }

    #[test]
    fn a_directory_with_something_else_in_it_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let (data, dir) = (home.path().join("data"), home.path().join("backup"));
        fs::create_dir_all(&data).unwrap();
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("mine"), "x").unwrap();
        let error = BackupDir::take(&dir, &data).unwrap_err();
        assert!(error.message.contains("'mine'"), "{error:?}");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        fs::remove_file(dir.join("mine")).unwrap();
        fs::create_dir(dir.join(FOREIGN)).unwrap();
        let held = BackupDir::take(&dir, &data).unwrap();
        assert_eq!(BackupDir::take(&dir, &data).unwrap_err(), busy(&dir));
        assert!(BackupDir::open(&dir).is_err());
        drop(held);
        assert!(BackupDir::open(&dir).unwrap_err().message.contains("none was ever completed"));
        BackupDir::take(&dir, &data).unwrap();
        assert!(BackupDir::take(&dir.join("mine"), &data).is_ok(), "one that is to be made");
    }
}
