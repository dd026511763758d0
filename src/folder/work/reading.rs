//! Files on their way into the store: copied on several threads, in bounded pieces.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempPath;

use super::contents::{SMALL_BYTES_MAX, io_error};
use super::{FolderWork, WorkError};
use crate::disk::free_bytes;
use crate::entry::{EntryHash, EntryPath, EntryRecord};
use crate::folder::files::{CopiedFile, CopyError, FolderDir, OwnPath, WholeFile};
use crate::folder::{FileStat, ReadFile};
use crate::record::ContentHash;

/// Files that are read at once, and bytes of their copies.
pub(super) const READS_MAX: usize = 512;
const READ_BYTES_MAX: u64 = 256 << 20;
/// Threads that read and hash. More than that many disks do not feed.
const READERS_MAX: usize = 4;

pub(super) struct FileCopy {
    pub(super) stat: FileStat,
    pub(super) hash: ContentHash,
    pub(super) bytes: u64,
    pub(super) copy: CopyPlace,
    /// When copying began.
    pub(super) at_ms: u64,
    pub(super) filename: String,
}

pub(super) enum CopyPlace {
    Memory(Vec<u8>),
    Beside(File, TempPath),
}

struct CopyOrder {
    hash: EntryHash,
    name: EntryPath,
    size: u64,
    executable: bool,
    at_ms: u64,
    into: PathBuf,
}

impl CopyOrder {
    fn carry_out(&self, dir: &FolderDir) -> Result<FileCopy, CopyError> {
        let (executable, filename) = (Some(self.executable), file_name(&self.name));
        if self.size > SMALL_BYTES_MAX {
            let copied = dir.copy(&self.name, &self.into, executable)?;
            return FileCopy::beside(copied, &self.into, self.at_ms, filename);
        }
        let WholeFile { bytes, stat, hash } = dir.read_whole(&self.name, SMALL_BYTES_MAX, executable)?;
        let (length, copy) = (bytes.len() as u64, CopyPlace::Memory(bytes));
        Ok(FileCopy { stat, hash, bytes: length, copy, at_ms: self.at_ms, filename })
    }
}

impl FileCopy {
    fn beside(copied: CopiedFile, into: &Path, at_ms: u64, filename: String) -> Result<Self, CopyError> {
        let CopiedFile { file, stat, hash, bytes, .. } = copied;
        let path = TempPath::try_from_path(into)
            .map_err(|error| CopyError::Copy(filename.clone(), into.display().to_string(), error))?;
        Ok(Self { stat, hash, bytes, copy: CopyPlace::Beside(file, path), at_ms, filename })
    }
}

impl FolderWork {
    /// Copies files into the store. Those that changed meanwhile are left for later.
    pub(super) fn read_all(&mut self, hashes: Vec<EntryHash>) -> Result<BTreeSet<EntryHash>, WorkError> {
        let (mut done, hashes) = self.hash_moved(hashes)?;
        let mut rest = hashes.into_iter().peekable();
        while rest.peek().is_some() {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            let before = rest.len();
            while let Some(hash) =
                rest.next_if(|_| batch.is_empty() || (batch.len() < READS_MAX && bytes < READ_BYTES_MAX))
            {
                if let Some(order) = self.copy_order(hash) {
                    bytes += order.size;
                    batch.push(order);
                }
            }
            let (mut reads, mut taken) = (Vec::new(), Vec::new());
            let copied = copy_files(self.held()?, &batch);
            for (order, copied) in batch.iter().zip(copied) {
                match copied {
                    // Not what was planned by: it was written to since.
                    Ok(copied)
                        if self.file_of(order.hash).is_some_and(|seen| seen.stat != copied.stat)
                            && self.is_being_written(order.hash, &copied.stat) =>
                    {
                        self.put_off(order.hash, None);
                    }
                    Ok(copied) => {
                        let read = ReadFile { hash: copied.hash, at_ms: copied.at_ms };
                        reads.push((order.hash, copied.stat, read));
                        taken.push(copied);
                    }
                    Err(CopyError::Stopped) => return Err(WorkError::Stopped),
                    Err(CopyError::Changed(_) | CopyError::NotThere(_)) => self.put_off(order.hash, None),
                    Err(error @ (CopyError::Unreadable(..) | CopyError::Copy(..))) => {
                        self.put_off(order.hash, Some(error.to_string()));
                    }
                }
            }
            let own = self.own_of_reader(&reads)?;
            let shared = taken.into_iter().zip(&reads).filter(|(_, (hash, ..))| !own.contains(hash));
            let kept = self.ingest(shared.map(|(copied, _)| copied).collect())?;
            for (hash, stat, read) in reads {
                if kept.contains(&read.hash) || own.contains(&hash) {
                    self.reads.insert(hash, (stat, read));
                    done.insert(hash);
                } else {
                    let path = self.observed.get(&hash).map_or("a file", |seen| seen.path.as_str());
                    self.put_off(hash, Some(format!("the store did not take the content of {path}")));
                }
            }
            self.meter.add((before - rest.len()) as u64, bytes);
            self.check_stop()?;
        }
        Ok(done)
    }

