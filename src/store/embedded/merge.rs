//! What records from peers do to the store. The greater version wins, whatever the order in which versions arrive.

use std::collections::HashMap;

use super::damage::AfterCommit;
use super::entries;
use super::objects::{self, waiting};
use super::own_names::put_winner;
use super::rows::{self, ContentPlace, InlineContent, StoredRow};
use super::tx::{Tx, Verified, VerifiedBytes};
use crate::record::{AssetRecord, ContentHash};
use crate::store::{Holding, ItemOutcome};

/// Takes a record with its content.
pub(super) fn ingest(
    tx: &mut Tx<'_>,
    record: AssetRecord,
    content: &Verified,
) -> rusqlite::Result<ItemOutcome> {
    // What we computed ourselves beats the sender's hint.
    let record = AssetRecord { blake3: Some(content.blake3), ..record };
    let Some(mut stored) = tx.find(record.hash)? else {
        tx.discard_trashed(record.hash)?;
        let place = tx.store_content(content)?;
        put_winner(tx, None, record, Some(place))?;
        return Ok(ItemOutcome::Stored);
    };
    if !stored.asset.record.deleted && stored.place.is_some() {
        heal(tx, &mut stored, content)?;
        return update(tx, &stored, record);
    }
    let mine = &stored.asset.record;
    let wins = record.supersedes(mine);
    if mine.deleted && !wins {
        return Ok(ItemOutcome::Unchanged);
    }
    // A size that was never checked gives way to the one that was.
    if wins || mine.size != content.size {
        let (record, place) = filled(tx, record.keeping_own(mine), content)?;
        put_winner(tx, Some(&stored), record, place)?;
    } else {
        fill(tx, &stored, mine.clone().keeping_own(&record), content)?;
    }
    Ok(ItemOutcome::Stored)
}

/// What becomes of a record that comes without its content, where that is not here either.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Absence {
    Refused,
    /// It is taken, and its content is wanted.
    Taken,
}

/// Content in the trash that was found to be whole just now, with its BLAKE3.
pub(super) type WholeInTrash = HashMap<ContentHash, [u8; 32]>;

/// As [`apply`], where its metadata keeps to the limits.
pub(super) fn apply_valid(
    tx: &mut Tx<'_>,
    record: AssetRecord,
    whole: &WholeInTrash,
    absence: Absence,
) -> rusqlite::Result<ItemOutcome> {
    match record.meta.validate() {
        Ok(()) => apply(tx, record, whole, absence),
        Err(broken) => Ok(ItemOutcome::Rejected(broken.to_string())),
    }
}

/// Takes a record without content.
pub(super) fn apply(
    tx: &mut Tx<'_>,
    record: AssetRecord,
    whole: &WholeInTrash,
    absence: Absence,
) -> rusqlite::Result<ItemOutcome> {
    let Some(stored) = tx.find(record.hash)? else {
        if record.deleted {
            put_winner(tx, None, record, None)?;
            return Ok(ItemOutcome::Stored);
        }
        // The database may have lost the record of a content that is still there.
        let outcome = restore(tx, None, record.clone(), whole)?;
        if outcome != ItemOutcome::NeedsContent {
            return Ok(outcome);
        }
        return take_absent(tx, None, record, absence);
    };
    if !stored.asset.record.deleted {
        return update(tx, &stored, record);
    }
    if !record.supersedes(&stored.asset.record) {
        return Ok(ItemOutcome::Unchanged);
    }
    if record.deleted {
        put_winner(tx, Some(&stored), record, None)?;
        return Ok(ItemOutcome::Stored);
    }
    let record = record.keeping_own(&stored.asset.record);
    let outcome = restore(tx, Some(&stored), record.clone(), whole)?;
    if outcome == ItemOutcome::NeedsContent {
        take_absent(tx, Some(&stored), record, absence)
    } else {
        Ok(outcome)
    }
}

/// A live record whose content is not here.
fn take_absent(
    tx: &mut Tx<'_>,
    old: Option<&StoredRow>,
    record: AssetRecord,
    absence: Absence,
) -> rusqlite::Result<ItemOutcome> {
    if absence == Absence::Refused {
        return Ok(ItemOutcome::NeedsContent);
    }
    // A hint that we did not compute is not passed on as ours.
    put_winner(tx, old, AssetRecord { blake3: None, ..record }, None)?;
    Ok(ItemOutcome::Absent)
}

