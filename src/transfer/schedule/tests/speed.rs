//! How fast a source is taken to be, and what is thought of it.

use super::*;
use crate::transfer::schedule::source::SourceJudgement;

const SECOND: Duration = Duration::from_secs(1);

/// A source that was asked for something.
fn asked() -> SessionSource {
    let mut source = SessionSource::default();
    source.requests = 1;
    source
}

#[test]
fn the_rate_follows_what_comes_but_for_what_waits_here() {
    let (mut source, mut now) = (asked(), Instant::now());
    let mut received = 1_000_000;
    source.note(SourceProgress { received, held_here: false }, now, LIMITS.stall);
    for (secs, bytes, held_here, rate) in [
        (2, 4_000, false, 2_000.0),
        (1, 4_000, false, 3_000.0),
        (1, 1_000, true, 3_000.0),
        (1, 5_000, true, 4_000.0),
        (1, 0, false, 2_000.0),
    ] {
        (now, received) = (now + secs * SECOND, received + bytes);
        source.note(SourceProgress { received, held_here }, now, LIMITS.stall);
        assert!((source.rate - rate).abs() < 0.001, "{} and not {rate}", source.rate);
    }
}

#[test]
fn who_sends_too_little_for_a_long_time_is_no_source_whatever_it_sends_now() {
    // Bytes in each of the first 25 seconds, and in each of the five after them; what is thought of it then.
    for (before, lately, thought) in [
        (410, 410, SourceJudgement::Fine),
        (0, 2_000, SourceJudgement::Hopeless(10_000)),
        (10_000, 0, SourceJudgement::Silent),
        (0, 0, SourceJudgement::Hopeless(0)),
        (10_000, 409, SourceJudgement::Hopeless(2_045)),
    ] {
        let (mut source, start) = (asked(), Instant::now());
        let mut received = 0;
        let mut last = SourceJudgement::Fine;
        for second in 0..=30 {
            received += match second {
                0 => 0,
                1..=25 => before,
                _ => lately,
            };
            last = source.note(
                SourceProgress { received, held_here: false },
                start + second * SECOND,
                LIMITS.stall,
            );
        }
        assert_eq!(last, thought, "{before} {lately}");
    }
}

#[test]
fn others_may_take_four_times_as_long_and_longer_for_more() {
    let mut source = asked();
    assert_eq!(source.patience_with_others(8), None, "as long as it has sent none itself");
    source.last_part = Some((8 << 20, 2 * SECOND));
    for (bytes, secs) in [(1 << 20, 8), (8 << 20, 8), (24 << 20, 24)] {
        assert_eq!(source.patience_with_others(bytes), Some(secs * SECOND + OVERDUE), "{bytes}");
    }
}
