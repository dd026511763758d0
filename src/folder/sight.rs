//! What is known of one path at one moment: on the disk, in the table of what was agreed, and in the store. The plan decides by these
//! three alone.

use serde::{Deserialize, Serialize};

use crate::entry::{EntryAuthor, EntryFile, EntryPath, EntryRecord, FolderId};
use crate::record::ContentHash;

/// A file that was written less than this before it was read may change once more without showing it: some file systems keep times in
/// steps of two seconds.
pub(crate) const SETTLED_AFTER_MS: u64 = 2_000;

/// What `lstat` says of a regular file, as far as it may change with the content. Without device numbers, which change at every boot.
/// Where inodes and change times mean nothing (network file systems) they are 0: a file that is moved over another of the same size and
/// time is not noticed there. Where nobody may execute anything, `executable` is what
/// was agreed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct FileStat {
    pub(crate) size: u64,
    /// When the content was written last, in nanoseconds since the Unix epoch.
    pub(crate) mtime_ns: i64,
    /// When anything about the file changed last.
    pub(crate) ctime_ns: i64,
    /// Number of the file in its file system.
    pub(crate) inode: u64,
    pub(crate) executable: bool,
}

impl FileStat {
    /// Whether nobody wrote to the file between the two: a rename changes the change time, and nothing else.
    pub(crate) fn is_same_but_renamed(&self, other: &Self) -> bool {
        Self { ctime_ns: 0, ..*self } == Self { ctime_ns: 0, ..*other }
    }

    /// Whether a write after `at_ms` would show: in the time of the last write, unless that was set to one that is still to come; or in
    /// that of the last change, which nobody sets.
    pub(crate) fn is_settled(&self, at_ms: u64) -> bool {
        let until_ms = i64::try_from(at_ms.saturating_sub(SETTLED_AFTER_MS)).unwrap_or(i64::MAX);
        let latest_ns = until_ms.saturating_mul(1_000_000);
        self.mtime_ns <= latest_ns || (self.ctime_ns != 0 && self.ctime_ns <= latest_ns)
    }
}

/// Which file system a path lies on, in terms that a boot does not change: empty for that of the folder's root, else the directory where
/// it is mounted. A file is gone only from where it was.
pub(crate) type MountPoint = String;

/// What a look found at a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum DiskSight {
    /// Nothing can be said: the folder's marker is missing, the listing of a directory above did not come to its end, `lstat` failed with
    /// anything but ENOENT, a component is a symlink, or a directory is no mount point although rows say that it was one.
    Unknown,
    /// The user's rules leave it out.
    Ignored,
    /// A symlink, a device, a socket, a fifo; or a file whose name differs from another's in case alone. Named in status.
    Foreign,
    /// Its directory was listed to the end without it, and `lstat` says ENOENT; or a directory above is gone in the same way.
    Gone(MountPoint),
    /// A directory stands there, and no file under the name [`EntryPath::aside`].
    Directory(MountPoint),
    /// A regular file: at its own name; or aside, if none is there. A name on disk is that of an entry unless [`EntryPath::plain`] says
    /// which one it stands for. Where both names have a file, the plain one is the entry's, and the other is taken out, as for a
    /// removal: to the trash, if the store has it and a version names it, else it is [salvaged](super::salvage).
    File(SeenFile),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SeenFile {
    /// What `lstat` says.
    pub(crate) stat: FileStat,
    pub(crate) mount: MountPoint,
    /// Whether it has the name [`EntryPath::aside`] because a directory has its own.
    pub(crate) is_aside: bool,
    /// What [`FolderAction::Read`](super::FolderAction::Read) found, if that was done in this look and no row was written since: where
    /// neither inode nor change time mean anything, another file may look the same.
    pub(crate) read: Option<ReadFile>,
}

/// What a file was found to hold by copying it first. The content is in the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ReadFile {
    /// SHA-256 of the copy.
    pub(crate) hash: ContentHash,
    /// When copying began, by this machine's clock.
    pub(crate) at_ms: u64,
}

/// Where a file is that shows what was agreed. Kept as JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct OnDisk {
    /// As it was when the content was read, or written.
    #[serde(flatten)]
    pub(crate) stat: FileStat,
    pub(crate) mount: MountPoint,
    /// Whether it has the name [`EntryPath::aside`].
    #[serde(rename = "aside")]
    pub(crate) is_aside: bool,
    /// Whether a file that looks the same is the same. Else it is read again.
    #[serde(rename = "settled")]
    pub(crate) is_settled: bool,
    /// Whether the user left it out since: what became of it then is no removal, and the row alone is older than the file may be.
    #[serde(rename = "left_out", default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_left_out: bool,
}

/// A row of the table of what was agreed, kept in `agent.db`: the version that the disk showed last. Rows of removals stay, so that a file
/// that is put again after its removal is known as the user's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct AgreedRow {
    /// The version, whole: it is put again where the store forgot it.
    pub(crate) entry: EntryRecord,
    /// The file; `None` exactly where the version is a removal.
    pub(crate) disk: Option<OnDisk>,
}

