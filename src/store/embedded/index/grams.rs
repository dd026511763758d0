//! Text as FTS5 gets it: taken apart into trigrams here, so that what matches is what has the searched word in it, byte for
//! byte, whatever a tokenizer takes for a word. Pure.
//!
//! A searched word has no white space, so text is taken apart between it. `photo` becomes `pho hot oto to o`: each character
//! begins a gram, so that a word of one or two characters is the beginning of one; and a word of three and more is its trigrams in a
//! row, in which the two short grams at the end let nothing run from one piece of text into the next.

use std::fmt::Write as _;

const GRAM_CHARS: usize = 3;
/// Most grams of one word that FTS5 is asked for: each takes it a while, and longer words are rare enough to be compared.
const WORD_GRAMS_MAX: usize = 48;

/// The text of one record, as the column `grams` gets it.
pub(in super::super) fn indexed(text: &str) -> String {
    let mut grams = String::with_capacity(text.len() * 5);
    for piece in text.split_whitespace() {
        let chars: Vec<char> = piece.chars().collect();
        for start in 0..chars.len() {
            put_gram(&mut grams, &chars[start..chars.len().min(start + GRAM_CHARS)]);
            grams.push(' ');
        }
    }
    grams
}

/// Whether a word is only the beginning of grams.
pub(in super::super) fn is_short(word: &str) -> bool {
    word.chars().count() < GRAM_CHARS
}

/// What is asked for a word: an expression of FTS5.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in super::super) struct WordQuery {
    pub(in super::super) expression: String,
    /// Whether what matches has still to be compared with the word.
    pub(in super::super) is_vague: bool,
}

/// The expression for a word; `None` for one that no index answers.
pub(in super::super) fn query(word: &str) -> Option<WordQuery> {
    let chars: Vec<char> = word.chars().collect();
    if chars.is_empty() || chars.iter().any(|c| c.is_whitespace()) {
        return None;
    }
    let mut expression = String::from('"');
    if chars.len() < GRAM_CHARS {
        put_gram(&mut expression, &chars);
        expression.push_str("\" *");
        return Some(WordQuery { expression, is_vague: false });
    }
    for gram in chars.windows(GRAM_CHARS).take(WORD_GRAMS_MAX) {
        put_gram(&mut expression, gram);
        expression.push(' ');
    }
    expression.push('"');
    Some(WordQuery { expression, is_vague: chars.len() > WORD_GRAMS_MAX + GRAM_CHARS - 1 })
}

/// Writes the characters so that the tokenizer `ascii` takes them for one token: what it would split at, or fold, becomes `z` and
/// two digits, and so does `z`. No character's text is the beginning of another's.
fn put_gram(to: &mut String, chars: &[char]) {
    for c in chars {
        match c {
            'a'..='y' | '0'..='9' => to.push(*c),
            c if c.is_ascii() => drop(write!(to, "z{:02x}", u32::from(*c))),
            c => to.push(*c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_taken_apart_between_white_space() {
        assert_eq!(indexed("abcd e"), "abc bcd cd d e ");
        assert_eq!(indexed("a.b\u{1f}ü"), "az2eb z2ebz1f bz1fü z1fü ü ");
        assert_eq!(indexed(" \n"), "");
    }

    #[test]
    fn words_are_phrases_and_short_ones_beginnings() {
        let of = |word| query(word).unwrap().expression;
        assert_eq!(of("abcd"), "\"abc bcd \"");
        assert_eq!(of("a\""), "\"az22\" *");
        assert_eq!(of("z\0"), "\"z7az00\" *");
        assert_eq!(query(""), None);
        assert_eq!(query("a b"), None);
        assert!(!query(&"x".repeat(50)).unwrap().is_vague);
        assert!(query(&"x".repeat(51)).unwrap().is_vague);
    }
}
