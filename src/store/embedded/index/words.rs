//! Names and descriptions in FTS5, and the records whose words are not there yet.
//!
//! FTS5 writes a segment for each transaction, some pages of its own, and merges segments later: for one record that costs more than
//! the record itself. So records *behind* the index, those with a number greater than `words_seq` in `state`, wait until they are many, or
//! nothing more comes. A search compares them one by one, so that it finds what was acknowledged. What FTS5 has under their keys,
//! if anything, is what they say: the words of a text that changes are removed in the same transaction.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _};

use super::super::rows;
use super::super::tx::Totals;
use super::{IndexStage, grams};
use crate::record::AssetRecord;

/// Records behind the index, at most: what each search compares.
const BEHIND_MAX: u64 = 256;
/// Most text of theirs, in bytes, so that adding it takes some 10 ms.
const BEHIND_BYTES_MAX: u64 = 64 * 1024;

/// How much is behind the index.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(in super::super) struct WordsBehind {
    records: u64,
    bytes: u64,
}

impl WordsBehind {
    pub(in super::super) fn count(conn: &Connection, totals: &Totals) -> rusqlite::Result<Self> {
        let sql =
            "SELECT count(*), coalesce(sum(length(CAST(search AS BLOB))), 0) FROM records WHERE seq > ?1";
        conn.query_row(sql, [totals.words_seq.cast_signed()], |row| {
            Ok(Self { records: rows::unsigned(row, 0)?, bytes: rows::unsigned(row, 1)? })
        })
    }

    pub(in super::super) fn is_empty(self) -> bool {
        self.records == 0
    }

    fn is_much(self) -> bool {
        self.records >= BEHIND_MAX || self.bytes >= BEHIND_BYTES_MAX
    }
}

/// Live records behind the index: their keys, and what searches look into.
pub(in super::super) fn behind(conn: &Connection, totals: &Totals) -> rusqlite::Result<Vec<(i64, String)>> {
    conn.prepare_cached("SELECT list_key, search FROM records WHERE seq > ?1 AND list_key IS NOT NULL")?
        .query_map([totals.words_seq.cast_signed()], |row| {
            Ok((row.get(0)?, row.get::<_, Option<String>>(1)?.unwrap_or_default()))
        })?
        .collect()
}

/// Changes of `words` in one transaction, in the order of their keys: FTS5 would write a segment for each that is not.
pub(in super::super) struct WordChanges {
    /// What is to be there under a key, instead of what is.
    by_key: BTreeMap<i64, Option<String>>,
    behind: WordsBehind,
}

impl WordChanges {
    /// In a transaction that begins with so much behind the index.
    pub(in super::super) fn new(behind: WordsBehind) -> Self {
        Self { by_key: BTreeMap::new(), behind }
    }

    /// A record got a number.
    pub(in super::super) fn note(&mut self, record: &AssetRecord) {
        self.behind.records += 1;
        self.behind.bytes += record.meta.text_bytes() as u64;
    }

    /// What a record said is said no more under this key.
    pub(super) fn remove(&mut self, key: i64, old: &AssetRecord) {
        if rows::searched_text(&old.meta).is_some() {
            self.by_key.insert(key, None);
        }
    }

    /// Removes what may be there under this key, and adds what should be.
    pub(in super::super) fn replace(&mut self, key: i64, record: Option<&AssetRecord>) {
        self.by_key.insert(key, record.and_then(|record| rows::searched_text(&record.meta)));
    }

    /// Writes them, and what is behind the index if that is much; how much is behind it then. Where the index turns out to be
    /// damaged, it is emptied: it is made anew when somebody notices, at the latest when the store opens.
    pub(in super::super) fn write(
        mut self,
        conn: &Connection,
        totals: &mut Totals,
    ) -> rusqlite::Result<WordsBehind> {
        if self.behind.is_much() {
            self.catch_up(conn, totals)?;
        }
        let behind = self.behind;
        match self.try_write(conn) {
            Err(error) if super::is_garbled(&error) => {
                tracing::warn!(%error, "the index of words is damaged");
                super::empty_words(conn)?;
            }
            written => written?,
        }
        Ok(behind)
    }

    /// Adds what is behind the index.
    pub(in super::super) fn catch_up(
        &mut self,
        conn: &Connection,
        totals: &mut Totals,
    ) -> rusqlite::Result<()> {
        for (key, text) in behind(conn, totals)? {
            let is_there = !self.by_key.contains_key(&key) && is_indexed(conn, key)?;
            if !is_there {
                self.by_key.insert(key, Some(text).filter(|text| !text.is_empty()));
            }
        }
        totals.words_seq = totals.last_seq;
        self.behind = WordsBehind::default();
        Ok(())
    }

    fn try_write(self, conn: &Connection) -> rusqlite::Result<()> {
        for (key, text) in self.by_key {
            match text {
                None => conn.prepare_cached("DELETE FROM words WHERE rowid = ?1")?.execute([key])?,
                Some(text) => conn
                    .prepare_cached("REPLACE INTO words (rowid, grams) VALUES (?1, ?2)")?
                    .execute((key, grams::indexed(&text)))?,
            };
        }
        Ok(())
    }
}

/// Whether FTS5 has anything under a key.
fn is_indexed(conn: &Connection, key: i64) -> rusqlite::Result<bool> {
    let found = conn
        .prepare_cached("SELECT 1 FROM words_docsize WHERE id = ?1")?
        .query_row([key], |_| Ok(()))
        .optional()?;
    Ok(found.is_some())
}

/// Empties the index of words; until it is made anew, searches compare records.
pub(in super::super) fn empty_words(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch("INSERT INTO words (words) VALUES ('delete-all')")?;
    IndexStage::WithoutWords.write(conn)
}
