//! Listing and searching.
//!
//! Assets are ordered by (`created_at_ms`, `hash`), which no edit changes, so that a cursor is a place in that order
//! and stays good whatever is added or removed. It is opaque to the caller: the order, the millisecond and the hash in
//! base64.

use data_encoding::BASE64URL_NOPAD;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::rows::{self, COLUMNS};
use super::tx::Totals;
use super::types::{ListFilter, ListPage, ListQuery, Order};
use super::{HASHES_MAX, StoredAsset};
use crate::record::{ContentHash, TAGS_MAX};
use crate::store::StoreError;
use crate::text::folded;

/// Most assets on a page.
const LIMIT_MAX: usize = 1000;
/// Most words of a search.
const WORDS_MAX: usize = 32;
/// Greater than anything that follows a prefix.
const LAST_CHAR: char = char::MAX;

/// Every list is of live assets.
const ANY_LIVE: &str = "deleted = 0";

/// A query that was found to make sense.
#[derive(Debug)]
pub(super) struct Prepared {
    order: Order,
    limit: usize,
    after: Option<PagePosition>,
    conditions: Conditions,
    /// Whether an index leads to all of it at once.
    is_quick: bool,
}

/// A place in the order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct PagePosition {
    created_at_ms: u64,
    hash: ContentHash,
}

/// A WHERE clause in the making.
#[derive(Debug)]
struct Conditions {
    sql: String,
    values: Vec<Value>,
}

impl Prepared {
    pub(super) fn new(query: ListQuery) -> Result<Self, StoreError> {
        let after = query.cursor.map(|text| PagePosition::decode(&text, query.order)).transpose()?;
        Ok(Self {
            order: query.order,
            limit: query.limit.clamp(1, LIMIT_MAX),
            after,
            is_quick: query.filter == ListFilter::default()
                || !query.filter.hashes.is_empty()
                || query.filter.hash_prefix.is_some(),
            conditions: Conditions::of(query.filter)?,
        })
    }

    /// Whether it looks at little more than what it answers with, however many assets there are.
    pub(super) fn is_quick(&self) -> bool {
        self.is_quick
    }

    pub(super) fn run(self, conn: &Connection) -> Result<ListPage, rusqlite::Error> {
        let all = Totals::read(conn)?.assets;
        let total = if self.conditions.are_none() { all } else { self.conditions.count(conn)? };
        if total == 0 {
            // Looking a second time would find as little.
            return Ok(ListPage { assets: Vec::new(), next_cursor: None, total });
        }
        let mut page = self.conditions;
        let (direction, beyond) = match self.order {
            Order::NewestFirst => ("DESC", "<"),
            Order::OldestFirst => ("ASC", ">"),
        };
        if let Some(after) = self.after {
            page.add(
                &format!("(created_at_ms, hash) {beyond} (?, ?)"),
                [ms(after.created_at_ms), Value::Blob(after.hash.0.to_vec())],
            );
        }
        // Walking in order until the page is full meets about so many records; finding all that match and sorting
        // them meets `total`. SQLite cannot know which is less, we do.
        let walked = (self.limit as u64 + 1).saturating_mul(all) / total.max(1);
        let walk = if walked < total { "INDEXED BY records_by_creation" } else { "" };
        let sql = format!(
            "SELECT {COLUMNS} FROM records {walk} WHERE {} ORDER BY created_at_ms {direction}, hash {direction} LIMIT {}",
            page.sql,
            // One more than wanted tells whether there is a next page.
            self.limit + 1,
        );
        let mut assets: Vec<StoredAsset> = conn
            .prepare_cached(&sql)?
            .query_map(params_from_iter(page.values), rows::read_asset)?
            .collect::<Result<_, _>>()?;
        let more = assets.len() > self.limit;
        assets.truncate(self.limit);
        let next_cursor = assets.last().filter(|_| more).map(|last| {
            PagePosition { created_at_ms: last.record.meta.created_at_ms, hash: last.record.hash }
                .encode(self.order)
        });
        Ok(ListPage { assets, next_cursor, total })
    }
}

