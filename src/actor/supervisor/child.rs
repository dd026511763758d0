//! What RootSupervisor has to know of a child, whatever its type, and what it remembers of it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorId, ActorRef, RpcReplyPort, SpawnErr};

use crate::actor::ServiceCell;
use crate::actor::policy::{ChildKind, RestartPolicy, policy};
use crate::actor::restart::{ExitKind, History};
use crate::actor::status::{ASK_CHILD_LIMIT, ActorDetail, ActorState, ActorStatus, ask};
use crate::actor::watch::WatchedActor;

/// How long a `pre_start` may take: it only sets things up, anything slow follows as a message or a task.
const START_LIMIT: Duration = Duration::from_secs(5);

/// Starts an incarnation linked to the given supervisor, and puts its reference into the service's cell.
pub type Spawn = Arc<dyn Fn(ActorCell) -> BoxFuture<'static, Result<ActorCell, SpawnErr>> + Send + Sync>;

/// Asks an incarnation how it is. The supervisor limits the wait; `None` means that there was no answer.
pub type StatusProbe = Arc<dyn Fn(ActorCell) -> BoxFuture<'static, Option<ActorDetail>> + Send + Sync>;

/// A child as its supervisor sees it.
#[derive(Clone)]
pub struct Child {
    /// Which row of the policy table applies. A supervisor has at most one child of a kind.
    pub kind: ChildKind,
    pub spawn: Spawn,
    pub probe: StatusProbe,
    /// Empties the service's cell while there is no incarnation.
    pub clear: Arc<dyn Fn() + Send + Sync>,
    /// How many messages found no incarnation.
    pub undelivered: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Child {
    /// A child whose incarnations appear in `cell`. `make` gives what each one starts with, `query` is the message that
    /// asks how it is.
    pub fn new<A: Actor>(
        kind: ChildKind,
        cell: Arc<ServiceCell<A::Msg>>,
        make: impl Fn() -> (A, A::Arguments) + Send + Sync + 'static,
        query: fn(RpcReplyPort<ActorDetail>) -> A::Msg,
    ) -> Self {
        let spawn_cell = Arc::clone(&cell);
        let spawn: Spawn = Arc::new(move |supervisor| {
            let cell = Arc::clone(&spawn_cell);
            let (actor, arguments) = make();
            async move {
                let (actor, _) = A::spawn_linked(None, actor, arguments, supervisor).await?;
                cell.set(Some(actor.clone()));
                Ok(actor.get_cell())
            }
            .boxed()
        });
        let probe: StatusProbe = Arc::new(move |actor| {
            let actor = ActorRef::<A::Msg>::from(actor);
            async move { ask(&actor, query, ASK_CHILD_LIMIT).await }.boxed()
        });
        let counted = Arc::clone(&cell);
        let undelivered = Arc::new(move || counted.undelivered());
        Self { kind, spawn, probe, clear: Arc::new(move || cell.set(None)), undelivered }
    }

    /// Starts an incarnation. Never waits longer than a start may take, never panics.
    pub(super) async fn start(&self, supervisor: ActorCell) -> Result<ActorCell, ExitKind> {
        let spawn = Arc::clone(&self.spawn);
        let started = AssertUnwindSafe(async move { spawn(supervisor).await }).catch_unwind();
        let failed = |reason: String| ExitKind::Failed { reason };
        match tokio::time::timeout(START_LIMIT, started).await {
            Ok(Ok(Ok(actor))) => Ok(actor),
            Ok(Ok(Err(error))) => Err(ExitKind::of_spawn_error(&error)),
            Ok(Err(_panic)) => Err(failed("could not start: what prepares its start panicked".to_owned())),
            Err(_) => Err(failed(format!("could not start: its start took longer than {START_LIMIT:?}"))),
        }
    }

    /// Asks an incarnation how it is. Never waits longer than a child may take to answer, never panics.
    pub(super) async fn ask(&self, actor: ActorCell) -> Option<ActorDetail> {
        let probe = Arc::clone(&self.probe);
        let asked = AssertUnwindSafe(async move { probe(actor).await }).catch_unwind();
        tokio::time::timeout(ASK_CHILD_LIMIT, asked).await.ok()?.ok()?
    }
}

/// What came of asking a child's current incarnation how it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum SurveyAnswer {
    /// There was none when the others were asked.
    NotAsked,
    Silence,
    Said(ActorDetail),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Life {
    /// Its start is under way.
    Starting,
    Running(ActorCell),
    /// It waits for its next start; what for, if the node is degraded by that.
    Waiting {
        degraded: bool,
    },
    /// It was told to stop.
    Stopping(ActorCell),
    /// It ended and is not started again.
    Stopped,
}

/// A child and what is remembered of it.
pub(super) struct Supervised {
    pub(super) child: Child,
    pub(super) policy: &'static RestartPolicy,
    pub(super) history: History,
    /// Number of the current or next incarnation, from 1. Whatever names another one is stale.
    pub(super) generation: u64,
    pub(super) life: Life,
    /// The incarnation that runs.
    pub(super) watched: Option<WatchedActor>,
}

impl Supervised {
    pub(super) fn new(child: Child) -> Self {
        let policy = policy(child.kind);
        Self {
            child,
            policy,
            history: History::default(),
            generation: 1,
            life: Life::Waiting { degraded: false },
            watched: None,
        }
    }

    /// The incarnation that can be asked.
    pub(super) fn actor(&self) -> Option<&ActorCell> {
        match &self.life {
            Life::Running(actor) | Life::Stopping(actor) => Some(actor),
            Life::Starting | Life::Waiting { .. } | Life::Stopped => None,
        }
    }

    /// Whether `id` is the incarnation at hand, rather than an earlier one.
    pub(super) fn is(&self, id: ActorId) -> bool {
        self.actor().is_some_and(|actor| actor.get_id() == id)
    }

    /// What to show at `now`, given what the current incarnation answered.
    pub(super) fn status(&self, now: Instant, answer: SurveyAnswer) -> ActorStatus {
        let state = match &self.life {
            Life::Stopping(_) => ActorState::Stopping,
            Life::Running(_) if answer == SurveyAnswer::Silence => ActorState::Unresponsive,
            Life::Running(_) => ActorState::Running,
            Life::Waiting { degraded: true } => ActorState::Degraded,
            Life::Starting if self.history.is_spent() => ActorState::Degraded,
            Life::Starting | Life::Waiting { .. } if self.generation == 1 => ActorState::Starting,
            Life::Starting | Life::Waiting { .. } => ActorState::Restarting,
            Life::Stopped => ActorState::Stopped,
        };
        let ActorDetail { queued, detail, children } = match answer {
            SurveyAnswer::Said(detail) => detail,
            SurveyAnswer::Silence | SurveyAnswer::NotAsked => ActorDetail::default(),
        };
        let running_since = self.actor().and_then(|_| self.history.running_since());
        let mailbox = self.watched.as_ref().map(WatchedActor::reading).unwrap_or_default();
        ActorStatus {
            id: self.actor().map(|actor| actor.get_id().to_string()),
            kind: self.child.kind.to_string(),
            label: None,
            state,
            restarts: self.history.restarts(),
            uptime_secs: running_since.map_or(0, |since| now.duration_since(since).as_secs()),
            mailbox: mailbox.messages,
            mailbox_ms: mailbox.oldest_ms(),
            undelivered: (self.child.undelivered)(),
            queued,
            last_error: self.history.last_error().map(str::to_owned),
            children,
            detail,
        }
    }
}
