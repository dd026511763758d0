//! What a peer offers: how it is judged, confirmed, refused and fetched.

use super::*;
use crate::peer::session::judging::judge;

#[test]
fn what_is_offered_is_judged_and_confirmed_once_it_is_durable() {
    let mut t = Test::in_sync();
    let [known, edit, content] = [1, 2, 3].map(record);
    let all = [&known, &edit, &content];
    assert_eq!(t.step(offered(all)), [SessionEffect::Judge(all.map(Clone::clone).to_vec())]);
    assert_eq!(t.state(), ConnectionState::Syncing);
    let verdicts =
        [(&known, OfferVerdict::Settled), (&edit, OfferVerdict::Apply), (&content, OfferVerdict::Fetch)];
    let effects = t.step(judged(verdicts));
    let expected = [
        SessionEffect::Apply(vec![edit.clone()]),
        SessionEffect::Announce(vec![content.clone()]),
        confirmed([&known]),
    ];
    assert_eq!(effects, expected);
    let standing = t.session.standing();
    assert_eq!((standing.missing_here, standing.missing_here_bytes), (1, content.size));
    assert_eq!(t.step(SessionInput::Settled(vec![edit.hash])), [confirmed([&edit])]);
    assert_eq!(t.step(SessionInput::Settled(vec![content.hash])), [confirmed([&content])]);
    assert_eq!((t.state(), t.missing_here()), (ConnectionState::InSync, 0));
    t.quiet(SessionInput::Settled(vec![content.hash]));
}

#[test]
fn every_offer_gets_its_confirmation() {
    let mut t = Test::in_sync();
    let (first, second) = (record(1), edited(&record(1), 1, "later"));
    t.step(offered([&first]));
    t.step(offered([&second]));
    t.step(judged([(&first, OfferVerdict::Fetch)]));
    t.step(judged([(&second, OfferVerdict::Fetch)]));
    assert_eq!(t.missing_here(), 1, "one content");
    assert_eq!(t.step(SessionInput::Settled(vec![first.hash])), [confirmed([&first, &first])]);
    assert_eq!((t.state(), t.missing_here()), (ConnectionState::InSync, 0));
}

#[test]
fn what_is_not_acceptable_is_refused_by_name_and_looked_at_again() {
    let mut t = Test::in_sync();
    let a = record(1);
    t.step(offered([&a]));
    let effects = t.step(judged([(&a, OfferVerdict::Refuse("its size is a lie".into()))]));
    assert_eq!(effects, [refusal(&a, "its size is a lie")]);
    let standing = t.session.standing();
    assert_eq!((standing.state, standing.missing_here), (ConnectionState::Syncing, 1));
    assert!(standing.last_error.unwrap().contains("its size is a lie"));
    assert!(!t.reconciles_within(15));
    assert!(t.reconciles_within(1));
}

#[test]
fn what_could_not_be_fetched_is_refused_and_forgiven_once_it_came() {
    let mut t = Test::in_sync();
    let a = record(1);
    t.step(offered([&a]));
    t.step(judged([(&a, OfferVerdict::Fetch)]));
    assert_eq!(t.step(SessionInput::Failed(vec![(a.hash, "gone".into())])), [refusal(&a, "gone")]);
    assert_eq!((t.state(), t.missing_here()), (ConnectionState::Syncing, 1));
    t.quiet(SessionInput::Settled(vec![a.hash]));
    assert_eq!((t.state(), t.missing_here()), (ConnectionState::InSync, 0));
    assert!(!t.reconciles_within(60));
}

#[test]
fn the_scheduler_has_the_peer_asked() {
    let mut t = Test::in_sync();
    let records = vec![record(1), record(2)];
    let effects = t.step(SessionInput::Fetch { request: 9, records: records.clone() });
    let [SessionEffect::Send(frame::Kind::Want(want))] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(want.request, 9);
    let asked: Vec<_> = want.contents.iter().map(|c| (c.hash.to_vec(), c.offset, c.length)).collect();
    assert_eq!(asked, records.iter().map(|r| (r.hash.0.to_vec(), 0, 0)).collect::<Vec<_>>());
}

