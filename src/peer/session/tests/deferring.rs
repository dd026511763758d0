//! Versions that have to wait, for a clock or for a newer list of revocations.

use ed25519_dalek::SigningKey;

use super::*;
use crate::library::filter::Filter;
use crate::library::registry::Kept;
use crate::library::revocation::{Revocations, SignedRevocations};
use crate::library::ticket::{Access, Terms};
use crate::library::{Libraries, SharedLibrary};
use crate::peer::session::judging::HELD_RETRY_MS;
use crate::wire::proto::{Deferral, Later};

const HOUR_MS: u64 = 3_600_000;

fn later_frame<'a>(records: impl IntoIterator<Item = (&'a AssetRecord, u64)>) -> frame::Kind {
    let deferral = |(record, wait_ms): (&AssetRecord, u64)| Deferral {
        hash: Bytes::copy_from_slice(&record.hash.0),
        rid: rid_bytes(record),
        wait_ms,
        held: false,
        entry: false,
    };
    let deferrals = records.into_iter().map(deferral).collect();
    frame::Kind::Later(Later { deferrals, ..Later::default() })
}

fn later<'a>(records: impl IntoIterator<Item = (&'a AssetRecord, u64)>) -> SessionInput {
    SessionInput::Frame(later_frame(records))
}

fn deferred(t: &Test) -> (u64, u64) {
    let standing = t.session.standing();
    (standing.waiting.dated_here, standing.waiting.dated_there)
}

#[test]
fn a_version_that_the_peer_does_not_take_yet_delays_nothing_and_is_offered_when_it_is_due() {
    let mut t = Test::in_sync();
    let ahead = record(1);
    t.step(changed([&ahead]));
    t.quiet(later([(&ahead, HOUR_MS)]));
    assert_eq!((t.state(), t.missing_there(), deferred(&t)), (ConnectionState::InSync, 0, (0, 1)));
    let waiting: Vec<WaitingVersion> = t.session.waiting(10).collect();
    let due = t.now + Duration::from_millis(HOUR_MS);
    assert_eq!(waiting, [WaitingVersion { hash: ahead.hash, due, here: false, held: false }]);
    // Neither our feed nor a comparison brings it up again.
    t.quiet(changed([&ahead]));
    t.step(SessionInput::Differences { have: vec![ahead.hash], need: vec![] });
    assert_eq!(t.step(loaded(vec![ahead.clone()])), []);
    assert_eq!(t.state(), ConnectionState::InSync);
    // The peer may ask for it all the same.
    t.step(question(std::slice::from_ref(&ahead)));
    let found = vec![(id(&ahead), ahead.hash)];
    assert_eq!(
        t.step(SessionInput::Resolved { found, gone: vec![] }),
        [SessionEffect::Load(vec![ahead.hash])]
    );
    assert_eq!(t.step(loaded(vec![ahead.clone()])), [offer([&ahead])]);
    t.quiet(later([(&ahead, HOUR_MS)]));
    // An hour later it is offered by itself.
    let effects = t.after(3600);
    assert!(effects.contains(&SessionEffect::Load(vec![ahead.hash])), "{effects:?}");
    assert_eq!(t.step(loaded(vec![ahead.clone()])), [offer([&ahead])]);
    t.step(have([&ahead]));
    assert_eq!((t.missing_there(), deferred(&t)), (0, (0, 0)));
}

#[test]
fn another_version_does_not_wait_for_the_one_that_does() {
    let mut t = Test::in_sync();
    let (ahead, anew) = (record(1), edited(&record(1), 5, "dated anew"));
    t.step(changed([&ahead]));
    t.quiet(later([(&ahead, HOUR_MS)]));
    assert_eq!(t.step(changed([&anew])), [offer([&anew])]);
    t.quiet(have([&anew]));
    assert_eq!((t.state(), deferred(&t)), (ConnectionState::InSync, (0, 0)));
    assert_eq!(t.session.waiting(10).count(), 0);
}

#[test]
fn a_version_that_waits_here_is_not_asked_for_again_until_a_clock_changes() {
    let mut t = Test::in_sync();
    let ahead = record(1);
    t.step(offered([&ahead, &ahead]));
    let verdicts = [(&ahead, OfferVerdict::Later(HOUR_MS)), (&ahead, OfferVerdict::Later(HOUR_MS))];
    let answer = SessionEffect::Send(later_frame([(&ahead, HOUR_MS), (&ahead, HOUR_MS)]));
    assert_eq!(t.step(judged(verdicts)), [answer], "each offer has its answer");
    assert_eq!((t.state(), t.missing_here(), deferred(&t)), (ConnectionState::InSync, 0, (1, 0)));
    assert_eq!(t.session.standing().last_error, None);
    let need = || SessionInput::Differences { have: vec![], need: vec![id(&ahead), id(&record(2))] };
    assert_eq!(t.step(need()), [ask(&[record(2)])]);
    t.step(offered([&record(2)]));
    t.step(judged([(&record(2), OfferVerdict::Settled)]));
    // Our clock is set: everything is compared again, and then it is asked for.
    t.step(SessionInput::Reconsider);
    assert_eq!(deferred(&t), (0, 0));
    assert!(t.after(1).contains(&SessionEffect::Reconcile));
    t.step(ended(true));
    assert_eq!(t.step(need()), [ask(&[ahead.clone(), record(2)])]);
}

