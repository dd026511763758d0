#![expect(clippy::wildcard_enum_match_arm, reason = "a test picks out what it looks for")]

use std::ops::Range;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::record::AssetMeta;

const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);
const C: SessionId = SessionId(3);
const LIMITS: ScheduleLimits = ScheduleLimits {
    node_bytes: 64 << 20,
    peer_bytes: 8 << 20,
    part_bytes: PART_BYTES,
    stall: Duration::from_secs(30),
};

fn record(n: u32, size: u64) -> AssetRecord {
    let mut hash = [0; 32];
    hash[..4].copy_from_slice(&n.to_be_bytes());
    AssetRecord::new(ContentHash(hash), size, None, AssetMeta::default())
}

/// What is wanted of it for the mirror.
fn key(record: &AssetRecord) -> WantKey {
    WantKey::new(None, record)
}

fn scheduler() -> Scheduler {
    Scheduler::new(LIMITS, Instant::now())
}

fn fetched(decisions: &[ScheduleDecision]) -> Vec<(SessionId, WantKey)> {
    decisions
        .iter()
        .filter_map(|d| match d {
            ScheduleDecision::Fetch { session, library, records, .. } => Some((*session, *library, records)),
            _ => None,
        })
        .flat_map(|(session, library, records)| {
            records.iter().map(move |record| (session, WantKey::new(library, record)))
        })
        .collect()
}

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
fn parts(decisions: &[ScheduleDecision]) -> Vec<(SessionId, u64, Range<u64>)> {
    let part = |decision: &ScheduleDecision| match decision {
        ScheduleDecision::FetchPart { session, request, range, .. } => {
            Some((*session, *request, range.clone()))
        }
        _ => None,
    };
    decisions.iter().filter_map(part).collect()
}

fn revoked(decisions: &[ScheduleDecision]) -> Vec<(SessionId, u64)> {
    let revoked = |decision: &ScheduleDecision| match decision {
        ScheduleDecision::Revoke { session, request } => Some((*session, *request)),
        _ => None,
    };
    decisions.iter().filter_map(revoked).collect()
}

/// Lets `seconds` pass, in each of which a session sends so many bytes.
fn run(s: &mut Scheduler, seconds: u64, rates: &[(SessionId, u64)]) -> Vec<ScheduleDecision> {
    let mut out = Vec::new();
    let start = s.now;
    for second in 1..=seconds {
        let progress = |(session, rate): &(SessionId, u64)| {
            (*session, SourceProgress { received: (1 << 40) + second * rate, held_here: false })
        };
        out.extend(
            s.tick(start + Duration::from_secs(second), rates.iter().map(progress).collect::<Vec<_>>()),
        );
    }
    out
}

#[test]
fn a_large_asset_comes_in_parts_from_all_who_have_it() {
    let mut s = scheduler();
    let r = record(1, 10 * PART_BYTES + 5);
    let of_a = parts(&s.announce(A, None, vec![r.clone()]));
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
    // One part at a time has the two of them; the first has done it for both.
    let (_, request, range) = fast[1].clone();
    let done = s.part_finished(B, request, Ok(()));
    let loser = slow.iter().find(|part| part.2 == range).unwrap();
    assert_eq!(revoked(&done), [(A, loser.1)]);
    assert_eq!(s.part_finished(A, loser.1, Ok(())), [], "too late");
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

/// Asks for everything, and has it arrive.
fn complete(s: &mut Scheduler, mut decisions: Vec<ScheduleDecision>) -> Vec<ScheduleDecision> {
    let mut all = Vec::new();
    loop {
        let open = parts(&decisions);
        all.append(&mut decisions);
        if open.is_empty() {
            return all;
        }
        for (session, request, _) in open {
            decisions.extend(s.part_finished(session, request, Ok(())));
        }
    }
}

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

fn newer(record: &AssetRecord) -> AssetRecord {
    let mut newer = record.clone();
    newer.hlc = record.hlc.next(1_700_000_000_000);
    newer.meta.description = Some("edited".into());
    newer
}

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

#[derive(Debug, Clone)]
enum Step {
    Announce(u64, u32, u64, u8),
    Finish(usize, u8),
    Commit(usize, u8),
    End(u64),
    Tick(u64),
    Resume,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..4u64, 0..40u32, prop_oneof![0..100u64, 60_000..70_000u64, 2_000_000..6_000_000u64], 0..3u8)
            .prop_map(|(s, n, size, root)| Step::Announce(s, n, size, root)),
        8 => (any::<usize>(), 0..8u8).prop_map(|(i, how)| Step::Finish(i, how)),
        2 => (any::<usize>(), 0..10u8).prop_map(|(i, how)| Step::Commit(i, how)),
        1 => (1..4u64).prop_map(Step::End),
        2 => (1..4u64).prop_map(Step::Tick),
        1 => Just(Step::Resume),
    ]
}

