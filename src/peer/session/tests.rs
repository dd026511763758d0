#![expect(clippy::wildcard_enum_match_arm, reason = "what is of no interest here is passed over")]

mod deferring;

use std::sync::LazyLock;

use bytes::Bytes;

use super::*;
use crate::identity::{LibraryKeys, NetworkKeys};
use crate::record::{AssetMeta, HLC_AHEAD_BY_TICKET_MAX_MS, HLC_AHEAD_MAX_MS, WriterId};
use crate::store::Holding;
use crate::wire;
use crate::wire::proto::{Frame, Hello, Ping, Pong, ReconClose, ReconMsg, ReconOpen, Welcome};
use crate::wire::proto::{Have, InlineContent, Offer, WireRecord};

static KEYS: LazyLock<LibraryKeys> =
    LazyLock::new(|| NetworkKeys::derive(&"a network of tests".into()).mirror().clone());
const LIBRARY: Bytes = Bytes::from_static(b"the mirror");
const NOW_MS: u64 = 1_700_000_000_000;
/// How far ahead a version may be dated, and whether deletions are applied.
const LIMITS: (u64, bool) = (HLC_AHEAD_MAX_MS, true);

const EMPTY: Summary = Summary { count: 0, fingerprint: [0; 16], assets: 0, bytes: 0 };
const OTHER: Summary = Summary { count: 3, fingerprint: [1; 16], assets: 3, bytes: 3 };

// ---- Beginning -------------------------------------------------------------------------------------------------------

#[test]
fn the_dialler_compares_where_summaries_differ_and_nobody_where_they_are_equal() {
    let now = Instant::now();
    for dialer in [true, false] {
        let (session, effects) = Session::new(settings(dialer), OTHER, OTHER, now);
        assert_eq!((effects, session.standing().state), (vec![], ConnectionState::InSync));
        // Counts of the store may lag behind; the records are what is compared.
        let lagging = Summary { assets: 0, bytes: 0, ..OTHER };
        let (session, effects) = Session::new(settings(dialer), OTHER, lagging, now);
        assert_eq!((effects, session.standing().state), (vec![], ConnectionState::InSync));
    }
    let (session, effects) = Session::new(settings(true), EMPTY, OTHER, now);
    assert_eq!(
        (effects, session.standing().state),
        (vec![SessionEffect::Reconcile], ConnectionState::Reconciling)
    );
    let (mut session, effects) = Session::new(settings(false), EMPTY, OTHER, now);
    assert_eq!((effects, session.standing().state), (vec![], ConnectionState::Reconciling));
    assert_eq!(session.standing().assets, 3, "what the peer says it holds");
    assert_eq!(session.handle(ended(false), now), []);
    assert_eq!(session.standing().state, ConnectionState::InSync);
}

#[test]
fn the_end_of_the_peers_comparison_does_not_end_ours() {
    let mut t = Test::reconciling();
    t.quiet(ended(false));
    assert_eq!(t.state(), ConnectionState::Reconciling);
    t.quiet(ended(true));
    assert_eq!(t.state(), ConnectionState::InSync);
}

#[test]
fn a_comparison_that_failed_is_tried_again_after_five_seconds() {
    let mut t = Test::reconciling();
    t.quiet(SessionInput::ReconEnded { opened_here: true, result: Err("the stream broke".into()) });
    assert_eq!(t.session.standing().last_error.unwrap(), "reconciliation: the stream broke");
    assert_eq!(t.after(5), []);
    assert_eq!(t.after(1), [SessionEffect::Reconcile]);
    assert_eq!(t.after(6), [], "one at a time");
}

// ---- Offering --------------------------------------------------------------------------------------------------------

#[test]
fn what_is_new_is_offered_until_the_peer_has_it() {
    let mut t = Test::in_sync();
    let (a, b) = (record(1), record(2));
    assert_eq!(t.step(changed([&a, &b])), [offer([&a, &b])]);
    assert_eq!((t.state(), t.missing_there()), (ConnectionState::Syncing, 2));
    t.quiet(have([&a]));
    assert_eq!((t.state(), t.missing_there()), (ConnectionState::Syncing, 1));
    t.quiet(have([&a, &record(3)]));
    assert_eq!(t.missing_there(), 1, "what is not open cannot be confirmed");
    t.quiet(have([&b]));
    assert_eq!((t.state(), t.missing_there()), (ConnectionState::InSync, 0));
}

#[test]
fn two_versions_in_flight_take_two_confirmations() {
    let mut t = Test::in_sync();
    let (first, second) = (record(1), edited(&record(1), 5, "later"));
    t.step(changed([&first]));
    assert_eq!(t.step(changed([&second])), [offer([&second])]);
    t.quiet(have([&first]));
    assert_eq!(t.state(), ConnectionState::Syncing);
    t.quiet(have([&first]));
    assert_eq!(t.state(), ConnectionState::InSync);
}

fn content_of(record: &AssetRecord) -> Bytes {
    vec![7; usize::try_from(record.size).unwrap()].into()
}

fn inline(record: &AssetRecord, content: Bytes) -> InlineContent {
    InlineContent { hash: Bytes::copy_from_slice(&record.hash.0), content }
}

