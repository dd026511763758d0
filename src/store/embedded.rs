//! The embedded store: SQLite and a directory of files.
//!
//! # Who does what
//! One thread writes (`writer`): it commits whatever is queued as one transaction, and acknowledges after the commit.
//! A few connections read (`readers`) and never wait for it. Hashing, and the writing of content that is too large
//! for the database, happen before a change is queued, on blocking threads
//! ([`HashingFile`](super::hashing_file::HashingFile), `incoming`).
//!
//! # Where content lies
//! Up to 64 KiB in the database, in a table of its own. Larger content in `content/ab/cd/<hash>`; `writer` says how
//! it gets there so that no crash leaves a record without its file, or a file without its record.
//! Content of deleted assets stays in its place for 30 days, listed in the table `trash`, from where it comes back
//! if a live version wins over the tombstone.
//!
//! # When content is damaged
//! Nothing is given away that was not checked against its hash, or against the sums of its parts that were made with it
//! (`content`, `sums`). What is found damaged is set aside and counts as not held from then on, until it comes again
//! (`damage`).
//!
//! # The feed
//! The records in the order of their latest change. The number of the last change is stored apart from the records:
//! it never goes back, whatever is purged, and none is given out twice, even if the store is set back (`runs`). A cursor below the greatest purged number is answered with a reset, as a
//! deletion may have been missed. Only the cursors of a reading that began at 0 are exempt, since such a reader has
//! nothing to miss; the store remembers where the latest pages of those ended.
//!
//! # When the disk fails
//! Full: the change is refused and nothing of it stays; the next one is tried again. Deletions have room that is laid by for
//! them (`space`). An I/O error in a write, fsync or
//! commit: the store takes no more writes until it is opened again, because the kernel may have dropped what it could
//! not write. It goes on reading. Damaged pages of the database, whatever reads them, end all writing as well, but for those of a small
//! content, which are that content's damage. So does a database that is not the one any more that was opened (`anchors`). Changes that are
//! gone from the database are noticed when it is opened (`loss`).

use std::collections::VecDeque;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{Notify, Semaphore, watch};

use self::anchors::Anchors;
use self::layout::Layout;
use self::quota::Quota;
use self::readers::Readers;
use self::space::Space;
use self::submitting::WRITE_TIMEOUT;
use self::tx::Totals;
use self::writer::Msg;
use crate::clock::Clock;
use crate::store::at_rest::{open_at_rest, problem_at_rest};
use crate::store::bucket::BucketConfig;
use crate::store::{StoreError, StoreId, StoreResult};

mod anchors;
mod aside;
mod assets;
mod content;
mod contract;
mod copied;
mod damage;
mod edit;
mod entries;
mod examining;
pub(crate) mod failure;
mod found;
mod incoming;
mod index;
mod keeping;
mod layout;
mod loss;
mod media_type;
mod merge;
mod objects;
mod open;
mod own_names;
mod proofs;
mod purge;
mod query;
mod quota;
mod readers;
mod reading;
mod rows;
mod runs;
mod schema;
mod scrub;
pub(in crate::store) mod snapshots;
mod space;
mod submitting;
mod sums;
mod trash;
mod tx;
mod types;
mod upload;
mod writer;

pub use self::contract::StoreChanges;
pub use self::copied::{CopiedContent, CopiedDatabase, CopiedFigures};
pub use self::damage::DamageEvent;
pub use self::purge::{Purged, TRASH_KEPT_MS};
pub use self::trash::{TrashPage, TrashedAsset};
pub use self::types::{
    EmbeddedConfig, HashPrefix, IngestFields, Ingested, ListFilter, ListPage, ListQuery, MetaPatch, Order,
    StoredAsset,
};
pub use self::upload::{Receive, Upload};

/// Largest content that is kept inside the database, in bytes.
pub const INLINE_BYTES_MAX: u64 = 64 * 1024;
/// Most hashes in one question.
const HASHES_MAX: usize = 1000;
/// Changes that may be queued before the next one has to wait.
const QUEUE_TASKS: usize = 1024;
/// How many ends of pages of full readings are remembered.
const WALKS_MAX: usize = 256;

/// A store in a directory of this machine. Cheap to clone; [`close`](Self::close) it before another one is opened on
/// the same directory.
#[derive(Clone)]
pub struct EmbeddedStore(Arc<StoreInner>);

