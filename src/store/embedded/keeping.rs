//! Promises to other machines to keep contents, and letting go of some for good.
//!
//! The tables `dropping` and `promises` are what is durable; [`promises`](crate::store::promises) decides. Everything is looked at and
//! written in one transaction of the writer, so that no mark and no promise comes in between. Until when a promise lasts means something
//! to the process that gave it alone: those that were found when the store opened last from then on as if they had just been given.
//!
//! What is let go of here is not in the trash afterwards: others keep it, and the room is wanted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};

use super::incoming::check_batch_size;
use super::objects::waiting;
use super::rows::{self, ContentPlace, StoredRow};
use super::tx::Tx;
use super::{EmbeddedStore, StoreShared, objects, sums};
use crate::record::ContentHash;
use crate::store::promises::{
    CopyPlace, CopyStanding, DropAnswer, DropTerms, GivenPromise, KEPT_FOR, LastingPromise, MarkAnswer,
    OwnCopy, PROMISED_TO_MAX, PROMISES_MAX, PromiseAnswer,
};
use crate::store::{StoreError, StoreResult};

/// Promises that are forgotten at once, so that changes do not wait long behind that.
const FORGOTTEN_AT_ONCE: usize = 5_000;

/// What this process knows of promises beyond what is durable.
#[derive(Debug)]
pub(super) struct PromiseTimes {
    /// When the store was opened, by its clock's uptime.
    opened_at: Duration,
    /// Which opening this is: greater than that of all promises it found.
    run: i64,
    /// About how many there are.
    count: AtomicUsize,
    /// Whether more may be over than were forgotten.
    has_old: AtomicBool,
}

impl PromiseTimes {
    /// For a store that is being opened: whoever marked copies is no more.
    pub(super) fn open(conn: &Connection, now: Duration) -> rusqlite::Result<Self> {
        let cleared = conn.execute("DELETE FROM dropping", [])?;
        if cleared > 0 {
            tracing::info!(cleared, "copies that were about to be let go of when the process ended stay");
        }
        let count = conn.query_row("SELECT count(*) FROM promises", [], |row| rows::unsigned(row, 0))?;
        let run = conn.query_row("SELECT coalesce(max(run), 0) + 1 FROM promises", [], |row| row.get(0))?;
        Ok(Self {
            opened_at: now,
            run,
            count: AtomicUsize::new(usize::try_from(count).unwrap_or(usize::MAX)),
            has_old: AtomicBool::new(false),
        })
    }

    /// Until when one lasts that was given in this opening, or in an earlier one: that runs anew.
    fn until(&self, run: i64, until_ms: u64) -> Duration {
        if run == self.run { Duration::from_millis(until_ms) } else { self.opened_at + KEPT_FOR }
    }
}

/// The time, in whole milliseconds of which none is missing.
fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX)
}

pub(super) fn forget_old(conn: &mut Connection, shared: &StoreShared) -> rusqlite::Result<()> {
    let has_more = forget_some(conn, &shared.promises, shared.clock.uptime())?;
    shared.promises.has_old.store(has_more, Ordering::Relaxed);
    Ok(())
}

pub(super) fn has_old(shared: &StoreShared) -> bool {
    shared.promises.has_old.load(Ordering::Relaxed)
}

fn forget_some(conn: &mut Connection, times: &PromiseTimes, now: Duration) -> rusqlite::Result<bool> {
    let limit = i64::try_from(FORGOTTEN_AT_ONCE).unwrap_or(i64::MAX);
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let delete = |which: &str, bound: i64| {
        let sql = format!(
            "DELETE FROM promises WHERE (hash, promised_to) IN (SELECT hash, promised_to FROM promises WHERE {which} LIMIT ?3)"
        );
        transaction.prepare_cached(&sql)?.execute((times.run, bound, limit))
    };
    let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    let mut forgotten = delete("run = ?1 AND until_ms <= ?2", now_ms)?;
    if forgotten < FORGOTTEN_AT_ONCE && times.opened_at + KEPT_FOR <= now {
        forgotten += delete("run < ?1 AND until_ms <= ?2", i64::MAX)?;
    }
    transaction.commit()?;
    let left = times.count.load(Ordering::Relaxed).saturating_sub(forgotten);
    times.count.store(left, Ordering::Relaxed);
    Ok(forgotten >= FORGOTTEN_AT_ONCE)
}

/// To whom a content is promised, and until when.
fn promised(
    conn: &Connection,
    times: &PromiseTimes,
    hash: ContentHash,
) -> rusqlite::Result<Vec<LastingPromise>> {
    conn.prepare_cached("SELECT promised_to, run, until_ms FROM promises WHERE hash = ?1")?
        .query_map([hash.0], |row| {
            let until = times.until(row.get(1)?, rows::unsigned(row, 2)?);
            Ok(LastingPromise { to: row.get(0)?, until })
        })?
        .collect()
}

fn is_dropping(conn: &Connection, hash: ContentHash) -> rusqlite::Result<bool> {
    let found = conn
        .prepare_cached("SELECT 1 FROM dropping WHERE hash = ?1")?
        .query_row([hash.0], |_| Ok(()))
        .optional()?;
    Ok(found.is_some())
}

