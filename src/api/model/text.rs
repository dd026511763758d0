//! Times, amounts and names as people read them. Pure.

use bytesize::ByteSize;

use crate::clock::rfc3339;

/// Characters shown of a name or an error.
const TEXT_CHARS_SHOWN: usize = 120;

/// A time, for people and for the script that keeps it fresh.
pub(in crate::api) struct Ago {
    pub(in crate::api) ms: u64,
    pub(in crate::api) rfc3339: String,
    pub(in crate::api) text: String,
}

impl Ago {
    pub(in crate::api) fn new(now_ms: u64, ms: u64) -> Self {
        Self { ms, rfc3339: rfc3339(ms).unwrap_or_default(), text: ago(now_ms, ms) }
    }
}

/// `12s ago`. A time that has not come yet is a matter of clocks and counts as now.
pub(in crate::api) fn ago(now_ms: u64, ms: u64) -> String {
    match now_ms.saturating_sub(ms) / 1000 {
        0 => String::from("now"),
        secs @ 1..60 => format!("{secs}s ago"),
        secs @ 60..3_600 => format!("{}m ago", secs / 60),
        secs @ 3_600..86_400 => format!("{}h ago", secs / 3_600),
        secs => format!("{}d ago", secs / 86_400),
    }
}

/// `3h 12m`.
pub(in crate::api) fn duration(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs}s"),
        60..3_600 => format!("{}m {}s", secs / 60, secs % 60),
        3_600..86_400 => format!("{}h {}m", secs / 3_600, secs / 60 % 60),
        86_400.. => format!("{}d {}h", secs / 86_400, secs / 3_600 % 24),
    }
}

pub(in crate::api) fn bytes(count: u64) -> String {
    ByteSize(count).display().si().to_string()
}

/// Bytes per second; what is no sensible rate is none.
pub(in crate::api) fn rate(per_sec: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits first")]
    let whole = per_sec.clamp(0.0, 1e15) as u64;
    format!("{}/s", bytes(whole))
}

pub(in crate::api) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

/// Digits in groups of three, with a thin space between them.
pub(in crate::api) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{2009}');
        }
        text.push(digit);
    }
    text
}

/// One line of limited length; what a browser would not show as text is left out.
pub(in crate::api) fn shown(text: &str) -> String {
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut line: String = chars.by_ref().take(TEXT_CHARS_SHOWN).collect();
    if chars.next().is_some() {
        line.push('…');
    }
    line
}

pub(in crate::api) fn short(id: &str) -> String {
    id.chars().take(10).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let at = |secs: u64| ago(secs * 1000, 0);
        assert_eq!(
            [0, 1, 59, 60, 3_599, 3_600, 86_399, 86_400].map(at),
            ["now", "1s ago", "59s ago", "1m ago", "59m ago", "1h ago", "23h ago", "1d ago"]
        );
        assert_eq!(ago(0, 5_000), "now");
        assert_eq!([5, 65, 3_700, 90_000].map(duration), ["5s", "1m 5s", "1h 1m", "1d 1h"]);
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(grouped),
            ["0", "999", "1\u{2009}000", "1\u{2009}234\u{2009}567"]
        );
        assert_eq!(rate(f64::NAN), rate(0.0));
        assert_eq!(rate(-5.0), rate(0.0));
        assert_eq!(rate(1_500_000.0), "1.5 MB/s");
    }

    #[test]
    fn text_of_strangers_has_an_end_and_no_control_characters() {
        let text = shown(&format!("a\u{1b}[2J\n{}", "x".repeat(1_000)));
        assert_eq!(text.chars().count(), TEXT_CHARS_SHOWN + 1);
        assert!(!text.contains(char::is_control));
    }
}
