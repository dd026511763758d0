//! Amounts, rates and times as people read them: the same on the command line and on the page. Pure.

use bytesize::ByteSize;

/// A number of bytes, such as `1.2 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    ByteSize(count).display().iec().to_string()
}

/// Bytes per second; what is no sensible rate is none.
pub(crate) fn rate(per_sec: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits first")]
    let whole = per_sec.clamp(0.0, 1e15) as u64;
    format!("{}/s", bytes(whole))
}

/// `3h 12m`.
pub(crate) fn duration(secs: u64) -> String {
    let two = |large: u64, unit: &str, small: u64, rest: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit} {small}{rest}"),
    };
    match secs {
        0..60 => format!("{secs}s"),
        60..3_600 => two(secs / 60, "m", secs % 60, "s"),
        3_600..86_400 => two(secs / 3_600, "h", secs / 60 % 60, "m"),
        86_400.. => two(secs / 86_400, "d", secs / 3_600 % 24, "h"),
    }
}

/// `12s ago`. A time that has not come yet is a matter of clocks and counts as now.
pub(crate) fn ago(now_ms: u64, ms: u64) -> String {
    match now_ms.saturating_sub(ms) / 1000 {
        0 => String::from("now"),
        secs @ 1..60 => format!("{secs}s ago"),
        secs @ 60..3_600 => format!("{}m ago", secs / 60),
        secs @ 3_600..86_400 => format!("{}h ago", secs / 3_600),
        secs => format!("{}d ago", secs / 86_400),
    }
}

/// `1 asset`, `2 assets`.
pub(crate) fn counted(count: u64, singular: &str) -> String {
    format!("{count} {singular}{}", if count == 1 { "" } else { "s" })
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
        assert_eq!([5, 60, 65, 8_000, 100_000].map(duration), ["5s", "1m", "1m 5s", "2h 13m", "1d 3h"]);
    }

    #[test]
    fn amounts_have_units() {
        assert_eq!((bytes(0), bytes(1536)), ("0 B".into(), "1.5 KiB".into()));
        assert_eq!((rate(f64::NAN), rate(-5.0)), (rate(0.0), rate(0.0)));
        assert_eq!(rate(2.0 * 1024.0 * 1024.0), "2.0 MiB/s");
        assert_eq!((counted(1, "asset"), counted(0, "asset")), ("1 asset".into(), "0 assets".into()));
    }
}
