//! Times, amounts and names as people read them. Pure.

use crate::clock::rfc3339;
pub(in crate::api) use crate::text::amounts::{ago, bytes, duration, rate};
use crate::text::escape;

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

/// One line of limited length that says what it is; see [`escape`].
pub(in crate::api) fn shown(text: &str) -> String {
    let mut chars = text.chars();
    let mut line: String = chars.by_ref().take(TEXT_CHARS_SHOWN).collect();
    if chars.next().is_some() {
        line.push('…');
    }
    escape(&line).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(grouped),
            ["0", "999", "1\u{2009}000", "1\u{2009}234\u{2009}567"]
        );
    }

    #[test]
    fn text_of_strangers_has_an_end_and_says_what_it_is() {
        assert_eq!(shown("a\u{1b}[2J\ncod\u{202e}gpj.exe"), "a\\u{1b}[2J\\ncod\\u{202e}gpj.exe");
        assert_eq!(shown(&"x".repeat(1_000)).chars().count(), TEXT_CHARS_SHOWN + 1);
    }
}
