//! Where snapshots of stores' records lie in a bucket: `prefix/can-sync-snapshots/<store>/<generation>/`.
//!
//! ```text
//! 000000-00000-9f86d081884c7d65   a chunk of the base: what the store knew
//! 000000.json                     its manifest, made last
//! 000001-00000-60303ae22b998861   a chunk of the first increment: what changed since
//! 000001.json
//! ```
//!
//! Each store has a directory of its own, so that stores that share a place do not meet; of two copies of one store, which have one
//! id, each begins a generation of its own where the other one was quicker. A part without its manifest is none. What is read is
//! compared with the manifest before anything is made of it, and no more memory is taken than a chunk may have. Whether snapshots can be
//! made says nothing of contents: keys may be good for the ones, and not for the others.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::StreamExt as _;
use object_store::path::Path as Key;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode};

pub(crate) use self::manifest::{
    CHUNK_BYTES_MAX, CHUNKS_MAX, ChunkFacts, Generation, PartFacts, PartName, SnapshotManifest, is_ahead,
};
use super::claim::PlaceUse;
use super::deletion::DeletionOutcome;
use super::{Bucket, BucketError, TRIES, fault};
use crate::store::StoreId;

pub mod fuzz;
mod manifest;

/// The directory, below the prefix.
pub(crate) const DIR: &str = "can-sync-snapshots";
const MANIFEST_BYTES_MAX: u64 = 2 << 20;
/// Objects that one listing goes through, and parts that are remembered of them.
const LISTED_MAX: usize = 1_000_000;
const PARTS_MAX: usize = 100_000;

impl Bucket {
    fn snapshot_key(&self, path: &str) -> Key {
        self.below(&format!("{DIR}/{path}"))
    }

    /// Puts a chunk of a part there, and reads it back.
    pub(crate) async fn put_chunk(
        &self,
        name: &PartName,
        index: usize,
        bytes: Bytes,
    ) -> Result<ChunkFacts, BucketError> {
        self.check_directory().await?;
        let facts = ChunkFacts::of(&bytes);
        let key = self.snapshot_key(&name.chunk_path(index, &facts));
        let (key, bytes) = (&key, &bytes);
        self.try_patiently(TRIES, || {
            Box::pin(async move {
                let put = self.put_object(key, bytes.clone(), PutMode::Overwrite).await;
                put.map_err(|error| fault::of(&error))
            })
        })
        .await?;
        if self.read_chunk(name, index, &facts).await? == bytes {
            Ok(facts)
        } else {
            Err(BucketError::Away("it does not give back what was put there".into()))
        }
    }

