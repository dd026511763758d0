//! Parts that a root proves, and those who lie.

use super::*;

#[test]
fn a_liar_among_several_is_found_by_asking_one_alone() {
    let mut s = scheduler();
    let r = record(1, 6 * PART_BYTES);
    let mut open = Vec::new();
    for session in [A, B, C] {
        open.extend(s.announce(session, None, vec![r.clone()]));
    }
    let out = complete(&mut s, open);
    assert_eq!(out.last(), Some(&ScheduleDecision::Commit(key(&r), r.clone())));
    // B sent the most: it is asked alone, once what the others sent is gone.
    let givers = vec![(A, PART_BYTES), (B, 3 * PART_BYTES), (C, 2 * PART_BYTES)];
    let restrict = s.committed(key(&r), Committed::WrongFromSeveral(givers));
    assert_eq!(restrict, [ScheduleDecision::Restrict { key: key(&r), session: B }]);
    let again = s.restricted(key(&r), Ok(()));
    assert!(parts(&again).iter().all(|part| part.0 == B) && !parts(&again).is_empty(), "{again:?}");
    assert_eq!(s.standing(&r.hash).unwrap().only, Some(B));
    let out = complete(&mut s, again);
    assert_eq!(out.last(), Some(&ScheduleDecision::Commit(key(&r), r.clone())));
    // It was B.
    let out = s.committed(key(&r), Committed::WrongFrom(Some(B)));
    assert!(out.iter().any(|d| matches!(d, ScheduleDecision::Failed { session: B, .. })), "{out:?}");
    assert!(parts(&out).iter().all(|part| part.0 != B), "{out:?}");
    // Again one of the two others. It leaves, and the last one is asked alone, once its place is clean.
    let mixed = complete(&mut s, out);
    assert_eq!(mixed.last(), Some(&ScheduleDecision::Commit(key(&r), r.clone())));
    s.committed(key(&r), Committed::WrongFromSeveral(vec![(A, 2 * PART_BYTES)]));
    assert_eq!(s.session_ended(A), [ScheduleDecision::Restrict { key: key(&r), session: C }]);
    let out = s.restricted(key(&r), Ok(()));
    let out = complete(&mut s, out);
    assert_eq!(out.last(), Some(&ScheduleDecision::Commit(key(&r), r.clone())));
    let told = s.committed(key(&r), Committed::Stored);
    assert_eq!(told, [ScheduleDecision::Settled { session: C, keys: vec![key(&r)] }]);
    assert_eq!((s.missing(), s.in_flight), ((0, 0), 0));
}

/// A large one, as a source with this root has it.
fn rooted(n: u32, size: u64, root: u8) -> AssetRecord {
    AssetRecord { blake3: Some([root; 32]), ..record(n, size) }
}

/// Who is asked for parts, and for which root.
fn asked_for(decisions: &[ScheduleDecision]) -> BTreeSet<(SessionId, Option<u8>)> {
    let asked = decisions.iter().filter_map(|decision| match decision {
        ScheduleDecision::FetchPart { session, root, .. } => Some((*session, root.map(|root| root[0]))),
        _ => None,
    });
    asked.collect()
}

fn requests_of(decisions: &[ScheduleDecision], of: SessionId) -> Vec<u64> {
    let theirs = decisions.iter().filter_map(|decision| match decision {
        ScheduleDecision::FetchPart { session, request, .. } if *session == of => Some(*request),
        _ => None,
    });
    theirs.collect()
}

fn false_proof() -> Result<(), FetchFailure> {
    Err(FetchFailure::FalseProof("it leads to another one".into()))
}

#[test]
fn with_a_root_even_a_small_one_comes_in_parts_that_are_proved() {
    let mut s = scheduler();
    let asked = s.announce(A, None, vec![rooted(1, 100_000, 7)]);
    assert_eq!(asked_for(&asked), BTreeSet::from([(A, Some(7))]));
    // What fits into a pack stays in one.
    let small = s.announce(A, None, vec![rooted(2, 60_000, 7)]);
    assert_eq!(fetched(&small), [(A, key(&record(2, 60_000)))]);
}

#[test]
fn one_that_proves_nothing_is_not_asked_while_others_do() {
    let mut s = scheduler();
    let r = rooted(1, 6 * PART_BYTES, 7);
    let first = s.announce(A, None, vec![r.clone()]);
    assert_eq!(asked_for(&s.announce(B, None, vec![record(1, r.size)])), BTreeSet::new());
    // An external store, say, though its record has a root.
    let request = requests_of(&first, A)[0];
    let second = s.announce(C, None, vec![r.clone()]);
    assert_eq!(asked_for(&second), BTreeSet::from([(C, Some(7))]));
    let failed = s.part_finished(A, request, Err(FetchFailure::NoProof("none".into())));
    assert!(asked_for(&failed).iter().all(|(session, root)| (*session, *root) == (C, Some(7))), "{failed:?}");
    // Once the last one that proves anything is gone, it comes as of old, from all at once, for nobody said anything wrong.
    let gone = s.session_ended(C);
    assert!(gone.contains(&ScheduleDecision::Restart(key(&r))), "{gone:?}");
    let again = s.restricted(key(&r), Ok(()));
    assert_eq!(asked_for(&again), BTreeSet::from([(A, None), (B, None)]));
}

