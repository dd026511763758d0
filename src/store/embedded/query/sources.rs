//! What a list goes along: list keys in the order of the list, of all records or of those that meet one condition. Each can be asked
//! for the next key from some key on, so that two conditions are met by asking the one and the other in turn.

use rusqlite::{Connection, params};

use super::super::index::facets::KnownFacet;
use super::super::types::Order;
use super::comparison::search_text;

/// What reading costs, in units of 100 ns or so, to know when counting has gone on for long enough.
pub(super) mod cost {
    /// Beginning to read somewhere, of a table and of FTS5.
    pub(in super::super) const TABLE_SEEK: u64 = 30;
    pub(in super::super) const WORDS_SEEK: u64 = 2_000;
    /// One more key from there on, of a table and of FTS5, which compares where trigrams stand.
    pub(in super::super) const KEY: u64 = 2;
    pub(in super::super) const WORDS_KEY: u64 = 6;
    /// Looking at a record.
    pub(in super::super) const RECORD: u64 = 60;
}

/// Keys that are read at once, at first and at most.
const TABLE_CHUNK: (usize, usize) = (16, 1024);
const WORDS_CHUNK: (usize, usize) = (256, 16_384);
/// Records that are compared before FTS5 is asked again, at first and at most.
const COMPARED_FIRST: u64 = 64;
const COMPARED_LAST: u64 = 4_096;

/// Which way a list goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListDirection(pub(super) Order);

impl ListDirection {
    /// Whether `one` comes before `other` in the list.
    pub(super) fn is_before(self, one: i64, other: i64) -> bool {
        match self.0 {
            Order::NewestFirst => one > other,
            Order::OldestFirst => one < other,
        }
    }

    /// Where the list goes on after a key.
    pub(super) fn after(self, key: i64) -> i64 {
        match self.0 {
            Order::NewestFirst => key.saturating_sub(1),
            Order::OldestFirst => key.saturating_add(1),
        }
    }

    /// The condition of a key that is to be this or later in the list, and the order.
    fn sql(self, column: &str) -> String {
        match self.0 {
            Order::NewestFirst => format!("{column} <= ?1 ORDER BY {column} DESC LIMIT ?2"),
            Order::OldestFirst => format!("{column} >= ?1 ORDER BY {column} LIMIT ?2"),
        }
    }
}

#[derive(Debug)]
pub(super) enum KeySource {
    All(KeyChunk),
    /// Those with any of these facets.
    Facets(Vec<(i64, KeyChunk)>),
    /// Those that match an expression of FTS5, or would.
    Words(Box<Words>),
    /// These, in the order of the list.
    Keys(KeyChunk),
}

impl KeySource {
    pub(super) fn all() -> Self {
        Self::All(KeyChunk::new(TABLE_CHUNK))
    }

    pub(super) fn facets(facets: &[KnownFacet]) -> Self {
        Self::Facets(facets.iter().map(|facet| (facet.id, KeyChunk::new(TABLE_CHUNK))).collect())
    }

    /// What FTS5 finds by `expression`, which are the records that have these words.
    pub(super) fn words(
        expression: String,
        words: Vec<String>,
        later: &WordsLater,
        direction: ListDirection,
    ) -> Self {
        let mut matching = later.matching.clone();
        if direction.is_before(1, 0) {
            matching.reverse();
        }
        let matching = KeyChunk { keys: matching, is_last: true, ..KeyChunk::new(TABLE_CHUNK) };
        Self::Words(Box::new(Words {
            expression,
            compared: words,
            compares: 0,
            stretch: COMPARED_FIRST,
            known: KeyChunk::new(WORDS_CHUNK),
            later: later.keys.clone(),
            matching,
        }))
    }

    pub(super) fn keys(keys: Vec<i64>) -> Self {
        Self::Keys(KeyChunk { keys, is_last: true, ..KeyChunk::new(TABLE_CHUNK) })
    }

    /// The first key that is `target`, or later in the list; or another one behind `target`, up to which there is none. No later
    /// question may be for an earlier one.
    pub(super) fn seek(
        &mut self,
        conn: &Connection,
        direction: ListDirection,
        target: i64,
        spent: &mut u64,
    ) -> rusqlite::Result<Option<i64>> {
        match self {
            Self::All(chunk) => {
                let sql = direction.sql("list_key");
                let sql = format!("SELECT list_key FROM records WHERE {sql}");
                chunk.seek(direction, target, (cost::TABLE_SEEK, cost::KEY, spent), |from, limit| {
                    conn.prepare_cached(&sql)?.query_map(params![from, limit], |row| row.get(0))?.collect()
                })
            }
            Self::Facets(facets) => {
                let sql = direction.sql("list_key");
                let sql = format!("SELECT list_key FROM faceted WHERE facet = ?3 AND {sql}");
                let mut first = None;
                for (facet, chunk) in facets {
                    let read = |from: i64, limit: i64| {
                        conn.prepare_cached(&sql)?
                            .query_map(params![from, limit, *facet], |row| row.get(0))?
                            .collect()
                    };
                    let key = chunk.seek(direction, target, (cost::TABLE_SEEK, cost::KEY, spent), read)?;
                    first = match (first, key) {
                        (Some(first), Some(key)) if direction.is_before(first, key) => Some(first),
                        (first, key) => key.or(first),
                    };
                }
                Ok(first)
            }
            Self::Words(words) => words.seek(conn, direction, target, spent),
            Self::Keys(chunk) => chunk.seek(direction, target, (0, 0, spent), |_, _| Ok(Vec::new())),
        }
    }
}

