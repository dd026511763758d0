//! Directories below a folder's root, opened without following symbolic links: neither one that was there nor one that is put in the
//! place of a directory in between.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::super::MountPoint;
use super::stat::{DeviceKey, FileKind, FsTraits, RawStat};
use super::{FolderDir, HookPoint};
use crate::entry::composed;

/// Most names of one directory: about 100 MB while it is looked at.
const NAMES_MAX: usize = 1_000_000;
/// How often opening is tried again where somebody renames directories meanwhile.
const RACES_MAX: u32 = 8;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory of the folder, open.
#[derive(Debug)]
pub(super) struct HeldDir {
    fd: OwnedFd,
    /// From the root, as the disk has it; empty for the root.
    pub(super) path: String,
    pub(super) mount: MountPoint,
    pub(super) key: DeviceKey,
    pub(super) traits: FsTraits,
}

impl AsFd for HeldDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// How far a path leads.
#[derive(Debug)]
pub(super) enum Descent {
    Open(HeldDir),
    /// The directory that lacks the next component.
    Missing {
        at: HeldDir,
        component: String,
    },
    /// Something that is no directory.
    Blocked {
        at: HeldDir,
        component: String,
        kind: FileKind,
    },
    /// It was a mount point, and is none now.
    Unmounted(MountPoint),
}

