//! How many contents go up at once, and when one that did not is tried again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::record::ContentHash;

/// Contents that go up at the same time. The bucket has a bound of its own, for all uploads.
const AT_ONCE: usize = 8;
/// Contents that are remembered to have failed; of more, the next one is tried as if it were the first time.
const REMEMBERED: usize = 10_000;

/// After a failure nothing goes up for a while, twice as long each time; then one content is tried, until one went up.
pub(super) struct UploadPace {
    first: Duration,
    longest: Duration,
    /// Since something went up.
    failures: u32,
    rests_until: Option<Instant>,
    /// Contents that failed by themselves, how often, and until when they are left alone.
    later: HashMap<ContentHash, (u32, Instant)>,
}

impl UploadPace {
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0, rests_until: None, later: HashMap::new() }
    }

    /// How many may go up now.
    pub(super) fn at_once(&self, now: Instant) -> usize {
        match (self.rests_until.is_some_and(|until| until > now), self.failures) {
            (true, _) => 0,
            (false, 0) => AT_ONCE,
            (false, _) => 1,
        }
    }

    /// Until when nothing goes up.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.rests_until
    }

    pub(super) fn is_due(&self, hash: ContentHash, now: Instant) -> bool {
        self.later.get(&hash).is_none_or(|(_, until)| *until <= now)
    }

    /// One went up, or does not have to any more.
    pub(super) fn succeeded(&mut self, hash: ContentHash) {
        self.later.remove(&hash);
        (self.failures, self.rests_until) = (0, None);
    }

    /// One did not. `draw` is chance, from 0 to 1.
    pub(super) fn failed(&mut self, hash: ContentHash, now: Instant, draw: f64) {
        if self.later.len() >= REMEMBERED {
            self.later.retain(|_, (_, until)| *until > now);
        }
        let times = self.later.get(&hash).map_or(1, |(times, _)| times.saturating_add(1));
        if self.later.len() < REMEMBERED || self.later.contains_key(&hash) {
            self.later.insert(hash, (times, now + self.pause(times, draw)));
        }
        // Those that failed at the same time are one failure.
        if self.at_once(now) > 0 {
            self.failures = self.failures.saturating_add(1);
            self.rests_until = Some(now + self.pause(self.failures, draw));
        }
    }

    /// After so many failures: between half of it and all of it.
    fn pause(&self, failures: u32, draw: f64) -> Duration {
        let doubled = self.first.saturating_mul(1 << (failures.clamp(1, 20) - 1));
        doubled.min(self.longest).mul_f64(0.5 + draw.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn after_failures_one_is_tried_at_a_time_and_ever_later() {
        let mut pace = UploadPace::new(SECOND, 10 * SECOND);
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for n in 0..6 {
            assert_eq!(pace.at_once(now), if n == 0 { AT_ONCE } else { 1 });
            for other in 0..3 {
                pace.failed(ContentHash([n * 3 + other; 32]), now, 1.0);
            }
            assert_eq!(pace.at_once(now), 0);
            let until = pace.rests_until().unwrap();
            pauses.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
        pace.succeeded(ContentHash([0; 32]));
        assert_eq!(pace.at_once(now), AT_ONCE);
    }

    #[test]
    fn one_that_fails_by_itself_is_left_alone_while_others_go_up() {
        let mut pace = UploadPace::new(SECOND, 10 * SECOND);
        let (bad, good) = (ContentHash([1; 32]), ContentHash([2; 32]));
        let mut now = Instant::now();
        for wait in [1, 2, 4, 8, 10, 10] {
            assert!(pace.is_due(bad, now));
            pace.failed(bad, now, 1.0);
            pace.succeeded(good);
            assert!(pace.is_due(good, now) && !pace.is_due(bad, now));
            assert!(!pace.is_due(bad, now + (wait - 1) * SECOND));
            now += wait * SECOND;
        }
        pace.failed(good, now, 0.0);
        assert!(pace.is_due(good, now + SECOND / 2), "half as long at least");
    }
}
