//! What is offered to a peer, when, and until when.

use super::*;

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

#[test]
fn a_small_asset_that_was_made_here_takes_its_content_along() {
    let mut t = Test::in_sync();
    let (small, other) = (record(1), record(2));
    let SessionInput::StoreChanged { entries, .. } = changed([&small, &other]) else { unreachable!() };
    let contents = Arc::new(InlineContents::from([(small.hash, content_of(&small))]));
    let contents_sent = vec![inline(&small, content_of(&small))];
    let expected = Offer { contents: contents_sent, ..wire_offer([&small, &other]) };
    let created = SessionInput::StoreChanged { entries, contents };
    assert_eq!(t.step(created), [SessionEffect::Send(frame::Kind::Offer(expected))]);
    // What it weighs counts as unconfirmed: 2 MiB of it, and no more is sent.
    let records: Vec<AssetRecord> =
        (0..200).map(|n| AssetRecord { size: 16 * 1024, ..record(100 + n) }).collect();
    let mut sent = 0;
    for r in &records {
        let SessionInput::StoreChanged { entries, .. } = changed([r]) else { unreachable!() };
        let contents = Arc::new(InlineContents::from([(r.hash, content_of(r))]));
        let made = SessionInput::StoreChanged { entries, contents };
        sent += t.step(made).iter().map(records_in).sum::<usize>();
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
        bytes += session.offering.open.bytes;
        assert!(session.offering.open.count > 0, "each has some");
    }
    assert!(offers <= OFFERS_OPEN_MAX && bytes < OFFERED_BYTES_TAKEN_MAX, "{offers} with {bytes} bytes");
    assert!(!Session::owe_too_much(sessions.iter()));
    // A peer that offers more, in all of them together, has broken the rule.
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
