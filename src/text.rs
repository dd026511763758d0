//! Text: what strangers wrote where people see it, and how what people type is compared.

use std::borrow::Cow;
use std::fmt::Write as _;

use unicase::UniCase;
use unicode_normalization::UnicodeNormalization as _;

pub(crate) mod amounts;
pub(crate) mod naming;

/// Characters that show nothing, or reorder what is shown beside them: zero width, soft hyphens, line and paragraph
/// separators, marks and overrides of direction, the byte order mark, tags.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Whether a character would do something to a terminal or a page, or hide what a line says.
pub(crate) fn is_hazard(c: char) -> bool {
    c.is_control() || is_invisible(c)
}

/// Text from records, peers and files as one line that says what it is: control characters, those that show nothing and
/// those that turn the direction of text become escapes. Joiners stay between the letters and emoji that need them.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hazard) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    let mut before = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let joins = |beside: Option<char>| beside.is_some_and(|c| !c.is_ascii() && !is_hazard(c));
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{200c}' | '\u{200d}' if joins(before) && joins(chars.peek().copied()) => out.push(c),
            // Writing to a string cannot fail.
            c if is_hazard(c) => drop(write!(out, "\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
        before = Some(c);
    }
    Cow::Owned(out)
}

/// Characters of somebody's input that an error repeats.
const QUOTED_CHARS_MAX: usize = 80;

/// The beginning of `text`, short enough for an error that repeats it.
pub(crate) fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_CHARS_MAX).collect()
}

/// Digits of a long id that people are shown: enough to tell machines, folders and libraries of one user apart.
const ID_DIGITS_SHOWN: usize = 10;

/// The beginning of a long id, as people see it.
pub(crate) fn short_id(id: &str) -> String {
    id.chars().take(ID_DIGITS_SHOWN).collect()
}

/// Characters that are kept of the reason that a peer gives for something.
const REASON_CHARS_MAX: usize = 200;

/// What a peer says of its reasons, as one line of limited length.
pub(crate) fn stated(reason: &str) -> String {
    reason.chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect()
}

/// `text` as comparisons see it: canonically equal strings are equal (NFC, NFD), and so are strings that differ in case alone,
/// by full case folding (`ß` and `SS`; `σ`, `ς` and `Σ`). `İ` counts as `i`, as people who look for it type it.
pub fn folded(text: &str) -> String {
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
    fn what_acts_or_hides_is_escaped() {
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
    fn joiners_stay_where_they_join() {
        for text in ["\u{1f468}\u{200d}\u{1f467}.jpg", "\u{645}\u{6cc}\u{200c}\u{62e}"] {
            assert_eq!(escape(text), text);
        }
        for text in ["a\u{200d}b", "\u{200d}", "\u{1f468}\u{200d}\u{200d}\u{1f467}", "\u{1f468}\u{200d}"] {
            assert!(!escape(text).contains('\u{200d}'), "{text:?}");
        }
    }

    #[test]
    fn people_take_these_for_the_same() {
        for (one, other) in [
            ("Desk", "dESK"),
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
    fn what_others_wrote_is_repeated_in_part() {
        let long = "\u{e9}".repeat(300);
        assert_eq!([quoted(&long), quoted("short")].map(|text| text.chars().count()), [80, 5]);
        assert_eq!(short_id("0123456789abcdef"), "0123456789");
        assert_eq!(stated("no\n room\u{1b}"), "no room");
        assert_eq!(stated(&long).chars().count(), 200);
    }

    #[test]
    fn names_that_are_no_text_stay_apart() {
        assert_eq!(escaped_name("é.txt".as_bytes()), "é.txt");
        assert_eq!(escaped_name(b"caf\xe9.txt"), "caf%E9.txt");
        assert_ne!(escaped_name(b"\xfe"), escaped_name(b"\xff"));
    }
}