#[test]
fn a_small_asset_that_was_made_here_takes_its_content_along() {
    let mut t = Test::in_sync();
    let (small, other) = (record(1), record(2));
    let SessionInput::StoreChanged(entries) = changed([&small, &other]) else { unreachable!() };
    let contents = Arc::new(InlineContents::from([(small.hash, content_of(&small))]));
    let contents_sent = vec![inline(&small, content_of(&small))];
    let expected = Offer { contents: contents_sent, ..wire_offer([&small, &other]) };
    let created = SessionInput::Created { entries, contents };
    assert_eq!(t.step(created), [SessionEffect::Send(frame::Kind::Offer(expected))]);
    // What it weighs counts as unconfirmed: 2 MiB of it, and no more is sent.
    let records: Vec<AssetRecord> =
        (0..200).map(|n| AssetRecord { size: 16 * 1024, ..record(100 + n) }).collect();
    let mut sent = 0;
    for r in &records {
        let SessionInput::StoreChanged(entries) = changed([r]) else { unreachable!() };
        let contents = Arc::new(InlineContents::from([(r.hash, content_of(r))]));
        sent += t.step(SessionInput::Created { entries, contents }).iter().map(records_in).sum::<usize>();
    }
    assert!((100..130).contains(&sent), "{sent}");
}

#[test]
fn a_content_that_came_along_is_stored_and_nothing_is_asked_for() {
    let mut t = Test::in_sync();
    let (small, other) = (record(1), record(2));
    let contents = vec![inline(&small, content_of(&small))];
    let with = Offer { contents, ..wire_offer([&small, &other]) };
    let judge = t.step(SessionInput::Frame(frame::Kind::Offer(with)));
    assert_eq!(judge, [SessionEffect::Judge(vec![small.clone(), other.clone()])]);
    let decided = t.step(judged([(&small, OfferVerdict::Fetch), (&other, OfferVerdict::Fetch)]));
    let stores = SessionEffect::Store(vec![(small.clone(), content_of(&small))]);
    assert_eq!(decided, [stores, SessionEffect::Announce(vec![other.clone()])]);
    // A store that does not take it now has it fetched later.
    assert_eq!(
        t.step(SessionInput::NotStored(vec![small.clone()])),
        [SessionEffect::Announce(vec![small.clone()])]
    );
    assert_eq!(t.step(SessionInput::Settled(vec![small.hash])), [confirmed([&small])]);
}

#[test]
fn contents_that_have_no_place_in_an_offer_end_the_connection() {
    let r = AssetRecord { size: 5, ..record(1) };
    let large = AssetRecord { size: 16 * 1024 + 1, ..record(2) };
    let lies = [
        inline(&r, Bytes::from_static(b"123456")),
        inline(&record(3), content_of(&record(3))),
        inline(&large, content_of(&large)),
        InlineContent { hash: Bytes::from_static(b"short"), content: Bytes::from_static(b"12345") },
    ];
    for lie in lies {
        let mut t = Test::in_sync();
        let offer = Offer { contents: vec![lie], ..wire_offer([&r, &large]) };
        assert_closes(&t.step(SessionInput::Frame(frame::Kind::Offer(offer))), 400);
    }
}

// ---- Readers ---------------------------------------------------------------------------------------------------------

fn with_access(gives: bool, takes: bool, ours: Summary, theirs: Summary) -> (Test, Vec<SessionEffect>) {
    let now = Instant::now();
    let settings = SessionSettings { gives, takes, tag: LIBRARY, ..settings(true) };
    let (session, effects) = Session::new(settings, ours, theirs, now);
    (Test { session, now }, effects)
}

#[test]
fn a_readers_offers_are_refused_one_by_one_and_never_looked_at() {
    let (mut t, _) = with_access(true, false, EMPTY, EMPTY);
    let (one, two) = (record(1), record(2));
    let contents = vec![inline(&one, content_of(&one))];
    let with = Offer { contents, ..wire_offer([&one, &two, &one]) };
    let answers = t.step(SessionInput::Frame(frame::Kind::Offer(with)));
    let refused = |effect: &SessionEffect| match effect {
        SessionEffect::Send(frame::Kind::Error(error)) => {
            assert_eq!((error.code, &error.library), (403, &LIBRARY));
            ContentHash::from_slice(error.hash.as_ref().unwrap()).unwrap()
        }
        other => panic!("{other:?}"),
    };
    let mut hashes: Vec<_> = answers.iter().map(refused).collect();
    hashes.sort_unstable();
    let mut expected = vec![one.hash, one.hash, two.hash];
    expected.sort_unstable();
    assert_eq!(hashes, expected);
    assert_eq!(t.state(), ConnectionState::InSync, "nothing is left of it");
    // What it has and we have not is its own.
    t.quiet(SessionInput::Differences { have: Vec::new(), need: vec![RecordId([1; 32])] });
}

#[test]
fn a_reader_offers_nothing() {
    let (mut t, _) = with_access(false, true, EMPTY, EMPTY);
    t.quiet(changed([&record(1)]));
    t.quiet(SessionInput::Differences { have: vec![record(1).hash], need: Vec::new() });
    let (_, effects) = with_access(false, false, EMPTY, OTHER);
    assert_eq!(effects, [], "two readers have nothing to compare");
    let judged_here = t.step(offered([&record(2)]));
    assert_eq!(judged_here, [SessionEffect::Judge(vec![record(2)])], "a writer's are taken");
}

