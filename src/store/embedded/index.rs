//! What lists and searches go by: derived from the records, and kept in step by the writer in the same transaction.
//!
//! - Every live record has a *list key* ([`keys`]): an integer whose order is that of creation. All else is keyed by it, so
//!   that whatever matches one condition comes in the order of the list, and two conditions are met by going along both.
//! - `facets` names what records can be asked for as a whole (a tag, a media type, an application, a user, whether content
//!   is held) and counts the live records of each; `faceted` has their keys ([`facets`]).
//! - `words` is an index of FTS5 over the trigrams of names and descriptions ([`grams`]). A word is found by its trigrams in a
//!   row: what matches is exactly what has the word in it. The latest records are added in batches ([`words`]).
//!
//! A database of before there was an index gets it in the background ([`build`]); until then, lists go by the records alone.

use rusqlite::Connection;

use self::facets::FacetChanges;
use self::words::{WordChanges, empty_words};
use super::rows::{StoredRow, searched_text};
use super::types::StoredAsset;
use crate::record::ContentHash;

pub(super) mod build;
pub(super) mod facets;
pub(super) mod grams;
pub(super) mod keys;
pub(super) mod words;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum IndexStage {
    /// Nothing that lists could go by.
    Building,
    WithoutWords,
    Built,
}

impl IndexStage {
    pub(super) fn read(conn: &Connection) -> rusqlite::Result<Self> {
        let stage: i64 =
            conn.prepare_cached("SELECT index_stage FROM state")?.query_row([], |row| row.get(0))?;
        Ok(match stage {
            0 => Self::Building,
            1 => Self::WithoutWords,
            _ => Self::Built,
        })
    }

    pub(super) fn write(self, conn: &Connection) -> rusqlite::Result<()> {
        conn.prepare_cached("UPDATE state SET index_stage = ?1")?.execute([self as i64]).map(drop)
    }
}

/// What a transaction changes of the index, as far as that is written at its end.
pub(super) struct IndexChanges {
    pub(super) facets: FacetChanges,
    pub(super) words: WordChanges,
}

/// Whether FTS5 says that its own tables make no sense: they are no more than an index.
pub(super) fn is_garbled(error: &rusqlite::Error) -> bool {
    let extended = error.sqlite_error().map(|error| error.extended_code);
    extended == Some(rusqlite::ffi::SQLITE_CORRUPT_VTAB)
}

/// Brings the index to what is said of an asset from now on; the key that its row gets.
pub(super) fn update(
    conn: &Connection,
    changes: &mut IndexChanges,
    old: Option<&StoredRow>,
    new: &StoredAsset,
) -> rusqlite::Result<Option<i64>> {
    let before = old.and_then(|old| Some((old.list_key?, &old.asset)));
    if new.record.deleted {
        if let Some((key, old)) = before {
            changes.facets.remove(conn, key, &facets::of(old))?;
            changes.words.remove(key, &old.record);
        }
        return Ok(None);
    }
    let wanted = facets::of(new);
    match before {
        Some((key, old)) if old.record.meta.created_at_ms == new.record.meta.created_at_ms => {
            let had = facets::of(old);
            changes.facets.remove(conn, key, &had.difference(&wanted).cloned().collect())?;
            changes.facets.add(conn, key, &wanted.difference(&had).cloned().collect())?;
            if searched_text(&old.record.meta) != searched_text(&new.record.meta) {
                changes.words.remove(key, &old.record);
            }
            Ok(Some(key))
        }
        before => {
            if let Some((key, old)) = before {
                changes.facets.remove(conn, key, &facets::of(old))?;
                changes.words.remove(key, &old.record);
            }
            let key = keys::assign(conn, new.record.meta.created_at_ms)?;
            changes.facets.add(conn, key, &wanted)?;
            Ok(Some(key))
        }
    }
}

/// Adds what is missing of a record; words are another matter.
pub(super) fn mend(
    conn: &Connection,
    changes: &mut IndexChanges,
    stored: &StoredRow,
) -> rusqlite::Result<()> {
    let (wanted, created_at_ms) = (facets::of(&stored.asset), stored.asset.record.meta.created_at_ms);
    let key = match stored.list_key {
        Some(key) => key,
        None if stored.asset.record.deleted => return Ok(()),
        None => {
            let key = keys::assign(conn, created_at_ms)?;
            changes.words.replace(key, Some(&stored.asset.record));
            key
        }
    };
    let kept = (!stored.asset.record.deleted).then_some(key);
    conn.prepare_cached("UPDATE records SET list_key = ?2 WHERE seq = ?1")?
        .execute((stored.asset.seq.cast_signed(), kept))?;
    let missing = wanted.into_iter().filter_map(|facet| match facets::has(conn, key, &facet) {
        Ok(true) => None,
        Ok(false) => Some(Ok(facet)),
        Err(error) => Some(Err(error)),
    });
    changes.facets.add(conn, key, &missing.collect::<Result<_, _>>()?)
}

pub(super) fn hash_of(conn: &Connection, key: i64) -> rusqlite::Result<Option<ContentHash>> {
    use rusqlite::OptionalExtension as _;
    conn.prepare_cached("SELECT hash FROM records WHERE list_key = ?1")?
        .query_row([key], |row| row.get(0).map(ContentHash))
        .optional()
}
