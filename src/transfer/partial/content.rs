//! One content on its way, from however many peers: a file, what of it is there, its senders, and its hash so far.
//!
//! Bytes are written at their place, whichever peer sends them; what is there already is left as it is. Beside the writers go two
//! jobs on blocking threads, each at most once at a time: one hashes as far as there is no gap, from memory while a block is being
//! written and from the file what came out of order; the other makes durable what was written and notes it in the ledger.
//!
//! A content that has a root (BLAKE3, as its source says) consists of whole groups that were proved before they came here, with
//! their sums. So nothing else is hashed but SHA-256, which has the last word.

mod judge;
mod reading;
mod sums;
mod writing;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use iroh::EndpointId;
use parking_lot::{Mutex, MutexGuard};
use sha2::Sha256;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;

use self::judge::Suspect;
pub use self::judge::{Blame, Finished};
use self::sums::SumTable;
use super::ledger::{Ledger, LedgerSubject};
use crate::disk::{self, DirectWriter};
use crate::record::ContentHash;
use crate::store::embedded::failure;
use crate::store::groups::{GroupHasher, GroupSum};
use crate::store::{StoreError, StoreResult};
use crate::transfer::partial::block::Block;
use crate::transfer::ranges::Ranges;

/// Bytes written after which they are made durable, once the last such work is done, or how long after it. What a power cut costs
/// is about this; what a killed process costs is what it had not written.
const CHECKPOINT_BYTES: u64 = 64 * 1024 * 1024;
const CHECKPOINT_AFTER: Duration = Duration::from_secs(5);
/// Bytes hashed at once: whole groups.
const HASH_BYTES: usize = 1024 * 1024;
/// A content longer than this is written past the memory of the system, and where that cannot be, what is durable and hashed leaves it:
/// pages that are new cost more than the writing itself (a fifth of all processor time of an exchange of files of up to 35 MB), and
/// whatever else was in their place is gone. What is shorter is likely to be read soon, and is found in memory then.
const CACHED_BYTES_MAX: u64 = 4 * 1024 * 1024;
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
    /// What all groups together hash to, where that is said.
    root: Option<GroupSum>,
    path: PathBuf,
    file: File,
    /// Writes it past the memory of the system, if it is long.
    direct: DirectWriter,
    /// Its name in the directory is durable.
    named: OnceLock<()>,
    state: Mutex<PartialState>,
    ledger: Mutex<Ledger>,
    changed: Arc<Notify>,
}

struct PartialState {
    /// Written, or being written.
    claimed: Ranges,
    written: Ranges,
    /// What the ledger says.
    durable: Ranges,
    from: BTreeMap<Giver, Ranges>,
    /// Where there is a root.
    sums: SumTable,
    /// Blocks that are being written, or were just now, by where they begin: they are hashed from memory when it is their turn.
    fresh: BTreeMap<u64, Arc<Block>>,
    /// `None` while somebody hashes.
    hasher: Option<Box<Hasher>>,
    /// How much is hashed, and how much of that left the memory of the system.
    hashed: u64,
    uncached: u64,
    /// Whether the job runs that makes durable what was written.
    keeps: bool,
    kept_at: Instant,
    /// The only one whose bytes are taken.
    only: Option<EndpointId>,
    /// Bytes of peers that were thrown away, to be compared with the right ones.
    suspects: Vec<Suspect>,
    /// Nothing is written any more: the file may be the store's.
    sealed: bool,
    /// Another one has its place and its names.
    retired: bool,
    failed: Option<StoreError>,
}

#[derive(Default)]
struct Hasher {
    sha256: Sha256,
    /// Where there is no root.
    blake3: GroupHasher,
    done: u64,
}

impl PartialState {
    /// Nobody hashes any more.
    fn put_back(&mut self, hasher: Box<Hasher>) {
        self.hashed = hasher.done;
        // Where it begins anew, it reads what left.
        self.uncached = self.uncached.min(self.hashed);
        self.hasher = Some(hasher);
    }

    /// Whether there is more to hash.
    fn has_next(&self, hashed: u64) -> bool {
        self.fresh.contains_key(&hashed) || hashed < self.written.prefix()
    }

