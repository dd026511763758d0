//! Contents in object storage, each under a key that is made of its hash: `prefix/ab/cd/abcd…`.
//!
//! # Order
//! A content is uploaded, read back in full and hashed, and only then may anybody count on it. An object that is there already
//! is read and hashed as well: that it has the right name and length vouches for nothing. Objects are made so that none is
//! replaced, where the service can do that; one with wrong bytes is replaced by the right ones.
//!
//! # Whose it is
//! [`marker`] says which place it is, and whether others use it. Until that is known nothing is written and nothing is believed.
//! Of a place that others use, nothing is ever deleted; nor of one that a copy of its owner takes for its own ([`claim`]).
//!
//! # What may be known of an object
//! It is there and right; it is not there ([`BucketError::Missing`]); its bytes are wrong ([`BucketError::Wrong`]); or the
//! service does not say ([`BucketError::Away`]). The last is never taken for one of the others.
//!
//! # Bounds
//! [`LOOKS`] questions for contents of others. [`SLOTS`] small uploads at once, or a quarter of that of large ones, each of which has two parts in memory. A read is of at most what was
//! asked for, whatever the service sends.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectStoreExt as _, UpdateVersion};
use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, SemaphorePermit};

use self::backend::Backend;
pub(crate) use self::backend::IfMissing;
use self::claim::PlaceUse;
pub(crate) use self::fault::BucketError;
use self::health::{BucketTrouble, TroubleKind};
use crate::config::ContentBucket;
use crate::record::ContentHash;
use crate::store::groups::{GroupHasher, GroupSum};
use crate::store::{StoreError, StoreResult};

mod backend;
pub(crate) mod cache;
pub(crate) mod claim;
pub(crate) mod deletion;
mod fault;
mod finding;
mod health;
pub(crate) mod marker;
mod place;
pub(crate) mod preflight;
pub(crate) mod snapshots;
pub(crate) mod upload;

/// Largest content that is kept inside the database where larger ones go to a bucket, in bytes.
pub(crate) const INLINE_BYTES_MAX: u64 = 4 * 1024;
/// What is larger is uploaded in parts of at least this size.
const PART_BYTES: u64 = 8 * 1024 * 1024;
/// Small uploads at once.
const SLOTS: u32 = 16;
/// Questions at once whether a content of another store is there.
const LOOKS: usize = 64;
/// What is larger counts as four.
const SMALL_BYTES: u64 = 1024 * 1024;
/// Bytes that are read at once where all of an object is hashed, and how many such reads are ahead.
const HASH_BYTES: u64 = 4 * 1024 * 1024;
const HASH_AHEAD: usize = 2;
/// How long a request without an answer may still be carried out.
const DOUBTFUL_FOR: Duration = Duration::from_mins(10);
/// How often a request is made that fails, apart from those that the client repeats by itself.
const TRIES: u32 = 3;
/// How long closing waits for a request to write the marker.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Where contents go, and with how much patience.
#[derive(Clone, Debug)]
pub struct BucketConfig {
    pub place: ContentBucket,
    /// Contents that are kept on this disk, too, in bytes.
    pub cache_bytes: u64,
    pub patience: BucketPatience,
    /// How often snapshots of the records go there, where they do.
    pub snapshots: Option<SnapshotPace>,
}

impl BucketConfig {
    /// With the usual patience and pace.
    pub fn new(place: ContentBucket, cache_bytes: u64) -> Self {
        let snapshots = place.snapshots.then(SnapshotPace::default);
        Self { place, cache_bytes, patience: BucketPatience::default(), snapshots }
    }
}

/// How often snapshots of the records are made.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotPace {
    /// Between two increments.
    pub increment: Duration,
    /// Between two bases.
    pub base: Duration,
    /// Until one is tried again that could not be made.
    pub retry: Duration,
}

impl Default for SnapshotPace {
    fn default() -> Self {
        Self {
            increment: Duration::from_hours(1),
            base: Duration::from_hours(7 * 24),
            retry: Duration::from_mins(5),
        }
    }
}