#[test]
fn what_is_not_judged_yet_is_not_confirmed() {
    let mut t = Test::in_sync();
    let (first, second) = (record(1), edited(&record(1), 5, "later"));
    t.step(offered([&first]));
    t.step(judged([(&first, OfferVerdict::Fetch)]));
    t.step(offered([&second]));
    assert_eq!(t.step(SessionInput::Settled(vec![first.hash])), [confirmed([&first])]);
    assert_eq!(t.state(), ConnectionState::Syncing);
    assert_eq!(
        t.step(judged([(&second, OfferVerdict::Apply)])),
        [SessionEffect::Apply(vec![second.clone()])]
    );
    assert_eq!(t.step(SessionInput::Settled(vec![first.hash])), [confirmed([&second])]);
    assert_eq!(t.state(), ConnectionState::InSync);
}

#[test]
fn no_more_than_4096_offers_wait_for_their_confirmation() {
    let mut t = Test::in_sync();
    let records: Vec<_> = (0..4097).map(record).collect();
    let sizes: Vec<usize> = t.step(changed(&records[..4096])).iter().map(records_in).collect();
    assert_eq!(sizes, [1000, 1000, 1000, 1000, 96]);
    t.quiet(changed([&records[4096]]));
    assert_eq!(t.missing_there(), 4097);
    assert_eq!(t.step(have([&records[7]])), [SessionEffect::Load(vec![records[4096].hash])]);
    let loaded = loaded(vec![records[4096].clone()]);
    assert_eq!(t.step(loaded), [offer([&records[4096]])]);
    assert_eq!(t.missing_there(), 4096);
}

#[test]
fn versions_of_one_asset_count_one_by_one() {
    let mut t = Test::in_sync();
    let mut version = record(1);
    let mut offered = 0;
    for n in 0..5000 {
        version = edited(&version, 1, &n.to_string());
        offered += t.step(changed([&version])).iter().map(records_in).sum::<usize>();
    }
    assert_eq!(offered, 4096, "the peer closes the connection when more are open than it must take");
    // What was held back goes out as one, the latest, since only the hash was kept.
    let effects = t.step(have(vec![&version; 4096]));
    let [SessionEffect::Load(hashes)] = &effects[..] else { panic!("{effects:?}") };
    assert!(hashes.iter().all(|hash| *hash == version.hash));
    assert_eq!(t.step(loaded(vec![version.clone()]))[0], offer([&version]));
}

#[test]
fn differences_are_loaded_in_batches_and_offered() {
    let mut t = Test::in_sync();
    let records: Vec<_> = (0..700).map(record).collect();
    let found = SessionInput::Differences { have: hashes(&records), need: Vec::new() };
    assert_eq!(t.step(found), [SessionEffect::Load(hashes(&records[..500]))]);
    t.quiet(changed([&record(900)]));
    let loaded = loaded(records[..499].to_vec());
    let effects = t.step(loaded);
    assert_eq!(effects[0], offer(&records[..499]), "what the store no longer has is left out");
    let rest: Vec<_> = hashes(&records[500..]).into_iter().chain([record(900).hash]).collect();
    assert_eq!(effects[1..], [SessionEffect::Load(rest)], "what came meanwhile has its turn afterwards");
}

#[test]
fn frames_of_the_largest_records_keep_to_their_limit() {
    let mut t = Test::in_sync();
    let large = |n| {
        let mut record = record(n);
        record.meta.description = Some("x".repeat(16 * 1024));
        record
    };
    let records: Vec<_> = (0..500).map(large).collect();
    let found = SessionInput::Differences { have: hashes(&records), need: Vec::new() };
    assert_eq!(t.step(found), [SessionEffect::Load(hashes(&records))]);
    let effects = t.step(loaded(records.clone()));
    assert_eq!(effects.iter().map(records_in).sum::<usize>(), 500);
    for effect in effects {
        let SessionEffect::Send(kind) = effect else { panic!("{effect:?}") };
        let bytes = wire::encode(&Frame { kind: Some(kind) });
        assert!(bytes.len() - 4 <= wire::FRAME_BYTES_MAX, "{} bytes", bytes.len());
    }
    // So much text is enough until most of it is confirmed.
    t.quiet(changed([&record(900)]));
    let kept = hashes(&records[400..]).into_iter().map(|hash| hash.0.to_vec().into());
    let have = |hashes| SessionInput::Frame(frame::Kind::Have(Have { hashes, ..Have::default() }));
    t.quiet(have(hashes(&records[..200]).into_iter().map(|hash| hash.0.to_vec().into()).collect()));
    let next =
        t.step(have(hashes(&records[200..400]).into_iter().map(|hash| hash.0.to_vec().into()).collect()));
    assert_eq!(next, [SessionEffect::Load(vec![record(900).hash])]);
    t.quiet(have(kept.collect()));
}

#[test]
fn what_came_from_the_peer_is_not_offered_back_but_what_came_of_it_is() {
    let mut t = Test::in_sync();
    let (applied, fetched) = (record(1), record(2));
    t.step(offered([&applied, &fetched]));
    t.step(judged([(&applied, OfferVerdict::Apply), (&fetched, OfferVerdict::Fetch)]));
    assert_eq!(t.step(SessionInput::Settled(hashes(&[applied.clone(), fetched.clone()]))).len(), 1);
    let own = record(3);
    assert_eq!(t.step(changed([&applied, &own, &fetched])), [offer([&own])]);
    let later = edited(&applied, 1, "edited here");
    assert_eq!(t.step(changed([&later])), [offer([&later])]);
    assert_eq!(t.step(changed([&fetched])), [offer([&fetched])], "only the first report is the echo");
}

