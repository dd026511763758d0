//! Contents that go to a bucket instead of files.
//!
//! # How a content gets there
//! 1. its hash is committed to `pending_objects`, and later the id of its upload, where it has one,
//! 2. it is uploaded, read back and hashed ([`Bucket::put`]), by the task that brings it,
//! 3. the writer commits the record, and with it the removal of the hash from `pending_objects`.
//!
//! So nothing is acknowledged that the bucket has not given back, and what a crash or a failure leaves behind is named. A task
//! cleans it up: uploads are aborted; an object to which nothing refers is deleted, unless the bucket is shared. The purge of
//! the trash leaves its objects to that task as well.
//!
//! With `write_back` a content stays in its file, is acknowledged there, and goes that way later ([`going_up`]).
//!
//! # One at a time
//! An upload, a deletion and an examination of one content take turns ([`Objects::lock`]): from before the hash is named
//! until after the commit. So nothing is deleted that was just found to be there.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension as _};
use tokio::sync::{Mutex as Turn, Notify, OwnedMutexGuard};

use super::snapshots::Snapshots;
use super::tx::Tx;
use super::{EmbeddedStore, INLINE_BYTES_MAX};
use crate::record::ContentHash;
use crate::store::bucket::cache::ContentCache;
use crate::store::bucket::marker::Unsettled;
use crate::store::bucket::{self, Bucket, BucketConfig, BucketError, IfMissing};
use crate::store::groups::GroupSum;
use crate::store::{StoreError, StoreResult};

mod claiming;
mod cleaning;
mod going_up;
mod taking_over;
mod uploading;
pub(super) mod waiting;

/// How long opening the store waits for the bucket. Without an answer the store opens, and says what is wrong.
const SETTLE_WITHIN: Duration = Duration::from_secs(15);

/// What a store with contents in a bucket has.
pub(super) struct Objects {
    pub(super) bucket: Arc<Bucket>,
    pub(super) cache: Arc<ContentCache>,
    /// Contents are acknowledged once they are on this disk.
    pub(super) write_back: bool,
    going_up: going_up::GoingUp,
    pub(super) snapshots: Snapshots,
    locks: Mutex<HashMap<ContentHash, Weak<Turn<()>>>>,
    /// Contents that were not found, and are looked for again.
    missed: Mutex<HashSet<ContentHash>>,
    /// Wakes the task that keeps the bucket.
    wake: Notify,
}

/// A content whose turn it is.
pub(super) type ObjectLock = OwnedMutexGuard<()>;

/// Contents that are in the bucket, and right; they are locked until this is dropped.
pub(super) struct UploadedContents {
    pub(super) contents: Vec<(ContentHash, Vec<GroupSum>)>,
    _locks: Vec<ObjectLock>,
}

impl Objects {
    /// Makes the client and the cache. Blocks.
    pub(super) fn open(config: &BucketConfig, cache: PathBuf, if_missing: IfMissing) -> Result<Self, String> {
        let shown = cache.display().to_string();
        Ok(Self {
            bucket: Arc::new(Bucket::open(config, if_missing)?),
            cache: Arc::new(
                ContentCache::open(cache, config.cache_bytes)
                    .map_err(|error| format!("cannot use the cache in {shown}: {error}"))?,
            ),
            write_back: config.place.write_back,
            going_up: going_up::GoingUp::default(),
            snapshots: Snapshots::new(config.snapshots),
            locks: Mutex::default(),
            missed: Mutex::default(),
            wake: Notify::new(),
        })
    }

    fn turn_of(&self, hash: ContentHash) -> Arc<Turn<()>> {
        let mut locks = self.locks.lock();
        if let Some(turn) = locks.get(&hash).and_then(Weak::upgrade) {
            return turn;
        }
        locks.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Turn::new(()));
        locks.insert(hash, Arc::downgrade(&turn));
        turn
    }

    /// Waits until it is the content's turn.
    pub(super) async fn lock(&self, hash: ContentHash) -> ObjectLock {
        self.turn_of(hash).lock_owned().await
    }

    /// There may be something to be cleaned up.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Something begins to wait.
    pub(super) fn wake_uploads(&self) {
        self.going_up.wake();
    }

    /// The store is closed.
    pub(super) fn wake_all(&self) {
        self.wake();
        self.wake_uploads();
    }
}

