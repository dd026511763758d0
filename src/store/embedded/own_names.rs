//! The names that users of this store gave contents: a table of its own, of which nobody else hears. They are written into versions
//! of others that were made without knowing of them ([`keep_names`]), until somebody takes them away.

use rusqlite::Connection;

use super::rows::{ContentPlace, StoredRow};
use super::tx::Tx;
use super::types::StoredAsset;
use crate::record::{AssetMeta, AssetRecord, ContentHash, NAME_BYTES_MAX, keep_names, with_names};

/// Names of one content that are kept: twice as many as a record may have, since those of one version may have to wait for room
/// in another.
const KEPT_MAX: i64 = 34;

/// Names that users here gave this content.
pub(super) fn of(conn: &Connection, hash: ContentHash) -> rusqlite::Result<Vec<String>> {
    conn.prepare_cached("SELECT name FROM own_names WHERE hash = ?1 ORDER BY name")?
        .query_map([hash.0], |row| row.get(0))?
        .collect()
}

/// Notes that a user here gave the content these names.
pub(super) fn note<'a>(
    conn: &Connection,
    hash: ContentHash,
    names: impl IntoIterator<Item = &'a str>,
) -> rusqlite::Result<()> {
    for name in names.into_iter().filter(|name| name.len() <= NAME_BYTES_MAX) {
        conn.prepare_cached(
            "INSERT OR IGNORE INTO own_names (hash, name) \
             SELECT ?1, ?2 WHERE (SELECT count(*) FROM own_names WHERE hash = ?1) < ?3",
        )?
        .execute((hash.0, name, KEPT_MAX))?;
    }
    Ok(())
}

fn forget(conn: &Connection, hash: ContentHash, name: &str) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM own_names WHERE hash = ?1 AND name = ?2")?
        .execute((hash.0, name))
        .map(drop)
}

/// Forgets those of `own`, the names that users here gave the content, that a user takes away.
pub(super) fn forget_dropped(
    conn: &Connection,
    hash: ContentHash,
    own: &[String],
    is_dropped: impl Fn(&str) -> bool,
) -> rusqlite::Result<()> {
    own.iter().filter(|name| is_dropped(name)).try_for_each(|name| forget(conn, hash, name))
}

pub(super) fn forget_all(conn: &Connection, hash: ContentHash) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM own_names WHERE hash = ?1")?.execute([hash.0]).map(drop)
}

/// What is said in a version that a user here writes, with the names that users here gave the content and nobody took away.
pub(super) fn restored(conn: &Connection, record: &AssetRecord) -> rusqlite::Result<AssetMeta> {
    let own = of(conn, record.hash)?;
    Ok(with_names(record, &own).unwrap_or_else(|| record.meta.clone()))
}

/// As [`Tx::put`], for a version that came from outside and has won: written once more, as one of ours, where it lacks names that
/// users here gave the content.
pub(super) fn put_winner(
    tx: &mut Tx<'_>,
    old: Option<&StoredRow>,
    record: AssetRecord,
    place: Option<ContentPlace>,
) -> rusqlite::Result<StoredAsset> {
    let kept = keep_names(&record, &of(tx.conn, record.hash)?, tx.writer);
    for name in &kept.gone {
        forget(tx.conn, record.hash, name)?;
    }
    match kept.again {
        Some(again) => tx.put_after(record.hlc, old, again, place),
        None => tx.put(old, record, place),
    }
}