#[test]
fn the_peers_requests_are_served_and_cancelled() {
    let mut t = Test::in_sync();
    let want = Want { request: 4, contents: Vec::new() };
    assert_eq!(t.step(SessionInput::Frame(frame::Kind::Want(want.clone()))), [SessionEffect::Serve(want)]);
    let cancel = frame::Kind::Cancel(proto::Cancel { request: 4 });
    assert_eq!(t.step(SessionInput::Frame(cancel)), [SessionEffect::CancelServe(4)]);
}

#[test]
fn more_than_8192_open_offers_end_the_connection() {
    let mut t = Test::in_sync();
    for n in 0..8 {
        let records: Vec<_> = (n * 1000..(n + 1) * 1000).map(record).collect();
        assert!(matches!(t.step(offered(&records))[..], [SessionEffect::Judge(_)]));
    }
    let records: Vec<_> = (8000..8192).map(record).collect();
    assert!(matches!(t.step(offered(&records))[..], [SessionEffect::Judge(_)]));
    // A confirmation makes room for one more.
    assert_eq!(t.step(judged([(&record(0), OfferVerdict::Settled)])), [confirmed([&record(0)])]);
    assert!(matches!(t.step(offered([&record(9000)]))[..], [SessionEffect::Judge(_)]));
    assert_closes(&t.step(offered([&record(9001)])), 400);
}

#[test]
fn offers_that_break_the_rules_end_the_connection() {
    let records: Vec<_> = (0..1001).map(record).collect();
    let mut bad_hash = wire_offer([&record(1)]);
    bad_hash.records[0].hash = Bytes::from_static(b"short");
    let mut bad_meta = wire_offer([&record(1)]);
    bad_meta.records[0].meta = None;
    let elsewhere = Offer { library: Bytes::from_static(b"another"), ..wire_offer([&record(1)]) };
    for offer in [wire_offer(&records), bad_hash, bad_meta, elsewhere] {
        assert_closes(&Test::in_sync().step(SessionInput::Frame(frame::Kind::Offer(offer))), 400);
    }
}

#[test]
fn judgements() {
    use OfferVerdict::{Apply, Fetch, Settled};
    let ours = record(1);
    let newer = edited(&ours, 1000, "newer");
    let tombstone = AssetRecord { deleted: true, ..newer.clone() };
    let older = AssetRecord { hlc: Hlc::from_ms(NOW_MS - 1_000_000), ..ours.clone() };
    let edge = AssetRecord { hlc: Hlc::from_ms(NOW_MS + 600_000), ..newer.clone() };
    let lie = AssetRecord { size: ours.size + 1, ..newer.clone() };
    let hint = AssetRecord { blake3: Some([3; 32]), ..ours.clone() };
    let deleted = Some(&tombstone);
    let revived = edited(&newer, 2000, "back");
    let revived_in_another_size = AssetRecord { size: 1, ..revived.clone() };
    // What is offered, what we hold, without and with `replicate_deletes`.
    let table = [
        (&ours, None, Fetch, Fetch),
        (&ours, Some(&ours), Settled, Settled),
        (&hint, Some(&ours), Settled, Settled),
        (&newer, Some(&ours), Apply, Apply),
        (&older, Some(&ours), Settled, Settled),
        (&edge, Some(&ours), Apply, Apply),
        (&tombstone, None, Settled, Apply),
        (&tombstone, Some(&ours), Settled, Apply),
        (&tombstone, deleted, Settled, Settled),
        (&tombstone, Some(&revived), Settled, Settled),
        (&ours, deleted, Settled, Settled),
        (&revived, deleted, Fetch, Fetch),
        (&revived_in_another_size, deleted, Fetch, Fetch),
    ];
    for (offered, held, add_only, replicating) in table {
        let judge = |deletes| judge(offered, held, NOW_MS, HLC_AHEAD_MAX_MS, deletes);
        assert_eq!(judge(false), add_only, "{offered:?} over {held:?}");
        assert_eq!(judge(true), replicating, "{offered:?} over {held:?}");
    }
    let OfferVerdict::Refuse(why) = judge(&lie, Some(&ours), NOW_MS, HLC_AHEAD_MAX_MS, true) else {
        panic!()
    };
    assert!(why.contains("but the content of that hash has"), "{why}");
}

