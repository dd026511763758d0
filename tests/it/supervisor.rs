//! RootSupervisor over actors that fail in every way.
//!
//! Time is paused in nearly all of these: minutes of back-off pass at once, and every limit is exact.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use can_sync::testing::actor::policy::ChildKind::{self, CanService, Http, Peers, Signal};
use can_sync::testing::actor::policy::policy;
use can_sync::testing::actor::restart::ExitKind;
use can_sync::testing::actor::service_ref::ServiceError;
use can_sync::testing::actor::status::{ActorState, ActorStatus};
use can_sync::testing::actor::supervisor::{
    Child, RootArgs, RootMsg, ShutdownOutcome, StopReason, shutdown_limit, start,
};
use can_sync::testing::actor::watch::BEAT;
use can_sync::testing::actor::{ServiceCell, ServiceRef};
use can_sync::testing::events::{EventLog, NodeEvent};
use can_sync::testing::node::dump::render;
use futures::FutureExt;

use crate::support::faulty::{FaultyActor, FaultyMsg, Plan};
use crate::support::nodes::eventually;
use crate::support::tree::{Tree, end_of};

const ALL: [ChildKind; 4] = [CanService, Peers, Http, Signal];

#[tokio::test(start_paused = true)]
async fn a_panic_is_repaired_and_siblings_do_not_notice() {
    let tree = Tree::start(&ALL).await;
    let before = tree.status().await;
    let reference = tree.service(CanService);
    let first = reference.get().unwrap();

    tree.send(CanService, FaultyMsg::Panic("the disk is made of cheese".to_owned()));
    let after = tree.wait_for_restarts(CanService, 1).await;

    assert_eq!(after.last_error.as_deref(), Some("the disk is made of cheese"));
    assert_eq!(tree.ping(CanService).await, Ok(2), "the service leads to the new incarnation");
    assert!(first.send_message(FaultyMsg::Hang).is_err(), "an old reference leads nowhere");
    assert_ne!(Some(first.get_id().to_string()), after.id);
    for sibling in before.children.iter().filter(|c| c.kind != CanService.name()) {
        let now = tree.status().await.children.into_iter().find(|c| c.kind == sibling.kind).unwrap();
        assert_eq!((&now.id, now.restarts, now.state), (&sibling.id, 0, ActorState::Running));
    }
    let (events, _) = tree.events.since(0);
    let [told] = &events[..] else { panic!("one event: {events:?}") };
    let expected = NodeEvent::ActorRestarted {
        kind: "CanServiceActor".to_owned(),
        reason: "the disk is made of cheese".to_owned(),
        restarts: 1,
    };
    assert_eq!(told.event, expected);
}

#[tokio::test(start_paused = true)]
async fn an_error_a_kill_and_an_unasked_stop_are_failures() {
    let tree = Tree::start(&ALL).await;

    tree.send(Peers, FaultyMsg::Fail("no route".to_owned()));
    assert_eq!(tree.wait_for_restarts(Peers, 1).await.last_error.as_deref(), Some("no route"));

    tree.service(Peers).get().unwrap().get_cell().kill();
    assert_eq!(tree.wait_for_restarts(Peers, 2).await.last_error.as_deref(), Some("killed"));

    tree.send(Peers, FaultyMsg::Hang);
    tree.wait_for(Peers, "hung", |c| c.state == ActorState::Unresponsive).await;
    tree.service(Peers).get().unwrap().get_cell().kill();
    tree.wait_for_restarts(Peers, 3).await;

    tree.send(Peers, FaultyMsg::StopYourself);
    let after = tree.wait_for_restarts(Peers, 4).await;
    assert_eq!(after.last_error.as_deref(), Some("stopped: of my own accord"));
    assert_eq!(tree.ping(Peers).await, Ok(5));
}