pub(super) fn cache_of(objects: Option<&Objects>) -> Option<Arc<ContentCache>> {
    objects.map(|objects| Arc::clone(&objects.cache))
}

/// Whether a record or the trash refers to an object of this hash.
pub(super) fn is_referred_to(conn: &Connection, hash: ContentHash) -> rusqlite::Result<bool> {
    conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM records WHERE hash = ?1 AND content = -1) \
         OR EXISTS (SELECT 1 FROM trash WHERE hash = ?1 AND content = -1)",
    )?
    .query_row([hash.0], |row| row.get(0))
}

/// Names an object to which nothing may refer.
pub(super) fn leave(conn: &Connection, hash: ContentHash) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT OR IGNORE INTO pending_objects (hash) VALUES (?1)")?.execute([hash.0])?;
    Ok(())
}

/// Takes an object's name away from those that are to be cleaned up.
pub(super) fn settle(conn: &Connection, hash: ContentHash) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM pending_objects WHERE hash = ?1")?.execute([hash.0])?;
    Ok(())
}

/// An object that may be there without a record.
struct PendingObject {
    /// The upload in parts that is to make it.
    upload: Option<String>,
}

fn pending(conn: &Connection, hash: ContentHash) -> rusqlite::Result<Option<PendingObject>> {
    conn.prepare_cached("SELECT upload FROM pending_objects WHERE hash = ?1")?
        .query_row([hash.0], |row| Ok(PendingObject { upload: row.get(0)? }))
        .optional()
}

/// Whether the store has contents in a bucket.
pub(super) fn has_place(conn: &Connection) -> rusqlite::Result<bool> {
    Ok(claiming::known_place(conn)?.is_some())
}

/// What people should know where contents are in a bucket, and none is configured. A store that never had one is not looked through.
pub(super) fn unconfigured(conn: &Connection) -> rusqlite::Result<Option<String>> {
    let shown: Option<Option<String>> =
        conn.query_row("SELECT shown FROM bucket", [], |row| row.get(0)).optional()?;
    let Some(shown) = shown else { return Ok(None) };
    let has_contents: bool =
        conn.query_row("SELECT EXISTS (SELECT 1 FROM records WHERE content = -1)", [], |row| row.get(0))?;
    Ok(has_contents.then(|| {
        format!(
            "contents are in the object storage {}, and store.content is not set: they cannot be read until it is",
            shown.unwrap_or_default()
        )
    }))
}

impl EmbeddedStore {
    /// Largest content that is kept inside the database, in bytes.
    pub(super) fn inline_bytes_max(&self) -> u64 {
        if self.0.shared.objects.is_some() { bucket::INLINE_BYTES_MAX } else { INLINE_BYTES_MAX }
    }

    /// Whether larger contents are in the bucket before they are acknowledged.
    pub(super) fn uploads_first(&self) -> bool {
        self.0.shared.objects.as_ref().is_some_and(|objects| !objects.write_back)
    }

    /// Why larger contents are neither taken nor given.
    pub(super) fn contents_away(&self) -> Option<String> {
        let shared = &self.0.shared;
        let trouble = shared.objects.as_ref().and_then(|objects| objects.bucket.trouble_sentence());
        trouble.or_else(|| shared.bucket_missing.clone())
    }

    /// Why nothing is deleted in the bucket.
    pub(super) fn standstill(&self) -> Option<String> {
        self.0.shared.objects.as_ref().and_then(|objects| objects.bucket.standstill())
    }