/// A version of a live asset. Its content stays as it is, or goes to the trash.
fn update(tx: &mut Tx<'_>, stored: &StoredRow, record: AssetRecord) -> rusqlite::Result<ItemOutcome> {
    let mine = &stored.asset.record;
    // Content that was never here may have any size; only what we hashed ourselves has a BLAKE3 in our record.
    let is_size_known = mine.blake3.is_some() || stored.place.is_some();
    if record.size != mine.size && is_size_known {
        return Ok(wrong_size(&record, mine.size));
    }
    if record.supersedes(mine) {
        if record.deleted && entries::is_in_folder(tx.conn, record.hash)? {
            // A file of a folder has it: it stays, later than the deletion. Whoever has the entry and this version writes the same.
            // A library whose members delete it is rid of it all the same.
            let again = mine.reasserted(record.hlc);
            let again = if record.via.is_some() { again.outside_libraries() } else { again };
            tx.put(Some(stored), again, stored.place)?;
            return Ok(ItemOutcome::Unchanged);
        }
        if record.deleted {
            return delete(tx, stored, record);
        }
        let record = AssetRecord { blake3: mine.blake3, ..record.keeping_own(mine) };
        put_winner(tx, Some(stored), record, stored.place)?;
    } else {
        let mine_too = mine.clone().keeping_own(&record);
        if mine_too == *mine {
            return Ok(ItemOutcome::Unchanged);
        }
        tx.put(Some(stored), mine_too, stored.place)?;
    }
    Ok(if stored.place.is_some() { ItemOutcome::Stored } else { ItemOutcome::Absent })
}

/// A live asset becomes a deleted one.
fn delete(tx: &mut Tx<'_>, stored: &StoredRow, record: AssetRecord) -> rusqlite::Result<ItemOutcome> {
    let mine = &stored.asset.record;
    let record = AssetRecord { blake3: mine.blake3, ..record.keeping_own(mine) };
    tx.bury(stored)?;
    put_winner(tx, Some(stored), record, None)?;
    Ok(ItemOutcome::Stored)
}

/// Takes a deletion of which was decided already that no folder keeps the content.
pub(super) fn take_decided_deletion(tx: &mut Tx<'_>, record: AssetRecord) -> rusqlite::Result<ItemOutcome> {
    match tx.find(record.hash)? {
        Some(stored) if !stored.asset.record.deleted && record.supersedes(&stored.asset.record) => {
            match record.meta.validate() {
                Ok(()) => delete(tx, &stored, record),
                Err(broken) => Ok(ItemOutcome::Rejected(broken.to_string())),
            }
        }
        Some(_) | None => apply_valid(tx, record, &WholeInTrash::new(), Absence::Taken),
    }
}

/// Puts content to a record whose content is not here: it was let go, deleted, or never came.
pub(super) fn fill(
    tx: &mut Tx<'_>,
    old: &StoredRow,
    record: AssetRecord,
    content: &Verified,
) -> rusqlite::Result<StoredRow> {
    let (record, place) = filled(tx, record, content)?;
    let asset = tx.put(Some(old), record, place)?;
    Ok(StoredRow { list_key: rows::list_key(tx.conn, asset.seq)?, asset, place })
}

/// Stores content that was not here: the record with what is known of it now, and where it lies.
fn filled(
    tx: &mut Tx<'_>,
    record: AssetRecord,
    content: &Verified,
) -> rusqlite::Result<(AssetRecord, Option<ContentPlace>)> {
    tx.discard_trashed(content.hash)?;
    let place = tx.store_content(content)?;
    tx.after_commit.push(AfterCommit::Trust(content.hash));
    Ok((AssetRecord { blake3: Some(content.blake3), ..record }, Some(place)))
}

/// Lets go of the content of a live asset.
pub(super) fn let_go(tx: &mut Tx<'_>, hash: ContentHash) -> rusqlite::Result<ItemOutcome> {
    match tx.find(hash)? {
        Some(stored) if stored.asset.holding != Holding::Unwanted => {
            tx.bury(&stored)?;
            tx.put_absent(&stored, false)?;
            Ok(ItemOutcome::Absent)
        }
        Some(_) | None => Ok(ItemOutcome::Unchanged),
    }
}