    /// Files whose contents the folder never had at their paths, where nothing of this machine is to show elsewhere: the store would
    /// hand them on. Of a folder that came by a ticket all: its contents come through its library, and are nobody's own here.
    fn own_of_reader(
        &self,
        reads: &[(EntryHash, FileStat, ReadFile)],
    ) -> Result<BTreeSet<EntryHash>, WorkError> {
        if self.is_foreign() {
            return Ok(reads.iter().map(|(hash, ..)| *hash).collect());
        }
        let mut own = BTreeSet::new();
        for (hash, _, read) in reads.iter().filter(|_| self.is_reader()) {
            let (entry, row) = (self.entries.get(hash), self.agreed.get(hash));
            let now = [entry.and_then(EntryRecord::target), row.and_then(|row| row.entry.target())];
            let is_known = now.contains(&Some(read.hash))
                || match entry {
                    Some(entry) => self.history(&entry.path)?.iter().any(|v| v.target() == Some(read.hash)),
                    None => false,
                };
            own.extend((!is_known).then_some(*hash));
        }
        Ok(own)
    }

    /// Large files that look like those that had other names: the store has their contents, so that they are not copied. Those, and all
    /// that are still to be copied.
    fn hash_moved(
        &mut self,
        hashes: Vec<EntryHash>,
    ) -> Result<(BTreeSet<EntryHash>, Vec<EntryHash>), WorkError> {
        let looks = |stat: &FileStat| (stat.inode, stat.size, stat.mtime_ns);
        let mut known: Option<HashSet<(u64, u64, i64)>> = None;
        let (mut done, mut rest) = (BTreeSet::new(), Vec::new());
        for hash in hashes {
            let is_moved = self.file_of(hash).is_some_and(|file| {
                let rows = || self.agreed.values().filter_map(|row| Some(looks(&row.disk.as_ref()?.stat)));
                file.stat.size > SMALL_BYTES_MAX
                    && file.stat.inode != 0
                    && !self.agreed.contains_key(&hash)
                    && known.get_or_insert_with(|| rows().collect()).contains(&looks(&file.stat))
            });
            if is_moved
                && let Some(order) = self.copy_order(hash)
                && let Ok((stat, content)) = self.held()?.hash_in_place(&order.name, Some(order.executable))
                && self.are_here([content])?.contains(&content)
            {
                self.reads.insert(hash, (stat, ReadFile { hash: content, at_ms: order.at_ms }));
                done.insert(hash);
            } else {
                rest.push(hash);
            }
            self.check_stop()?;
        }
        Ok((done, rest))
    }

    /// `None` for what is no file, and where there is no room.
    fn copy_order(&mut self, hash: EntryHash) -> Option<CopyOrder> {
        let FileStat { size, executable, .. } = self.file_of(hash)?.stat;
        let name = self.name_on_disk(hash)?;
        let room = self.context.store.check_room(size).map_err(|error| error.to_string());
        if let Err(why) = room.and_then(|()| self.check_copy_room(size).map_err(|error| error.to_string())) {
            self.put_off(hash, Some(format!("{name} is not taken in: {why}")));
            return None;
        }
        Some(CopyOrder { hash, name, size, executable, at_ms: self.now_ms(), into: self.temporary_path() })
    }

    /// Whether a copy finds room where copies lie for a moment, without what the disk is to keep free.
    pub(super) fn check_copy_room(&self, bytes: u64) -> Result<(), WorkError> {
        if bytes <= SMALL_BYTES_MAX {
            return Ok(());
        }
        let failed = io_error("cannot copy a file");
        let free = free_bytes(&self.context.temporary).unwrap_or(u64::MAX);
        if free < bytes.saturating_add(self.context.reserve_bytes) {
            return Err(failed(io::ErrorKind::StorageFull.into()));
        }
        Ok(())
    }

    /// The same for a file in the trash.
    pub(super) fn copy_trashed(
        &mut self,
        trash: &OwnPath,
        name: &EntryPath,
    ) -> Result<Option<FileCopy>, WorkError> {
        let (into, at_ms) = (self.temporary_path(), self.now_ms());
        let copied = self.held()?.copy_trashed(trash, &into);
        match copied.and_then(|copied| FileCopy::beside(copied, &into, at_ms, file_name(name))) {
            Ok(copied) => Ok(Some(copied)),
            Err(CopyError::Stopped) => Err(WorkError::Stopped),
            Err(error) => {
                self.problem(error.to_string());
                Ok(None)
            }
        }
    }

    fn temporary_path(&self) -> PathBuf {
        self.context.temporary.join(format!("{:032x}", rand::random::<u128>()))
    }
}

fn file_name(path: &EntryPath) -> String {
    let path = path.as_str();
    path.rsplit_once('/').map_or(path, |(_, name)| name).to_owned()
}

/// Copies files on several threads; what comes is in their order.
fn copy_files(dir: &FolderDir, orders: &[CopyOrder]) -> Vec<Result<FileCopy, CopyError>> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let readers = cores.min(READERS_MAX).min(orders.len());
    if readers < 2 {
        return orders.iter().map(|order| order.carry_out(dir)).collect();
    }
    let next = AtomicUsize::new(0);
    let read = || {
        let mut read = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(order) = orders.get(at) else { return read };
            read.push((at, order.carry_out(dir)));
        }
    };
    let mut all = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..readers).map(|_| scope.spawn(read)).collect();
        let read = readers.into_iter().map(|reader| match reader.join() {
            Ok(read) => read,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        read.flatten().collect::<Vec<_>>()
    });
    all.sort_unstable_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, copied)| copied).collect()
}
