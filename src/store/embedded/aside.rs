//! What was set aside, and contents that count as not here although their files are in their places: looked at again each time the
//! store opens.
//!
//! The database may be older than the files, and a disk that could not read a file may read it today. So bytes that are right
//! go back to work, and of those that are wrong only what is known to be needed no more is removed: the whole is here,
//! or it was deleted long ago.

use std::io;
use std::path::PathBuf;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use rusqlite::{Connection, params};

use super::EmbeddedStore;
use super::damage::AfterCommit;
use super::examining::{FileIdentity, hash_file};
use super::failure::Abort;
use super::incoming::blocking;
use super::layout::Layout;
use super::objects;
use super::purge::TRASH_KEPT_MS;
use super::rows::{self, ContentPlace};
use super::tx::{self, Tx};
use crate::record::ContentHash;
use crate::store::{Holding, StoreError, StoreResult};

/// Files that are looked at each time the store opens, at most; the others wait for the next time.
const LOOKS_MAX: usize = 10_000;
/// Contents that are found missing at the same time, so that they share a transaction.
const MISSES: usize = 64;
/// Records that are read at once.
const PAGE: i64 = 1000;

/// Puts right what a crash left between a commit and the move of a file, and names what is set aside and has no name in this
/// database. Nothing is removed.
pub(super) fn mend(conn: &Connection, layout: &Layout, now_ms: u64) -> Result<(), Abort> {
    let failed = |action: &str| {
        let action = format!("{action} {}", layout.damaged_dir().display());
        move |source| Abort::Io { action, source }
    };
    let mut statement = conn.prepare("SELECT hash FROM damaged WHERE content = 0")?;
    let named: Vec<ContentHash> =
        statement.query_map([], |row| Ok(ContentHash(row.get(0)?)))?.collect::<Result<_, _>>()?;
    for hash in named {
        if !layout.damaged(hash).exists() && !tx::refers_to_file(conn, hash)? {
            layout.set_aside(hash).map_err(failed("set content aside in"))?;
        }
    }
    for (hash, size) in layout.damaged_files().map_err(failed("list"))? {
        // What is held or deleted has no damaged bytes that are counted; `look_again` finds out about those.
        if rows::find(conn, hash)?.is_some_and(|known| known.place.is_some() || known.asset.record.deleted) {
            continue;
        }
        // The mark of an object in the bucket gives way to that of the file: it is cleaned up once nobody wants the content any more.
        let is_object = "SELECT EXISTS (SELECT 1 FROM damaged WHERE hash = ?1 AND content = -1)";
        if conn.prepare_cached(is_object)?.query_row([hash.0], |row| row.get(0))? {
            objects::leave(conn, hash)?;
        }
        conn.prepare_cached(
            "INSERT INTO damaged (hash, content, size, found_at_ms, reason) VALUES (?1, 0, ?2, ?3, ?4) \
             ON CONFLICT (hash) DO UPDATE SET content = 0 WHERE content IS NULL OR content = -1",
        )?
        .execute(params![
            hash.0,
            size.cast_signed(),
            now_ms.cast_signed(),
            "it was set aside before, and the database did not know of it"
        ])?;
    }
    Ok(())
}

struct Hashed {
    identity: FileIdentity,
    is_right: bool,
}

/// Hashes a file; `None` where there is none, or it cannot be read.
async fn hashed(path: PathBuf, hash: ContentHash, size: u64) -> StoreResult<Option<Hashed>> {
    blocking("look at content again", move || {
        // Before it is opened: what is moved over it afterwards is another one.
        let Some(identity) = FileIdentity::at(&path) else { return Ok(None) };
        let read = hash_file(&path, size);
        Ok(read.ok().map(|(sha256, _)| Hashed { identity, is_right: sha256 == hash }))
    })
    .await
}

impl EmbeddedStore {
    /// Looks at what was set aside, and at files of contents that count as not here.
    pub(super) async fn look_again(self) {
        let looked = async {
            self.look_at_asides().await?;
            self.look_for_absent().await
        };
        if let Err(error) = looked.await {
            tracing::warn!(%error, "what was set aside is looked at when the store opens again");
        }
    }

