//! What lists and searches go by: derived from the records, and kept in step by the writer in the same transaction.
//!
//! - Every live record has a *list key* ([`keys`]): an integer whose order is that of creation. All else is keyed by it, so
//!   that whatever matches one condition comes in the order of the list, and two conditions are met by going along both.
//! - `facets` names what records can be asked for as a whole (a tag, a media type, an application, a user, whether content
//!   is held) and counts the live records of each; `faceted` has their keys ([`facets`]).
//! - `words` is an index of FTS5 over the trigrams of names and descriptions ([`grams`]). A word is found by its trigrams in a
//!   row: what matches is exactly what has the word in it.
//!
//! A database of before there was an index gets it in the background ([`build`]); until then, lists go by the records alone.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::rows::{self, StoredRow};
use super::types::StoredAsset;
use crate::record::{AssetRecord, ContentHash};

pub(super) mod build;
pub(super) mod facets;
pub(super) mod grams;
pub(super) mod keys;

/// How much of the index there is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum IndexStage {
    /// Nothing that lists could go by.
    Building,
    /// All but the words.
    WithoutWords,
    Built,
}

impl IndexStage {
    pub(super) fn read(conn: &Connection) -> Result<Self, rusqlite::Error> {
        let stage: i64 =
            conn.prepare_cached("SELECT index_stage FROM state")?.query_row([], |row| row.get(0))?;
        Ok(match stage {
            0 => Self::Building,
            1 => Self::WithoutWords,
            _ => Self::Built,
        })
    }

    pub(super) fn write(self, conn: &Connection) -> Result<(), rusqlite::Error> {
        conn.prepare_cached("UPDATE state SET index_stage = ?1")?.execute([self as i64])?;
        Ok(())
    }
}

/// Changes of `words` in one transaction. FTS5 wants them in the order of their keys, or it writes a segment for each.
#[derive(Default)]
pub(super) struct PendingWords(BTreeMap<i64, WordsChange>);

#[derive(Default)]
struct WordsChange {
    removes: bool,
    adds: Option<String>,
}

impl PendingWords {
    fn add(&mut self, key: i64, record: &AssetRecord) {
        if let Some(text) = rows::searched_text(&record.meta) {
            self.0.entry(key).or_default().adds = Some(text);
        }
    }

    fn remove(&mut self, key: i64, record: &AssetRecord) {
        if rows::searched_text(&record.meta).is_some() {
            let change = self.0.entry(key).or_default();
            // What was added just now is not there yet.
            change.removes |= change.adds.take().is_none();
        }
    }

    /// Removes what may be there under this key, and adds what should be.
    pub(super) fn replace(&mut self, key: i64, record: Option<&AssetRecord>) {
        let adds = record.and_then(|record| rows::searched_text(&record.meta));
        self.0.insert(key, WordsChange { removes: true, adds });
    }

    /// Where the index of words turns out to be damaged, it is emptied: it is made anew when somebody notices, at the latest
    /// when the store opens.
    pub(super) fn write(self, conn: &Connection) -> Result<(), rusqlite::Error> {
        match self.try_write(conn) {
            Err(error) if is_garbled(&error) => {
                tracing::warn!(%error, "the index of words is damaged");
                empty_words(conn)
            }
            written => written,
        }
    }

    fn try_write(self, conn: &Connection) -> Result<(), rusqlite::Error> {
        for (key, WordsChange { removes, adds }) in self.0 {
            if removes {
                conn.prepare_cached("DELETE FROM words WHERE rowid = ?1")?.execute([key])?;
            }
            let Some(text) = adds else { continue };
            conn.prepare_cached("INSERT INTO words (rowid, grams) VALUES (?1, ?2)")?
                .execute((key, grams::indexed(&text)))?;
        }
        Ok(())
    }
}

/// Empties the index of words; until it is made anew, searches compare records.
fn empty_words(conn: &Connection) -> Result<(), rusqlite::Error> {
    conn.execute_batch("INSERT INTO words (words) VALUES ('delete-all')")?;
    IndexStage::WithoutWords.write(conn)
}

/// Whether FTS5 says that its own tables make no sense: they are no more than an index.
pub(super) fn is_garbled(error: &rusqlite::Error) -> bool {
    let extended = error.sqlite_error().map(|error| error.extended_code);
    extended == Some(rusqlite::ffi::SQLITE_CORRUPT_VTAB)
}

/// Brings the index to what is said of an asset from now on; the key that its row gets.
pub(super) fn update(
    conn: &Connection,
    words: &mut PendingWords,
    old: Option<&StoredRow>,
    new: &StoredAsset,
) -> Result<Option<i64>, rusqlite::Error> {
    let before = old.and_then(|old| Some((old.list_key?, &old.asset)));
    if new.record.deleted {
        if let Some((key, old)) = before {
            facets::remove(conn, key, &facets::of(old))?;
            words.remove(key, &old.record);
        }
        return Ok(None);
    }
    let wanted = facets::of(new);
    match before {
        Some((key, old)) if old.record.meta.created_at_ms == new.record.meta.created_at_ms => {
            let had = facets::of(old);
            facets::remove(conn, key, &had.difference(&wanted).cloned().collect())?;
            facets::add(conn, key, &wanted.difference(&had).cloned().collect())?;
            if rows::searched_text(&old.record.meta) != rows::searched_text(&new.record.meta) {
                words.remove(key, &old.record);
                words.add(key, &new.record);
            }
            Ok(Some(key))
        }
        before => {
            if let Some((key, old)) = before {
                facets::remove(conn, key, &facets::of(old))?;
                words.remove(key, &old.record);
            }
            let key = keys::assign(conn, new.record.meta.created_at_ms)?;
            facets::add(conn, key, &wanted)?;
            words.add(key, &new.record);
            Ok(Some(key))
        }
    }
}

/// Adds what is missing of a record; words are another matter.
pub(super) fn mend(
    conn: &Connection,
    words: &mut PendingWords,
    stored: &StoredRow,
) -> Result<(), rusqlite::Error> {
    let (wanted, created_at_ms) = (facets::of(&stored.asset), stored.asset.record.meta.created_at_ms);
    let key = match stored.list_key {
        Some(key) => key,
        None if stored.asset.record.deleted => return Ok(()),
        None => {
            let key = keys::assign(conn, created_at_ms)?;
            words.replace(key, Some(&stored.asset.record));
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
    facets::add(conn, key, &missing.collect::<Result<_, _>>()?)
}

/// The hash of the record with this key.
pub(super) fn hash_of(conn: &Connection, key: i64) -> Result<Option<ContentHash>, rusqlite::Error> {
    use rusqlite::OptionalExtension as _;
    conn.prepare_cached("SELECT hash FROM records WHERE list_key = ?1")?
        .query_row([key], |row| row.get(0).map(ContentHash))
        .optional()
}
