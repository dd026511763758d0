//! Checking the database, and what in it is derived from its records.
//!
//! SQLite checks the tables and their indices, but for the small contents: those are hashed with all others. Indices that are wrong are made anew;
//! anything else that is wrong with the pages ends all writing, as when a reader meets it. Columns and tables that searches look
//! into, and the totals, can be computed from the records, and are where they differ.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, InterruptHandle, OptionalExtension as _, params};
use tokio::task::spawn_blocking;

use super::super::failure::{self, damaged_database};
use super::super::index::{self, IndexStage, facets};
use super::super::readers::open_patiently;
use super::super::rows::{self, COLUMNS, StoredRow};
use super::super::tx::{Totals, Tx};
use super::pass::Pass;
use crate::disk::LONG_PATIENCE;
use crate::record::ContentHash;
use crate::store::{StoreError, StoreResult};

/// How long SQLite may take to check a table. Reading goes on meanwhile, and so does writing, but the log grows.
const CHECK_WITHIN: Duration = Duration::from_mins(10);
/// Most problems of a table that are listed.
const PROBLEMS_MAX: u32 = 10;
/// Records, or facets, that are compared at once.
const ROWS_AT_ONCE: i64 = 500;

/// What SQLite says of a table.
enum TableVerdict {
    Right,
    /// Its indices and its rows do not agree, which is all that is wrong.
    Indices(String),
    Damaged(String),
    /// It took too long, or was stopped.
    Undecided,
}

impl Pass {
    /// Checks the database, and makes anew what can be.
    pub(super) async fn check_database(&self) -> StoreResult {
        let names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' AND name <> 'contents'";
        let list = move |conn: &Connection| {
            conn.prepare(names)?.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()
        };
        for table in self.store.0.shared.readers.run("list tables", list).await? {
            if self.throttle.is_stopped() {
                return Ok(());
            }
            match self.check_table(&table).await? {
                TableVerdict::Right => {}
                TableVerdict::Undecided if self.throttle.is_stopped() => {}
                TableVerdict::Undecided => self.update(|state| state.unreadable += 1),
                TableVerdict::Indices(problems) => self.make_indices(&table, problems).await?,
                // It is made of tables, which are checked by themselves.
                TableVerdict::Damaged(why) if table == "words" => {
                    tracing::warn!(why, "the index of words is damaged: it is made anew");
                    self.store.begin_words_anew().await?;
                    self.update(|state| state.rebuilt += 1);
                }
                TableVerdict::Damaged(why) => self.damaged(why),
            }
        }
        let rebuilt = self.rebuild_columns().await?
            + self.rebuild_facets().await?
            + self.rebuild_words().await?
            + self.rebuild_totals().await?;
        self.update(|state| state.rebuilt += rebuilt);
        Ok(())
    }

    fn damaged(&self, why: String) {
        tracing::error!(why, "the store takes no more writes");
        self.store.0.shared.set_read_only(why.clone());
        self.update(|state| state.database = Some(why));
    }

    /// Has SQLite check a table, in a connection of its own.
    async fn check_table(&self, table: &str) -> StoreResult<TableVerdict> {
        let shared = &self.store.0.shared;
        let (path, dir) = (shared.layout.database(), shared.layout.dir.clone());
        let (tell, handles) = mpsc::channel();
        let mut interrupter = Interrupter { handles, seen: Vec::new() };
        let name = table.replace('"', "\"\"");
        let mut checking = spawn_blocking(move || {
            let mut tries = LONG_PATIENCE.iter();
            loop {
                let checked = open_patiently(&path).and_then(|conn| {
                    let _ = tell.send(conn.get_interrupt_handle());
                    problems(&conn, &name)
                });
                match (checked, tries.next()) {
                    (Ok(problems), _) => return verdict(&problems, |why| damaged_database(&dir, &why)),
                    (Err(error), _) if failure::is_interrupted(&error) => return TableVerdict::Undecided,
                    (Err(error), Some(pause)) if failure::is_unread(&error) => std::thread::sleep(*pause),
                    (Err(error), _) if failure::is_damage(&error) => {
                        return TableVerdict::Damaged(damaged_database(&dir, &error));
                    }
                    (Err(error), _) => {
                        tracing::warn!(%error, "the database cannot be checked now");
                        return TableVerdict::Undecided;
                    }
                }
            }
        });
        let began = Instant::now();
        loop {
            match tokio::time::timeout(Duration::from_millis(100), &mut checking).await {
                Ok(Ok(verdict)) => return Ok(verdict),
                Ok(Err(error)) => {
                    return Err(StoreError::io(format!("check the table {table}"), error));
                }
                Err(_) if self.throttle.is_stopped() || began.elapsed() > CHECK_WITHIN => {
                    interrupter.interrupt();
                }
                Err(_) => {}
            }
        }
    }