    /// Sets aside what counts as held in files, and has none.
    pub(super) async fn miss_files(self) {
        let mut after = [0; 32];
        let missed = async {
            loop {
                let read = move |conn: &Connection| in_files_after(conn, after);
                let page = self.0.shared.readers.run("list contents in files", read).await?;
                let Some((last, _)) = page.last() else { return Ok::<_, StoreError>(()) };
                after = last.0;
                let layout = self.0.shared.layout.clone();
                let gone = blocking("look for content", move || {
                    let is_gone = |&(hash, _): &(ContentHash, u64)| {
                        let looked = layout.content(hash).symlink_metadata();
                        looked.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
                    };
                    Ok(page.into_iter().filter(is_gone).collect::<Vec<_>>())
                });
                let examined = gone.await?.into_iter().map(|(hash, _)| self.examine(hash));
                stream::iter(examined).buffer_unordered(MISSES).try_for_each(|_| async { Ok(()) }).await?;
            }
        };
        if let Err(error) = missed.await {
            tracing::warn!(%error, "contents that are missing are noticed when they are read");
        }
    }

    async fn look_at_asides(&self) -> StoreResult {
        let layout = self.0.shared.layout.clone();
        let listed = blocking("list what was set aside", move || {
            layout
                .damaged_files()
                .map_err(|error| StoreError::io(format!("list {}", layout.damaged_dir().display()), error))
        });
        for (hash, size) in listed.await?.into_iter().take(LOOKS_MAX) {
            let _turn = self.0.shared.sums.turn().await;
            let layout = &self.0.shared.layout;
            let Some(aside) = hashed(layout.damaged(hash), hash, size).await? else { continue };
            let in_place = match self.asset(hash).await? {
                Some(asset) if asset.holding.is_held() => {
                    hashed(layout.content(hash), hash, asset.record.size).await?
                }
                Some(_) | None => None,
            };
            self.submit_deletion(move |tx| settle(tx, hash, size, &aside, in_place.as_ref()).map(Ok)).await?;
        }
        Ok(())
    }

    /// Holds contents again that are wanted and lie in their places.
    pub(super) async fn look_for_absent(&self) -> StoreResult {
        let (mut after, mut looks) = ([0; 32], 0);
        loop {
            let min = self.inline_bytes_max();
            let read = move |conn: &Connection| absent_after(conn, after, min);
            let page = self.0.shared.readers.run("list contents that are not here", read).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = last.0;
            let layout = self.0.shared.layout.clone();
            let there = blocking("look for content", move || {
                let is_there = |&(hash, size): &(ContentHash, u64)| layout.has_content(hash, size);
                Ok(page.into_iter().filter(is_there).collect::<Vec<_>>())
            });
            for (hash, size) in there.await? {
                looks += 1;
                if looks > LOOKS_MAX {
                    return Ok(());
                }
                let _turn = self.0.shared.sums.turn().await;
                let found = hashed(self.0.shared.layout.content(hash), hash, size).await?;
                if let Some(found) = found.filter(|found| found.is_right) {
                    self.submit_deletion(move |tx| hold_again(tx, hash, size, &found).map(Ok)).await?;
                }
            }
        }
    }
}

/// Some of the contents that are wanted, in the order of their hashes.
fn absent_after(conn: &Connection, after: [u8; 32], min: u64) -> rusqlite::Result<Vec<(ContentHash, u64)>> {
    conn.prepare_cached(
        "SELECT hash, size FROM records WHERE hash > ?1 AND content IS NULL AND deleted = 0 AND wanted = 1 AND size > ?2 \
         ORDER BY hash LIMIT ?3",
    )?
    .query_map(params![after, min.cast_signed(), PAGE], |row| {
        Ok((ContentHash(row.get(0)?), rows::unsigned(row, 1)?))
    })?
    .collect()
}

pub(super) struct HeldContent {
    pub(super) hash: ContentHash,
    pub(super) size: u64,
    pub(super) place: ContentPlace,
}

/// Some of the contents that are held, in the order of their hashes.
pub(super) fn held_after(conn: &Connection, after: [u8; 32]) -> rusqlite::Result<Vec<HeldContent>> {
    let sql = "SELECT hash, size, content FROM records WHERE hash > ?1 AND content IS NOT NULL ORDER BY hash LIMIT ?2";
    conn.prepare_cached(sql)?
        .query_map(params![after, PAGE], |row| {
            Ok(HeldContent {
                hash: ContentHash(row.get(0)?),
                size: rows::unsigned(row, 1)?,
                place: ContentPlace::from_column(row.get(2)?),
            })
        })?
        .collect()
}