/// Records that FTS5 does not know yet, compared with words instead. Sorted.
#[derive(Clone, Debug, Default)]
pub(super) struct WordsLater {
    /// What FTS5 says of these does not count.
    pub(super) keys: Vec<i64>,
    matching: Vec<i64>,
}

impl WordsLater {
    pub(super) fn new(mut records: Vec<(i64, String)>, matches: impl Fn(&str) -> bool) -> Self {
        records.sort_unstable_by_key(|(key, _)| *key);
        let matching = records.iter().filter(|(_, text)| matches(text)).map(|(key, _)| *key).collect();
        Self { keys: records.into_iter().map(|(key, _)| key).collect(), matching }
    }
}

/// What FTS5 finds, and what is behind it.
#[derive(Debug)]
pub(super) struct Words {
    expression: String,
    /// The same, for records that are compared one by one.
    compared: Vec<String>,
    /// How many of them are, until FTS5 is asked again; and the next time.
    compares: u64,
    stretch: u64,
    known: KeyChunk,
    later: Vec<i64>,
    matching: KeyChunk,
}

impl Words {
    fn seek(
        &mut self,
        conn: &Connection,
        direction: ListDirection,
        target: i64,
        spent: &mut u64,
    ) -> rusqlite::Result<Option<i64>> {
        // Where another condition leads past most of what FTS5 finds, looking at its records is cheaper.
        if self.compares == 0 && self.known.is_in_vain(direction, target) {
            self.compares = self.stretch;
            self.stretch = (self.stretch * 2).min(COMPARED_LAST);
        }
        if self.compares > 0 {
            self.compares -= 1;
            if self.compares == 0 {
                // It may be another stretch of the list by now.
                self.known = KeyChunk::new(WORDS_CHUNK);
            }
            *spent += cost::RECORD;
            let text = search_text(conn, target)?.unwrap_or_default();
            let has_all = self.compared.iter().all(|word| text.contains(word));
            return Ok(Some(if has_all { target } else { direction.after(target) }));
        }
        let sql = direction.sql("rowid");
        let sql = format!("SELECT rowid FROM words WHERE words MATCH ?3 AND {sql}");
        let mut from = target;
        let known = loop {
            let read = |from: i64, limit: i64| {
                conn.prepare_cached(&sql)?
                    .query_map(params![from, limit, &*self.expression], |row| row.get(0))?
                    .collect()
            };
            match self.known.seek(direction, from, (cost::WORDS_SEEK, cost::WORDS_KEY, spent), read)? {
                Some(key) if self.later.binary_search(&key).is_ok() => from = direction.after(key),
                key => break key,
            }
        };
        let later = self.matching.seek(direction, target, (0, 0, spent), |_, _| Ok(Vec::new()))?;
        Ok(match (known, later) {
            (Some(known), Some(later)) if direction.is_before(known, later) => Some(known),
            (known, later) => later.or(known),
        })
    }
}

/// Keys that follow each other, of which some were passed.
#[derive(Debug)]
pub(super) struct KeyChunk {
    keys: Vec<i64>,
    at: usize,
    /// How often somebody asked for one of them.
    asked: usize,
    /// There are none behind them.
    is_last: bool,
    size: usize,
    sizes: (usize, usize),
}

impl KeyChunk {
    fn new(sizes: (usize, usize)) -> Self {
        Self { keys: Vec::new(), at: 0, asked: 0, is_last: false, size: sizes.0, sizes }
    }

    /// Whether more would have to be read for this target, and what was read costs more than to look at the records that were asked
    /// for.
    fn is_in_vain(&self, direction: ListDirection, target: i64) -> bool {
        let is_passed = self.keys.last().is_some_and(|last| direction.is_before(*last, target));
        let read = cost::WORDS_SEEK + cost::WORDS_KEY * self.keys.len() as u64;
        is_passed && !self.is_last && read > cost::RECORD * self.asked as u64
    }

    /// Looks for the target here, or reads the next ones from there on: more where most of them were asked for.
    fn seek(
        &mut self,
        direction: ListDirection,
        target: i64,
        (seek_cost, key_cost, spent): (u64, u64, &mut u64),
        read: impl FnOnce(i64, i64) -> rusqlite::Result<Vec<i64>>,
    ) -> rusqlite::Result<Option<i64>> {
        self.asked += 1;
        let ahead = &self.keys[self.at..];
        self.at += match ahead.first() {
            Some(first) if !direction.is_before(*first, target) => 0,
            _ => ahead.partition_point(|key| direction.is_before(*key, target)),
        };
        if let Some(key) = self.keys.get(self.at) {
            return Ok(Some(*key));
        }
        if self.is_last {
            return Ok(None);
        }
        let (least, most) = self.sizes;
        if !self.keys.is_empty() {
            let is_dense = self.asked * 4 >= self.keys.len();
            self.size = if is_dense { (self.size * 4).min(most) } else { least };
        }
        self.keys = read(target, i64::try_from(self.size).unwrap_or(i64::MAX))?;
        *spent += seek_cost + key_cost * self.keys.len() as u64;
        (self.at, self.asked, self.is_last) = (0, 1, self.keys.len() < self.size);
        Ok(self.keys.first().copied())
    }
}