struct StoreInner {
    shared: Arc<StoreShared>,
    /// To the writer; `None` once closed.
    queue: Mutex<Option<SyncSender<Msg>>>,
    turns: Arc<Semaphore>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the store's methods and its writer both see.
struct StoreShared {
    id: StoreId,
    layout: Layout,
    anchors: Arc<Anchors>,
    /// What people should know of how the store was found when it opened.
    opened_with: Option<String>,
    /// Files of contents were all missing when the store opened.
    files_missing: bool,
    /// Where larger contents are, if not in files.
    objects: Option<objects::Objects>,
    /// That contents are in a bucket, and none is configured.
    bucket_missing: Option<String>,
    space: Space,
    quota: Quota,
    promises: keeping::PromiseTimes,
    readers: Readers,
    /// Transactions committed for changes since the store was opened.
    commits: AtomicU64,
    purge_floor: AtomicU64,
    /// Why there are no more writes.
    read_only: Arc<Mutex<Option<String>>>,
    clock: Clock,
    /// Where pages of full readings ended that have not passed the purge floor yet.
    walks: Mutex<VecDeque<u64>>,
    damage: damage::DamageWatch,
    scrub: scrub::Scrubbing,
    /// Contents whose sums are being made.
    sums: sums::SumMakers,
    /// How far the index is, where it is being made.
    building: index::build::Building,
    /// What proofs of contents are made of that are asked for in parts.
    trees: proofs::SumTrees,
    /// Rows of folders that are passed over.
    unreadable_entries: entries::UnreadableEntries,
    /// Wakes the job that brings back what folders have and was deleted.
    targets_deleted: Arc<Notify>,
    seq: watch::Receiver<u64>,
}

impl StoreShared {
    /// Why there are no writes at the moment.
    fn read_only(&self) -> Option<String> {
        self.read_only_for_good().or_else(|| {
            let looked_at = Instant::now();
            let problem = self.lost_database().or_else(|| self.anchors.contents_problem());
            if problem.is_none() {
                self.anchors.note_right(looked_at);
            }
            problem
        })
    }

    /// Why there are no more writes.
    fn read_only_for_good(&self) -> Option<String> {
        self.read_only.lock().clone()
    }

    /// Ends all writing where the database is not the one any more that was opened; why.
    fn lost_database(&self) -> Option<String> {
        let why = self.anchors.database_problem()?;
        tracing::error!(why, "the store takes no more writes");
        self.set_read_only(why.clone());
        Some(why)
    }

    /// The first reason stays: it is the cause of those that follow.
    fn set_read_only(&self, why: String) {
        self.read_only.lock().get_or_insert(why);
    }

    /// Refuses early what the writer would refuse: it looks at the disk itself, each time.
    fn check_writable(&self) -> StoreResult {
        let why = if self.anchors.were_right() { self.read_only_for_good() } else { self.read_only() };
        why.map_or(Ok(()), |why| Err(StoreError::ReadOnly(why)))
    }

    /// Whether a reader at `since` may have missed something, or comes from a future that the store does not have.
    fn needs_reset(&self, conn: &Connection, since: u64, totals: &Totals) -> rusqlite::Result<bool> {
        if since == 0 || self.is_walk(since) {
            return Ok(false);
        }
        Ok(since < totals.purge_floor || !runs::knows(conn, since, totals)?)
    }

    fn is_walk(&self, since: u64) -> bool {
        self.walks.lock().contains(&since)
    }

    fn remember_walk(&self, page_end: u64) {
        let mut walks = self.walks.lock();
        if !walks.contains(&page_end) {
            if walks.len() == WALKS_MAX {
                walks.pop_front();
            }
            walks.push_back(page_end);
        }
    }
}

impl EmbeddedStore {
    /// Opens the store in a directory, making it if there is none. Takes the directory for this process alone, removes
    /// what a crash left behind, migrates an older database (a copy of which is kept beside it), purges what is old.
    ///
    /// # Errors
    /// [`StoreError::Io`]: another process has the store open, the directory cannot be written, the database is damaged
    /// or newer than this program. [`StoreError::Full`].
    pub async fn open(config: EmbeddedConfig) -> StoreResult<Self> {
        Self::open_on(config, None).await
    }

