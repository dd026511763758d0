//! Making files under a temporary name: content, owner, mode, times.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};

use super::held::{Descent, HeldDir, split};
use super::journal::{FolderJournal, JournalNote, NoteStep};
use super::opened::Poured;
use super::own::{NoteId, OwnPath};
use super::stat::RawStat;
#[cfg(target_os = "linux")]
use super::writing::SYNC_EACH_MAX;
use super::writing::{NewContent, WriteError, WriteOrder};
use super::{FolderDir, HookPoint};
use crate::entry::EntryFile;

/// Reads a file from its start, whoever else reads from the same handle: several files of a batch may have one content.
struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A file that is made but not in its place.
pub(super) struct MadeFile<'a> {
    pub(super) order: &'a WriteOrder<'a>,
    pub(super) file: &'a EntryFile,
    pub(super) note: JournalNote,
    pub(super) temporary: OwnPath,
    pub(super) dir: HeldDir,
    pub(super) name: String,
    /// What is there, as it is to be replaced.
    pub(super) old: Option<RawStat>,
    pub(super) made_dirs: usize,
    pub(super) made: Option<(File, RawStat)>,
}

impl MadeFile<'_> {
    pub(super) fn making(&self) -> String {
        self.temporary.making().split().1.to_owned()
    }

    pub(super) fn ready(&self) -> &str {
        self.temporary.split().1
    }
}