    /// Refuses early what the bucket would not take now.
    pub(super) fn check_bucket(&self, bytes: u64) -> StoreResult {
        let Some(objects) = &self.0.shared.objects else { return Ok(()) };
        match objects.bucket.trouble_of_writing() {
            Some(why) if bytes > bucket::INLINE_BYTES_MAX && !objects.write_back => {
                Err(objects.bucket.away(why))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Finds out whether the bucket may be used, and keeps it from then on.
    ///
    /// # Errors
    /// A sentence: it may not, as things are configured.
    pub(super) async fn begin_objects(&self) -> Result<(), String> {
        let Some(objects) = &self.0.shared.objects else { return Ok(()) };
        // It goes on where there is no answer in time.
        let store = self.clone();
        let mut settling = tokio::spawn(async move { store.settle_bucket().await });
        match tokio::time::timeout(SETTLE_WITHIN, &mut settling).await {
            Ok(Ok(Err(Unsettled::Refused(why)))) => {
                return Err(format!("the object storage {}: {why}", objects.bucket.shown()));
            }
            Ok(_) => {
                tokio::spawn(self.clone().keep_objects());
            }
            Err(_) => {
                tracing::warn!(
                    bucket = objects.bucket.shown(),
                    "the object storage does not answer yet: the store opens without it"
                );
                let store = self.clone();
                tokio::spawn(async move {
                    let _ = settling.await;
                    store.keep_objects().await;
                });
            }
        }
        tokio::spawn(self.clone().bring_up());
        // However much there is to be found, what keeps the bucket goes on.
        tokio::spawn(self.clone().keep_looking_for_lost());
        tokio::spawn(self.clone().keep_snapshots());
        Ok(())
    }

    /// Looks again whether the bucket can be used, where it could not, and cleans up. Ends when the store is closed.
    async fn keep_objects(self) {
        let Some(objects) = &self.0.shared.objects else { return };
        let look = objects.bucket.patience().look;
        let mut is_settled = objects.bucket.trouble().is_none();
        let mut said = String::new();
        let mut noted_halt = None;
        loop {
            if self.0.turns.is_closed() {
                return;
            }
            if !is_settled {
                is_settled = self.settle_bucket().await.is_ok();
            } else if objects.bucket.trouble().is_some() {
                // What it says is taken note of.
                let _ = objects.bucket.is_there().await;
            } else {
                self.look_for_others(objects, &mut noted_halt).await;
            }
            if is_settled
                // A full one, too: that is when it matters.
                && objects.bucket.is_readable()
                && objects.bucket.may_delete()
                && let Err(error) = self.clean_objects().await
            {
                let why = error.to_string();
                if why != said {
                    tracing::warn!(
                        why,
                        "objects that nothing refers to are not removed from the object storage yet"
                    );
                }
                said = why;
            }
            let _ = tokio::time::timeout(look, objects.wake.notified()).await;
        }
    }

    /// Waits until no other task uploads, deletes or examines a content.
    pub(super) async fn lock_object(&self, hash: ContentHash) -> Option<ObjectLock> {
        match &self.0.shared.objects {
            Some(objects) => Some(objects.lock(hash).await),
            None => None,
        }
    }

    /// What a failure to read a content from the bucket means.
    pub(super) fn object_failed(&self, hash: ContentHash, error: BucketError) -> StoreError {
        let Some(objects) = &self.0.shared.objects else { return Self::without_bucket() };
        match error {
            BucketError::Away(why) => objects.bucket.away(why),
            BucketError::Wrong(why) => self.suspect(hash, &why),
            BucketError::Missing => self.miss_object(objects, hash),
        }
    }

    /// A content that the bucket does not find is looked for again; then it is not here.
    fn miss_object(&self, objects: &Objects, hash: ContentHash) -> StoreError {
        let is_new = objects.missed.lock().insert(hash);
        if is_new {
            tracing::warn!(%hash, "the object storage does not find a content: it is looked for again");
            let store = self.clone();
            tokio::spawn(async move {
                if let Err(error) = store.examine(hash).await {
                    tracing::warn!(%hash, %error, "whether the object storage has a content is not known");
                }
                if let Some(objects) = &store.0.shared.objects {
                    objects.missed.lock().remove(&hash);
                }
            });
        }
        StoreError::Busy(format!(
            "the object storage {} does not find the content of {hash} at the moment: it is looked for again",
            objects.bucket.shown()
        ))
    }

    /// For a content in a bucket, where none is configured.
    pub(super) fn without_bucket() -> StoreError {
        StoreError::BucketAway {
            url: String::new(),
            reason: "store.content is not set, and the content is there".into(),
        }
    }
}

/// Settles an upload that a record refers to; whether one does. Else it stays among what is to be cleaned up.
pub(super) fn take_uploaded(
    tx: &mut Tx<'_>,
    hash: ContentHash,
    groups: &[GroupSum],
) -> rusqlite::Result<bool> {
    if !is_referred_to(tx.conn, hash)? {
        return Ok(false);
    }
    super::sums::write(tx.conn, hash, groups)?;
    tx.after_commit.push(super::damage::AfterCommit::Trust(hash));
    settle(tx.conn, hash)?;
    Ok(true)
}
