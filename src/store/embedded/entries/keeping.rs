//! What folders have keeps its content. A content is in a folder where a live entry of a folder that has a definition names it: what
//! entries of no known folder name is everybody's to delete, and so is what others' folders name, that came by a ticket.
//!
//! Its asset is not deleted, and comes back where it was deleted before the entry came, as long as the trash has the bytes; what lies in
//! the trash meanwhile is not purged. Bringing back takes reading all of the content, so that a job does it behind the merges, one
//! content at a time: after a merge that names something deleted, when the store opens, and every hour, for what could not be done then.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _};

use super::super::merge::WholeInTrash;
use super::super::tx::Tx;
use super::super::{EmbeddedStore, rows, writer};
use super::foreign::is_own;
use super::merge_one;
use crate::entry::{EntryAuthor, EntryRecord, FolderId, FolderRecord};
use crate::record::{AssetRecord, ContentHash, Hlc, META_BYTES_MAX};
use crate::store::entries::FolderPlaces;
use crate::store::{StoreError, StoreResult};

/// How often the job looks by itself.
const LOOK_INTERVAL: Duration = Duration::from_hours(1);
/// Most paths from which a content is removed at once.
const REMOVALS_MAX: u32 = 100_000;

/// A condition on a row of `entries`: it is of a folder of ours that is known.
macro_rules! keeps {
    () => {
        concat!(
            "EXISTS (SELECT 1 FROM entries AS folders WHERE folders.folder = entries.folder AND folders.path = x'') AND ",
            is_own!()
        )
    };
}

/// Whether a folder has the content `?1`.
const IS_IN_FOLDER: &str =
    concat!("SELECT EXISTS (SELECT 1 FROM entries WHERE target = ?1 AND ", keeps!(), ")");
/// The same as a condition on a row of `trash`.
pub(in super::super) const TRASH_IN_FOLDER: &str =
    concat!("EXISTS (SELECT 1 FROM entries WHERE entries.target = trash.hash AND ", keeps!(), ")");

pub(in super::super) fn is_in_folder(
    conn: &Connection,
    ContentHash(hash): ContentHash,
) -> rusqlite::Result<bool> {
    conn.prepare_cached(IS_IN_FOLDER)?.query_row([hash], |row| row.get(0))
}

/// Where folders of ours have this content now, if one does.
pub(in super::super) fn places_of(
    conn: &Connection,
    hash: ContentHash,
) -> rusqlite::Result<Option<FolderPlaces>> {
    let sql = concat!(
        "SELECT entries.folder, entries.path, folders.entry, count(*) FROM entries \
         JOIN entries AS folders ON folders.folder = entries.folder AND folders.path = x'' \
         WHERE entries.target = ?1 AND ",
        is_own!(),
        " GROUP BY entries.folder ORDER BY entries.folder"
    );
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([hash.0])?;
    let mut places: Option<FolderPlaces> = None;
    while let Some(row) = rows.next()? {
        let paths = rows::unsigned(row, 3)?;
        if let Some(places) = &mut places {
            places.paths += paths;
            continue;
        }
        let name = match super::record_of(row.get(2)?) {
            Ok(FolderRecord::Definition(definition)) => Some(definition.name),
            Ok(FolderRecord::Entry(_)) | Err(_) => None,
        };
        let path = String::from_utf8_lossy(&row.get::<_, Vec<u8>>(1)?).into_owned();
        places = Some(FolderPlaces { hash, folder: FolderId(row.get(0)?), name, path, paths });
    }
    Ok(places)
}

/// Whether a folder has this content, and it was deleted.
pub(super) fn is_to_come_back(tx: &Tx<'_>, target: ContentHash) -> rusqlite::Result<bool> {
    let deleted = tx.find(target)?.is_some_and(|stored| stored.asset.record.deleted);
    Ok(deleted && tx.trashed(target)?.is_some() && is_in_folder(tx.conn, target)?)
}

