//! What is asked for, of whom, and in which order.

use super::*;

#[test]
fn one_source_is_asked_and_all_are_told() {
    let mut s = scheduler();
    let r = record(1, 10);
    assert_eq!(fetched(&s.announce(A, None, vec![r.clone()])), [(A, key(&r))]);
    assert_eq!(s.announce(B, None, vec![r.clone()]), [], "already on its way");
    let told = s.finished(A, [(key(&r), Ok(()))]);
    assert_eq!(
        told,
        [A, B].map(|session| ScheduleDecision::Settled { session, keys: vec![key(&r)] }),
        "both may confirm"
    );
    assert_eq!(s.missing(), (0, 0));
}

#[test]
fn another_source_is_asked_when_one_fails_or_leaves() {
    let mut s = scheduler();
    let r = record(1, 10);
    s.announce(A, None, vec![r.clone()]);
    s.announce(B, None, vec![r.clone()]);
    let decisions = s.finished(A, [(key(&r), Err(FetchFailure::Source("wrong bytes".into())))]);
    assert!(matches!(&decisions[0], ScheduleDecision::Failed { session: A, .. }));
    assert_eq!(fetched(&decisions), [(B, key(&r))]);
    s.announce(A, None, vec![r.clone()]);
    assert_eq!(fetched(&s.session_ended(B)), [(A, key(&r))]);
    assert_eq!(s.session_ended(A), []);
    assert_eq!(s.missing(), (0, 0), "nobody has it any more");
}

#[test]
fn a_failing_store_pauses_everything_and_loses_nothing() {
    let mut s = scheduler();
    let (r, other) = (record(1, 10), record(2, 10));
    s.announce(A, None, vec![r.clone()]);
    assert_eq!(s.finished(A, [(key(&r), Err(FetchFailure::Store("disk full".into())))]), []);
    assert_eq!(s.announce(A, None, vec![other.clone()]), []);
    let all = fetched(&s.resume());
    assert_eq!(all, [(A, key(&r)), (A, key(&other))]);
    s.pause();
    assert_eq!(s.announce(B, None, vec![record(3, 10)]), [], "nor while somebody wants it so");
    assert_eq!(fetched(&s.resume()).len(), 1);
}

#[test]
fn small_assets_travel_in_packs_past_large_ones() {
    let mut s = scheduler();
    let large: Vec<_> = (0..100).map(|n| record(n, 1 << 20)).collect();
    let first = s.announce(A, None, large);
    assert!((4..=8).contains(&first.len()), "{}", first.len());
    let small: Vec<_> = (1000..1100).map(|n| record(n, 100)).collect();
    let packs = s.announce(A, None, small);
    assert_eq!(packs.len(), 1, "one request");
    assert_eq!(fetched(&packs).len(), 100);
}

#[test]
fn a_request_has_a_limited_number_of_contents_and_bytes_of_one_library_and_each_content_once() {
    let packs = |decisions: Vec<ScheduleDecision>| -> Vec<usize> {
        let pack = |decision: &ScheduleDecision| fetched(std::slice::from_ref(decision)).len();
        decisions.iter().map(pack).collect()
    };
    let many = (0..1_000).map(|n| record(n, 10)).collect();
    assert_eq!(packs(scheduler().announce(A, None, many)), [PACK_ASSETS, 1_000 - PACK_ASSETS]);
    let large = (0..40).map(|n| record(n, SMALL_BYTES_MAX)).collect();
    assert_eq!(packs(scheduler().announce(A, None, large)), [32, 8]);
    let mut s = scheduler();
    s.pause();
    s.announce(A, None, vec![record(1, 10), record(2, 10)]);
    s.announce(A, None, vec![record(2, 12), record(3, 10)]);
    s.announce(A, Some(LibraryId([1; 32])), vec![record(4, 10), record(5, 10)]);
    assert_eq!(packs(s.resume()), [2; 3]);
}

