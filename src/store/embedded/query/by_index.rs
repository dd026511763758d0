//! A page by the index: along the list keys of what meets the conditions, as far as the page and its `total` go.
//!
//! What a condition leads to comes in the order of the list, so that a page costs about as much as what it skips over. Counting
//! everything that matches costs more the more there is: where no number that is kept says it, it ends after [`COUNTED_MAX`], or
//! after so much work, and `total` is a lower bound; sooner where other searches wait.
//!
//! Words of three characters and more are answered by FTS5 in the order of the list as well. A shorter one is the beginning of so many
//! trigrams that FTS5 would have to merge all of them first: it is looked for in the records one after the other, as most are
//! common, and FTS5 is asked when that leads nowhere. Where another condition leaves few records, or leads past most of what FTS5
//! finds, they are compared with all words.

use rusqlite::{Connection, OptionalExtension as _};

use super::super::index::facets::{self, Facet, FacetKind, KnownFacet};
use super::super::index::{grams, keys, words};
use super::super::readers::Others;
use super::super::rows::{self, COLUMNS};
use super::super::tx::Totals;
use super::super::types::{ListFilter, ListPage, Order, StoredAsset};
use super::comparison::Comparison;
use super::sources::{KeySource, ListDirection, WordsLater, cost};
use super::{LAST_CHAR, Prepared, cut};
use crate::text::folded;

/// What matches is not counted any further.
const COUNTED_MAX: u64 = 10_000;
/// Nor when it has cost so much (about 10 ms), or so much while others wait for their turn (half a millisecond).
const COUNTING_COST_MAX: u64 = 100_000;
const COUNTING_COST_BESIDE: u64 = 5_000;
/// Records that are compared with words rather than asking FTS5 (about 10 ms).
const COMPARED_MAX: u64 = 1_500;
/// Short words that FTS5 is asked for at once: it merges all that begins so, in memory.
const SHORT_WORDS_MAX: usize = 4;
/// Media types with one beginning; where there are more, records are compared.
const MIME_TYPES_MAX: usize = 256;

/// How a query is answered.
struct Plan {
    /// Conditions of which any facet will do.
    facets: Vec<Vec<KnownFacet>>,
    /// Records that were asked for by their hashes.
    keys: Option<Vec<i64>>,
    /// For FTS5: words of three characters and more, those of them that it says all about, and shorter ones.
    phrases: Vec<String>,
    whole: Vec<String>,
    beginnings: Vec<String>,
    /// Records that FTS5 does not know yet.
    later: WordsLater,
    comparison: Comparison,
    /// The first and the last key, as numbers.
    bounds: (i64, i64),
    /// How many match, where that is known.
    total: Option<u64>,
}

impl Plan {
    /// `None` if nothing can match.
    fn of(
        filter: ListFilter,
        words: Vec<String>,
        conn: &Connection,
        has_words: bool,
    ) -> rusqlite::Result<Option<Self>> {
        let mut plan = Self {
            facets: Vec::new(),
            keys: None,
            phrases: Vec::new(),
            whole: Vec::new(),
            beginnings: Vec::new(),
            later: WordsLater::default(),
            comparison: Comparison::default(),
            bounds: (0, i64::MAX - 1),
            total: None,
        };
        // Media types exclude each other, tags do not.
        let (mut is_countable, is_timed) = (true, filter.from_ms.is_some() || filter.to_ms.is_some());
        if is_timed {
            plan.limit_times(filter.from_ms.unwrap_or(0), filter.to_ms.unwrap_or(u64::MAX), conn)?;
        }
        if let Some(prefix) = filter.mime_prefix.filter(|prefix| !prefix.is_empty()) {
            let prefix = prefix.to_ascii_lowercase();
            let end = format!("{prefix}{LAST_CHAR}");
            let known = facets::between(conn, FacetKind::MimeType, &prefix, &end, MIME_TYPES_MAX + 1)?;
            if known.len() > MIME_TYPES_MAX {
                plan.comparison.mime_prefix = Some(prefix);
            } else {
                plan.facets.push(known);
            }
        }
        if !filter.tags.is_empty() {
            let mut tags: Vec<String> = filter.tags.iter().map(|tag| folded(tag)).collect();
            tags.sort_unstable();
            tags.dedup();
            let known =
                tags.into_iter().map(|value| facets::find(conn, &Facet { kind: FacetKind::Tag, value }));
            let known = known.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?;
            is_countable &= known.len() <= 1;
            plan.facets.push(known);
        }
        let named = |kind, text: Option<String>| text.map(|text| Facet { kind, value: folded(&text) });
        let single = [
            named(FacetKind::Application, filter.application),
            named(FacetKind::User, filter.user),
            filter.held.map(facets::held),
        ];
        for facet in single.into_iter().flatten() {
            plan.facets.push(facets::find(conn, &facet)?.into_iter().collect());
        }
        if !filter.hashes.is_empty() {
            plan.add_keys(keys_of(conn, filter.hashes.iter().map(|hash| (hash.0, hash.0)))?);
        }
        if let Some(prefix) = filter.hash_prefix {
            plan.add_keys(keys_of(conn, std::iter::once(prefix.range()))?);
        }
        if plan.facets.iter().any(Vec::is_empty) || plan.keys.as_ref().is_some_and(Vec::is_empty) {
            return Ok(None);
        }
        let is_all = words.is_empty() && plan.keys.is_none() && !is_timed && !plan.comparison.is_needed();
        plan.total = match plan.facets.as_slice() {
            _ if !is_all => None,
            [] => Some(Totals::read(conn)?.assets),
            [only] if is_countable => Some(only.iter().map(|facet| facet.assets).sum()),
            _ => None,
        };
        plan.ask_for(words, has_words, conn)?;
        Ok(Some(plan))
    }