    /// Makes indices anew, unless it may be the rows that are wrong: they would be lost for good then.
    async fn make_indices(&self, table: &str, problems: String) -> StoreResult {
        let name = table.to_owned();
        let read = move |conn: &Connection| rows_are_right(conn, &name);
        if !self.store.0.shared.readers.run("compare rows with indices", read).await? {
            self.damaged(damaged_database(&self.store.dir(), &problems));
            return Ok(());
        }
        tracing::warn!(table, "indices of the database are wrong: they are made anew");
        let sql = format!("REINDEX \"{}\"", table.replace('"', "\"\""));
        self.store
            .submit_deletion(move |tx| {
                tx.conn.execute_batch(&sql)?;
                Ok(Ok(()))
            })
            .await?;
        match self.check_table(table).await? {
            TableVerdict::Right | TableVerdict::Undecided => self.update(|state| state.rebuilt += 1),
            TableVerdict::Indices(_) => {
                self.damaged(damaged_database(
                    &self.store.dir(),
                    &"indices are wrong again once they are made",
                ));
            }
            TableVerdict::Damaged(why) => self.damaged(why),
        }
        Ok(())
    }

    /// Compares what searches look into with the records; how many were made anew.
    async fn rebuild_columns(&self) -> StoreResult<u64> {
        let (mut after, mut rebuilt) = (0, 0);
        while !self.throttle.is_stopped() {
            let began = Instant::now();
            let read = move |conn: &Connection| wrong_rows(conn, after);
            let (last, wrong) = self.store.0.shared.readers.run("compare records with indices", read).await?;
            let Some(last) = last else { break };
            after = last;
            self.breathe(began.elapsed()).await?;
            if !wrong.is_empty() {
                rebuilt += self.store.submit_deletion(move |tx| mend_rows(tx, &wrong).map(Ok)).await?;
            }
        }
        Ok(rebuilt)
    }

    /// Removes facets that no record has, and counts them anew; how many were wrong.
    async fn rebuild_facets(&self) -> StoreResult<u64> {
        let (mut after, mut rebuilt) = ((0, 0), 0);
        while !self.throttle.is_stopped() {
            let began = Instant::now();
            let read = move |conn: &Connection| stray_facets(conn, after);
            let (last, stray) = self.store.0.shared.readers.run("compare facets with records", read).await?;
            let Some(last) = last else { break };
            after = last;
            self.breathe(began.elapsed()).await?;
            if !stray.is_empty() {
                rebuilt +=
                    self.store.submit_deletion(move |tx| remove_stray(tx.conn, &stray).map(Ok)).await?;
            }
        }
        let wrong = self.store.0.shared.readers.run("count facets", facets::wrong_counts).await?;
        if !wrong.is_empty() {
            let count = move |tx: &mut Tx<'_>| {
                // What the transaction has changed so far counts as well.
                tx.index.facets.write(tx.conn)?;
                facets::count_anew(tx.conn, &wrong).map(Ok)
            };
            rebuilt += self.store.submit_deletion(count).await?;
        }
        Ok(rebuilt)
    }

    /// Counts anew, if what is kept is wrong.
    async fn rebuild_totals(&self) -> StoreResult<u64> {
        let compare = |conn: &Connection| {
            let kept = Totals::read(conn)?;
            Ok(kept == counted(conn, kept)?)
        };
        if self.store.0.shared.readers.run("count what is here", compare).await? {
            return Ok(0);
        }
        let mended = self.store.submit_deletion(|tx| {
            let right = counted(tx.conn, tx.totals)?;
            let was_wrong = right != tx.totals;
            tx.totals = right;
            Ok(Ok(u64::from(was_wrong)))
        });
        mended.await
    }
}

