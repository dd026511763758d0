//! Text: what strangers wrote where people see it, and how what people type is compared.

use std::borrow::Cow;
use std::fmt::Write as _;

use unicase::UniCase;
use unicode_normalization::UnicodeNormalization as _;

pub(crate) mod amounts;

/// Characters that a terminal may use to reorder, join or hide text: zero width, line and paragraph separators, marks
/// and overrides of direction, the byte order mark.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Characters of somebody's input that an error repeats.
const QUOTED_CHARS_MAX: usize = 80;

/// The beginning of `text`, short enough for an error that repeats it.
pub(crate) fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_CHARS_MAX).collect()
}

/// `text` as comparisons see it: canonically equal strings are equal (NFC, NFD), and so are strings that differ in case alone,
/// by full case folding (`ß` and `SS`; `σ`, `ς` and `Σ`). `İ` counts as `i`, as people who look for it type it.
pub(crate) fn folded(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let decomposed: String = text.nfd().collect();
    let folded = UniCase::unicode(decomposed).to_folded_case();
    let folded: String = folded.nfd().collect();
    folded.replace("i\u{307}", "i").nfc().collect()
}

/// Whether people take both for the same text; see [`folded`].
pub(crate) fn same_text(one: &str, other: &str) -> bool {
    one == other
        || one.eq_ignore_ascii_case(other)
        || (!(one.is_ascii() && other.is_ascii()) && folded(one) == folded(other))
}

/// A name in bytes, as text: bytes that are no UTF-8 become `%XX`, so that names which differ stay different.
pub(crate) fn escaped_name(name: &[u8]) -> Cow<'_, str> {
    if let Ok(name) = std::str::from_utf8(name) {
        return Cow::Borrowed(name);
    }
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_take_these_for_the_same() {
        for (one, other) in [
            ("Café", "cafe\u{301}"),
            ("STRASSE", "straße"),
            ("Strasse", "STRA\u{1e9e}E"),
            ("ΟΔΥΣΣΕΥΣ", "Οδυσσεύς".replace('ύ', "υ").as_str()),
            ("İstanbul", "istanbul"),
            ("İSTANBUL", "i\u{307}stanbul"),
            ("ﬁle", "FILE"),
            ("가", "\u{1100}\u{1161}"),
            ("Å", "\u{212b}"),
            ("ÉCOLE", "e\u{301}cole"),
            ("ЙОД", "и\u{306}од"),
        ] {
            assert!(same_text(one, other), "{one} {other}");
            assert_eq!(folded(one), folded(other), "{one} {other}");
            assert_eq!(folded(&folded(one)), folded(one), "{one}");
        }
        for (one, other) in [("resume", "résumé"), ("a", "b"), ("ı", "l"), ("straße", "strase")] {
            assert!(!same_text(one, other), "{one} {other}");
        }
    }

    #[test]
    fn names_that_are_no_text_stay_apart() {
        assert_eq!(escaped_name("é.txt".as_bytes()), "é.txt");
        assert_eq!(escaped_name(b"caf\xe9.txt"), "caf%E9.txt");
        assert_ne!(escaped_name(b"\xfe"), escaped_name(b"\xff"));
    }
}