#[test]
fn a_source_has_a_limited_number_of_requests_at_once() {
    let mut s = scheduler();
    s.pause();
    for n in 0..20 {
        s.announce(A, Some(LibraryId([n; 32])), vec![record(n.into(), 10)]);
    }
    assert_eq!(s.resume().len(), 16);
    let mut s = Scheduler::new(ScheduleLimits { peer_bytes: 60 << 20, ..LIMITS }, Instant::now());
    assert_eq!(s.announce(A, None, vec![record(1, 30 * PART_BYTES)]).len(), 8);
    let small = s.announce(A, None, vec![record(2, 10)]);
    assert_eq!(fetched(&small), [(A, key(&record(2, 10)))], "large ones leave room for it");
}

#[test]
fn what_is_wanted_is_told_with_what_is_on_its_way_first() {
    let mut s = scheduler();
    let (small, large) = (record(1, 10), record(2, 2 * PART_BYTES));
    let report = |s: &Scheduler| -> Vec<(WantKey, Option<SessionId>, bool)> {
        s.report(9).into_iter().map(|wanted| (wanted.key, wanted.session, wanted.started)).collect()
    };
    s.pause();
    s.announce(A, None, vec![small.clone(), large.clone()]);
    assert_eq!(report(&s), [(key(&small), Some(A), false), (key(&large), Some(A), false)]);
    assert_eq!(s.standing(&large.hash).unwrap().asked, []);
    let open = s.resume();
    s.pause();
    s.announce(B, None, vec![small.clone()]);
    s.announce(B, None, vec![record(0, 10)]);
    let expected =
        [(key(&small), Some(A), true), (key(&large), Some(A), true), (key(&record(0, 10)), Some(B), false)];
    assert_eq!(report(&s), expected);
    let standing = s.standing(&small.hash).unwrap();
    assert_eq!((standing.sources, standing.asked), (vec![A, B], vec![A]));
    // What is here and not stored yet is on its way.
    complete(&mut s, open);
    assert_eq!(report(&s)[1], (key(&large), Some(A), true));
    assert!(s.wants(&small.hash) && !s.wants(&record(7, 10).hash));
    assert!(s.wants_for(&key(&small)) && !s.wants_for(&key(&record(1, 11))));
}

#[test]
fn what_a_user_wants_now_is_asked_for_next() {
    let mut s = scheduler();
    let records: Vec<_> = (0..100).map(|n| record(n, 1 << 20)).collect();
    let under_way = fetched(&s.announce(A, None, records.clone()));
    let wanted = records[99].hash;
    assert_eq!(s.prefer(wanted), [], "there is no room yet");
    assert_eq!(fetched(&s.finished(A, [(under_way[0].1, Ok(()))])), [(A, key(&records[99]))]);
    assert_eq!(s.prefer(wanted), [], "it is under way");
    assert_eq!(s.prefer(ContentHash([9; 32])), [], "nobody has it");
}

#[test]
fn a_size_that_somebody_says_counts_for_no_other() {
    let mut s = scheduler();
    s.announce(A, None, vec![record(1, 10)]);
    let asked = fetched(&s.announce(B, None, vec![record(1, 12)]));
    assert_eq!(asked, [(B, key(&record(1, 12)))], "a lie does not keep the truth away");
    assert_eq!(s.missing(), (2, 22));
}

#[test]
fn a_library_has_sources_and_records_of_its_own() {
    let mut s = scheduler();
    let (library, r) = (Some(LibraryId([1; 32])), record(1, 10));
    let newest = AssetRecord { hlc: crate::record::Hlc(u64::MAX), ..r.clone() };
    let asked = fetched(&s.announce(A, library, vec![newest.clone()]));
    assert_eq!(asked, [(A, WantKey::new(library, &newest))]);
    let own = s.announce(B, None, vec![r.clone()]);
    let records = |decision: &ScheduleDecision| match decision {
        ScheduleDecision::Fetch { session: B, library: None, records, .. } => records.clone(),
        _ => panic!("{decision:?}"),
    };
    assert_eq!(records(&own[0]), std::slice::from_ref(&r), "under the record that an own machine has of it");
    let told = s.finished(B, [(key(&r), Ok(()))]);
    assert_eq!(told, [ScheduleDecision::Settled { session: B, keys: vec![key(&r)] }]);
    assert!(s.wants_for(&WantKey::new(library, &r)), "the library has yet to deliver it");
    // One request is about one library.
    let more = s.announce(C, library, vec![record(2, 10)]);
    assert_eq!(fetched(&more).len(), 1);
    assert_eq!(fetched(&s.announce(C, None, vec![record(3, 10)])).len(), 1);
}

