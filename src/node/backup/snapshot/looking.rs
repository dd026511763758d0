//! What there is of snapshots in a place, and what is said where that is not enough.

use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;

use super::super::BackupError;
use super::{SnapshotChoice, SnapshotOrder};
use crate::clock::rfc3339;
use crate::store::bucket::marker::PlaceFacts;
use crate::store::bucket::snapshots::{PartName, SnapshotManifest};
use crate::store::bucket::{Bucket, BucketError, BucketPatience};
use crate::store::{StoreError, StoreId};

const MANIFESTS_AT_ONCE: usize = 16;
/// Generations back to which is looked for a base that is right.
const GENERATIONS_MAX: usize = 4;

/// A generation of the store's snapshots that has a base: the names of its parts, by number. What their manifests say is read where it is
/// needed, and not kept: there may be many, and each may be long.
pub(super) struct FoundGeneration {
    pub(super) parts: Vec<PartName>,
}

/// How people know a part whose manifest nobody could read.
pub(super) fn undated(name: &PartName) -> String {
    format!("{}, part {}", name.generation, name.part)
}

/// The manifest of a part, or why it cannot be used.
pub(super) async fn manifest_of(
    bucket: &Bucket,
    name: &PartName,
) -> Result<Result<SnapshotManifest, String>, BackupError> {
    match bucket.read_part(name).await {
        Ok(manifest) => Ok(Ok(manifest)),
        Err(BucketError::Wrong(why)) => Ok(Err(why)),
        Err(BucketError::Missing) => Ok(Err("its manifest is not there any more".into())),
        Err(error) => Err(unread(bucket, error)),
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

pub(super) async fn choices(bucket: &Bucket, parts: &[PartName]) -> Result<Vec<SnapshotChoice>, BackupError> {
    let latest = parts.iter().zip(parts.iter().skip(1).map(Some).chain([None]));
    let latest = latest.filter(|(name, next)| next.is_none_or(|next| next.store != name.store));
    let mut found = Vec::new();
    for (name, _) in latest {
        let (made_at, assets) = match bucket.read_part(name).await {
            Ok(manifest) => (dated(manifest.facts.made_ms), manifest.facts.assets),
            Err(BucketError::Wrong(why)) => (why, 0),
            Err(BucketError::Missing) => continue,
            Err(error) => return Err(unread(bucket, error)),
        };
        found.push(SnapshotChoice { store: name.store.to_string(), made_at, assets });
    }
    Ok(found)
}

/// The latest generations of a store that have a base, from the oldest to the latest.
pub(super) fn generations_of(parts: &[PartName], store: StoreId) -> Vec<FoundGeneration> {
    let mut found: Vec<FoundGeneration> = Vec::new();
    for name in parts.iter().filter(|name| name.store == store) {
        match found.last_mut().filter(|last| last.parts[0].generation == name.generation) {
            Some(last) => last.parts.push(name.clone()),
            None => found.push(FoundGeneration { parts: vec![name.clone()] }),
        }
    }
    found.retain(|generation| generation.parts[0].part == 0);
    found.drain(..found.len().saturating_sub(GENERATIONS_MAX));
    found
}

/// Bytes that are going to be read, if nothing is damaged: of the latest base whose manifest is right, and of what came later.
pub(super) async fn pending(bucket: &Bucket, generations: &[FoundGeneration]) -> Result<u64, BackupError> {
    let mut first = generations.len();
    for (at, generation) in generations.iter().enumerate().rev() {
        if manifest_of(bucket, &generation.parts[0]).await?.is_ok() {
            first = at;
            break;
        }
    }
    let names = generations[first..].iter().flat_map(|generation| &generation.parts);
    let mut sizes = futures::stream::iter(names)
        .map(|name| async move {
            Ok::<_, BackupError>(manifest_of(bucket, name).await?.map_or(0, |manifest| manifest.bytes()))
        })
        .buffered(MANIFESTS_AT_ONCE);
    let mut sum: u64 = 0;
    while let Some(bytes) = sizes.next().await {
        sum = sum.saturating_add(bytes?);
    }
    Ok(sum)
}
