//! Times for people.

use jiff::Timestamp;

/// RFC 3339 in UTC with milliseconds, of milliseconds since the Unix epoch; `None` for a time that no calendar has.
pub(crate) fn rfc3339(ms: u64) -> Option<String> {
    let time = Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
    Some(format!("{time:.3}"))
}
