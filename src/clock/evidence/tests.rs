use super::*;

const NOW: u64 = 1_800_000_000_000;
const BUILT: u64 = NOW - 90 * DAY;
const MINUTE: u64 = 60 * 1000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// `secs` into the run, with a clock that shows this.
fn at(own_ms: u64, secs: u64) -> Moment {
    Moment { own_ms, uptime: Duration::from_secs(secs) }
}

fn evidence() -> Evidence {
    Evidence::new(BUILT, at(NOW, 0))
}

/// Has heard clocks that show this.
fn having_heard(shown: &[u64], at: Moment) -> Evidence {
    let mut evidence = evidence();
    for (n, shows_ms) in shown.iter().enumerate() {
        evidence.hear([u8::try_from(n).unwrap(); 32], *shows_ms, at);
    }
    evidence
}

#[test]
fn alone_the_machines_clock_is_believed() {
    for own in [NOW, NOW + 365 * DAY, BUILT, BUILT - 10 * MINUTE] {
        let reading = evidence().read(at(own, 0));
        assert_eq!((reading.now_ms, reading.doubt), (own, None));
    }
}

#[test]
fn alone_before_the_build_time_goes_on_from_there() {
    let reading = evidence().read(at(0, 3600));
    assert_eq!(reading.now_ms, BUILT + HOUR);
    assert_eq!(reading.doubt, Some(Doubt::Behind { by_ms: BUILT + HOUR }));
}

#[test]
fn alone_before_the_newest_confirmed_record_time_goes_on_from_there() {
    let mut evidence = evidence();
    evidence.note_confirmed(NOW - DAY, at(NOW, 10));
    evidence.note_confirmed(NOW - 2 * DAY, at(NOW, 20));
    assert_eq!(evidence.confirmed_ms(), NOW - DAY);
    let reading = evidence.read(at(NOW - 30 * DAY, 70));
    assert_eq!((reading.now_ms, reading.earlier_ms()), (NOW - DAY + MINUTE, NOW - 30 * DAY));
    assert_eq!(reading.doubt, Some(Doubt::Behind { by_ms: 29 * DAY + MINUTE }));
    // What an earlier run knew counts from the start of this one.
    let mut restarted = Evidence::new(BUILT, at(0, 0));
    restarted.restore(NOW - DAY, true, at(0, 0));
    assert_eq!(restarted.read(at(0, 60)).now_ms, NOW - DAY + MINUTE);
    assert!(restarted.has_met_devices());
}

#[test]
fn whoever_agrees_is_believed_whatever_a_record_says() {
    let mut evidence = having_heard(&[NOW], at(NOW, 0));
    evidence.note_confirmed(NOW + 365 * DAY, at(NOW, 0));
    let reading = evidence.read(at(NOW, 0));
    assert_eq!((reading.now_ms, reading.doubt), (NOW, None));
    // Heard too long ago, it is no help.
    assert!(matches!(evidence.read(at(NOW + HOUR, 3601)).doubt, Some(Doubt::Behind { .. })));
}

#[test]
fn a_machine_that_is_minutes_fast_drags_nobody() {
    let mut evidence = evidence();
    evidence.note_confirmed(NOW + 9 * MINUTE, at(NOW, 0));
    assert_eq!(evidence.read(at(NOW, 0)).now_ms, NOW);
    let evidence = having_heard(&[NOW + 9 * MINUTE, NOW + 9 * MINUTE], at(NOW, 0));
    let reading = evidence.read(at(NOW, 0));
    assert_eq!((reading.now_ms, reading.doubt), (NOW, None));
}

#[test]
fn two_that_agree_outvote_this_machine() {
    let evidence = having_heard(&[NOW, NOW + MINUTE], at(NOW + DAY, 0));
    let reading = evidence.read(at(NOW + DAY, 0));
    assert_eq!((reading.now_ms, reading.earlier_ms()), (NOW, NOW));
    assert_eq!(reading.doubt, Some(Doubt::Outvoted { off_ms: DAY.cast_signed(), devices: 2 }));
    let text = reading.doubt.unwrap().to_string();
    assert!(text.contains("24 hours ahead of 2 other machines"), "{text}");
    // In the other direction, with a third that is nowhere.
    let evidence = having_heard(&[NOW, NOW + 5, NOW + 300 * DAY], at(NOW - DAY, 0));
    let reading = evidence.read(at(NOW - DAY, 0));
    assert_eq!(reading.now_ms, NOW);
    assert_eq!(reading.doubt, Some(Doubt::Outvoted { off_ms: -DAY.cast_signed(), devices: 2 }));
}