#[test]
fn who_cannot_prove_what_another_one_proved_lied() {
    let mut s = scheduler();
    let r = rooted(1, 30 * PART_BYTES, 7);
    let (of_a, of_b) = (s.announce(A, None, vec![r.clone()]), s.announce(B, None, vec![r.clone()]));
    let (first, second) = (requests_of(&of_a, A)[0], requests_of(&of_b, B)[0]);
    // Whose fault it is shows once the other one proved something.
    let doubted = s.part_finished(B, second, false_proof());
    assert!(!doubted.iter().any(|d| matches!(d, ScheduleDecision::Lied { .. })), "{doubted:?}");
    let proved = s.part_finished(A, first, Ok(()));
    let lied = |d: &ScheduleDecision| matches!(d, ScheduleDecision::Lied { session: B, .. });
    assert!(proved.iter().any(lied), "{proved:?}");
    // And at once after that.
    let third = requests_of(&s.announce(C, None, vec![r.clone()]), C)[0];
    let late = s.part_finished(C, third, false_proof());
    assert!(late.iter().any(|d| matches!(d, ScheduleDecision::Lied { session: C, .. })), "{late:?}");
    assert_eq!(s.standing(&r.hash).unwrap().sources, [A]);
}

#[test]
fn a_record_with_a_wrong_root_comes_from_one_source_at_a_time_and_nobody_is_distrusted() {
    let mut s = scheduler();
    let r = rooted(1, 2 * PART_BYTES, 9);
    let asked = s.announce(A, None, vec![r.clone()]);
    let found = s.part_finished(A, requests_of(&asked, A)[0], false_proof());
    assert!(found.contains(&ScheduleDecision::Restart(key(&r))), "{found:?}");
    assert_eq!(asked_for(&s.announce(B, None, vec![record(1, r.size)])), BTreeSet::new());
    let whole = s.restricted(key(&r), Ok(()));
    assert_eq!(asked_for(&whole), BTreeSet::from([(A, None)]), "and from nobody else");
    for request in requests_of(&whole, A) {
        s.part_finished(A, request, Ok(()));
    }
    // Also where it is taken once more, since it was spoilt here.
    let again = s.committed(key(&r), Committed::Again);
    assert_eq!(again, [ScheduleDecision::Restrict { key: key(&r), session: A }]);
    let whole = s.restricted(key(&r), Ok(()));
    assert_eq!(asked_for(&whole), BTreeSet::from([(A, None)]));
    for request in requests_of(&whole, A) {
        s.part_finished(A, request, Ok(()));
    }
    let stored = s.committed(key(&r), Committed::Stored);
    assert!(stored.contains(&ScheduleDecision::Misnamed { session: A, key: key(&r) }), "{stored:?}");
    assert!(
        !stored.iter().any(|d| matches!(d, ScheduleDecision::Lied { .. } | ScheduleDecision::Failed { .. }))
    );
    assert_eq!(s.missing(), (0, 0));
}

#[test]
fn what_most_sources_say_is_taken_for_true() {
    let mut s = scheduler();
    let r = rooted(1, 6 * PART_BYTES, 7);
    // The first one says something else, and is asked as long as it is as good as another.
    let first = s.announce(A, None, vec![rooted(1, r.size, 9)]);
    assert_eq!(asked_for(&first), BTreeSet::from([(A, Some(9))]));
    assert_eq!(s.announce(B, None, vec![r.clone()]), []);
    let third = s.announce(C, None, vec![r.clone()]);
    assert!(third.contains(&ScheduleDecision::Restart(key(&r))), "{third:?}");
    assert_eq!(revoked(&third).len(), requests_of(&first, A).len());
    let again = s.restricted(key(&r), Ok(()));
    assert_eq!(asked_for(&again), BTreeSet::from([(B, Some(7)), (C, Some(7))]));
}

#[test]
fn a_root_that_comes_later_counts_for_what_has_not_begun() {
    let (plain, rooted) = (record(1, 4 * PART_BYTES), rooted(1, 4 * PART_BYTES, 7));
    let mut s = scheduler();
    s.announce(A, None, vec![plain.clone()]);
    let second = s.announce(B, None, vec![rooted.clone()]);
    assert!(!second.contains(&ScheduleDecision::Restart(key(&plain))), "it goes on: {second:?}");
    let mut s = scheduler();
    s.pause();
    s.announce(A, None, vec![plain.clone()]);
    assert_eq!(s.announce(B, None, vec![rooted]), [ScheduleDecision::Restart(key(&plain))]);
    s.resume();
    assert_eq!(asked_for(&s.restricted(key(&plain), Ok(()))), BTreeSet::from([(B, Some(7))]));
}