#[test]
fn what_could_not_be_had_is_no_echo() {
    let mut t = Test::in_sync();
    let a = record(1);
    t.step(offered([&a]));
    t.step(judged([(&a, OfferVerdict::Fetch)]));
    t.step(SessionInput::Failed(vec![(a.hash, "no progress".into())]));
    assert_eq!(t.step(changed([&a])), [offer([&a])], "it came from somewhere else then");
}

#[test]
fn what_is_asked_for_by_name_goes_ahead_of_what_waits_and_has_an_end() {
    let mut t = Test::in_sync();
    let a = record(1);
    assert_eq!(t.step(SessionInput::Found(vec![a.clone()])), [offer([&a])]);
    let many: Vec<AssetRecord> = (0..64).map(|_| a.clone()).collect();
    let closes = |effects: &[SessionEffect]| {
        effects.iter().any(|effect| matches!(effect, SessionEffect::Close { .. }))
    };
    let asked = (0..1000).take_while(|_| !closes(&t.step(SessionInput::Found(many.clone())))).count();
    assert_eq!(asked, (super::OFFERS_TAKEN_MAX - 1) / 64, "as many as it takes itself");
}

#[test]
fn what_is_wanted_back_is_fetched_and_is_news_to_the_peer_too() {
    let mut t = Test::in_sync();
    let a = record(1);
    t.step(offered([&a]));
    t.step(judged([(&a, OfferVerdict::Revive)]));
    t.step(SessionInput::Settled(vec![a.hash]));
    assert_eq!(t.step(changed([&a])), [offer([&a])], "no echo");
}

#[test]
fn a_refused_offer_is_tried_again_after_15_seconds() {
    let mut t = Test::in_sync();
    let a = record(1);
    t.step(changed([&a]));
    t.quiet(error(Some(&a), "dated in the future"));
    let standing = t.session.standing();
    assert_eq!((standing.state, standing.missing_there), (ConnectionState::Syncing, 1));
    let said = standing.last_error.unwrap();
    assert!(said.contains(&a.hash.short()) && said.contains("dated in the future"), "{said}");
    assert!(!t.reconciles_within(15));
    assert!(t.reconciles_within(1));
    t.quiet(ended(true));
    assert_eq!(t.missing_there(), 0, "the comparison says again what is missing");
}

/// Seconds until the next comparison; whatever it finds is refused for what it was before.
fn seconds_until_refused_again(t: &mut Test, refused: &[AssetRecord]) -> u64 {
    let waited = (1..4000).find(|_| t.reconciles_within(1)).expect("it is tried again");
    t.quiet(ended(true));
    let found = t.step(SessionInput::Differences { have: hashes(refused), need: Vec::new() });
    assert_eq!(found, [SessionEffect::Load(hashes(refused))]);
    t.step(loaded(refused.to_vec()));
    for record in refused {
        t.quiet(error(Some(record), "never"));
    }
    waited
}

#[test]
fn what_is_refused_again_and_again_is_offered_less_and_less_often() {
    let mut t = Test::in_sync();
    let (a, b) = (record(1), record(2));
    t.step(changed([&a]));
    t.quiet(error(Some(&a), "never"));
    let mut waits = || seconds_until_refused_again(&mut t, std::slice::from_ref(&a));
    let waited: Vec<u64> = (0..10).map(|_| waits()).collect();
    assert_eq!(waited[..4], [16, 16, 31, 61], "twice as long each time");
    assert_eq!(waited[8..], [901, 901], "up to a quarter of an hour");
    // Anything else is worth trying soon, and so is everything when a user asks.
    t.step(changed([&b]));
    t.quiet(error(Some(&b), "never"));
    assert_eq!(seconds_until_refused_again(&mut t, &[a.clone(), b.clone()]), 901, "with the next attempt");
    let both = |t: &mut Test| seconds_until_refused_again(t, &[a.clone(), b.clone()]);
    assert_eq!((both(&mut t), both(&mut t)), (16, 31));
    let nonce = t.asks(SessionInput::Verify { round: 1 });
    t.quiet(compared(nonce, EMPTY, EMPTY));
    assert!(both(&mut t) <= 16);
}

#[test]
fn the_libraries_of_a_connection_share_what_may_be_unconfirmed() {
    const LANES: usize = 64;
    let now = Instant::now();
    let full = |n: u32| edited(&record(n), 1, &"x".repeat(16_000));
    let mut sessions: Vec<Session> = (0..LANES)
        .map(|_| Session::new(SessionSettings { lanes: LANES, ..settings(true) }, EMPTY, EMPTY, now).0)
        .collect();
    let (mut offers, mut bytes) = (0, 0);
    for (n, session) in (0..).zip(&mut sessions) {
        let records: Vec<AssetRecord> = (0..1_000).map(|m| full(1_000 * n + m)).collect();
        // All that there is room for, from the feed and from a comparison.
        let mut effects = session.handle(changed(&records[..1]), now);
        effects.extend(
            session.handle(SessionInput::Differences { have: hashes(&records), need: Vec::new() }, now),
        );
        while let Some(SessionEffect::Load(wanted)) = effects.pop() {
            let wanted = records.iter().filter(|record| wanted.contains(&record.hash)).cloned().collect();
            let mut more = session.handle(loaded(wanted), now);
            offers += more.iter().map(records_in).sum::<usize>();
            more.retain(|effect| matches!(effect, SessionEffect::Load(_)));
            effects.extend(more);
        }
        bytes += session.open_bytes;
        assert!(session.open_count > 0, "each has some");
    }
    assert!(offers <= OFFERS_OPEN_MAX && bytes < OFFERED_BYTES_TAKEN_MAX, "{offers} with {bytes} bytes");
    assert!(!Session::owe_too_much(sessions.iter()));
    // Whoever offers more, in all of them together, is seen to.
    let many: Vec<AssetRecord> = (0..200).map(record).collect();
    for session in &mut sessions {
        session.handle(offered(&many), now);
    }
    assert!(Session::owe_too_much(sessions.iter()), "each is within the bounds of one");
    assert!(!Session::owe_too_much(sessions[..40].iter()));
}

