//! Records of folders in the embedded store: read in the order of paths ([`reading`]), merged in the writer's transactions.
//!
//! Every store merges them alike ([`crate::entry::merge()`]): the winner has the path, what loses goes to the history in the same
//! transaction, and what was edited apart gets a path of its own. A live entry keeps its content ([`keeping`]).

use prost::Message as _;
use rusqlite::{OptionalExtension as _, params};

use super::incoming::check_batch_size;
use super::tx::Tx;
use super::{EmbeddedStore, rows, writer};
use crate::entry::{self, EntryDigest, EntryHash, FolderId, FolderMerge, FolderRecord};
use crate::record::LibraryId;
use crate::store::StoreResult;
use crate::store::entries::{EntryOutcome, EntryPut};
use crate::wire::proto::WireEntry;

mod foreign;
mod keeping;
mod reading;

pub(super) use self::foreign::library_of;
pub(super) use self::keeping::{TRASH_IN_FOLDER, is_in_folder, places_of, remove_everywhere};
use self::reading::{FoundEntry, find, record_of};
pub(super) use self::reading::{UnreadableEntries, all_history, changes};

/// Copies that one version may lead to, each of which loses at its own path in turn. What is beyond stays in the history.
const COPIES_MAX: usize = 16;
/// Paths that a folder may have, removed ones included; and the same of versions that lost.
const FOLDER_ROWS_MAX: u64 = 2_000_000;

/// Why a version is not taken that comes from elsewhere than its folder.
const OTHER_SOURCE: &str =
    "its folder comes from elsewhere: what came by a ticket is taken through that library alone";

impl EmbeddedStore {
    pub(super) async fn put_all_entries(&self, puts: Vec<EntryPut>) -> StoreResult<Vec<EntryOutcome>> {
        check_batch_size(puts.len())?;
        let bytes = writer::change_bytes(puts.iter().map(|put| put.record.text_bytes()));
        self.merge_all(bytes, puts, put_entry).await
    }

    pub(super) async fn take_all_entries(
        &self,
        records: Vec<FolderRecord>,
        through: Option<LibraryId>,
    ) -> StoreResult<Vec<EntryOutcome>> {
        check_batch_size(records.len())?;
        let bytes = writer::change_bytes(records.iter().map(FolderRecord::text_bytes));
        self.merge_all(bytes, records, move |tx, record| match record.validate() {
            Ok(()) => {
                let current = find(tx.conn, record.hash())?;
                take(tx, current, record, through)
            }
            Err(broken) => Ok(EntryOutcome::Rejected(broken.to_string())),
        })
        .await
    }

    /// Merges in one transaction. What it names and was deleted comes back later ([`keeping`]).
    async fn merge_all<T: Send + 'static>(
        &self,
        bytes: u64,
        items: Vec<T>,
        mut merge: impl FnMut(&mut Tx<'_>, T) -> rusqlite::Result<EntryOutcome> + Send + 'static,
    ) -> StoreResult<Vec<EntryOutcome>> {
        let merged = self.submit_growing(bytes, move |tx| {
            let outcomes = items.into_iter().map(|item| merge(tx, item)).collect::<Result<Vec<_>, _>>()?;
            Ok(Ok((outcomes, std::mem::take(&mut tx.targets_deleted))))
        });
        let (outcomes, targets_deleted) = merged.await?;
        if targets_deleted {
            self.0.shared.targets_deleted.notify_one();
        }
        Ok(outcomes)
    }
}

/// Takes a version that is written here, if what is there is what it names.
fn put_entry(tx: &mut Tx<'_>, put: EntryPut) -> rusqlite::Result<EntryOutcome> {
    let EntryPut { record, expects } = put;
    if let Err(broken) = record.validate() {
        return Ok(EntryOutcome::Rejected(broken.to_string()));
    }
    let current = find(tx.conn, record.hash())?;
    let found = current.as_ref().and_then(|current| current.record.as_ref());
    if found.map(FolderRecord::digest) != expects {
        return Ok(EntryOutcome::Changed(current.and_then(|current| current.record).map(Box::new)));
    }
    if found.is_some_and(|found| !record.supersedes(found)) {
        let why = "it is not later than the version that it is to follow";
        return Ok(EntryOutcome::Rejected(why.into()));
    }
    take(tx, current, record, None)
}

/// Merges a version that came through this library into what is at its path, and the copies that it leads to.
fn take(
    tx: &mut Tx<'_>,
    current: Option<FoundEntry>,
    record: FolderRecord,
    through: Option<LibraryId>,
) -> rusqlite::Result<EntryOutcome> {
    if foreign::library_of(tx.conn, record.folder())? != through {
        return Ok(EntryOutcome::Rejected(OTHER_SOURCE.into()));
    }
    if is_known(current.as_ref(), &record) {
        return Ok(EntryOutcome::Unchanged);
    }
    if let Some(why) = fullness(tx, record.folder(), current.is_none())? {
        return Ok(EntryOutcome::Rejected(why));
    }
    let (is_stored, mut copy) = merge_into(tx, current, record)?;
    for _ in 0..COPIES_MAX {
        let Some(next) = copy.take() else { break };
        (_, copy) = merge_one(tx, next)?;
    }
    Ok(if is_stored { EntryOutcome::Stored } else { EntryOutcome::Unchanged })
}

