//! What a word that somebody types means: an id, the beginning of one, or a name. One rule for the command line and the node.

use super::same_text;

/// Fewest digits of an id that stand for it.
pub(crate) const DIGITS_MIN: usize = 4;

/// Whether something called `name` is called `wanted`. What has no name yet is called nothing, and an empty word, of a variable that
/// was not set for example, means nothing.
pub(crate) fn is_called(name: &str, wanted: &str) -> bool {
    !wanted.trim().is_empty() && same_text(name, wanted)
}

/// Those of `things` that `wanted` means, in their order; `names` gives a thing's id, in lower-case hexadecimal digits, and its name.
///
/// A whole id is itself. Else it is what is called so, whatever its case, or has an id that begins so: others choose names, and a name
/// that is the beginning of an id must not take its place. So who finds several has to ask which.
pub(crate) fn meant<T>(wanted: &str, things: Vec<T>, names: impl Fn(&T) -> (&str, &str)) -> Vec<T> {
    let id = wanted.to_ascii_lowercase();
    let is_whole = |thing: &T| !id.is_empty() && names(thing).0 == id;
    let begins = |thing: &T| id.len() >= DIGITS_MIN && names(thing).0.starts_with(&id);
    let is_named = |thing: &T| is_called(names(thing).1, wanted) || begins(thing);
    let is_any_whole = things.iter().any(is_whole);
    things.into_iter().filter(|thing| if is_any_whole { is_whole(thing) } else { is_named(thing) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_id_is_itself_and_all_else_may_be_several() {
        let things = [
            ("abcd11", "desk"),
            ("abcd22", "Café"),
            ("beef", "abcd33"),
            ("1a2b3c", "guest"),
            ("99", "1A2B3C"),
            ("77", ""),
            // What has no id yet.
            ("", "cellar"),
        ];
        let meant = |wanted: &str| -> Vec<usize> {
            let things = things.iter().enumerate().collect();
            meant(wanted, things, |(_, thing)| **thing).into_iter().map(|(place, _)| place).collect()
        };
        for (wanted, expected) in [
            ("desk", &[0][..]),
            ("cafe\u{301}", &[1]),
            ("CAFÉ", &[1]),
            ("ABCD1", &[0]),
            ("abcd", &[0, 1]),
            ("abcd33", &[2]),
            ("beef", &[2]),
            ("1a2b3c", &[3]),
            ("1a2b", &[3]),
            ("cellar", &[6]),
            ("abc", &[]),
            ("", &[]),
            (" ", &[]),
        ] {
            assert_eq!(meant(wanted), expected, "{wanted}");
        }
    }
}
