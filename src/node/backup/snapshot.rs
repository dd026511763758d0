//! Makes a data directory of the snapshots that a store left in object storage: for when its machine and its disk are gone.
//!
//! What is restored is the store alone, as another one: the node that starts on it draws a new key, and joins its network by the
//! passphrase. Contents that are not in the snapshots themselves are absent until the bucket or a peer shows them.
//!
//! The base that is taken is the latest of which every byte is right. Increments are taken one by one: of those that are damaged, what they
//! had is missing, and said. As records merge in any order, the rest is as good as ever.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use futures::StreamExt as _;
use serde::Serialize;

use self::looking::{
    FoundGeneration, check_place, choices, dated, generations_of, manifest_of, none_there, patience, pending,
    undated, unread, unwritten,
};
use super::place::private;
use super::restore::blocking;
use super::target::{begin_draft, move_up, take_target};
use super::{BackupError, RESTORED_FROM, RESTORING};
use crate::clock::Clock;
use crate::config::{BucketUrl, ContentBucket};
use crate::node::DataDir;
use crate::store::bucket::snapshots::{PartFacts, PartName, SnapshotManifest, is_ahead};
use crate::store::bucket::{Bucket, BucketConfig, BucketError, IfMissing};
use crate::store::embedded::{EmbeddedConfig, EmbeddedStore};
use crate::store::{ContentStore as _, StoreError, StoreId, TOMBSTONES_KEPT_MS};
use crate::text::amounts;

mod looking;

const CHUNKS_AHEAD: usize = 2;
const MANIFESTS_AHEAD: usize = 4;
/// Most damaged parts that are named one by one.
const REMARKS_MAX: usize = 20;

/// Where snapshots are, and what is to become of the place.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotOrder {
    pub(crate) place: ContentBucket,
    /// The restored store is going to have its contents there, as it is configured.
    pub(crate) is_its_place: bool,
    /// The store that is restored; the only one there, if it is not given.
    pub(crate) store: Option<StoreId>,
    /// That one is gone for good: the place becomes the restored one's own.
    pub(crate) alone: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct SnapshotChoice {
    pub(crate) store: String,
    /// When its latest part was made.
    pub(crate) made_at: String,
    pub(crate) assets: u64,
}

/// What comes of a look at the place.
pub(crate) enum SnapshotStart {
    Run(Box<SnapshotRun>),
    /// There are several stores, and none was named.
    Choose(Vec<SnapshotChoice>),
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct SnapshotRestored {
    pub(crate) data_dir: PathBuf,
    /// The store that it was made of, and the one that it is.
    pub(crate) of_store: String,
    pub(crate) store: String,
    /// What is in it was so at this time, or later.
    pub(crate) made_at: String,
    pub(crate) assets: u64,
    /// Those of them whose contents were in the snapshots.
    pub(crate) assets_held: u64,
    /// Whether the place is this store's own now; absent where it is not configured as its place.
    pub(crate) owns_place: Option<bool>,
    /// What could not be used.
    pub(crate) problems: Vec<String>,
    pub(crate) elapsed_ms: u64,
}

/// A restoration whose place is taken.
pub(crate) struct SnapshotRun {
    began: Instant,
    bucket: Bucket,
    order: SnapshotOrder,
    store: StoreId,
    /// From the oldest to the latest, as far back as is needed.
    generations: Vec<FoundGeneration>,
    pending_bytes: u64,
    target: PathBuf,
    /// Keeps other restorations out of the place.
    _place: File,
}

struct TakenSnapshot {
    made_ms: u64,
    problems: Vec<String>,
}

/// A part of which all was taken: the changes after `since`, up to `end`.
struct TakenPart {
    since: u64,
    end: u64,
    made_ms: u64,
}

/// A part that cannot be used, and how people know it.
struct Unused {
    date: String,
    why: String,
}

impl SnapshotRun {
    /// Looks what there is, and takes the place.
    pub(crate) async fn begin(order: SnapshotOrder, target: &Path) -> Result<SnapshotStart, BackupError> {
        let began = Instant::now();
        if let BucketUrl::Dir(dir) = &order.place.url
            && !dir.is_dir()
        {
            return Err(BackupError::new(
                format!("there is no directory '{}'", dir.display()),
                "correct the path, or mount the disk that it is on",
            ));
        }
        let config = BucketConfig { patience: patience(), ..BucketConfig::new(order.place.clone(), 0) };
        let opened = blocking(move || {
            Bucket::open(&config, IfMissing::Refuse)
                .map_err(|why| BackupError::new(why, "correct the address, or the keys"))
        });
        let bucket = opened.await?;
        let away = |error| unread(&bucket, error);
        let parts = bucket.snapshot_parts(order.store).await.map_err(away)?;
        let mut stores: Vec<StoreId> = parts.iter().map(|name| name.store).collect();
        stores.dedup();
        let store = match (order.store, stores.as_slice()) {
            (None, []) => return Err(none_there(&bucket)),
            (Some(store), _) if stores.contains(&store) => store,
            (None, [store]) => *store,
            (Some(store), _) => {
                return Err(BackupError::new(
                    format!("there is no snapshot of the store {store} in {}", bucket.shown()),
                    "leave --store out to see which there are",
                ));
            }
            (None, _) => return Ok(SnapshotStart::Choose(choices(&bucket, &parts).await?)),
        };
        let facts = bucket.place_facts().await.map_err(away)?;
        if let Some(owner) = facts.as_ref().and_then(|facts| facts.owner.parse().ok())
            && order.alone
            && !stores.contains(&owner)
            && !bucket.snapshot_parts(Some(owner)).await.map_err(away)?.is_empty()
        {
            stores.push(owner);
        }
        check_place(&bucket, &order, facts.as_ref(), store, &stores)?;
        let generations = generations_of(&parts, store);
        let pending_bytes = pending(&bucket, &generations).await?;
        let at = target.to_owned();
        let place = blocking(move || {
            let place = take_target(&at)?;
            // In the database it takes more than in the snapshot.
            begin_draft(&at, pending_bytes.saturating_mul(3))?;
            Ok(place)
        })
        .await?;
        let target = target.to_owned();
        Ok(SnapshotStart::Run(Box::new(Self {
            began,
            bucket,
            order,
            store,
            generations,
            pending_bytes,
            target,
            _place: place,
        })))
    }

