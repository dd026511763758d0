//! Taking what a snapshot has into a store that is made of it.
//!
//! A content that was here, and is not in the snapshot itself, is *absent* and wanted: it keeps the BLAKE3 that was made of it, so that
//! it is looked for in the bucket, and counts once all of it was read there and is right.

use bytes::{Buf as _, Bytes};
use prost::encoding::decode_varint;

use super::super::merge::{self, Absence, WholeInTrash};
use super::super::tx::{Tx, Verified, VerifiedBytes};
use super::super::{EmbeddedStore, INLINE_BYTES_MAX, entries, incoming::blocking, own_names, writer};
use super::items::record_of;
use crate::entry::FolderRecord;
use crate::record::AssetRecord;
use crate::store::sync_wire::holding_of;
use crate::store::{Holding, ItemOutcome, StoreError, StoreResult};
use crate::wire::decode::decode;
use crate::wire::proto::{SnapshotItem, WireEntry, WireFeedEntry};

/// Longest item: a record with a small content, or some versions of an entry.
const ITEM_BYTES_MAX: usize = 512 << 10;
/// Items that one transaction takes, and bytes of them.
const ITEMS_AT_ONCE: usize = 1000;
const BYTES_AT_ONCE: usize = 4 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct TakenItems {
    /// Items that are none by today's rules or do not fit what was taken before, and were passed over.
    pub(crate) passed_over: u64,
}

enum Item {
    Asset(Box<AssetItem>),
    Entry { record: Option<Box<FolderRecord>>, history: Vec<FolderRecord> },
}

struct AssetItem {
    record: AssetRecord,
    holding: Holding,
    content: Option<Verified>,
    own_names: Vec<String>,
}

impl EmbeddedStore {
    /// Takes the items of a chunk of a snapshot, whose bytes are those that were written.
    ///
    /// # Errors
    /// The errors of writing; [`StoreError::Invalid`] where it is no row of items at all.
    pub(crate) async fn take_snapshot(&self, chunk: Bytes) -> StoreResult<TakenItems> {
        let mut rest = chunk;
        let mut taken = TakenItems::default();
        while !rest.is_empty() {
            let read = blocking("read a snapshot", move || {
                let batch = batch_of(&mut rest)?;
                Ok((batch, rest))
            });
            let ((items, bytes), left) = read.await?;
            rest = left;
            let count = items.len() as u64;
            let items: Vec<Item> = items.into_iter().flatten().collect();
            taken.passed_over += count - items.len() as u64;
            let texts = items.iter().map(|_| bytes / ITEMS_AT_ONCE);
            let growth = usize::try_from(writer::change_bytes(texts) / 2).unwrap_or(usize::MAX);
            let refused = self.submit(Vec::new(), growth, move |tx| {
                let mut refused = 0;
                for item in items {
                    refused += u64::from(!take(tx, item)?);
                }
                Ok(Ok(refused))
            });
            taken.passed_over += refused.await?;
        }
        Ok(taken)
    }
}

/// Reads the next items, `None` for what is none by today's rules, and how many bytes they had.
fn batch_of(rest: &mut Bytes) -> StoreResult<(Vec<Option<Item>>, usize)> {
    let malformed = || StoreError::Invalid("it is no snapshot".into());
    let (mut items, before) = (Vec::new(), rest.len());
    while !rest.is_empty() && items.len() < ITEMS_AT_ONCE && before - rest.len() < BYTES_AT_ONCE {
        let length = decode_varint(rest).ok().and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| *length <= ITEM_BYTES_MAX && *length <= rest.remaining());
        let item = rest.split_to(length.ok_or_else(malformed)?);
        let read = decode::<SnapshotItem>(item).map_err(|error| error.to_string()).and_then(item_of);
        if let Err(why) = &read {
            tracing::warn!(why, "an item of a snapshot is passed over");
        }
        items.push(read.ok());
    }
    Ok((items, before - rest.len()))
}

/// Whether each item of a chunk is one by today's rules.
///
/// # Errors
/// [`StoreError::Invalid`] where it is no row of items at all.
pub(in crate::store) fn items_of(mut chunk: Bytes) -> StoreResult<Vec<bool>> {
    let mut items = Vec::new();
    while !chunk.is_empty() {
        items.extend(batch_of(&mut chunk)?.0.iter().map(Option::is_some));
    }
    Ok(items)
}

