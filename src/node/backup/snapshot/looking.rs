//! What there is of snapshots in a place, and what is said where that is not enough.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;

use super::super::BackupError;
use super::{SnapshotChoice, SnapshotOrder};
use crate::clock::rfc3339;
use crate::store::bucket::marker::PlaceFacts;
use crate::store::bucket::snapshots::{Generation, PartName, SnapshotManifest};
use crate::store::bucket::{Bucket, BucketError, BucketPatience};
use crate::store::{StoreError, StoreId};

/// Manifests that are read at once.
const MANIFESTS_AT_ONCE: usize = 16;
/// Generations back to which is looked for a base that is right.
const GENERATIONS_MAX: usize = 4;

/// A generation of the store's snapshots.
pub(super) struct FoundGeneration {
    pub(super) name: Generation,
    /// By number.
    pub(super) parts: Vec<FoundPart>,
}

pub(super) struct FoundPart {
    pub(super) name: PartName,
    /// Or why it cannot be used.
    pub(super) manifest: Result<SnapshotManifest, String>,
}

impl FoundPart {
    fn bytes(&self) -> u64 {
        self.manifest.as_ref().map_or(0, SnapshotManifest::bytes)
    }

    /// When it was made, as far as is known.
    pub(super) fn date(&self) -> String {
        match &self.manifest {
            Ok(manifest) => dated(manifest.made_ms),
            Err(_) => format!("{}, part {}", self.name.generation, self.name.part),
        }
    }
}

/// Somebody waits.
pub(super) fn patience() -> BucketPatience {
    let usual = BucketPatience::default();
    BucketPatience { request: Duration::from_secs(30), retry: Duration::from_secs(10), ..usual }
}

pub(super) fn dated(ms: u64) -> String {
    rfc3339(ms).unwrap_or_default()
}

pub(super) fn unread(bucket: &Bucket, error: BucketError) -> BackupError {
    let why = match error {
        BucketError::Away(why) | BucketError::Wrong(why) => why,
        BucketError::Missing => "an object is not there any more".into(),
    };
    BackupError::new(
        format!("cannot read the snapshots in {}: {why}", bucket.shown()),
        "keys and endpoint are those of store.content, where that names the same place, or come from the usual environment variables; \
         run this again once it can be reached",
    )
}

pub(super) fn unwritten(dir: &Path, error: &StoreError) -> BackupError {
    BackupError::new(
        format!("cannot write the store in '{}': {error}", dir.display()),
        "check the directory and the disk that it is on, and run this once more",
    )
}

pub(super) fn none_there(bucket: &Bucket) -> BackupError {
    BackupError::new(
        format!("there is no snapshot in {}", bucket.shown()),
        "name the place that store.content of the lost node named, prefix included",
    )
}

/// Whether what the user says of the place makes sense, and is enough.
pub(super) fn check_place(
    bucket: &Bucket,
    order: &SnapshotOrder,
    facts: Option<&PlaceFacts>,
    store: StoreId,
    stores: &[StoreId],
) -> Result<(), BackupError> {
    let Some(facts) = facts else { return Ok(()) };
    let shown = bucket.shown();
    if order.alone && facts.is_shared {
        return Err(BackupError::new(
            format!("{shown} belongs to several stores, and stays so"),
            "leave --alone out, and set store.content.shared: true",
        ));
    }
    // One that has no snapshots came of a restoration that did not end.
    let owner = facts.owner.parse().ok().filter(|owner| stores.contains(owner) && *owner != store);
    if let Some(owner) = owner.filter(|_| order.alone) {
        return Err(BackupError::new(
            format!("{shown} belongs to the store {owner}, and not to the one that is restored"),
            "restore that one with --store, or leave --alone out and set store.content.shared: true",
        ));
    }
    if order.is_its_place && !order.place.shared && facts.is_shared {
        return Err(BackupError::new(
            format!("{shown} belongs to several stores, and is to be the place of the restored one"),
            "set store.content.shared: true, and run this again",
        ));
    }
    if order.is_its_place && !order.alone && !order.place.shared {
        return Err(BackupError::new(
            format!(
                "{shown} belongs to the store that made the snapshots, and is to be the place of the restored one"
            ),
            "if that store is gone for good, say --alone: the place becomes the new one's own; if it may come back, set \
             store.content.shared: true, and nothing is ever deleted there again",
        ));
    }
    Ok(())
}

/// What there is of each store.
pub(super) async fn choices(bucket: &Bucket, parts: &[PartName]) -> Result<Vec<SnapshotChoice>, BackupError> {
    let latest = parts.iter().zip(parts.iter().skip(1).map(Some).chain([None]));
    let latest = latest.filter(|(name, next)| next.is_none_or(|next| next.store != name.store));
    let mut found = Vec::new();
    for (name, _) in latest {
        let (made_at, assets) = match bucket.read_part(name).await {
            Ok(manifest) => (dated(manifest.made_ms), manifest.assets),
            Err(BucketError::Wrong(why)) => (why, 0),
            Err(BucketError::Missing) => continue,
            Err(error) => return Err(unread(bucket, error)),
        };
        found.push(SnapshotChoice { store: name.store.to_string(), made_at, assets });
    }
    Ok(found)
}

/// The latest generations of a store that have a base.
pub(super) async fn generations_of(
    bucket: &Bucket,
    parts: &[PartName],
    store: StoreId,
) -> Result<Vec<FoundGeneration>, BackupError> {
    let mut found: Vec<FoundGeneration> = Vec::new();
    let bases = parts.iter().rev().filter(|name| name.store == store && name.part == 0);
    let Some(oldest) = bases.take(GENERATIONS_MAX).last().map(|name| &name.generation) else {
        return Ok(found);
    };
    let names = parts.iter().filter(|name| name.store == store && name.generation >= *oldest).cloned();
    let mut read = futures::stream::iter(names)
        .map(|name| async move { (bucket.read_part(&name).await, name) })
        .buffered(MANIFESTS_AT_ONCE);
    while let Some((manifest, name)) = read.next().await {
        let manifest = match manifest {
            Ok(manifest) => Ok(manifest),
            Err(BucketError::Wrong(why)) => Err(why),
            Err(BucketError::Missing) => continue,
            Err(error) => return Err(unread(bucket, error)),
        };
        match found.last_mut().filter(|last| last.name == name.generation) {
            Some(last) => last.parts.push(FoundPart { name, manifest }),
            None => found.push(FoundGeneration {
                name: name.generation.clone(),
                parts: vec![FoundPart { name, manifest }],
            }),
        }
    }
    found.retain(|generation| generation.parts.first().is_some_and(|part| part.name.part == 0));
    Ok(found)
}

/// Bytes that are going to be read, if nothing is damaged.
pub(super) fn pending(generations: &[FoundGeneration]) -> u64 {
    let has_base =
        |generation: &FoundGeneration| generation.parts.first().is_some_and(|base| base.manifest.is_ok());
    let first = generations.iter().rposition(has_base).unwrap_or(0);
    generations.iter().skip(first).flat_map(|generation| &generation.parts).map(FoundPart::bytes).sum()
}
