//! Limits of bandwidth, for all peers together.

use std::num::NonZeroU32;
use std::sync::Arc;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// Counted in KiB: a 32-bit count of bytes would end at 4 GiB/s, and finer steps cost more than they show.
const UNIT_BYTES: usize = 1024;

/// What one stream takes at once under a limit, so that the others do not wait long.
const STEP_BYTES: usize = 16 * 1024;

/// What may go at once after a pause, as a share of what may go in a second.
const BURSTS_PER_SEC: u32 = 10;

/// How fast content may go one way. Cheap to clone; clones share the limit.
#[derive(Clone, Debug, Default)]
pub struct Pace(Option<Arc<Limiter>>);

#[derive(Debug)]
struct Limiter {
    bucket: DefaultDirectRateLimiter,
    /// Most units that are taken at once: as many as the bucket holds.
    burst: u32,
}

impl Pace {
    /// At most so many bytes per second; `None` for as fast as it goes.
    pub fn new(bytes_per_sec: Option<u64>) -> Self {
        let Some(bytes) = bytes_per_sec else { return Self(None) };
        let units = u32::try_from(bytes / UNIT_BYTES as u64).unwrap_or(u32::MAX);
        let units = NonZeroU32::new(units).unwrap_or(NonZeroU32::MIN);
        // Evenly: what goes at once after a pause would only fill buffers on the way.
        let step = u32::try_from(STEP_BYTES / UNIT_BYTES).unwrap_or(u32::MAX);
        let burst =
            NonZeroU32::new((units.get() / BURSTS_PER_SEC).max(step.min(units.get()))).unwrap_or(units);
        let bucket = RateLimiter::direct(Quota::per_second(units).allow_burst(burst));
        Self(Some(Arc::new(Limiter { bucket, burst: burst.get() })))
    }

    pub fn step_bytes(&self) -> usize {
        if self.0.is_some() { STEP_BYTES } else { usize::MAX }
    }

    /// Waits until `bytes` more may go.
    pub async fn take(&self, bytes: usize) {
        let Some(limiter) = &self.0 else { return };
        let mut units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        while units > 0 {
            let now = units.min(limiter.burst);
            if let Some(now) = NonZeroU32::new(now) {
                // Refused only for more than the bucket can ever hold.
                let _ = limiter.bucket.until_n_ready(now).await;
            }
            units -= now;
        }
    }
}