fn own_copy(
    tx: &Tx<'_>,
    shared: &StoreShared,
    hash: ContentHash,
) -> rusqlite::Result<(OwnCopy, Option<StoredRow>)> {
    let stored = tx.find(hash)?;
    let held = stored.as_ref().is_some_and(|stored| shared.damage.holding(&stored.asset).is_held());
    let promised = promised(tx.conn, &shared.promises, hash)?.into_iter();
    let promised = promised.max_by_key(|promised| promised.until);
    Ok((OwnCopy { held, dropping: is_dropping(tx.conn, hash)?, promised }, stored))
}

/// Whether another machine counts on this copy.
pub(super) fn is_promised(tx: &Tx<'_>, shared: &StoreShared, hash: ContentHash) -> rusqlite::Result<bool> {
    let (copy, _) = own_copy(tx, shared, hash)?;
    Ok(copy.is_promised(shared.clock.uptime()))
}

/// Whether it is to go to the bucket, and is in no other place than this disk until then.
fn waits_for_upload(tx: &Tx<'_>, hash: ContentHash) -> rusqlite::Result<bool> {
    Ok(waiting::since_ms(tx.conn, hash)?.is_some())
}

fn mark(tx: &Tx<'_>, shared: &StoreShared, hash: ContentHash) -> rusqlite::Result<MarkAnswer> {
    let (copy, _) = own_copy(tx, shared, hash)?;
    let answer = copy.mark(shared.clock.uptime());
    if answer == MarkAnswer::Marked {
        tx.conn.prepare_cached("INSERT OR IGNORE INTO dropping (hash) VALUES (?1)")?.execute([hash.0])?;
    }
    Ok(answer)
}

fn promise(
    tx: &Tx<'_>,
    shared: &StoreShared,
    hash: ContentHash,
    to: [u8; 32],
) -> rusqlite::Result<PromiseAnswer> {
    let (copy, _) = own_copy(tx, shared, hash)?;
    let answer = copy.promise();
    if answer != PromiseAnswer::Promised {
        return Ok(answer);
    }
    let (times, others) = (&shared.promises, promised(tx.conn, &shared.promises, hash)?);
    if !others.iter().any(|other| other.to == to) {
        if others.len() >= PROMISED_TO_MAX || times.count.load(Ordering::Relaxed) >= PROMISES_MAX {
            return Ok(PromiseAnswer::TooMany);
        }
        times.count.fetch_add(1, Ordering::Relaxed);
    }
    tx.conn
        .prepare_cached(
            "INSERT INTO promises (hash, promised_to, run, until_ms) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (hash, promised_to) DO UPDATE SET run = excluded.run, until_ms = excluded.until_ms",
        )?
        .execute((hash.0, to, times.run, millis(shared.clock.uptime() + KEPT_FOR)))?;
    Ok(answer)
}

fn drop_marked(
    tx: &mut Tx<'_>,
    shared: &StoreShared,
    hash: ContentHash,
    terms: &DropTerms,
) -> rusqlite::Result<DropAnswer> {
    let (copy, stored) = own_copy(tx, shared, hash)?;
    let mut answer = copy.drop(terms.by, shared.clock.uptime());
    if answer == DropAnswer::Dropped && !(terms.holds)() {
        answer = DropAnswer::Unpromised;
    }
    let (DropAnswer::Dropped, Some(stored)) = (answer, stored) else { return Ok(answer) };
    if waits_for_upload(tx, hash)? {
        return Ok(DropAnswer::NotMarked);
    }
    match stored.place {
        Some(ContentPlace::Inline(id)) => rows::remove_inline(tx.conn, tx.probe, id)?,
        Some(ContentPlace::File) => {
            tx.leave_file(hash)?;
            sums::forget(tx.conn, hash)?;
        }
        // The clean-up deletes it, if nothing refers to it and the bucket is not shared.
        Some(ContentPlace::Object) => {
            objects::leave(tx.conn, hash)?;
            sums::forget(tx.conn, hash)?;
        }
        None => return Ok(DropAnswer::NotHeld),
    }
    tx.put_absent(&stored, false)?;
    unmark(tx, hash)?;
    Ok(answer)
}

fn unmark(tx: &Tx<'_>, hash: ContentHash) -> rusqlite::Result<()> {
    tx.conn.prepare_cached("DELETE FROM dropping WHERE hash = ?1")?.execute([hash.0]).map(drop)
}

impl EmbeddedStore {
    /// Where its copies are; `None` while that is not known.
    pub(super) fn own_place(&self) -> Option<CopyPlace> {
        let shared = &self.0.shared;
        match &shared.objects {
            Some(objects) => objects.bucket.place().map(|place| CopyPlace(place.0)),
            None if shared.bucket_missing.is_some() => None,
            None => Some(CopyPlace(shared.id.0)),
        }
    }

