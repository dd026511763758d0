//! When two sides compare what they have, and how they make sure that nothing is missing.

use super::*;
use crate::peer::session::comparing::RECONCILE_APART;

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
