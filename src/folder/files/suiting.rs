//! Whether a directory suits as a folder, before it is one: which file system it is on, and how much room its files need.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use walkdir::{DirEntry, WalkDir};

use super::FolderDir;
use super::ignoring::IgnoreRules;
use super::known::{ChangedBy, KnownFileSystem};
use super::marker::FolderMarker;
use crate::entry::FolderId;
use crate::entry::path::is_own;

/// How long files are counted before a directory is bound; what was counted until then is a lower bound.
const COUNT_WITHIN: Duration = Duration::from_secs(8);

/// FUSE is many things; of these, other machines change the files.
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
    let known = KnownFileSystem::at(dir)?;
    if known.changed_by == ChangedBy::Others {
        return Some(known.name.to_owned());
    }
    let device = fs::metadata(dir).ok().filter(|_| known.changed_by == ChangedBy::Anybody)?.dev();
    distant_fuse(&fs::read_to_string("/proc/self/mountinfo").ok()?, device)
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
    let is_taken = |found: &DirEntry| found.depth() == 0 || is_taken(&rules, dir, found);
    for found in WalkDir::new(dir).into_iter().filter_entry(is_taken) {
        if Instant::now() > until {
            break;
        }
        let Some((found, meta)) =
            found.ok().and_then(|found| found.metadata().ok().map(|meta| (found, meta)))
        else {
            continue;
        };
        if meta.is_file() {
            needed.files += 1;
            needed.bytes = needed.bytes.saturating_add(meta.len());
            if sample.is_none() && meta.len() > 0 {
                sample = Some(found.into_path());
            }
        }
    }
    needed.shares_blocks = shares_blocks(dir, sample.as_deref(), temporary);
    needed
}

/// Whether it is a file or a directory that is not left out. Links are neither.
fn is_taken(rules: &IgnoreRules, dir: &Path, found: &DirEntry) -> bool {
    let kind = found.file_type();
    let is_plain = kind.is_file() || kind.is_dir();
    let path = found.path().strip_prefix(dir).ok().and_then(Path::to_str);
    is_plain
        && found.file_name().to_str().is_some_and(|name| !is_own(name))
        && path.is_some_and(|path| !rules.is_left_out(path, kind.is_dir()))
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
