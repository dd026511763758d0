//! What users do to the store: upload, change metadata, delete. An edit is dated later than what it edits and carries
//! this store's writer id.

use super::entries;
use super::media_type::{PLAIN_TEXT, is_unknown};
use super::merge::{WholeInTrash, fill, heal};
use super::own_names;
use super::rows::StoredRow;
use super::tx::{Tx, Verified};
use super::types::{IngestFields, Ingested, MetaPatch, StoredAsset};
use crate::record::{
    AssetMeta, AssetRecord, ContentHash, HLC_AHEAD_MAX_MS, MetaError, NAMES_MAX, NameOutcome,
};
use crate::store::{Redating, StoreError, StoreResult};

/// Says nothing about content, so that any other media type is better.
pub(super) const UNKNOWN_MIME_TYPE: &str = "application/octet-stream";

/// An answer that leaves the group's transaction as it is, within one that may end it.
type EditResult<T> = rusqlite::Result<StoreResult<T>>;

/// Takes an upload. `guessed` is the media type if the user gave none.
pub(super) fn ingest(
    tx: &mut Tx<'_>,
    content: &Verified,
    fields: IngestFields,
    guessed: &str,
) -> EditResult<Ingested> {
    match tx.find(content.hash)? {
        Some(mut stored) if !stored.asset.record.deleted => {
            let again = PutAgain::new(&stored.asset.record, fields, guessed);
            if let Err(broken) = again.meta.validate() {
                return Ok(Err(StoreError::Invalid(broken.to_string())));
            }
            let new = stored.place.is_none();
            if new {
                stored = filled(tx, &stored, content)?;
            } else {
                heal(tx, &mut stored, content)?;
            }
            again.write(tx, &stored, new)
        }
        stored => ingest_new(tx, stored.as_ref(), content, fresh(fields, guessed, tx.now_ms)),
    }
}

/// Makes a live asset of content that is none, or not any more.
fn ingest_new(
    tx: &mut Tx<'_>,
    tombstone: Option<&StoredRow>,
    content: &Verified,
    meta: AssetMeta,
) -> EditResult<Ingested> {
    if let Err(broken) = meta.validate() {
        return Ok(Err(StoreError::Invalid(broken.to_string())));
    }
    let mut record = AssetRecord::new(content.hash, content.size, Some(content.blake3), meta);
    if let Some(StoredRow { asset, .. }) = tombstone {
        record.hlc = asset.record.hlc.next(tx.now_ms);
        record.writer = tx.writer;
        // Its names went with it. Of those that came through a library, no other one is to hear.
        if asset.record.via.is_none() {
            record.meta.note_dropped(content.hash, &asset.record.meta);
        }
    }
    own_names::note(tx.conn, content.hash, record.meta.all_names())?;
    tx.discard_trashed(content.hash)?;
    let place = tx.store_content(content)?;
    let asset = tx.put_own(tombstone, record, Some(place))?;
    Ok(Ok(Ingested { asset, new: true, changed: true, name: None }))
}

/// As [`ingest`], of content that is here: only what is said about it comes.
pub(super) fn ingest_known(
    tx: &mut Tx<'_>,
    hash: ContentHash,
    fields: IngestFields,
    guessed: &str,
) -> EditResult<Ingested> {
    let Some(stored) = tx.find(hash)? else { return Ok(Err(StoreError::NotFound(hash))) };
    if stored.place.is_none() {
        return Ok(Err(StoreError::NotHeld(hash)));
    }
    let again = PutAgain::new(&stored.asset.record, fields, guessed);
    if let Err(broken) = again.meta.validate() {
        return Ok(Err(StoreError::Invalid(broken.to_string())));
    }
    again.write(tx, &stored, false)
}

/// What content that is here is known by once it was put again.
struct PutAgain {
    meta: AssetMeta,
    /// The name that came with it, and what becomes of it.
    name: Option<(String, NameOutcome)>,
}

impl PutAgain {
    /// When its file was written is no news by itself: it is kept where none is known and there is anything else to write.
    fn new(old: &AssetRecord, mut fields: IngestFields, guessed: &str) -> Self {
        let (name, modified_at_ms) = (said(fields.filename.take()), fields.modified_at_ms);
        let mut meta = merged(old.meta.clone(), fields, guessed);
        let name = name.map(|name| {
            let outcome = meta.add_name(&name);
            (name, outcome)
        });
        if meta != old.meta || old.via.is_some() {
            meta.modified_at_ms = meta.modified_at_ms.or(modified_at_ms);
        }
        Self { meta, name }
    }