#[test]
fn what_waits_here_is_asked_for_once_it_is_due_and_forgotten_when_another_version_comes() {
    let mut t = Test::in_sync();
    let (ahead, anew) = (record(1), edited(&record(1), 5, "dated anew"));
    t.step(offered([&ahead]));
    t.step(judged([(&ahead, OfferVerdict::Later(2_000))]));
    t.after(2);
    assert_eq!(deferred(&t), (0, 0));
    let need = SessionInput::Differences { have: vec![], need: vec![id(&ahead)] };
    assert_eq!(t.step(need), [ask(std::slice::from_ref(&ahead))]);
    t.step(offered([&ahead]));
    t.step(judged([(&ahead, OfferVerdict::Later(2_000))]));
    t.step(offered([&anew]));
    assert_eq!(deferred(&t), (0, 0));
}

#[test]
fn ours_is_written_once_more_where_it_was_written_while_theirs_had_to_wait() {
    let mut t = Test::in_sync();
    let (theirs, ours) = (record(1), edited(&record(1), 1, "ours"));
    t.step(offered([&theirs]));
    let effects = t.step(judged([(&theirs, OfferVerdict::Reassert)]));
    assert_eq!(effects, [SessionEffect::Reassert(vec![theirs.clone()])]);
    // The version that comes of it is news to the peer, even if its feed is first.
    assert_eq!(t.step(changed([&ours])), [offer([&ours])]);
    assert_eq!(t.step(SessionInput::Settled(vec![theirs.hash])), [confirmed([&theirs])]);
}

#[test]
fn only_what_the_peer_has_taken_is_confirmed() {
    let mut t = Test::in_sync();
    let (first, second) = (record(1), edited(&record(1), 5, "later"));
    t.step(changed([&first]));
    t.step(changed([&second]));
    assert_eq!((t.session.confirmed(), t.session.newest_offered()), (Hlc::default(), second.hlc));
    t.quiet(have([&first]));
    assert_eq!(t.session.confirmed(), first.hlc, "which of the two it was is not known");
    t.quiet(later([(&second, HOUR_MS)]));
    assert_eq!((t.session.confirmed(), t.session.newest_offered()), (first.hlc, Hlc::default()));
    t.quiet(have([&record(9)]));
    assert_eq!(t.session.confirmed(), first.hlc, "it was never offered");
}

#[test]
fn a_wait_without_end_and_answers_to_nothing_do_no_harm() {
    let mut t = Test::in_sync();
    let ahead = record(1);
    t.quiet(later([(&ahead, HOUR_MS)]));
    assert_eq!(deferred(&t), (0, 0), "it was never offered");
    t.step(changed([&ahead]));
    t.quiet(later([(&ahead, u64::MAX)]));
    assert_eq!(deferred(&t), (0, 1));
    let mut garbage = Later { deferrals: vec![Deferral::default()], ..Later::default() };
    garbage.deferrals[0].hash = Bytes::from_static(b"short");
    t.quiet(SessionInput::Frame(frame::Kind::Later(garbage)));
    assert_eq!(t.state(), ConnectionState::InSync);
}

#[test]
fn what_is_remembered_of_versions_that_wait_is_bounded() {
    let mut t = Test::in_sync();
    for n in 0..20_u32 {
        let records: Vec<AssetRecord> = (n * 1_000..(n + 1) * 1_000).map(record).collect();
        t.step(offered(&records));
        t.step(judged(records.iter().map(|record| (record, OfferVerdict::Later(HOUR_MS)))));
        t.step(changed(&records));
        t.step(later(records.iter().map(|record| (record, HOUR_MS))));
    }
    assert_eq!(deferred(&t), (20_000, 20_000), "what is not remembered counts, too");
    assert_eq!((t.missing_here(), t.missing_there()), (0, 0));
    assert_eq!(t.session.waiting(100).count(), 200);
    // A comparison brings up again what is not remembered.
    t.step(SessionInput::ReconEnded { opened_here: false, result: Ok(()) });
    assert_eq!(deferred(&t), (16_384, 16_384));
}

