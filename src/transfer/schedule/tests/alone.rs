//! Contents that one source alone gives, since wrong bytes came from one of several.

use super::*;

#[test]
fn one_that_is_much_sooner_done_with_all_of_it_takes_the_place_of_a_slow_one() {
    // B needs 16.8 s for all of it at 10 MB/s. What A would need counts twice, and a second more.
    for (of_a, is_replaced) in [(22_000_000.0, true), (21_000_000.0, false), (10_000_000.0, false)] {
        let mut s = scheduler();
        let r = record(1, 20 * PART_BYTES);
        let open = [A, B].map(|session| s.announce(session, None, vec![r.clone()])).concat();
        complete(&mut s, open);
        let restrict_to = |session| ScheduleDecision::Restrict { key: key(&r), session };
        let mut set_rate = |session, rate| s.sources.get_mut(&session).unwrap().rate = rate;
        set_rate(A, 1.0);
        set_rate(B, 10_000_000.0);
        assert_eq!(s.committed(key(&r), Committed::WrongFromSeveral(Vec::new())), [restrict_to(B)]);
        s.restricted(key(&r), Ok(()));
        s.sources.get_mut(&A).unwrap().rate = of_a;
        let out = s.tick(s.now, []);
        assert_eq!(out.contains(&restrict_to(A)), is_replaced, "{of_a}: {out:?}");
    }
}

#[test]
fn who_is_asked_alone_and_sends_nothing_does_not_keep_it_from_the_others() {
    let mut s = scheduler();
    let r = record(1, 20 * PART_BYTES);
    let open = [A, B].map(|session| s.announce(session, None, vec![r.clone()])).concat();
    run(&mut s, 3, &[(A, 5_000_000), (B, 4_000_000)]);
    complete(&mut s, open);
    s.announce(C, None, vec![r.clone()]);
    let restrict_to = |session| ScheduleDecision::Restrict { key: key(&r), session };
    let givers = vec![(A, 10 * PART_BYTES), (B, 10 * PART_BYTES)];
    assert_eq!(
        s.committed(key(&r), Committed::WrongFromSeveral(givers)),
        [restrict_to(C)],
        "the best is hoped of who has sent nothing yet"
    );
    s.restricted(key(&r), Ok(()));
    let out = run(&mut s, 7, &[(C, 0)]);
    assert_eq!(out.last(), Some(&restrict_to(A)), "{out:?}");
    assert_eq!(out.len(), revoked(&out).len() + 1);
    let asked = parts(&s.restricted(key(&r), Ok(())));
    assert!(!asked.is_empty() && asked.iter().all(|part| part.0 == A), "{asked:?}");
    // It has had its chance.
    assert_eq!(run(&mut s, 20, &[(A, 50_000_000)]), []);
}
