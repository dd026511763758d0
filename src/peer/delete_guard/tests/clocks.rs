//! Budgets while the clock is set, is behind, or was ahead.

use super::*;

#[test]
fn a_boot_with_the_clock_behind_does_not_make_one_hour_of_a_day() {
    let mut t = Test::new();
    let spend = |t: &mut Test, from: u32, count: u32| t.judge(&device(1), &some(from..from + count), 100);
    for n in 0..6 {
        assert_eq!(spend(&mut t, n * 5, 5), DeletionRuling::Apply);
        t.now += 2 * HOUR;
    }
    let right = t.now;
    // Until a time service is heard, the machine believes what its clock was built with.
    t.restart();
    t.now -= 72 * HOUR;
    let changes = t.decisions.bring_back(t.now);
    t.write(changes);
    t.now = right;
    let changes = t.decisions.follow_clock((72 * HOUR).cast_signed(), right);
    t.write(changes);
    assert_eq!(
        spend(&mut t, 100, 10),
        DeletionRuling::Apply,
        "five went within the last hour, thirty in the day"
    );
    assert_eq!(spend(&mut t, 110, 1), DeletionRuling::Hold, "and no day has passed");
}

proptest! {
    /// Whatever the clock is set to while this node runs, and set back to while it is down: within an hour and a day that
    /// really passed, no ticket has more applied than its budget.
    #[test]
    fn a_clock_that_is_set_opens_no_budget(
        events in prop::collection::vec((0_u32..25, 0_u64..50, -3000_i64..3000, any::<bool>()), 1..60)
    ) {
        let (mut passed, mut off) = (0, 0_i64);
        let mut t = Test::new();
        let mut time = SteadyTime { ms: START, at: Duration::ZERO };
        let (mut next, mut applied) = (0, Vec::<(u64, usize)>::new());
        for (count, minutes, set, restart) in events {
            passed += minutes * MINUTE;
            off += if restart { -set.abs() } else { set } * 60_000;
            let (clock, at) = ((START + passed).saturating_add_signed(off), Duration::from_millis(passed));
            if restart {
                t.restart();
                time = SteadyTime { ms: clock, at };
                let changes = t.decisions.bring_back(clock);
                t.write(changes);
            }
            let (now, set_by) = time.now(clock, at);
            t.now = now;
            let changes = t.decisions.follow_clock(set_by, now);
            t.write(changes);
            if count > 0 && t.judge(&ticket(3), &some(next..next + count), 100) == DeletionRuling::Apply {
                applied.push((passed, count as usize));
                next += count;
            } else {
                // Somebody says no again and again, so that a hold does not hide what the budgets would let through.
                t.decide(&[ticket(3)], DeletionDecision::Rejected);
                next += count;
            }
            for (span, allowed) in [(HOUR, 20), (24 * HOUR, 40)] {
                let recent = applied.iter().filter(|(at, _)| at + span > passed);
                let sum: usize = recent.map(|(_, count)| count).sum();
                prop_assert!(sum <= allowed, "{sum} of {allowed}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// The registry keeps exactly what the tests above restart from.
    #[test]
    fn what_is_written_down_is_what_was_decided(
        events in prop::collection::vec((0_u8..4, 0_u32..60, 1_u32..25, 0_u8..8), 1..40)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(&dir.path().join("libraries.db")).unwrap();
        let mut t = Test::new();
        let mut all = Vec::new();
        for (who, from, count, what) in events {
            t.now += 20 * MINUTE;
            let by = if who < 2 { device(who) } else { ticket(u64::from(who)) };
            let deletions = some(from..from + count);
            let changes = match what {
                0 => t.decisions.decide(&[by], DeletionDecision::Confirmed).1,
                1 => t.decisions.decide(&[by], DeletionDecision::Rejected).1,
                2 => t.decisions.note(&[record(&deletions[0], true, deletions[0].hlc)]),
                3 => t.decisions.note_gone(&[deletions[0].hash]),
                4 if count > 20 => t.decisions.forget_library(LIBRARY),
                4 => t.decisions.note_size(LIBRARY, u64::from(from), t.now),
                5 if count > 20 => t.decisions.follow_clock(-i64::from(from) * 60_000, t.now),
                5 => t.decisions.bring_back(t.now - u64::from(from) * MINUTE),
                _ => t.decisions.judge(&by, &deletions, 10, t.now).1,
            };
            all.extend(changes.iter().cloned());
            t.write(changes);
        }
        registry.change_deletions(&all).unwrap();
        let sorted = |mut kept: KeptDeletions| {
            kept.spent.sort();
            kept.held.sort_by_key(|(by, _, deletion)| (by.clone(), deletion.hash));
            kept.decided.sort_by_key(|(library, deletion, _)| (library.clone(), deletion.hash));
            kept.sizes.sort();
            kept
        };
        let kept = sorted(registry.deletions().unwrap());
        prop_assert_eq!(&kept, &sorted(t.kept.clone()));
        // And what begins from it is what was there.
        let again = Decisions::new(kept);
        prop_assert_eq!(again.holds().collect::<Vec<_>>(), t.decisions.holds().collect::<Vec<_>>());
        prop_assert_eq!(again.decided(), t.decisions.decided());
    }
}

#[test]
fn a_clock_set_back_before_a_start_opens_no_budget() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(&dir.path().join("libraries.db")).unwrap();
    // One that shows this, and was just started.
    let open = |own_ms| {
        let clock = Clock::reading_from(move || Moment { own_ms, uptime: Duration::ZERO });
        DeleteGuard::open(true, Some(&registry), clock, EventLog::default()).unwrap()
    };
    let now = crate::clock::now_ms();
    assert_eq!(open(now).judge(&ticket(3), &some(0..20), 40)[0], DeletionRuling::Apply);
    for (n, set_back) in (20..).zip([2 * HOUR, 48 * HOUR, now]) {
        let guard = open(now - set_back);
        assert_eq!(guard.judge(&ticket(3), &some(n..n + 1), 40), [DeletionRuling::Hold], "{set_back}");
        guard.decide(None, DeletionDecision::Rejected).unwrap();
    }
    let guard = open(now + 2 * HOUR);
    assert_eq!(guard.judge(&ticket(3), &some(30..31), 40), [DeletionRuling::Apply], "two hours did pass");
}

#[test]
fn time_goes_on_evenly_until_the_clock_is_set() {
    let mut time = SteadyTime { ms: START, at: Duration::ZERO };
    let after = Duration::from_secs;
    assert_eq!(time.now(START + 500, after(1)), (START + 1000, 0), "a clock that lags behind");
    let hour = i64::try_from(HOUR).unwrap();
    assert_eq!(time.now(START + HOUR + 2000, after(2)), (START + HOUR + 2000, hour));
    assert_eq!(time.now(START + HOUR + 2500, after(5)), (START + HOUR + 5000, 0));
    assert_eq!(time.now(START + 6000, after(6)), (START + 6000, -hour));
}

/// A machine whose clock a test sets.
fn settable() -> (Clock, Arc<Mutex<Moment>>) {
    let shown = Arc::new(Mutex::new(Moment { own_ms: crate::clock::now_ms(), uptime: Duration::ZERO }));
    let read = Arc::clone(&shown);
    (Clock::reading_from(move || *read.lock()), shown)
}

#[test]
fn what_a_clock_that_was_ahead_counted_is_over_after_a_day() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(&dir.path().join("libraries.db")).unwrap();
    let open = |clock| DeleteGuard::open(true, Some(&registry), clock, EventLog::default()).unwrap();
    let now = crate::clock::now_ms();
    let (clock, shown) = settable();
    shown.lock().own_ms = now + 200 * 24 * HOUR;
    let guard = open(clock);
    assert_eq!(guard.judge(&device(1), &some(0..20), 150)[0], DeletionRuling::Apply);
    assert_eq!(guard.judge(&device(2), &some(20..60), 150)[0], DeletionRuling::Hold);
    drop(guard);
    let at = |own_ms| Clock::reading_from(move || Moment { own_ms, uptime: Duration::ZERO });
    let guard = open(at(now));
    assert_eq!(guard.holds()[0].since_ms, now);
    assert_eq!(guard.judge(&device(1), &some(60..61), 150), [DeletionRuling::Hold], "as of now");
    guard.decide(None, DeletionDecision::Rejected).unwrap();
    drop(guard);
    let guard = open(at(now + 25 * HOUR));
    assert_eq!(guard.judge(&device(1), &some(61..81), 150)[0], DeletionRuling::Apply, "that was a day ago");
}

#[test]
fn a_clock_that_is_set_while_the_node_runs_opens_no_budget_and_leaves_nothing_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(&dir.path().join("libraries.db")).unwrap();
    let (clock, shown) = settable();
    let set = |own_ms, minutes| *shown.lock() = Moment { own_ms, uptime: Duration::from_mins(minutes) };
    let now = crate::clock::now_ms();
    let ahead = 200 * 24 * HOUR;
    let guard = DeleteGuard::open(true, Some(&registry), clock, EventLog::default()).unwrap();
    guard.note_sizes(&[(String::new(), 150)]);
    assert_eq!(guard.judge(&device(1), &some(0..20), 150)[0], DeletionRuling::Apply);
    set(now + ahead, 1);
    assert_eq!(guard.judge(&device(1), &some(20..21), 5_000), [DeletionRuling::Hold], "a minute passed");
    guard.decide(None, DeletionDecision::Rejected).unwrap();
    assert_eq!(guard.judge(&ticket(3), &some(20..40), 150)[0], DeletionRuling::Apply);
    set(now + 2 * MINUTE, 2);
    guard.note_sizes(&[(String::new(), 140)]);
    let kept = registry.deletions().unwrap();
    let dates = kept.spent.iter().map(|(_, at, _)| *at).chain(kept.sizes.iter().map(|(_, at, _)| *at));
    assert!(dates.clone().all(|at| at <= now + 2 * MINUTE && at > now - 2 * HOUR), "{kept:?}");
    assert!(dates.count() >= 3, "{kept:?}");
}
