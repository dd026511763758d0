//! Scrubbing the store: what is in it is checked from end to end, again and again.
//!
//! A pass looks at the database and what is derived from its records ([`database`]), at files without records and records
//! without files ([`files`]), and then reads every content that is held, in the order of the hashes ([`reading`]), and the trash ([`trash`]). What is found
//! damaged is set aside by the rules of [`super::damage`]. How far a pass is stands in the database ([`state`]), so it goes on
//! after a restart, at most ten seconds earlier.
//!
//! A pass that nobody asked for keeps to a rate and to a share of one core, and waits while the store is used; one that is half
//! as old as the interval no longer waits, so that it comes to its end on a machine that is never idle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Notify;

use self::pass::Pass;
pub(super) use self::reading::ReadThrottle;
use self::state::ScrubState;
use super::EmbeddedStore;
use crate::record::ContentHash;
use crate::store::StoreResult;
use crate::store::scrub::{ScrubFinding, ScrubProgress, ScrubReport, ScrubResult, ScrubSettings};

mod database;
mod files;
mod pass;
mod reading;
pub(super) mod state;
mod trash;
mod words;

/// Until a pass that failed is tried again, and longest wait for the time to begin one: the clock may be set meanwhile.
const RETRY_AFTER: Duration = Duration::from_mins(1);
const WAIT_MAX: Duration = Duration::from_hours(1);
/// The store is in use for so long after somebody used it.
const IN_USE_FOR: Duration = Duration::from_secs(1);

/// What the store and those who ask know of its scrub.
#[derive(Default)]
pub(super) struct Scrubbing {
    /// Somebody scrubs this store.
    driven: AtomicBool,
    /// The number of the pass that counts.
    pass: AtomicU64,
    begun: Notify,
    live: Mutex<Option<PassUnderWay>>,
    /// From one pass to the next by itself, in milliseconds; 0 for none.
    interval_ms: AtomicU64,
    /// When the store was last used, in milliseconds of `since`, plus one; 0 for never.
    used_at: AtomicU64,
    since: Since,
}

struct Since(Instant);

impl Default for Since {
    fn default() -> Self {
        Self(Instant::now())
    }
}

/// How far the pass is that is under way in this process.
struct PassUnderWay {
    state: ScrubState,
    throttle: Arc<ReadThrottle>,
    since: Instant,
    /// Bytes that were read before `since`.
    from: u64,
}

