//! Putting versions in their places.
//!
//! Many at a time: one commit of the journal, and one order to the disk to keep what was written, for a whole batch. Nothing is in its
//! place before its content is durable under a temporary name.

use std::collections::HashMap;
#[cfg(target_os = "linux")]
use std::collections::HashSet;
use std::fs::File;
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::AsFd as _;
use std::thread::ScopedJoinHandle;

use super::super::AgreedRow;
use super::held::HeldDir;
use super::journal::{FolderJournal, JournalNote};
use super::making::MadeFile;
use super::placing::ActEnd;
use super::{FolderDir, HookPoint};
use crate::disk::free_of;
use crate::entry::{EntryPath, EntryRecord};

/// Files that are acted on at a time, where the process may open enough: each takes two descriptors. What a batch costs is the disk's
/// word that it is durable, four times, however many files there are.
const BATCH_MAX: usize = 512;
/// Of the descriptors that the process may have, a quarter is for a batch.
const DESCRIPTORS_SHARE: u64 = 8;
/// Threads that make files: one is kept busy by the file system's search for free places alone.
const MAKERS_MAX: usize = 4;
/// Fewer files are not worth a thread.
const FILES_PER_MAKER: usize = 32;
/// As many files or directories or fewer are made durable one by one; more with all else that the file system has to write.
#[cfg(target_os = "linux")]
pub(super) const SYNC_EACH_MAX: usize = 8;

#[derive(Clone, Copy, Debug)]
pub(crate) enum NewContent<'a> {
    /// A file of the store's, from its beginning. Blocks are shared where they can be; it is never linked.
    File(&'a File),
    Bytes(&'a [u8]),
}

/// A version that is to be put in its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteOrder<'a> {
    /// The version. It is live.
    pub(crate) entry: &'a EntryRecord,
    /// What the file that makes way has to be.
    pub(crate) over: Option<&'a AgreedRow>,
    /// Whether the file goes to [`EntryPath::aside`].
    pub(crate) is_aside: bool,
    /// The name on the disk: as a look said, else that of the entry.
    pub(crate) name: &'a EntryPath,
    pub(crate) content: NewContent<'a>,
}

/// Why a version is not in its place. The disk is as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// Too little room, or it would go into the reserve.
    #[error("there is no room for {0}")]
    NoRoom(EntryPath),
    /// Something on the way is no directory, or was a mount point and is none now.
    #[error("cannot write {0}: {1}")]
    Blocked(EntryPath, String),
    /// A name that is the same to people, or to other machines, is taken.
    #[error("cannot write {0}: {1} is there, which differs in case or in the way it is written alone")]
    Twin(EntryPath, String),
    #[error("the store gave another content for {0}")]
    WrongContent(EntryPath),
    /// Whoever wrote the version lied, or erred.
    #[error("{0} is to have {1} bytes, and its content has {2}")]
    WrongSize(EntryPath, u64, u64),
    /// The system, or the journal.
    #[error("cannot write {0}: {1}")]
    Failed(EntryPath, #[source] io::Error),
}

type WriteResult = Result<ActEnd, WriteError>;

