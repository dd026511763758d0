//! When slots are read and written. Pure: time and chance are arguments, a `draw` being a number from 0 up to 1.
//!
//! Alone, an agent looks every 15 s. Once it has a peer, gossip tells it of the others; it then looks now and then whether the
//! network has fallen apart, and the network as a whole writes about four times a minute however large it is. So relays
//! and the DHT carry load for agents that search, not for agents that have found.

use std::time::Duration;

use tokio::time::Instant;

use super::SLOTS;

/// Writers per period that a network needs; more agents than that take turns.
const WRITERS_PER_PERIOD: f64 = 4.0;
/// Chance moves every delay by up to this share, up or down.
const JITTER: f64 = 0.2;
/// Slots with room that a look reads before it trusts that lists end there: small networks are in the lowest.
const ROOMS_ENOUGH: usize = 2;

/// The rhythm. The default is what agents use; tests that cannot wait have others.
#[derive(Clone, Debug)]
pub struct Timing {
    pub publish: Duration,
    /// Between two looks while nobody is connected.
    pub scan: Duration,
    /// Longest time between two looks otherwise.
    pub scan_max: Duration,
    /// After a write, its writer looks whether it is still there: from here …
    pub verify_min: Duration,
    pub verify_max: Duration,
    /// Longest wait for a channel that fails.
    pub failing_max: Duration,
    /// Time between two writes of an agent's own record, which the DHT forgets after about two hours.
    pub refresh: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            publish: Duration::from_mins(1),
            scan: Duration::from_secs(15),
            scan_max: Duration::from_mins(15),
            verify_min: Duration::from_millis(300),
            verify_max: Duration::from_millis(1_200),
            failing_max: Duration::from_mins(5),
            refresh: Duration::from_hours(1),
        }
    }
}

impl Timing {
    /// Until the next look, after `quiet` of them since a peer is connected (0: nobody is).
    pub fn until_scan(&self, quiet: u32, draw: f64) -> Duration {
        jittered(doubled(self.scan, quiet, self.scan_max), draw)
    }

    pub fn until_publish(&self, draw: f64) -> Duration {
        jittered(self.publish, draw)
    }

    /// From a write to its verification.
    pub fn until_verify(&self, draw: f64) -> Duration {
        self.verify_min + self.verify_max.saturating_sub(self.verify_min).mul_f64(draw.clamp(0.0, 1.0))
    }

    /// Until a channel is tried again that failed so many times in a row.
    pub fn until_retry(&self, failures: u32, draw: f64) -> Duration {
        if failures == 0 {
            return Duration::ZERO;
        }
        jittered(doubled(self.scan, failures.saturating_sub(1), self.failing_max), draw)
    }
}

/// Whether an agent writes this period, in a network of so many agents, itself among them.
pub fn publishes(agents: usize, draw: f64) -> bool {
    // Counts are far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let share = WRITERS_PER_PERIOD / agents.max(1) as f64;
    draw < share.min(1.0)
}

/// Which slot a look reads next, if any, given what it has read so far: whether there was room, or `None` for slots that it
/// has not read. A thorough look reads all; another reads from the lowest until it has met room twice, and one of the rest,
/// in case somebody found the low ones closed.
pub fn next_read(read: [Option<bool>; SLOTS as usize], thorough: bool, draw: f64) -> Option<u8> {
    let unread: Vec<u8> = (0..SLOTS).filter(|i| read[usize::from(*i)].is_none()).collect();
    let lowest = *unread.first()?;
    let rooms = read.iter().filter(|room| **room == Some(true)).count();
    if thorough || rooms < ROOMS_ENOUGH {
        return Some(lowest);
    }
    // Slots are read in order, so one that was read beyond a gap is the one of the rest.
    let beyond = read.iter().skip(usize::from(lowest)).any(Option::is_some);
    if beyond || rooms > ROOMS_ENOUGH {
        return None;
    }
    // An index into at most eight.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let pick = (draw.clamp(0.0, 1.0) * unread.len() as f64) as usize;
    Some(unread[pick.min(unread.len() - 1)])
}

/// Spreads requests: so many at once, then one per interval.
#[derive(Clone, Debug)]
pub struct Spread {
    every: Duration,
    burst: u32,
    /// When the requests that were let through would have been due one by one.
    due: Option<Instant>,
}

impl Spread {
    /// One request per `every`, `burst` of them without a wait.
    pub fn new(every: Duration, burst: u32) -> Self {
        Self { every, burst, due: None }
    }

    /// When the next request may go out; it is taken as done.
    pub fn reserve(&mut self, now: Instant) -> Instant {
        let due = self.due.map_or(now, |due| due.max(now));
        self.due = Some(due + self.every);
        let ahead = self.every * self.burst.saturating_sub(1);
        due.checked_sub(ahead).map_or(now, |at| at.max(now))
    }
}

fn doubled(start: Duration, times: u32, longest: Duration) -> Duration {
    start.saturating_mul(2_u32.saturating_pow(times)).min(longest)
}

fn jittered(delay: Duration, draw: f64) -> Duration {
    delay.mul_f64(1.0 - JITTER + 2.0 * JITTER * draw.clamp(0.0, 1.0))
}