/// Takes what a snapshot has of a path: the version that won, and versions that lost; whether the first one was taken.
pub(super) fn take_back(
    tx: &mut Tx<'_>,
    record: Option<FolderRecord>,
    history: Vec<FolderRecord>,
) -> rusqlite::Result<bool> {
    for lost in history {
        if fullness(tx, lost.folder(), false)?.is_none() {
            let is_news = keep_history(tx, lost.hash(), &lost)?;
            count(tx, lost.folder(), 0, u32::from(is_news))?;
        }
    }
    let Some(record) = record else { return Ok(true) };
    let current = find(tx.conn, record.hash())?;
    Ok(!matches!(take(tx, current, record, None)?, EntryOutcome::Rejected(_)))
}

/// Whether this very version is at its path.
fn is_known(current: Option<&FoundEntry>, record: &FolderRecord) -> bool {
    let known = current.and_then(|current| current.record.as_ref());
    known.is_some_and(|known| known.digest() == record.digest())
}

/// Merges one version: whether it is what the folder has now, and the copy that is to be merged in turn.
fn merge_one(tx: &mut Tx<'_>, record: FolderRecord) -> rusqlite::Result<(bool, Option<FolderRecord>)> {
    let current = find(tx.conn, record.hash())?;
    if is_known(current.as_ref(), &record) { Ok((false, None)) } else { merge_into(tx, current, record) }
}

/// The same of one that is not at its path, into what is there.
fn merge_into(
    tx: &mut Tx<'_>,
    current: Option<FoundEntry>,
    record: FolderRecord,
) -> rusqlite::Result<(bool, Option<FolderRecord>)> {
    let (hash, digest, folder) = (record.hash(), record.digest(), record.folder());
    let (seq, current) = current.map_or((None, None), |current| (Some(current.seq), current.record));
    let FolderMerge { winner, history, copy } = entry::merge(current.as_ref(), record);
    if let Some(lost) = history {
        let is_news = keep_history(tx, hash, &lost)?;
        count(tx, folder, 0, u32::from(is_news))?;
    }
    let is_stored = winner.digest() == digest;
    if is_stored {
        write(tx, seq, hash, &winner)?;
        count(tx, folder, u32::from(seq.is_none()), 0)?;
        tx.targets_deleted |= match (&winner, winner.target()) {
            // Its entries may have come before it.
            (FolderRecord::Definition(_), _) => seq.is_none(),
            (FolderRecord::Entry(_), Some(target)) => keeping::is_to_come_back(tx, target)?,
            (FolderRecord::Entry(_), None) => false,
        };
    }
    Ok((is_stored, copy.map(FolderRecord::Entry)))
}

fn keep_history(tx: &Tx<'_>, hash: EntryHash, lost: &FolderRecord) -> rusqlite::Result<bool> {
    let EntryDigest(digest) = lost.digest();
    let added = tx
        .conn
        .prepare_cached(
            "INSERT OR IGNORE INTO entry_history (hash, hlc, digest, entry) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            hash.0,
            lost.hlc().0.cast_signed(),
            digest,
            WireEntry::from(lost).encode_to_vec()
        ])?;
    Ok(added > 0)
}

fn count(tx: &Tx<'_>, FolderId(folder): FolderId, entries: u32, history: u32) -> rusqlite::Result<()> {
    if entries + history > 0 {
        tx.conn
            .prepare_cached(
                "INSERT INTO entry_counts (folder, entries, history) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (folder) DO UPDATE SET entries = entries + ?2, history = history + ?3",
            )?
            .execute(params![folder, entries, history])?;
    }
    Ok(())
}

/// Why a folder takes no version more, of a path that `is_new` or not, if it is full. A copy goes over the bound: what makes it is in the
/// history by then.
fn fullness(tx: &Tx<'_>, FolderId(folder): FolderId, is_new: bool) -> rusqlite::Result<Option<String>> {
    let counts = tx
        .conn
        .prepare_cached("SELECT entries, history FROM entry_counts WHERE folder = ?1")?
        .query_row([folder], |row| Ok((rows::unsigned(row, 0)?, rows::unsigned(row, 1)?)))
        .optional()?;
    let Some((entries, history)) = counts else { return Ok(None) };
    let full = |what: &str| {
        let folder = data_encoding::HEXLOWER.encode(&folder);
        Some(format!("the folder {folder} is full: it has {FOLDER_ROWS_MAX} {what}, and no more are kept"))
    };
    if history >= FOLDER_ROWS_MAX {
        return Ok(full("former versions of its files"));
    }
    if entries >= FOLDER_ROWS_MAX && is_new {
        return Ok(full("paths, removed ones included"));
    }
    Ok(None)
}

/// Writes a version under the next number, in place of the one under `earlier`.
fn write(
    tx: &mut Tx<'_>,
    earlier: Option<u64>,
    hash: EntryHash,
    record: &FolderRecord,
) -> rusqlite::Result<()> {
    if let Some(seq) = earlier {
        tx.conn.prepare_cached("DELETE FROM entries WHERE seq = ?1")?.execute([seq.cast_signed()])?;
    }
    tx.totals.last_seq += 1;
    tx.totals.changes += 1;
    tx.conn
        .prepare_cached(
            "INSERT INTO entries (seq, hash, folder, path, target, entry) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            tx.totals.last_seq.cast_signed(),
            hash.0,
            record.folder().0,
            entry::composed(record.path()).as_bytes(),
            record.target().map(|target| target.0),
            WireEntry::from(record).encode_to_vec(),
        ])
        .map(drop)
}
