//! What one direction of a path does to datagrams: pure, and the same again for the same seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// How much later than it would a datagram arrives that others are to overtake.
pub(super) const HELD_BACK: Duration = Duration::from_millis(4);

/// One direction of a path. The default delivers everything at once and in order.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Link {
    /// How long each datagram is under way.
    pub(crate) delay: Duration,
    /// What is added to the delay at most. It is drawn for each datagram, and does not change their order.
    pub(crate) jitter: Duration,
    /// Share of the datagrams that is lost, from 0 to 1.
    pub(crate) loss: f64,
    /// Share that is delivered twice.
    pub(crate) duplicate: f64,
    /// Share that is overtaken by those sent up to four milliseconds later.
    pub(crate) reorder: f64,
    /// Bytes per second that pass, and how many more may wait for their turn; without it, any number passes at once.
    pub(crate) rate: Option<Rate>,
}

/// A bottleneck: a rate, with a queue in front of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    pub(crate) bytes_per_sec: u64,
    /// A datagram that finds more bytes than this in the queue is dropped.
    pub(crate) queue_bytes: u64,
}

impl Rate {
    /// A bottleneck whose queue holds as much as passes in `queue`.
    pub(crate) fn new(bytes_per_sec: u64, queue: Duration) -> Self {
        let bytes = u128::from(bytes_per_sec) * queue.as_micros() / 1_000_000;
        Self { bytes_per_sec, queue_bytes: u64::try_from(bytes).unwrap_or(u64::MAX) }
    }

    fn time_of(&self, bytes: u64) -> Duration {
        Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.bytes_per_sec.max(1))
    }
}

impl Link {
    /// A link that is slow to deliver, and nothing else.
    pub(crate) fn after(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }
}

/// What becomes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fate {
    Lost,
    /// The queue was full.
    Overflowed,
    Arrives {
        at: Duration,
        overtaken: bool,
        twice: bool,
    },
}

/// A link in use. Times count from whenever its user likes.
#[derive(Debug)]
pub(super) struct Line {
    link: Link,
    random: StdRng,
    /// When the bottleneck has passed on all that waits for it.
    free_at: Duration,
    /// When the last one arrives that nobody overtakes.
    last_at: Duration,
}

impl Line {
    pub(super) fn new(link: Link, seed: u64) -> Self {
        Self { link, random: StdRng::seed_from_u64(seed), free_at: Duration::ZERO, last_at: Duration::ZERO }
    }

    /// Changes the link for the datagrams to come, which do not wait for those that are on their way.
    pub(super) fn set(&mut self, link: Link) {
        self.link = link;
        self.last_at = Duration::ZERO;
    }

    /// Decides about the next datagram. Each one takes as many random numbers as any other: what is drawn for the thousandth
    /// does not depend on what became of those before it.
    pub(super) fn pass(&mut self, now: Duration, bytes: u64) -> Fate {
        let [loss, duplicate, reorder, jitter]: [f64; 4] = self.random.random();
        let link = self.link;
        let mut leaves = now;
        if let Some(rate) = link.rate {
            let begins = self.free_at.max(now);
            if begins.saturating_sub(now) > rate.time_of(rate.queue_bytes) {
                return Fate::Overflowed;
            }
            leaves = begins + rate.time_of(bytes);
            self.free_at = leaves;
        }
        if loss < link.loss {
            return Fate::Lost;
        }
        let at = (leaves + link.delay + link.jitter.mul_f64(jitter)).max(self.last_at);
        let overtaken = reorder < link.reorder;
        let twice = duplicate < link.duplicate;
        if overtaken {
            return Fate::Arrives { at: at + HELD_BACK, overtaken, twice };
        }
        self.last_at = at;
        Fate::Arrives { at, overtaken, twice }
    }
}
