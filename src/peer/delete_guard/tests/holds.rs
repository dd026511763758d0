//! Deletions that wait for a decision: what is listed, and what a decision does.

use super::*;

#[test]
fn what_was_decided_holds_for_one_version_and_whoever_brings_it() {
    let mut t = Test::new();
    for by in [device(1), device(2)] {
        assert_eq!(t.judge(&by, &some(0..30), 100), DeletionRuling::Hold);
    }
    assert_eq!(t.judge(&device(2), &some(0..60), 100), DeletionRuling::Hold);
    assert_eq!(t.decide(&[device(1)], DeletionDecision::Rejected), 30);
    assert_eq!(t.held_by(&device(2)), 30, "nobody is asked twice about the same");
    // The second version of one asset may wait beside the first.
    let other = Deletion { digest: [5; 32], ..deletion(30) };
    assert_eq!(t.judge(&device(2), &[other], 100), DeletionRuling::Hold);
    assert_eq!(t.held_by(&device(2)), 30, "the latest that came");
    t.restart();
    for by in [device(1), device(3)] {
        assert_eq!(t.judge(&by, &some(0..30), 100), DeletionRuling::Ignore);
    }
    assert_eq!(t.decisions.held(), 30);
    // Deleted once more, it is another deletion.
    let again: Vec<Deletion> = some(0..30).into_iter().map(|d| Deletion { digest: [7; 32], ..d }).collect();
    assert_eq!(t.judge(&device(1), &again, 100), DeletionRuling::Hold);
    assert_eq!(t.decisions.decided(), (0, 30));
}

#[test]
fn after_a_confirmation_counting_begins_anew_and_after_a_rejection_it_does_not() {
    let mut t = Test::new();
    assert_eq!(t.judge(&device(1), &some(0..20), 40), DeletionRuling::Apply);
    assert_eq!(t.judge(&device(1), &some(20..40), 20), DeletionRuling::Hold);
    t.decide(&[device(1)], DeletionDecision::Confirmed);
    assert_eq!(t.judge(&device(1), &some(40..60), 60), DeletionRuling::Apply);
    assert_eq!(t.judge(&device(1), &some(60..61), 60), DeletionRuling::Hold);
    t.decide(&[device(1)], DeletionDecision::Rejected);
    assert_eq!(t.judge(&device(1), &some(61..62), 60), DeletionRuling::Hold, "what went still counts");
    t.decide(&[device(1)], DeletionDecision::Rejected);
    t.now += HOUR + 5 * MINUTE;
    assert_eq!(t.judge(&device(1), &some(62..63), 60), DeletionRuling::Apply, "but the hold is over");
}

#[test]
fn what_settles_itself_is_forgotten() {
    let mut t = Test::new();
    t.judge(&device(1), &some(0..30), 100);
    let (old, new) = (Hlc::from_ms(START - 1), Hlc::from_ms(START + 1));
    t.note(&[
        record(&deletion(0), true, new),
        record(&deletion(1), false, new),
        record(&deletion(2), false, old),
        record(&deletion(99), true, new),
    ]);
    assert_eq!(t.held_by(&device(1)), 28, "one was deleted here, too, one was edited");
    t.decide(&[device(1)], DeletionDecision::Confirmed);
    t.note(&some(2..30).iter().map(|d| record(d, true, d.hlc)).collect::<Vec<_>>());
    assert_eq!((t.decisions.decided(), t.kept.held.len(), t.kept.decided.len()), ((0, 0), 0, 0));
    t.judge(&device(1), &some(100..130), 100);
    let changes = t.decisions.note_gone(&some(100..130).iter().map(|d| d.hash).collect::<Vec<_>>());
    t.write(changes);
    assert_eq!(t.decisions.holds().count(), 0, "nothing waits, and nothing stops what comes next");
    assert_eq!(t.judge(&device(1), &some(200..201), 100), DeletionRuling::Apply);
}

#[test]
fn a_library_that_is_gone_takes_everything_about_it_along() {
    let mut t = Test::new();
    t.judge(&ticket(3), &some(0..30), 100);
    t.judge(&device(1), &some(0..30), 100);
    t.decide(&[ticket(3)], DeletionDecision::Rejected);
    t.judge(&ticket(3), &some(30..60), 100);
    let changes = t.decisions.forget_library(LIBRARY);
    t.write(changes);
    t.restart();
    assert_eq!((t.held_by(&ticket(3)), t.held_by(&device(1)), t.decisions.decided()), (0, 30, (0, 0)));
}