#[test]
fn late_news_of_an_ended_session_is_ignored() {
    let mut s = scheduler();
    let r = record(1, 10);
    s.announce(A, None, vec![r.clone()]);
    s.session_ended(A);
    s.announce(B, None, vec![r.clone()]);
    assert_eq!(s.finished(A, [(key(&r), Ok(()))]), []);
    assert_eq!(s.missing(), (1, 10));
}

/// The parts that are asked for.

#[test]
fn the_newest_version_is_what_is_stored_and_confirmed() {
    let mut s = scheduler();
    for size in [10, 100_000] {
        let old = record(1, size);
        let new = newer(&old);
        s.announce(A, None, vec![old.clone()]);
        assert_eq!(s.announce(B, None, vec![new.clone()]), []);
        // What was asked for was the old one.
        assert_eq!(s.finished(A, [(key(&old), Ok(()))]), [ScheduleDecision::Apply(key(&new), new.clone())]);
        let newest = newer(&new);
        s.announce(A, None, vec![newest.clone()]);
        assert_eq!(s.applied(key(&old), Ok(())), [ScheduleDecision::Apply(key(&newest), newest.clone())]);
        assert_eq!(s.applied(key(&old), Err(FetchFailure::Store("full".into()))), []);
        assert_eq!(s.resume(), [ScheduleDecision::Apply(key(&newest), newest.clone())]);
        let told = s.applied(key(&old), Ok(()));
        assert_eq!(told, [A, B].map(|session| ScheduleDecision::Settled { session, keys: vec![key(&old)] }));
        assert_eq!(s.missing(), (0, 0));
    }
    // A large one is stored with the newest in the first place, and with one that comes meanwhile behind it.
    let old = record(2, 2 * PART_BYTES);
    let (new, newest) = (newer(&old), newer(&newer(&old)));
    let asked = s.announce(A, None, vec![old.clone()]);
    s.announce(B, None, vec![new.clone()]);
    assert_eq!(complete(&mut s, asked).last(), Some(&ScheduleDecision::Commit(key(&new), new)));
    s.announce(A, None, vec![newest.clone()]);
    assert_eq!(s.committed(key(&old), Committed::Stored), [ScheduleDecision::Apply(key(&newest), newest)]);
    // Its content goes away again before that.
    let again = s.applied(key(&old), Err(FetchFailure::Source("gone".into())));
    assert_eq!(parts(&again).len(), 2, "{again:?}");
    assert_eq!(s.missing(), (1, old.size));
}

#[test]
fn what_arrives_by_another_way_is_not_waited_for() {
    let mut s = scheduler();
    let (small, large) = (record(1, 10), record(2, 3 * PART_BYTES));
    s.announce(A, None, vec![small.clone(), large.clone()]);
    s.announce(B, None, vec![newer(&small)]);
    let out = s.arrived(None, &[small.clone(), large.clone()]);
    assert_eq!(revoked(&out).len(), 4, "{out:?}");
    assert!(out.contains(&ScheduleDecision::Apply(key(&small), newer(&small))), "{out:?}");
    assert!(out.contains(&ScheduleDecision::Settled { session: A, keys: vec![key(&large)] }), "{out:?}");
    assert_eq!((s.missing(), s.in_flight), ((1, 0), 0));
}

#[test]
fn a_claim_of_an_enormous_size_costs_nothing() {
    let mut s = scheduler();
    let records = (0..4096).map(|n| record(n, 1 << 44)).collect();
    let asked = parts(&s.announce(A, None, records));
    assert!(asked.len() <= 8);
    assert_eq!(s.missing(), (4096, 4096 << 44));
}
