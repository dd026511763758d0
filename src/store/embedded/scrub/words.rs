//! Comparing the index of words with the records.
//!
//! FTS5 lists every trigram with the record and the place that it has it at, in the order of the trigrams. Both sides are added up
//! per record, which takes one number for each and no order.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::task::spawn_blocking;

use super::super::index::{self, IndexStage, grams, words};
use super::super::readers::open_patiently;
use super::super::rows;
use super::super::tx::{Totals, Tx};
use super::pass::Pass;
use crate::store::{StoreError, StoreResult};

/// What is wrong is mended in transactions of so many records.
const MENDED_AT_ONCE: usize = 200;
/// Rows between two rests, and how much of the time is rest.
const ROWS_AT_ONCE: u64 = 50_000;
const REST_SHARE: u32 = 1;

enum WordsComparison {
    /// Keys whose words are not those of their records.
    Wrong(Vec<i64>),
    /// FTS5 cannot read its own tables.
    Garbled,
    Stopped,
}

impl Pass {
    /// Compares the words of all records with the index; how many were made anew.
    pub(super) async fn rebuild_words(&self) -> StoreResult<u64> {
        let (path, throttle) = (self.store.0.shared.layout.database(), std::sync::Arc::clone(&self.throttle));
        let compared = spawn_blocking(move || compare(&open_patiently(&path)?, || throttle.is_stopped()))
            .await
            .map_err(|error| StoreError::io("compare words with records", error))?;
        match compared {
            Ok(WordsComparison::Wrong(keys)) => {
                let mut rebuilt = 0;
                for keys in keys.chunks(MENDED_AT_ONCE) {
                    let keys = keys.to_vec();
                    rebuilt += self.store.submit_deletion(move |tx| mend(tx, &keys).map(Ok)).await?;
                }
                Ok(rebuilt)
            }
            Ok(WordsComparison::Garbled) => {
                tracing::warn!("the index of words is damaged: it is made anew");
                self.store.begin_words_anew().await?;
                Ok(1)
            }
            Ok(WordsComparison::Stopped) => Ok(0),
            Err(error) => {
                tracing::warn!(%error, "words cannot be compared with records now");
                self.update(|state| state.unreadable += 1);
                Ok(0)
            }
        }
    }
}

/// In a transaction of its own, so that both sides are of the same moment.
fn compare(conn: &Connection, is_stopped: impl Fn() -> bool) -> rusqlite::Result<WordsComparison> {
    conn.execute_batch("CREATE VIRTUAL TABLE temp.instances USING fts5vocab ('main', 'words', 'instance')")?;
    let transaction = conn.unchecked_transaction()?;
    if IndexStage::read(&transaction)? < IndexStage::Built {
        return Ok(WordsComparison::Stopped);
    }
    // Of these, the index may have nothing yet.
    let behind = words::behind(&transaction, &Totals::read(&transaction)?)?;
    let behind: HashSet<i64> = behind.into_iter().map(|(key, _)| key).collect();
    let mut sums: HashMap<i64, u64> = HashMap::new();
    let mut rest = Rest::default();
    let mut select =
        transaction.prepare("SELECT list_key, search FROM records WHERE list_key IS NOT NULL")?;
    let mut found = select.query([])?;
    while let Some(row) = found.next()? {
        let Some(text) = row.get::<_, Option<String>>(1)? else { continue };
        let sum = grams::indexed(&text)
            .split_ascii_whitespace()
            .zip(0..)
            .fold(0_u64, |sum, (gram, place)| sum.wrapping_add(digest(gram, place)));
        sums.insert(row.get(0)?, sum);
        if rest.is_due() && is_stopped() {
            return Ok(WordsComparison::Stopped);
        }
    }
    drop(found);
    let mut select = transaction.prepare("SELECT term, doc, \"offset\" FROM temp.instances")?;
    let mut found = select.query([])?;
    loop {
        let row = match found.next() {
            Ok(Some(row)) => row,
            Ok(None) => break,
            Err(error) if index::is_garbled(&error) => return Ok(WordsComparison::Garbled),
            Err(error) => return Err(error),
        };
        let sum = sums.entry(row.get(1)?).or_default();
        let term = row.get_ref(0)?.as_str().unwrap_or_default();
        *sum = sum.wrapping_sub(digest(term, row.get(2)?));
        if rest.is_due() && is_stopped() {
            return Ok(WordsComparison::Stopped);
        }
    }
    let wrong = sums.into_iter().filter(|(key, sum)| *sum != 0 && !behind.contains(key));
    let mut wrong: Vec<i64> = wrong.map(|(key, _)| key).collect();
    wrong.sort_unstable();
    Ok(WordsComparison::Wrong(wrong))
}

/// Leaves the processor to others for a part of the time.
struct Rest {
    rows: u64,
    since: Instant,
}

impl Default for Rest {
    fn default() -> Self {
        Self { rows: 0, since: Instant::now() }
    }
}

impl Rest {
    /// Counts a row, and rests after some; whether it did.
    fn is_due(&mut self) -> bool {
        self.rows += 1;
        if !self.rows.is_multiple_of(ROWS_AT_ONCE) {
            return false;
        }
        std::thread::sleep(self.since.elapsed().min(Duration::from_millis(100)) * REST_SHARE);
        self.since = Instant::now();
        true
    }
}

fn digest(gram: &str, place: i64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (gram, place).hash(&mut hasher);
    hasher.finish()
}

/// Writes the words under these keys anew, as the records have them now.
fn mend(tx: &mut Tx<'_>, keys: &[i64]) -> rusqlite::Result<u64> {
    for key in keys {
        let hash = index::hash_of(tx.conn, *key)?;
        let stored = hash.map(|hash| rows::find(tx.conn, hash)).transpose()?.flatten();
        tx.index.words.replace(*key, stored.as_ref().map(|stored| &stored.asset.record));
    }
    Ok(keys.len() as u64)
}