/// What the world around the scheduler knows: what is on its way, and what is being done.
#[derive(Default)]
struct Around {
    flying: Vec<(SessionId, u64, WantKey, Option<Range<u64>>)>,
    /// Commits, applications and restrictions under way.
    doing: Vec<ScheduleDecision>,
}

impl Around {
    fn note(&mut self, decisions: Vec<ScheduleDecision>) -> Result<(), TestCaseError> {
        for decision in decisions {
            match decision {
                ScheduleDecision::Fetch { session, request, records, .. } => {
                    for r in records {
                        prop_assert!(self.flying.iter().all(|f| f.2 != key(&r)), "a whole is fetched twice");
                        self.flying.push((session, request, key(&r), None));
                    }
                }
                ScheduleDecision::FetchPart { session, request, key, range, .. } => {
                    let same: Vec<_> = self
                        .flying
                        .iter()
                        .filter(|f| f.2 == key && f.3.as_ref().is_some_and(|r| r.start == range.start))
                        .collect();
                    prop_assert!(same.len() < 2 && same.iter().all(|f| f.0 != session), "{same:?}");
                    self.flying.push((session, request, key, Some(range)));
                }
                ScheduleDecision::Revoke { session, request } => {
                    self.flying.retain(|f| (f.0, f.1) != (session, request));
                }
                ScheduleDecision::Settled { .. }
                | ScheduleDecision::Failed { .. }
                | ScheduleDecision::Lied { .. }
                | ScheduleDecision::Misnamed { .. } => {}
                ScheduleDecision::Commit(..)
                | ScheduleDecision::Apply(..)
                | ScheduleDecision::Restart(_)
                | ScheduleDecision::Restrict { .. } => {
                    self.doing.push(decision);
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, s: &mut Scheduler, i: usize, how: u8) -> Vec<ScheduleDecision> {
        let (session, request, key, range) = self.flying.remove(i % self.flying.len());
        let result = match how {
            0 => Err(FetchFailure::Source("x".into())),
            1 => Err(FetchFailure::Store("x".into())),
            2 => Err(FetchFailure::WrongBytes("x".into())),
            3 => Err(FetchFailure::NoProof("x".into())),
            4 => Err(FetchFailure::FalseProof("x".into())),
            _ => Ok(()),
        };
        match range {
            Some(_) => s.part_finished(session, request, result),
            None => s.finished(session, [(key, result)]),
        }
    }

    fn done(&mut self, s: &mut Scheduler, i: usize, how: u8) -> Vec<ScheduleDecision> {
        let store = || FetchFailure::Store("x".into());
        match (self.doing.remove(i % self.doing.len()), how) {
            (ScheduleDecision::Commit(key, _), 0) => s.committed(key, Committed::NotTaken(store())),
            (ScheduleDecision::Commit(key, _), 1) => {
                s.committed(key, Committed::NotTaken(FetchFailure::Asset("x".into())))
            }
            (ScheduleDecision::Commit(key, _), 2) => s.committed(key, Committed::WrongFrom(Some(A))),
            (ScheduleDecision::Commit(key, _), 3) => {
                s.committed(key, Committed::WrongFromSeveral(vec![(B, 5)]))
            }
            (ScheduleDecision::Commit(key, _), 4) => s.committed(key, Committed::Again),
            (ScheduleDecision::Commit(key, _), 5) => s.committed(key, Committed::WrongRoot(vec![B])),
            (ScheduleDecision::Commit(key, _), _) => s.committed(key, Committed::Stored),
            (ScheduleDecision::Apply(key, _), 0) => s.applied(key, Err(store())),
            (ScheduleDecision::Apply(key, _), 1) => s.applied(key, Err(FetchFailure::Source("x".into()))),
            (ScheduleDecision::Apply(key, _), _) => s.applied(key, Ok(())),
            (ScheduleDecision::Restrict { key, .. }, 0) => s.restricted(key, Err(store())),
            (ScheduleDecision::Restrict { key, .. } | ScheduleDecision::Restart(key), _) => {
                s.restricted(key, Ok(()))
            }
            (other, _) => panic!("{other:?}"),
        }
    }
}

proptest! {
    /// Whatever happens: wholes come from one source and parts from at most two, limits hold, and once everything
    /// that is asked for arrives, nothing is missing and nothing is charged.
    #[test]
    fn nothing_is_fetched_twice_or_forgotten(steps in prop::collection::vec(step(), 0..200)) {
        let limits = ScheduleLimits { node_bytes: 8 << 20, peer_bytes: 4 << 20, part_bytes: 1 << 20, ..LIMITS };
        let start = Instant::now();
        let mut s = Scheduler::new(limits, start);
        let mut around = Around::default();
        let (mut seconds, mut received) = (0, [0; 4]);
        for step in steps {
            let decisions = match step {
                Step::Announce(session, n, size, root) => {
                    let blake3 = (root > 0).then_some([root; 32]);
                    s.announce(SessionId(session), None, vec![AssetRecord { blake3, ..record(n, size) }])
                }
                Step::Finish(i, how) if !around.flying.is_empty() => around.finish(&mut s, i, how),
                Step::Commit(i, how) if !around.doing.is_empty() => around.done(&mut s, i, how),
                Step::Finish(..) | Step::Commit(..) => continue,
                Step::End(session) => {
                    around.flying.retain(|f| f.0 != SessionId(session));
                    s.session_ended(SessionId(session))
                }
                Step::Tick(fast) => {
                    seconds += 2;
                    received[usize::try_from(fast).unwrap()] += 100_000_000;
                    let progress = (1..4).map(|n| {
                        let received = received[usize::try_from(n).unwrap()];
                        (SessionId(n), SourceProgress { received, held_here: false })
                    });
                    s.tick(start + Duration::from_secs(seconds), progress.collect::<Vec<_>>())
                }
                Step::Resume => s.resume(),
            };
            around.note(decisions)?;
            prop_assert!(s.in_flight <= limits.node_bytes + 3 * LARGE_CHARGE);
            for session in [A, B, C] {
                let requests: BTreeSet<u64> =
                    around.flying.iter().filter(|f| f.0 == session).map(|f| f.1).collect();
                prop_assert!(requests.len() <= 16);
            }
        }
        // All is well from now on; nobody rests any more.
        seconds += 100;
        let mut decisions = s.resume();
        decisions.extend(s.tick(start + Duration::from_secs(seconds), []));
        for _ in 0..20_000 {
            around.note(decisions)?;
            decisions = if !around.flying.is_empty() {
                around.finish(&mut s, 0, 9)
            } else if !around.doing.is_empty() {
                around.done(&mut s, 0, 9)
            } else {
                break;
            };
        }
        prop_assert_eq!(s.missing(), (0, 0));
        prop_assert_eq!((s.in_flight, s.flights.len()), (0, 0));
        let idle = |source: &SessionSource| (source.bytes, source.requests, source.large_requests) == (0, 0, 0);
        prop_assert!(s.sources.values().all(idle));
    }
}