#[test]
fn an_error_about_nothing_that_was_offered_is_told_and_changes_nothing() {
    let mut t = Test::in_sync();
    t.quiet(error(None, &"x".repeat(5000)));
    t.quiet(error(Some(&record(1)), "never offered"));
    assert_eq!((t.state(), t.missing_there()), (ConnectionState::InSync, 0));
    assert_eq!(t.session.standing().last_error.unwrap(), "the peer reports: never offered");
    t.quiet(error(None, &"x".repeat(5000)));
    assert!(t.session.standing().last_error.unwrap().len() < 250, "strangers' words are cut");
}

#[test]
fn a_queue_that_overflows_is_given_up_for_another_comparison() {
    let mut t = Test::in_sync();
    let first = record(1);
    assert_eq!(t.step(changed([&first])).len(), 1);
    let many = vec![record(2).hash; QUEUE_MAX + 1];
    t.quiet(SessionInput::Differences { have: many, need: Vec::new() });
    assert!(!t.reconciles_within(3), "something is still on its way");
    t.quiet(have([&first]));
    assert!(t.reconciles_within(1));
}

#[test]
fn changes_that_were_lost_are_found_by_another_comparison() {
    let mut t = Test::in_sync();
    t.quiet(SessionInput::ChangesLost);
    assert!(t.reconciles_within(1));
    t.quiet(ended(true));
    assert!(!t.reconciles_within(60), "once is enough");
}

// ---- Receiving -------------------------------------------------------------------------------------------------------

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
    // Whoever still has the asset was away for longer, and hears of it.
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
    assert_eq!(said(&t.step(SessionInput::StoreChanged(entries.clone()))), absent);
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
    assert_eq!(t.step(SessionInput::StoreChanged([entry].into())), []);
    assert_eq!(t.step(SessionInput::Settled(vec![held.hash])), [confirmed([&held])]);
    assert_eq!(t.session.standing().state, ConnectionState::InSync);
    for lie in [&[0b100_u8][..], &[0, 0], &[0xff; 200]] {
        let offer = Offer { absent: Bytes::copy_from_slice(lie), ..wire_offer([&record(8), &record(9)]) };
        let effects = Test::in_sync().step(SessionInput::Frame(frame::Kind::Offer(offer)));
        assert!(matches!(effects[..], [SessionEffect::Close { code: 400, .. }]), "{lie:?}: {effects:?}");
    }
}

// ---- Asking by id ----------------------------------------------------------------------------------------------------

#[test]
fn ids_are_asked_for_two_thousand_at_most_until_they_are_answered() {
    let mut t = Test::in_sync();
    let records: Vec<_> = (0..2500).map(record).collect();
    let effects = t.step(SessionInput::Differences { have: Vec::new(), need: ids(&records) });
    assert_eq!(effects, [ask(&records[..1000])]);
    // What they say is not known yet: it may be nothing that is wanted here.
    assert_eq!((t.state(), t.missing_here()), (ConnectionState::Reconciling, 0));
    assert_eq!(t.session.standing().unseen, 2500);
    let mut asked = vec![1000];
    // Answered one by one, so that the next question comes as soon as there is room for it.
    for (answered, record) in (1..).zip(&records) {
        for effect in t.step(offered([record])) {
            if let SessionEffect::Send(frame::Kind::Records(records)) = effect {
                asked.push(records.rids.len());
            }
        }
        assert!(asked.iter().sum::<usize>() - answered <= 2000);
        t.step(judged([(record, OfferVerdict::Settled)]));
    }
    assert_eq!(asked.iter().sum::<usize>(), 2500);
    assert!(asked.iter().all(|n| *n <= 1000), "{asked:?}");
    assert_eq!((t.state(), t.missing_here()), (ConnectionState::InSync, 0));
}

#[test]
fn an_id_that_is_gone_is_no_longer_waited_for() {
    let mut t = Test::in_sync();
    let (there, gone) = (record(1), record(2));
    t.step(SessionInput::Differences { have: Vec::new(), need: ids(&[there.clone(), gone.clone()]) });
    let mut answer = wire_offer([&there]);
    answer.gone = vec![rid_bytes(&gone)];
    assert_eq!(
        t.step(SessionInput::Frame(frame::Kind::Offer(answer))),
        [SessionEffect::Judge(vec![there.clone()])]
    );
    t.step(judged([(&there, OfferVerdict::Settled)]));
    assert_eq!((t.state(), t.missing_here()), (ConnectionState::InSync, 0));
}

#[test]
fn ids_that_the_peer_asks_for_are_answered_before_everything_else() {
    let mut t = Test::in_sync();
    let (queued, asked, gone) = (record(1), record(2), record(3));
    let all = [asked.clone(), gone.clone()];
    assert_eq!(t.step(question(&all)), [SessionEffect::Resolve(ids(&all))]);
    t.quiet(SessionInput::Resolved { found: Vec::new(), gone: Vec::new() });
    let effects =
        t.step(SessionInput::Resolved { found: vec![(id(&asked), asked.hash)], gone: vec![id(&gone)] });
    let sorry = offer_with([], [&gone]);
    assert_eq!(effects, [sorry, SessionEffect::Load(vec![asked.hash])]);
    t.quiet(SessionInput::Differences { have: vec![queued.hash], need: Vec::new() });
    let effects = t.step(loaded(vec![asked.clone()]));
    assert_eq!(effects, [offer([&asked]), SessionEffect::Load(vec![queued.hash])]);
}