/// Ends what SQLite does, at the latest when nobody waits for it any more.
struct Interrupter {
    handles: mpsc::Receiver<InterruptHandle>,
    seen: Vec<InterruptHandle>,
}

impl Interrupter {
    fn interrupt(&mut self) {
        self.seen.extend(self.handles.try_iter());
        for handle in &self.seen {
            handle.interrupt();
        }
    }
}

impl Drop for Interrupter {
    fn drop(&mut self) {
        self.interrupt();
    }
}

/// What SQLite finds wrong with a table and its indices.
fn problems(conn: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut check = conn.prepare(&format!("PRAGMA integrity_check(\"{table}\")"))?;
    let rows = check.query_map([], |row| row.get::<_, String>(0))?;
    let mut found = Vec::new();
    for row in rows {
        found.push(row?);
        if found.len() >= PROBLEMS_MAX as usize {
            break;
        }
    }
    found.retain(|problem| problem != "ok");
    Ok(found)
}

fn verdict(problems: &[String], explain: impl Fn(String) -> String) -> TableVerdict {
    let concerns_index = |problem: &String| {
        problem.contains("missing from index")
            || problem.starts_with("wrong # of entries in index")
            || problem.contains("values differ from index")
    };
    match problems {
        [] => TableVerdict::Right,
        some if some.iter().all(concerns_index) => TableVerdict::Indices(some.join("; ")),
        some => TableVerdict::Damaged(explain(some.join("; "))),
    }
}

