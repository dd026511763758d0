//! A page of a database that has no index yet, from its records and what older versions of the program kept beside them. It may
//! read the whole table.

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::super::rows::{self, COLUMNS};
use super::super::tx::Totals;
use super::super::types::{ListFilter, ListPage, Order};
use super::{LAST_CHAR, Prepared, cut};
use crate::text::folded;

/// Every list is of live assets.
const ANY_LIVE: &str = "deleted = 0";

#[derive(Debug)]
struct Conditions {
    sql: String,
    values: Vec<Value>,
}

pub(super) fn page(query: Prepared, conn: &Connection) -> rusqlite::Result<ListPage> {
    let Prepared { order, limit, after, filter, words } = query;
    let mut conditions = Conditions::of(filter, words);
    let all = Totals::read(conn)?.assets;
    let total = if conditions.are_none() { all } else { conditions.count(conn)? };
    let total_is_bound = false;
    if total == 0 {
        // Looking a second time would find as little.
        return Ok(ListPage::default());
    }
    let (direction, beyond) = match order {
        Order::NewestFirst => ("DESC", "<"),
        Order::OldestFirst => ("ASC", ">"),
    };
    if let Some(after) = after {
        conditions.add(
            &format!("(created_at_ms, hash) {beyond} (?, ?)"),
            [ms(after.created_at_ms), Value::Blob(after.hash.0.to_vec())],
        );
    }
    // Walking in order until the page is full meets about so many records; finding all that match and sorting them meets
    // `total`. SQLite cannot know which is less, we do.
    let walked = (limit as u64 + 1).saturating_mul(all) / total.max(1);
    let walk = if walked < total { "INDEXED BY records_by_creation" } else { "" };
    let sql = format!(
        "SELECT {COLUMNS} FROM records {walk} WHERE {} ORDER BY created_at_ms {direction}, hash {direction} LIMIT {}",
        conditions.sql,
        // One more than wanted tells whether there is a next page.
        limit + 1,
    );
    let found = conn
        .prepare_cached(&sql)?
        .query_map(params_from_iter(conditions.values), |row| Ok((rows::read_asset(row)?, 0)))?
        .collect::<Result<Vec<_>, _>>()?;
    let (assets, next_cursor) = cut(found, limit, order);
    Ok(ListPage { assets, next_cursor, total, total_is_bound })
}

impl Conditions {
    fn of(filter: ListFilter, words: Vec<String>) -> Self {
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
        all
    }

    fn are_none(&self) -> bool {
        self.sql == ANY_LIVE
    }

    fn add(&mut self, sql: &str, values: impl IntoIterator<Item = Value>) {
        self.sql.push_str(" AND ");
        self.sql.push_str(sql);
        self.values.extend(values);
    }

    fn count(&self, conn: &Connection) -> rusqlite::Result<u64> {
        conn.prepare_cached(&format!("SELECT count(*) FROM records WHERE {}", self.sql))?
            .query_row(params_from_iter(&self.values), |row| rows::unsigned(row, 0))
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