    fn write(self, tx: &mut Tx<'_>, stored: &StoredRow, new: bool) -> EditResult<Ingested> {
        let Self { meta, name } = self;
        if let Some((name, NameOutcome::Added | NameOutcome::Known)) = &name {
            own_names::note(tx.conn, stored.asset.record.hash, [name.as_str()])?;
        }
        let (before, name) = (stored.asset.seq, name.map(|(_, outcome)| outcome));
        let ingested =
            |asset: StoredAsset| Ingested { changed: new || asset.seq != before, asset, new, name };
        Ok(edit(tx, stored, meta, NamesGiven::Some)?.map(ingested))
    }
}

/// The live asset whose content was not here, with its content.
fn filled(tx: &mut Tx<'_>, stored: &StoredRow, content: &Verified) -> rusqlite::Result<StoredRow> {
    let old = &stored.asset.record;
    // Peers that have the version with the wrong size have to hear of the right one.
    let record = if old.size == content.size { old.clone() } else { next_version(tx, stored) };
    fill(tx, stored, AssetRecord { size: content.size, ..record }, content)
}

/// A live asset, if it is of one of the versions that a change is meant for.
fn live(tx: &mut Tx<'_>, hash: ContentHash, meant_for: Option<&[String]>) -> EditResult<StoredRow> {
    let Some(stored) = tx.find(hash)?.filter(|stored| !stored.asset.record.deleted) else {
        return Ok(Err(StoreError::NotFound(hash)));
    };
    let tag = stored.asset.version_tag();
    let is_meant = meant_for.is_none_or(|meant| meant.contains(&tag));
    Ok(if is_meant { Ok(stored) } else { Err(StoreError::Changed(hash)) })
}

