//! `Range`, as far as we serve it: one range of bytes. RFC 9110, sections 14.1.2 and 14.2. Pure.

use std::ops::Range;

/// What a `Range` header asks of content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::store) enum RequestedRange {
    /// All of it: no header, one that is malformed, of another unit, or with several ranges, which a server may ignore.
    All,
    /// These bytes, never none.
    Part(Range<u64>),
    /// Nothing of it lies inside the content.
    Unsatisfiable,
}

/// Reads a `Range` header for content of `size` bytes.
pub(in crate::store) fn wanted(header: &str, size: u64) -> RequestedRange {
    // A unit has no case (RFC 9110, 14.1).
    let Some((unit, spec)) = header.trim().split_once('=') else { return RequestedRange::All };
    if !unit.eq_ignore_ascii_case("bytes") {
        return RequestedRange::All;
    }
    let Some((first, last)) = spec.trim().split_once('-') else { return RequestedRange::All };
    match (position(first), position(last)) {
        (RangePosition::At(first), RangePosition::At(last)) if last < first => RequestedRange::All,
        (RangePosition::At(first), RangePosition::At(last)) => part(first, last.saturating_add(1), size),
        (RangePosition::At(first), RangePosition::Open) => part(first, size, size),
        (RangePosition::Open, RangePosition::At(suffix)) => part(size - suffix.min(size), size, size),
        (RangePosition::Open, RangePosition::Open) | (RangePosition::Bad, _) | (_, RangePosition::Bad) => {
            RequestedRange::All
        }
    }
}

fn part(start: u64, end: u64, size: u64) -> RequestedRange {
    let end = end.min(size);
    if start < end { RequestedRange::Part(start..end) } else { RequestedRange::Unsatisfiable }
}

enum RangePosition {
    Open,
    At(u64),
    Bad,
}

fn position(text: &str) -> RangePosition {
    if text.is_empty() {
        return RangePosition::Open;
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return RangePosition::Bad;
    }
    // More digits than fit lie past the end of anything.
    RangePosition::At(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_of_ten_bytes() {
        let cases = [
            ("bytes=0-0", RequestedRange::Part(0..1)),
            ("bytes=0-9", RequestedRange::Part(0..10)),
            ("Bytes=0-9", RequestedRange::Part(0..10)),
            ("lines=0-9", RequestedRange::All),
            ("bytes=3-", RequestedRange::Part(3..10)),
            ("bytes=3-99", RequestedRange::Part(3..10)),
            ("bytes=3-99999999999999999999999", RequestedRange::Part(3..10)),
            ("bytes=-4", RequestedRange::Part(6..10)),
            ("bytes=-99", RequestedRange::Part(0..10)),
            ("bytes=9-9", RequestedRange::Part(9..10)),
            ("bytes=10-", RequestedRange::Unsatisfiable),
            ("bytes=10-20", RequestedRange::Unsatisfiable),
            ("bytes=99999999999999999999999-", RequestedRange::Unsatisfiable),
            ("bytes=-0", RequestedRange::Unsatisfiable),
            ("bytes=5-4", RequestedRange::All),
            ("bytes=-", RequestedRange::All),
            ("bytes=0-1,3-4", RequestedRange::All),
            ("bytes=a-b", RequestedRange::All),
            ("bytes=+1-2", RequestedRange::All),
            ("lines=0-1", RequestedRange::All),
            ("", RequestedRange::All),
        ];
        for (header, expected) in cases {
            assert_eq!(wanted(header, 10), expected, "{header}");
        }
    }

    #[test]
    fn empty_content_has_no_ranges() {
        for header in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
            assert_eq!(wanted(header, 0), RequestedRange::Unsatisfiable, "{header}");
        }
    }

    proptest! {
        #[test]
        fn a_part_always_lies_inside(header in "bytes=[0-9]{0,22}-[0-9]{0,22}", size in any::<u64>()) {
            if let RequestedRange::Part(part) = wanted(&header, size) {
                prop_assert!(part.start < part.end && part.end <= size);
            }
        }
    }
}
