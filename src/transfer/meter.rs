//! How fast content goes to and comes from one peer, and how long the rest will take.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::send::Traffic;

/// Time over which rates are smoothed.
const RATE_WINDOW: Duration = Duration::from_secs(4);

/// One peer's traffic and its rates.
#[derive(Debug, Default)]
pub struct Meter {
    pub traffic: Arc<Traffic>,
    last: (u64, u64),
    /// Content bytes per second to the peer, lately.
    pub send_rate: f64,
    /// Content bytes per second from the peer, lately.
    pub receive_rate: f64,
}

impl Meter {
    /// Of this traffic, from now on.
    pub fn of(traffic: Arc<Traffic>) -> Self {
        let mut meter = Self { traffic, ..Self::default() };
        meter.last = (meter.sent(), meter.received());
        meter
    }

    /// Takes note that `passed` has passed since the last time.
    #[expect(clippy::cast_precision_loss, reason = "rates are shown, not computed with")]
    pub fn tick(&mut self, passed: Duration) {
        let now = (self.sent(), self.received());
        let weight = 1.0 - (-passed.as_secs_f64() / RATE_WINDOW.as_secs_f64()).exp();
        let rate = |new: u64, old: u64| (new - old) as f64 / passed.as_secs_f64();
        self.send_rate += weight * (rate(now.0, self.last.0) - self.send_rate);
        self.receive_rate += weight * (rate(now.1, self.last.1) - self.receive_rate);
        self.last = now;
        // Below a byte per second nothing moves.
        for value in [&mut self.send_rate, &mut self.receive_rate] {
            if *value < 1.0 {
                *value = 0.0;
            }
        }
    }

    /// Content bytes to the peer since the process started.
    pub fn sent(&self) -> u64 {
        self.traffic.sent.load(Ordering::Relaxed)
    }

    /// Content bytes from the peer since the process started.
    pub fn received(&self) -> u64 {
        self.traffic.received.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::eta_secs;

    #[test]
    fn rates_follow_the_traffic_and_end_with_it() {
        let traffic = Arc::new(Traffic::default());
        traffic.received.store(1 << 30, Ordering::Relaxed);
        let mut meter = Meter::of(Arc::clone(&traffic));
        let second = Duration::from_secs(1);
        for _ in 0..30 {
            traffic.received.fetch_add(1_000_000, Ordering::Relaxed);
            meter.tick(second);
        }
        assert!((999_000.0..1_000_001.0).contains(&meter.receive_rate), "{}", meter.receive_rate);
        assert_eq!((eta_secs(5_000_000, meter.receive_rate), eta_secs(0, 1.0)), (Some(6), None));
        for _ in 0..120 {
            meter.tick(second);
        }
        assert!(meter.receive_rate == 0.0 && meter.send_rate == 0.0);
        assert_eq!(eta_secs(5, meter.receive_rate), None);
    }
}