/// Some of the contents that are held in files, in the order of their hashes.
pub(super) fn in_files_after(
    conn: &Connection,
    after: [u8; 32],
) -> rusqlite::Result<Vec<(ContentHash, u64)>> {
    conn.prepare_cached(
        "SELECT hash, size FROM records WHERE hash > ?1 AND content = 0 ORDER BY hash LIMIT ?2",
    )?
    .query_map(params![after, PAGE], |row| Ok((ContentHash(row.get(0)?), rows::unsigned(row, 1)?)))?
    .collect()
}

/// Decides what becomes of a file that was set aside.
fn settle(
    tx: &mut Tx<'_>,
    hash: ContentHash,
    size: u64,
    aside: &Hashed,
    in_place: Option<&Hashed>,
) -> rusqlite::Result<()> {
    let (aside_at, place) = (tx.layout.damaged(hash), tx.layout.content(hash));
    if FileIdentity::at(&aside_at) != Some(aside.identity) {
        return Ok(());
    }
    let put_back = |tx: &Tx<'_>| {
        let done = tx.layout.put_back(hash);
        if let Err(error) = &done {
            tracing::warn!(%hash, %error, "content that is right is not moved back into its place");
        }
        done.is_ok()
    };
    let Some(known) = tx.find(hash)? else {
        // The trash keeps what has no record, until somebody says what it is.
        if aside.is_right && !tx.refers_to_file(hash)? && !place.exists() && put_back(tx) {
            tx::trash_file(tx.conn, hash, size, tx.now_ms)?;
            tx.trash_changed.set(true);
            tx.conn.prepare_cached("DELETE FROM damaged WHERE hash = ?1")?.execute([hash.0])?;
        }
        return Ok(());
    };
    let StoredHere { is_file, is_wanted, is_long_deleted } = StoredHere::of(&known, tx.now_ms);
    if is_file {
        let is_whole = |found: &Hashed| found.is_right && FileIdentity::at(&place) == Some(found.identity);
        if in_place.is_some_and(is_whole) {
            tx.after_commit.push(AfterCommit::Drop(hash));
        } else if aside.is_right && put_back(tx) {
            tx.after_commit.push(AfterCommit::Trust(hash));
        }
    } else if is_wanted && aside.is_right && known.asset.record.size == size && !tx.refers_to_file(hash)? {
        if put_back(tx) {
            tx.put(Some(&known), known.asset.record.clone(), Some(ContentPlace::File))?;
            tx.after_commit.push(AfterCommit::Trust(hash));
        }
    } else if is_long_deleted && !aside.is_right {
        tx.after_commit.push(AfterCommit::Drop(hash));
    }
    Ok(())
}

/// What a record says of its content.
struct StoredHere {
    is_file: bool,
    is_wanted: bool,
    is_long_deleted: bool,
}

impl StoredHere {
    fn of(known: &rows::StoredRow, now_ms: u64) -> Self {
        let asset = &known.asset;
        Self {
            is_file: known.place == Some(ContentPlace::File),
            is_wanted: known.place.is_none()
                && asset.holding == Holding::Wanted
                && asset.record.blake3.is_some(),
            is_long_deleted: asset.record.deleted
                && now_ms.saturating_sub(asset.updated_at_ms) > TRASH_KEPT_MS,
        }
    }
}

/// Makes a content held whose file is in its place, if it is still that file.
fn hold_again(tx: &mut Tx<'_>, hash: ContentHash, size: u64, found: &Hashed) -> rusqlite::Result<()> {
    let Some(known) = tx.find(hash)? else { return Ok(()) };
    let is_wanted = StoredHere::of(&known, tx.now_ms).is_wanted && known.asset.record.size == size;
    let is_same = FileIdentity::at(&tx.layout.content(hash)) == Some(found.identity);
    if is_wanted && is_same && !tx.refers_to_file(hash)? {
        tx.put(Some(&known), known.asset.record.clone(), Some(ContentPlace::File))?;
        tx.after_commit.push(AfterCommit::Trust(hash));
        tracing::info!(%hash, "a content that counted as not here is in its place, and right");
    }
    Ok(())
}
