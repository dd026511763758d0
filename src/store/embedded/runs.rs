//! No number is given to two changes, even if the store is set back: restored from a backup or a snapshot, or overwritten by
//! an older copy of its directory.
//!
//! What a store that was set back has forgotten, its readers may have read: the database knows nothing of those numbers, and
//! would give them out again. So each opening of the store begins a *run* of numbers of its own. It begins at the time in
//! microseconds (nobody makes a million changes a second, so whatever was given out before lies below), or behind the last
//! number where the clock shows less than that; and a random piece further on, so that two runs that go out from the same
//! state do not meet even where clocks are of no use. The first run of a new store begins at 0.
//!
//! The database keeps the runs: the first number of each, and the last one before the next run. A cursor that lies in none of
//! them is from a future that this store does not have, and its reader begins again. Runs are few and small; the oldest
//! are dropped beyond a bound, and count as purged.
//!
//! A machine that is set back while it runs, memory and all, opens nothing. But its clock is set right soon after, and a clock
//! that was set begins a run as well.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _};

use super::rows;
use super::tx::Totals;
use crate::clock::Clock;

/// Most runs that are known; a machine that is started daily has so many in eleven years.
const RUNS_MAX: u64 = 4096;
/// What a run begins further on than it has to, at most: with it, a run of a hundred thousand changes meets one number of
/// another with a probability of one in ten thousand, where clocks do not keep them apart.
const RANDOM_STEP: u64 = 1 << 30;
/// No clock moves numbers beyond this (it shows the year 2112 then), so that they stay whole numbers in JavaScript, too.
const CLOCK_MAX: u64 = 1 << 52;
/// Numbers beyond this go up one by one.
const STEPS_MAX: u64 = (1 << 53) - (1 << 40);
/// How far the clock is set until that begins a run.
const SET_BY: Duration = Duration::from_mins(1);

/// Begins a run: the number that it begins behind is that of no change, and greater than all that were given out. `acknowledged` is the
/// greatest number that is known from elsewhere.
pub(super) fn begin(
    conn: &Connection,
    totals: &mut Totals,
    acknowledged: u64,
    now_ms: u64,
) -> rusqlite::Result<()> {
    let is_new = totals.last_seq == 0 && acknowledged == 0 && no_runs(conn)?;
    let first = if is_new { 0 } else { first_number(totals.last_seq.max(acknowledged), now_ms) };
    conn.prepare_cached("UPDATE runs SET last = ?1 WHERE last IS NULL")?
        .execute([totals.last_seq.cast_signed()])?;
    conn.prepare_cached("INSERT INTO runs (first, last) VALUES (?1, NULL)")?
        .execute([first.cast_signed()])?;
    totals.last_seq = first;
    forget_old(conn, totals)?;
    totals.write(conn)
}

fn no_runs(conn: &Connection) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT NOT EXISTS (SELECT 1 FROM runs)")?.query_row([], |row| row.get(0))
}

/// Where a run begins that follows this number at this time.
fn first_number(last: u64, now_ms: u64) -> u64 {
    let step = rand::random_range(1..=RANDOM_STEP);
    let by_clock = now_ms.saturating_mul(1000);
    let by_clock = if by_clock < CLOCK_MAX { by_clock } else { 0 };
    let first = last.max(by_clock).saturating_add(step);
    if first < STEPS_MAX { first } else { last.saturating_add(1) }
}

/// Drops runs that say nothing any more, and the oldest beyond the bound.
fn forget_old(conn: &Connection, totals: &mut Totals) -> rusqlite::Result<()> {
    let oldest_kept = conn
        .prepare_cached("SELECT first FROM runs ORDER BY first DESC LIMIT 1 OFFSET ?1")?
        .query_row([(RUNS_MAX - 1).cast_signed()], |row| rows::unsigned(row, 0))
        .optional()?;
    if let Some(first) = oldest_kept {
        let dropped =
            conn.prepare_cached("DELETE FROM runs WHERE first < ?1")?.execute([first.cast_signed()])?;
        if dropped > 0 {
            totals.purge_floor = totals.purge_floor.max(first);
        }
    }
    // Whatever lies in them is below the floor.
    conn.prepare_cached("DELETE FROM runs WHERE last < ?1")?
        .execute([totals.purge_floor.cast_signed()])
        .map(drop)
}

/// Whether this store may have given out the number, as far as it knows its own past.
pub(super) fn knows(conn: &Connection, number: u64, totals: &Totals) -> rusqlite::Result<bool> {
    let Ok(number) = i64::try_from(number) else { return Ok(false) };
    let last = conn
        .prepare_cached("SELECT last FROM runs WHERE first <= ?1 ORDER BY first DESC LIMIT 1")?
        .query_row([number], |row| row.get::<_, Option<i64>>(0))
        .optional()?;
    Ok(last.is_some_and(|last| number <= last.unwrap_or(totals.last_seq.cast_signed())))
}

/// Notices that the clock was set.
#[derive(Debug)]
pub(super) struct ClockWatch {
    clock: Clock,
    /// What the clock showed when it began to run, by what it shows now.
    began_ms: u64,
}

