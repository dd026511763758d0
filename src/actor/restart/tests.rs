use proptest::prelude::*;

use super::*;
use crate::actor::policy::{ChildKind, POLICIES, RestartBudget, policy};

const TEST: RestartPolicy = RestartPolicy {
    kind: ChildKind::CanService,
    restart: Restart::Always,
    budget: RestartBudget { restarts: 4, window: Duration::from_mins(1) },
    backoff: Backoff { min: Duration::from_millis(100), max: Duration::from_secs(5), jitter: 0.0 },
    exhausted: Exhausted::Escalate,
    stop_order: 1,
    stop_timeout: Duration::from_secs(1),
};

#[test]
fn the_first_restart_is_immediate_and_later_ones_wait_twice_as_long() {
    let (mut history, now) = (History::default(), Instant::now());
    let delays: Vec<_> = (0..4).map(|_| decide(&TEST, &failed("x"), &mut history, now, 1.0)).collect();
    let expected = [0, 100, 200, 400].map(|ms| RestartDecision::Respawn { after: Duration::from_millis(ms) });
    assert_eq!(delays, expected);
    assert_eq!(history.restarts(), 4);
    assert_eq!(history.last_error(), Some("x"));
}

#[test]
fn a_spent_budget_does_what_the_policy_says() {
    let now = Instant::now();
    for (exhausted, expected) in [
        (Exhausted::Escalate, RestartDecision::Escalate { why: why() }),
        (Exhausted::Degrade, RestartDecision::Degrade { retry_after: Duration::from_secs(5), why: why() }),
        (Exhausted::BackOffPeer, RestartDecision::BackOff { for_: Duration::from_secs(5), why: why() }),
    ] {
        let policy = RestartPolicy { exhausted, ..TEST };
        let mut history = History::default();
        for _ in 0..4 {
            let decision = decide(&policy, &failed("x"), &mut history, now, 0.0);
            assert!(matches!(decision, RestartDecision::Respawn { .. }), "{decision:?}");
        }
        assert!(!history.is_spent());
        assert_eq!(decide(&policy, &failed("x"), &mut history, now, 0.0), expected);
        assert!(history.is_spent());
    }
}

#[test]
fn restarts_leave_the_window_one_by_one() {
    let (mut history, start) = (History::default(), Instant::now());
    for i in 0..4 {
        decide(&TEST, &failed("x"), &mut history, start + Duration::from_secs(10 * i), 0.0);
    }
    // The first of the four is out of the window now, so there is room for one.
    let now = start + Duration::from_secs(61);
    assert!(matches!(decide(&TEST, &failed("x"), &mut history, now, 0.0), RestartDecision::Respawn { .. }));
    assert!(matches!(decide(&TEST, &failed("x"), &mut history, now, 0.0), RestartDecision::Escalate { .. }));
}

#[test]
fn a_degraded_child_stays_at_the_longest_delay_until_it_has_been_calm() {
    let policy = RestartPolicy { exhausted: Exhausted::Degrade, ..TEST };
    let (mut history, mut now) = (History::default(), Instant::now());
    for _ in 0..5 {
        decide(&policy, &failed("x"), &mut history, now, 0.0);
    }
    // Retries that fail soon, long after the window of the first failures.
    for _ in 0..20 {
        now += Duration::from_secs(50);
        history.started(now);
        now += Duration::from_secs(1);
        let decision = decide(&policy, &failed("x"), &mut history, now, 0.0);
        assert!(
            matches!(decision, RestartDecision::Degrade { retry_after, .. } if retry_after == TEST.backoff.max),
            "{decision:?}"
        );
    }
    history.started(now);
    now += policy.budget.window;
    let decision = decide(&policy, &failed("x"), &mut history, now, 0.0);
    assert_eq!(decision, RestartDecision::Respawn { after: Duration::ZERO });
}

