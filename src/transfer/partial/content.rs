//! One content on its way, from however many peers: a file, what of it is there, its senders, and its hash so far.
//!
//! Bytes are written at their place, whichever peer sends them; what is there already is left as it is. Behind the writers come
//! two jobs on blocking threads, each at most once at a time: one hashes the file from its beginning as far as there is
//! no gap, the other makes durable what was written and notes it in the ledger.

mod judge;
mod write_at;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use iroh::EndpointId;
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;

use self::judge::Suspect;
pub use self::judge::{Blame, Finished};
use self::write_at::write_at;
use super::ledger::Ledger;
use crate::disk;
use crate::record::ContentHash;
use crate::store::StoreError;
use crate::store::embedded::failure;
use crate::store::groups::GroupHasher;
use crate::transfer::ranges::Ranges;

/// Bytes written after which they are made durable, once the last such work is done. What a power cut costs is about
/// this; what a killed process costs is what it had not written.
const CHECKPOINT_BYTES: u64 = 2 * 1024 * 1024;
/// Bytes hashed at once.
const HASH_BYTES: usize = 1024 * 1024;
/// Where bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Giver {
    /// An earlier life of this process; nobody knows any more.
    Earlier,
    Peer(EndpointId),
}

#[derive(Debug)]
pub struct Partial {
    hash: ContentHash,
    size: u64,
    path: PathBuf,
    file: File,
    state: Mutex<PartialState>,
    ledger: Mutex<Ledger>,
    changed: Notify,
}

struct PartialState {
    /// Written, or being written.
    claimed: Ranges,
    written: Ranges,
    /// What the ledger says.
    durable: Ranges,
    from: BTreeMap<Giver, Ranges>,
    /// `None` while the job has it.
    hasher: Option<Box<Hasher>>,
    /// Whether the job runs that makes durable what was written.
    keeps: bool,
    /// The only one whose bytes are taken.
    only: Option<EndpointId>,
    /// Bytes of peers that were thrown away, to be compared with the right ones.
    suspects: Vec<Suspect>,
    /// Nothing is written any more: the file may be the store's.
    sealed: bool,
    failed: Option<StoreError>,
}

#[derive(Default)]
struct Hasher {
    sha256: Sha256,
    blake3: GroupHasher,
    done: u64,
}

impl std::fmt::Debug for PartialState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("written", &self.written)
            .field("sealed", &self.sealed)
            .finish_non_exhaustive()
    }
}

impl Partial {
    /// Opens the file at `path` where `durable` bytes are, or makes it. Blocks.
    pub(super) fn open(path: &Path, hash: ContentHash, size: u64, durable: Ranges) -> io::Result<Self> {
        let file =
            OpenOptions::new().create(true).read(true).write(true).truncate(false).mode(0o600).open(path)?;
        file.set_len(size)?;
        if !durable.is_empty() {
            // Some of it may have been written and no more when the last process ended.
            file.sync_data()?;
        }
        let ledger = Ledger::create(&ledger_path(path), hash, size, &durable)?;
        if let Some(dir) = path.parent() {
            disk::sync_dir(dir)?;
        }
        let from = (!durable.is_empty()).then(|| (Giver::Earlier, durable.clone()));
        let state = PartialState {
            claimed: durable.clone(),
            written: durable.clone(),
            durable,
            from: from.into_iter().collect(),
            hasher: Some(Box::default()),
            keeps: false,
            only: None,
            suspects: Vec::new(),
            sealed: false,
            failed: None,
        };
        let path = path.to_owned();
        let (state, ledger) = (Mutex::new(state), Mutex::new(ledger));
        Ok(Self { hash, size, path, file, state, ledger, changed: Notify::new() })
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, PartialState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Size of the whole.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What of `range` is not here.
    #[must_use]
    pub fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.state().claimed.missing(range)
    }

