//! What records from peers do to the store. The greater version wins, whatever the order in which versions arrive.

use std::collections::HashSet;

use super::rows::{Held, Place};
use super::tx::{Tx, Verified, VerifiedBytes};
use crate::record::{AssetRecord, ContentHash};
use crate::store::Outcome;

/// Takes a record with its content.
pub(super) fn ingest(
    tx: &mut Tx<'_>,
    record: AssetRecord,
    content: &Verified,
) -> Result<Outcome, rusqlite::Error> {
    // What we computed ourselves beats the sender's hint.
    let record = AssetRecord { blake3: Some(content.blake3), ..record };
    let Some(held) = tx.find(record.hash)? else {
        let place = tx.store_content(content)?;
        tx.put(None, record, Some(place))?;
        return Ok(Outcome::Stored);
    };
    if !held.asset.record.deleted {
        heal(tx, &held, content)?;
        return update(tx, &held, record);
    }
    if !record.supersedes(&held.asset.record) {
        return Ok(Outcome::Unchanged);
    }
    tx.discard_trashed(record.hash)?;
    let place = tx.store_content(content)?;
    tx.put(Some(&held), record, Some(place))?;
    Ok(Outcome::Stored)
}

/// Takes a record without content. `verified` names the content in the trash that was found to be whole just now.
pub(super) fn apply(
    tx: &mut Tx<'_>,
    record: AssetRecord,
    verified: &HashSet<ContentHash>,
) -> Result<Outcome, rusqlite::Error> {
    let Some(held) = tx.find(record.hash)? else {
        if !record.deleted {
            return Ok(Outcome::NeedsContent);
        }
        tx.put(None, record, None)?;
        return Ok(Outcome::Stored);
    };
    if !held.asset.record.deleted {
        return update(tx, &held, record);
    }
    if !record.supersedes(&held.asset.record) {
        return Ok(Outcome::Unchanged);
    }
    if record.deleted {
        tx.put(Some(&held), record, None)?;
        return Ok(Outcome::Stored);
    }
    restore(tx, &held, record, verified)
}

/// A version of a live asset whose content stays, or goes to the trash.
fn update(tx: &mut Tx<'_>, held: &Held, record: AssetRecord) -> Result<Outcome, rusqlite::Error> {
    let mine = &held.asset.record;
    if record.size != mine.size {
        return Ok(wrong_size(&record, mine.size));
    }
    if !record.supersedes(mine) {
        return Ok(Outcome::Unchanged);
    }
    let record = AssetRecord { blake3: mine.blake3, ..record };
    if record.deleted {
        tx.bury(held)?;
        tx.put(Some(held), record, None)?;
    } else {
        tx.put(Some(held), record, held.place)?;
    }
    Ok(Outcome::Stored)
}

/// A live version that wins over our tombstone: the trash may still have the content.
fn restore(
    tx: &mut Tx<'_>,
    held: &Held,
    record: AssetRecord,
    verified: &HashSet<ContentHash>,
) -> Result<Outcome, rusqlite::Error> {
    let Some(trashed) = tx.trashed(record.hash)? else { return Ok(Outcome::NeedsContent) };
    if record.size != trashed.size {
        return Ok(wrong_size(&record, trashed.size));
    }
    let there = trashed.place != Place::File || tx.layout.has_content(record.hash, trashed.size);
    if !there || !verified.contains(&record.hash) {
        return Ok(Outcome::NeedsContent);
    }
    tx.unbury(record.hash)?;
    // The tombstone was made from the live record and carries its own hint on; the new version's is not checked.
    let record = AssetRecord { blake3: held.asset.record.blake3, ..record };
    tx.put(Some(held), record, Some(trashed.place))?;
    Ok(Outcome::Stored)
}

/// Replaces what we hold of a live asset where it is damaged. A file was replaced before the transaction if it was
/// missing or short.
pub(super) fn heal(tx: &Tx<'_>, held: &Held, content: &Verified) -> Result<(), rusqlite::Error> {
    if let (Some(Place::Inline(id)), VerifiedBytes::Inline(bytes)) = (held.place, &content.bytes) {
        tx.conn
            .prepare_cached("UPDATE contents SET data = ?2 WHERE id = ?1 AND data <> ?2")?
            .execute((id, bytes.as_ref()))?;
    }
    Ok(())
}

fn wrong_size(record: &AssetRecord, held: u64) -> Outcome {
    Outcome::Rejected(format!(
        "the record of {} says {} bytes, but its content has {held}",
        record.hash, record.size
    ))
}