    /// Bytes that are going to be read, if nothing is damaged.
    pub(crate) fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    /// Restores; `read` is told what was read.
    pub(crate) async fn finish(self, read: impl Fn(u64) + Send) -> Result<SnapshotRestored, BackupError> {
        let dir = DataDir::new(self.target.join(RESTORING)).store();
        let config = EmbeddedConfig { dir: dir.clone(), disk_reserve_bytes: 0, clock: Clock::system() };
        let store = EmbeddedStore::open(config).await.map_err(|error| unwritten(&dir, &error))?;
        let taken = self.take_all(&store, &read).await;
        let status = store.status().await;
        store.close().await;
        let (taken, status) = (taken?, status.map_err(|error| unwritten(&dir, &error))?);
        if self.order.alone {
            self.bucket.bequeath(store.id()).await.map_err(|error| unread(&self.bucket, error))?;
        }
        let (target, said) = (self.target.clone(), self.origin(taken.made_ms));
        blocking(move || {
            let path = target.join(RESTORING).join(RESTORED_FROM);
            let write = || {
                let mut file = private(&path)?;
                file.write_all(said.as_bytes())?;
                file.sync_all()
            };
            write().map_err(|error| BackupError::io("write", &path, &error))?;
            move_up(&target)
        })
        .await?;
        Ok(SnapshotRestored {
            data_dir: self.target,
            of_store: self.store.to_string(),
            store: store.id().to_string(),
            made_at: dated(taken.made_ms),
            assets: status.assets,
            assets_held: status.assets_held,
            owns_place: self.order.is_its_place.then_some(!self.order.place.shared),
            problems: taken.problems,
            elapsed_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// What stays in the data directory of where it came from.
    fn origin(&self, made_ms: u64) -> String {
        format!(
            "the snapshots of the store {} in {}, as of {}\n",
            self.store,
            self.bucket.shown(),
            dated(made_ms)
        )
    }

    /// Takes a base of which all is right, and every increment that is later.
    async fn take_all(
        &self,
        store: &EmbeddedStore,
        read: &(impl Fn(u64) + Send),
    ) -> Result<TakenSnapshot, BackupError> {
        let mut problems = Vec::new();
        let mut whole = None;
        for (at, generation) in self.generations.iter().enumerate().rev() {
            let Some(base) = generation.parts.first() else { continue };
            let manifest = manifest_of(&self.bucket, base).await?;
            match self.take_part(store, base, manifest, read, &mut problems).await? {
                Ok(taken) => {
                    whole = Some((at, taken));
                    break;
                }
                Err(Unused { date, why }) => {
                    problems.push(format!("the base of {date} is not used: {why}"));
                }
            }
        }
        let Some((at, base)) = whole else {
            let said = problems.first().cloned().unwrap_or_else(|| "it has no base".to_owned());
            return Err(BackupError::new(
                format!("no snapshot in {} can be used: {said}", self.bucket.shown()),
                "start with an empty data directory: what other machines have comes from them",
            ));
        };
        let now_ms = Clock::system().now_ms();
        if is_ahead(base.made_ms, now_ms) {
            problems.push(format!(
                "the base is dated {}, by a clock that was ahead, or the one here is behind: what changed since may be missing",
                dated(base.made_ms)
            ));
        }
        let (mut known, mut made_ms) = (base.end, base.made_ms);
        let parts = self.generations[at..].iter().flat_map(|generation| &generation.parts);
        let mut increments = futures::stream::iter(parts.filter(|name| name.part > 0))
            .map(|name| async move { (name, manifest_of(&self.bucket, name).await) })
            .buffered(MANIFESTS_AHEAD);
        while let Some((name, manifest)) = increments.next().await {
            match self.take_part(store, name, manifest?, read, &mut problems).await? {
                Ok(taken) => {
                    if taken.since > known {
                        let (from, to) = (dated(made_ms), dated(taken.made_ms));
                        problems.push(format!("what changed from {from} to {to} is missing"));
                    }
                    known = known.max(taken.end);
                    made_ms = made_ms.max(taken.made_ms);
                }
                Err(Unused { date, why }) => {
                    problems.push(format!("what changed until {date} is not used: {why}"));
                }
            }
        }
        if now_ms.saturating_sub(made_ms) > TOMBSTONES_KEPT_MS {
            problems.push(format!(
                "the latest snapshot is of {}: other machines may have forgotten by now what was deleted since, and it comes back",
                dated(made_ms)
            ));
        }
        let more = problems.len().saturating_sub(REMARKS_MAX);
        problems.truncate(REMARKS_MAX);
        if more > 0 {
            problems.push(format!("and {more} more"));
        }
        Ok(TakenSnapshot { made_ms, problems })
    }

    /// Takes what a part has, or says why not all of it. Items that were passed over are a problem of their own.
    async fn take_part(
        &self,
        store: &EmbeddedStore,
        name: &PartName,
        manifest: Result<SnapshotManifest, String>,
        read: &(impl Fn(u64) + Send),
        problems: &mut Vec<String>,
    ) -> Result<Result<TakenPart, Unused>, BackupError> {
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(why) => return Ok(Err(Unused { date: undated(name), why })),
        };
        let PartFacts { since, end, made_ms, chunks, .. } = manifest.facts;
        let unused = |why| Ok(Err(Unused { date: dated(made_ms), why }));
        let mut chunks = futures::stream::iter(chunks.iter().enumerate())
            .map(|(index, facts)| self.bucket.read_chunk(name, index, facts))
            .buffered(CHUNKS_AHEAD);
        let mut passed_over = 0;
        while let Some(chunk) = chunks.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(BucketError::Wrong(why)) => return unused(why),
                Err(BucketError::Missing) => return unused("a chunk of it is not there".into()),
                Err(error) => return Err(unread(&self.bucket, error)),
            };
            let bytes = chunk.len() as u64;
            match store.take_snapshot(chunk).await {
                Ok(taken) => passed_over += taken.passed_over,
                Err(StoreError::Invalid(why)) => return unused(why),
                Err(error) => return Err(unwritten(&self.target.join(RESTORING), &error)),
            }
            read(bytes);
        }
        if passed_over > 0 {
            problems.push(format!(
                "{} of {} were passed over, because they are none by the rules of this version",
                amounts::counted(passed_over, "item"),
                dated(made_ms)
            ));
        }
        Ok(Ok(TakenPart { since, end, made_ms }))
    }
}

impl SnapshotRestored {
    pub(crate) fn sentence(&self) -> String {
        format!(
            "{} as of {}, {} of them with their contents",
            amounts::counted(self.assets, "asset"),
            self.made_at,
            self.assets_held
        )
    }
}
