//! Text for people: escaped, and with units.

use crate::clock::now_ms;
use crate::text::amounts;
pub(super) use crate::text::amounts::{bytes, counted, duration as seconds, rate};
pub(super) use crate::text::{escape, is_hazard};

/// An RFC 3339 time in milliseconds since the Unix epoch.
pub(super) fn ms_of(time: &str) -> Option<u64> {
    u64::try_from(time.parse::<jiff::Timestamp>().ok()?.as_millisecond()).ok()
}

/// How long ago an RFC 3339 time was, such as `12s ago`; the text itself, escaped, where it is none.
pub(super) fn ago(time: &str) -> String {
    match ms_of(time) {
        Some(ms) => amounts::ago(now_ms(), ms),
        None => escape(time).into_owned(),
    }
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