impl FolderDir {
    /// Finds the place. `None` where the disk shows something else than what was planned by.
    pub(super) fn prepare<'a>(
        &self,
        order: &'a WriteOrder<'a>,
        now_ms: u64,
    ) -> Result<Option<MadeFile<'a>>, WriteError> {
        let failed = |error| WriteError::Failed(order.name.clone(), error);
        let blocked = |why: String| WriteError::Blocked(order.name.clone(), why);
        let Some(file) = &order.entry.file else { return Err(blocked("it is removed".to_owned())) };
        let (directory, name) = split(order.name.as_str());
        // Over nothing: a directory that is gone is made. Over a file: it is gone as well.
        let (descent, made_dirs) = self.descend_written(directory, order.over.is_none()).map_err(failed)?;
        let dir = match descent {
            Descent::Open(dir) => dir,
            Descent::Missing { .. } => return Ok(None),
            Descent::Blocked { component, .. } => {
                return Err(blocked(format!("{component} is no directory")));
            }
            Descent::Unmounted(mount) => {
                return Err(blocked(format!("nothing is mounted on {mount}, but something was")));
            }
        };
        let id = NoteId::random();
        let note = JournalNote {
            id,
            step: NoteStep::Write,
            entry: order.entry.clone(),
            over: order.over.cloned(),
            name: order.name.clone(),
            temporary: Some(OwnPath::temporary(&dir.path, id)),
            trash: OwnPath::trashed(&dir, id, now_ms, name),
            at_ms: now_ms,
        };
        let temporary = OwnPath::temporary(&dir.path, id);
        let mut made = MadeFile {
            order,
            file,
            note,
            temporary,
            name: name.to_owned(),
            old: None,
            made_dirs,
            made: None,
            dir,
        };
        let done = self.check_place(&mut made);
        if !matches!(done, Ok(true)) {
            self.undo_dirs(&made);
        }
        Ok(done?.then_some(made))
    }

    /// Whether the place is as it was planned by.
    fn check_place(&self, made: &mut MadeFile<'_>) -> Result<bool, WriteError> {
        let order = made.order;
        let failed = |error| WriteError::Failed(order.name.clone(), error);
        let found = self.find(&made.dir, &made.name).map_err(failed)?;
        match (order.over, found) {
            (None, Some(_)) | (Some(_), None) => Ok(false),
            (None, None) => match self.twins(&made.dir, &made.name).map_err(failed)?.pop() {
                Some(twin) => Err(WriteError::Twin(order.name.clone(), twin)),
                None => Ok(true),
            },
            (Some(over), Some((name, old))) => {
                if !Self::may_be(&made.dir, &old, over) {
                    return Ok(false);
                }
                // The trash has to be there before anything needs it.
                self.open_trash(&made.dir.mount).map_err(failed)?;
                (made.name, made.old) = (name, Some(old));
                Ok(true)
            }
        }
    }

    pub(super) fn undo_dirs(&self, made: &MadeFile<'_>) {
        self.remove_empty(&made.dir.path, made.made_dirs).ok();
    }

    /// Makes the temporary file.
    pub(super) fn make(&self, making: &mut MadeFile<'_>, reserve_bytes: u64) -> Result<(), WriteError> {
        let order = making.order;
        let failed = |error: io::Error| {
            use io::ErrorKind::{QuotaExceeded, StorageFull};
            let is_full = [StorageFull, QuotaExceeded].contains(&error.kind());
            let name = order.name.clone();
            if is_full { WriteError::NoRoom(name) } else { WriteError::Failed(name, error) }
        };
        self.at(HookPoint::Making).map_err(failed)?;
        let flags = OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::CLOEXEC);
        // Who may read the old file may read the new one, and nobody else at any time.
        let mode = match (making.old, making.file.executable) {
            (Some(_), _) => 0o600,
            (None, true) => 0o777,
            (None, false) => 0o666,
        };
        let opened = rustix::fs::openat(&making.dir, making.making(), flags, Mode::from_raw_mode(mode));
        let mut file = File::from(opened.map_err(|error| failed(error.into()))?);
        match self.fill_made(order.content, &mut file, making, reserve_bytes).map_err(failed)? {
            None => return Err(WriteError::NoRoom(order.name.clone())),
            Some(poured) if poured.hash != making.file.target => {
                return Err(WriteError::WrongContent(order.name.clone()));
            }
            Some(poured) if poured.bytes != making.file.size => {
                return Err(WriteError::WrongSize(order.name.clone(), making.file.size, poured.bytes));
            }
            Some(_) => {}
        }
        let stat = Self::dress(&file, making).map_err(failed)?;
        making.made = Some((file, stat));
        self.at(HookPoint::Made).map_err(failed)
    }

    /// Writes the content; `None` where it would go into the reserve.
    fn fill_made(
        &self,
        content: NewContent<'_>,
        file: &mut File,
        making: &MadeFile<'_>,
        reserve_bytes: u64,
    ) -> io::Result<Option<Poured>> {
        if let NewContent::File(source) = content
            && self.clone_file(source, file)
        {
            return Ok(Some(self.hash_rest(file)?));
        }
        let free = crate::disk::free_of(&rustix::fs::fstatvfs(&making.dir)?).unwrap_or(u64::MAX);
        let size = match content {
            NewContent::File(source) => source.metadata()?.len(),
            NewContent::Bytes(bytes) => bytes.len() as u64,
        };
        if free < size.saturating_add(reserve_bytes) {
            return Ok(None);
        }
        let poured = match content {
            NewContent::File(source) => self.pour(&mut FromStart { file: source, at: 0 }, file)?,
            NewContent::Bytes(mut bytes) => self.pour(&mut bytes, file)?,
        };
        Ok(Some(poured))
    }

    /// Owner, mode and time.
    fn dress(file: &File, making: &MadeFile<'_>) -> io::Result<RawStat> {
        if let Some(old) = making.old {
            let (owner, group) = (Uid::from_raw(old.owner.0), Gid::from_raw(old.owner.1));
            let now = RawStat::of(file)?;
            // The file is the user's all the same where its owner may not be given away. What its group may do is for that group alone.
            let has_group = now.owner == old.owner
                || rustix::fs::fchown(file, Some(owner), Some(group)).is_ok()
                || rustix::fs::fchown(file, None, Some(group)).is_ok();
            let kept = if has_group || !making.dir.traits.has_modes { 0o666 } else { 0o606 };
            let plain = old.mode & kept;
            let reads = plain & 0o444;
            let mode = if making.file.executable { plain | (reads >> 2) | 0o100 } else { plain };
            let mode = Mode::from_raw_mode(mode);
            match rustix::fs::fchmod(file, mode) {
                // Some file systems have no modes.
                Err(_) if !making.dir.traits.has_modes => {}
                done => done?,
            }
        }
        let ms = i64::try_from(making.file.mtime_ms).unwrap_or(i64::MAX);
        let nanos = (ms % 1000) * 1_000_000;
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: ms / 1000, tv_nsec: nanos },
        };
        match rustix::fs::futimens(file, &times) {
            // Those without owners may not let everybody set a time; the row has what the disk says.
            Err(_) if !making.dir.traits.has_modes => {}
            done => done?,
        }
        RawStat::of(file)
    }

    /// What came of a file that is not put in its place: nothing is left of it.
    pub(super) fn unmake(
        &self,
        making: &MadeFile<'_>,
        journal: &dyn FolderJournal,
        why: WriteError,
    ) -> WriteError {
        // Only ever ours.
        let is_gone = making.dir.remove(&making.making()).is_ok();
        self.undo_dirs(making);
        if is_gone {
            journal.forget(&[making.note.id]).ok();
        }
        why
    }

    pub(super) fn sync_made(made: &[(usize, MadeFile<'_>)]) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        // Some file systems in user space never hear of a sync of all.
        if made.len() > SYNC_EACH_MAX && made.iter().all(|(_, made)| made.dir.traits.has_inodes) {
            let mut done = std::collections::HashSet::new();
            for (_, made) in made {
                if done.insert(made.dir.key.device) {
                    rustix::fs::syncfs(made.dir.as_fd())?;
                }
            }
            return Ok(());
        }
        for (_, made) in made {
            if let Some((file, _)) = &made.made {
                file.sync_all()?;
            }
        }
        Ok(())
    }
}
