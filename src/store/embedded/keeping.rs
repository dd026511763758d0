//! Promises to other machines to keep contents, and letting go of some for good.
//!
//! The tables `dropping` and `promises` are what is durable; [`promises`](crate::store::promises) decides. Everything is looked at and
//! written in one transaction of the writer, so that no mark and no promise comes in between. Until when a promise lasts is known to
//! this process alone: those that it found when the store opened last from then on as if they had just been given.
//!
//! What is let go of here is not in the trash afterwards: others keep it, and the room is wanted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension as _};

use super::incoming::check_batch_size;
use super::objects::waiting;
use super::rows::{self, ContentPlace, StoredRow};
use super::tx::Tx;
use super::{EmbeddedStore, StoreShared, objects, sums};
use crate::record::ContentHash;
use crate::store::StoreError;
use crate::store::promises::{
    CopyPlace, CopyStanding, DropAnswer, DropTerms, GivenPromise, KEPT_FOR, LastingPromise, MarkAnswer,
    OwnCopy, PROMISED_TO_MAX, PROMISES_MAX, PromiseAnswer,
};

/// A content, and the endpoint id of whom it is promised to.
type PromiseKey = (ContentHash, [u8; 32]);

/// What this process knows of promises beyond what is durable.
#[derive(Debug)]
pub(super) struct PromiseTimes {
    /// When the store was opened, by its clock's uptime.
    opened_at: Duration,
    /// Until when those last that were given since.
    until: Mutex<HashMap<PromiseKey, Duration>>,
    /// About how many there are.
    count: AtomicUsize,
}

impl PromiseTimes {
    /// For a store that is being opened: whoever marked copies is no more.
    pub(super) fn open(conn: &Connection, now: Duration) -> Result<Self, rusqlite::Error> {
        let cleared = conn.execute("DELETE FROM dropping", [])?;
        if cleared > 0 {
            tracing::info!(cleared, "copies that were about to be let go of when the process ended stay");
        }
        let count = conn.query_row("SELECT count(*) FROM promises", [], |row| rows::unsigned(row, 0))?;
        Ok(Self {
            opened_at: now,
            until: Mutex::default(),
            count: AtomicUsize::new(usize::try_from(count).unwrap_or(usize::MAX)),
        })
    }

    fn until(&self, key: &PromiseKey) -> Duration {
        self.until.lock().get(key).copied().unwrap_or(self.opened_at + KEPT_FOR)
    }
}

