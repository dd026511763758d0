//! Text for people: escaped, and with units.

use crate::clock::now_ms;
use crate::text::amounts;
pub use crate::text::escape;
pub(super) use crate::text::is_hazard;

/// A number of bytes, such as `1.2 MiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    amounts::bytes(count)
}

/// A rate in bytes per second, such as `1.2 MiB/s`.
#[must_use]
pub fn rate(bytes_per_sec: f64) -> String {
    amounts::rate(bytes_per_sec)
}

/// A span of time, such as `12s`, `5m` or `3h 12m`.
#[must_use]
pub fn seconds(secs: u64) -> String {
    amounts::duration(secs)
}

/// An RFC 3339 time in milliseconds since the Unix epoch.
#[must_use]
pub fn ms_of(time: &str) -> Option<u64> {
    u64::try_from(time.parse::<jiff::Timestamp>().ok()?.as_millisecond()).ok()
}

/// How long ago an RFC 3339 time was, such as `12s ago`; the text itself, escaped, where it is none.
#[must_use]
pub fn ago(time: &str) -> String {
    match ms_of(time) {
        Some(ms) => amounts::ago(now_ms(), ms),
        None => escape(time).into_owned(),
    }
}

/// `1 asset`, `2 assets`.
#[must_use]
pub fn counted(count: u64, singular: &str) -> String {
    amounts::counted(count, singular)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_by_how_long_ago_it_was() {
        assert_eq!(ago("not\u{1b}a time"), "not\\u{1b}a time");
        assert_eq!(ago("9999-01-01T00:00:00Z"), "now");
        assert!(ago("2000-01-01T00:00:00Z").ends_with("d ago"));
    }
}
