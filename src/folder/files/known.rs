//! File systems that are not as a local disk is, by the number that `statfs` gives them (`linux/magic.h`).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::UNIX_EPOCH;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ChangedBy {
    /// This machine alone.
    Us,
    /// Other machines: their changes are not heard of.
    Others,
    /// That is another matter for each of them.
    Anybody,
}

/// A file system that lacks something. Of none of them is it sure that inodes name files for longer than a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct KnownFileSystem {
    magic: u64,
    pub(super) name: &'static str,
    pub(super) changed_by: ChangedBy,
    /// Whether it is a file's own matter who may execute it.
    pub(super) has_modes: bool,
}

const fn unix(magic: u64, name: &'static str, changed_by: ChangedBy) -> KnownFileSystem {
    KnownFileSystem { magic, name, changed_by, has_modes: true }
}

const fn plain(magic: u64, name: &'static str, changed_by: ChangedBy) -> KnownFileSystem {
    KnownFileSystem { magic, name, changed_by, has_modes: false }
}

const KNOWN: [KnownFileSystem; 21] = [
    unix(0x6969, "NFS", ChangedBy::Others),
    plain(0x517b, "SMB", ChangedBy::Others),
    plain(0xff53_4d42, "CIFS", ChangedBy::Others),
    plain(0xfe53_4d42, "SMB", ChangedBy::Others),
    unix(0x0102_1997, "9p", ChangedBy::Others),
    unix(0x00c3_6400, "Ceph", ChangedBy::Others),
    unix(0x5346_414f, "AFS", ChangedBy::Others),
    unix(0x6b41_4653, "AFS", ChangedBy::Others),
    unix(0x7375_7245, "Coda", ChangedBy::Others),
    unix(0x0bd0_0bd0, "Lustre", ChangedBy::Others),
    unix(0x0116_1970, "GFS2", ChangedBy::Others),
    unix(0x7461_636f, "OCFS2", ChangedBy::Others),
    unix(0x1983_0326, "BeeGFS", ChangedBy::Others),
    plain(0x564c, "NCP", ChangedBy::Others),
    plain(0x786f_4256, "vboxsf", ChangedBy::Others),
    plain(0xbacb_acbc, "vmhgfs", ChangedBy::Others),
    unix(0x6573_5546, "FUSE", ChangedBy::Anybody),
    plain(0x5346_544e, "NTFS", ChangedBy::Us),
    plain(0x7366_746e, "NTFS", ChangedBy::Us),
    plain(0x4d44, "FAT", ChangedBy::Us),
    plain(0x2011_bab0, "exFAT", ChangedBy::Us),
];

impl KnownFileSystem {
    /// The one that a path lies on, if it is one of these.
    #[cfg(target_os = "linux")]
    pub(super) fn at(path: &Path) -> Option<Self> {
        Self::of(&rustix::fs::statfs(path).ok()?)
    }

    /// No other system numbers them so.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn at(_: &Path) -> Option<Self> {
        None
    }

    /// The one that says this of itself.
    #[cfg(target_os = "linux")]
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss, reason = "another type on each architecture")]
    pub(super) fn of(said: &rustix::fs::StatFs) -> Option<Self> {
        let magic = said.f_type as u64 & 0xffff_ffff;
        KNOWN.into_iter().find(|known| known.magic == magic)
    }
}

/// What tells a file from a copy of it, for as long as it lies there; `None` where its file system does not say.
pub(crate) fn lasting_identity(path: &Path) -> Option<String> {
    let meta = fs::metadata(path).ok().filter(|_| KnownFileSystem::at(path).is_none())?;
    let made = meta.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    Some(format!("{}-{}", meta.ino(), made.as_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_number_of_its_own() {
        let mut numbers = KNOWN.map(|known| known.magic).to_vec();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), KNOWN.len());
    }
}