#[test]
fn the_list_is_bounded_and_the_brake_is_not() {
    let mut decisions = Decisions::default();
    let most = u32::try_from(LISTED_MAX).unwrap();
    let (rulings, changes) = decisions.judge(&device(1), &some(0..most + 5), 10, START);
    assert!(rulings.iter().all(|ruling| *ruling == DeletionRuling::Hold));
    let held = changes.iter().filter(|change| matches!(change, DeletionChange::Held(..))).count();
    assert_eq!((decisions.held(), held), (u64::from(most), LISTED_MAX));
    for from in [most + 100, most + 200, most + 300] {
        let (rulings, _) = decisions.judge(&device(2), &some(from..from + 60), 10, START);
        assert!(rulings.iter().all(|ruling| *ruling == DeletionRuling::Hold), "held back, listed or not");
    }
    let listed = |decisions: &Decisions, by: Deleter| decisions.hold(&by).map(|hold| hold.deletions.len());
    assert_eq!(listed(&decisions, device(2)), Some(LISTED_ALWAYS), "nobody's hold is hidden by another's");
    decisions.judge(&ticket(3), &some(0..500), 10, START);
    assert_eq!(listed(&decisions, ticket(3)), Some(500), "nor a library's by the mirror's");
}

#[test]
fn what_waits_is_told_apart_without_the_store() {
    let guard = DeleteGuard::new(true);
    guard.judge(&device(1), &some(0..30), 40);
    assert_eq!(guard.put_off("", &some(29..31)), [true, false]);
    guard.decide(None, DeletionDecision::Rejected).unwrap();
    assert_eq!(guard.put_off("", &some(29..31)), [true, false]);
    assert_eq!(guard.put_off(LIBRARY, &some(29..31)), [false, false]);
}

#[test]
fn holds_are_written_down_and_named_the_same_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(&dir.path().join("libraries.db")).unwrap();
    let open =
        |enabled| DeleteGuard::open(enabled, Some(&registry), Clock::system(), EventLog::default()).unwrap();
    let guard = open(true);
    assert!(guard.judge(&device(1), &some(0..20), 40).iter().all(|ruling| *ruling == DeletionRuling::Apply));
    assert!(guard.judge(&device(1), &some(20..40), 20).iter().all(|ruling| *ruling == DeletionRuling::Hold));
    guard.judge(&ticket(3), &some(0..30), 40);
    let holds = guard.holds();
    assert_eq!(holds.iter().map(|hold| hold.count).collect::<Vec<_>>(), [20, 30]);
    assert_eq!(holds[0].examples.len(), EXAMPLES);
    drop(guard);

    let guard = open(true);
    assert_eq!(guard.holds(), holds);
    assert_eq!(guard.held(), 40);
    assert_eq!(guard.judge(&device(1), &some(40..41), 20), [DeletionRuling::Hold]);
    assert_eq!(guard.decide(Some("nobody's"), DeletionDecision::Confirmed), Err(UnknownHold));
    assert_eq!(guard.decide(Some(&holds[1].id), DeletionDecision::Rejected).unwrap().len(), 30);
    assert_eq!(guard.held(), 21);
    drop(guard);

    let off = open(false);
    assert_eq!((off.held(), off.holds(), off.is_enabled()), (0, Vec::new(), false));
    let guard = open(true);
    assert_eq!((guard.held(), guard.decided()), (21, (0, 30)));
    assert_eq!(guard.decide(None, DeletionDecision::Confirmed).unwrap().len(), 21);
    assert_eq!(
        guard.decide(None, DeletionDecision::Confirmed),
        Ok(Vec::new()),
        "everything, and there is nothing"
    );
    drop(guard);
    let guard = open(true);
    assert_eq!(guard.judge(&device(1), &some(20..41), 40), [DeletionRuling::Apply; 21]);
    guard.note(&some(20..41).iter().map(|d| record(d, true, d.hlc)).collect::<Vec<_>>());
    guard.forget_library(LIBRARY);
    assert_eq!(open(true).decided(), (0, 0));
}

#[test]
fn a_hold_is_told_once() {
    let events = EventLog::default();
    let guard = DeleteGuard::open(true, None, Clock::system(), events.clone()).unwrap();
    for from in [0, 30] {
        guard.judge(&device(1), &some(from..from + 30), 100);
    }
    let (told, _) = events.since(0);
    let told: Vec<&NodeEvent> = told.iter().map(|logged| &logged.event).collect();
    let source = device(1).source;
    assert_eq!(told, [&NodeEvent::DeletionsHeld { library: None, source, held: 30 }]);
}