#[test]
fn a_peer_is_left_alone_for_longer_each_time() {
    let policy = policy(ChildKind::Peer);
    let (mut history, now) = (History::default(), Instant::now());
    for _ in 0..policy.budget.restarts {
        decide(policy, &failed("x"), &mut history, now, 0.0);
    }
    let pauses: Vec<u64> = (0..5)
        .map(|_| match decide(policy, &failed("x"), &mut history, now, 0.0) {
            RestartDecision::BackOff { for_, .. } => for_.as_secs(),
            other @ (RestartDecision::Respawn { .. }
            | RestartDecision::Degrade { .. }
            | RestartDecision::Escalate { .. }
            | RestartDecision::LetGo) => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(pauses, [60, 120, 240, 300, 300]);
}

#[test]
fn exits_in_order_are_let_go() {
    let (mut history, now) = (History::default(), Instant::now());
    let asked = ExitKind::Stopped { reason: None, asked_for: true };
    let by_itself = ExitKind::Stopped { reason: None, asked_for: false };
    let killed = ExitKind::Killed { reason: "killed".to_owned() };
    let on_failure = RestartPolicy { restart: Restart::OnFailure, ..TEST };

    history.started(now);
    assert_eq!(history.running_since(), Some(now));
    assert_eq!(decide(&TEST, &asked, &mut history, now, 0.0), RestartDecision::LetGo);
    assert_eq!(history.running_since(), None);
    assert_eq!(decide(&on_failure, &by_itself, &mut history, now, 0.0), RestartDecision::LetGo);
    assert_eq!(history.last_error(), None);

    assert!(matches!(decide(&TEST, &by_itself, &mut history, now, 0.0), RestartDecision::Respawn { .. }));
    assert!(matches!(decide(&on_failure, &killed, &mut history, now, 0.0), RestartDecision::Respawn { .. }));
}

#[test]
fn the_reason_says_how_it_ended() {
    let killed = |reason: &str| ExitKind::Killed { reason: reason.to_owned() };
    let stopped =
        |reason: Option<&str>| ExitKind::Stopped { reason: reason.map(str::to_owned), asked_for: false };
    for (exit, reason) in [
        (failed("disk full"), "disk full"),
        (killed("killed"), "killed"),
        (killed("actor_task_cancelled"), "killed: actor_task_cancelled"),
        (stopped(Some("done")), "stopped: done"),
        (stopped(None), "stopped without a reason"),
    ] {
        assert_eq!(exit.reason(), reason);
    }
}

#[test]
fn whoever_fails_at_once_spends_its_budget_within_the_window() {
    for policy in &POLICIES {
        let (mut history, start) = (History::default(), Instant::now());
        let mut now = start;
        let mut respawns = 0;
        while let RestartDecision::Respawn { after } = decide(policy, &failed("x"), &mut history, now, 1.0) {
            respawns += 1;
            now += after;
            history.started(now);
            assert!(now - start < policy.budget.window, "{}: the delays outlast the window", policy.kind);
        }
        assert_eq!(respawns, policy.budget.restarts, "{}", policy.kind);
    }
}

prop_compose! {
    fn any_policy()(
        restarts in 1..12_u32,
        window_secs in 1..120_u64,
        min_ms in 1..2_000_u64,
        max_ms in 2_000..60_000_u64,
        jitter in 0.0..=1.0_f64,
        exhausted in prop_oneof![
            Just(Exhausted::Escalate), Just(Exhausted::Degrade), Just(Exhausted::BackOffPeer)
        ],
    ) -> RestartPolicy {
        RestartPolicy {
            budget: RestartBudget { restarts, window: Duration::from_secs(window_secs) },
            backoff: Backoff {
                min: Duration::from_millis(min_ms), max: Duration::from_millis(max_ms), jitter
            },
            exhausted,
            ..TEST
        }
    }
}

proptest! {
    /// Whatever the runs between failures: no window holds more restarts than the budget, and giving up happens
    /// exactly when the window is full (or was, without calm since).
    #[test]
    fn no_window_holds_more_restarts_than_the_budget(
        policy in any_policy(),
        // Most of them short, so that windows fill.
        runs in prop::collection::vec(
            (prop_oneof![3 => 0..2_000_u64, 1 => 0..200_000_u64], 0.0..=1.0_f64), 1..60
        ),
    ) {
        let window = policy.budget.window;
        let (mut history, mut now) = (History::default(), Instant::now());
        let mut restarted: Vec<Instant> = Vec::new();
        let mut spent = false;
        for (ran_ms, jitter) in runs {
            history.started(now);
            let ran = Duration::from_millis(ran_ms);
            now += ran;
            spent &= ran < window;
            let in_window = restarted.iter().filter(|at| **at + window > now).count();
            let full = in_window >= policy.budget.restarts as usize;
            spent |= full;
            match decide(&policy, &failed("x"), &mut history, now, jitter) {
                RestartDecision::Respawn { after } => {
                    prop_assert!(!spent, "restarted though the window is full");
                    now += after;
                    restarted.push(now);
                }
                RestartDecision::Degrade { retry_after: pause, .. } | RestartDecision::BackOff { for_: pause, .. } => {
                    prop_assert!(spent, "gave up with {in_window} restarts in the window");
                    prop_assert!(pause <= policy.backoff.max);
                    now += pause;
                }
                RestartDecision::Escalate { .. } => {
                    prop_assert!(spent, "gave up with {in_window} restarts in the window");
                }
                RestartDecision::LetGo => prop_assert!(false, "nobody asked for this exit"),
            }
            prop_assert_eq!(history.is_spent(), spent);
            prop_assert!(history.recent.len() <= policy.budget.restarts as usize);
        }
        for (i, at) in restarted.iter().enumerate() {
            let held = restarted[i..].iter().take_while(|later| **later < *at + window).count();
            prop_assert!(held <= policy.budget.restarts as usize);
        }
    }

    /// Chance never makes a later delay shorter than an earlier one, and none is above the longest.
    #[test]
    fn delays_grow_up_to_the_longest(
        policy in any_policy(),
        chances in prop::collection::vec(0.0..=1.0_f64, 2..40),
    ) {
        let mut last = Duration::ZERO;
        for (used, chance) in (0..).zip(chances) {
            let next = delay(policy.backoff, used, chance);
            prop_assert_eq!(next.is_zero(), used == 0);
            prop_assert!(last <= next && next <= policy.backoff.max, "{:?} after {:?}", next, last);
            last = next;
        }
    }
}

fn failed(reason: &str) -> ExitKind {
    ExitKind::Failed { reason: reason.to_owned() }
}

fn why() -> String {
    "CanServiceActor failed more than 4 times in 60s, last: x".to_owned()
}