    /// As [`EmbeddedStore::open`], with a bucket for larger contents, if there is one. Without an answer of it the store opens,
    /// and says what is wrong.
    ///
    /// # Errors
    /// Those of [`EmbeddedStore::open`]; [`StoreError::Io`] where the bucket may not be used as it is configured.
    pub async fn open_on(config: EmbeddedConfig, bucket: Option<BucketConfig>) -> StoreResult<Self> {
        let action = format!("open the store in {}", config.dir.display());
        let opened = tokio::task::spawn_blocking(move || open::open(config, bucket.as_ref())).await;
        let store = opened.map_err(|error| StoreError::io(&action, error))??;
        if let Err(reason) = store.begin_objects().await {
            store.close().await;
            return Err(StoreError::io(action, reason));
        }
        if store.0.shared.files_missing {
            tokio::spawn(store.clone().miss_files());
        }
        tokio::spawn(store.clone().look_again());
        tokio::spawn(store.clone().build_index());
        tokio::spawn(store.clone().keep_targets());
        Ok(store)
    }

    /// Live assets in the store of a directory, without opening it or leaving a trace there; `None` if there is none, or it
    /// cannot be read. Blocks.
    pub fn assets_at_rest(dir: &Path) -> Option<u64> {
        let connection = open_at_rest(&Layout { dir: dir.to_owned() }.database()).ok()?;
        connection.query_row("SELECT assets FROM state", [], |row| row.get::<_, i64>(0)).ok()?.try_into().ok()
    }

    /// Has the store of a directory, where there is one, write by another id than before: it is a copy of another one, and of two
    /// writers with one id nobody could tell who wrote what. Blocks.
    pub(crate) fn renew_writer(dir: &Path) -> StoreResult {
        open::renew_writer(&Layout { dir: dir.to_owned() })
    }

    /// Why the store of a directory could not be opened now, and where; nothing is opened, made or changed. Blocks.
    pub(crate) fn problem_at_rest(dir: &Path) -> Option<(PathBuf, String)> {
        let layout = Layout { dir: dir.to_owned() };
        if dir.symlink_metadata().is_ok() && !dir.is_dir() {
            return Some((layout.dir, "it is no directory".to_owned()));
        }
        let lock = File::open(layout.lock()).ok();
        if lock.is_some_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))) {
            return Some((layout.dir, "another process has it open: stop that one".to_owned()));
        }
        let database = layout.database();
        problem_at_rest(&database, schema::KNOWN).map(|problem| (database, problem))
    }

    /// Begins to take content from a user.
    pub fn begin_upload(&self) -> Upload {
        Upload::new(self.clone())
    }

    /// Begins to take content from a peer that is too large to be held in memory.
    pub async fn begin_receive(&self) -> StoreResult<Receive> {
        Receive::begin(self.clone()).await
    }

    /// The number of the last committed change, whenever it rises. Ends when the store is closed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.shared.seq.clone()
    }

    /// Transactions committed for changes since the store was opened; many changes share one.
    pub fn commits(&self) -> u64 {
        self.0.shared.commits.load(Ordering::Relaxed)
    }

    /// Names this store for as long as its database lives.
    pub fn id(&self) -> StoreId {
        self.0.shared.id
    }

    pub fn dir(&self) -> PathBuf {
        self.0.shared.layout.dir.clone()
    }

    /// Commits what is queued, ends the writer, and gives the directory free. Whatever is asked afterwards fails.
    pub async fn close(&self) {
        self.0.turns.close();
        self.0.shared.targets_deleted.notify_one();
        if let Some(objects) = &self.0.shared.objects {
            objects.wake_all();
            objects.bucket.close().await;
        }
        // One place is left in the queue for this message, so it is never refused for want of room.
        let _ = self.send(Msg::Stop);
        self.0.queue.lock().take();
        self.0.shared.readers.close().await;
        let writer = self.0.writer.lock().take();
        if let Some(writer) = writer {
            let joined = tokio::task::spawn_blocking(move || writer.join());
            if tokio::time::timeout(WRITE_TIMEOUT, joined).await.is_err() {
                tracing::error!("the store's writer did not end in time");
            }
        }
        self.0.shared.anchors.release();
    }

    /// Sets how much content may be here in all, or that there is no limit. What is here already stays in any case.
    pub fn set_quota(&self, max_bytes: Option<u64>) {
        self.0.shared.quota.set_max(max_bytes);
    }
}