/// How long one waits for object storage.
#[derive(Clone, Copy, Debug)]
pub struct BucketPatience {
    /// For an answer, with its bytes.
    pub request: Duration,
    /// For a request that the client repeats by itself.
    pub retry: Duration,
    /// Before a request is repeated here; twice as long each time.
    pub pause: Duration,
    /// Until an object that is not found counts as gone.
    pub missing: Duration,
    /// Until a place that becomes one for several stores is used: its owner may be about to delete.
    pub settle: Duration,
    /// Between two looks whether it is there again, or whether something is to be cleaned up.
    pub look: Duration,
}

impl Default for BucketPatience {
    fn default() -> Self {
        Self {
            request: Duration::from_mins(2),
            retry: Duration::from_secs(30),
            pause: Duration::from_millis(500),
            missing: Duration::from_mins(1),
            settle: Duration::from_mins(2),
            look: Duration::from_secs(15),
        }
    }
}

/// A bucket that may be used, or why not.
pub(crate) struct Bucket {
    backend: Backend,
    /// How people know it.
    shown: String,
    is_shared: bool,
    /// Contents are acknowledged before they are there.
    write_back: bool,
    /// The code of the conflict that a user decided for this store.
    alone: Option<String>,
    opening: claim::OpeningId,
    patience: BucketPatience,
    slots: Semaphore,
    looks: Semaphore,
    /// Held while the marker is written.
    marking: tokio::sync::Mutex<()>,
    is_closed: AtomicBool,
    /// The service has no way to make an object so that none is replaced.
    only_replaces: AtomicBool,
    /// It has none to replace one only if it is as it was read.
    only_overwrites: AtomicBool,
    state: Mutex<BucketState>,
}

#[derive(Default)]
struct BucketState {
    /// Which place it is, once that is known.
    place: Option<marker::PlaceId>,
    /// Who uses it, by the latest look.
    used: Option<PlaceUse>,
    /// There are contents of the store from which this one took the place over.
    is_inherited: bool,
    looked: Option<Instant>,
    /// When this opening was written there.
    claimed: Option<Instant>,
    trouble: Option<BucketTrouble>,
    /// When it did not say whether a content of another store is there.
    passed_over: Option<Instant>,
    /// Contents that a deletion without an answer was asked for, and when: it may still be carried out.
    doubtful: HashMap<ContentHash, Instant>,
}

impl BucketState {
    fn forget_old_doubts(&mut self) {
        self.doubtful.retain(|_, since| since.elapsed() < DOUBTFUL_FOR);
    }
}

pub(crate) struct HashedObject {
    pub(crate) sha256: ContentHash,
    pub(crate) blake3: [u8; 32],
    pub(crate) groups: Vec<GroupSum>,
}

impl Bucket {
    /// Makes the client; asks nothing of the service yet. Blocks.
    ///
    /// # Errors
    /// A sentence: the address or the keys make no sense.
    pub(crate) fn open(config: &BucketConfig, if_missing: IfMissing) -> Result<Self, String> {
        let backend = backend::open(&config.place, &config.patience, if_missing)?;
        let trouble = Some(BucketTrouble::unknown());
        Ok(Self {
            backend,
            shown: config.place.url.to_string(),
            is_shared: config.place.shared,
            write_back: config.place.write_back,
            alone: config.place.alone.clone(),
            opening: rand::random(),
            patience: config.patience,
            slots: Semaphore::new(SLOTS as usize),
            looks: Semaphore::new(LOOKS),
            marking: tokio::sync::Mutex::default(),
            is_closed: AtomicBool::new(false),
            only_replaces: AtomicBool::new(false),
            only_overwrites: AtomicBool::new(false),
            state: Mutex::new(BucketState { trouble, ..BucketState::default() }),
        })
    }

