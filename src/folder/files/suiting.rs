//! Whether a directory suits as a folder, before it is one: which file system it is on, and how much room its files need.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::FolderDir;
use super::ignoring::IgnoreRules;
use super::marker::FolderMarker;
use crate::entry::FolderId;
use crate::entry::path::is_own;

/// How long files are counted before a directory is bound; what was counted until then is a lower bound.
const COUNT_WITHIN: Duration = Duration::from_secs(8);

/// The names of file systems that other machines change, by the number that `statfs` gives them (`linux/magic.h`).
const DISTANT: [(u64, &str); 16] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x0bd0_0bd0, "Lustre"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x1983_0326, "BeeGFS"),
    (0x564c, "NCP"),
    (0x786f_4256, "vboxsf"),
    (0xbacb_acbc, "vmhgfs"),
];
/// FUSE is many things; of these, other machines change the files.
const FUSE: u64 = 0x6573_5546;
const DISTANT_FUSE: [&str; 19] = [
    "sshfs",
    "rclone",
    "s3fs",
    "goofys",
    "mount-s3",
    "gcsfuse",
    "blobfuse",
    "blobfuse2",
    "ossfs",
    "juicefs",
    "glusterfs",
    "ceph",
    "ceph-fuse",
    "curlftpfs",
    "davfs",
    "davfs2",
    "gvfsd-fuse",
    "google-drive-ocamlfuse",
    "onedriver",
];

/// What file system of other machines a directory is on, if it is on one: changes that they make are not heard of there.
pub(crate) fn distant_kind(dir: &Path) -> Option<String> {
    let magic = magic_of(dir)?;
    if let Some((_, name)) = DISTANT.iter().find(|(known, _)| *known == magic) {
        return Some((*name).to_owned());
    }
    let device = fs::metadata(dir).ok().filter(|_| magic == FUSE)?.dev();
    distant_fuse(&fs::read_to_string("/proc/self/mountinfo").ok()?, device)
}

#[cfg(target_os = "linux")]
#[allow(clippy::unnecessary_cast, clippy::cast_sign_loss, reason = "another type on each architecture")]
fn magic_of(dir: &Path) -> Option<u64> {
    rustix::fs::statfs(dir).ok().map(|said| said.f_type as u64 & 0xffff_ffff)
}

#[cfg(not(target_os = "linux"))]
fn magic_of(_: &Path) -> Option<u64> {
    None
}

/// The kind of the FUSE file system with this device, as the table of mounts has it, if it is one of other machines.
fn distant_fuse(mounts: &str, device: u64) -> Option<String> {
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(device.as_str()))?;
    let kind = line.split_once(" - ")?.1.split(' ').next()?;
    let is_distant =
        kind == "virtiofs" || kind.strip_prefix("fuse.").is_some_and(|name| DISTANT_FUSE.contains(&name));
    is_distant.then(|| kind.to_owned())
}

/// What taking all files of a directory into the store needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RoomNeeded {
    pub(crate) files: u64,
    /// Their bytes; at least, where counting took too long.
    pub(crate) bytes: u64,
    /// Whether the store's copies share the files' blocks, and need no room of their own.
    pub(crate) shares_blocks: bool,
}

