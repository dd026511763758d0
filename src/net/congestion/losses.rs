//! What losses on a long path say: whether they are a sign of congestion, and how much is sent in spite of them.
//!
//! BBR takes more than 2 % of losses for congestion, and each of its probes for more bandwidth ends at that. And noq 1.4 forgets what
//! it measured within two round trips instead of two probes, so that between probes it sends what arrived of what it sent
//! before, 5 % less each time where 5 % are lost. Over 100 ms that lose 5 % whatever is sent, as a bad radio link does, 100 MiB came
//! to almost nothing: 70 of them took 15 seconds, and each one after that took eleven. Congestion shows in the round trip as
//! well, as a queue in front of what is slow. Where there is none, and no more is lost than a radio link loses, BBR does not hear of
//! losses, and the bandwidth that it found lately is used.

use std::time::{Duration, Instant};

/// Packets after which what was seen counts half.
const REMEMBERED: u32 = 512;
/// Losses are taken for congestion above one packet in this many, whatever the round trip says: a slow link with next to no queue
/// shows itself by them alone. Packets that were overtaken count as lost at first.
const TOLERATED_ONE_IN: u32 = 5;
/// A round trip that is longer than the shortest one by this part of it is due to a queue.
const QUEUE_PART: u32 = 4;
/// BBR probes for more bandwidth this often; what it found is used until two probes later.
const PROBED_EVERY: Duration = Duration::from_secs(3);

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
    /// A packet arrived. `round_trip` is smoothed, `shortest` the shortest one so far, `bandwidth` what is estimated now, in bytes a
    /// second.
    pub(super) fn arrived(&mut self, now: Instant, round_trip: Duration, shortest: Duration, bandwidth: u64) {
        self.is_queued = round_trip > shortest + shortest / QUEUE_PART;
        self.bandwidth.measured(now, bandwidth);
        self.arrived += 1;
        self.forget();
    }

    /// A packet was lost; whether that is a sign of congestion.
    pub(super) fn lost(&mut self) -> bool {
        self.lost += 1;
        self.forget();
        self.is_congested()
    }

    /// The rate that is sent at the least, in bytes a second: zero where nothing is lost, or where that is a sign of congestion.
    pub(super) fn least_rate(&self) -> u64 {
        if self.lost == 0 || self.is_congested() { 0 } else { self.bandwidth.greatest() }
    }

    fn is_congested(&self) -> bool {
        // Of few packets, each one that is lost is a large share.
        let seen = (self.arrived + self.lost).max(REMEMBERED / 2);
        self.is_queued || self.lost * TOLERATED_ONE_IN > seen
    }

    fn forget(&mut self) {
        if self.arrived + self.lost >= REMEMBERED {
            self.arrived /= 2;
            self.lost /= 2;
        }
    }
}

/// The greatest bandwidth that was measured lately.
#[derive(Debug, Default, Clone)]
struct Bandwidth {
    since: Option<Instant>,
    before: u64,
    /// Since then.
    greatest: u64,
}

impl Bandwidth {
    fn measured(&mut self, now: Instant, bandwidth: u64) {
        let is_over = self.since.is_none_or(|since| now.saturating_duration_since(since) >= PROBED_EVERY);
        if is_over {
            self.since = Some(now);
            self.before = std::mem::take(&mut self.greatest);
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

    fn arrives(losses: &mut Losses, round_trip: Duration) {
        losses.arrived(Instant::now(), round_trip, SHORTEST, 1_000);
    }

    /// Of those that are lost, the share in percent that is taken for congestion, once it goes on like this; and the least rate.
    fn counted(lost_of_hundred: u32, round_trip: Duration) -> (usize, u64) {
        let mut losses = Losses::default();
        let mut counted = Vec::new();
        for n in 0..10_000_u32 {
            // 37 and 100 have no common divisor: the lost ones are spread.
            if n * 37 % 100 < lost_of_hundred {
                counted.push(losses.lost());
            } else {
                arrives(&mut losses, round_trip);
            }
        }
        let last = &counted[counted.len() / 2..];
        let share = last.iter().filter(|counted| **counted).count() * 100 / last.len().max(1);
        (share, losses.least_rate())
    }

    #[test]
    fn a_radio_link_loses_what_it_loses_and_a_queue_is_congestion() {
        assert_eq!(counted(0, SHORTEST), (0, 0), "BBR does well by itself");
        for lost in [1, 5, 10] {
            assert_eq!(counted(lost, SHORTEST), (0, 1_000), "{lost} % without a queue");
            assert_eq!(counted(lost, SHORTEST * 5 / 4), (0, 1_000), "{lost} % with some jitter");
            assert_eq!(counted(lost, SHORTEST * 13 / 10), (100, 0), "{lost} % behind a queue");
        }
        for lost in [30, 50, 90] {
            assert_eq!(counted(lost, SHORTEST), (100, 0), "{lost} % are too many");
        }
    }

    #[test]
    fn the_first_losses_of_a_path_are_few_and_a_cut_is_seen_soon() {
        let mut losses = Losses::default();
        assert!((0..20).all(|_| !losses.lost()), "of few packets each lost one is a large share");
        assert!((0..100).any(|_| losses.lost()), "nothing arrives");
    }

    #[test]
    fn a_queue_that_is_gone_is_forgotten_with_the_next_packet() {
        let mut losses = Losses::default();
        arrives(&mut losses, SHORTEST * 2);
        assert!(losses.lost());
        arrives(&mut losses, SHORTEST);
        assert!(!losses.lost());
    }

    #[test]
    fn the_bandwidth_of_a_probe_is_used_until_two_probes_later() {
        let (mut bandwidth, began) = (Bandwidth::default(), Instant::now());
        let mut after = |secs: u64, measured| {
            bandwidth.measured(began + Duration::from_secs(secs), measured);
            bandwidth.greatest()
        };
        assert_eq!(after(0, 10), 10);
        assert_eq!(after(2, 100), 100);
        assert_eq!((after(3, 50), after(5, 40)), (100, 100));
        assert_eq!((after(6, 30), after(8, 20)), (50, 50));
        assert_eq!((after(9, 1), after(12, 1)), (30, 1));
    }
}