impl Scrubbing {
    pub(super) fn note_use(&self) {
        let now = u64::try_from(self.since.0.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.used_at.store(now.saturating_add(1), Ordering::Relaxed);
    }

    fn is_in_use(&self) -> bool {
        let used_at = self.used_at.load(Ordering::Relaxed);
        let now = u64::try_from(self.since.0.elapsed().as_millis()).unwrap_or(u64::MAX);
        used_at > 0 && u128::from(now.saturating_sub(used_at)) < IN_USE_FOR.as_millis()
    }
}

/// Ends what is going on in threads when the task that waits for it is gone.
pub(super) struct StopOnDrop(pub(super) Arc<ReadThrottle>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// That nobody scrubs any more, when the task ends.
struct Driving(EmbeddedStore);

impl Drop for Driving {
    fn drop(&mut self) {
        self.0.0.shared.scrub.driven.store(false, Ordering::Relaxed);
        *self.0.live() = None;
    }
}

impl EmbeddedStore {
    /// Scrubs the store when it is time, and whenever somebody asks for it, until the store is closed.
    pub async fn scrub_for_ever(self, settings: ScrubSettings) {
        let interval_ms = u64::try_from(settings.interval.as_millis()).unwrap_or(u64::MAX);
        self.0.shared.scrub.interval_ms.store(interval_ms, Ordering::Relaxed);
        self.0.shared.scrub.driven.store(true, Ordering::Relaxed);
        let _driving = Driving(self.clone());
        let opened = Instant::now();
        while !self.0.turns.is_closed() {
            let wait = match self.scrub_state().await {
                // What it finds could not be written down.
                Ok(_) if self.0.shared.read_only().is_some() => RETRY_AFTER,
                Ok(state) => {
                    let now_ms = self.0.shared.clock.now_ms();
                    match state.begins_in(now_ms, opened.elapsed(), &settings) {
                        Some(Duration::ZERO) => match self.run_pass(state, &settings).await {
                            Ok(()) => continue,
                            Err(error) => {
                                if !self.0.turns.is_closed() && self.0.shared.read_only().is_none() {
                                    tracing::warn!(%error, "the scrub of the store stops for a moment");
                                }
                                RETRY_AFTER
                            }
                        },
                        Some(wait) => wait.min(WAIT_MAX),
                        None => WAIT_MAX,
                    }
                }
                Err(_) => RETRY_AFTER,
            };
            *self.live() = None;
            tokio::select! {
                () = self.0.shared.scrub.begun.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Begins a pass now, at this rate at most, in bytes per second; one that was asked for before goes on, at the new rate. Its
    /// number.
    pub async fn begin_scrub(&self, bytes_per_sec: Option<u64>) -> StoreResult<u64> {
        let scrub = &self.0.shared.scrub;
        let now_ms = self.0.shared.clock.now_ms();
        let begun = self.submit_deletion(move |tx| {
            let mut state = ScrubState::load(tx.conn)?;
            if state.begun_ms.is_none() || !state.asked {
                state.begin(tx.conn, now_ms, true)?;
            }
            state.bytes_per_sec = bytes_per_sec;
            state.save(tx.conn)?;
            Ok(Ok(state.pass))
        });
        let pass = begun.await?;
        scrub.pass.store(pass, Ordering::Relaxed);
        if let Some(live) = self.live().as_ref() {
            live.throttle.set_rate(bytes_per_sec);
            if live.state.pass != pass {
                live.throttle.stop();
            }
        }
        scrub.begun.notify_one();
        Ok(pass)
    }

    pub fn is_scrubbed(&self) -> bool {
        self.0.shared.scrub.driven.load(Ordering::Relaxed)
    }

    pub async fn scrub_report(&self) -> StoreResult<ScrubReport> {
        let read = |conn: &Connection| {
            let totals = super::tx::Totals::read(conn)?;
            Ok((ScrubState::load(conn)?, state::count_findings(conn)?, totals))
        };
        let (stored, (found, healed), totals) =
            self.0.shared.readers.run("read how the scrub stands", read).await?;
        let live = self.live();
        let live = live.as_ref().filter(|live| live.state.pass == stored.pass);
        let state = live.map_or(&stored, |live| &live.state);
        let running = stored.begun_ms.map(|begun_ms| {
            let bytes_per_sec = live.map_or(0, PassUnderWay::bytes_per_sec);
            let passed = state.bytes.saturating_add(state.not_checked_bytes);
            let left = totals.bytes_held.saturating_sub(passed);
            ScrubProgress {
                pass: state.pass,
                asked: state.asked,
                begun_ms,
                checked: state.checked,
                contents: totals.assets_held,
                bytes: state.bytes + live.map_or(0, |live| live.throttle.within_content()),
                bytes_held: totals.bytes_held,
                not_checked: state.not_checked,
                not_checked_bytes: state.not_checked_bytes,
                bytes_per_sec,
                eta_secs: left.checked_div(bytes_per_sec),
                waits_for: live.and_then(|live| live.throttle.waits_for()).map(str::to_owned),
                stopped: self.0.shared.read_only(),
                found,
                healed,
            }
        });
        let last = stored.last.clone().map(|last| {
            // What was found then heals later.
            let healed = if running.is_none() { healed } else { last.healed };
            ScrubResult { healed, ..last }
        });
        let interval_ms = self.0.shared.scrub.interval_ms.load(Ordering::Relaxed);
        let now_ms = self.0.shared.clock.now_ms();
        let next = || {
            let ended_ms = stored.ended_ms(now_ms);
            ended_ms.map_or(0, |ended_ms| ended_ms.saturating_add(interval_ms)).max(now_ms)
        };
        let next_ms = (running.is_none() && interval_ms > 0).then(next);
        Ok(ScrubReport { running, last, next_ms })
    }

    /// Damaged contents that were found since the pass began that is under way, or was the last, in the order of their hashes.
    pub async fn scrub_findings(
        &self,
        after: Option<ContentHash>,
        limit: usize,
    ) -> StoreResult<Vec<ScrubFinding>> {
        let read = move |conn: &Connection| state::findings(conn, after, limit);
        self.0.shared.readers.run("list what the scrub found", read).await
    }

    /// Contents that are damaged here, and did not come again yet, the latest first.
    pub async fn damaged_contents(&self, limit: usize) -> StoreResult<Vec<ScrubFinding>> {
        let read = move |conn: &Connection| state::damaged(conn, limit);
        self.0.shared.readers.run("list what is damaged", read).await
    }

    /// What its actor says of itself.
    pub(crate) fn scrub_detail(&self) -> Option<String> {
        let live = self.live();
        let live = live.as_ref()?;
        let waits = live.throttle.waits_for().map(|why| format!(", waits: {why}")).unwrap_or_default();
        Some(format!("pass {}, {} contents checked{waits}", live.state.pass, live.state.checked))
    }

    fn live(&self) -> parking_lot::MutexGuard<'_, Option<PassUnderWay>> {
        self.0.shared.scrub.live.lock()
    }

    async fn scrub_state(&self) -> StoreResult<ScrubState> {
        self.0.shared.readers.run("read how the scrub stands", ScrubState::load).await
    }

    /// Goes through the store once, from where an earlier run came to. Ends early when another pass is to begin.
    async fn run_pass(&self, mut state: ScrubState, settings: &ScrubSettings) -> StoreResult {
        if state.begun_ms.is_none() {
            let now_ms = self.0.shared.clock.now_ms();
            let begun = self.submit_deletion(move |tx| {
                let mut state = ScrubState::load(tx.conn)?;
                if state.begun_ms.is_none() {
                    state.begin(tx.conn, now_ms, false)?;
                }
                Ok(Ok(state))
            });
            state = begun.await?;
        }
        self.0.shared.scrub.pass.store(state.pass, Ordering::Relaxed);
        let throttle = Arc::new(ReadThrottle::new(&state, settings, self.clone()));
        let _stop = StopOnDrop(Arc::clone(&throttle));
        let live =
            PassUnderWay { from: state.bytes, state, throttle: Arc::clone(&throttle), since: Instant::now() };
        *self.live() = Some(live);
        let mut pass = Pass::new(self.clone(), throttle);
        if pass.is_at_its_beginning() {
            pass.check_database().await?;
            pass.check_files().await?;
            pass.update(|state| state.after = Some(ContentHash([0; 32])));
            pass.save().await?;
        }
        if pass.read_all().await? && pass.check_trash().await? {
            pass.finish().await?;
        }
        Ok(())
    }
}

impl PassUnderWay {
    fn bytes_per_sec(&self) -> u64 {
        let bytes = self.state.bytes.saturating_sub(self.from) + self.throttle.within_content();
        let millis = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        bytes.saturating_mul(1000) / millis
    }
}