/// Wants the content of a live asset.
pub(super) fn want(
    tx: &mut Tx<'_>,
    hash: ContentHash,
    whole: &WholeInTrash,
) -> rusqlite::Result<ItemOutcome> {
    let Some(stored) = tx.find(hash)?.filter(|stored| !stored.asset.record.deleted) else {
        return Ok(ItemOutcome::Unchanged);
    };
    if stored.asset.holding.is_held() {
        return Ok(ItemOutcome::Unchanged);
    }
    let outcome = restore(tx, Some(&stored), stored.asset.record.clone(), whole)?;
    if outcome == ItemOutcome::Stored {
        return Ok(outcome);
    }
    if stored.asset.holding == Holding::Unwanted {
        tx.put_absent(&stored, true)?;
    }
    Ok(ItemOutcome::NeedsContent)
}

/// A live version of an asset whose content is not here: the trash may still have that.
fn restore(
    tx: &mut Tx<'_>,
    stored: Option<&StoredRow>,
    record: AssetRecord,
    whole: &WholeInTrash,
) -> rusqlite::Result<ItemOutcome> {
    let Some(trashed) = tx.trashed(record.hash)? else { return Ok(ItemOutcome::NeedsContent) };
    if record.size != trashed.size {
        // Of what lies there without a record, nobody has read whether it is whole.
        return Ok(match stored {
            Some(_) => wrong_size(&record, trashed.size),
            None => ItemOutcome::NeedsContent,
        });
    }
    let there = trashed.place != ContentPlace::File || tx.layout.has_content(record.hash, trashed.size);
    let Some(blake3) = whole.get(&record.hash).copied().filter(|_| there) else {
        return Ok(ItemOutcome::NeedsContent);
    };
    tx.unbury(record.hash)?;
    let record = AssetRecord { blake3: Some(blake3), ..record };
    put_winner(tx, stored, record, Some(trashed.place))?;
    Ok(ItemOutcome::Stored)
}

/// Replaces what we hold of a live asset where it is damaged. A file was replaced before the transaction.
pub(super) fn heal(tx: &mut Tx<'_>, stored: &mut StoredRow, content: &Verified) -> rusqlite::Result<()> {
    if let (Some(ContentPlace::Inline(id)), VerifiedBytes::Inline(_)) = (stored.place, &content.bytes) {
        let is_whole = matches!(tx.find_inline(id)?, InlineContent::Bytes(data) if content.hash.is_of(&data));
        if !is_whole {
            let place = tx.store_content(content)?;
            set_place(tx, stored, place)?;
            rows::remove_inline(tx.conn, tx.probe, id)?;
        }
        tx.after_commit.push(AfterCommit::Trust(content.hash));
    }
    if let (Some(place @ (ContentPlace::Inline(_) | ContentPlace::File)), VerifiedBytes::Object) =
        (stored.place, &content.bytes)
    {
        move_to_object(tx, stored, place)?;
    }
    if let (Some(ContentPlace::Object), VerifiedBytes::File) = (stored.place, &content.bytes) {
        move_to_file(tx, stored)?;
    }
    Ok(())
}

/// What is in the bucket, and was found right just now, takes the place of what was here before, which may be damaged by now.
pub(super) fn move_to_object(
    tx: &mut Tx<'_>,
    stored: &mut StoredRow,
    before: ContentPlace,
) -> rusqlite::Result<()> {
    let hash = stored.asset.record.hash;
    set_place(tx, stored, ContentPlace::Object)?;
    match before {
        ContentPlace::Inline(id) => rows::remove_inline(tx.conn, tx.probe, id),
        ContentPlace::File => {
            waiting::unlist(tx.conn, hash)?;
            tx.leave_file(hash)
        }
        ContentPlace::Object => Ok(()),
    }
}

/// The file that came just now takes the place of the object, of which nobody knows whether it is still right. Where contents go up,
/// this one does again.
fn move_to_file(tx: &mut Tx<'_>, stored: &mut StoredRow) -> rusqlite::Result<()> {
    let hash = stored.asset.record.hash;
    set_place(tx, stored, ContentPlace::File)?;
    objects::leave(tx.conn, hash)?;
    waiting::list(tx, hash)
}

fn set_place(tx: &Tx<'_>, stored: &mut StoredRow, place: ContentPlace) -> rusqlite::Result<()> {
    tx.conn
        .prepare_cached("UPDATE records SET content = ?2 WHERE hash = ?1")?
        .execute((stored.asset.record.hash.0, place.to_column()))?;
    stored.place = Some(place);
    Ok(())
}

fn wrong_size(record: &AssetRecord, stored: u64) -> ItemOutcome {
    ItemOutcome::Rejected(format!(
        "the record of {} says {} bytes, but its content has {stored}",
        record.hash, record.size
    ))
}