#[test]
fn what_is_dated_ahead_waits_until_it_is_not() {
    let ours = record(1);
    let at = |ms: u64| AssetRecord { hlc: Hlc::from_ms(NOW_MS + ms), ..edited(&ours, 1000, "newer") };
    for held in [None, Some(&ours)] {
        let taken = if held.is_some() { OfferVerdict::Apply } else { OfferVerdict::Fetch };
        for (ms, mirror, by_ticket) in [
            (60_000, taken.clone(), taken.clone()),
            (60_001, taken.clone(), OfferVerdict::Later(1)),
            (600_000, taken.clone(), OfferVerdict::Later(540_000)),
            (605_000, OfferVerdict::Later(5_000), OfferVerdict::Later(545_000)),
        ] {
            assert_eq!(judge(&at(ms), held, NOW_MS, HLC_AHEAD_MAX_MS, true), mirror, "{ms}");
            assert_eq!(judge(&at(ms), held, NOW_MS, HLC_AHEAD_BY_TICKET_MAX_MS, true), by_ticket, "{ms}");
        }
    }
    // What is here already does not wait, whatever its date.
    let held = at(86_400_000);
    assert_eq!(judge(&held, Some(&held), NOW_MS, HLC_AHEAD_MAX_MS, true), OfferVerdict::Settled);
}

#[test]
fn a_tombstone_that_was_forgotten_is_not_learned_anew() {
    let old = |ms: u64| AssetRecord { deleted: true, hlc: Hlc::from_ms(NOW_MS - ms), ..record(1) };
    let judge = |offered: &AssetRecord, ours| judge(offered, ours, NOW_MS, HLC_AHEAD_MAX_MS, true);
    assert_eq!(judge(&old(TOMBSTONES_KEPT_MS), None), OfferVerdict::Apply);
    assert_eq!(judge(&old(TOMBSTONES_KEPT_MS + 1), None), OfferVerdict::Settled);
    // A peer that still has the asset was away for longer, and hears of it.
    let ours = AssetRecord { hlc: Hlc::from_ms(NOW_MS - TOMBSTONES_KEPT_MS - 10), ..record(1) };
    assert_eq!(judge(&old(TOMBSTONES_KEPT_MS + 1), Some(&ours)), OfferVerdict::Apply);
}

#[test]
fn contents_that_are_wanted_here_are_fetched_from_whoever_holds_them() {
    use Holding::{Held, Unwanted, Wanted};
    use OfferVerdict::{Apply, Fetch, Settled, TakeAbsent};
    let plain = record(1);
    // Only what the store has hashed itself has a hint there.
    let checked = AssetRecord { blake3: Some([3; 32]), ..record(1) };
    let (newer, tombstone) =
        (edited(&plain, 10, "newer"), AssetRecord { deleted: true, ..edited(&plain, 5, "") });
    let lie = AssetRecord { size: plain.size + 1, ..newer.clone() };
    let ours = |record: &AssetRecord, holding| StoredRecord { record: record.clone(), holding };
    // What is offered, what we have, what it means if the peer holds the content and if it does not.
    let table = [
        (&plain, None, Fetch, TakeAbsent),
        (&plain, Some(ours(&plain, Held)), Settled, Settled),
        (&newer, Some(ours(&plain, Held)), Apply, Apply),
        (&plain, Some(ours(&plain, Wanted)), Fetch, Settled),
        (&newer, Some(ours(&plain, Wanted)), Fetch, Apply),
        (&plain, Some(ours(&newer, Wanted)), Fetch, Settled),
        (&lie, Some(ours(&plain, Wanted)), Fetch, Apply),
        (&plain, Some(ours(&lie, Wanted)), Fetch, Settled),
        (&plain, Some(ours(&AssetRecord { size: 9, ..checked.clone() }, Wanted)), Settled, Settled),
        (&plain, Some(ours(&plain, Unwanted)), Settled, Settled),
        (&newer, Some(ours(&plain, Unwanted)), Apply, Apply),
        (&lie, Some(ours(&plain, Unwanted)), Apply, Apply),
        (&tombstone, Some(ours(&plain, Wanted)), Apply, Apply),
        (&newer, Some(ours(&tombstone, Unwanted)), Fetch, TakeAbsent),
        (&plain, Some(ours(&tombstone, Unwanted)), Settled, Settled),
    ];
    for (offered, ours, held, absent) in table {
        let judged = |held_there| judge_holding(offered, held_there, ours.as_ref(), NOW_MS, LIMITS);
        assert_eq!(judged(true), held, "{offered:?} over {ours:?}");
        assert_eq!(judged(false), absent, "{offered:?} over {ours:?}, held nowhere");
    }
    for holding in [Held, Wanted, Unwanted] {
        let ours = ours(&checked, holding);
        let refused = judge_holding(&lie, true, Some(&ours), NOW_MS, LIMITS);
        assert!(
            matches!(&refused, OfferVerdict::Refuse(why) if why.contains("the content of that hash has"))
        );
    }
    let ahead = AssetRecord { hlc: Hlc::from_ms(NOW_MS + 3_600_000), ..record(1) };
    for ours in [None, Some(ours(&plain, Wanted))] {
        let judged = judge_holding(&ahead, true, ours.as_ref(), NOW_MS, LIMITS);
        assert_eq!(judged, OfferVerdict::Later(3_600_000 - HLC_AHEAD_MAX_MS));
    }
}

