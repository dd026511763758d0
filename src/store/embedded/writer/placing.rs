//! How files get to their places, and out of them again where nothing refers to them.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};

use super::StoreWriter;
use crate::record::ContentHash;
use crate::store::ReceivedFile;
use crate::store::bucket::cache::ContentCache;
use crate::store::embedded::failure::Abort;
use crate::store::embedded::layout::{self, Layout};
use crate::store::embedded::{rows, tx};
use crate::store::groups::GroupSum;

impl StoreWriter {
    /// Puts the files of a group under their names, durably, and says which, with the sums of their groups. One that is there
    /// already is replaced: nobody looked at it since it was stored, and these bytes were hashed just now.
    pub(super) fn place(
        &mut self,
        wanted: Vec<ReceivedFile>,
    ) -> Result<Vec<(ContentHash, Vec<GroupSum>)>, Abort> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        self.has_pending = true;
        let transaction = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for file in &wanted {
            transaction
                .prepare_cached("INSERT OR IGNORE INTO pending_files (hash) VALUES (?1)")?
                .execute([file.sha256.0])?;
        }
        transaction.commit()?;

        let mut dirs = BTreeSet::new();
        let mut placed = Vec::with_capacity(wanted.len());
        let mut moved = Ok(());
        for mut file in wanted {
            let target = self.layout.content(file.sha256);
            placed.push((file.sha256, std::mem::take(&mut file.groups)));
            moved = move_into_place(file, &self.layout, &mut dirs).map_err(|source| Abort::Io {
                action: format!("move content to {}", target.display()),
                source,
            });
            if moved.is_err() {
                break;
            }
        }
        // Also where one failed: nothing is made durable later that is there by then.
        for dir in &dirs {
            layout::sync_dir(dir)
                .map_err(|source| Abort::Io { action: format!("fsync {}", dir.display()), source })?;
        }
        moved.map(|()| placed)
    }

    /// Removes placed files to which nothing refers.
    pub(super) fn clean_pending(&mut self) {
        let cache = self.shared.objects.as_ref().map(|objects| objects.cache.as_ref());
        let cache = cache.filter(|_| self.shared.space.shortage().is_none());
        match clean_pending(&mut self.conn, &self.layout, cache) {
            Ok(removed) => {
                self.has_pending = false;
                tracing::debug!(removed, "removed content that nothing refers to");
            }
            // They stay named, and are looked at again later, at the latest when the store opens.
            Err(abort) if abort.is_fatal() => {
                self.on_abort(abort);
            }
            Err(abort) => tracing::debug!(?abort, "content that nothing refers to is not removed yet"),
        }
    }
}

/// Renames a file into its place and adds the directories that have to be fsynced for that. A directory in its place is set aside.
fn move_into_place(file: ReceivedFile, layout: &Layout, dirs: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    let (hash, target) = (file.sha256, layout.content(file.sha256));
    layout.make_parent(hash, dirs)?;
    dirs.extend(target.parent().map(Path::to_owned));
    match file.path.persist(&target) {
        Err(failed) if target.symlink_metadata().is_ok_and(|meta| meta.is_dir()) => {
            layout.set_aside(hash)?;
            failed.path.persist(&target).map_err(|error| error.error)
        }
        done => done.map_err(|error| error.error),
    }
}

/// Removes the files that `pending_files` names and nothing refers to, then forgets the names. What went to the bucket goes to the cache.
pub(in crate::store::embedded) fn clean_pending(
    conn: &mut Connection,
    layout: &Layout,
    cache: Option<&ContentCache>,
) -> Result<u64, Abort> {
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let hashes: Vec<[u8; 32]> = transaction
        .prepare_cached("SELECT hash FROM pending_files")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut removed = 0;
    for hash in hashes.iter().copied().map(ContentHash) {
        if !tx::refers_to_file(&transaction, hash)? {
            let failed =
                |source| Abort::Io { action: format!("remove {}", layout.content(hash).display()), source };
            if let Some(cache) = cache
                && let Some(size) = size_in_bucket(&transaction, hash)?
            {
                layout.give_to_cache(hash, size, cache).map_err(failed)?;
            }
            layout.remove_content(hash).map_err(failed)?;
            removed += 1;
        }
    }
    if !hashes.is_empty() {
        transaction.execute("DELETE FROM pending_files", [])?;
    }
    transaction.commit()?;
    Ok(removed)
}

fn size_in_bucket(conn: &Connection, hash: ContentHash) -> rusqlite::Result<Option<u64>> {
    conn.prepare_cached("SELECT size FROM records WHERE hash = ?1 AND content = -1")?
        .query_row([hash.0], |row| rows::unsigned(row, 0))
        .optional()
}
