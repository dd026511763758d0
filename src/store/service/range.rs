//! `Range`, as far as we serve it: one range of bytes. RFC 9110, sections 14.1.2 and 14.2. Pure.

use std::ops::Range;

/// What a `Range` header asks of content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    /// All of it: no header, one that is malformed, of another unit, or with several ranges, which a server may ignore.
    All,
    /// These bytes, never none.
    Part(Range<u64>),
    /// Nothing of it lies inside the content.
    Unsatisfiable,
}

/// Reads a `Range` header for content of `size` bytes.
pub(super) fn wanted(header: &str, size: u64) -> Wanted {
    let Some(spec) = header.trim().strip_prefix("bytes=") else { return Wanted::All };
    let Some((first, last)) = spec.trim().split_once('-') else { return Wanted::All };
    match (position(first), position(last)) {
        (Position::At(first), Position::At(last)) if last < first => Wanted::All,
        (Position::At(first), Position::At(last)) => part(first, last.saturating_add(1), size),
        (Position::At(first), Position::Open) => part(first, size, size),
        (Position::Open, Position::At(suffix)) => part(size - suffix.min(size), size, size),
        (Position::Open, Position::Open) | (Position::Bad, _) | (_, Position::Bad) => Wanted::All,
    }
}

fn part(start: u64, end: u64, size: u64) -> Wanted {
    let end = end.min(size);
    if start < end { Wanted::Part(start..end) } else { Wanted::Unsatisfiable }
}

enum Position {
    Open,
    At(u64),
    Bad,
}

fn position(text: &str) -> Position {
    if text.is_empty() {
        return Position::Open;
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Position::Bad;
    }
    // More digits than fit lie past the end of anything.
    Position::At(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_of_ten_bytes() {
        let cases = [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=0-9", Wanted::Part(0..10)),
            ("bytes=3-", Wanted::Part(3..10)),
            ("bytes=3-99", Wanted::Part(3..10)),
            ("bytes=3-99999999999999999999999", Wanted::Part(3..10)),
            ("bytes=-4", Wanted::Part(6..10)),
            ("bytes=-99", Wanted::Part(0..10)),
            ("bytes=9-9", Wanted::Part(9..10)),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=10-20", Wanted::Unsatisfiable),
            ("bytes=99999999999999999999999-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=5-4", Wanted::All),
            ("bytes=-", Wanted::All),
            ("bytes=0-1,3-4", Wanted::All),
            ("bytes=a-b", Wanted::All),
            ("bytes=+1-2", Wanted::All),
            ("lines=0-1", Wanted::All),
            ("", Wanted::All),
        ];
        for (header, expected) in cases {
            assert_eq!(wanted(header, 10), expected, "{header}");
        }
    }

    #[test]
    fn empty_content_has_no_ranges() {
        for header in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
            assert_eq!(wanted(header, 0), Wanted::Unsatisfiable, "{header}");
        }
    }

    proptest! {
        #[test]
        fn a_part_always_lies_inside(header in "bytes=[0-9]{0,22}-[0-9]{0,22}", size in any::<u64>()) {
            if let Wanted::Part(part) = wanted(&header, size) {
                prop_assert!(part.start < part.end && part.end <= size);
            }
        }
    }
}
