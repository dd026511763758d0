//! The one form in which a secret counts, so that two machines agree whatever editor, shell or service manager gave it to
//! them. Pure.

use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroizing;

/// Longest secret, in bytes; far beyond any use.
pub(super) const SECRET_BYTES_MAX: usize = 1024;

/// Why a text is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextFault {
    /// Nothing, or white space alone.
    #[error("expected text, not nothing")]
    Empty,
    /// Bytes of another encoding.
    #[error("it is not UTF-8 text: save it as UTF-8")]
    Encoding,
    /// Control characters: most often a second line.
    #[error("it has more than one line, or control characters: keep the secret alone, on one line")]
    Control,
    /// Longer than any secret has to be.
    #[error("it is longer than {SECRET_BYTES_MAX} bytes")]
    Long,
}

/// Without what editors and shells leave at either end: white space and byte order marks.
pub fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// What counts of a secret: trimmed, then in Unicode's form NFKC. What is kept and shown is the trimmed text, because white
/// space that NFKC makes of other characters would be trimmed the second time.
pub fn normal(text: &str) -> Zeroizing<String> {
    Zeroizing::new(trimmed(text).nfkc().collect())
}

/// The secret in `text`, trimmed.
pub fn secret_in(text: &str) -> Result<&str, TextFault> {
    let text = trimmed(text);
    if text.is_empty() {
        Err(TextFault::Empty)
    } else if text.len() > SECRET_BYTES_MAX || normal(text).len() > SECRET_BYTES_MAX {
        Err(TextFault::Long)
    } else if text.contains(char::REPLACEMENT_CHARACTER) {
        // What is left of a variable in another encoding.
        Err(TextFault::Encoding)
    } else if text.contains(|c: char| c.is_control() && c != '\t' || matches!(c, '\u{2028}' | '\u{2029}')) {
        Err(TextFault::Control)
    } else {
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_editors_and_shells_leave_does_not_count() {
        for around in
            ["\n", "\r\n", "  ", "\t", "\u{feff}", "\u{a0}", "\u{3000}", " \u{feff} \r\n\u{feff}", "\u{85}"]
        {
            let text = format!("{around}some words{around}");
            assert_eq!(secret_in(&text), Ok("some words"), "{around:?}");
            assert_eq!(secret_in(around), Err(TextFault::Empty), "{around:?}");
        }
        assert_eq!(secret_in(""), Err(TextFault::Empty));
        assert_eq!(trimmed("inner \u{feff} stays"), "inner \u{feff} stays");
    }

    #[test]
    fn one_spelling_of_each_word() {
        let composed = normal("gr\u{fc}\u{df}e \u{30ac}");
        assert_eq!(composed, normal("gru\u{308}\u{df}e \u{30ab}\u{3099}"));
        assert_eq!(normal("\u{ff57}\u{ff4f}\u{ff52}\u{ff44}\u{ff53}").as_str(), "words");
        assert_ne!(normal("stra\u{df}e"), normal("strasse"), "case and spelling count");
    }

    #[test]
    fn what_is_no_line_of_text_is_refused() {
        for text in ["two\nlines", "two\r\nlines", "a\0b", "a\u{1b}[2Jb", "a\u{2028}b"] {
            assert_eq!(secret_in(text), Err(TextFault::Control), "{text:?}");
        }
        assert_eq!(secret_in("latin \u{fffd} one"), Err(TextFault::Encoding));
        assert_eq!(secret_in(&"x".repeat(SECRET_BYTES_MAX + 1)), Err(TextFault::Long));
        // One character that stands for eighteen.
        assert_eq!(secret_in(&"\u{fdfa}".repeat(SECRET_BYTES_MAX / 3)), Err(TextFault::Long));
        assert!(secret_in("with\ttab").is_ok());
    }

    proptest! {
        #[test]
        fn a_secret_that_was_kept_is_the_same_secret(text in "\\PC{0,40}") {
            prop_assert_eq!(normal(trimmed(&text)), normal(&text));
            // White space that NFKC makes is not trimmed: what counts would change whenever a file is written.
            prop_assert_eq!(normal(&format!("\u{feff}{text} \r\n")), normal(&text));
        }
    }
}
