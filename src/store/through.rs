//! What a library delivered, for a store that cannot look and write in one transaction: it looks, and then it writes.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use super::{ContentStore, IncomingAsset, IncomingContent, ItemOutcome, StoreResult};
use crate::record::{AssetRecord, ContentHash};

/// Hashes in one question to a store.
const RECORDS_MAX: usize = 1000;

/// Whether a record that came with its content through a library may take the place of what is stored.
pub(crate) fn admits(stored: Option<&AssetRecord>, record: &AssetRecord) -> bool {
    stored.is_none_or(|mine| if mine.deleted { record.supersedes(mine) } else { mine.via == record.via })
}

/// See [`ContentStore::ingest_through`].
pub(super) async fn ingest<S: ContentStore + ?Sized>(
    store: &S,
    batch: Vec<IncomingAsset>,
) -> StoreResult<Vec<Option<ItemOutcome>>> {
    let stored = look(store, batch.iter().map(|asset| asset.record.hash)).await?;
    let (mut admitted, mut outcomes) = (Vec::new(), Vec::with_capacity(batch.len()));
    for asset in batch {
        if admits(stored.get(&asset.record.hash), &asset.record) {
            outcomes.push(None);
            admitted.push((outcomes.len() - 1, asset));
        } else {
            // What the store does not take it does not check either.
            outcomes.push(what_is_wrong(&asset).map(ItemOutcome::Rejected));
        }
    }
    let (places, admitted): (Vec<usize>, Vec<IncomingAsset>) = admitted.into_iter().unzip();
    if !admitted.is_empty() {
        for (place, outcome) in places.into_iter().zip(store.ingest(admitted).await?) {
            outcomes[place] = Some(outcome);
        }
    }
    Ok(outcomes)
}

/// See [`ContentStore::replace`].
pub(super) async fn replace<S: ContentStore + ?Sized>(
    store: &S,
    records: Vec<(AssetRecord, AssetRecord)>,
) -> StoreResult<Vec<Option<ItemOutcome>>> {
    let stored = look(store, records.iter().map(|(record, _)| record.hash)).await?;
    let mut outcomes: Vec<Option<ItemOutcome>> = records.iter().map(|_| None).collect();
    let is_still =
        |over: &AssetRecord| stored.get(&over.hash).is_some_and(|stored| stored.is_version_of(over));
    let admitted = records.into_iter().enumerate().filter(|(_, (_, over))| is_still(over));
    let (places, admitted): (Vec<usize>, Vec<AssetRecord>) =
        admitted.map(|(place, (record, _))| (place, record)).unzip();
    if !admitted.is_empty() {
        for (place, outcome) in places.into_iter().zip(store.apply(admitted).await?) {
            outcomes[place] = Some(outcome);
        }
    }
    Ok(outcomes)
}

async fn look<S: ContentStore + ?Sized>(
    store: &S,
    hashes: impl Iterator<Item = ContentHash>,
) -> StoreResult<HashMap<ContentHash, AssetRecord>> {
    let hashes: Vec<ContentHash> = hashes.collect();
    let mut found = HashMap::with_capacity(hashes.len());
    for some in hashes.chunks(RECORDS_MAX) {
        let stored = store.records(some.to_vec()).await?.into_iter();
        found.extend(stored.map(|stored| (stored.record.hash, stored.record)));
    }
    Ok(found)
}

fn what_is_wrong(IncomingAsset { record, content }: &IncomingAsset) -> Option<String> {
    let (size, hash) = match content {
        IncomingContent::Bytes(bytes) => (bytes.len() as u64, ContentHash(Sha256::digest(bytes).into())),
        IncomingContent::File(file) => (file.size, file.sha256),
    };
    if size != record.size {
        return Some(format!("the record of {} says {} bytes, but {size} came", record.hash, record.size));
    }
    (hash != record.hash).then(|| format!("the content of {} hashes to {hash}", record.hash))
}
