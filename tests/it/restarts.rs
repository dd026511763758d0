//! Every kind of actor ends and is there again: in a whole node one after the other, and all at once beside discovery.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use can_sync::testing::actor::policy::{ChildKind, policy};
use can_sync::testing::actor::status::{ActorState, ActorStatus};
use can_sync::testing::actor::supervisor::{Child, RootArgs, RootMsg, start};
use can_sync::testing::actor::{ServiceCell, ServiceRef};
use can_sync::testing::config::SlotFormat;
use can_sync::testing::discovery::channel::Channel;
use can_sync::testing::discovery::rendezvous::{RendezvousActor, RendezvousMsg};
use can_sync::testing::discovery::slot::pace::Timing;
use can_sync::testing::events::{EventLog, NodeEvent};
use ractor::ActorCell;
use tokio::time::{Instant, sleep};

use crate::support::faulty::{FaultyActor, FaultyMsg, Plan};
use crate::support::machine::Machine;
use crate::support::nodes::{DEADLINE, TestNode, eventually};
use crate::support::rendezvous::{Agent, FakePkarr};
use crate::support::scoreboard;

/// Kinds in the order in which they end: a parent takes its children along.
const KINDS: [ChildKind; 12] = [
    ChildKind::Peer,
    ChildKind::Folder,
    ChildKind::CanService,
    ChildKind::Rendezvous,
    ChildKind::Gossip,
    ChildKind::Library,
    ChildKind::StoreServer,
    ChildKind::Scrub,
    ChildKind::Http,
    ChildKind::Signal,
    ChildKind::Folders,
    ChildKind::Peers,
];

/// A node with one actor of every kind, and a peer of it.
struct Pair {
    machine: Machine,
    peer: TestNode,
    root: ServiceRef<RootMsg>,
}

impl Pair {
    async fn start() -> Self {
        let (machine, peer) = tokio::join!(Machine::start("a"), TestNode::start("b", |_| {}));
        machine.add().await;
        machine.node.dial(&peer).await;
        let root = machine.node.node().root();
        Self { machine, peer, root }
    }

    /// The first actor of a kind, once it runs and answers, and is another one than before.
    async fn running(&self, kind: ChildKind, before: Option<&str>) -> ActorStatus {
        eventually(kind.name(), async || {
            let asked = self.root.call(|reply| RootMsg::GetTree { reply }, DEADLINE).await;
            let tree = asked.map_err(|e| e.to_string())?;
            let found = found(&tree, kind).ok_or_else(|| format!("{tree:?}"))?;
            let is_other = found.id.is_some() && found.id.as_deref() != before;
            (is_other && found.state == ActorState::Running)
                .then_some(found.clone())
                .ok_or_else(|| format!("{found:?}"))
        })
        .await
    }

    /// Kills it. How long it takes until another one answers, a survey of the whole tree included.
    async fn restart(&self, kind: ChildKind) -> Duration {
        let before = self.running(kind, None).await;
        let id = before.id.expect("it runs");
        let root = self.root.get().expect("the root runs").get_cell();
        let cell = cell_of(&root, &id).expect("it is a child");
        let began = Instant::now();
        cell.kill();
        let after = self.running(kind, Some(&id)).await;
        let took = began.elapsed();
        // A new PeersActor has new connections, and FoldersActor new FolderActors.
        assert_eq!((after.restarts, after.last_error.as_deref()), (1, Some("killed")), "{kind}");
        took
    }
}

fn found(tree: &ActorStatus, kind: ChildKind) -> Option<&ActorStatus> {
    if tree.kind == kind.name() {
        return Some(tree);
    }
    tree.children.iter().find_map(|child| found(child, kind))
}

