//! Whether a long path loses packets because of congestion, or because it is a bad one.
//!
//! BBR takes more than 2 % of losses for congestion, and ends each of its probes for more bandwidth at that. Besides, noq 1.4 remembers
//! the bandwidth that a probe found for a few round trips instead of until the next probe; then it sends at the rate at which packets
//! arrived lately, which is 5 % less each time on a path that loses 5 %. A radio link that loses so much whatever is sent therefore
//! came to almost nothing: 100 MiB over 100 ms began with 10 MB/s, and were at 0.1 MB/s after 20 seconds.
//!
//! Congestion shows in the round trip, too, as a queue in front of what is slow. Where none shows, and no more is lost than a radio
//! link loses, the path is *lossy*: BBR does not hear of its losses, and sends at least at the rate that its last probes found. How much
//! may be in flight stays BBR's word. A path whose round trip became longer for good never counts as lossy again.

use std::time::{Duration, Instant};

/// Packets after which what was seen counts half.
const REMEMBERED: u32 = 512;
/// Up to one packet in this many, BBR does well by itself.
const LOSSY_FROM_ONE_IN: u32 = 50;
/// Above one packet in this many, losses are taken for congestion whatever the round trip says: a slow link with next to no queue shows
/// itself by them alone. Packets that were overtaken are among them.
const LOSSY_TO_ONE_IN: u32 = 5;
/// A round trip that is longer than the shortest one by this part of it and [`JITTER`] is due to a queue.
const QUEUE_PART: u32 = 4;
const JITTER: Duration = Duration::from_millis(3);
/// BBR probes for more bandwidth at least this often: it waits for two to three seconds, then probes for a few round trips.
const PROBED_WITHIN: Duration = Duration::from_secs(5);

/// What became of the last packets of a path.
#[derive(Debug, Default, Clone)]
pub(super) struct Losses {
    arrived: u32,
    lost: u32,
    /// A queue shows in the last round trips.
    is_queued: bool,
    bandwidth: Bandwidth,
}

impl Losses {
    /// A packet arrived. `round_trip` is smoothed, `shortest` the shortest one so far; `bandwidth` is the estimate in bytes a second.
    pub(super) fn arrived(&mut self, now: Instant, round_trip: Duration, shortest: Duration, bandwidth: u64) {
        self.is_queued = round_trip > shortest + shortest / QUEUE_PART + JITTER;
        self.bandwidth.measured(now, bandwidth);
        self.arrived += 1;
        self.forget();
    }

    /// A packet was lost.
    pub(super) fn lost(&mut self) {
        self.lost += 1;
        self.forget();
    }

    /// Whether the path loses packets for another reason than congestion.
    pub(super) fn is_lossy(&self) -> bool {
        let seen = self.arrived + self.lost;
        // Of few packets, each one that is lost is a large share.
        let most = seen.max(REMEMBERED / 2) / LOSSY_TO_ONE_IN;
        !self.is_queued && self.lost * LOSSY_FROM_ONE_IN > seen && self.lost <= most
    }

    /// The least rate to send at, in bytes a second; zero where the path is not lossy.
    pub(super) fn least_rate(&self) -> u64 {
        if self.is_lossy() { self.bandwidth.greatest() } else { 0 }
    }

    fn forget(&mut self) {
        if self.arrived + self.lost >= REMEMBERED {
            self.arrived /= 2;
            self.lost /= 2;
        }
    }
}

/// The greatest bandwidth that was measured since the last probe but one.
#[derive(Debug, Default, Clone)]
struct Bandwidth {
    /// When the present period began.
    since: Option<Instant>,
    /// The greatest of the period before.
    before: u64,
    /// The greatest of the present period.
    greatest: u64,
}

impl Bandwidth {
    fn measured(&mut self, now: Instant, bandwidth: u64) {
        let age = self.since.map_or(Duration::MAX, |since| now.saturating_duration_since(since));
        if age >= PROBED_WITHIN {
            let greatest = std::mem::take(&mut self.greatest);
            // What was found before a long pause may not hold any more.
            self.before = if age < 2 * PROBED_WITHIN { greatest } else { 0 };
            self.since = Some(now);
        }
        self.greatest = self.greatest.max(bandwidth);
    }