/// Whether an index that is not right can be made from the rows: each unique index either has nothing of a row, or says the same of it,
/// and no two rows are alike in it. Where they differ, nobody knows which is right.
fn rows_are_right(conn: &Connection, table: &str) -> rusqlite::Result<bool> {
    let mut list = conn.prepare(
        "SELECT name FROM pragma_index_list(?1) WHERE \"unique\" AND origin = 'c' AND NOT partial",
    )?;
    let unique: Vec<String> = list.query_map([table], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for index in unique {
        let mut list = conn.prepare("SELECT name FROM pragma_index_info(?1) ORDER BY seqno")?;
        let columns: Vec<Option<String>> =
            list.query_map([&index], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let Some(columns) = columns.into_iter().collect::<Option<Vec<String>>>() else { return Ok(false) };
        let columns = columns.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let (table, index) = (format!("\"{table}\""), format!("\"{index}\""));
        // The index alone answers the first question, the rows alone the second.
        let differ = format!(
            "SELECT EXISTS (SELECT rowid, {columns} FROM {table} INDEXED BY {index} \
             EXCEPT SELECT rowid, {columns} FROM {table} NOT INDEXED)"
        );
        let twice = format!(
            "SELECT EXISTS (SELECT 1 FROM {table} NOT INDEXED GROUP BY {columns} HAVING count(*) > 1)"
        );
        for question in [differ, twice] {
            if conn.query_row(&question, [], |row| row.get::<_, bool>(0))? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

type WrongRows = (Option<i64>, Vec<ContentHash>);

/// Of the records after this number: the last one that was looked at, and those whose derived columns or facets are wrong.
fn wrong_rows(conn: &Connection, after: i64) -> rusqlite::Result<WrongRows> {
    let checks_index = IndexStage::read(conn)? > IndexStage::Building;
    let sql = format!(
        "SELECT {COLUMNS}, search, application_folded, user_folded FROM records WHERE seq > ?1 ORDER BY seq LIMIT ?2"
    );
    let mut select = conn.prepare_cached(&sql)?;
    let mut found = select.query(params![after, ROWS_AT_ONCE])?;
    let (mut last, mut wrong) = (None, Vec::new());
    while let Some(row) = found.next()? {
        let stored = rows::read_stored(row)?;
        let column = row.as_ref().column_index("search")?;
        let kept: [Option<String>; 3] = [row.get(column)?, row.get(column + 1)?, row.get(column + 2)?];
        last = Some(stored.asset.seq.cast_signed());
        if kept != rows::derived(&stored.asset.record.meta) || (checks_index && !is_indexed(conn, &stored)?) {
            wrong.push(stored.asset.record.hash);
        }
    }
    Ok((last, wrong))
}

/// Whether the index has a record, but for its words.
fn is_indexed(conn: &Connection, stored: &StoredRow) -> rusqlite::Result<bool> {
    let Some(key) = stored.list_key else { return Ok(stored.asset.record.deleted) };
    for facet in facets::of(&stored.asset) {
        if !facets::has(conn, key, &facet)? {
            return Ok(false);
        }
    }
    Ok(!stored.asset.record.deleted)
}

/// Writes derived columns and the index of records anew. Nothing that is replicated changes.
fn mend_rows(tx: &mut Tx<'_>, wrong: &[ContentHash]) -> rusqlite::Result<u64> {
    let mut mended = 0;
    for hash in wrong {
        let Some(stored) = tx.find(*hash)? else { continue };
        let [search, application, user] = rows::derived(&stored.asset.record.meta);
        tx.conn
            .prepare_cached(
                "UPDATE records SET search = ?2, application_folded = ?3, user_folded = ?4 WHERE hash = ?1",
            )?
            .execute((hash.0, search, application, user))?;
        if tx.stage > IndexStage::Building {
            index::mend(tx.conn, &mut tx.index, &stored)?;
        }
        mended += 1;
    }
    Ok(mended)
}

type FacetRow = (i64, i64);

/// Of what the index has under facets after this: the last row that was looked at, and those that no live record has.
fn stray_facets(conn: &Connection, after: FacetRow) -> rusqlite::Result<(Option<FacetRow>, Vec<FacetRow>)> {
    let rows: Vec<FacetRow> = conn
        .prepare_cached(
            "SELECT facet, list_key FROM faceted WHERE (facet, list_key) > (?1, ?2) ORDER BY facet, list_key LIMIT ?3",
        )?
        .query_map(params![after.0, after.1, ROWS_AT_ONCE], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let mut stray = Vec::new();
    for row in &rows {
        if !is_facet_of(conn, *row)? {
            stray.push(*row);
        }
    }
    Ok((rows.into_iter().next_back(), stray))
}

fn is_facet_of(conn: &Connection, (facet, key): FacetRow) -> rusqlite::Result<bool> {
    let known: Option<(i64, String)> = conn
        .prepare_cached("SELECT kind, value FROM facets WHERE id = ?1")?
        .query_row([facet], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (Some((kind, value)), Some(hash)) = (known, index::hash_of(conn, key)?) else { return Ok(false) };
    let Some(stored) = rows::find(conn, hash)? else { return Ok(false) };
    Ok(facets::of(&stored.asset).iter().any(|facet| facet.kind as i64 == kind && facet.value == value))
}

fn remove_stray(conn: &Connection, stray: &[FacetRow]) -> rusqlite::Result<u64> {
    let mut removed = 0;
    for row in stray {
        if !is_facet_of(conn, *row)? {
            removed += conn
                .prepare_cached("DELETE FROM faceted WHERE facet = ?1 AND list_key = ?2")?
                .execute([row.0, row.1])?;
        }
    }
    Ok(removed as u64)
}

/// The totals as the records have them; what else they say stays.
fn counted(conn: &Connection, kept: Totals) -> rusqlite::Result<Totals> {
    let mut totals = Totals { assets: 0, bytes: 0, assets_held: 0, bytes_held: 0, ..kept };
    let mut select =
        conn.prepare_cached("SELECT size, content IS NOT NULL FROM records WHERE deleted = 0")?;
    let mut live = select.query([])?;
    while let Some(row) = live.next()? {
        let (size, is_held): (u64, bool) = (rows::unsigned(row, 0)?, row.get(1)?);
        totals.assets += 1;
        totals.bytes = totals.bytes.wrapping_add(size);
        if is_held {
            totals.assets_held += 1;
            totals.bytes_held += size;
        }
    }
    let last: Option<i64> =
        conn.prepare_cached("SELECT max(seq) FROM records")?.query_row([], |row| row.get(0))?;
    totals.last_seq = totals.last_seq.max(last.unwrap_or(0).cast_unsigned());
    Ok(totals)
}