fn cell_of(actor: &ActorCell, id: &str) -> Option<ActorCell> {
    if actor.get_id().to_string() == id {
        return Some(actor.clone());
    }
    actor.get_children().iter().find_map(|child| cell_of(child, id))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_actor_is_started_again_and_answers() {
    assert_eq!(KINDS.len(), ChildKind::ALL.len());
    let rounds = scoreboard::number("CAN_SYNC_TEST_RESTARTS", 1);
    let mut latencies: BTreeMap<ChildKind, Vec<Duration>> = BTreeMap::new();
    // A node is new each time: only the first restart within a window is immediate.
    for round in 0..rounds {
        let pair = Pair::start().await;
        for kind in KINDS {
            let took = pair.restart(kind).await;
            latencies.entry(kind).or_default().push(took);
        }
        let events = pair.machine.node.node().events().since(0).0;
        let told = events.iter().filter(|e| matches!(e.event, NodeEvent::ActorRestarted { .. })).count();
        assert!(told >= KINDS.len(), "round {round}: {told} restarts were told");
        // What it is for still works.
        let hash = pair.peer.ingest(format!("round {round}"), &[]).await;
        pair.machine.node.holds(1).await;
        assert_eq!(pair.machine.node.content(&hash).await, Some(format!("round {round}").into_bytes()));
    }
    let worst = latencies.iter_mut().map(|(kind, all)| {
        all.sort();
        let p99 = all[(all.len() * 99).div_ceil(100) - 1];
        println!("{kind}: {} restarts, p50 {:?}, p99 {p99:?}", all.len(), all[all.len() / 2]);
        (p99, *kind)
    });
    let (p99, kind) = worst.max().expect("some");
    let limit = Duration::from_millis(100);
    let figure = format!(
        "{rounds} first restarts of each of {} kinds; slowest p99 {} ms ({kind})",
        KINDS.len(),
        p99.as_millis()
    );
    scoreboard::figure(p99 <= limit, &figure);
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_goes_on_while_every_kind_crashes_at_once() {
    const SCAN_EVERY: Duration = Duration::from_millis(200);
    let pkarr = FakePkarr::default();
    let mut finder = Agent::prepare(1, SlotFormat::Sealed, pkarr.connect(Channel::Dht)).await;
    finder.args.timing = Timing { scan: SCAN_EVERY, scan_max: SCAN_EVERY, ..Timing::default() };
    let (mut children, mut services) = (Vec::new(), Vec::new());
    for kind in ChildKind::ALL.into_iter().filter(|kind| *kind != ChildKind::Rendezvous) {
        let (cell, plan) = (Arc::new(ServiceCell::new(kind.name())), Plan::default());
        services.push((kind, cell.service_ref()));
        children.push(Child::new(kind, cell, move || (FaultyActor, plan.clone()), FaultyMsg::GetStatus));
    }
    let cell = Arc::new(ServiceCell::new("RendezvousActor"));
    let (rendezvous, args) = (cell.service_ref(), finder.args.clone());
    let make = move || (RendezvousActor, args.clone());
    children.push(Child::new(ChildKind::Rendezvous, cell, make, |reply| RendezvousMsg::GetHealth { reply }));
    let args = RootArgs {
        cell: Arc::new(ServiceCell::new("RootSupervisor")),
        children,
        events: EventLog::default(),
        on_degraded: Arc::new(|kind, why| panic!("{kind}: {why:?}")),
    };
    let (root, outcome) = start(args).await.expect("the tree starts");
    let looks = || pkarr.get().log.iter().filter(|(.., write)| !write).count();
    let looked = async |what: &str| {
        let before = looks();
        eventually(what, async || (looks() > before).then_some(()).ok_or_else(|| format!("{before} looks")))
            .await;
    };
    looked("a look before the storm").await;

    // Each as often as it may within its window.
    let storm = services.iter().map(async |(kind, service)| {
        for restart in 1..=crashes(*kind) {
            eventually(kind.name(), async || {
                service.cast(FaultyMsg::Panic("planned".to_owned())).map_err(|e| e.to_string())
            })
            .await;
            came_again(*kind, restart + 1, service).await;
        }
    });
    let discovery = async {
        for _ in 0..crashes(ChildKind::Rendezvous) {
            let before = eventually("a RendezvousActor", async || {
                let actor = rendezvous.get().ok_or("it does not run")?;
                let failed = RendezvousMsg::TaskFailed("planned".to_owned());
                actor.cast(failed).map_err(|e| e.to_string())?;
                Ok(actor.get_id())
            })
            .await;
            // Until then it is the former one that looks, and the next failure would be the same one's.
            eventually("another RendezvousActor", async || {
                let now = rendezvous.get().map(|actor| actor.get_id());
                now.is_some_and(|now| now != before).then_some(()).ok_or_else(|| format!("{now:?}"))
            })
            .await;
            // The new one looks.
            looked("a look during the storm").await;
        }
    };
    tokio::join!(futures::future::join_all(storm), discovery);
    looked("a look after the storm").await;

    let root = ServiceRef::fixed(root);
    let tree = root.call(|reply| RootMsg::GetTree { reply }, DEADLINE).await.expect("the root answers");
    for kind in ChildKind::ALL {
        let child = found(&tree, kind).expect("every kind");
        assert_eq!((child.state, child.restarts), (ActorState::Running, crashes(kind)), "{kind}");
    }
    assert!(!outcome.is_finished());
}

/// So few that the back-off before the last one stays short.
fn crashes(kind: ChildKind) -> u32 {
    policy(kind).budget.restarts.min(6)
}

/// Waits until this incarnation answers.
async fn came_again(kind: ChildKind, incarnation: u32, service: &ServiceRef<FaultyMsg>) {
    eventually(kind.name(), async || {
        let answer = service.call(FaultyMsg::Ping, DEADLINE).await;
        match answer {
            Ok(now) if now == incarnation => Ok(()),
            other => {
                sleep(Duration::from_millis(5)).await;
                Err(format!("{other:?} instead of {incarnation}"))
            }
        }
    })
    .await;
}
