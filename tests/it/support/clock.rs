//! Clocks that tests set as they like.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use can_sync::testing::clock::{Clock, Moment, now_ms};

/// One day.
pub(crate) const DAY_MS: u64 = 24 * 3600 * 1000;

/// A machine's clock: the real one, and what the test adds to it.
#[derive(Clone, Debug)]
pub(crate) struct SetClock(Arc<Set>);

#[derive(Debug)]
struct Set {
    started: Instant,
    off_ms: AtomicI64,
    /// Time that has passed for the test alone.
    passed_ms: AtomicU64,
}

impl SetClock {
    /// One that is so far ahead.
    pub(crate) fn ahead(ms: u64) -> Self {
        let off_ms = AtomicI64::new(ms.cast_signed());
        Self(Arc::new(Set { started: Instant::now(), off_ms, passed_ms: AtomicU64::new(0) }))
    }

    /// One that is right.
    pub(crate) fn right() -> Self {
        Self::ahead(0)
    }

    /// Somebody sets it so far ahead.
    pub(crate) fn set_ahead(&self, ms: u64) {
        self.0.off_ms.store(ms.cast_signed(), Ordering::SeqCst);
    }

    /// Somebody sets it so far behind.
    pub(crate) fn set_behind(&self, ms: u64) {
        self.0.off_ms.store(-ms.cast_signed(), Ordering::SeqCst);
    }

    /// Time passes.
    pub(crate) fn pass(&self, ms: u64) {
        self.0.passed_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// What it shows.
    pub(crate) fn shows_ms(&self) -> u64 {
        let passed = self.0.passed_ms.load(Ordering::SeqCst);
        (now_ms() + passed).saturating_add_signed(self.0.off_ms.load(Ordering::SeqCst))
    }

    /// For a node or a store that starts: it knows nothing of earlier ones.
    pub(crate) fn start(&self) -> Clock {
        let clock = self.clone();
        Clock::reading_from(move || {
            let passed = Duration::from_millis(clock.0.passed_ms.load(Ordering::SeqCst));
            Moment { own_ms: clock.shows_ms(), uptime: clock.0.started.elapsed() + passed }
        })
    }
}