#[test]
fn an_offer_says_what_is_not_held() {
    let mut t = Test::in_sync();
    let records: Vec<AssetRecord> = (0..20).map(record).collect();
    let holdings = [Holding::Held, Holding::Wanted, Holding::Unwanted].into_iter().cycle();
    let entries = records.iter().zip(holdings).zip(1..);
    let entries = entries.map(|((record, holding), seq)| FeedEntry {
        seq,
        record: record.clone(),
        holding,
        formers: Vec::new(),
    });
    let entries: Arc<[FeedEntry]> = entries.collect();
    let absent: Vec<bool> = entries.iter().map(FeedEntry::is_absent).collect();
    let said = |effects: &[SessionEffect]| {
        let [SessionEffect::Send(frame::Kind::Offer(offer))] = effects else { panic!("{effects:?}") };
        let bit = |place: usize| offer.absent.get(place / 8).is_some_and(|byte| byte >> (place % 8) & 1 == 1);
        (0..offer.records.len()).map(bit).collect::<Vec<_>>()
    };
    assert_eq!(said(&t.step(SessionInput::changed(entries.clone()))), absent);
    t.step(have(&records));
    // The same of what is loaded.
    t.step(SessionInput::Differences { have: records.iter().map(|r| r.hash).collect(), need: Vec::new() });
    let stored = entries.iter().map(|e| StoredRecord { record: e.record.clone(), holding: e.holding });
    let effects = t.step(SessionInput::Loaded { records: stored.collect() });
    assert_eq!(said(&effects), absent);
}

#[test]
fn what_the_peer_does_not_hold_is_taken_without_waiting_for_it() {
    let mut t = Test::in_sync();
    let (held, absent) = (record(1), record(2));
    let offer = Offer { absent: Bytes::from_static(&[0b10]), ..wire_offer([&held, &absent]) };
    let effects = t.step(SessionInput::Frame(frame::Kind::Offer(offer)));
    assert_eq!(
        effects,
        [SessionEffect::Judge(vec![held.clone()]), SessionEffect::JudgeAbsent(vec![absent.clone()])]
    );
    assert_eq!(t.step(judged([(&held, OfferVerdict::Fetch)])), [SessionEffect::Announce(vec![held.clone()])]);
    let effects = t.step(judged([(&absent, OfferVerdict::TakeAbsent)]));
    assert_eq!(effects, [SessionEffect::TakeAbsent(vec![absent.clone()])]);
    assert_eq!(t.session.standing().missing_here, 1, "the other one");
    assert_eq!(t.step(SessionInput::Settled(vec![absent.hash])), [confirmed([&absent])]);
    // It came from the peer: our feed's report of it is no news there.
    let entry = FeedEntry { seq: 1, record: absent.clone(), holding: Holding::Wanted, formers: Vec::new() };
    assert_eq!(t.step(SessionInput::changed([entry].into())), []);
    assert_eq!(t.step(SessionInput::Settled(vec![held.hash])), [confirmed([&held])]);
    assert_eq!(t.session.standing().state, ConnectionState::InSync);
    for lie in [&[0b100_u8][..], &[0, 0], &[0xff; 200]] {
        let offer = Offer { absent: Bytes::copy_from_slice(lie), ..wire_offer([&record(8), &record(9)]) };
        let effects = Test::in_sync().step(SessionInput::Frame(frame::Kind::Offer(offer)));
        assert!(matches!(effects[..], [SessionEffect::Close { code: 400, .. }]), "{lie:?}: {effects:?}");
    }
}
