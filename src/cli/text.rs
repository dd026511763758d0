//! Text for people: escaped, and with units.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::clock::now_ms;
use crate::text::amounts;

/// Whether a character would do something to a terminal, or hide what a line says: control characters, and those that
/// change the direction of text or show nothing.
pub(super) fn is_hazard(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Makes text from records, peers and files safe to show: one line, no control characters, nothing that turns the
/// direction of text.
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hazard) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_hazard(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

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

/// How long ago an RFC 3339 time was, such as `12s ago`; the text itself, escaped, where it is none.
#[must_use]
pub fn ago(time: &str) -> String {
    let Ok(then) = time.parse::<jiff::Timestamp>() else { return escape(time).into_owned() };
    let ms = u64::try_from(then.as_millisecond()).unwrap_or_default();
    amounts::ago(now_ms(), ms)
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
    fn what_acts_on_a_terminal_is_escaped() {
        assert_eq!(escape("plain, gr\u{fc}n, \u{65e5}\u{672c}"), "plain, gr\u{fc}n, \u{65e5}\u{672c}");
        assert_eq!(escape("a\u{1b}[31mb"), "a\\u{1b}[31mb");
        assert_eq!(escape("a\nb\tc\r"), "a\\nb\\tc\\r");
        assert_eq!(escape("\u{9b}2J\u{7f}\0"), "\\u{9b}2J\\u{7f}\\u{0}");
        assert_eq!(escape("cod\u{202e}exe"), "cod\\u{202e}exe");
        for hazard in ('\0'..='\u{e1000}').filter(|c| is_hazard(*c)) {
            assert!(!escape(&hazard.to_string()).contains(hazard));
        }
    }

    #[test]
    fn a_time_is_told_by_how_long_ago_it_was() {
        assert_eq!(ago("not\u{1b}a time"), "not\\u{1b}a time");
        assert_eq!(ago("9999-01-01T00:00:00Z"), "now");
        assert!(ago("2000-01-01T00:00:00Z").ends_with("d ago"));
    }
}
