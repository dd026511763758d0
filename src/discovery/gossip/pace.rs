//! When to announce ourselves: the more agents there are, the less often. Pure.

use std::time::Duration;

use crate::discovery::announcement::Announcement;

/// How often we say that we are there, in a network of up to about a thousand; receivers count us as fresh for 120 s.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(30);
const ANNOUNCE_EVERY_MAX: Duration = Duration::from_mins(1);
/// Shortest time between two announcements, however much changes: twice what receivers ask for, and longer in a large
/// network, up to what a flood of invented agents may make of it.
const ANNOUNCE_GAP: Duration = Duration::from_secs(2);
const ANNOUNCE_GAP_MAX: Duration = Duration::from_secs(10);
/// Announcements per second that all agents together make when they all change at once, as they do when an asset reaches
/// all of them; and when nothing changes.
const CHANGES_PER_SEC: u32 = 16;
const ANNOUNCEMENTS_PER_SEC: u32 = 32;

/// How long to wait between announcements of changes, with this many others.
pub(super) fn gap(fresh: u32) -> Duration {
    let shared = Duration::from_secs(u64::from(fresh / CHANGES_PER_SEC));
    shared.clamp(ANNOUNCE_GAP, ANNOUNCE_GAP_MAX)
}

/// How often to announce ourselves, with this many others.
pub(super) fn period(fresh: u32) -> Duration {
    let shared = Duration::from_secs(u64::from(fresh / ANNOUNCEMENTS_PER_SEC));
    shared.clamp(ANNOUNCE_EVERY, ANNOUNCE_EVERY_MAX)
}

/// A tenth less at most, so that agents which started together do not speak together for ever.
pub(super) fn jittered(period: Duration) -> Duration {
    period.mul_f64(1.0 - 0.1 * rand::random::<f64>())
}

/// Whether two announcements differ only in when they were made.
pub(super) fn says_the_same(one: &Announcement, other: &Announcement) -> bool {
    let Announcement { timestamp_ms, boot_id, counter, .. } = *other;
    Announcement { timestamp_ms, boot_id, counter, ..one.clone() } == *other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_network_speaks_less_often_and_stays_fresh() {
        assert_eq!([0, 32, 80, 10_000].map(|n| gap(n).as_secs()), [2, 2, 5, 10]);
        assert_eq!([0, 900, 1_600, 10_000].map(|n| period(n).as_secs()), [30, 30, 50, 60]);
        for _ in 0..100 {
            let jittered = jittered(ANNOUNCE_EVERY);
            assert!((ANNOUNCE_EVERY.mul_f64(0.9)..=ANNOUNCE_EVERY).contains(&jittered), "{jittered:?}");
        }
    }
}