/// A library of which we are a member, whose list may be a day old. We have one of [`NOW_MS`], or none.
fn limited_library(has_list: bool) -> Arc<Library> {
    let key = SigningKey::from_bytes(&[1; 32]);
    let fresh_within_ms = if has_list { 0 } else { 24 * HOUR_MS };
    let terms = Terms { serial: 1, fresh_within_ms, ..Terms::unlimited("pictures".into(), Access::Write) };
    let list = Revocations { fresh_within_ms: 24 * HOUR_MS, ..Revocations::default() };
    let list = SignedRevocations::sign(&key, list.dated(NOW_MS)).encode();
    let revocations = has_list.then_some(list);
    let kept = Kept { revocations, ..Kept::sample(1, terms, Filter::default()) };
    let mirror = Library::new(LibraryKeys::of_read_secret(&[0; 32]));
    Libraries::of(Arc::new(mirror)).add(SharedLibrary::new(kept, HashMap::new()))
}

#[test]
fn what_would_be_news_is_held_while_a_list_is_too_old() {
    assert!(
        limited_library(false).shared().unwrap().is_stale(NOW_MS),
        "the ticket says that there has to be a list"
    );
    let library = limited_library(true);
    let shared = library.shared().unwrap();
    assert!(!shared.is_stale(NOW_MS + 24 * HOUR_MS) && shared.is_stale(NOW_MS + 24 * HOUR_MS + 1));
    let ours = record(1);
    let stored = StoredRecord { record: ours.clone(), holding: Holding::Held };
    library.fill(&[FeedEntry { seq: 1, record: ours.clone(), holding: Holding::Held, formers: Vec::new() }]);
    library.filled();
    let tombstone = AssetRecord { deleted: true, ..edited(&ours, 10, "") };
    let ahead = AssetRecord { hlc: Hlc::from_ms(NOW_MS + HOUR_MS), ..record(2) };
    let held = OfferVerdict::Hold(HELD_RETRY_MS);
    let table = [
        (record(2), None, true, held.clone(), OfferVerdict::Fetch),
        (record(2), None, false, held.clone(), OfferVerdict::Noted),
        (edited(&ours, 10, "newer"), Some(&stored), true, held.clone(), OfferVerdict::Apply),
        (tombstone, Some(&stored), true, held, OfferVerdict::Apply),
        (ours, Some(&stored), true, OfferVerdict::Settled, OfferVerdict::Settled),
        (ahead, None, true, OfferVerdict::Later(HOUR_MS - 60_000), OfferVerdict::Later(HOUR_MS - 60_000)),
    ];
    for (offered, stored, held_there, stale, fresh) in table {
        let before = library.summary();
        let judge = |holds| judge_for(&library, &offered, held_there, stored, NOW_MS, (true, holds), Some(1));
        assert_eq!(judge(true), stale, "{offered:?}");
        assert_eq!(library.summary(), before, "the library does not have it");
        assert_eq!(judge(false), fresh, "{offered:?}");
    }
}

#[test]
fn what_is_held_is_told_apart_from_what_waits_for_a_clock_on_both_sides() {
    let mut t = Test::in_sync();
    let (held, ours) = (record(1), record(2));
    t.step(offered([&held]));
    let frame = |record: &AssetRecord, wait_ms| {
        let hash = Bytes::copy_from_slice(&record.hash.0);
        let deferral = Deferral { hash, rid: rid_bytes(record), wait_ms, held: true, entry: false };
        frame::Kind::Later(Later { deferrals: vec![deferral], ..Later::default() })
    };
    let answer = SessionEffect::Send(frame(&held, HELD_RETRY_MS));
    assert_eq!(t.step(judged([(&held, OfferVerdict::Hold(HELD_RETRY_MS))])), [answer]);
    assert_eq!((t.state(), t.missing_here(), deferred(&t)), (ConnectionState::InSync, 0, (0, 0)));
    let need = || SessionInput::Differences { have: vec![], need: vec![id(&held)] };
    assert_eq!(t.step(need()), []);
    t.step(changed([&ours]));
    t.step(SessionInput::Frame(frame(&ours, HELD_RETRY_MS)));
    assert_eq!((t.state(), deferred(&t)), (ConnectionState::InSync, (0, 0)));
    let standing = t.session.standing();
    assert_eq!((standing.waiting.held_here, standing.waiting.held_there), (1, 1));
    assert!(!standing.is_in_sync(), "nobody else may have ours");
    let mut waiting: Vec<_> = t.session.waiting(10).map(|waiting| (waiting.here, waiting.held)).collect();
    waiting.sort_unstable();
    assert_eq!(waiting, [(false, true), (true, true)]);
}