#[test]
fn a_version_that_was_overtaken_while_it_was_loaded_is_gone() {
    let mut t = Test::in_sync();
    let (old, purged) = (record(1), record(2));
    let new = edited(&old, 1, "meanwhile");
    t.step(question(&[old.clone(), purged.clone()]));
    let found = [&old, &purged].map(|r| (id(r), r.hash)).to_vec();
    t.step(SessionInput::Resolved { found, gone: Vec::new() });
    let effects = t.step(loaded(vec![new.clone()]));
    assert_eq!(effects, [offer_with([&new], [&old, &purged])]);
}

#[test]
fn questions_that_break_the_rules_end_the_connection() {
    let question =
        |records: Records| Test::in_sync().step(SessionInput::Frame(frame::Kind::Records(records)));
    assert_closes(&question(Records { library: Bytes::from_static(b"another"), rids: Vec::new() }), 400);
    let short = vec![Bytes::from_static(b"short")];
    assert_closes(&question(Records { library: LIBRARY, rids: short }), 400);
    let many = vec![Bytes::from_static(&[1; 32]); 4001];
    assert_closes(&question(Records { library: LIBRARY, rids: many.clone() }), 400);
    assert!(matches!(
        question(Records { library: LIBRARY, rids: many[..4000].to_vec() })[..],
        [SessionEffect::Resolve(_)]
    ));
}

#[test]
fn frames_out_of_place_end_the_connection() {
    for kind in [
        frame::Kind::Hello(Hello::default()),
        frame::Kind::Auth(proto::Auth::default()),
        frame::Kind::Welcome(Welcome::default()),
        frame::Kind::Ping(Ping::default()),
        frame::Kind::Pong(Pong::default()),
        frame::Kind::ReconOpen(ReconOpen::default()),
        frame::Kind::ReconMsg(ReconMsg::default()),
        frame::Kind::ReconClose(ReconClose::default()),
    ] {
        assert_closes(&Test::in_sync().step(SessionInput::Frame(kind)), 400);
    }
}

// ---- Comparing -------------------------------------------------------------------------------------------------------

#[test]
fn silence_is_probed_and_ends_the_connection() {
    let mut t = Test::in_sync();
    assert_eq!(t.after(15), []);
    let [SessionEffect::SendSummary { nonce, answer: false }] = t.after(1)[..] else { panic!("no probe") };
    assert_eq!(t.after(30), [], "one question at a time");
    assert_closes(&t.after(1), 408);
    t.step(compared(nonce, EMPTY, EMPTY));
    assert_eq!(t.after(15), [], "the answer came after all");
}

#[test]
fn whoever_speaks_is_not_probed() {
    let mut t = Test::in_sync();
    for _ in 0..5 {
        assert_eq!(t.after(14), []);
        t.quiet(have([]));
    }
}

#[test]
fn a_question_is_answered_and_an_answer_to_nothing_is_ignored() {
    let mut t = Test::in_sync();
    let question =
        SessionInput::Compared { answer: false, nonce: 77, theirs: OTHER, ours: EMPTY, certain: true };
    assert_eq!(t.step(question), [SessionEffect::SendSummary { nonce: 77, answer: true }]);
    assert_eq!(t.session.standing().assets, 3);
    t.quiet(compared(78, OTHER, EMPTY));
}

#[test]
fn a_difference_that_nobody_reported_is_found_after_the_next_burst() {
    let mut t = Test::in_sync();
    t.now += RECONCILE_APART + Duration::from_secs(1);
    t.quiet(have([]));
    for (records, compares) in [(1, true), (2, false)] {
        let a = record(records);
        t.step(changed([&a]));
        t.quiet(have([&a]));
        let [SessionEffect::SendSummary { nonce, answer: false }] = t.after(1)[..] else {
            panic!("no question")
        };
        let ours = Summary { count: records.into(), ..EMPTY };
        let effects = t.step(compared(nonce, OTHER, ours));
        assert_eq!(effects == [SessionEffect::Reconcile], compares, "once in a minute: {effects:?}");
        t.quiet(ended(true));
    }
}

#[test]
fn making_sure_ends_with_equal_records() {
    let mut t = Test::in_sync();
    let nonce = t.asks(SessionInput::Verify { round: 5 });
    assert_eq!((t.state(), t.session.standing().verified), (ConnectionState::Reconciling, 0));
    let lagging = Summary { assets: 9, ..OTHER };
    t.quiet(compared(nonce, OTHER, lagging));
    assert_eq!((t.state(), t.session.standing().verified), (ConnectionState::InSync, 5));
}

#[test]
fn making_sure_waits_for_what_is_on_its_way_and_asks_again() {
    let mut t = Test::in_sync();
    let a = record(1);
    t.step(changed([&a]));
    t.quiet(SessionInput::Verify { round: 1 });
    let nonce = t.asks(have([&a]));
    let b = record(2);
    t.step(changed([&b]));
    t.quiet(compared(nonce, OTHER, OTHER));
    assert_eq!(t.session.standing().verified, 0, "there is something to confirm yet");
    let nonce = t.asks(have([&b]));
    t.quiet(compared(nonce, OTHER, OTHER));
    assert_eq!(t.session.standing().verified, 1);
}

