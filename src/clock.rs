//! The time of day, and times for people.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Milliseconds since the Unix epoch.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// RFC 3339 in UTC with milliseconds, of milliseconds since the Unix epoch; `None` for a time that no calendar has.
pub(crate) fn rfc3339(ms: u64) -> Option<String> {
    let time = Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
    Some(format!("{time:.3}"))
}

/// Seconds until `missing_bytes` are here at `rate` bytes per second; `None` when nothing is missing or nothing moves.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate in whole seconds, never negative"
)]
pub fn eta_secs(missing_bytes: u64, rate: f64) -> Option<u64> {
    (missing_bytes > 0 && rate > 0.0).then(|| (missing_bytes as f64 / rate).ceil() as u64)
}
