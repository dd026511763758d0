//! How many streams carry large contents at once. Pure.
//!
//! On a short path one stream is fastest: each further one costs a third. A stream has at most its window on its way, though, so
//! a long path takes as many as it needs to be full: what moves in one round trip, divided by that window. The round trip is
//! that of the empty path, the shortest seen: with a full queue at the bottleneck, any number of streams has windows that are full.

use std::time::Duration;

use tokio::time::Instant;

/// Most streams at once: what a source is asked for at once.
const STREAMS_MAX: u8 = 8;
/// Speed that is hoped for until there is one, in bytes a second.
const HOPED_RATE: f64 = 32.0 * 1024.0 * 1024.0;
/// What streams have room for, as a multiple of what is on its way: to see whether more would go, and to go on while what was
/// lost is sent again.
const HEADROOM: f64 = 2.0;
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What a slower second takes off the speed that is reckoned with, each look: a pause is not a slower path.
const DECAY: f64 = 0.9;

#[derive(Clone, Copy, Debug)]
pub struct PathLook {
    /// Which path of which connection; another one begins afresh.
    pub path: (usize, u64),
    pub rtt: Duration,
    /// Bytes that ever went over it.
    pub sent: u64,
}

/// Follows the path that contents take.
#[derive(Debug, Default)]
pub struct StreamCount {
    last: Option<(Instant, PathLook)>,
    /// The shortest round trip on this path.
    least_rtt: Duration,
    /// Bytes a second; nothing before it was measured.
    rate: Option<f64>,
}

impl StreamCount {
    pub fn is_due(&self, now: Instant) -> bool {
        self.last.is_none_or(|(at, _)| now.saturating_duration_since(at) >= LOOK_EVERY)
    }

    /// Takes note of a look, while contents are being sent; how many streams may carry them for a window of so many bytes each.
    #[expect(clippy::cast_precision_loss, reason = "rates are for comparing")]
    pub fn look(&mut self, now: Instant, look: PathLook, window_bytes: u32) -> usize {
        match self.last.replace((now, look)) {
            Some((at, before)) if before.path == look.path => {
                self.least_rtt = self.least_rtt.min(look.rtt);
                let secs = now.saturating_duration_since(at).as_secs_f64().max(1e-3);
                let rate = look.sent.saturating_sub(before.sent) as f64 / secs;
                self.rate = Some(self.rate.map_or(rate, |known| rate.max(known * DECAY)));
            }
            Some(_) | None => (self.least_rtt, self.rate) = (look.rtt, None),
        }
        streams(self.least_rtt, self.rate.unwrap_or(HOPED_RATE), window_bytes)
    }
}

/// How many streams with a window of so many bytes fill a path with this round trip at this many bytes a second.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is a small number above zero"
)]
fn streams(rtt: Duration, rate: f64, window_bytes: u32) -> usize {
    let on_its_way = rtt.as_secs_f64() * rate;
    let needed = (on_its_way * HEADROOM / f64::from(window_bytes.max(1))).ceil();
    (needed.min(f64::from(STREAMS_MAX)) as usize).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u32 = crate::net::endpoint::STREAM_WINDOW;

    #[test]
    fn short_paths_have_one_stream_and_long_fast_ones_several() {
        let of = |millis: f64, rate: f64| streams(Duration::from_secs_f64(millis / 1e3), rate, WINDOW);
        assert_eq!(of(0.1, 1e9), 1, "loopback");
        assert_eq!(of(0.4, 1.25e9), 1, "10 Gbit/s in a rack");
        assert_eq!(of(1.0, 1.25e8), 1, "1 Gbit/s in a house");
        assert_eq!(of(20.0, 1.25e8), 5, "1 Gbit/s across a country");
        assert_eq!(of(20.0, 1.25e6), 1, "10 Mbit/s there");
        assert_eq!(of(100.0, 1.25e7), 3, "100 Mbit/s across an ocean");
        assert_eq!(of(300.0, 1e9), usize::from(STREAMS_MAX));
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "small numbers"
    )]
    /// Sends as fast as the streams and the path allow, and looks as it goes.
    fn reached(rtt: f64, path_rate: f64, looks: u32) -> (usize, f64) {
        let (mut count, begin) = (StreamCount::default(), Instant::now());
        let (mut sent, mut streams, mut rate) = (0.0, 1.0_f64, 0.0);
        for n in 0..looks {
            // While the path is full, its queue makes every round trip longer, but for the first.
            let seen = if n == 0 { rtt } else { (streams * f64::from(WINDOW) / path_rate).max(rtt) };
            let look = PathLook { path: (1, 0), rtt: Duration::from_secs_f64(seen), sent: sent as u64 };
            let now = begin + LOOK_EVERY * n;
            streams = count.look(now, look, WINDOW) as f64;
            rate = (streams * f64::from(WINDOW) / rtt).min(path_rate);
            sent += rate * LOOK_EVERY.as_secs_f64();
        }
        (streams as usize, rate)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers")]
    #[test]
    fn it_finds_the_number_that_fills_a_path() {
        for (rtt, path_rate) in [(0.1, 5e7), (0.02, 1.25e8), (0.05, 1.2e8), (0.0002, 7e8), (0.2, 1.25e6)] {
            let (streams, rate) = reached(rtt, path_rate, 30);
            assert!(rate >= path_rate * 0.99, "{streams} streams: {rate} of {path_rate} at {rtt} s");
            let fewest = (rtt * path_rate / f64::from(WINDOW)).ceil() as usize;
            assert!(streams <= fewest * 3, "{streams} streams where {fewest} would do");
        }
    }

    #[test]
    fn another_path_begins_afresh_and_a_pause_is_none() {
        let (mut count, begin) = (StreamCount::default(), Instant::now());
        let mut look = |n: u32, path: u64, rtt_ms: u64, sent: u64| {
            let look = PathLook { path: (1, path), rtt: Duration::from_millis(rtt_ms), sent };
            count.look(begin + LOOK_EVERY * n, look, WINDOW)
        };
        look(0, 0, 100, 0);
        assert_eq!(look(1, 0, 100, 5_000_000), 8);
        assert!(look(2, 0, 100, 5_000_000) >= 6, "nothing to send for a moment");
        assert_eq!(look(3, 1, 1, 0), 1, "a direct path was found");
        assert!(!count.is_due(begin + LOOK_EVERY * 3) && count.is_due(begin + LOOK_EVERY * 4));
    }
}
