//! Large assets: in parts, from all who have them.

use std::collections::VecDeque;

use super::*;

#[test]
fn a_large_asset_comes_in_parts_from_all_who_have_it() {
    let mut s = scheduler();
    let r = record(1, 10 * PART_BYTES + 5);
    s.announce(C, None, vec![record(2, 100_000), record(3, 10)]);
    assert!(!s.compares_speeds(), "of whole ones each has one source");
    s.session_ended(C);
    let of_a = parts(&s.announce(A, None, vec![r.clone()]));
    assert!(s.compares_speeds());
    assert_eq!(of_a.iter().map(|part| part.2.start / PART_BYTES).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    let of_b = parts(&s.announce(B, None, vec![r.clone()]));
    assert_eq!(of_b.iter().map(|part| part.2.start / PART_BYTES).collect::<Vec<_>>(), [5, 6, 7, 8, 9]);
    assert_eq!(s.missing(), (1, r.size));
    let (session, request, _) = of_b[0].clone();
    let last = parts(&s.part_finished(session, request, Ok(())));
    assert_eq!((last[0].0, last[0].2.clone()), (B, 10 * PART_BYTES..r.size));
    assert_eq!(s.missing(), (1, r.size - PART_BYTES));
    // What one cannot give, the other is asked for.
    let moved = s.part_finished(A, of_a[0].1, Err(FetchFailure::Source("gone".into())));
    assert_eq!(revoked(&moved).len(), 4, "it is not asked for the others either: {moved:?}");
    let mut open = [&of_b[1..], &last[..], &parts(&moved)[..]].concat();
    let mut commit = Vec::new();
    while let Some((session, request, _)) = open.pop() {
        assert_eq!(session, B);
        assert!(commit.is_empty(), "{commit:?}");
        let decisions = s.part_finished(B, request, Ok(()));
        open.extend(parts(&decisions));
        commit = decisions.into_iter().filter(|d| matches!(d, ScheduleDecision::Commit(..))).collect();
    }
    assert_eq!(commit, [ScheduleDecision::Commit(key(&r), r.clone())]);
    assert_eq!(s.missing(), (1, 0));
    assert!(s.standing(&r.hash).unwrap().is_complete);
    assert_eq!(
        s.committed(key(&r), Committed::Stored),
        [ScheduleDecision::Settled { session: B, keys: vec![key(&r)] }]
    );
    assert_eq!((s.missing(), s.in_flight, s.flights.len()), ((0, 0), 0, 0));
    assert!(!s.compares_speeds());
}

#[test]
fn who_has_nothing_left_to_do_helps_a_slow_one() {
    let mut s = scheduler();
    let r = record(1, 6 * PART_BYTES);
    let slow = parts(&s.announce(A, None, vec![r.clone()]));
    let mut fast = parts(&s.announce(B, None, vec![r.clone()]));
    assert_eq!((slow.len(), fast.len()), (5, 1));
    // Nobody knows yet who is fast.
    assert_eq!(run(&mut s, 1, &[(A, 1_000_000), (B, 100_000_000)]), []);
    let out = run(&mut s, 2, &[(A, 1_000_000), (B, 100_000_000)]);
    fast.extend(parts(&out));
    assert_eq!(fast.len(), 5, "as many as it may have: {out:?}");
    let starts: BTreeSet<u64> = fast.iter().map(|part| part.2.start).collect();
    assert_eq!(starts.len(), 5, "and none of them twice: {fast:?}");
    // One part at a time has the two of them; the first has done it for both.
    let (_, request, range) = fast[1].clone();
    let done = s.part_finished(B, request, Ok(()));
    let loser = slow.iter().find(|part| part.2 == range).unwrap();
    assert_eq!(revoked(&done), [(A, loser.1)]);
    assert_eq!(s.part_finished(A, loser.1, Ok(())), [], "too late");
}

/// Has what B was asked for arrive, one part every 100 ms, until `end` says that it is enough. Where nothing is asked of B, a
/// second passes.
fn give_as_b(
    s: &mut Scheduler,
    open: &mut VecDeque<(u64, Range<u64>)>,
    mut end: impl FnMut(&Range<u64>, &[ScheduleDecision]) -> bool,
) -> Vec<ScheduleDecision> {
    loop {
        let (range, decisions) = if let Some((request, range)) = open.pop_front() {
            s.advance(s.now + Duration::from_millis(100));
            (range, s.part_finished(B, request, Ok(())))
        } else {
            (0..0, s.tick(s.now + Duration::from_secs(1), []))
        };
        let new = parts(&decisions).into_iter().filter(|part| part.0 == B);
        open.extend(new.map(|(_, request, range)| (request, range)));
        if end(&range, &decisions) {
            return decisions;
        }
    }
}

#[test]
fn a_gap_is_closed_by_who_is_faster_and_who_left_it_goes_on_at_the_end() {
    let mut s = scheduler();
    let r = record(1, 60 * PART_BYTES);
    let of_a = parts(&s.announce(A, None, vec![r.clone()]));
    let of_b = parts(&s.announce(B, None, vec![r.clone()]));
    let mut open: VecDeque<_> = of_b.into_iter().map(|(_, request, range)| (request, range)).collect();
    // As long as A may be as fast as B, nothing is asked for twice.
    let mut count = 0;
    give_as_b(&mut s, &mut open, |_, decisions| {
        count += 1;
        parts(decisions).iter().any(|part| part.2.start == 0)
    });
    assert!((5..30).contains(&count), "after {count} parts of B");
    let closed = give_as_b(&mut s, &mut open, |range, _| range.start == 0);
    assert_eq!(revoked(&closed), [(A, of_a[0].1)]);
    let last = parts(&closed).into_iter().find(|part| part.0 == A).expect("A goes on");
    assert_eq!(last.2.end, r.size);
    // A has sent one part, and is asked for the first of what is left again.
    let again = parts(&s.part_finished(A, last.1, Ok(())));
    assert_eq!(again.len(), 1);
    assert!(again[0].2.end < r.size - 20 * PART_BYTES, "{again:?}");
    give_as_b(&mut s, &mut open, |_, decisions| {
        decisions.iter().any(|d| matches!(d, ScheduleDecision::Commit(..)))
    });
    assert_eq!(s.missing(), (1, 0));
}

#[test]
fn who_comes_late_and_finds_nothing_free_shows_how_fast_it_is() {
    let mut s = scheduler();
    let r = record(1, 5 * PART_BYTES);
    s.announce(A, None, vec![r.clone()]);
    assert_eq!(s.announce(B, None, vec![r.clone()]), []);
    let out = run(&mut s, 3, &[(A, 1_000_000), (B, 0)]);
    assert_eq!(parts(&out).iter().map(|part| part.0).collect::<Vec<_>>(), [B], "{out:?}");
}

#[test]
fn a_part_is_asked_of_another_source_where_that_is_done_much_sooner() {
    const MIB: f64 = 1_048_576.0;
    // Rates of the two, 0 where none is known; for how long A has been asked; whether B is asked, too. A takes 16 s for both parts at
    // 1 MiB/s, and B 8 s for one.
    for (of_a, of_b, secs, is_asked) in [
        (1.0, 100.0, 0.0, true),
        (1.0, 1.1, 0.0, true),
        (1.0, 1.05, 0.0, false),
        (1.0, 1.0, 0.0, false),
        (1.0, 2.0, 6.5, true),
        (1.0, 2.0, 7.5, false),
        // One try shows how fast it is.
        (1.0, 0.0, 13.5, true),
        (1.0, 0.0, 14.5, false),
        (0.0, 0.0, 0.5, false),
        (0.0, 0.0, 1.5, true),
    ] {
        let mut s = scheduler();
        let r = record(1, 2 * PART_BYTES);
        s.announce(A, None, vec![r.clone()]);
        s.pause();
        s.announce(B, None, vec![r.clone()]);
        for (session, rate) in [(A, of_a), (B, of_b)] {
            s.sources.get_mut(&session).unwrap().rate = rate * MIB;
        }
        s.advance(s.now + Duration::from_secs_f64(secs));
        assert_eq!(!parts(&s.resume()).is_empty(), is_asked, "{of_a} {of_b} {secs}");
    }
}

#[test]
fn what_cannot_be_taken_here_is_said_to_all_who_have_it() {
    let mut s = scheduler();
    let r = record(1, 2 * PART_BYTES);
    let open = [A, B].map(|session| s.announce(session, None, vec![r.clone()])).concat();
    complete(&mut s, open);
    let reason = "larger than the disk".to_owned();
    let failed = s.committed(key(&r), Committed::NotTaken(FetchFailure::Asset(reason.clone())));
    let expected =
        [A, B].map(|session| ScheduleDecision::Failed { session, key: key(&r), reason: reason.clone() });
    assert_eq!((failed, s.missing()), (expected.to_vec(), (0, 0)));
}

#[test]
fn what_was_spoilt_here_comes_once_more_from_all() {
    let mut s = scheduler();
    let r = record(1, 2 * PART_BYTES);
    let open = [A, B].map(|session| s.announce(session, None, vec![r.clone()])).concat();
    complete(&mut s, open);
    let again = parts(&s.committed(key(&r), Committed::Again));
    assert_eq!(again.iter().map(|part| part.0).collect::<Vec<_>>(), [A, B]);
    assert_eq!(s.missing(), (1, r.size));
}

#[test]
fn equals_do_not_do_the_same_work_twice() {
    let mut s = scheduler();
    let r = record(1, 6 * PART_BYTES);
    s.announce(A, None, vec![r.clone()]);
    s.announce(B, None, vec![r.clone()]);
    assert_eq!(run(&mut s, 3, &[(A, 10_000_000), (B, 15_000_000)]), []);
}

#[test]
fn who_sends_nothing_loses_what_others_have_and_keeps_the_rest_for_a_while() {
    let mut s = scheduler();
    let (shared, alone) = (record(1, 1_000_000), record(2, 1_000_000));
    s.announce(A, None, vec![shared.clone(), alone.clone()]);
    s.announce(B, None, vec![shared.clone()]);
    assert_eq!(fetched(&run(&mut s, 4, &[(A, 0), (B, 0)])), []);
    let out = run(&mut s, 3, &[(A, 0), (B, 0)]);
    assert_eq!((revoked(&out).len(), fetched(&out)), (1, vec![(B, key(&shared))]));
    let out = run(&mut s, 30, &[(A, 0), (B, 1_000_000)]);
    assert!(
        out.iter()
            .any(|d| matches!(d, ScheduleDecision::Failed { session: A, key: failed, .. } if *failed == key(&alone))),
        "{out:?}"
    );
    assert_eq!(s.missing(), (1, 1_000_000));
}

#[test]
fn who_only_pretends_to_send_is_no_source() {
    let mut s = scheduler();
    let (small, large) = (record(1, 1_000), record(2, 5 * PART_BYTES));
    s.announce(A, None, vec![small.clone(), large.clone()]);
    let out = run(&mut s, 7, &[(A, 1)]);
    let failed = out.iter().filter(|d| matches!(d, ScheduleDecision::Failed { session: A, .. })).count();
    assert_eq!((failed, s.missing(), s.in_flight), (2, (0, 0), 0), "{out:?}");
    // It is not asked again for a moment, then it is.
    assert_eq!(s.announce(A, None, vec![small.clone()]), []);
    assert_eq!(fetched(&run(&mut s, 15, &[(A, 0)])), [(A, key(&small))]);
}

#[test]
fn nobody_is_blamed_for_what_waits_here() {
    let mut s = scheduler();
    s.announce(A, None, vec![record(1, 1_000)]);
    let start = s.now;
    for second in 0..60 {
        let held = SourceProgress { received: 0, held_here: true };
        assert_eq!(s.tick(start + Duration::from_secs(second), [(A, held)]), []);
    }
}

#[test]
fn who_is_slow_does_not_stay_the_only_source() {
    let mut s = scheduler();
    let r = record(1, 60 * PART_BYTES);
    let mut open = Vec::new();
    for session in [A, B, C] {
        open.extend(s.announce(session, None, vec![r.clone()]));
    }
    // A is known to be slow; the others have been too fast to be measured.
    run(&mut s, 2, &[(A, 1_000_000)]);
    for source in s.sources.values_mut().skip(1) {
        source.rate = 0.0;
    }
    complete(&mut s, open);
    let restrict =
        s.committed(key(&r), Committed::WrongFromSeveral(vec![(A, PART_BYTES), (B, 9 * PART_BYTES)]));
    assert_eq!(
        restrict,
        [ScheduleDecision::Restrict { key: key(&r), session: B }],
        "the best is hoped of the others"
    );
    s.restricted(key(&r), Ok(()));
    // B turns out to be slow as well: C has its chance. It is slower still, and the fastest of those known is asked.
    let restricts = |out: &[ScheduleDecision]| {
        let to = |d: &ScheduleDecision| match d {
            ScheduleDecision::Restrict { session, .. } => Some(*session),
            _ => None,
        };
        out.iter().filter_map(to).collect::<Vec<_>>()
    };
    assert_eq!(restricts(&run(&mut s, 3, &[(B, 5_000_000)])), [C]);
    s.restricted(key(&r), Ok(()));
    assert_eq!(restricts(&run(&mut s, 3, &[(C, 200_000)])), [B], "known to be faster by far");
    s.restricted(key(&r), Ok(()));
    // A peer that comes now has not been tried, but most of it is here: nothing is thrown away for it.
    let only = parts(&s.tick(s.now, []));
    let mut open: Vec<_> = only;
    for _ in 0..20 {
        let flying = s.flights.iter().map(|(request, flight)| (flight.session, *request)).collect::<Vec<_>>();
        for (session, request) in flying {
            open.extend(parts(&s.part_finished(session, request, Ok(()))));
        }
        if s.missing().1 < r.size / 2 {
            break;
        }
    }
    let late = SessionId(9);
    s.announce(late, None, vec![r.clone()]);
    assert_eq!(restricts(&run(&mut s, 3, &[(B, 5_000_000)])), []);
}
