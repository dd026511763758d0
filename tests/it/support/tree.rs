//! A tree of [`FaultyActor`]s under a real RootSupervisor.

use std::sync::Arc;
use std::time::Duration;

use can_sync::testing::actor::policy::ChildKind;
use can_sync::testing::actor::service_ref::ServiceError;
use can_sync::testing::actor::status::{ActorState, ActorStatus};
use can_sync::testing::actor::supervisor::{Child, RootArgs, RootMsg, ShutdownOutcome, StopReason, start};
use can_sync::testing::actor::{ServiceCell, ServiceRef};
use can_sync::testing::events::EventLog;
use parking_lot::Mutex;
use ractor::ActorRef;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinHandle;

use super::faulty::{FaultyActor, FaultyMsg, Plan};

/// How long a test waits for a state; far above what any policy needs, and free where time is paused.
const PATIENCE: Duration = Duration::from_mins(10);
/// The first look comes soon, later ones wait longer, so that long waits in paused time stay cheap.
const FIRST_POLL: Duration = Duration::from_millis(1);
const LONGEST_POLL: Duration = Duration::from_millis(250);

/// A second where time is paused; tests with several threads have the time of a machine that may be busy.
fn at_once() -> Duration {
    let is_paused = Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread;
    if is_paused { Duration::from_secs(1) } else { Duration::from_secs(10) }
}

/// Each change of a degraded state: which child, and why.
type Degraded = Arc<Mutex<Vec<(ChildKind, Option<String>)>>>;

/// A running tree.
pub(crate) struct Tree {
    pub(crate) root: ActorRef<RootMsg>,
    pub(crate) outcome: JoinHandle<ShutdownOutcome>,
    pub(crate) events: EventLog,
    pub(crate) journal: Arc<Mutex<Vec<String>>>,
    degraded: Degraded,
    parts: Vec<Part>,
}

/// One child of it.
struct Part {
    kind: ChildKind,
    plan: Plan,
    service: ServiceRef<FaultyMsg>,
}

impl Tree {
    /// Starts children of these kinds, and waits until they run.
    pub(crate) async fn start(kinds: &[ChildKind]) -> Self {
        let tree = Self::start_with(kinds, |_, _| {}).await;
        for kind in kinds {
            tree.wait_for(*kind, "running", |child| child.state == ActorState::Running).await;
        }
        tree
    }

    /// Starts children of these kinds after `prepare` has changed their plans. Does not wait.
    pub(crate) async fn start_with(kinds: &[ChildKind], prepare: impl Fn(ChildKind, &Plan)) -> Self {
        let (journal, degraded) = (Arc::default(), Degraded::default());
        let (mut parts, mut children) = (Vec::new(), Vec::new());
        for kind in kinds.iter().copied() {
            let plan = Plan::default();
            plan.get().name = kind.to_string();
            plan.get().journal = Arc::clone(&journal);
            prepare(kind, &plan);
            let cell = Arc::new(ServiceCell::new(kind.name()));
            parts.push(Part { kind, plan: plan.clone(), service: cell.service_ref() });
            children.push(Child::new(kind, cell, move || (FaultyActor, plan.clone()), FaultyMsg::GetStatus));
        }
        let events = EventLog::default();
        let told = Arc::clone(&degraded);
        let (root, outcome) = start(RootArgs {
            cell: Arc::new(ServiceCell::new("RootSupervisor")),
            children,
            events: events.clone(),
            on_degraded: Arc::new(move |kind, why| {
                told.lock().push((kind, why.map(str::to_owned)));
            }),
        })
        .await
        .expect("the tree starts");
        Self { root, outcome, events, journal, degraded, parts }
    }

    /// The child's plan.
    pub(crate) fn plan(&self, kind: ChildKind) -> &Plan {
        &self.part(kind).plan
    }

    /// The service that leads to the child's current incarnation.
    pub(crate) fn service(&self, kind: ChildKind) -> ServiceRef<FaultyMsg> {
        self.part(kind).service.clone()
    }

    /// Sends to the current incarnation.
    pub(crate) fn send(&self, kind: ChildKind, message: FaultyMsg) {
        self.part(kind).service.cast(message).expect("the child runs");
    }

    /// Which incarnation answers.
    pub(crate) async fn ping(&self, kind: ChildKind) -> Result<u32, ServiceError> {
        self.part(kind).service.call(FaultyMsg::Ping, at_once()).await
    }

    /// The tree as RootSupervisor tells it; it must answer within a second, whatever its children do.
    pub(crate) async fn status(&self) -> ActorStatus {
        let root = ServiceRef::fixed(self.root.clone());
        root.call(|reply| RootMsg::GetTree { reply }, at_once()).await.expect("the root answers")
    }

    /// One child of it.
    pub(crate) async fn child(&self, kind: ChildKind) -> ActorStatus {
        let found = self.status().await.children.into_iter().find(|c| c.kind == kind.name());
        found.expect("every child is in the tree, whatever its state")
    }

    /// Waits until the child's status satisfies `condition`, and gives it.
    pub(crate) async fn wait_for(
        &self,
        kind: ChildKind,
        what: &str,
        condition: impl Fn(&ActorStatus) -> bool,
    ) -> ActorStatus {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut poll = FIRST_POLL;
        loop {
            let child = self.child(kind).await;
            if condition(&child) {
                return child;
            }
            assert!(tokio::time::Instant::now() < deadline, "{kind} was never {what}; it is {child:?}");
            tokio::time::sleep(poll).await;
            poll = LONGEST_POLL.min(poll * 2);
        }
    }

    /// Waits until the child runs, having been restarted this often.
    pub(crate) async fn wait_for_restarts(&self, kind: ChildKind, restarts: u32) -> ActorStatus {
        let what = format!("running after {restarts} restarts");
        self.wait_for(kind, &what, |c| c.state == ActorState::Running && c.restarts == restarts).await
    }

    /// Asks for a shutdown.
    pub(crate) fn shut_down(&self, reason: StopReason) {
        self.root.send_message(RootMsg::Shutdown { reason }).expect("the root runs");
    }

    /// Every change of a degraded state so far.
    pub(crate) fn degraded(&self) -> Vec<(ChildKind, Option<String>)> {
        self.degraded.lock().clone()
    }

    /// What stopped in order so far, and in which order.
    pub(crate) fn journal(&self) -> Vec<String> {
        self.journal.lock().clone()
    }

    fn part(&self, kind: ChildKind) -> &Part {
        self.parts.iter().find(|p| p.kind == kind).expect("the tree has this child")
    }
}

/// Waits for the tree's end, for at most `limit`.
pub(crate) async fn end_of(outcome: JoinHandle<ShutdownOutcome>, limit: Duration) -> ShutdownOutcome {
    tokio::time::timeout(limit, outcome).await.expect("the tree ends in time").expect("its end is told")
}
