//! Whether the disk has room, without asking it each time; and a little of it that is kept for deletions.
//!
//! What adds to the store has to leave the reserve as it is. Deleting is never refused for want of room, or nobody could
//! make any: where even the reserve is gone (other programs write to the disk, too), a file that was laid by for this
//! moment is removed.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use parking_lot::Mutex;

use crate::store::bucket::cache::ContentCache;
use crate::store::{StoreError, StoreResult};

/// How long an answer of the file system is believed.
const FRESH: Duration = Duration::from_secs(1);
/// Laid by for deletions: some dozens of them fit, and then a checkpoint of the database makes room for more.
const BALLAST_BYTES: u64 = 2 * 1024 * 1024;
/// With less room than this beyond the reserve, what waits in the WAL is brought home soon.
const TIGHT_BYTES: u64 = 32 * 1024 * 1024;
/// With less room than this, a deletion may fail.
const ROOM_TO_DELETE_BYTES: u64 = 256 * 1024;
/// How often it is tried to lay it by again.
const BALLAST_APART: Duration = Duration::from_mins(1);

/// Keeps count of the room left on the disk under `dir`, less a reserve.
#[derive(Debug)]
pub(super) struct Space {
    dir: PathBuf,
    reserve_bytes: u64,
    /// When we last asked, and what has been left since: the answer, less what was claimed after it.
    left: Mutex<Option<(Instant, u64)>>,
    /// What gives way where there is too little.
    cache: Option<Arc<ContentCache>>,
    /// That contents wait there to go elsewhere, for people.
    waiting: Mutex<Option<String>>,
    /// When it was last tried to lay the ballast by.
    laid_by_at: Mutex<Option<Instant>>,
}

impl Space {
    pub(super) fn new(dir: PathBuf, reserve_bytes: u64, cache: Option<Arc<ContentCache>>) -> Self {
        let (left, waiting, laid_by_at) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { dir, reserve_bytes, left, cache, waiting, laid_by_at }
    }

    /// What people are told besides where there is too little.
    pub(super) fn note_waiting(&self, sentence: Option<String>) {
        *self.waiting.lock() = sentence;
    }

    /// Says that `bytes` are about to be written.
    ///
    /// # Errors
    /// [`StoreError::Full`] if they would go into the reserve.
    pub(super) fn claim(&self, bytes: u64) -> StoreResult {
        let mut left = self.left.lock();
        let needed = bytes.saturating_add(self.reserve_bytes);
        let known = left.filter(|(asked, _)| asked.elapsed() < FRESH);
        let (asked, free) = match known {
            Some((asked, free)) if free >= needed => (asked, free),
            // Too little as we count it, but space may have been freed: ask before refusing.
            Some(_) | None => (Instant::now(), self.ask_for(needed)),
        };
        if free < needed {
            *left = None;
            return Err(StoreError::Full(format!(
                "{} more do not fit: {}",
                ByteSize(bytes),
                self.too_little(free)
            )));
        }
        *left = Some((asked, free - bytes));
        Ok(())
    }

    /// How much is free; where that is less than this, the cache gives way first.
    fn ask_for(&self, needed: u64) -> u64 {
        let free = self.ask();
        let Some(cache) = self.cache.as_ref().filter(|cache| free < needed && cache.bytes() > 0) else {
            return free;
        };
        cache.shrink(cache.bytes().saturating_sub(needed - free));
        self.ask()
    }

    fn too_little(&self, free: u64) -> String {
        let waiting = self.waiting.lock().as_ref().map(|waiting| format!("; {waiting}")).unwrap_or_default();
        format!(
            "the disk that holds {} has {} free, and {} are kept in reserve: free some space on it, or lower disk_reserve{waiting}",
            self.dir.display(),
            ByteSize(free),
            ByteSize(self.reserve_bytes),
        )
    }

    /// Why nothing more would be taken, if so.
    pub(super) fn shortage(&self) -> Option<String> {
        let free = self.ask_for(self.reserve_bytes);
        (free < self.reserve_bytes.max(ROOM_TO_DELETE_BYTES)).then(|| self.too_little(free))
    }

    /// Whether there is little room left, as far as is known without asking.
    pub(super) fn is_tight(&self) -> bool {
        let left = self.left.lock();
        left.is_none_or(|(_, free)| free < self.reserve_bytes.saturating_add(TIGHT_BYTES))
    }

    fn ballast(&self) -> PathBuf {
        self.dir.join("ballast")
    }

    /// Lays the ballast by, where there is room beyond the reserve.
    pub(super) fn lay_by(&self) {
        let mut tried = self.laid_by_at.lock();
        if tried.is_some_and(|tried| tried.elapsed() < BALLAST_APART) {
            return;
        }
        *tried = Some(Instant::now());
        let path = self.ballast();
        if path.exists() || self.ask() < self.reserve_bytes.saturating_add(2 * BALLAST_BYTES) {
            return;
        }
        if let Err(error) = write_ballast(&path) {
            tracing::debug!(%error, "no room is laid by for deletions");
            let _ = std::fs::remove_file(&path);
        }
    }

    /// Makes room for deletions where there is none; whether there was something to give away.
    pub(super) fn give_way(&self) -> bool {
        let given = std::fs::remove_file(self.ballast()).is_ok();
        if given {
            tracing::warn!("the disk is full: what was laid by for deletions is used");
        }
        given
    }

    /// As [`Self::give_way`], if the disk says that it is necessary.
    pub(super) fn make_way(&self) {
        if self.ask() < ROOM_TO_DELETE_BYTES {
            self.give_way();
        }
    }

    /// How much is free; more than anybody needs where the file system does not know: it says so when it is full.
    fn ask(&self) -> u64 {
        crate::disk::free_bytes(&self.dir).unwrap_or(u64::MAX)
    }
}

/// Written in full, with bytes that no file system makes a hole of or stores as less.
fn write_ballast(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut block = vec![0; 64 * 1024];
    let mut noise = blake3::Hasher::new().update(path.as_os_str().as_encoded_bytes()).finalize_xof();
    for _ in 0..BALLAST_BYTES / block.len() as u64 {
        noise.fill(&mut block);
        file.write_all(&block)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_never_given_away() {
        let dir = tempfile::tempdir().unwrap();
        let free = Space::new(dir.path().into(), 0, None).ask();
        assert!(Space::new(dir.path().into(), 0, None).claim(1).is_ok());
        let space = Space::new(dir.path().into(), free.saturating_mul(2), None);
        let refused = space.claim(1).unwrap_err();
        assert!(
            matches!(&refused, StoreError::Full(why) if why.contains("disk_reserve") && why.starts_with("1 B more")),
            "{refused}"
        );
    }

    #[test]
    fn claims_add_up_between_two_questions() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::new(dir.path().into(), 0, None);
        space.claim(1).unwrap();
        let before = space.left.lock().unwrap();
        space.claim(1000).unwrap();
        let after = space.left.lock().unwrap();
        assert!(after.0 != before.0 || after.1 == before.1 - 1000);
    }
}