    fn limit_times(&mut self, from: u64, to: u64, conn: &Connection) -> rusqlite::Result<()> {
        let spill = keys::spill(conn)?;
        let beyond = to.saturating_add(1).saturating_add(spill);
        self.bounds = (keys::first_of(from), keys::first_of(beyond).saturating_sub(1));
        self.comparison.created_ms = (spill > 0).then_some((from, to));
        Ok(())
    }

    fn add_keys(&mut self, mut keys: Vec<i64>) {
        if let Some(others) = self.keys.take() {
            keys.retain(|key| others.contains(key));
        }
        self.keys = Some(keys);
    }

    /// How many records are left at most, words aside.
    fn fewest(&self) -> u64 {
        let facets = self.facets.iter().map(|facets| facets.iter().map(|facet| facet.assets).sum());
        facets.chain(self.keys.as_ref().map(|keys| keys.len() as u64)).min().unwrap_or(u64::MAX)
    }

    /// Decides how words are looked for.
    fn ask_for(&mut self, words: Vec<String>, has_words: bool, conn: &Connection) -> rusqlite::Result<()> {
        let compares = !has_words || self.fewest() <= COMPARED_MAX;
        for word in words {
            let query = if compares { None } else { grams::query(&word) };
            match query {
                Some(query) if !grams::is_short(&word) => {
                    self.phrases.push(query.expression);
                    if query.is_vague {
                        self.comparison.words.push(word);
                    } else {
                        self.whole.push(word);
                    }
                }
                query => {
                    self.beginnings.extend(query.map(|query| query.expression));
                    self.comparison.words.push(word);
                }
            }
        }
        if !self.phrases.is_empty() || !self.beginnings.is_empty() {
            let behind = words::behind(conn, &Totals::read(conn)?)?;
            let whole = &self.whole;
            self.later = WordsLater::new(behind, |text| whole.iter().all(|word| text.contains(word)));
        }
        Ok(())
    }

    /// What to go along. `short` are the records with the short words, where FTS5 was asked for them.
    fn sources(&self, direction: ListDirection, short: Option<&[i64]>) -> Vec<KeySource> {
        let sorted = |keys: &[i64]| {
            let mut keys = keys.to_vec();
            keys.sort_unstable();
            keys.dedup();
            if direction.is_before(1, 0) {
                keys.reverse();
            }
            KeySource::keys(keys)
        };
        let mut sources: Vec<KeySource> = self.keys.as_deref().into_iter().chain(short).map(sorted).collect();
        let mut facets: Vec<&Vec<KnownFacet>> = self.facets.iter().collect();
        facets.sort_by_key(|facets| facets.iter().map(|facet| facet.assets).sum::<u64>());
        sources.extend(facets.into_iter().map(|facets| KeySource::facets(facets)));
        if !self.phrases.is_empty() {
            let expression = self.phrases.join(" AND ");
            sources.push(KeySource::words(expression, self.whole.clone(), &self.later, direction));
        }
        if sources.is_empty() {
            sources.push(KeySource::all());
        }
        sources
    }

    /// Keys of the records that may have the short words: those with the longest, which are in the fewest, and those that FTS5 does
    /// not know yet.
    fn short(&self, conn: &Connection) -> rusqlite::Result<Vec<i64>> {
        let mut asked: Vec<&str> = self.beginnings.iter().map(String::as_str).collect();
        asked.sort_by_key(|expression| std::cmp::Reverse(expression.len()));
        asked.truncate(SHORT_WORDS_MAX);
        let expression = asked.join(" AND ");
        let mut keys: Vec<i64> = conn
            .prepare_cached("SELECT rowid FROM words WHERE words MATCH ?1")?
            .query_map([expression], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        keys.extend(&self.later.keys);
        Ok(keys)
    }
}

/// Going along the keys of what matches.
struct Walk<'a> {
    conn: &'a Connection,
    direction: ListDirection,
    sources: Vec<KeySource>,
    comparison: Comparison,
    /// Where the next one is looked for, and the last place to look.
    next: i64,
    last: i64,
    spent: u64,
}