    /// Bytes that are here.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.state().written.len()
    }

    /// What a crash would leave.
    pub(super) fn durable(&self) -> Ranges {
        self.state().durable.clone()
    }

    /// Whether nothing can be done with it any more.
    pub(super) fn has_failed(&self) -> bool {
        self.state().failed.is_some()
    }

    /// Writes what of `chunks`, which begin at `offset`, is not here yet.
    ///
    /// # Errors
    /// [`StoreError::Full`] and [`StoreError::Io`], also for what was written by others before.
    pub async fn write(
        self: &Arc<Self>,
        offset: u64,
        chunks: Vec<Bytes>,
        peer: EndpointId,
    ) -> Result<(), StoreError> {
        let len: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let end = (offset + len).min(self.size);
        let gaps = {
            let mut state = self.state();
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            if state.sealed || state.only.is_some_and(|only| only != peer) {
                return Ok(());
            }
            let gaps = state.claimed.missing(offset..end);
            for gap in &gaps {
                state.claimed.insert(gap.clone());
            }
            gaps
        };
        if gaps.is_empty() {
            return Ok(());
        }
        let this = Arc::clone(self);
        let written = spawn_blocking(move || this.write_gaps(offset, &chunks, gaps, peer)).await;
        written.map_err(|error| self.explain(&io::Error::other(error)))?
    }

    fn write_gaps(
        self: &Arc<Self>,
        offset: u64,
        chunks: &[Bytes],
        gaps: Vec<Range<u64>>,
        peer: EndpointId,
    ) -> Result<(), StoreError> {
        let result = gaps.iter().try_for_each(|gap| write_at(&self.file, offset, chunks, gap));
        let noted = result.is_ok().then(|| gaps.iter().try_for_each(|gap| self.ledger().note(gap)));
        if let Some(Err(error)) = noted {
            tracing::debug!(%error, "a part of a partial content is not noted before it is durable");
        }
        let mut state = self.state();
        if let Err(error) = result {
            let error = self.explain(&error);
            state.failed.get_or_insert_with(|| error.clone());
            drop(state);
            self.changed.notify_waiters();
            return Err(error);
        }
        for gap in gaps {
            state.written.insert(gap.clone());
            state.from.entry(Giver::Peer(peer)).or_default().insert(gap);
        }
        self.follow(&mut state);
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Starts the jobs that have something to do. The caller is on a thread of the runtime's.
    fn follow(self: &Arc<Self>, state: &mut PartialState) {
        if state.hasher.as_ref().is_some_and(|hasher| hasher.done < state.written.prefix())
            && let Some(hasher) = state.hasher.take()
        {
            let this = Arc::clone(self);
            spawn_blocking(move || this.hash_along(hasher));
        }
        if state.written.len() - state.durable.len() >= CHECKPOINT_BYTES && !state.keeps {
            state.keeps = true;
            let this = Arc::clone(self);
            spawn_blocking(move || this.keep_along());
        }
    }

    /// Hashes as far as there is no gap.
    fn hash_along(self: Arc<Self>, mut hasher: Box<Hasher>) {
        let mut block = vec![0; HASH_BYTES];
        loop {
            let mut state = self.state();
            let until = state.written.prefix();
            if hasher.done >= until {
                // Also when bytes were thrown away meanwhile: the one that did that waits for it.
                state.hasher = Some(hasher);
                break;
            }
            drop(state);
            let len = (until - hasher.done).min(HASH_BYTES as u64);
            let block = &mut block[..usize::try_from(len).unwrap_or(HASH_BYTES)];
            if let Err(error) = self.file.read_exact_at(block, hasher.done) {
                let mut state = self.state();
                state.failed.get_or_insert_with(|| self.explain(&error));
                state.hasher = Some(hasher);
                break;
            }
            hasher.sha256.update(&*block);
            hasher.blake3.update(block);
            hasher.done += len;
        }
        self.changed.notify_waiters();
    }

    /// Makes durable what was written, for as long as there is enough of it.
    fn keep_along(self: Arc<Self>) {
        loop {
            let fresh = {
                let state = self.state();
                state.written.len() - state.durable.len()
            };
            let result = if fresh >= CHECKPOINT_BYTES { self.keep() } else { Ok(()) };
            let mut state = self.state();
            if let Err(error) = &result {
                state.failed.get_or_insert_with(|| self.explain(error));
            }
            if fresh < CHECKPOINT_BYTES || result.is_err() {
                state.keeps = false;
                break;
            }
        }
        self.changed.notify_waiters();
    }

    /// Makes durable what was written, then notes it.
    fn keep(&self) -> io::Result<()> {
        let (written, durable) = {
            let state = self.state();
            (state.written.clone(), state.durable.clone())
        };
        self.file.sync_data()?;
        let fresh: Vec<Range<u64>> = written.iter().flat_map(|range| durable.missing(range)).collect();
        self.ledger().append(&fresh, &written)?;
        self.state().durable = written;
        Ok(())
    }

    /// Waits until `condition` holds and takes what it gives.
    async fn wait_for<T>(&self, mut condition: impl FnMut(&mut PartialState) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = condition(&mut self.state()) {
                return found;
            }
            changed.await;
        }
    }

    /// Waits until both jobs have nothing to do, and takes their places; [`Self::hand_back`] ends that.
    async fn take_over(&self) -> Result<Box<Hasher>, StoreError> {
        self.wait_for(|state| {
            if let Some(error) = &state.failed {
                return Some(Err(error.clone()));
            }
            if state.hasher.is_none() || state.keeps || state.claimed != state.written {
                return None;
            }
            state.keeps = true;
            state.hasher.take().map(Ok)
        })
        .await
    }

    /// Lets the jobs go on from here.
    fn hand_back(&self, hasher: Box<Hasher>) {
        let mut state = self.state();
        (state.hasher, state.keeps) = (Some(hasher), false);
        drop(state);
        self.changed.notify_waiters();
    }

    /// The store did not take the whole: more may be done with it.
    pub(super) fn unseal(&self) {
        self.state().sealed = false;
    }

    /// Makes durable whatever was written, as at the end of the process.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn settle(self: &Arc<Self>) -> Result<(), StoreError> {
        let hasher = self.take_over().await?;
        let this = Arc::clone(self);
        let kept = spawn_blocking(move || {
            let result = this.keep();
            this.hand_back(hasher);
            result
        });
        kept.await.map_err(io::Error::other).and_then(|kept| kept).map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &io::Error) -> StoreError {
        failure::io_error(
            format!("keep a part of {} in {}", self.hash, self.path.display()),
            &self.path,
            error,
        )
    }
}

/// Where the ledger of the file at `path` is.
pub(super) fn ledger_path(path: &Path) -> PathBuf {
    path.with_extension("ranges")
}