    fn greatest(&self) -> u64 {
        self.before.max(self.greatest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORTEST: Duration = Duration::from_millis(100);
    /// The longest round trip that is not due to a queue.
    const NO_QUEUE: Duration = Duration::from_millis(128);

    fn arrives(losses: &mut Losses, round_trip: Duration) {
        losses.arrived(Instant::now(), round_trip, SHORTEST, 1_000);
    }

    /// So many packets, of which so many in a thousand are lost, spread evenly; how often the path counted as lossy, of a hundred times.
    fn pass(losses: &mut Losses, packets: u32, lost_of_thousand: u32, round_trip: Duration) -> u32 {
        let mut lossy = 0;
        for n in 0..packets {
            // 373 and 1,000 have no common divisor.
            if n * 373 % 1_000 < lost_of_thousand {
                losses.lost();
            } else {
                arrives(losses, round_trip);
            }
            lossy += u32::from(losses.is_lossy());
        }
        lossy * 100 / packets
    }

    #[test]
    fn a_bad_path_loses_some_and_has_no_queue() {
        for (lost, round_trip, is_lossy) in [
            (0, SHORTEST, false),
            (15, SHORTEST, false),
            (25, SHORTEST, true),
            (50, NO_QUEUE, true),
            (50, NO_QUEUE + Duration::from_micros(1), false),
            (180, SHORTEST, true),
            (220, SHORTEST, false),
            (900, SHORTEST, false),
        ] {
            let mut losses = Losses::default();
            pass(&mut losses, 2_000, lost, round_trip);
            let share = pass(&mut losses, 2_000, lost, round_trip);
            let expected = if is_lossy { 95..=100 } else { 0..=5 };
            assert!(expected.contains(&share), "{lost} of 1,000 lost, {round_trip:?}: {share} %");
            assert_eq!(losses.least_rate(), if losses.is_lossy() { 1_000 } else { 0 });
        }
    }

    #[test]
    fn of_the_first_packets_some_may_be_lost_and_a_cut_is_seen_soon() {
        let mut losses = Losses::default();
        losses.lost();
        assert!(losses.is_lossy(), "BBR would take one of the first twenty for congestion");
        for _ in 1..REMEMBERED / 2 / LOSSY_TO_ONE_IN {
            losses.lost();
        }
        assert!(losses.is_lossy());
        losses.lost();
        assert!(!losses.is_lossy(), "nothing arrives");
    }

    #[test]
    fn what_was_long_ago_counts_little() {
        let mut losses = Losses::default();
        pass(&mut losses, 2_000, 50, SHORTEST);
        assert!(losses.is_lossy());
        pass(&mut losses, 2 * REMEMBERED, 0, SHORTEST);
        assert!(!losses.is_lossy(), "it has become a good one");
        pass(&mut losses, 50, 900, SHORTEST);
        pass(&mut losses, 2 * REMEMBERED, 50, SHORTEST);
        assert!(losses.is_lossy(), "what was cut is as bad as before");
    }

    #[test]
    fn a_queue_that_is_gone_is_forgotten_with_the_next_packet() {
        let mut losses = Losses::default();
        losses.lost();
        arrives(&mut losses, SHORTEST * 2);
        assert!(!losses.is_lossy());
        arrives(&mut losses, SHORTEST);
        assert!(losses.is_lossy());
    }

    #[test]
    fn the_bandwidth_of_a_probe_is_used_until_the_one_after_the_next() {
        let (mut bandwidth, began) = (Bandwidth::default(), Instant::now());
        let mut after = |secs: u64, measured| {
            bandwidth.measured(began + Duration::from_secs(secs), measured);
            bandwidth.greatest()
        };
        assert_eq!(after(0, 10), 10);
        assert_eq!(after(4, 100), 100);
        assert_eq!((after(5, 50), after(9, 40)), (100, 100));
        assert_eq!((after(10, 30), after(14, 20)), (50, 50));
        assert_eq!((after(15, 10), after(24, 1)), (30, 10));
        assert_eq!(after(34, 1), 1, "nothing was sent for a while");
    }
}