impl FolderDir {
    /// Puts versions in their places. What it returns is in the order of `orders`. `reserve_bytes` of the disk are left free.
    pub(crate) fn write(
        &self,
        orders: &[WriteOrder<'_>],
        journal: &dyn FolderJournal,
        (now_ms, reserve_bytes): (u64, u64),
    ) -> Vec<WriteResult> {
        let batches = orders.chunks(batch_size());
        batches.flat_map(|batch| self.write_batch(batch, journal, now_ms, reserve_bytes)).collect()
    }

    fn write_batch(
        &self,
        orders: &[WriteOrder<'_>],
        journal: &dyn FolderJournal,
        now_ms: u64,
        reserve_bytes: u64,
    ) -> Vec<WriteResult> {
        let failed = |order: &WriteOrder<'_>, error| WriteError::Failed(order.name.clone(), error);
        let mut ends: Vec<Option<WriteResult>> = orders.iter().map(|_| None).collect();
        let mut found = Vec::new();
        for (at, order) in orders.iter().enumerate() {
            match self.prepare(order, now_ms) {
                Ok(Some(place)) => found.push((at, place)),
                Ok(None) => ends[at] = Some(Ok(ActEnd::LookAgain)),
                Err(error) => ends[at] = Some(Err(error)),
            }
        }
        let notes: Vec<JournalNote> = found.iter().map(|(_, place)| place.note.clone()).collect();
        let written = journal.note(&notes).and_then(|()| self.at(HookPoint::Noted));
        if let Err(error) = written {
            for (at, place) in found.drain(..) {
                self.undo_dirs(&place);
                ends[at] = Some(Err(failed(place.order, said_again(&error))));
            }
        }
        let mut made = Vec::new();
        for (at, making, done) in self.make_all(found, reserve_bytes) {
            match done {
                Ok(()) => made.push((at, making)),
                Err(error) => ends[at] = Some(Err(self.unmake(&making, journal, error))),
            }
        }
        let (synced, mut dirs) = (Self::sync_made(&made), Vec::new());
        let mut forgotten = Vec::new();
        for (at, mut made) in made {
            let order = made.order;
            if let Err(error) = &synced {
                ends[at] = Some(Err(self.unmake(&made, journal, failed(order, said_again(error)))));
                continue;
            }
            let end = self.place(&mut made, journal, now_ms).map_err(|error| failed(order, error));
            if matches!(end, Ok(ActEnd::LookAgain)) {
                self.undo_dirs(&made);
                forgotten.push(made.note.id);
            }
            if let Ok(ActEnd::Done { .. }) = end {
                self.note_name(&made.dir.path, &made.name);
            }
            ends[at] = Some(end);
            dirs.push(made.dir);
        }
        // Renames are durable before any row says so.
        let is_over = orders.iter().any(|order| order.over.is_some());
        if let Err(error) = if is_over { self.sync_out(&dirs) } else { sync_dirs(&dirs) } {
            forgotten.clear();
            for (end, order) in ends.iter_mut().zip(orders) {
                if matches!(end, Some(Ok(ActEnd::Done { .. }))) {
                    *end = Some(Err(failed(order, said_again(&error))));
                }
            }
        }
        // A note that stays is looked at again at the next start, and finds nothing.
        journal.forget(&forgotten).ok();
        let missing = |order: &WriteOrder<'_>| failed(order, io::Error::other("nothing came of it"));
        ends.into_iter().zip(orders).map(|(end, order)| end.unwrap_or_else(|| Err(missing(order)))).collect()
    }
}

/// A file with its place in the batch.
type Making<'a> = (usize, MadeFile<'a>);

impl FolderDir {
    /// Makes the temporary files of a batch, on several threads where there are many; they come back in their order.
    fn make_all<'a>(
        &self,
        found: Vec<Making<'a>>,
        reserve_bytes: u64,
    ) -> Vec<(usize, MadeFile<'a>, Result<(), WriteError>)> {
        let make = |(at, mut making): Making<'a>| {
            let done = self.make(&mut making, reserve_bytes);
            (at, making, done)
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let makers = cores.min(MAKERS_MAX).min(found.len() / FILES_PER_MAKER);
        // Each looks at the free room alone, so that where it is scarce, one file is made after the other.
        let bytes = found.iter().fold(reserve_bytes, |sum, (_, making)| sum.saturating_add(making.file.size));
        let has_room = |(_, making): &Making<'a>| {
            rustix::fs::fstatvfs(&making.dir).is_ok_and(|fs| free_of(&fs).is_none_or(|free| free >= bytes))
        };
        if makers < 2 || !found.iter().all(has_room) {
            return found.into_iter().map(make).collect();
        }
        // Neighbours stay together: files of one directory are made one after the other anyway.
        let per_maker = found.len().div_ceil(makers);
        let (mut parts, mut found) = (Vec::with_capacity(makers), found.into_iter().peekable());
        while found.peek().is_some() {
            parts.push(found.by_ref().take(per_maker).collect::<Vec<_>>());
        }
        std::thread::scope(|scope| {
            let make = &make;
            let makers =
                parts.into_iter().map(|part| scope.spawn(move || part.into_iter().map(make).collect()));
            let makers: Vec<ScopedJoinHandle<'_, Vec<_>>> = makers.collect();
            let parts = makers.into_iter().map(|maker| match maker.join() {
                Ok(part) => part,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            parts.flatten().collect()
        })
    }
}

/// How many files are acted on at a time.
pub(super) fn batch_size() -> usize {
    let open = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let most = open.map_or(BATCH_MAX as u64, |open| open / DESCRIPTORS_SHARE);
    usize::try_from(most).unwrap_or(BATCH_MAX).clamp(1, BATCH_MAX)
}

/// An error once more, for another of those that met it.
pub(super) fn said_again(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

/// Makes the names in directories durable.
pub(super) fn sync_dirs<'a>(dirs: impl IntoIterator<Item = &'a HeldDir>) -> io::Result<()> {
    let mut different: HashMap<&str, &HeldDir> = HashMap::new();
    for dir in dirs {
        different.entry(&dir.path).or_insert(dir);
    }
    #[cfg(target_os = "linux")]
    if different.len() > SYNC_EACH_MAX && different.values().all(|dir| dir.traits.has_inodes) {
        let mut done = HashSet::new();
        for dir in different.values() {
            if done.insert(dir.key.device) {
                rustix::fs::syncfs(dir.as_fd())?;
            }
        }
        return Ok(());
    }
    different.values().try_for_each(|dir| dir.sync())
}