/// A says one root of a content of four parts, and so many of them are here, when B and C say another one.
fn outvoted_with(here: usize) -> (Scheduler, AssetRecord, Vec<ScheduleDecision>) {
    let mut s = scheduler();
    let r = rooted(1, 4 * PART_BYTES, 9);
    let asked = s.announce(A, None, vec![r.clone()]);
    for request in &requests_of(&asked, A)[..here] {
        s.part_finished(A, *request, Ok(()));
    }
    let out = [B, C].map(|session| s.announce(session, None, vec![rooted(1, r.size, 7)])).concat();
    (s, r, out)
}

#[test]
fn what_is_half_here_goes_on_whatever_most_say_while_somebody_says_so() {
    for (here, is_begun_anew) in [(1, true), (2, false), (3, false)] {
        let (mut s, r, out) = outvoted_with(here);
        let restart = ScheduleDecision::Restart(key(&r));
        assert_eq!(out.contains(&restart), is_begun_anew, "{here}: {out:?}");
        // Once nobody does any more, it is begun anew however much of it is here.
        assert_eq!(s.session_ended(A).contains(&restart), !is_begun_anew, "{here}");
    }
    // What is all here is stored, whoever left meanwhile.
    let (mut s, r, _) = outvoted_with(4);
    assert!(!s.session_ended(A).contains(&ScheduleDecision::Restart(key(&r))));
    assert!(s.standing(&r.hash).unwrap().is_complete);
}

#[test]
fn a_content_is_not_begun_anew_for_ever() {
    let (mut s, r, out) = outvoted_with(0);
    let restart = ScheduleDecision::Restart(key(&r));
    assert!(out.contains(&restart));
    // Two more at a time say the other one again.
    let mut begun = 1;
    for n in 0..20 {
        s.restricted(key(&r), Ok(()));
        let root = if n / 2 % 2 == 0 { 9 } else { 7 };
        let out = s.announce(SessionId(10 + n), None, vec![rooted(1, r.size, root)]);
        begun += usize::from(out.contains(&restart));
    }
    assert_eq!(begun, 4);
}

#[test]
fn who_lies_about_what_was_proved_is_known_also_where_it_comes_once_more() {
    let mut s = scheduler();
    let r = rooted(1, 4 * PART_BYTES, 7);
    let asked = s.announce(A, None, vec![r.clone()]);
    for request in requests_of(&asked, A) {
        s.part_finished(A, request, Ok(()));
    }
    s.announce(B, None, vec![r.clone()]);
    let again = s.committed(key(&r), Committed::Again);
    let lied = s.part_finished(B, requests_of(&again, B)[0], false_proof());
    assert!(lied.iter().any(|d| matches!(d, ScheduleDecision::Lied { session: B, .. })), "{lied:?}");
}

#[test]
fn what_could_not_be_proved_or_was_wrong_is_not_believed_again() {
    let [seven, nine] = [[7; 32], [9; 32]];
    let mut claims = RootClaims::default();
    for (session, root) in [(A, seven), (B, nine), (C, nine)] {
        claims.add(session, Some(root));
    }
    assert_eq!((claims.best(None), claims.count(&nine), claims.were_wrong()), (Some(nine), 2, false));
    assert_eq!(claims.others_than(Some(nine)), [A]);
    claims.doubt(B, nine);
    claims.remove(B);
    claims.add(B, Some(seven));
    claims.add(A, Some(seven));
    assert_eq!((claims.of(A), claims.of(B), claims.of(C)), (Some(seven), None, Some(nine)));
    assert_eq!((claims.doubted(&nine), claims.were_wrong()), (vec![B], true));
    assert_eq!(claims.others_than(Some(seven)), [C, B], "B said it, whatever it could prove");
    claims.forget(A);
    assert_eq!((claims.of(A), claims.doubted(&nine)), (None, vec![B]));
    claims.forget(B);
    assert_eq!(claims.doubted(&nine), []);

    let mut claims = RootClaims::default();
    claims.add(A, Some(nine));
    claims.refute(nine);
    claims.add(B, Some(nine));
    assert_eq!((claims.of(A), claims.of(B), claims.were_wrong()), (None, None, true));
    claims.add(B, Some(seven));
    assert_eq!(claims.of(B), Some(seven));
}

#[test]
fn a_root_of_another_content_is_not_taken_twice() {
    let mut s = scheduler();
    let r = rooted(1, 2 * PART_BYTES, 9);
    let asked = s.announce(A, None, vec![r.clone()]);
    s.announce(B, None, vec![rooted(1, r.size, 7)]);
    for request in requests_of(&asked, A) {
        s.part_finished(A, request, Ok(()));
    }
    let wrong = s.committed(key(&r), Committed::WrongRoot(vec![A]));
    let failed = |d: &ScheduleDecision| matches!(d, ScheduleDecision::Failed { session: A, .. });
    assert!(wrong.iter().any(failed), "{wrong:?}");
    assert_eq!(asked_for(&s.restricted(key(&r), Ok(()))), BTreeSet::from([(B, Some(7))]));
    // Another one that says the same is one that proves nothing.
    assert_eq!(asked_for(&s.announce(C, None, vec![r.clone()])), BTreeSet::new());
}
