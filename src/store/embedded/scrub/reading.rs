//! Reading contents at a pace.
//!
//! Of content in files each group is compared with its sum, which vouches for the same bytes as the hash does; where there is one
//! group alone, or the sums are not known, all of it is hashed, and the sums are kept. Whatever does not match is examined by its
//! hash before anything is made of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::super::EmbeddedStore;
use super::super::content::open_whole;
use super::super::incoming::blocking;
use super::super::rows;
use super::super::sums::{self, SUMS_PER_ROW, sums_in};
use super::state::{self, ScrubState};
use crate::disk::{SHORT_PATIENCE, patiently};
use crate::record::ContentHash;
use crate::store::groups::{GROUP_BYTES, GroupSum, group_count, group_range, group_sum};
use crate::store::scrub::{BusyProbe, ScrubSettings};
use crate::store::{StoreError, StoreResult};

/// For each second of work without anybody's asking, at least so many of rest: a quarter of one core at most.
const REST_SHARE: u32 = 3;
/// Longest sleep, so that a store that closes is not waited for.
const SLICE: Duration = Duration::from_millis(50);

/// How fast contents are read, and whether any more.
pub(in super::super) struct ReadThrottle {
    /// Bytes per second; 0 for as fast as it goes.
    rate: AtomicU64,
    /// Nobody asked for it: it waits for everybody.
    is_patient: bool,
    begun_ms: u64,
    interval: Duration,
    is_busy: BusyProbe,
    store: EmbeddedStore,
    stopped: AtomicBool,
    /// Bytes of the content that is being read.
    within: AtomicU64,
    next: Mutex<Instant>,
    waits_for: Mutex<Option<&'static str>>,
}

impl ReadThrottle {
    pub(super) fn new(state: &ScrubState, settings: &ScrubSettings, store: EmbeddedStore) -> Self {
        let now_ms = store.0.shared.clock.now_ms();
        let rate = if state.asked { state.bytes_per_sec.unwrap_or(0) } else { settings.bytes_per_sec };
        Self {
            rate: AtomicU64::new(rate),
            is_patient: !state.asked,
            begun_ms: state.begun_ms.unwrap_or(now_ms),
            interval: settings.interval,
            is_busy: Arc::clone(&settings.is_busy),
            store,
            stopped: AtomicBool::new(false),
            within: AtomicU64::new(0),
            next: Mutex::new(Instant::now()),
            waits_for: Mutex::default(),
        }
    }

    /// As fast as it goes, until it is stopped.
    pub(in super::super) fn unpaced(store: EmbeddedStore) -> Self {
        let asked = ScrubState { asked: true, ..ScrubState::default() };
        Self::new(&asked, &ScrubSettings::every(0, 0, Arc::new(|| false)), store)
    }

    pub(super) fn set_rate(&self, bytes_per_sec: Option<u64>) {
        if !self.is_patient {
            *self.next.lock() = Instant::now();
            self.rate.store(bytes_per_sec.unwrap_or(0), Ordering::Relaxed);
        }
    }

    pub(in super::super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.store.0.turns.is_closed()
    }

    /// Bytes that were read of a content that is not finished.
    pub(super) fn within_content(&self) -> u64 {
        self.within.load(Ordering::Relaxed)
    }

    pub(super) fn content_ends(&self) {
        self.within.store(0, Ordering::Relaxed);
    }

    pub(super) fn waits_for(&self) -> Option<&'static str> {
        *self.waits_for.lock()
    }

    /// Some bytes were read, which took so long. Waits until there may be more; an error says that it is stopped. Blocks.
    pub(in super::super) fn took(&self, bytes: u64, worked: Duration) -> io::Result<()> {
        self.within.fetch_add(bytes, Ordering::Relaxed);
        let rate = self.rate.load(Ordering::Relaxed);
        let mut pause = Duration::ZERO;
        if rate > 0 {
            let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
            let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            let mut next = self.next.lock();
            *next = (*next).max(Instant::now().checked_sub(worked).unwrap_or_else(Instant::now)) + takes;
            pause = next.saturating_duration_since(Instant::now());
        }
        if self.is_patient {
            pause = pause.max(worked * REST_SHARE);
        }
        self.rest(pause)?;
        self.wait_for_others()
    }

    fn rest(&self, pause: Duration) -> io::Result<()> {
        let (until, rate) = (Instant::now() + pause, self.rate.load(Ordering::Relaxed));
        loop {
            if self.is_stopped() {
                return Err(io::Error::other("the scrub is stopped"));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.rate.load(Ordering::Relaxed) != rate {
                return Ok(());
            }
            std::thread::sleep(left.min(SLICE));
        }
    }

    fn wait_for_others(&self) -> io::Result<()> {
        if !self.is_patient {
            return Ok(());
        }
        let is_overdue =
            || state::is_overdue(self.begun_ms, self.store.0.shared.clock.now_ms(), self.interval);
        let load = || {
            if self.store.0.shared.scrub.is_in_use() {
                return Some("the store is in use");
            }
            (self.is_busy)().then_some("contents come from other machines")
        };
        while let Some(why) = load().filter(|_| !is_overdue()) {
            self.set_waits_for(Some(why));
            self.rest(SLICE)?;
        }
        self.set_waits_for(None);
        Ok(())
    }

    fn set_waits_for(&self, why: Option<&'static str>) {
        *self.waits_for.lock() = why;
    }
}