    /// Whether enough was written to make it durable.
    fn is_checkpoint_due(&self) -> bool {
        let fresh = self.written.len() - self.durable.len();
        fresh >= CHECKPOINT_BYTES || (fresh > 0 && self.kept_at.elapsed() >= CHECKPOINT_AFTER)
    }
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
    pub(super) fn open(path: &Path, subject: LedgerSubject, durable: Ranges) -> io::Result<Self> {
        let LedgerSubject { hash, size, root } = subject;
        let file =
            OpenOptions::new().create(true).read(true).write(true).truncate(false).mode(0o600).open(path)?;
        file.set_len(size)?;
        if !durable.is_empty() {
            // Some of it may have been written and no more when the last process ended.
            file.sync_data()?;
        }
        let direct = if size > CACHED_BYTES_MAX { DirectWriter::of(path) } else { DirectWriter::none() };
        let ledger = Ledger::create(&ledger_path(path), subject, &durable)?;
        let from = (!durable.is_empty()).then(|| (Giver::Earlier, durable.clone()));
        let state = PartialState {
            claimed: durable.clone(),
            written: durable.clone(),
            durable,
            from: from.into_iter().collect(),
            sums: SumTable::new(size),
            fresh: BTreeMap::new(),
            hasher: Some(Box::default()),
            hashed: 0,
            uncached: 0,
            keeps: false,
            kept_at: Instant::now(),
            only: None,
            suspects: Vec::new(),
            sealed: false,
            retired: false,
            failed: None,
        };
        let path = path.to_owned();
        let (state, ledger) = (Mutex::new(state), Mutex::new(ledger));
        let (named, changed) = (OnceLock::new(), Arc::new(Notify::new()));
        Ok(Self { hash, size, root, path, file, direct, named, state, ledger, changed })
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock()
    }

    fn state(&self) -> MutexGuard<'_, PartialState> {
        self.state.lock()
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn root(&self) -> Option<GroupSum> {
        self.root
    }

    /// What of `range` is not here.
    pub fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.state().claimed.missing(range)
    }

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

    /// Starts the jobs that have something to do. The caller is on a thread of the runtime's.
    fn follow(self: &Arc<Self>, state: &mut PartialState) {
        let hashed = state.hasher.as_ref().map(|hasher| hasher.done);
        if hashed.is_some_and(|hashed| state.has_next(hashed))
            && let Some(hasher) = state.hasher.take()
        {
            let this = Arc::clone(self);
            spawn_blocking(move || this.hash_along(hasher));
        }
        if state.is_checkpoint_due() && !state.keeps {
            state.keeps = true;
            let this = Arc::clone(self);
            spawn_blocking(move || this.keep_along());
        }
    }

    /// Makes durable what was written, for as long as there is enough of it.
    fn keep_along(self: Arc<Self>) {
        loop {
            let is_due = self.state().is_checkpoint_due();
            let result = if is_due { self.keep() } else { Ok(()) };
            let mut state = self.state();
            if let Err(error) = &result {
                state.failed.get_or_insert_with(|| self.explain(error));
            }
            if !is_due || result.is_err() {
                state.keeps = false;
                break;
            }
        }
        self.changed.notify_waiters();
    }

    /// Makes durable what was written, then notes it.
    fn keep(&self) -> io::Result<()> {
        let (written, durable, spent) = {
            let state = self.state();
            let spent = state.uncached..state.hashed.min(state.written.prefix());
            (state.written.clone(), state.durable.clone(), spent)
        };
        self.file.sync_data()?;
        if self.size > CACHED_BYTES_MAX && !spent.is_empty() {
            disk::uncache(&self.file, &spent);
            self.state().uncached = spent.end;
        }
        if self.named.get().is_none() {
            self.path.parent().map_or(Ok(()), disk::sync_dir)?;
            self.named.get_or_init(|| ());
        }
        let fresh: Vec<Range<u64>> = written.iter().flat_map(|range| durable.missing(range)).collect();
        if !self.state().retired {
            self.ledger().append(&fresh, &written)?;
        }
        let mut state = self.state();
        (state.durable, state.kept_at) = (written, Instant::now());
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
    async fn take_over(&self) -> StoreResult<Box<Hasher>> {
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
        state.put_back(hasher);
        state.keeps = false;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Nothing is written any more, neither here nor to the ledger: another one has both names.
    pub(super) fn retire(&self) {
        self.state().retired = true;
    }

    /// The store did not take the whole: more may be done with it.
    pub(super) fn unseal(&self) {
        self.state().sealed = false;
    }

    /// Makes durable whatever was written, as at the end of the process.
    pub async fn settle(self: &Arc<Self>) -> StoreResult {
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

pub(super) fn ledger_path(path: &Path) -> PathBuf {
    path.with_extension("ranges")
}
