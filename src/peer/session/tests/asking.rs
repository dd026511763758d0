//! Records that are asked for by their ids, and frames out of place.

use super::*;

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