#[test]
fn making_sure_compares_differences_that_stay_once_and_no_more() {
    let mut t = Test::in_sync();
    for round in 1..4 {
        let nonce = t.asks(SessionInput::Verify { round });
        let effects = t.step(compared(nonce, OTHER, EMPTY));
        assert_eq!(effects, [SessionEffect::Reconcile], "round {round}");
        let nonce = t.asks(ended(true));
        t.quiet(compared(nonce, OTHER, EMPTY));
        assert_eq!((t.state(), t.session.standing().verified), (ConnectionState::InSync, round));
    }
    // The comparison after the burst knows those differences, too.
    let [SessionEffect::SendSummary { nonce, answer: false }] = t.after(1)[..] else { panic!("no question") };
    t.quiet(compared(nonce, OTHER, EMPTY));
    assert!(!t.reconciles_within(10));
}

#[test]
fn making_sure_follows_differences_that_change() {
    let mut t = Test::in_sync();
    let mut nonce = t.asks(SessionInput::Verify { round: 1 });
    for count in 10..20 {
        let ours = Summary { count, ..EMPTY };
        let effects = t.step(compared(nonce, OTHER, ours));
        assert_eq!(effects, [SessionEffect::Reconcile]);
        nonce = t.asks(ended(true));
    }
    t.quiet(compared(nonce, OTHER, OTHER));
    assert_eq!(t.session.standing().verified, 1);
}

#[test]
fn a_round_that_is_asked_for_meanwhile_has_a_question_of_its_own() {
    let mut t = Test::in_sync();
    let first = t.asks(SessionInput::Verify { round: 1 });
    let second = t.asks(SessionInput::Verify { round: 2 });
    t.quiet(compared(first, OTHER, OTHER));
    assert_eq!(t.session.standing().verified, 0, "that was about an earlier moment");
    t.quiet(compared(second, OTHER, OTHER));
    assert_eq!(t.session.standing().verified, 2);
}

#[test]
fn an_answer_of_stores_that_lag_behind_is_worth_nothing() {
    let mut t = Test::in_sync();
    let nonce = t.asks(SessionInput::Verify { round: 1 });
    let uncertain =
        SessionInput::Compared { answer: true, nonce, theirs: OTHER, ours: OTHER, certain: false };
    t.quiet(uncertain);
    assert_eq!(t.session.standing().verified, 0);
    let nonce = t.asks(have([]));
    t.quiet(compared(nonce, OTHER, OTHER));
    assert_eq!(t.session.standing().verified, 1);
}

// ---- Helpers ---------------------------------------------------------------------------------------------------------

struct Test {
    session: Session,
    now: Instant,
}

impl Test {
    fn in_sync() -> Self {
        let now = Instant::now();
        Self { session: Session::new(settings(true), EMPTY, EMPTY, now).0, now }
    }

    fn reconciling() -> Self {
        let now = Instant::now();
        let (session, effects) = Session::new(settings(true), EMPTY, OTHER, now);
        assert_eq!(effects, [SessionEffect::Reconcile]);
        Self { session, now }
    }

    fn step(&mut self, input: SessionInput) -> Vec<SessionEffect> {
        self.session.handle(input, self.now)
    }

    /// A step that has nothing done.
    #[track_caller]
    fn quiet(&mut self, input: SessionInput) {
        assert_eq!(self.step(input), []);
    }

    /// A step that has the peer asked how it stands; the question's number.
    #[track_caller]
    fn asks(&mut self, input: SessionInput) -> u64 {
        let mut effects = self.step(input);
        if effects.is_empty() {
            // Questions keep a distance.
            self.now += ASK_APART;
            effects = self.step(have([]));
        }
        match effects[..] {
            [SessionEffect::SendSummary { nonce, answer: false }] => nonce,
            ref other => panic!("{other:?}"),
        }
    }

    /// What a tick has done so many seconds later.
    fn after(&mut self, secs: u64) -> Vec<SessionEffect> {
        self.now += Duration::from_secs(secs);
        self.step(SessionInput::Tick)
    }

    /// Whether a reconciliation is opened within so many ticks, one per second; probes are answered on the way.
    fn reconciles_within(&mut self, secs: u64) -> bool {
        (0..secs).any(|_| {
            let effects = self.after(1);
            for effect in &effects {
                if let SessionEffect::SendSummary { nonce, answer: false } = effect {
                    self.quiet(compared(*nonce, EMPTY, EMPTY));
                }
            }
            effects.contains(&SessionEffect::Reconcile)
        })
    }

    fn state(&self) -> ConnectionState {
        self.session.standing().state
    }

    fn missing_here(&self) -> u64 {
        self.session.standing().missing_here
    }

    fn missing_there(&self) -> u64 {
        self.session.standing().missing_there
    }
}

fn settings(dialer: bool) -> SessionSettings {
    SessionSettings {
        tag: Bytes::new(),
        gives: true,
        takes: true,
        library: LIBRARY,
        record_key: KEYS.record().clone(),
        lanes: 1,
        dialer,
        probe_after: Duration::from_secs(15),
    }
}

fn record(n: u32) -> AssetRecord {
    let mut hash = [0; 32];
    hash[..4].copy_from_slice(&n.to_be_bytes());
    let meta = AssetMeta { created_at_ms: NOW_MS - 10_000, ..AssetMeta::default() };
    AssetRecord::new(ContentHash(hash), 100 + u64::from(n), None, meta)
}