/// Counts the files of a directory, but for those that are left out, and tries whether a copy of one in `temporary` shares its blocks.
/// Changes nothing in the directory.
pub(crate) fn room_needed(dir: &Path, temporary: &Path) -> RoomNeeded {
    let nobody = FolderMarker { folder: FolderId([0; 32]), binding: [0; 16] };
    let rules = FolderDir::open_unmarked(dir, nobody).ok().and_then(|dir| dir.ignore_rules().ok());
    let rules = rules.unwrap_or_default();
    let mut needed = RoomNeeded { files: 0, bytes: 0, shares_blocks: false };
    let mut sample = None;
    let until = Instant::now() + COUNT_WITHIN;
    let mut left = vec![PathBuf::new()];
    while let Some(below) = left.pop() {
        let Ok(listed) = fs::read_dir(dir.join(&below)) else { continue };
        for found in listed.filter_map(Result::ok) {
            if Instant::now() > until {
                left.clear();
                break;
            }
            let Some((name, meta)) = taken(&rules, &below, &found) else { continue };
            if meta.is_dir() {
                left.push(name);
            } else {
                needed.files += 1;
                needed.bytes = needed.bytes.saturating_add(meta.len());
                if sample.is_none() && meta.len() > 0 {
                    sample = Some(dir.join(name));
                }
            }
        }
    }
    needed.shares_blocks = shares_blocks(dir, sample.as_deref(), temporary);
    needed
}

/// A file or directory that is not left out: its path from the root.
fn taken(rules: &IgnoreRules, below: &Path, found: &fs::DirEntry) -> Option<(PathBuf, Metadata)> {
    let name = found.file_name().into_string().ok().filter(|name| !is_own(name))?;
    // Of links, the link itself.
    let meta = found.metadata().ok().filter(|meta| meta.is_file() || meta.is_dir())?;
    let path = below.join(name);
    let is_left_out = rules.is_left_out(path.to_str()?, meta.is_dir());
    (!is_left_out).then_some((path, meta))
}

/// Whether copies share blocks: tried with a file of the directory, else with one of our own, where both are on one device.
#[cfg(target_os = "linux")]
fn shares_blocks(dir: &Path, sample: Option<&Path>, temporary: &Path) -> bool {
    use std::io::Write as _;

    let share = |from: &File| {
        let into = tempfile::tempfile_in(temporary)?;
        rustix::fs::ioctl_ficlone(&into, from).map_err(std::io::Error::from)
    };
    if let Some(sample) = sample {
        return crate::disk::open_plain(sample).is_ok_and(|file| share(&file).is_ok());
    }
    let device = |path: &Path| fs::metadata(path).ok().map(|meta| meta.dev());
    let own = tempfile::tempfile_in(temporary).and_then(|mut file| {
        file.write_all(&[1; 4096])?;
        share(&file)
    });
    device(dir) == device(temporary) && own.is_ok()
}

#[cfg(not(target_os = "linux"))]
fn shares_blocks(_: &Path, _: Option<&Path>, _: &Path) -> bool {
    false
}

/// Bytes that are free where a directory is; `None` where the file system does not say.
pub(crate) fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok().filter(|stat| stat.f_blocks > 0)?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_of_other_machines_are_told_from_the_table_of_mounts() {
        let mounts = "36 25 0:31 / /mnt/nas rw,relatime shared:1 - fuse.sshfs kim@nas:/ rw,user_id=0\n\
                      37 25 0:32 / /mnt/crypt rw - fuse.gocryptfs /x rw\n38 25 0:33 / /host rw - virtiofs host rw\n";
        let kind = |minor| distant_fuse(mounts, rustix::fs::makedev(0, minor));
        assert_eq!(kind(31).as_deref(), Some("fuse.sshfs"));
        assert_eq!(kind(32), None);
        assert_eq!(kind(33).as_deref(), Some("virtiofs"));
        assert_eq!(kind(34), None);
        assert_eq!(distant_kind(Path::new("/proc")), None);
    }

    #[test]
    fn files_are_counted_but_for_those_that_are_left_out() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        for (name, bytes) in [("a", 3), ("d/e/b", 5), ("skip/c", 7), (".can-sync-trash/x", 9), ("n.tmp", 11)]
        {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![0; bytes]).unwrap();
        }
        std::os::unix::fs::symlink(dir.join("a"), dir.join("link")).unwrap();
        fs::write(dir.join(".can-syncignore"), "skip/\n*.tmp\n").unwrap();
        let needed = room_needed(dir, dir);
        assert_eq!((needed.files, needed.bytes), (2, 8));
    }
}