/// Changes the metadata of a live asset.
pub(super) fn patch(
    tx: &mut Tx<'_>,
    hash: ContentHash,
    patch: MetaPatch,
    meant_for: Option<&[String]>,
) -> EditResult<StoredAsset> {
    let stored = match live(tx, hash, meant_for)? {
        Ok(stored) => stored,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let old = stored.asset.record.meta.clone();
    let filename = patch.filename.map_or(old.filename, said);
    let given = if patch.names.is_some() { NamesGiven::All } else { NamesGiven::Some };
    let names = AssetMeta::further_names(filename.as_deref(), patch.names.unwrap_or(old.names));
    if names.len() > NAMES_MAX {
        return Ok(Err(StoreError::Invalid(MetaError::TooManyNames(names.len()).to_string())));
    }
    let meta = AssetMeta {
        mime_type: patch.mime_type.map_or(old.mime_type, |text| lower_case(&text)),
        filename,
        application: patch.application.map_or(old.application, said),
        user: patch.user.map_or(old.user, said),
        description: patch.description.map_or(old.description, said),
        tags: patch.tags.map_or(old.tags, AssetMeta::normalise_tags),
        created_at_ms: old.created_at_ms,
        names,
        dropped_names: old.dropped_names,
        modified_at_ms: old.modified_at_ms,
    };
    let before = &stored.asset.record.meta;
    let new: Vec<String> =
        meta.all_names().filter(|name| !before.is_named(name)).map(str::to_owned).collect();
    let edited = edit(tx, &stored, meta, given)?;
    if edited.is_ok() {
        own_names::note(tx.conn, hash, new.iter().map(String::as_str))?;
    }
    Ok(edited)
}

/// Deletes a live asset; its content goes to the trash.
pub(super) fn delete(
    tx: &mut Tx<'_>,
    hash: ContentHash,
    meant_for: Option<&[String]>,
) -> EditResult<StoredAsset> {
    let stored = match live(tx, hash, meant_for)? {
        Ok(stored) => stored,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if let Some(places) = entries::places_of(tx.conn, hash)? {
        return Ok(Err(StoreError::InFolder(Box::new(places))));
    }
    bury(tx, hash, &stored)
}

/// Deletes a live asset that folders may have, and removes it from those.
pub(super) fn delete_from_folders(
    tx: &mut Tx<'_>,
    hash: ContentHash,
    meant_for: Option<&[String]>,
) -> EditResult<StoredAsset> {
    let stored = match live(tx, hash, meant_for)? {
        Ok(stored) => stored,
        Err(refusal) => return Ok(Err(refusal)),
    };
    match entries::remove_everywhere(tx, hash)? {
        Ok(()) => bury(tx, hash, &stored),
        Err(refusal) => Ok(Err(refusal)),
    }
}

fn bury(tx: &mut Tx<'_>, hash: ContentHash, stored: &StoredRow) -> EditResult<StoredAsset> {
    // Of which library it was stays written down: no other one is to hear that it was there.
    let via = stored.asset.record.via;
    let record = AssetRecord { deleted: true, via, ..next_version(tx, stored) };
    own_names::forget_all(tx.conn, hash)?;
    tx.bury(stored)?;
    Ok(Ok(tx.put_own(Some(stored), record, None)?))
}

/// Makes a deleted asset live again, with what the trash has of it: an edit like any other, later than the deletion.
pub(super) fn restore(tx: &mut Tx<'_>, hash: ContentHash, whole: &WholeInTrash) -> EditResult<StoredAsset> {
    let Some(stored) = tx.find(hash)? else { return Ok(Err(StoreError::NotFound(hash))) };
    if !stored.asset.record.deleted {
        return Ok(Ok(stored.asset));
    }
    let Some(trashed) = tx.trashed(hash)? else { return Ok(Err(StoreError::NotHeld(hash))) };
    let Some(blake3) = whole.get(&hash) else { return Ok(Err(StoreError::Corrupt(hash))) };
    tx.unbury(hash)?;
    // A deletion that came through a library says nothing of the asset.
    let (size, blake3) = (trashed.size, Some(*blake3));
    let record = AssetRecord { deleted: false, size, blake3, ..next_version(tx, &stored) };
    if stored.asset.record.via.is_none() {
        // The deletion took them away, and the one who restores it gives them again.
        own_names::note(tx.conn, hash, record.meta.all_names())?;
    }
    Ok(Ok(tx.put_own(Some(&stored), record, Some(trashed.place))?))
}

/// Gives a version another date; the version as it was before, unless it stays as it is.
pub(super) fn redate(tx: &mut Tx<'_>, redating: &Redating) -> rusqlite::Result<Option<AssetRecord>> {
    let Some(stored) = tx.find(redating.hash())? else { return Ok(None) };
    let old = &stored.asset.record;
    match redating {
        Redating::Reassert { other, .. } => {
            if old.hlc > *other {
                return Ok(None);
            }
            tx.put(Some(&stored), old.reasserted(*other), stored.place)?;
        }
        Redating::Recall { now_ms, known, .. } => {
            let is_ahead = old.hlc.is_due_in(*now_ms, HLC_AHEAD_MAX_MS).is_some() && old.hlc > *known;
            let before = if is_ahead { tx.before(stored.asset.seq)? } else { None };
            let Some(before) = before else { return Ok(None) };
            let Some(recalled) = old.recalled(before, *now_ms) else { return Ok(None) };
            tx.put_after(before, Some(&stored), recalled, stored.place)?;
        }
    }
    Ok(Some(stored.asset.record))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NamesGiven {
    Some,
    /// All of them: the user who wrote the list wants no others.
    All,
}

/// Gives a live asset other metadata. The same metadata again is no edit, unless it makes ours what came through a
/// library.
fn edit(tx: &mut Tx<'_>, stored: &StoredRow, meta: AssetMeta, given: NamesGiven) -> EditResult<StoredAsset> {
    let old = &stored.asset.record;
    if let Err(broken) = meta.validate() {
        return Ok(Err(StoreError::Invalid(broken.to_string())));
    }
    let own = own_names::of(tx.conn, old.hash)?;
    own_names::forget_dropped(tx.conn, old.hash, &own, |name| {
        !meta.is_named(name) && (given == NamesGiven::All || old.meta.is_named(name))
    })?;
    if meta == old.meta && old.via.is_none() {
        return Ok(Ok(stored.asset.clone()));
    }
    let mut record = AssetRecord { meta, ..next_version(tx, stored) };
    if old.via.is_none() {
        record.meta.note_dropped(old.hash, &old.meta);
    } else {
        // Other libraries get this version: they hear nothing of the names that members of this one gave and took away. A version
        // that came through a library was left without names that users here gave the content.
        let names = own.into_iter().filter(|name| old.meta.is_named(name)).collect();
        record.meta.note_dropped(old.hash, &AssetMeta { names, ..AssetMeta::default() });
        record.meta = own_names::restored(tx.conn, &record)?;
    }
    Ok(Ok(tx.put_own(Some(stored), record, stored.place)?))
}

/// The stored record, written again by us, now: whatever it came through, it is ours from here on.
fn next_version(tx: &Tx<'_>, stored: &StoredRow) -> AssetRecord {
    let old = &stored.asset.record;
    let hlc = old.hlc.next(tx.now_ms);
    let mut meta = old.meta.clone();
    if old.via.is_some() {
        meta.dropped_names.clear();
    }
    AssetRecord { hlc, writer: tx.writer, via: None, own_content: false, meta, ..old.clone() }
}

fn fresh(fields: IngestFields, guessed: &str, now_ms: u64) -> AssetMeta {
    AssetMeta {
        mime_type: given(fields.mime_type).unwrap_or_else(|| lower_case(guessed)),
        filename: said(fields.filename),
        application: said(fields.application),
        user: said(fields.user),
        tags: AssetMeta::normalise_tags(fields.tags),
        description: said(fields.description),
        created_at_ms: now_ms,
        modified_at_ms: fields.modified_at_ms,
        ..AssetMeta::default()
    }
}

/// The metadata of an asset that is uploaded again: tags are united, and what was absent is filled in. Names are another matter
/// ([`PutAgain`]).
fn merged(old: AssetMeta, fields: IngestFields, guessed: &str) -> AssetMeta {
    let guessed = Some(guessed.to_owned()).filter(|guessed| guessed != PLAIN_TEXT);
    let better = given(fields.mime_type).or(guessed).filter(|_| is_unknown(&old.mime_type));
    AssetMeta {
        mime_type: better.unwrap_or(old.mime_type),
        application: filled_in(old.application, fields.application),
        user: filled_in(old.user, fields.user),
        tags: unite(old.tags, AssetMeta::normalise_tags(fields.tags)),
        description: filled_in(old.description, fields.description),
        ..old
    }
}

/// A text that says something: an empty or blank field is as good as none.
fn said(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty())
}

/// What there is, or else what is given now. What peers wrote stays as it is where nothing better is given.
fn filled_in(old: Option<String>, new: Option<String>) -> Option<String> {
    let is_said = old.as_ref().is_some_and(|text| !text.trim().is_empty());
    if is_said { old } else { said(new).or(old) }
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
    mime_type.map(|text| lower_case(text.trim())).filter(|text| !text.is_empty())
}

/// A media type has no case; its parameters may have (RFC 9110, 8.3.1).
fn lower_case(mime_type: &str) -> String {
    let (essence, parameters) = mime_type.split_at(mime_type.find(';').unwrap_or(mime_type.len()));
    essence.to_ascii_lowercase() + parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_upload_fills_in_and_replaces_nothing() {
        let old = AssetMeta {
            mime_type: UNKNOWN_MIME_TYPE.into(),
            filename: Some("  ".into()),
            description: Some(String::new()),
            tags: vec!["b".into()],
            ..AssetMeta::default()
        };
        let fields = IngestFields {
            mime_type: Some("text/plain".into()),
            filename: Some("other".into()),
            user: Some("ann".into()),
            application: Some(" ".into()),
            tags: vec!["a".into(), "b".into()],
            ..IngestFields::default()
        };
        let again = |old: &AssetMeta, fields: &IngestFields, guessed: &str| {
            let record = AssetRecord::new(ContentHash([1; 32]), 1, None, old.clone());
            PutAgain::new(&record, fields.clone(), guessed).meta
        };
        let once = again(&old, &fields, PLAIN_TEXT);
        assert_eq!(once.mime_type, "text/plain");
        assert_eq!(once.filename.as_deref(), Some("other"), "a blank name is none");
        assert_eq!((once.application.as_deref(), once.description.as_deref()), (None, Some("")));
        assert_eq!(once.user.as_deref(), Some("ann"));
        assert_eq!(once.tags, ["a", "b"]);
        assert_eq!(again(&once, &fields, PLAIN_TEXT), once);
        let other = IngestFields { mime_type: Some("image/png".into()), ..IngestFields::default() };
        assert_eq!(again(&once, &other, "image/png"), once);
    }
}