fn item_of(item: SnapshotItem) -> Result<Item, String> {
    let SnapshotItem { change, content, own_names, history } = item;
    let entry_of = |wire: WireEntry| FolderRecord::try_from(wire).map_err(|error| error.to_string());
    let history = history.into_iter().map(entry_of).collect::<Result<_, _>>()?;
    let Some(WireFeedEntry { record, holding, entry, .. }) = change else {
        return Ok(Item::Entry { record: None, history });
    };
    if let Some(entry) = entry {
        return Ok(Item::Entry { record: Some(Box::new(entry_of(entry)?)), history });
    }
    let record = record_of(record.ok_or("it says nothing")?)?;
    let holding = holding_of(holding).ok_or("it does not say whether its content was there")?;
    let content = content.map(|bytes| content_of(&record, bytes)).transpose()?;
    Ok(Item::Asset(Box::new(AssetItem { record, holding, content, own_names })))
}

fn content_of(record: &AssetRecord, bytes: Bytes) -> Result<Verified, String> {
    let size = bytes.len() as u64;
    if size > INLINE_BYTES_MAX || size != record.size || !record.hash.is_of(&bytes) {
        return Err(format!("its bytes are not the content of {}", record.hash));
    }
    let blake3 = *blake3::hash(&bytes).as_bytes();
    Ok(Verified { hash: record.hash, size, blake3, bytes: VerifiedBytes::Inline(bytes) })
}

/// Takes an item; whether it was one to take.
fn take(tx: &mut Tx<'_>, item: Item) -> rusqlite::Result<bool> {
    match item {
        Item::Entry { record, history } => entries::take_back(tx, record.map(|record| *record), history),
        Item::Asset(asset) => take_asset(tx, *asset),
    }
}

fn take_asset(tx: &mut Tx<'_>, item: AssetItem) -> rusqlite::Result<bool> {
    let AssetItem { record, holding, content, own_names } = item;
    let (hash, blake3, size) = (record.hash, record.blake3, record.size);
    let outcome = match content {
        // The store that it was in had no file of a folder for it, even if the removal is in a part that is damaged.
        _ if record.deleted => merge::take_decided_deletion(tx, record)?,
        Some(content) => merge::ingest(tx, record, &content)?,
        None => merge::apply_valid(tx, record, &WholeInTrash::new(), Absence::Taken)?,
    };
    if let ItemOutcome::Rejected(why) = outcome {
        tracing::warn!(%hash, why, "an item of a snapshot is passed over");
        return Ok(false);
    }
    own_names::note(tx.conn, hash, own_names.iter().map(String::as_str))?;
    let Some(stored) = tx.find(hash)?.filter(|stored| !stored.asset.record.deleted && stored.place.is_none())
    else {
        return Ok(true);
    };
    // What was made of the content itself stays known of it.
    if let Some(blake3) =
        blake3.filter(|_| stored.asset.record.blake3.is_none() && stored.asset.record.size == size)
    {
        tx.conn
            .prepare_cached("UPDATE records SET blake3 = ?2 WHERE hash = ?1")?
            .execute((hash.0, blake3))?;
    }
    let is_wanted = holding != Holding::Unwanted;
    if is_wanted != (stored.asset.holding == Holding::Wanted) {
        // Read again, with what was just written.
        let stored = tx.find(hash)?.unwrap_or(stored);
        tx.put_absent(&stored, is_wanted)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::sync_wire::put;

    fn all(bytes: &[u8]) -> StoreResult<Vec<bool>> {
        items_of(Bytes::copy_from_slice(bytes))
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_passed_over(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = all(&bytes);
        }
    }

    #[test]
    fn what_is_longer_than_any_item_is_refused_before_it_is_read() {
        let mut bytes = Vec::new();
        let item = SnapshotItem { content: Some(vec![0; ITEM_BYTES_MAX].into()), ..SnapshotItem::default() };
        put(&mut bytes, &item);
        assert!(all(&bytes).is_err());
        assert!(all(&[0xff, 0xff, 0xff, 0xff, 0x7f]).is_err());
    }

    #[test]
    fn an_item_that_is_none_does_not_take_the_others_with_it() {
        let mut bytes = Vec::new();
        put(&mut bytes, &SnapshotItem::default());
        put(&mut bytes, &SnapshotItem { change: Some(WireFeedEntry::default()), ..SnapshotItem::default() });
        put(&mut bytes, &SnapshotItem::default());
        assert_eq!(all(&bytes), Ok(vec![true, false, true]));
    }
}