impl Walk<'_> {
    /// The next key, unless more was spent than this.
    fn next(&mut self, cost_max: u64) -> rusqlite::Result<Option<i64>> {
        let compares = self.comparison.is_needed();
        'look: while self.spent <= cost_max && !self.is_over() {
            for source in &mut self.sources {
                match source.seek(self.conn, self.direction, self.next, &mut self.spent)? {
                    Some(key) if key == self.next => {}
                    Some(key) => {
                        self.next = key;
                        continue 'look;
                    }
                    None => {
                        // There is nothing beyond.
                        self.next = self.direction.after(self.last);
                        return Ok(None);
                    }
                }
            }
            let key = self.next;
            self.next = self.direction.after(key);
            if compares {
                self.spent += cost::RECORD;
            }
            if !compares || self.comparison.accepts(self.conn, key)? {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    fn is_over(&self) -> bool {
        self.direction.is_before(self.last, self.next)
    }

    /// Goes on until so many are found, or more was spent than this.
    fn take(&mut self, count: usize, cost_max: u64) -> rusqlite::Result<Vec<i64>> {
        let mut found = Vec::new();
        while found.len() < count
            && let Some(key) = self.next(cost_max)?
        {
            found.push(key);
        }
        Ok(found)
    }

    /// Counts on from there; and whether there may be more.
    fn count(&mut self, from: u64, others: &Others) -> rusqlite::Result<(u64, bool)> {
        let mut total = from;
        while total < COUNTED_MAX {
            let cost_max = if others.wait() { COUNTING_COST_BESIDE } else { COUNTING_COST_MAX };
            match self.next(cost_max)? {
                Some(_) => total += 1,
                None => return Ok((total, !self.is_over())),
            }
        }
        let more = self.next(COUNTING_COST_MAX)?.is_some();
        Ok((total, more || !self.is_over()))
    }
}

/// A query on its way to a page.
struct IndexListing<'a> {
    conn: &'a Connection,
    direction: ListDirection,
    plan: Plan,
    /// The records with the short words, where FTS5 was asked for them.
    short: Option<Vec<i64>>,
    last: i64,
}

impl<'a> IndexListing<'a> {
    fn walk(&self, next: i64) -> Walk<'a> {
        Walk {
            conn: self.conn,
            direction: self.direction,
            sources: self.plan.sources(self.direction, self.short.as_deref()),
            comparison: self.plan.comparison.clone(),
            next,
            last: self.last,
            spent: 0,
        }
    }

    /// The first so many from there on, and where to go on counting.
    fn first(&mut self, from: i64, count: usize) -> rusqlite::Result<(Vec<i64>, Walk<'a>)> {
        let mut walk = self.walk(from);
        if !self.plan.beginnings.is_empty() {
            // Most short words are so common that a page is full soon.
            let keys = walk.take(count, COMPARED_MAX * cost::RECORD)?;
            if keys.len() == count || walk.is_over() {
                return Ok((keys, walk));
            }
            self.short = Some(self.plan.short(self.conn)?);
            walk = self.walk(from);
        }
        Ok((walk.take(count, u64::MAX)?, walk))
    }
}

pub(super) fn page(
    query: Prepared,
    conn: &Connection,
    has_words: bool,
    others: &Others,
) -> rusqlite::Result<ListPage> {
    let Prepared { order, limit, after, filter, words } = query;
    let direction = ListDirection(order);
    let Some(plan) = Plan::of(filter, words, conn, has_words)? else { return Ok(ListPage::default()) };
    let (first, last) = match order {
        Order::NewestFirst => (plan.bounds.1, plan.bounds.0),
        Order::OldestFirst => plan.bounds,
    };
    let after = after.map(|after| Ok::<_, rusqlite::Error>(direction.after(after.key(conn, order)?)));
    let from = after.transpose()?.filter(|from| direction.is_before(first, *from)).unwrap_or(first);
    let mut listing = IndexListing { conn, direction, plan, short: None, last };
    // One more than wanted tells whether there is a next page.
    let (keys, mut walk) = listing.first(from, limit + 1)?;
    let (total, total_is_bound) = match listing.plan.total {
        Some(total) => (total, false),
        None if from == first => walk.count(keys.len() as u64, others)?,
        None => listing.walk(first).count(0, others)?,
    };
    let found = keys.into_iter().filter_map(|key| asset(conn, key).transpose());
    let (assets, next_cursor) = cut(found.collect::<Result<_, _>>()?, limit, order);
    Ok(ListPage { assets, next_cursor, total, total_is_bound })
}

fn asset(conn: &Connection, key: i64) -> rusqlite::Result<Option<(StoredAsset, i64)>> {
    conn.prepare_cached(&format!("SELECT {COLUMNS} FROM records WHERE list_key = ?1"))?
        .query_row([key], |row| Ok((rows::read_asset(row)?, key)))
        .optional()
}

/// Keys of the live records whose hashes are in one of these ranges.
fn keys_of(
    conn: &Connection,
    ranges: impl Iterator<Item = ([u8; 32], [u8; 32])>,
) -> rusqlite::Result<Vec<i64>> {
    let mut keys = Vec::new();
    for range in ranges {
        let mut select = conn.prepare_cached(
            "SELECT list_key FROM records WHERE hash BETWEEN ?1 AND ?2 AND list_key IS NOT NULL",
        )?;
        for key in select.query_map(range, |row| row.get(0))? {
            keys.push(key?);
        }
    }
    Ok(keys)
}
