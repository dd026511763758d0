//! The bulk connection that contents come on, and whose fault it is when they break off with it.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use iroh::endpoint::Connection;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::transfer::schedule::FetchFailure;

/// So many bulk connections of a session may break within [`EXCUSED_WINDOW`] before it is the peer's fault. A path breaks now and
/// then; without a limit, a peer that closes its connection again and again would be asked for the same content for ever.
const EXCUSED_MAX: usize = 4;
/// See [`EXCUSED_MAX`].
const EXCUSED_WINDOW: Duration = Duration::from_mins(10);

/// The bulk connections of one session that broke while contents came on them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Breaks(Arc<Mutex<VecDeque<Instant>>>);

impl Breaks {
    /// One more broke; whether it is nobody's fault.
    fn is_excused(&self, now: Instant) -> bool {
        let mut breaks = self.0.lock();
        breaks.retain(|at| now.saturating_duration_since(*at) < EXCUSED_WINDOW);
        let is_excused = breaks.len() < EXCUSED_MAX;
        if is_excused {
            breaks.push_back(now);
        }
        is_excused
    }
}

/// A bulk connection that contents come on.
#[derive(Debug)]
pub struct BulkSource {
    connection: Connection,
    breaks: Breaks,
    /// Whether it is nobody's fault that it broke; once something broke off with it.
    is_excused: OnceLock<bool>,
}

impl BulkSource {
    pub fn new(connection: Connection, breaks: Breaks) -> Self {
        Self { connection, breaks, is_excused: OnceLock::new() }
    }

    /// What it means that contents did not come, for this reason: the source's fault, unless the connection broke under them.
    pub fn failure(&self, reason: String) -> FetchFailure {
        if self.connection.close_reason().is_none() {
            return FetchFailure::Source(reason);
        }
        let is_excused = *self.is_excused.get_or_init(|| self.breaks.is_excused(Instant::now()));
        if is_excused { FetchFailure::Interrupted(reason) } else { FetchFailure::Source(reason) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_break_now_and_then_and_not_for_ever() {
        let (breaks, begin) = (Breaks::default(), Instant::now());
        let at = |minutes: u64| begin + Duration::from_mins(minutes);
        assert!((0..4).all(|n| breaks.is_excused(at(n))));
        assert!(!breaks.clone().is_excused(at(4)) && !breaks.is_excused(at(9)));
        // The first is forgotten, and one more is let pass.
        assert!(breaks.is_excused(at(10)));
        assert!(!breaks.is_excused(at(10)));
        assert!((30..34).all(|n| breaks.is_excused(at(n))));
    }
}