#[tokio::test(start_paused = true)]
async fn a_hung_child_is_shown_and_hides_nobody() {
    let tree = Tree::start(&ALL).await;
    tree.send(CanService, FaultyMsg::Hang);
    // Twice: the first question that nobody answers must not be in the way of the second.
    for _ in 0..2 {
        let status = tree.status().await;
        let told: Vec<_> = status.children.iter().map(|c| (c.kind.as_str(), c.state)).collect();
        let expected = [
            ("CanServiceActor", ActorState::Unresponsive),
            ("PeersActor", ActorState::Running),
            ("HttpActor", ActorState::Running),
            ("SignalActor", ActorState::Running),
        ];
        assert_eq!(told, expected);
        assert_eq!(status.children[1].detail.as_deref(), Some("incarnation 1"));
        let text = render(&status);
        assert!(text.contains("CanServiceActor  unresponsive"), "{text}");
    }
    // The root itself is free meanwhile.
    tree.send(Peers, FaultyMsg::Panic("x".to_owned()));
    tree.wait_for_restarts(Peers, 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_shown_and_what_finds_nobody_is_counted() {
    let tree = Tree::start(&ALL).await;
    tree.send(Peers, FaultyMsg::Hang);
    tree.wait_for(Peers, "hung", |c| c.state == ActorState::Unresponsive).await;
    let before = tree.child(Peers).await.mailbox;
    for _ in 0..100 {
        tree.send(Peers, FaultyMsg::Sleep(Duration::ZERO));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let hung = tree.child(Peers).await;
    // And the questions how it is.
    assert!((before + 100..before + 110).contains(&hung.mailbox), "{hung:?}");
    assert!((2_000..10_000).contains(&hung.mailbox_ms), "{hung:?}");
    let idle = tree.child(Http).await;
    assert_eq!((idle.mailbox, idle.mailbox_ms), (0, 0));

    // What waited is gone with it; while there is none, nothing is delivered.
    tree.plan(Peers).get().start_takes = Duration::from_secs(3);
    tree.service(Peers).get().unwrap().get_cell().kill();
    tree.wait_for(Peers, "down", |c| c.state == ActorState::Restarting).await;
    for _ in 0..5 {
        assert_eq!(tree.service(Peers).cast(FaultyMsg::Hang), Err(ServiceError::Down("PeersActor")));
    }
    let again = tree.wait_for_restarts(Peers, 1).await;
    assert_eq!((again.mailbox, again.undelivered), (0, 5));
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_come_on_is_started_again_within_its_budget() {
    let tree = Tree::start(&ALL).await;
    for restarts in 1..=3 {
        tree.send(Http, FaultyMsg::Hang);
        // Nobody sends it anything: the supervisor's own questions wait.
        let again = tree.wait_for_restarts(Http, restarts).await;
        let why = again.last_error.expect("it failed");
        assert!(why.starts_with("took no message for 30s while "), "{why}");
        let (events, _) = tree.events.since(0);
        let told = NodeEvent::ActorRestarted { kind: "HttpActor".to_owned(), reason: why, restarts };
        assert_eq!(events.last().map(|event| &event.event), Some(&told));
    }
    // The others answered all the time.
    for kind in [CanService, Peers, Signal] {
        assert_eq!(tree.ping(kind).await, Ok(1), "{kind}");
    }
    // A handler that takes long is none that hangs.
    tree.send(Peers, FaultyMsg::Sleep(BEAT * 4));
    tokio::time::sleep(BEAT * 20).await;
    assert_eq!(tree.ping(Peers).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn every_kind_that_hangs_is_started_again() {
    let tree = Tree::start(&ChildKind::ALL).await;
    for kind in ChildKind::ALL {
        tree.send(kind, FaultyMsg::Hang);
    }
    for kind in ChildKind::ALL {
        let again = tree.wait_for_restarts(kind, 1).await;
        let why = again.last_error.expect("it failed");
        assert!(why.starts_with("took no message for 30s while "), "{kind}: {why}");
        assert_eq!(tree.ping(kind).await, Ok(2), "{kind}");
    }
    assert!(!tree.outcome.is_finished());
}

#[tokio::test(start_paused = true)]
async fn many_who_ask_at_once_share_one_survey() {
    let asked = Arc::new(AtomicU32::new(0));
    let cell = Arc::new(ServiceCell::new("CanServiceActor"));
    let plan = Plan::default();
    let mut child = Child::new(CanService, cell, move || (FaultyActor, plan.clone()), FaultyMsg::GetStatus);
    let count = Arc::clone(&asked);
    child.probe = Arc::new(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        // Never answers, so that the survey lasts.
        std::future::pending().boxed()
    });
    let (root, _outcome) = start(root_args(vec![child])).await.unwrap();
    let root = ServiceRef::fixed(root);
    let ask = || root.call(|reply| RootMsg::GetTree { reply }, Duration::from_secs(1));
    no_answer_is_noticed(async || ask().await.unwrap()).await;
    let before = asked.load(Ordering::Relaxed);
    let answers = futures::future::join_all((0..1_000).map(|_| ask())).await;
    assert!(answers.iter().all(|a| a.as_ref().unwrap().children[0].state == ActorState::Unresponsive));
    assert_eq!(asked.load(Ordering::Relaxed) - before, 1);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_counts_as_no_answer() {
    let cell = Arc::new(ServiceCell::new("CanServiceActor"));
    let plan = Plan::default();
    let mut child = Child::new(CanService, cell, move || (FaultyActor, plan.clone()), FaultyMsg::GetStatus);
    child.probe = Arc::new(|_| panic!("planned panic of a probe"));
    let (root, _outcome) = start(root_args(vec![child])).await.unwrap();
    let root = ServiceRef::fixed(root);
    let ask = async || root.call(|reply| RootMsg::GetTree { reply }, Duration::from_secs(1)).await.unwrap();
    no_answer_is_noticed(&ask).await;
    ask().await;
}

/// Asks for the tree until its first child counts as one that does not answer.
async fn no_answer_is_noticed(ask: impl AsyncFn() -> ActorStatus) {
    eventually("no answer", async || {
        let state = ask().await.children[0].state;
        (state == ActorState::Unresponsive).then_some(()).ok_or_else(|| format!("{state:?}"))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn starts_that_fail_count_and_are_repeated() {
    let tree = Tree::start_with(&ALL, |kind, plan| match kind {
        CanService => plan.get().fail_starts = 2,
        Peers => plan.get().panic_starts = 2,
        Http => plan.get().hang_starts = 1,
        Signal => plan.get().fail_late_starts = 2,
        ChildKind::Rendezvous
        | ChildKind::Gossip
        | ChildKind::Library
        | ChildKind::StoreServer
        | ChildKind::Scrub
        | ChildKind::Folders
        | ChildKind::Folder
        | ChildKind::Peer => {}
    })
    .await;
    // While one start hangs, the root answers and shows it.
    let child = tree.wait_for(Http, "starting", |c| c.state == ActorState::Starting).await;
    assert_eq!(child.id, None);

    let failed = tree.wait_for_restarts(CanService, 2).await;
    assert_eq!(failed.last_error.as_deref(), Some("could not start: planned failure of the start"));
    let panicked = tree.wait_for_restarts(Peers, 2).await;
    assert_eq!(panicked.last_error.as_deref(), Some("could not start: planned panic of the start"));
    let hung = tree.wait_for_restarts(Http, 1).await;
    assert_eq!(hung.last_error.as_deref(), Some("could not start: its start took longer than 5s"));
    let late = tree.wait_for_restarts(Signal, 2).await;
    assert_eq!(late.last_error.as_deref(), Some("planned late failure of the start"));
    for (kind, starts) in [(CanService, 3), (Peers, 3), (Http, 2), (Signal, 3)] {
        assert_eq!(tree.ping(kind).await, Ok(starts), "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_spent_budget_degrades_the_store_until_it_works_again() {
    let tree = Tree::start(&ALL).await;
    let budget = policy(CanService).budget.restarts;
    for restarts in 0..budget {
        tree.wait_for_restarts(CanService, restarts).await;
        tree.send(CanService, FaultyMsg::Fail("no such table".to_owned()));
    }
    tree.wait_for_restarts(CanService, budget).await;
    assert_eq!(tree.degraded(), []);

    tree.plan(CanService).get().fail_starts = 3;
    tree.send(CanService, FaultyMsg::Fail("no such table".to_owned()));
    let degraded = tree.wait_for(CanService, "degraded", |c| c.state == ActorState::Degraded).await;
    assert_eq!(degraded.last_error.as_deref(), Some("no such table"));
    assert_eq!(tree.ping(CanService).await, Err(ServiceError::Down("CanServiceActor")));
    assert!(tree.service(CanService).get().is_none(), "nobody holds on to a dead incarnation");
    let why = "CanServiceActor failed more than 10 times in 60s, last: no such table".to_owned();
    assert_eq!(tree.degraded(), [(CanService, Some(why))]);
    assert_eq!(tree.ping(Peers).await, Ok(1), "the others go on");

    // Three more attempts fail, each after the longest delay; then it works again.
    let from = tokio::time::Instant::now();
    let starts = tree.plan(CanService).get().starts;
    let child = tree.wait_for(CanService, "running again", |c| c.state == ActorState::Running).await;
    assert!(from.elapsed() >= policy(CanService).backoff.max * 3, "retried after {:?}", from.elapsed());
    assert_eq!(child.restarts, budget + 4);
    assert_eq!(tree.plan(CanService).get().starts, starts + 4);
    assert_eq!(tree.degraded().last(), Some(&(CanService, None)));
    assert!(tree.ping(CanService).await.is_ok());
    assert!(!tree.outcome.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_spent_budget_of_a_vital_actor_ends_the_node_in_order() {
    let tree = Tree::start(&ALL).await;
    let budget = policy(Peers).budget.restarts;
    for restarts in 0..=budget {
        tree.wait_for_restarts(Peers, restarts).await;
        tree.send(Peers, FaultyMsg::Panic("again".to_owned()));
    }
    let journal = Arc::clone(&tree.journal);
    let outcome = end_of(tree.outcome, shutdown_limit()).await;
    let why = "PeersActor failed more than 10 times in 60s, last: again".to_owned();
    assert_eq!(outcome, ShutdownOutcome::Escalated { why });
    let stopped = journal.lock().clone();
    assert_eq!(stopped, ["HttpActor stops", "CanServiceActor stops", "SignalActor stops"]);
}

#[tokio::test(start_paused = true)]
async fn messages_about_earlier_incarnations_change_nothing() {
    let tree = Tree::start(&ALL).await;
    tree.send(Http, FaultyMsg::Fail("x".to_owned()));
    let running = tree.wait_for_restarts(Http, 1).await;

    let exit = ExitKind::Failed { reason: "an old story".to_owned() };
    for generation in 0..4 {
        tree.root.send_message(RootMsg::Respawn { kind: Http, generation }).unwrap();
        let result = Err(exit.clone());
        tree.root.send_message(RootMsg::Spawned { kind: Http, generation, result }).unwrap();
    }
    tree.root.send_message(RootMsg::Respawn { kind: ChildKind::Peer, generation: 1 }).unwrap();
    tree.root.send_message(RootMsg::StageStopped { ended: Vec::new() }).unwrap();
    tree.root.send_message(RootMsg::Surveyed { answers: vec![(Http, 1, None)] }).unwrap();

    let after = tree.child(Http).await;
    assert_eq!((after.id, after.restarts, after.state), (running.id, 1, ActorState::Running));
    assert_eq!(after.last_error.as_deref(), Some("x"));
    assert_eq!(tree.plan(Http).get().starts, 2);
    assert!(!tree.outcome.is_finished());
}

#[tokio::test(start_paused = true)]
async fn children_stop_in_order_after_their_mailboxes_are_empty() {
    let tree = Tree::start(&ALL).await;
    tree.send(CanService, FaultyMsg::Sleep(Duration::from_secs(1)));
    let answers: Vec<_> = (0..100)
        .map(|_| {
            let (reply, answer) = tokio::sync::oneshot::channel();
            tree.send(CanService, FaultyMsg::Ping(reply.into()));
            answer
        })
        .collect();
    tree.shut_down(StopReason::Terminate);
    let (reference, journal) = (tree.service(Http), Arc::clone(&tree.journal));
    let outcome = end_of(tree.outcome, shutdown_limit()).await;
    assert_eq!(outcome, ShutdownOutcome::Ordered { reason: StopReason::Terminate, killed: Vec::new() });
    assert!(!outcome.is_failure());
    for mut answer in answers {
        assert_eq!(answer.try_recv(), Ok(1), "what was in the mailbox is answered");
    }
    assert_eq!(
        *journal.lock(),
        ["HttpActor stops", "PeersActor stops", "CanServiceActor stops", "SignalActor stops"]
    );
    assert!(reference.get().is_none(), "a stopped service is down");
}

#[tokio::test(start_paused = true)]
async fn children_that_do_not_stop_are_killed_in_their_turn() {
    let tree = Tree::start(&ALL).await;
    tree.send(Http, FaultyMsg::Hang);
    tree.plan(CanService).get().ignore_stop = true;
    tree.shut_down(StopReason::Interrupt);

    // Nothing else stops before its turn, and the root still tells how things are.
    let stopping = tree.wait_for(Http, "stopping", |c| c.state == ActorState::Stopping).await;
    assert!(stopping.id.is_some());
    let status = tree.status().await;
    assert_eq!(status.state, ActorState::Stopping);
    assert_eq!(status.detail.as_deref(), Some("interrupted (SIGINT)"));
    assert_eq!(tree.journal(), [""; 0]);

    let (journal, from) = (Arc::clone(&tree.journal), tokio::time::Instant::now());
    let outcome = end_of(tree.outcome, shutdown_limit()).await;
    let expected = ShutdownOutcome::Ordered { reason: StopReason::Interrupt, killed: vec![Http, CanService] };
    assert_eq!(outcome, expected);
    assert_eq!(
        *journal.lock(),
        ["PeersActor stops", "CanServiceActor stops", "SignalActor stops"],
        "the hung one never got to its orderly stop"
    );
    let waited = policy(Http).stop_timeout + policy(CanService).stop_timeout;
    assert!(from.elapsed() + Duration::from_secs(1) > waited, "each has its full time: {:?}", from.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_whole_shutdown_has_a_limit_even_if_everybody_hangs() {
    let tree = Tree::start(&ALL).await;
    for kind in ALL {
        tree.send(kind, FaultyMsg::Hang);
    }
    tree.shut_down(StopReason::Requested("test".to_owned()));
    let outcome = end_of(tree.outcome, shutdown_limit()).await;
    let ShutdownOutcome::Ordered { killed, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(killed, [Http, Peers, CanService, Signal]);
}

#[tokio::test(start_paused = true)]
async fn asking_again_stops_at_once() {
    let tree = Tree::start(&ALL).await;
    for kind in ALL {
        tree.send(kind, FaultyMsg::Hang);
    }
    let actors: Vec<_> = ALL.iter().map(|kind| tree.service(*kind).get().unwrap()).collect();
    tree.shut_down(StopReason::Terminate);
    tree.wait_for(Http, "stopping", |c| c.state == ActorState::Stopping).await;
    tree.shut_down(StopReason::Interrupt);
    let outcome = end_of(tree.outcome, Duration::from_millis(100)).await;
    assert_eq!(outcome, ShutdownOutcome::Forced { reason: StopReason::Interrupt });
    assert!(outcome.is_failure());
    for actor in actors {
        actor.get_cell().wait(Some(Duration::from_secs(1))).await.expect("nobody is left behind");
    }
}

/// Fails the child once more than its budget allows, with the error "x".
async fn spend_budget(tree: &Tree, kind: ChildKind) {
    for restarts in 0..=policy(kind).budget.restarts {
        tree.wait_for_restarts(kind, restarts).await;
        tree.send(kind, FaultyMsg::Fail("x".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_request_during_an_escalation_waits_for_its_end_and_a_second_does_not() {
    for requests in [1, 2] {
        let tree = Tree::start(&ALL).await;
        tree.plan(CanService).get().ignore_stop = true;
        spend_budget(&tree, Http).await;
        tree.wait_for(CanService, "stopping", |c| c.state == ActorState::Stopping).await;
        for _ in 0..requests {
            tree.shut_down(StopReason::Terminate);
        }
        let outcome = end_of(tree.outcome, shutdown_limit()).await;
        let expected = match requests {
            1 => ShutdownOutcome::Escalated {
                why: "HttpActor failed more than 10 times in 60s, last: x".to_owned(),
            },
            _ => ShutdownOutcome::Forced { reason: StopReason::Terminate },
        };
        assert_eq!(outcome, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_started_any_more_once_the_node_stops() {
    let tree = Tree::start_with(&ALL, |kind, plan| match kind {
        // One waits for its next attempt, one hangs in its start, when the shutdown comes.
        CanService => plan.get().fail_starts = u32::MAX,
        Peers => plan.get().hang_starts = u32::MAX,
        Http
        | Signal
        | ChildKind::Rendezvous
        | ChildKind::Gossip
        | ChildKind::Library
        | ChildKind::StoreServer
        | ChildKind::Scrub
        | ChildKind::Folders
        | ChildKind::Folder
        | ChildKind::Peer => {}
    })
    .await;
    tree.wait_for(CanService, "waiting", |c| c.restarts >= 2 && c.state == ActorState::Restarting).await;
    let (store, peers) = (tree.plan(CanService).clone(), tree.plan(Peers).clone());
    let starts = (store.get().starts, peers.get().starts);
    tree.shut_down(StopReason::Terminate);
    let root = tree.root.clone();
    let outcome = end_of(tree.outcome, Duration::from_millis(100)).await;
    assert_eq!(outcome, ShutdownOutcome::Ordered { reason: StopReason::Terminate, killed: Vec::new() });
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!((store.get().starts, peers.get().starts), starts);
    assert_eq!(root.get_children(), []);
}

#[tokio::test(start_paused = true)]
async fn a_start_under_way_and_a_pending_one_are_given_up_when_the_node_stops() {
    let tree = Tree::start_with(&[Http, Peers, CanService], |kind, plan| match kind {
        Peers => plan.get().start_takes = Duration::from_secs(2),
        CanService => plan.get().fail_starts = u32::MAX,
        Http
        | Signal
        | ChildKind::Rendezvous
        | ChildKind::Gossip
        | ChildKind::Library
        | ChildKind::StoreServer
        | ChildKind::Scrub
        | ChildKind::Folders
        | ChildKind::Folder
        | ChildKind::Peer => {}
    })
    .await;
    tree.wait_for(Http, "running", |c| c.state == ActorState::Running).await;
    tree.send(Http, FaultyMsg::Hang);
    let pending = |c: &ActorStatus| c.restarts >= 1 && c.state == ActorState::Restarting;
    tree.wait_for(CanService, "waiting for its next start", pending).await;
    tree.shut_down(StopReason::Terminate);
    let starts = tree.plan(CanService).get().starts;
    // As if the back-off had ended just before the shutdown began.
    for generation in 0..10 {
        tree.root.send_message(RootMsg::Respawn { kind: CanService, generation }).unwrap();
    }
    let (peers, store) = (tree.service(Peers), tree.plan(CanService).clone());
    // The hung one makes the shutdown last longer than the start would have taken.
    let outcome = end_of(tree.outcome, shutdown_limit()).await;
    assert_eq!(outcome, ShutdownOutcome::Ordered { reason: StopReason::Terminate, killed: vec![Http] });
    assert!(peers.get().is_none(), "it came to life in the middle of the shutdown");
    assert_eq!(store.get().starts, starts);
}

#[tokio::test(start_paused = true)]
async fn a_child_that_fails_while_the_node_stops_stays_down() {
    let tree = Tree::start(&ALL).await;
    tree.send(Http, FaultyMsg::Hang);
    tree.shut_down(StopReason::Terminate);
    tree.wait_for(Http, "stopping", |c| c.state == ActorState::Stopping).await;
    tree.send(Peers, FaultyMsg::Panic("bad moment".to_owned()));
    tree.wait_for(Peers, "down", |c| c.state == ActorState::Stopped).await;
    let outcome = end_of(tree.outcome, shutdown_limit()).await;
    assert_eq!(outcome, ShutdownOutcome::Ordered { reason: StopReason::Terminate, killed: vec![Http] });
}

#[tokio::test(start_paused = true)]
async fn a_thousand_panics_leave_nothing_behind() {
    let tree = Tree::start(&ALL).await;
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    for restarts in 0..1_000 {
        // Lets the longest back-off pass in one step.
        tokio::time::sleep(policy(CanService).backoff.max).await;
        tree.wait_for_restarts(CanService, restarts).await;
        tree.send(CanService, FaultyMsg::Panic(format!("number {restarts}")));
        assert_eq!(tree.ping(Peers).await, Ok(1), "siblings are not disturbed");
    }
    let last = tree.wait_for_restarts(CanService, 1_000).await;
    assert_eq!(last.last_error.as_deref(), Some("number 999"));
    assert_eq!(tree.root.get_children().len(), ALL.len());
    let after = metrics.num_alive_tasks();
    assert!(after <= before + 1, "{before} tasks before, {after} after");
}

#[tokio::test]
async fn two_children_of_a_kind_are_refused() {
    let child = || {
        let cell = Arc::new(ServiceCell::new("HttpActor"));
        Child::new(Http, cell, || (FaultyActor, Plan::default()), FaultyMsg::GetStatus)
    };
    let error = start(root_args(vec![child(), child()])).await.expect_err("refused");
    assert!(error.to_string().contains("two children of kind HttpActor"), "{error}");
}

/// A thread that never waits cannot be killed: the shutdown goes on without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_child_that_occupies_its_thread_does_not_hold_up_the_shutdown() {
    let tree = Tree::start(&[Signal]).await;
    let (release, until) = std::sync::mpsc::channel();
    tree.send(Signal, FaultyMsg::Block(until));
    tree.wait_for(Signal, "occupied", |c| c.state == ActorState::Unresponsive).await;
    tree.shut_down(StopReason::Terminate);
    let outcome = end_of(tree.outcome, shutdown_limit()).await;
    assert_eq!(outcome, ShutdownOutcome::Ordered { reason: StopReason::Terminate, killed: vec![Signal] });
    drop(release);
}

fn root_args(children: Vec<Child>) -> RootArgs {
    RootArgs {
        cell: Arc::new(ServiceCell::new("RootSupervisor")),
        children,
        events: EventLog::default(),
        on_degraded: Arc::new(|_, _| {}),
    }
}