impl ClockWatch {
    pub(super) fn new(clock: Clock) -> Self {
        let began_ms = began_ms(&clock);
        Self { clock, began_ms }
    }

    /// Whether it was set since this was made, or since [`Self::note`].
    pub(super) fn was_set(&self) -> bool {
        u128::from(began_ms(&self.clock).abs_diff(self.began_ms)) > SET_BY.as_millis()
    }

    pub(super) fn note(&mut self) {
        self.began_ms = began_ms(&self.clock);
    }
}

fn began_ms(clock: &Clock) -> u64 {
    let uptime = u64::try_from(clock.uptime().as_millis()).unwrap_or(u64::MAX);
    clock.own_ms().saturating_sub(uptime)
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    struct Runs {
        conn: Connection,
        totals: Totals,
        _dir: tempfile::TempDir,
    }

    impl Runs {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let conn = schema::open_for_writing(&dir.path().join("store.db")).unwrap();
            let totals = Totals::read(&conn).unwrap();
            Self { conn, totals, _dir: dir }
        }

        fn open(&mut self, now_ms: u64) -> u64 {
            begin(&self.conn, &mut self.totals, 0, now_ms).unwrap();
            self.totals.last_seq
        }

        fn knows(&self, number: u64) -> bool {
            knows(&self.conn, number, &self.totals).unwrap()
        }

        fn count(&self) -> u64 {
            self.conn.query_row("SELECT count(*) FROM runs", [], |row| rows::unsigned(row, 0)).unwrap()
        }
    }

    #[test]
    fn a_new_store_begins_at_0_and_each_later_opening_beyond_all_before() {
        let mut runs = Runs::new();
        assert_eq!(runs.open(NOW_MS), 0);
        runs.totals.last_seq = 60;
        assert!(runs.knows(0) && runs.knows(60) && !runs.knows(61));
        let second = runs.open(NOW_MS + 1);
        assert!(second > NOW_MS * 1000 && second < 1 << 53);
        assert!(runs.knows(60) && !runs.knows(61) && !runs.knows(second - 1) && runs.knows(second));
        assert!(!runs.knows(second + 1) && !runs.knows(u64::MAX));
        // The clock is of no use.
        for now_ms in [0, NOW_MS, u64::MAX, 1 << 53] {
            let before = runs.totals.last_seq;
            assert!(runs.open(now_ms) > before);
            assert!(runs.knows(before) && !runs.knows(before + 1));
        }
    }

    #[test]
    fn a_store_that_was_opened_while_it_was_empty_does_not_begin_at_0_again() {
        let mut runs = Runs::new();
        runs.open(NOW_MS);
        assert!(runs.open(NOW_MS) > 60);
    }

    #[test]
    fn two_futures_of_one_past_do_not_meet() {
        // By a right clock, and by one that stands still.
        for later_ms in [0, 1, 3_600_000] {
            let firsts: std::collections::BTreeSet<u64> = (0..100)
                .map(|n| first_number(1000, if n % 2 == 0 { NOW_MS + later_ms } else { 0 }))
                .collect();
            assert_eq!(firsts.len(), 100);
        }
    }

    #[test]
    fn numbers_stay_whole_in_javascript() {
        let mut last = (1 << 53) - (1 << 41);
        for _ in 0..5000 {
            let next = first_number(last, NOW_MS);
            assert!(next > last && next < 1 << 53);
            last = next;
        }
    }

    #[test]
    fn old_runs_go_and_count_as_purged() {
        let mut runs = Runs::new();
        // All in one: thousands of commits take their time.
        runs.conn.execute_batch("BEGIN").unwrap();
        runs.open(NOW_MS);
        runs.totals.last_seq = 5;
        let second = runs.open(NOW_MS);
        for _ in 0..RUNS_MAX - 2 {
            runs.open(NOW_MS);
        }
        assert_eq!((runs.count(), runs.totals.purge_floor), (RUNS_MAX, 0));
        runs.open(NOW_MS);
        assert_eq!((runs.count(), runs.totals.purge_floor), (RUNS_MAX, second));
        runs.totals.purge_floor = runs.totals.last_seq;
        runs.open(NOW_MS);
        assert_eq!(runs.count(), 2, "the one that the floor is in, and the last");
    }

    #[test]
    fn a_clock_that_was_set_is_noticed() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicU64, Ordering};

        let (own, uptime) = (Arc::new(AtomicU64::new(NOW_MS)), Arc::new(AtomicU64::new(0)));
        let clock = {
            let (own, uptime) = (Arc::clone(&own), Arc::clone(&uptime));
            Clock::reading_from(move || crate::clock::Moment {
                own_ms: own.load(Ordering::Relaxed),
                uptime: Duration::from_millis(uptime.load(Ordering::Relaxed)),
            })
        };
        let mut watch = ClockWatch::new(clock);
        own.fetch_add(3_600_000, Ordering::Relaxed);
        uptime.fetch_add(3_590_000, Ordering::Relaxed);
        assert!(!watch.was_set(), "it drifts");
        own.fetch_add(100_000, Ordering::Relaxed);
        assert!(watch.was_set());
        watch.note();
        assert!(!watch.was_set());
        own.fetch_sub(200_000, Ordering::Relaxed);
        assert!(watch.was_set());
    }
}