    /// Makes a part one, now that all of its chunks are there; whether it is this one.
    pub(crate) async fn put_manifest(
        &self,
        name: &PartName,
        manifest: &SnapshotManifest,
    ) -> Result<bool, BucketError> {
        self.check_directory().await?;
        let key = self.snapshot_key(&name.manifest_path());
        let (key, text) = (&key, Bytes::from(manifest.text()));
        let text = &text;
        self.try_patiently(TRIES, || {
            Box::pin(async move {
                match self.put_object(key, text.clone(), PutMode::Create).await {
                    // Another one, or the same whose answer was lost.
                    Ok(())
                    | Err(
                        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. },
                    ) => Ok(()),
                    Err(error) => Err(fault::of(&error)),
                }
            })
        })
        .await?;
        let found = self.read_part(name).await;
        self.check_directory().await?;
        match found {
            Ok(found) => Ok(found == *manifest),
            Err(BucketError::Wrong(_) | BucketError::Missing) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The manifest of a part. [`BucketError::Wrong`] where it cannot be used, with why.
    pub(crate) async fn read_part(&self, name: &PartName) -> Result<SnapshotManifest, BucketError> {
        let key = self.snapshot_key(&name.manifest_path());
        let key = &key;
        let text = self.try_patiently(TRIES, || Box::pin(self.get(key, None, 0..MANIFEST_BYTES_MAX))).await?;
        SnapshotManifest::read(&text, name).map_err(BucketError::Wrong)
    }

    /// A chunk of a part, if its bytes are those that were written.
    pub(crate) async fn read_chunk(
        &self,
        name: &PartName,
        index: usize,
        facts: &ChunkFacts,
    ) -> Result<Bytes, BucketError> {
        let (key, size) = (self.snapshot_key(&name.chunk_path(index, facts)), facts.bytes as u64);
        let key = &key;
        if size == 0 {
            return Ok(Bytes::new());
        }
        let read = self.try_patiently(TRIES, || Box::pin(self.get(key, Some(size), 0..size))).await?;
        let found = tokio::task::spawn_blocking(move || (ChunkFacts::of(&read), read)).await;
        let (found, read) = found.map_err(|error| BucketError::Away(error.to_string()))?;
        if found == *facts {
            Ok(read)
        } else {
            Err(BucketError::Wrong("its bytes are not those that were written".into()))
        }
    }

    /// The parts that are there, of one store or of all, by store, generation and number.
    pub(crate) async fn snapshot_parts(&self, of: Option<StoreId>) -> Result<Vec<PartName>, BucketError> {
        let mut found = BTreeMap::new();
        self.walk_snapshots(of.map(|store| store.to_string()), |path| {
            if let Some(name) = PartName::of_manifest(path)
                && found.len() < PARTS_MAX
            {
                found.insert((name.store.0, name.generation.clone(), name.part), name);
            }
        })
        .await?;
        self.check_listed(found.len())?;
        Ok(found.into_values().collect())
    }

    /// The generations of which something is there, whole or not.
    pub(crate) async fn snapshot_generations(&self, store: StoreId) -> Result<Vec<Generation>, BucketError> {
        let mut found = BTreeSet::new();
        self.walk_snapshots(Some(store.to_string()), |path| {
            if let Some((_, generation, _)) = manifest::split(path)
                && found.len() < PARTS_MAX
            {
                found.insert(generation);
            }
        })
        .await?;
        self.check_listed(found.len())?;
        Ok(found.into_iter().collect())
    }

    /// What was not remembered is not taken for what is not there.
    fn check_listed(&self, count: usize) -> Result<(), BucketError> {
        if count < PARTS_MAX { Ok(()) } else { Err(self.too_many(format_args!("{PARTS_MAX} snapshots"))) }
    }

    fn too_many(&self, what: std::fmt::Arguments<'_>) -> BucketError {
        BucketError::Away(format!(
            "{what} and more are below {}: remove the oldest generations of each store there, or name one store where you restore",
            self.below(DIR)
        ))
    }

    /// Goes through what is below a directory of the snapshots.
    async fn walk_snapshots(
        &self,
        below: Option<String>,
        mut see: impl FnMut(&str),
    ) -> Result<(), BucketError> {
        let root = self.below(DIR);
        let prefix = below.map_or_else(|| root.clone(), |below| self.snapshot_key(&below));
        let mut listed = self.backend.objects.list(Some(&prefix));
        let mut count = 0;
        loop {
            let next = tokio::time::timeout(self.patience().request, listed.next()).await;
            let meta = match next.map(Option::transpose) {
                Ok(Ok(Some(meta))) => meta,
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => match fault::of(&error) {
                    // A directory that nobody made yet.
                    BucketError::Missing => return Ok(()),
                    error @ (BucketError::Away(_) | BucketError::Wrong(_)) => return Err(error),
                },
                Err(_) => return Err(BucketError::Away("it does not answer".into())),
            };
            count += 1;
            if count > LISTED_MAX {
                return Err(self.too_many(format_args!("{LISTED_MAX} objects")));
            }
            if let Some(path) = meta.location.as_ref().strip_prefix(root.as_ref()) {
                see(path.trim_start_matches('/'));
            }
        }
    }

    /// Deletes all of a generation of the own snapshots, if it is for this store to do. Its base goes first: from then on it is none.
    pub(crate) async fn delete_generation(
        &self,
        store: StoreId,
        generation: &Generation,
    ) -> Result<DeletionOutcome, BucketError> {
        match self.check_marker().await? {
            PlaceUse::Shared => return Ok(DeletionOutcome::Never),
            PlaceUse::Own if self.may_delete() => {}
            PlaceUse::Own | PlaceUse::Halted(_) => return Ok(DeletionOutcome::NotNow),
        }
        let dir = PartName::dir(store, generation);
        let base = PartName { store, generation: generation.clone(), part: 0 }.manifest_path();
        let mut paths = vec![base];
        self.walk_snapshots(Some(dir.clone()), |path| {
            let is_of =
                manifest::split(path).is_some_and(|(found, of, _)| found == store && of == *generation);
            if is_of && paths.len() < PARTS_MAX {
                paths.push(path.to_owned());
            }
        })
        .await?;
        for path in paths {
            let key = self.snapshot_key(&path);
            let deleted =
                tokio::time::timeout(self.patience().request, self.backend.objects.delete(&key)).await;
            match deleted.map(|done| done.map_err(|error| fault::of(&error))) {
                Ok(Ok(()) | Err(BucketError::Missing)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(BucketError::Away("it does not answer".into())),
            }
        }
        Ok(DeletionOutcome::Done)
    }
}