    pub(super) async fn mark_batch(&self, hashes: Vec<ContentHash>) -> StoreResult<Vec<MarkAnswer>> {
        check_batch_size(hashes.len())?;
        let shared = self.0.shared.clone();
        self.submit_deletion(move |tx| {
            for hash in &hashes {
                if waits_for_upload(tx, *hash)? {
                    let why = "it is on this disk alone, and waits to be uploaded to the object storage";
                    return Ok(Err(StoreError::Busy(why.to_owned())));
                }
            }
            hashes.iter().map(|hash| mark(tx, &shared, *hash)).collect::<Result<Vec<_>, _>>().map(Ok)
        })
        .await
    }

    pub(super) async fn unmark_batch(&self, hashes: Option<Vec<ContentHash>>) -> StoreResult {
        check_batch_size(hashes.as_ref().map_or(0, Vec::len))?;
        self.submit_deletion(move |tx| {
            match &hashes {
                Some(hashes) => hashes.iter().try_for_each(|hash| unmark(tx, *hash))?,
                None => drop(tx.conn.execute("DELETE FROM dropping", [])?),
            }
            Ok(Ok(()))
        })
        .await
    }

    pub(super) async fn promise_one(&self, hash: ContentHash, to: [u8; 32]) -> StoreResult<PromiseAnswer> {
        let shared = self.0.shared.clone();
        self.submit_deletion(move |tx| promise(tx, &shared, hash, to).map(Ok)).await
    }

    pub(super) async fn drop_batch(
        &self,
        hashes: Vec<ContentHash>,
        terms: DropTerms,
    ) -> StoreResult<Vec<DropAnswer>> {
        check_batch_size(hashes.len())?;
        let shared = self.0.shared.clone();
        let dropped = self.submit_deletion(move |tx| {
            let each = hashes.iter().map(|hash| drop_marked(tx, &shared, *hash, &terms));
            each.collect::<Result<Vec<_>, _>>().map(Ok)
        });
        let dropped = dropped.await?;
        if let Some(objects) = &self.0.shared.objects {
            objects.wake();
        }
        Ok(dropped)
    }

    pub(super) async fn read_standing(&self, hash: ContentHash) -> StoreResult<CopyStanding> {
        let shared = Arc::clone(&self.0.shared);
        let read =
            move |conn: &Connection| Ok((is_dropping(conn, hash)?, promised(conn, &shared.promises, hash)?));
        let shared = &self.0.shared;
        let (dropping, promised) = shared.readers.run("look for promises", read).await?;
        let now = shared.clock.uptime();
        let given = promised
            .into_iter()
            .map(|promised| GivenPromise { to: promised.to, lasts: promised.until.saturating_sub(now) });
        Ok(CopyStanding { dropping, promises: given.filter(|given| !given.lasts.is_zero()).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(conn: &Connection) -> usize {
        let count = conn.query_row("SELECT count(*) FROM promises", [], |row| rows::unsigned(row, 0));
        usize::try_from(count.unwrap()).unwrap()
    }

    fn promise_many(conn: &mut Connection, many: usize, run: i64, until: Duration) {
        let tx = conn.transaction().unwrap();
        for n in 0..many {
            let key = (n as u64).to_le_bytes().repeat(4);
            tx.execute("INSERT INTO promises VALUES (?1, randomblob(32), ?2, ?3)", (key, run, millis(until)))
                .unwrap();
        }
        tx.commit().unwrap();
    }

    #[test]
    fn however_many_promises_are_over_few_are_forgotten_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut conn = super::super::schema::open_for_writing(&dir.path().join("store.db")).unwrap();
        let opened_at = Duration::from_hours(5);
        promise_many(&mut conn, FORGOTTEN_AT_ONCE + 10, 3, Duration::from_millis(1));
        let times = PromiseTimes::open(&conn, opened_at).unwrap();
        assert_eq!(times.run, 4);
        promise_many(&mut conn, FORGOTTEN_AT_ONCE + 20, times.run, Duration::from_hours(6));
        promise_many(&mut conn, 7, times.run, Duration::from_hours(40));
        times.count.store(count(&conn), Ordering::Relaxed);
        let mut forget = |now| {
            let more = forget_some(&mut conn, &times, now).unwrap();
            assert_eq!(times.count.load(Ordering::Relaxed), count(&conn));
            (more, count(&conn))
        };
        let all = 2 * FORGOTTEN_AT_ONCE + 37;
        assert_eq!(forget(Duration::from_mins(6 * 60 - 1)), (false, all));
        // Those of this opening; those from before run a day since then.
        assert_eq!(forget(Duration::from_hours(6)), (true, all - FORGOTTEN_AT_ONCE));
        assert_eq!(forget(Duration::from_hours(6)), (false, FORGOTTEN_AT_ONCE + 17));
        assert_eq!(forget(opened_at + Duration::from_mins(24 * 60 - 1)), (false, FORGOTTEN_AT_ONCE + 17));
        assert_eq!(forget(opened_at + KEPT_FOR), (true, 17));
        assert_eq!(forget(opened_at + KEPT_FOR), (false, 7));
        assert_eq!(forget(Duration::from_hours(40)), (false, 0));
    }
}
