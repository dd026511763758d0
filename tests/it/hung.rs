//! Actors that stop coming on, in a whole node: each is killed by its own supervisor, which says so, and what they were for goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use can_sync::testing::actor::policy::ChildKind;
use can_sync::testing::actor::status::{ActorState, ActorStatus};
use can_sync::testing::actor::supervisor::RootMsg;
use can_sync::testing::events::NodeEvent;
use can_sync::testing::folder::FolderActor;
use can_sync::testing::node::ActorStarts;
use can_sync::testing::peer::actor::PeerActor;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::time::Instant;

use crate::support::machine::{Machine, knows};
use crate::support::nodes::{DEADLINE, TestNode, eventually};
use crate::support::scoreboard;

/// From the message at which an actor hangs to the word that it was killed: six looks, 5 s apart, the first of which may see it come on,
/// and a little.
const KILLED_WITHIN: Duration = Duration::from_secs(40);

/// Tells the next actor to take a message to hang with it.
#[derive(Clone, Default)]
struct Fuse(Arc<AtomicBool>);

impl Fuse {
    fn light(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether nobody has hung yet since it was lit.
    fn burns(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A real actor that hangs once.
struct Hanging<A>(A, Fuse);

impl<A: Actor> Actor for Hanging<A> {
    type Msg = A::Msg;
    type State = A::State;
    type Arguments = A::Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<A::Msg>,
        args: A::Arguments,
    ) -> Result<A::State, ActorProcessingErr> {
        self.0.pre_start(myself, args).await
    }

    async fn handle(
        &self,
        myself: ActorRef<A::Msg>,
        message: A::Msg,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        if self.1.0.swap(false, Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.0.handle(myself, message, state).await
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<A::Msg>,
        event: SupervisionEvent,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        self.0.handle_supervisor_evt(myself, event, state).await
    }

    async fn post_stop(
        &self,
        myself: ActorRef<A::Msg>,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        self.0.post_stop(myself, state).await
    }
}

/// Real actors that hang once their fuse is lit.
fn starts(peer: &Fuse, folder: &Fuse) -> ActorStarts {
    let (peer, folder) = (peer.clone(), folder.clone());
    ActorStarts {
        peer: Arc::new(move |args, supervisor| {
            let actor = Hanging(PeerActor, peer.clone());
            Box::pin(async move { Ok(Actor::spawn_linked(None, actor, args, supervisor).await?.0) })
        }),
        folder: Arc::new(move |args, supervisor| {
            let actor = Hanging(FolderActor, folder.clone());
            Box::pin(async move { Ok(Actor::spawn_linked(None, actor, args, supervisor).await?.0) })
        }),
    }
}

fn all(tree: &ActorStatus) -> Vec<&ActorStatus> {
    std::iter::once(tree).chain(tree.children.iter().flat_map(all)).collect()
}

async fn tree(node: &TestNode) -> ActorStatus {
    let root = node.node().root();
    root.call(|reply| RootMsg::GetTree { reply }, DEADLINE).await.expect("the root answers")
}

/// Waits until an actor of this kind hangs, and is shown to.
async fn hangs(node: &TestNode, kind: ChildKind, fuse: &Fuse) {
    eventually("it is shown as one that hangs", async || {
        let tree = tree(node).await;
        let hung = all(&tree).into_iter().any(|actor| {
            actor.kind == kind.name() && actor.state == ActorState::Unresponsive && actor.mailbox > 0
        });
        (hung && !fuse.burns()).then_some(()).ok_or_else(|| format!("{tree:?}"))
    })
    .await;
}

/// Waits until it is said that an actor of this kind was killed for that; what was said.
async fn is_killed(node: &TestNode, kind: ChildKind) -> String {
    eventually("it is killed, and that is said", async || {
        let (events, _) = node.node().events().since(0);
        let told = events.iter().find_map(|logged| match &logged.event {
            NodeEvent::ActorRestarted { kind: of, reason, .. } if of == kind.name() => Some(reason.clone()),
            _ => None,
        });
        told.ok_or_else(|| format!("{events:?}"))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_peer_actor_and_a_hung_folder_actor_are_killed_and_what_they_are_for_goes_on() {
    let (peer, folder) = (Fuse::default(), Fuse::default());
    let (a, b) = tokio::join!(TestNode::start_as("a", starts(&peer, &folder), |_| {}), Machine::start("b"));
    let a = Machine::around(a);
    b.node.dial(&a.node).await;
    a.add().await;
    knows(&b).await;
    b.add().await;
    a.put("one.txt", "one");
    b.has(&[("one.txt", "one")]).await;
    let others = async || -> Vec<_> {
        let tree = tree(&a.node).await;
        tree.children.iter().map(|child| (child.kind.clone(), child.id.clone(), child.restarts)).collect()
    };
    let before = others().await;

    let began = Instant::now();
    peer.light();
    folder.light();
    a.put("two.txt", "two");
    let hash = a.node.ingest("put while it hangs", &[]).await;
    let watched = [(ChildKind::Peer, &peer), (ChildKind::Folder, &folder)].map(|(kind, fuse)| {
        let node = &a.node;
        async move {
            hangs(node, kind, fuse).await;
            let why = is_killed(node, kind).await;
            let took = began.elapsed();
            assert!(why.starts_with("took no message for 30s while "), "{kind}: {why}");
            (kind, took)
        }
    });
    let killed = futures::future::join_all(watched).await;

    b.has(&[("one.txt", "one"), ("two.txt", "two")]).await;
    eventually("what was put while it hung is there", async || {
        b.node.content(&hash).await.map(drop).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    assert_eq!(others().await, before, "nobody else was started again");
    let restarted: Vec<u32> = all(&tree(&a.node).await)
        .into_iter()
        .filter(|actor| actor.kind == ChildKind::Folder.name())
        .map(|actor| actor.restarts)
        .collect();
    assert_eq!(restarted, [1]);
    let told: Vec<String> = killed
        .iter()
        .map(|(kind, took)| format!("{kind} killed after {:.0} s", took.as_secs_f64()))
        .collect();
    scoreboard::figure(killed.iter().all(|(_, took)| *took <= KILLED_WITHIN), &told.join(", "));
}