pub(super) enum FileCheck {
    /// It is right, or what is wrong with it is noted.
    Done,
    /// It could not be read, and is not damaged for all that is known.
    Unreadable,
    /// It is in object storage by now.
    WentUp,
    Stopped,
}

/// What comparing a file with its sums says.
enum Compared {
    Right,
    /// Something is wrong, be it with the file or with the sums.
    Wrong,
    Unknown,
}

impl EmbeddedStore {
    pub(super) async fn check_file(
        &self,
        hash: ContentHash,
        size: u64,
        throttle: &Arc<ReadThrottle>,
    ) -> StoreResult<FileCheck> {
        let compared = self.compare(hash, size, throttle).await;
        if throttle.is_stopped() {
            return Ok(FileCheck::Stopped);
        }
        let examined = match compared? {
            Compared::Right => return Ok(FileCheck::Done),
            // What is there is paid for by the byte.
            Compared::Wrong | Compared::Unknown if self.is_object(hash).await? => {
                return Ok(FileCheck::WentUp);
            }
            Compared::Wrong | Compared::Unknown => self.examine_at(hash, Some(throttle)).await,
        };
        if throttle.is_stopped() {
            return Ok(FileCheck::Stopped);
        }
        let shared = &self.0.shared;
        match examined {
            Ok(_) => Ok(FileCheck::Done),
            // What cannot be decided about one file does not stop all others. Where all of them are away, there is nothing to check.
            Err(error @ StoreError::Io { .. }) if shared.read_only().is_none() => {
                tracing::warn!(%hash, %error, "a content cannot be checked now");
                Ok(FileCheck::Unreadable)
            }
            Err(error) => Err(error),
        }
    }

    async fn compare(
        &self,
        hash: ContentHash,
        size: u64,
        throttle: &Arc<ReadThrottle>,
    ) -> StoreResult<Compared> {
        if size <= GROUP_BYTES as u64 {
            return Ok(Compared::Unknown);
        }
        let path = self.0.shared.layout.content(hash);
        for row in 0..group_count(size).div_ceil(SUMS_PER_ROW as u64) {
            let count = sums_in(row, size);
            let read = move |conn: &Connection| sums::read(conn, hash, row, count);
            let Some(sums) = self.0.shared.readers.run("read the sums of a content", read).await? else {
                return Ok(Compared::Unknown);
            };
            let (path, throttle) = (path.clone(), Arc::clone(throttle));
            let is_right = blocking("check content", move || {
                // What cannot be read is examined.
                Ok(compare_row(&path, size, row, &sums, &throttle).unwrap_or(false))
            });
            if !is_right.await? {
                return Ok(Compared::Wrong);
            }
        }
        Ok(Compared::Right)
    }

    /// Checks small contents in the database.
    pub(super) async fn check_small(
        &self,
        small: Vec<(ContentHash, u64, i64)>,
        throttle: &Arc<ReadThrottle>,
    ) -> StoreResult {
        let bytes = small.iter().map(|(_, size, _)| size).sum();
        let read = move |conn: &Connection| {
            let began = Instant::now();
            let mut wrong = Vec::new();
            for (hash, _, id) in small {
                if rows::whole_inline_content(conn, id, hash)?.is_none() {
                    wrong.push(hash);
                }
            }
            Ok((wrong, began.elapsed()))
        };
        let (wrong, worked) = self.0.shared.readers.run("check small contents", read).await?;
        for hash in wrong {
            self.examine(hash).await?;
        }
        let throttle = Arc::clone(throttle);
        // That it is stopped is seen before the next one.
        blocking("pace the scrub", move || Ok(throttle.took(bytes, worked).ok())).await?;
        Ok(())
    }
}

/// Compares the groups of one row of sums.
fn compare_row(
    path: &Path,
    size: u64,
    row: u64,
    sums: &[GroupSum],
    throttle: &ReadThrottle,
) -> io::Result<bool> {
    let file = open_whole(path, size)?;
    let first = row * SUMS_PER_ROW as u64;
    // The disk is to be checked, and not what is in memory of it.
    let from = first * GROUP_BYTES as u64;
    forget_cached(&file, from, sums.len() as u64 * GROUP_BYTES as u64);
    let mut group_bytes = vec![0; GROUP_BYTES];
    for (group, sum) in (first..).zip(sums) {
        let began = Instant::now();
        let at = group_range(group, size);
        let length = at.end - at.start;
        let bytes = &mut group_bytes[..usize::try_from(length).unwrap_or(GROUP_BYTES)];
        patiently(&SHORT_PATIENCE, || file.read_exact_at(bytes, at.start))?;
        let is_right = group_sum(usize::try_from(group).unwrap_or(usize::MAX), bytes) == *sum;
        // Nor are others to lose what they have in memory.
        forget_cached(&file, at.start, length);
        if !is_right {
            return Ok(false);
        }
        throttle.took(length, began.elapsed())?;
    }
    Ok(true)
}

/// Has the system forget what it has of a file in memory, where it can.
pub(in super::super) fn forget_cached(file: &File, at: u64, length: u64) {
    #[cfg(target_os = "linux")]
    if let Some(length) = std::num::NonZeroU64::new(length) {
        // It is advice.
        let _ = rustix::fs::fadvise(file, at, Some(length), rustix::fs::Advice::DontNeed);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, at, length);
}
