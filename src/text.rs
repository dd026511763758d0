//! Text from strangers, where people see it.

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
