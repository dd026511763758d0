//! Listing and searching.
//!
//! Assets are ordered by creation, those of one millisecond by arrival, which no edit changes, so that a cursor is a place in
//! that order and stays good whatever is added or removed. Where there is an index ([`super::index`]) nothing reads the whole
//! table ([`by_index`]); a database that has none yet is listed by its records ([`by_record`]).

use data_encoding::BASE64URL_NOPAD;
use rusqlite::Connection;

use super::index::{IndexStage, is_garbled, keys};
use super::readers::Others;
use super::types::{ListFilter, ListPage, ListQuery, Order};
use super::{HASHES_MAX, StoredAsset};
use crate::record::{ContentHash, TAGS_MAX};
use crate::store::{StoreError, StoreResult};
use crate::text::folded;

mod by_index;
mod by_record;
mod comparison;
mod sources;

/// Most assets on a page.
const LIMIT_MAX: usize = 1000;
const WORDS_MAX: usize = 32;
/// Greater than anything that follows a prefix.
const LAST_CHAR: char = char::MAX;

/// A query that was found to make sense.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    order: Order,
    limit: usize,
    after: Option<PagePosition>,
    filter: ListFilter,
    /// What `q` asks for, folded.
    words: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct PagePosition {
    created_at_ms: u64,
    hash: ContentHash,
    /// 0 where the records alone were listed.
    list_key: i64,
}

impl Prepared {
    pub(super) fn new(query: ListQuery) -> StoreResult<Self> {
        let after = query.cursor.map(|text| PagePosition::decode(&text, query.order)).transpose()?;
        let filter = query.filter;
        let too_many = |max: usize, what: &str| {
            StoreError::Invalid(format!("at most {max} {what} can be searched for at once"))
        };
        if filter.hashes.len() > HASHES_MAX {
            return Err(too_many(HASHES_MAX, "hashes"));
        }
        if filter.tags.len() > TAGS_MAX {
            return Err(too_many(TAGS_MAX, "tags"));
        }
        let words: Vec<String> = filter.q.iter().flat_map(|q| q.split_whitespace()).map(folded).collect();
        if words.len() > WORDS_MAX {
            return Err(too_many(WORDS_MAX, "words"));
        }
        Ok(Self { order: query.order, limit: query.limit.clamp(1, LIMIT_MAX), after, filter, words })
    }

    /// Whether it looks at little more than what it answers with, however many assets there are.
    pub(super) fn is_quick(&self, is_indexed: bool) -> bool {
        let ListFilter {
            application,
            user,
            mime_prefix,
            tags,
            hashes,
            hash_prefix,
            q: _,
            from_ms,
            to_ms,
            held,
        } = &self.filter;
        let by_hash = !hashes.is_empty() || hash_prefix.is_some();
        let conditions = usize::from(application.is_some())
            + usize::from(user.is_some())
            + usize::from(mime_prefix.is_some())
            + usize::from(!tags.is_empty())
            + usize::from(held.is_some());
        let by_time = from_ms.is_some() || to_ms.is_some();
        by_hash || (self.words.is_empty() && conditions + usize::from(by_time) <= usize::from(is_indexed))
    }

    /// A page, and whether the index of words has to be made anew.
    pub(super) fn run(self, conn: &Connection, others: &Others) -> rusqlite::Result<(ListPage, bool)> {
        match IndexStage::read(conn)? {
            IndexStage::Building => by_record::page(self, conn).map(|page| (page, false)),
            IndexStage::WithoutWords => by_index::page(self, conn, false, others).map(|page| (page, false)),
            IndexStage::Built => match by_index::page(self.clone(), conn, true, others) {
                // The records know as well.
                Err(error) if is_garbled(&error) => {
                    by_index::page(self, conn, false, others).map(|page| (page, true))
                }
                page => page.map(|page| (page, false)),
            },
        }
    }
}

/// What is found, less what is beyond the page, and where that begins.
fn cut(
    mut assets: Vec<(StoredAsset, i64)>,
    limit: usize,
    order: Order,
) -> (Vec<StoredAsset>, Option<String>) {
    let more = assets.len() > limit;
    assets.truncate(limit);
    let next_cursor = assets.last().filter(|_| more).map(|(last, list_key)| {
        let (created_at_ms, hash) = (last.record.meta.created_at_ms, last.record.hash);
        PagePosition { created_at_ms, hash, list_key: *list_key }.encode(order)
    });
    (assets.into_iter().map(|(asset, _)| asset).collect(), next_cursor)
}

impl PagePosition {
    fn encode(self, order: Order) -> String {
        let mut bytes = vec![order_byte(order)];
        bytes.extend(self.created_at_ms.to_be_bytes());
        bytes.extend(self.hash.0);
        bytes.extend(self.list_key.to_be_bytes());
        BASE64URL_NOPAD.encode(&bytes)
    }

    fn decode(text: &str, order: Order) -> StoreResult<Self> {
        let invalid = || {
            StoreError::Invalid(
                "the cursor is not one of this list: begin without one, and keep the order".into(),
            )
        };
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| invalid())?;
        let (first, rest) = bytes.split_first().ok_or_else(invalid)?;
        let (time, rest) = rest.split_first_chunk::<8>().ok_or_else(invalid)?;
        let (hash, list_key) = rest.split_first_chunk::<32>().ok_or_else(invalid)?;
        let list_key = <[u8; 8]>::try_from(list_key).map_err(|_| invalid())?;
        if *first != order_byte(order) {
            return Err(invalid());
        }
        Ok(Self {
            created_at_ms: u64::from_be_bytes(*time),
            hash: ContentHash(*hash),
            list_key: i64::from_be_bytes(list_key),
        })
    }

    /// Its key. A list that was begun by the records alone goes on where that asset is now, or at the end of its millisecond.
    fn key(self, conn: &Connection, order: Order) -> rusqlite::Result<i64> {
        if self.list_key != 0 {
            return Ok(self.list_key);
        }
        let stored = super::rows::find(conn, self.hash)?;
        let same = stored.filter(|stored| stored.asset.record.meta.created_at_ms == self.created_at_ms);
        Ok(same.and_then(|stored| stored.list_key).unwrap_or_else(|| match order {
            Order::NewestFirst => keys::first_of(self.created_at_ms),
            Order::OldestFirst => keys::first_of(self.created_at_ms.saturating_add(1)).saturating_sub(1),
        }))
    }
}

fn order_byte(order: Order) -> u8 {
    match order {
        Order::NewestFirst => b'n',
        Order::OldestFirst => b'o',
    }
}
