//! What the system says of a file, in the terms of folders.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType};

use super::super::FileStat;
use crate::entry::path::COMPONENT_BYTES_MAX;

const NANOS: i64 = 1_000_000_000;
const OWNER_EXECUTES: u32 = 0o100;

/// What stands at a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FileKind {
    File,
    Directory,
    Symlink,
    /// A named pipe.
    Fifo,
    Socket,
    /// A device, or something that this program does not know.
    Device,
}

impl FileKind {
    pub(super) fn of(file_type: FileType) -> Option<Self> {
        Some(match file_type {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice | FileType::BlockDevice => Self::Device,
            FileType::Unknown => return None,
        })
    }
}

/// Which file system something lies on, as of this boot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct DeviceKey {
    pub(super) device: u64,
    /// The mount, where the system tells.
    pub(super) mount: Option<u64>,
}

/// All that `lstat` says, as it says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RawStat {
    pub(super) kind: FileKind,
    pub(super) key: DeviceKey,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) mtime_ns: i64,
    pub(super) ctime_ns: i64,
}

impl RawStat {
    /// Of a name in a directory. Links are not followed, and nothing is mounted by asking.
    pub(super) fn at(dir: impl AsFd, name: &[u8]) -> io::Result<Self> {
        Self::ask(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Of what is open.
    pub(super) fn of(file: impl AsFd) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        return Self::ask(file.as_fd(), b"", AtFlags::EMPTY_PATH);
        #[cfg(not(target_os = "linux"))]
        return Ok(Self::from_stat(&rustix::fs::fstat(file)?));
    }

    #[cfg(target_os = "linux")]
    fn ask(dir: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> io::Result<Self> {
        use rustix::fs::StatxFlags;
        use rustix::io::Errno;
        let wanted = StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID);
        let said = match rustix::fs::statx(dir, name, flags.union(AtFlags::NO_AUTOMOUNT), wanted) {
            Err(Errno::NOSYS | Errno::PERM) => {
                return Ok(Self::from_stat(&rustix::fs::statat(dir, name, flags)?));
            }
            said => said?,
        };
        let has_mount = said.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        let nanos = |time: rustix::fs::StatxTimestamp| {
            time.tv_sec.saturating_mul(NANOS).saturating_add(i64::from(time.tv_nsec))
        };
        let kind = FileKind::of(FileType::from_raw_mode(said.stx_mode.into())).unwrap_or(FileKind::Device);
        Ok(Self {
            kind,
            key: DeviceKey {
                device: rustix::fs::makedev(said.stx_dev_major, said.stx_dev_minor),
                mount: has_mount.then_some(said.stx_mnt_id),
            },
            inode: said.stx_ino,
            size: said.stx_size,
            mode: said.stx_mode.into(),
            owner: (said.stx_uid, said.stx_gid),
            mtime_ns: nanos(said.stx_mtime),
            ctime_ns: nanos(said.stx_ctime),
        })
    }

    #[cfg(not(target_os = "linux"))]
    fn ask(dir: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> io::Result<Self> {
        Ok(Self::from_stat(&rustix::fs::statat(dir, name, flags)?))
    }

    /// Types and signs of these fields are another system's each.
    #[allow(
        clippy::unnecessary_cast,
        clippy::cast_sign_loss,
        clippy::cast_possible_wrap,
        trivial_numeric_casts
    )]
    fn from_stat(said: &rustix::fs::Stat) -> Self {
        let nanos = |secs: i64, nanos: i64| secs.saturating_mul(NANOS).saturating_add(nanos);
        Self {
            kind: FileKind::of(FileType::from_raw_mode(said.st_mode)).unwrap_or(FileKind::Device),
            key: DeviceKey { device: said.st_dev as u64, mount: None },
            inode: said.st_ino as u64,
            size: said.st_size as u64,
            mode: said.st_mode as u32,
            owner: (said.st_uid as u32, said.st_gid as u32),
            mtime_ns: nanos(said.st_mtime as i64, said.st_mtime_nsec as i64),
            ctime_ns: nanos(said.st_ctime as i64, said.st_ctime_nsec as i64),
        }
    }

    /// As folders keep it: without what its file system does not know. `agreed` says whether the file was executable when that was last
    /// known.
    pub(super) fn seen(&self, traits: FsTraits, agreed: Option<bool>) -> FileStat {
        let executes = self.mode & OWNER_EXECUTES != 0;
        FileStat {
            size: self.size,
            mtime_ns: self.mtime_ns,
            ctime_ns: if traits.has_inodes { self.ctime_ns } else { 0 },
            inode: if traits.has_inodes { self.inode } else { 0 },
            executable: if traits.has_modes { executes } else { agreed.unwrap_or(false) },
        }
    }

    /// Whether both are one file to which nobody wrote between the two: renaming does not count.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        let of = |stat: &Self| (stat.kind, stat.key.device, stat.inode, stat.size, stat.mtime_ns);
        of(self) == of(other)
    }

    /// Whether a name in a directory is where another file system begins. Directories of some file systems have another device than
    /// the files in them; their mount is the same.
    pub(super) fn is_mounted_on(&self, directory: DeviceKey) -> bool {
        match (self.kind, self.key.mount, directory.mount) {
            (FileKind::Directory, _, _) => self.key != directory,
            (_, Some(own), Some(above)) => own != above,
            (_, None, _) | (_, _, None) => false,
        }
    }
}

/// What a file system keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FsTraits {
    /// Whether inodes name files for longer than a mount, and change times are its own.
    pub(super) has_inodes: bool,
    /// Whether it is a file's own matter who may execute it.
    pub(super) has_modes: bool,
    pub(super) name_bytes_max: usize,
}

impl FsTraits {
    const LOCAL: Self = Self { has_inodes: true, has_modes: true, name_bytes_max: COMPONENT_BYTES_MAX };

    #[cfg(target_os = "linux")]
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss, reason = "another type on each architecture")]
    pub(super) fn of(dir: impl AsFd) -> Self {
        use super::known::KnownFileSystem;
        let Ok(said) = rustix::fs::fstatfs(dir) else { return Self::LOCAL };
        let known = KnownFileSystem::of(&said);
        // Some count characters, or say nothing.
        let longest = usize::try_from(said.f_namelen as u64).ok().filter(|longest| *longest > 0);
        Self {
            has_inodes: known.is_none(),
            has_modes: known.is_none_or(|known| known.has_modes),
            name_bytes_max: longest.map_or(COMPONENT_BYTES_MAX, |longest| longest.min(COMPONENT_BYTES_MAX)),
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn of(_: impl AsFd) -> Self {
        Self::LOCAL
    }
}