impl Descent {
    /// The directory, if the path leads to one.
    ///
    /// # Errors
    /// A file system that was there is not: nothing can be said.
    pub(super) fn opened(self) -> io::Result<Option<HeldDir>> {
        match self {
            Self::Open(dir) => Ok(Some(dir)),
            Self::Missing { .. } | Self::Blocked { .. } => Ok(None),
            Self::Unmounted(mount) => {
                Err(io::Error::other(format!("nothing is mounted on {mount}, but something was")))
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct ListedName {
    pub(super) name: Box<[u8]>,
    /// Where the directory itself tells.
    pub(super) kind: Option<FileKind>,
}

/// Joins a directory's path and a name.
pub(super) fn below(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

/// The directory of a path, and the last component.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn is_at_or_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl HeldDir {
    /// Makes the names in it durable, as far as its file system can.
    pub(super) fn sync(&self) -> io::Result<()> {
        crate::disk::sync_open_dir(&File::from(self.fd.try_clone()?))
    }

    /// What stands at a name; `None` if nothing does.
    pub(super) fn stat(&self, name: &str) -> io::Result<Option<RawStat>> {
        match RawStat::at(self, name.as_bytes()) {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(self, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Every name that it has, its own and its parent's left out. More than [`NAMES_MAX`] are an error.
    pub(super) fn list(&self) -> io::Result<Vec<ListedName>> {
        let mut names = Vec::new();
        // Reads through a description of its own, so that two may read at a time.
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            if names.len() == NAMES_MAX {
                return Err(io::Error::other(format!("the directory has more than {NAMES_MAX} names")));
            }
            names.push(ListedName { name: name.into(), kind: FileKind::of(entry.file_type()) });
        }
        Ok(names)
    }
}

impl FolderDir {
    pub(super) fn held_root(&self) -> io::Result<HeldDir> {
        let fd = self.root.try_clone()?;
        let (mount, key) = (MountPoint::new(), self.root_stat.key);
        Ok(HeldDir { fd, path: String::new(), mount, key, traits: self.traits_of(key, &self.root) })
    }

    fn traits_of(&self, key: DeviceKey, dir: &OwnedFd) -> FsTraits {
        let mut known = self.traits.lock();
        *known.entry(key.device).or_insert_with(|| FsTraits::of(dir))
    }

    /// Opens a directory by its path from the root.
    pub(super) fn descend(&self, path: &str) -> io::Result<Descent> {
        self.at(HookPoint::Descending)?;
        if path.is_empty() {
            return Ok(Descent::Open(self.held_root()?));
        }
        if let Some(fd) = self.open_at_once(path) {
            let key = RawStat::of(&fd)?.key;
            if key == self.root_stat.key {
                if let Some(lost) = self.known_mounts.iter().find(|mount| is_at_or_below(path, mount)) {
                    return Ok(Descent::Unmounted(lost.clone()));
                }
                let (path, mount, traits) = (path.to_owned(), MountPoint::new(), self.traits_of(key, &fd));
                return Ok(Descent::Open(HeldDir { fd, path, mount, key, traits }));
            }
        }
        // Through mount points, or it does not lead there: step by step, to know where and why.
        let mut at = self.held_root()?;
        for component in path.split('/') {
            let step = self.step(at, component)?;
            let Descent::Open(next) = step else { return Ok(step) };
            at = next;
        }
        Ok(Descent::Open(at))
    }

    #[cfg(target_os = "linux")]
    fn open_at_once(&self, path: &str) -> Option<OwnedFd> {
        use rustix::fs::ResolveFlags;
        let resolve =
            ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
        for _ in 0..RACES_MAX {
            if !self.abilities.openat2 {
                return None;
            }
            match rustix::fs::openat2(&self.root, path, DIRECTORY, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return opened.ok(),
            }
        }
        None
    }

    #[cfg(not(target_os = "linux"))]
    fn open_at_once(&self, _: &str) -> Option<OwnedFd> {
        None
    }

    /// Opens a directory in one that is open.
    fn step(&self, at: HeldDir, component: &str) -> io::Result<Descent> {
        let component = component.to_owned();
        let Some(stat) = at.stat(&component)? else { return Ok(Descent::Missing { at, component }) };
        if stat.kind != FileKind::Directory {
            return Ok(Descent::Blocked { at, component, kind: stat.kind });
        }
        let fd = rustix::fs::openat(&at, component.as_str(), DIRECTORY, Mode::empty())?;
        let stat = RawStat::of(&fd)?;
        let path = below(&at.path, &component);
        let is_mount = stat.key != at.key;
        if !is_mount && self.known_mounts.contains(&path) {
            return Ok(Descent::Unmounted(path));
        }
        let traits = self.traits_of(stat.key, &fd);
        let mount = if is_mount { path.clone() } else { at.mount };
        Ok(Descent::Open(HeldDir { fd, path, mount, key: stat.key, traits }))
    }

    /// As [`descend`](Self::descend), also by names that are written otherwise (NFC, NFD); makes what is missing if it is told to. Says how
    /// many directories it made.
    pub(super) fn descend_written(&self, path: &str, makes: bool) -> io::Result<(Descent, usize)> {
        let first = self.descend(path)?;
        if !matches!(first, Descent::Missing { .. }) || (!makes && path.is_ascii()) {
            return Ok((first, 0));
        }
        let (mut at, mut made) = (self.held_root()?, 0);
        for component in path.split('/') {
            let mut next = self.step(at, component)?;
            if let Descent::Missing { at: above, component } = next {
                if let Some(twin) = self.written_otherwise(&above, &component)? {
                    next = self.step(above, &twin)?;
                } else if makes {
                    // Two directories that are one to other machines, or to people: a look would leave one of them alone.
                    if let Some(twin) = self.twins(&above, &component)?.first() {
                        let why = format!(
                            "{} is there, which differs from {component} in case alone",
                            below(&above.path, twin)
                        );
                        return Err(io::Error::other(why));
                    }
                    let all = Mode::RWXU.union(Mode::RWXG).union(Mode::RWXO);
                    match rustix::fs::mkdirat(&above, component.as_str(), all) {
                        Ok(()) => made += 1,
                        Err(Errno::EXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                    above.sync()?;
                    self.note_name(&above.path, &component);
                    next = self.step(above, &component)?;
                } else {
                    next = Descent::Missing { at: above, component };
                }
            }
            let Descent::Open(inner) = next else { return Ok((next, made)) };
            at = inner;
        }
        Ok((Descent::Open(at), made))
    }

    /// The name in a directory that is the same path to entries, but written otherwise.
    fn written_otherwise(&self, dir: &HeldDir, name: &str) -> io::Result<Option<String>> {
        if name.is_ascii() {
            return Ok(None);
        }
        let wanted = composed(name);
        Ok(self.twins(dir, name)?.into_iter().find(|twin| composed(twin) == wanted))
    }

    /// What stands at a name, and how the directory writes it.
    pub(super) fn find(&self, dir: &HeldDir, name: &str) -> io::Result<Option<(String, RawStat)>> {
        if let Some(stat) = dir.stat(name)? {
            return Ok(Some((name.to_owned(), stat)));
        }
        let Some(twin) = self.written_otherwise(dir, name)? else { return Ok(None) };
        Ok(dir.stat(&twin)?.map(|stat| (twin, stat)))
    }

    /// Removes directories from this one upwards, as long as they are empty, and at most `most`. The root stays, and mount points do.
    pub(super) fn remove_empty(&self, directory: &str, most: usize) -> io::Result<()> {
        let mut path = directory;
        for _ in 0..most {
            if path.is_empty() || self.known_mounts.contains(path) {
                return Ok(());
            }
            let (above, name) = split(path);
            let Descent::Open(at) = self.descend(above)? else { return Ok(()) };
            // Refused unless it is empty, and where another file system is mounted on it.
            if rustix::fs::unlinkat(&at, name, AtFlags::REMOVEDIR).is_err() {
                return Ok(());
            }
            path = above;
        }
        Ok(())
    }
}