    /// Changes nothing of whose place it is from now on: the store may be opened anew, and would be taken for another one's. Waits for
    /// what is under way.
    pub(crate) async fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        let _ = tokio::time::timeout(CLOSE_WITHIN, self.marking.lock()).await;
    }

    pub(crate) fn place(&self) -> Option<marker::PlaceId> {
        self.state().place
    }

    /// How people know it.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    pub(crate) fn patience(&self) -> BucketPatience {
        self.patience
    }

    /// The failure as readers and writers of contents are told of it.
    pub(crate) fn away(&self, reason: impl Into<String>) -> StoreError {
        StoreError::BucketAway { url: self.shown.clone(), reason: reason.into() }
    }

    fn state(&self) -> MutexGuard<'_, BucketState> {
        self.state.lock()
    }

    fn check_settled(&self) -> Result<(), BucketError> {
        let state = self.state();
        match (&state.place, &state.trouble) {
            (Some(_), _) => Ok(()),
            (None, Some(trouble)) => Err(BucketError::Away(trouble.why.clone())),
            (None, None) => Err(BucketError::Away("it was not reached yet".into())),
        }
    }

    fn key(&self, hash: ContentHash) -> Key {
        let name = hash.to_string();
        self.below(&format!("{}/{}/{name}", &name[..2], &name[2..4]))
    }

    fn below(&self, path: &str) -> Key {
        let prefix = &self.backend.prefix;
        if prefix.is_empty() { Key::from(path) } else { Key::from(format!("{prefix}/{path}")) }
    }

    /// Makes a request until it has an answer, or not, and takes note of how it went.
    async fn patiently<'a, T>(
        &'a self,
        tries_for_missing: u32,
        request: impl Fn() -> BoxFuture<'a, Result<T, BucketError>> + Send,
    ) -> Result<T, BucketError> {
        self.note(TroubleKind::Reading, self.try_patiently(tries_for_missing, request).await)
    }

    /// The same of a request that says nothing of whether contents can be put and read.
    async fn try_patiently<'a, T>(
        &'a self,
        tries_for_missing: u32,
        request: impl Fn() -> BoxFuture<'a, Result<T, BucketError>> + Send,
    ) -> Result<T, BucketError> {
        let mut pause = self.patience.pause;
        for attempt in 1.. {
            let done = match tokio::time::timeout(self.patience.request, request()).await {
                Ok(done) => done,
                Err(_) => Err(BucketError::Away(format!(
                    "it does not answer within {} s",
                    self.patience.request.as_secs()
                ))),
            };
            let tries = match &done {
                Err(BucketError::Away(_)) => TRIES,
                Err(BucketError::Missing) => tries_for_missing,
                Ok(_) | Err(BucketError::Wrong(_)) => 0,
            };
            if attempt >= tries {
                return done;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(BucketError::Away("it was not asked".into()))
    }

    /// Reads a range of a content that has this size. The bytes are not checked; there are as many as were asked for.
    pub(crate) async fn range(
        &self,
        hash: ContentHash,
        size: u64,
        range: Range<u64>,
    ) -> Result<Bytes, BucketError> {
        self.check_settled()?;
        let key = self.key(hash);
        let (key, range) = (&key, &range);
        self.patiently(TRIES, || Box::pin(self.get(key, Some(size), range.clone()))).await
    }

    /// Reads a range of an object once.
    async fn get(&self, key: &Key, size: Option<u64>, range: Range<u64>) -> Result<Bytes, BucketError> {
        self.get_version(key, size, range).await.map(|(bytes, _)| bytes)
    }

    /// The same, with which version of the object it is of.
    async fn get_version(
        &self,
        key: &Key,
        size: Option<u64>,
        range: Range<u64>,
    ) -> Result<(Bytes, UpdateVersion), BucketError> {
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        let got = self.backend.objects.get_opts(key, options).await.map_err(|error| fault::of(&error))?;
        let found = got.meta.size;
        let version = UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
        if let Some(size) = size
            && found != size
        {
            return Err(BucketError::Wrong(format!("its object has {found} bytes, and not {size}")));
        }
        let wanted = usize::try_from(range.end.min(found).saturating_sub(range.start)).unwrap_or(usize::MAX);
        let mut bytes = BytesMut::with_capacity(wanted);
        let mut stream = got.into_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| fault::of(&error))?;
            if bytes.len() + chunk.len() > wanted {
                return Err(BucketError::Away("it sends more bytes than were asked for".into()));
            }
            bytes.extend_from_slice(&chunk);
        }
        if bytes.len() == wanted {
            Ok((bytes.freeze(), version))
        } else {
            Err(BucketError::Away("its answer ended too early".into()))
        }
    }

    /// Reads all of a content and hashes it.
    pub(crate) async fn hash(&self, hash: ContentHash, size: u64) -> Result<HashedObject, BucketError> {
        let starts = (0..size).step_by(usize::try_from(HASH_BYTES).unwrap_or(usize::MAX));
        let ranges = starts.map(|start| start..(start + HASH_BYTES).min(size));
        let mut blocks =
            futures::stream::iter(ranges).map(|range| self.range(hash, size, range)).buffered(HASH_AHEAD);
        let mut hashers = Box::new((Sha256::new(), GroupHasher::default()));
        while let Some(block) = blocks.next().await {
            let block = block?;
            let hashed = tokio::task::spawn_blocking(move || {
                hashers.0.update(&block);
                hashers.1.update(&block);
                hashers
            });
            hashers = hashed.await.map_err(|error| BucketError::Away(error.to_string()))?;
        }
        let (sha256, groups) = *hashers;
        let (blake3, groups) = groups.finish();
        Ok(HashedObject { sha256: ContentHash(sha256.finalize().into()), blake3, groups })
    }

    /// As [`Self::hash`]; an object that is not found is looked for again until it counts as gone.
    pub(crate) async fn hash_at_length(
        &self,
        hash: ContentHash,
        size: u64,
    ) -> Result<HashedObject, BucketError> {
        let began = Instant::now();
        let mut pause = self.patience.pause;
        loop {
            match self.hash(hash, size).await {
                Err(BucketError::Missing) if began.elapsed() < self.patience.missing => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(self.patience.missing / 4);
                }
                Err(BucketError::Missing) => {
                    // It may be another bucket by now.
                    self.check_marker().await?;
                    return Err(BucketError::Missing);
                }
                done => return done,
            }
        }
    }

    /// Whether the object of a content has its bytes: all of it is read.
    async fn check(&self, hash: ContentHash, size: u64) -> Result<(), BucketError> {
        let found = self.hash(hash, size).await?.sha256;
        if found == hash { Ok(()) } else { Err(BucketError::Wrong(format!("its object hashes to {found}"))) }
    }

    /// The length of an object; `None` if there is none.
    async fn length(&self, key: &Key) -> Result<Option<u64>, BucketError> {
        let asked = self.patiently(1, || {
            Box::pin(async {
                let meta = self.backend.objects.head(key).await.map_err(|error| fault::of(&error))?;
                Ok(meta.size)
            })
        });
        match asked.await {
            Ok(size) => Ok(Some(size)),
            Err(BucketError::Missing) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks whether it can be used again.
    pub(crate) async fn is_there(&self) -> Result<(), BucketError> {
        self.check_marker().await.map(drop)
    }

    /// So many places as an upload of this size takes.
    async fn turn(&self, size: u64) -> Result<SemaphorePermit<'_>, BucketError> {
        let places = if size > SMALL_BYTES { SLOTS / 4 } else { 1 };
        self.slots.acquire_many(places).await.map_err(|_| BucketError::Away("the store is closed".into()))
    }
}

/// Called with the id of an upload in parts, before the first of them.
pub(crate) type NoteUpload = Arc<dyn Fn(String) -> BoxFuture<'static, StoreResult> + Send + Sync>;