/// Takes a content out of all folders, known or not: each of its paths gets an entry that was removed.
pub(in super::super) fn remove_everywhere(
    tx: &mut Tx<'_>,
    target: ContentHash,
) -> rusqlite::Result<StoreResult> {
    let found: Vec<Vec<u8>> = tx
        .conn
        .prepare_cached(concat!("SELECT entry FROM entries WHERE target = ?1 AND ", is_own!(), " LIMIT ?2"))?
        .query_map((target.0, REMOVALS_MAX + 1), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    if found.len() > REMOVALS_MAX as usize {
        let why = format!(
            "more than {REMOVALS_MAX} paths of folders have the asset {target}: remove some of the files first"
        );
        return Ok(Err(StoreError::Invalid(why)));
    }
    let author = EntryAuthor { writer: tx.writer, by: String::new(), now_ms: tx.now_ms };
    for entry in found {
        let Ok(FolderRecord::Entry(entry)) = super::record_of(entry) else { continue };
        let place = (entry.folder, &entry.path);
        let removed = EntryRecord::after(Some(&entry), place, None, &author, Hlc::default());
        // It saw what it removes, so that there is no copy of that.
        merge_one(tx, FolderRecord::Entry(removed))?;
    }
    // What cannot be read keeps nothing: its content would come back for ever.
    let sql = concat!("UPDATE entries SET target = NULL WHERE target = ?1 AND ", is_own!());
    tx.conn.prepare_cached(sql)?.execute([target.0])?;
    Ok(Ok(()))
}

impl EmbeddedStore {
    /// Brings back what folders have and was deleted, until the store is closed or nobody has it any more.
    pub(in super::super) async fn keep_targets(self) {
        let (store, wanted) = (Arc::downgrade(&self.0), Arc::clone(&self.0.shared.targets_deleted));
        drop(self);
        let mut damaged = HashSet::new();
        loop {
            let Some(store) = store.upgrade().map(EmbeddedStore) else { return };
            if store.0.turns.is_closed() {
                return;
            }
            if let Err(error) = store.revive_targets(&mut damaged).await {
                tracing::debug!(%error, "deleted contents of folders are not brought back yet");
            }
            drop(store);
            // Early or late, the hour brings it.
            if tokio::time::timeout(LOOK_INTERVAL, wanted.notified()).await.is_err() {
                damaged.clear();
            }
        }
    }

    /// `damaged`: those that are not whole, which are not read again and again.
    async fn revive_targets(&self, damaged: &mut HashSet<ContentHash>) -> StoreResult {
        let mut after = ContentHash([0; 32]);
        loop {
            let next = self.0.shared.readers.run("look for contents of folders in the trash", move |conn| {
                let sql = format!(
                    "SELECT hash FROM trash WHERE hash > ?1 AND {TRASH_IN_FOLDER} \
                     AND EXISTS (SELECT 1 FROM records WHERE records.hash = trash.hash AND deleted = 1) \
                     ORDER BY hash LIMIT 1"
                );
                conn.prepare_cached(&sql)?.query_row([after.0], |row| row.get(0).map(ContentHash)).optional()
            });
            let Some(target) = next.await? else { return Ok(()) };
            after = target;
            if damaged.contains(&target) {
                continue;
            }
            let whole = self.verify_trash(vec![target], |stored| stored.record.deleted).await?;
            if !whole.contains_key(&target) {
                damaged.insert(target);
                tracing::warn!(%target, "a folder has a deleted content that the trash cannot give whole; it stays deleted");
                continue;
            }
            let bytes = writer::change_bytes(std::iter::once(META_BYTES_MAX));
            self.submit_growing(bytes, move |tx| revive(tx, target, &whole).map(Ok)).await?;
        }
    }
}

/// Makes the content of an entry live again where it was deleted and the trash has it whole. Every machine makes the same version of
/// that, to the bit. What a library had, and its members or a user deleted, stays deleted there: naming publishes nothing.
fn revive(tx: &mut Tx<'_>, target: ContentHash, whole: &WholeInTrash) -> rusqlite::Result<()> {
    let (Some(stored), Some(blake3)) = (tx.find(target)?, whole.get(&target)) else { return Ok(()) };
    let Some(trashed) = tx.trashed(target)?.filter(|_| stored.asset.record.deleted) else { return Ok(()) };
    if !is_in_folder(tx.conn, target)? {
        return Ok(());
    }
    tx.unbury(target)?;
    let tombstone = &stored.asset.record;
    let again = tombstone.reasserted(tombstone.hlc);
    let again = if tombstone.via.is_some() { again.outside_libraries() } else { again };
    let record = AssetRecord { deleted: false, size: trashed.size, blake3: Some(*blake3), ..again };
    tx.put(Some(&stored), record, Some(trashed.place))?;
    Ok(())
}