fn edited(record: &AssetRecord, after_ms: u64, text: &str) -> AssetRecord {
    let mut edited = record.clone();
    edited.hlc = Hlc::from_ms(record.hlc.ms() + after_ms);
    edited.writer = WriterId([7; 32]);
    edited.meta.description = Some(text.to_owned());
    edited
}

fn id(record: &AssetRecord) -> RecordId {
    record.id(KEYS.record().expose())
}

fn rid_bytes(record: &AssetRecord) -> Bytes {
    Bytes::copy_from_slice(&id(record).0)
}

fn ids(records: &[AssetRecord]) -> Vec<RecordId> {
    records.iter().map(id).collect()
}

fn hashes(records: &[AssetRecord]) -> Vec<ContentHash> {
    records.iter().map(|record| record.hash).collect()
}

fn changed<'a>(records: impl IntoIterator<Item = &'a AssetRecord>) -> SessionInput {
    let entry = |(n, record): (usize, &AssetRecord)| FeedEntry {
        seq: n as u64,
        record: record.clone(),
        holding: Holding::Held,
        formers: Vec::new(),
    };
    SessionInput::StoreChanged(records.into_iter().enumerate().map(entry).collect())
}

/// The store has these, and holds what is live of it.
fn loaded(records: Vec<AssetRecord>) -> SessionInput {
    let stored = |record: AssetRecord| {
        let holding = if record.deleted { Holding::Unwanted } else { Holding::Held };
        StoredRecord { record, holding }
    };
    SessionInput::Loaded { records: records.into_iter().map(stored).collect() }
}

fn wire_offer<'a>(records: impl IntoIterator<Item = &'a AssetRecord>) -> Offer {
    Offer {
        library: LIBRARY,
        records: records.into_iter().map(WireRecord::from).collect(),
        ..Offer::default()
    }
}

fn offer<'a>(records: impl IntoIterator<Item = &'a AssetRecord>) -> SessionEffect {
    offer_with(records, [])
}

fn offer_with<'a>(
    records: impl IntoIterator<Item = &'a AssetRecord>,
    gone: impl IntoIterator<Item = &'a AssetRecord>,
) -> SessionEffect {
    let gone = gone.into_iter().map(rid_bytes).collect();
    SessionEffect::Send(frame::Kind::Offer(Offer { gone, ..wire_offer(records) }))
}

fn offered<'a>(records: impl IntoIterator<Item = &'a AssetRecord>) -> SessionInput {
    SessionInput::Frame(frame::Kind::Offer(wire_offer(records)))
}

fn judged<'a>(verdicts: impl IntoIterator<Item = (&'a AssetRecord, OfferVerdict)>) -> SessionInput {
    SessionInput::Judged(verdicts.into_iter().map(|(record, verdict)| (record.clone(), verdict)).collect())
}

fn have_frame<'a>(records: impl IntoIterator<Item = &'a AssetRecord>) -> frame::Kind {
    let hashes = records.into_iter().map(|record| Bytes::copy_from_slice(&record.hash.0)).collect();
    frame::Kind::Have(Have { hashes, ..Have::default() })
}

fn have<'a>(records: impl IntoIterator<Item = &'a AssetRecord>) -> SessionInput {
    SessionInput::Frame(have_frame(records))
}

fn confirmed<'a>(records: impl IntoIterator<Item = &'a AssetRecord>) -> SessionEffect {
    SessionEffect::Send(have_frame(records))
}

fn error_frame(record: Option<&AssetRecord>, message: &str) -> frame::Kind {
    let hash = record.map(|record| Bytes::copy_from_slice(&record.hash.0));
    frame::Kind::Error(proto::Error {
        code: 422,
        message: message.to_owned(),
        hash,
        ..proto::Error::default()
    })
}

fn error(record: Option<&AssetRecord>, message: &str) -> SessionInput {
    SessionInput::Frame(error_frame(record, message))
}

fn refusal(record: &AssetRecord, message: &str) -> SessionEffect {
    SessionEffect::Send(error_frame(Some(record), message))
}

fn records_frame(records: &[AssetRecord]) -> frame::Kind {
    frame::Kind::Records(Records { library: LIBRARY, rids: records.iter().map(rid_bytes).collect() })
}

fn ask(records: &[AssetRecord]) -> SessionEffect {
    SessionEffect::Send(records_frame(records))
}

fn question(records: &[AssetRecord]) -> SessionInput {
    SessionInput::Frame(records_frame(records))
}

fn compared(nonce: u64, theirs: Summary, ours: Summary) -> SessionInput {
    SessionInput::Compared { answer: true, nonce, theirs, ours, certain: true }
}

fn ended(opened_here: bool) -> SessionInput {
    SessionInput::ReconEnded { opened_here, result: Ok(()) }
}

/// Records in an offer; none in anything else.
fn records_in(effect: &SessionEffect) -> usize {
    match effect {
        SessionEffect::Send(frame::Kind::Offer(offer)) => offer.records.len(),
        _ => 0,
    }
}

#[track_caller]
fn assert_closes(effects: &[SessionEffect], expected: u32) {
    let codes: Vec<u32> = effects
        .iter()
        .filter_map(|effect| match effect {
            SessionEffect::Close { code, reason } if !reason.is_empty() => Some(*code),
            _ => None,
        })
        .collect();
    assert_eq!(codes, [expected], "{effects:?}");
}