/// Forgets promises that are over.
pub(super) fn forget_old(conn: &Connection, shared: &StoreShared) -> Result<(), rusqlite::Error> {
    let (times, now) = (&shared.promises, shared.clock.uptime());
    let all: Vec<PromiseKey> = conn
        .prepare_cached("SELECT hash, promised_to FROM promises")?
        .query_map([], |row| Ok((ContentHash(row.get(0)?), row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let mut left = all.len();
    for key in all.iter().filter(|key| times.until(key) <= now) {
        conn.prepare_cached("DELETE FROM promises WHERE hash = ?1 AND promised_to = ?2")?
            .execute((key.0.0, key.1))?;
        times.until.lock().remove(key);
        left -= 1;
    }
    times.count.store(left, Ordering::Relaxed);
    Ok(())
}

fn promised_to(conn: &Connection, hash: ContentHash) -> Result<Vec<[u8; 32]>, rusqlite::Error> {
    conn.prepare_cached("SELECT promised_to FROM promises WHERE hash = ?1")?
        .query_map([hash.0], |row| row.get(0))?
        .collect()
}

fn is_dropping(conn: &Connection, hash: ContentHash) -> Result<bool, rusqlite::Error> {
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
) -> Result<(OwnCopy, Option<StoredRow>), rusqlite::Error> {
    let stored = tx.find(hash)?;
    let held = stored.as_ref().is_some_and(|stored| shared.damage.holding(&stored.asset).is_held());
    let to = promised_to(tx.conn, hash)?;
    let lasting = to.into_iter().map(|to| LastingPromise { to, until: shared.promises.until(&(hash, to)) });
    let promised = lasting.max_by_key(|promised| promised.until);
    Ok((OwnCopy { held, dropping: is_dropping(tx.conn, hash)?, promised }, stored))
}

/// Whether another machine counts on this copy.
pub(super) fn is_promised(
    tx: &Tx<'_>,
    shared: &StoreShared,
    hash: ContentHash,
) -> Result<bool, rusqlite::Error> {
    let (copy, _) = own_copy(tx, shared, hash)?;
    Ok(copy.is_promised(shared.clock.uptime()))
}

/// Whether it is to go to the bucket, and is in no other place than this disk until then.
fn waits_for_upload(tx: &Tx<'_>, hash: ContentHash) -> Result<bool, rusqlite::Error> {
    Ok(waiting::since_ms(tx.conn, hash)?.is_some())
}

fn mark(tx: &Tx<'_>, shared: &StoreShared, hash: ContentHash) -> Result<MarkAnswer, rusqlite::Error> {
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
) -> Result<PromiseAnswer, rusqlite::Error> {
    let (copy, _) = own_copy(tx, shared, hash)?;
    let answer = copy.promise();
    if answer != PromiseAnswer::Promised {
        return Ok(answer);
    }
    let (times, others) = (&shared.promises, promised_to(tx.conn, hash)?);
    if !others.contains(&to) {
        if others.len() >= PROMISED_TO_MAX || times.count.load(Ordering::Relaxed) >= PROMISES_MAX {
            return Ok(PromiseAnswer::TooMany);
        }
        tx.conn
            .prepare_cached("INSERT INTO promises (hash, promised_to) VALUES (?1, ?2)")?
            .execute((hash.0, to))?;
        times.count.fetch_add(1, Ordering::Relaxed);
    }
    // If it is not committed, nobody hears of it, and nothing looks for it.
    times.until.lock().insert((hash, to), shared.clock.uptime() + KEPT_FOR);
    Ok(answer)
}

fn drop_marked(
    tx: &mut Tx<'_>,
    shared: &StoreShared,
    hash: ContentHash,
    terms: &DropTerms,
) -> Result<DropAnswer, rusqlite::Error> {
    let (copy, stored) = own_copy(tx, shared, hash)?;
    let answer = match copy.drop(terms.by, shared.clock.uptime()) {
        DropAnswer::Dropped if !(terms.holds)() => DropAnswer::Unpromised,
        answer => answer,
    };
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

fn unmark(tx: &Tx<'_>, hash: ContentHash) -> Result<(), rusqlite::Error> {
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

    pub(super) async fn mark_batch(&self, hashes: Vec<ContentHash>) -> Result<Vec<MarkAnswer>, StoreError> {
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

    pub(super) async fn unmark_batch(&self, hashes: Option<Vec<ContentHash>>) -> Result<(), StoreError> {
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

    pub(super) async fn promise_one(
        &self,
        hash: ContentHash,
        to: [u8; 32],
    ) -> Result<PromiseAnswer, StoreError> {
        let shared = self.0.shared.clone();
        self.submit_deletion(move |tx| promise(tx, &shared, hash, to).map(Ok)).await
    }

    pub(super) async fn drop_batch(
        &self,
        hashes: Vec<ContentHash>,
        terms: DropTerms,
    ) -> Result<Vec<DropAnswer>, StoreError> {
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

    pub(super) async fn read_standing(&self, hash: ContentHash) -> Result<CopyStanding, StoreError> {
        let read = move |conn: &Connection| Ok((is_dropping(conn, hash)?, promised_to(conn, hash)?));
        let shared = &self.0.shared;
        let (dropping, promised) = shared.readers.run("look for promises", read).await?;
        let now = shared.clock.uptime();
        let given = promised
            .into_iter()
            .map(|to| GivenPromise { to, lasts: shared.promises.until(&(hash, to)).saturating_sub(now) });
        Ok(CopyStanding { dropping, promises: given.filter(|given| !given.lasts.is_zero()).collect() })
    }
}