#[test]
fn two_that_are_more_than_a_minute_apart_decide_nothing() {
    let evidence = having_heard(&[NOW, NOW + MINUTE + 1], at(NOW + DAY, 0));
    let reading = evidence.read(at(NOW + DAY, 0));
    assert_eq!(reading.now_ms, NOW + DAY);
    assert_eq!(reading.doubt, Some(Doubt::Undecided { off_ms: DAY.cast_signed() }));
}

#[test]
fn one_other_machine_decides_nothing_and_both_say_so() {
    let ours = having_heard(&[NOW], at(NOW + DAY, 0)).read(at(NOW + DAY, 0));
    let theirs = having_heard(&[NOW + DAY], at(NOW, 0)).read(at(NOW, 0));
    assert_eq!((ours.now_ms, theirs.now_ms), (NOW + DAY, NOW));
    assert_eq!(ours.doubt, Some(Doubt::Undecided { off_ms: DAY.cast_signed() }));
    assert_eq!(theirs.doubt, Some(Doubt::Undecided { off_ms: -DAY.cast_signed() }));
    let text = theirs.doubt.unwrap().to_string();
    assert!(text.contains("24 hours behind that of another machine"), "{text}");
    // Within ten minutes there is nothing to say.
    let near = having_heard(&[NOW + 10 * MINUTE], at(NOW, 0)).read(at(NOW, 0));
    assert_eq!(near.doubt, None);
}

#[test]
fn as_many_on_either_side_decide_nothing() {
    let with_ours = having_heard(&[NOW, NOW + DAY, NOW + DAY], at(NOW, 0)).read(at(NOW, 0));
    assert_eq!((with_ours.now_ms, with_ours.doubt), (NOW, None), "two against two, ours among them");
    let elsewhere = [NOW, NOW, NOW + DAY, NOW + DAY];
    let reading = having_heard(&elsewhere, at(NOW + 2 * DAY, 0)).read(at(NOW + 2 * DAY, 0));
    assert_eq!(reading.now_ms, NOW + 2 * DAY);
    assert_eq!(reading.doubt, Some(Doubt::Undecided { off_ms: 2 * DAY.cast_signed() }));
    let more = having_heard(&[NOW, NOW + DAY, NOW + DAY, NOW + DAY], at(NOW, 0)).read(at(NOW, 0));
    assert_eq!(more.now_ms, NOW + DAY);
}

#[test]
fn what_was_heard_stays_right_when_this_clock_is_set_and_is_forgotten_after_an_hour() {
    let evidence = having_heard(&[NOW, NOW], at(NOW, 0));
    // Ten minutes later somebody sets our clock a year ahead.
    let reading = evidence.read(at(NOW + 365 * DAY, 600));
    assert_eq!(reading.now_ms, NOW + 10 * MINUTE);
    assert_eq!(evidence.read(at(NOW + 365 * DAY, 3600)).now_ms, NOW + HOUR);
    let reading = evidence.read(at(NOW + 365 * DAY, 3601));
    assert_eq!((reading.now_ms, reading.devices), (NOW + 365 * DAY, 0));
}

#[test]
fn somebody_must_vouch_once_there_was_somebody() {
    assert!(evidence().is_vouched_for(at(NOW, 0)), "there never was anybody");
    let evidence = having_heard(&[NOW], at(NOW, 0));
    assert!(evidence.is_vouched_for(at(NOW + 9 * MINUTE, 0)));
    assert!(!evidence.is_vouched_for(at(NOW + 200 * DAY, 0)));
    assert!(!evidence.is_vouched_for(at(NOW + HOUR, 3601)), "heard too long ago");
    // Theirs is what counts when they outvote ours.
    assert!(having_heard(&[NOW, NOW], at(NOW, 0)).is_vouched_for(at(NOW + 200 * DAY, 0)));
}

#[test]
fn machines_that_are_remembered_are_bounded() {
    let mut evidence = evidence();
    for n in 0..1_000_u16 {
        let mut device = [0; 32];
        device[..2].copy_from_slice(&n.to_le_bytes());
        evidence.hear(device, NOW, at(NOW, u64::from(n)));
    }
    assert_eq!(evidence.heard.len(), DEVICES_MAX);
    assert_eq!(evidence.read(at(NOW, 1_000)).devices, DEVICES_MAX);
}

#[test]
fn no_clock_makes_it_overflow() {
    for shown in [0, u64::MAX, u64::MAX - 1] {
        for own in [0, NOW, u64::MAX] {
            let evidence = having_heard(&[shown, shown], at(own, 0));
            let reading = evidence.read(at(own, 10));
            let _ = (evidence.is_vouched_for(at(own, 10)), reading.doubt.map(|doubt| doubt.to_string()));
        }
    }
}