impl AgreedRow {
    /// Of a removal that the disk shows.
    pub(crate) fn removed(entry: EntryRecord) -> Self {
        debug_assert!(!entry.is_live());
        Self { entry, disk: None }
    }

    /// Of a file that was read: `entry` has its content.
    pub(crate) fn read(entry: EntryRecord, file: &SeenFile, read: ReadFile) -> Self {
        debug_assert_eq!(entry.target(), Some(read.hash));
        let SeenFile { stat, ref mount, is_aside, .. } = *file;
        let is_settled = stat.is_settled(read.at_ms);
        Self {
            entry,
            disk: Some(OnDisk { stat, mount: mount.clone(), is_aside, is_settled, is_left_out: false }),
        }
    }

    /// Of a file that was written. `planned` is what the temporary file was once its content was hashed and its times were set, `placed`
    /// what the same descriptor says after the rename: nothing but the change time is taken from that one, for a program may have saved
    /// something since.
    pub(crate) fn written(
        entry: EntryRecord,
        planned: FileStat,
        placed: FileStat,
        (mount, is_aside): (MountPoint, bool),
        at_ms: u64,
    ) -> Self {
        let stat = FileStat { ctime_ns: placed.ctime_ns, ..planned };
        Self {
            entry,
            disk: Some(OnDisk {
                stat,
                mount,
                is_aside,
                is_settled: stat.is_settled(at_ms),
                is_left_out: false,
            }),
        }
    }

    /// The same, of a path that is left out from now on, or is not any more. Those of removals say nothing of that.
    pub(crate) fn left_out(&self, is_left_out: bool) -> Self {
        let disk = self.disk.as_ref().map(|disk| OnDisk { is_left_out, ..disk.clone() });
        Self { entry: self.entry.clone(), disk }
    }

    pub(crate) fn is_left_out(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.is_left_out)
    }

    /// Whether what an exchange or a rename to the trash brought out is what this row says; a hash is needed where its looks prove
    /// nothing.
    pub(crate) fn came_out(&self, out: FileStat, hash: Option<ContentHash>) -> CameOut {
        let looks_same = |disk: &OnDisk| disk.is_settled && disk.stat.is_same_but_renamed(&out);
        match (hash, &self.disk) {
            (Some(hash), Some(_)) if self.entry.target() == Some(hash) => CameOut::Agreed,
            (None, Some(disk)) if looks_same(disk) => CameOut::Agreed,
            (None, Some(_)) => CameOut::NeedsHash,
            (Some(_), Some(_)) | (_, None) => CameOut::Changed,
        }
    }
}

/// What was taken out of a folder, beside what was to be taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CameOut {
    /// It is what was agreed: the row of the new version is written, the old file stays in the trash.
    Agreed,
    /// It cannot be told before it is read.
    NeedsHash,
    /// Somebody saved something at the last moment: it is put back, and the path is looked at again.
    Changed,
}

/// What the store knows of a path.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StoreSight<'a> {
    /// The version that the folder has.
    pub(crate) entry: Option<&'a EntryRecord>,
    pub(crate) is_target_here: bool,
    /// Whether the content of the file on the disk is here: by its hash, if it was read; else by that which was agreed.
    pub(crate) is_shown_here: bool,
    /// Whether the store has the agreed version: as the one above, or in the entry's history.
    pub(crate) is_agreed_kept: bool,
    /// The newest version in the entry's history with the content that was read: the disk may show that one, where a crash came between
    /// the rename and the row, or where `agent.db` is older than the disk.
    pub(crate) shown_before: Option<&'a EntryRecord>,
}

/// In which directions a folder is kept alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum FolderMode {
    /// What changes here shows elsewhere, and the other way round.
    #[default]
    Both,
    /// Nothing is written to the disk.
    SendOnly,
    /// No entry is written: by ticket, or because the user wants it so.
    ReadOnly,
}

/// How the user wants this folder to be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct FolderRules {
    pub(crate) mode: FolderMode,
    /// Whether removals by others are left undone on this disk.
    pub(crate) ignores_removals: bool,
}

/// All that the plan of one path depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathSight<'a> {
    pub(crate) folder: FolderId,
    pub(crate) path: &'a EntryPath,
    pub(crate) disk: &'a DiskSight,
    pub(crate) agreed: Option<&'a AgreedRow>,
    pub(crate) store: StoreSight<'a>,
    /// Whether the folder has live entries below this path, so that its name has to be a directory.
    pub(crate) has_children: bool,
    /// What the user wants.
    pub(crate) rules: FolderRules,
    pub(crate) author: &'a EntryAuthor,
}

impl SeenFile {
    /// As an entry describes it, if its content is that.
    pub(super) fn described(&self, target: ContentHash) -> EntryFile {
        let mtime_ms = u64::try_from(self.stat.mtime_ns / 1_000_000).unwrap_or_default();
        let mtime_ms = mtime_ms.min((1 << 48) - 1);
        EntryFile { target, size: self.stat.size, mtime_ms, executable: self.stat.executable }
    }
}