impl Conditions {
    fn of(filter: ListFilter) -> Result<Self, StoreError> {
        if filter.hashes.len() > HASHES_MAX {
            return Err(StoreError::Invalid(format!(
                "at most {HASHES_MAX} hashes can be searched for at once"
            )));
        }
        if filter.tags.len() > TAGS_MAX {
            return Err(StoreError::Invalid(format!("at most {TAGS_MAX} tags can be searched for at once")));
        }
        let mut all = Self { sql: ANY_LIVE.into(), values: Vec::new() };
        match filter.held {
            Some(true) => all.add("content IS NOT NULL", []),
            Some(false) => all.add("content IS NULL", []),
            None => {}
        }
        if let Some(application) = filter.application {
            all.add("application_folded = ?", [folded(&application).into()]);
        }
        if let Some(user) = filter.user {
            all.add("user_folded = ?", [folded(&user).into()]);
        }
        if let Some(prefix) = filter.mime_prefix.filter(|prefix| !prefix.is_empty()) {
            let prefix = prefix.to_ascii_lowercase();
            let end = format!("{prefix}{LAST_CHAR}");
            all.add("lower(mime_type) >= ? AND lower(mime_type) < ?", [prefix.into(), end.into()]);
        }
        if !filter.tags.is_empty() {
            let sql = format!(
                "hash IN (SELECT hash FROM record_tags WHERE tag IN ({}))",
                placeholders(filter.tags.len())
            );
            all.add(&sql, filter.tags.iter().map(|tag| Value::from(folded(tag))));
        }
        if !filter.hashes.is_empty() {
            let sql = format!("hash IN ({})", placeholders(filter.hashes.len()));
            all.add(&sql, filter.hashes.into_iter().map(|hash| Value::Blob(hash.0.to_vec())));
        }
        if let Some(prefix) = filter.hash_prefix {
            let (first, last) = prefix.range();
            all.add("hash BETWEEN ? AND ?", [first, last].map(|hash| Value::Blob(hash.to_vec())));
        }
        let words: Vec<_> = filter.q.iter().flat_map(|q| q.split_whitespace()).map(folded).collect();
        if words.len() > WORDS_MAX {
            return Err(StoreError::Invalid(format!(
                "at most {WORDS_MAX} words can be searched for at once"
            )));
        }
        for word in words {
            // `instr` knows no wildcards, so there is nothing to escape.
            all.add("instr(search, ?) > 0", [word.into()]);
        }
        if let Some(from) = filter.from_ms {
            all.add("created_at_ms >= ?", [ms(from)]);
        }
        if let Some(to) = filter.to_ms {
            all.add("created_at_ms <= ?", [ms(to)]);
        }
        Ok(all)
    }

    fn are_none(&self) -> bool {
        self.sql == ANY_LIVE
    }

    fn add(&mut self, sql: &str, values: impl IntoIterator<Item = Value>) {
        self.sql.push_str(" AND ");
        self.sql.push_str(sql);
        self.values.extend(values);
    }

    fn count(&self, conn: &Connection) -> Result<u64, rusqlite::Error> {
        conn.prepare_cached(&format!("SELECT count(*) FROM records WHERE {}", self.sql))?
            .query_row(params_from_iter(&self.values), |row| rows::unsigned(row, 0))
    }
}

impl PagePosition {
    fn encode(self, order: Order) -> String {
        let mut bytes = vec![order_byte(order)];
        bytes.extend(self.created_at_ms.to_be_bytes());
        bytes.extend(self.hash.0);
        BASE64URL_NOPAD.encode(&bytes)
    }

    fn decode(text: &str, order: Order) -> Result<Self, StoreError> {
        let invalid = || {
            StoreError::Invalid(
                "the cursor is not one of this list: begin without one, and keep the order".into(),
            )
        };
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| invalid())?;
        let (first, rest) = bytes.split_first().ok_or_else(invalid)?;
        let (time, hash) = rest.split_first_chunk::<8>().ok_or_else(invalid)?;
        let hash = ContentHash::from_slice(hash).ok_or_else(invalid)?;
        if *first != order_byte(order) {
            return Err(invalid());
        }
        Ok(Self { created_at_ms: u64::from_be_bytes(*time), hash })
    }
}

fn order_byte(order: Order) -> u8 {
    match order {
        Order::NewestFirst => b'n',
        Order::OldestFirst => b'o',
    }
}

/// A time as SQLite compares it: beyond what it can say, later than all there is.
fn ms(ms: u64) -> Value {
    Value::Integer(i64::try_from(ms).unwrap_or(i64::MAX))
}

fn placeholders(n: usize) -> String {
    let mut text = "?,".repeat(n);
    text.pop();
    text
}
