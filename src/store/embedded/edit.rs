//! What users do to the store: upload, change metadata, delete. An edit is dated later than what it edits and carries
//! this store's writer id.

use super::merge::heal;
use super::rows::Held;
use super::tx::{Tx, Verified};
use super::types::{IngestFields, Ingested, MetaPatch, StoredAsset};
use crate::record::{AssetMeta, AssetRecord, ContentHash};
use crate::store::StoreError;

/// Says nothing about content, so that any other media type is better.
pub(super) const UNKNOWN_MIME_TYPE: &str = "application/octet-stream";

/// An answer that leaves the group's transaction as it is, within one that may end it.
type Answer<T> = Result<Result<T, StoreError>, rusqlite::Error>;

/// Takes an upload. `guessed` is the media type if the user gave none.
pub(super) fn ingest(
    tx: &mut Tx<'_>,
    content: &Verified,
    fields: IngestFields,
    guessed: &str,
) -> Answer<Ingested> {
    match tx.find(content.hash)? {
        Some(held) if !held.asset.record.deleted => {
            heal(tx, &held, content)?;
            let merged = merged(held.asset.record.meta.clone(), fields);
            Ok(edit(tx, &held, merged)?.map(|asset| Ingested { asset, new: false }))
        }
        held => {
            let meta = fresh(fields, guessed, tx.now_ms);
            if let Err(broken) = meta.validate() {
                return Ok(Err(StoreError::Invalid(broken.to_string())));
            }
            let mut record = AssetRecord::new(content.hash, content.size, Some(content.blake3), meta);
            if let Some(tombstone) = &held {
                record.hlc = tombstone.asset.record.hlc.next(tx.now_ms);
                record.writer = tx.writer;
                tx.discard_trashed(content.hash)?;
            }
            let place = tx.store_content(content)?;
            let asset = tx.put(held.as_ref(), record, Some(place))?;
            Ok(Ok(Ingested { asset, new: true }))
        }
    }
}

/// Changes the metadata of a live asset.
pub(super) fn patch(tx: &mut Tx<'_>, hash: ContentHash, patch: MetaPatch) -> Answer<StoredAsset> {
    let Some(held) = tx.find(hash)?.filter(|held| !held.asset.record.deleted) else {
        return Ok(Err(StoreError::NotFound(hash)));
    };
    let old = held.asset.record.meta.clone();
    let meta = AssetMeta {
        mime_type: patch.mime_type.unwrap_or(old.mime_type),
        filename: patch.filename.unwrap_or(old.filename),
        application: patch.application.unwrap_or(old.application),
        user: patch.user.unwrap_or(old.user),
        description: patch.description.unwrap_or(old.description),
        tags: patch.tags.map_or(old.tags, AssetMeta::normalise_tags),
        created_at_ms: old.created_at_ms,
    };
    edit(tx, &held, meta)
}

/// Deletes a live asset; its content goes to the trash.
pub(super) fn delete(tx: &mut Tx<'_>, hash: ContentHash) -> Answer<StoredAsset> {
    let Some(held) = tx.find(hash)?.filter(|held| !held.asset.record.deleted) else {
        return Ok(Err(StoreError::NotFound(hash)));
    };
    let mut record = next_version(tx, &held);
    record.deleted = true;
    tx.bury(&held)?;
    Ok(Ok(tx.put(Some(&held), record, None)?))
}

/// Gives a live asset other metadata. The same metadata again is no edit.
fn edit(tx: &mut Tx<'_>, held: &Held, meta: AssetMeta) -> Answer<StoredAsset> {
    if meta == held.asset.record.meta {
        return Ok(Ok(held.asset.clone()));
    }
    if let Err(broken) = meta.validate() {
        return Ok(Err(StoreError::Invalid(broken.to_string())));
    }
    let record = AssetRecord { meta, ..next_version(tx, held) };
    Ok(Ok(tx.put(Some(held), record, held.place)?))
}

/// The held record, written again by us, now.
fn next_version(tx: &Tx<'_>, held: &Held) -> AssetRecord {
    let old = &held.asset.record;
    AssetRecord { hlc: old.hlc.next(tx.now_ms), writer: tx.writer, ..old.clone() }
}

/// The metadata of a new asset.
fn fresh(fields: IngestFields, guessed: &str, now_ms: u64) -> AssetMeta {
    AssetMeta {
        mime_type: given(fields.mime_type).unwrap_or_else(|| guessed.to_owned()),
        filename: fields.filename,
        application: fields.application,
        user: fields.user,
        tags: AssetMeta::normalise_tags(fields.tags),
        description: fields.description,
        created_at_ms: now_ms,
    }
}

/// The metadata of an asset that is uploaded again: tags are united, and what was absent is filled in.
fn merged(old: AssetMeta, fields: IngestFields) -> AssetMeta {
    let better = given(fields.mime_type).filter(|_| old.mime_type == UNKNOWN_MIME_TYPE);
    AssetMeta {
        mime_type: better.unwrap_or(old.mime_type),
        filename: old.filename.or(fields.filename),
        application: old.application.or(fields.application),
        user: old.user.or(fields.user),
        tags: unite(old.tags, AssetMeta::normalise_tags(fields.tags)),
        description: old.description.or(fields.description),
        created_at_ms: old.created_at_ms,
    }
}

/// Both lists, sorted and without duplicates. What peers wrote is not trimmed.
fn unite(mut tags: Vec<String>, more: Vec<String>) -> Vec<String> {
    tags.extend(more);
    tags.sort_unstable();
    tags.dedup();
    tags
}

/// A media type that says something.
pub(super) fn given(mime_type: Option<String>) -> Option<String> {
    mime_type.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_upload_fills_in_and_replaces_nothing() {
        let old = AssetMeta {
            mime_type: UNKNOWN_MIME_TYPE.into(),
            filename: Some(String::new()),
            tags: vec!["b".into()],
            ..AssetMeta::default()
        };
        let fields = IngestFields {
            mime_type: Some("text/plain".into()),
            filename: Some("other".into()),
            user: Some("ann".into()),
            tags: vec!["a".into(), "b".into()],
            ..IngestFields::default()
        };
        let once = merged(old, fields.clone());
        assert_eq!(once.mime_type, "text/plain");
        assert_eq!(once.filename.as_deref(), Some(""), "an empty name is a name");
        assert_eq!(once.user.as_deref(), Some("ann"));
        assert_eq!(once.tags, ["a", "b"]);
        assert_eq!(merged(once.clone(), fields), once);
        let other = IngestFields { mime_type: Some("image/png".into()), ..IngestFields::default() };
        assert_eq!(merged(once.clone(), other), once);
    }
}
