//! RootSupervisor starts the node's actors, starts them again when they fail, and stops them in order.
//!
//! **Owns** the children's factories and histories. It does not know their types: each comes as a [`Child`].
//! **Talks to** its children through supervision events, and through their probes when somebody asks for the tree.
//! **Bounds**: nothing is awaited in a handler, so that a hung child never blocks it. Starts, questions and stops run in
//! tasks, each with a limit, and come back as messages. However many ask for the tree, one survey runs at a time.
//! **A restart** of RootSupervisor does not exist: when it ends, the node ends. The policy is in [`super::policy`], the
//! decisions are in [`super::restart`].

mod child;
mod shutdown;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures::future::join_all;
use jiff::Timestamp;
use ractor::{Actor, ActorCell, ActorRef, RpcReplyPort, SpawnErr, SupervisionEvent};
use tokio::task::{JoinHandle, JoinSet};

pub use self::child::Child;
use self::child::{Life, Supervised, SurveyAnswer};
use self::shutdown::SupervisorPhase;
pub use self::shutdown::{Ended, ShutdownOutcome, StopReason, shutdown_limit};
use super::ActorResult;
use super::mailbox::{Mailbox, counted};
use super::policy::ChildKind;
use super::restart::{ExitKind, RestartDecision, decide};
use super::status::{ActorDetail, ActorState, ActorStatus};
use super::watch::{BEAT, WatchedActor};
use crate::actor::ServiceCell;
use crate::events::{EventLog, NodeEvent};

counted!(RootMsg);

#[derive(Debug)]
pub enum RootMsg {
    /// HTTP API, SignalActor: how are the actors? Answers within [`super::status::ASK_CHILD_LIMIT`] and a little.
    GetTree { reply: RpcReplyPort<ActorStatus> },
    /// SignalActor, main: stop in order; when it was asked for before, at once.
    Shutdown { reason: StopReason },
    /// Itself, every [`BEAT`]: see who does not come on.
    BeatDue,
    /// Itself, after a back-off: start this incarnation.
    Respawn {
        kind: ChildKind,
        /// Which one; any other than the one expected is stale.
        generation: u64,
    },
    /// Its own task: a start succeeded or did not.
    Spawned {
        kind: ChildKind,
        generation: u64,
        /// The actor, or why there is none.
        result: Result<ActorCell, ExitKind>,
    },
    /// Its own task: what the children said of themselves.
    Surveyed {
        /// Child, incarnation, and its answer, where it gave one.
        answers: Vec<(ChildKind, u64, Option<ActorDetail>)>,
    },
    /// Its own task: the children of one stage have stopped.
    StageStopped { ended: Vec<(ChildKind, Ended)> },
}

/// Takes note that the node goes on without a child (why), or that this child runs again (`None`). Must not block.
pub type OnDegraded = Arc<dyn Fn(ChildKind, Option<&str>) + Send + Sync>;

pub struct RootArgs {
    /// Where it appears itself, for the children that talk to it.
    pub cell: Arc<ServiceCell<RootMsg>>,
    /// The children, started in this order without waiting for one another.
    pub children: Vec<Child>,
    /// Where restarts are told.
    pub events: EventLog,
    /// Told when the node goes on without a child, and when that child is back.
    pub on_degraded: OnDegraded,
}

pub struct RootState {
    children: Vec<Supervised>,
    events: EventLog,
    on_degraded: OnDegraded,
    started: Instant,
    phase: SupervisorPhase,
    /// Exits of actors whose start is not known yet: supervision events overtake messages.
    early_exits: Vec<(ActorCell, ExitKind)>,
    /// Who waits for the survey that is under way.
    surveyed_for: Vec<RpcReplyPort<ActorStatus>>,
    surveying: bool,
    /// Its own.
    mailbox: Mailbox,
    outcome: Arc<OnceLock<ShutdownOutcome>>,
    /// Starts and pending back-offs: over as soon as the node stops.
    starting: JoinSet<()>,
    tasks: JoinSet<()>,
}

pub struct RootSupervisor;

/// Starts the tree. The handle gives the outcome once everything is down.
///
/// # Errors
/// When RootSupervisor could not be set up, which says that the children given contradict each other. A child that does
/// not start is no error here: its policy says what follows.
pub async fn start(args: RootArgs) -> Result<(ActorRef<RootMsg>, JoinHandle<ShutdownOutcome>), SpawnErr> {
    let outcome = Arc::new(OnceLock::new());
    let (root, join) = RootSupervisor::spawn(None, RootSupervisor, (args, Arc::clone(&outcome))).await?;
    let ended = tokio::spawn(async move {
        // Its only error is a runtime that shuts down, and then there is nobody left to tell.
        let _ = join.await;
        outcome.get().cloned().unwrap_or(ShutdownOutcome::Crashed)
    });
    Ok((root, ended))
}

impl Actor for RootSupervisor {
    type Msg = RootMsg;
    type State = RootState;
    type Arguments = (RootArgs, Arc<OnceLock<ShutdownOutcome>>);

    async fn pre_start(
        &self,
        myself: ActorRef<RootMsg>,
        (args, outcome): Self::Arguments,
    ) -> ActorResult<RootState> {
        let RootArgs { cell, children, events, on_degraded } = args;
        for (i, child) in children.iter().enumerate() {
            let kind = child.kind;
            if children[..i].iter().any(|earlier| earlier.kind == kind) {
                return Err(format!("two children of kind {kind}").into());
            }
            myself.send_message(RootMsg::Respawn { kind, generation: 1 })?;
        }
        myself.send_after(BEAT, || RootMsg::BeatDue);
        let mailbox = Mailbox::of(&myself.get_cell());
        cell.set(Some(myself));
        Ok(RootState {
            children: children.into_iter().map(Supervised::new).collect(),
            events,
            on_degraded,
            started: now(),
            phase: SupervisorPhase::Running,
            early_exits: Vec::new(),
            surveyed_for: Vec::new(),
            surveying: false,
            mailbox,
            outcome,
            starting: JoinSet::new(),
            tasks: JoinSet::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<RootMsg>,
        message: RootMsg,
        state: &mut RootState,
    ) -> ActorResult {
        match message {
            RootMsg::GetTree { reply } => {
                state.surveyed_for.push(reply);
                state.survey(&myself);
            }
            RootMsg::BeatDue => state.on_beat(&myself),
            RootMsg::Shutdown { reason } => state.on_shutdown(&myself, reason),
            RootMsg::Respawn { kind, generation } => state.on_respawn(&myself, kind, generation),
            RootMsg::Spawned { kind, generation, result } => {
                state.on_spawned(&myself, kind, generation, result);
            }
            RootMsg::Surveyed { answers } => state.on_surveyed(&myself, answers),
            RootMsg::StageStopped { ended } => state.on_stage_stopped(&myself, &ended),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<RootMsg>,
        event: SupervisionEvent,
        state: &mut RootState,
    ) -> ActorResult {
        let stopping = matches!(state.phase, SupervisorPhase::Stopping(_));
        if let Some((actor, exit)) = ExitKind::of_event(event, stopping) {
            state.on_exit(&myself, actor, exit);
        }
        Ok(())
    }
}

impl RootState {
    /// Has those killed, and so started again, that have not come on for long; and asks all how they are, so that there is
    /// something to do for each.
    fn on_beat(&mut self, myself: &ActorRef<RootMsg>) {
        if !matches!(self.phase, SupervisorPhase::Running) {
            return;
        }
        for watched in self.children.iter_mut().filter_map(|child| child.watched.as_mut()) {
            watched.beat();
        }
        self.survey(myself);
        myself.send_after(BEAT, || RootMsg::BeatDue);
    }

    fn survey(&mut self, myself: &ActorRef<RootMsg>) {
        if self.surveying {
            return;
        }
        self.surveying = true;
        let questions: Vec<_> = self
            .children
            .iter()
            .filter_map(|c| Some((c.child.clone(), c.generation, c.actor()?.clone())))
            .collect();
        let myself = myself.clone();
        spawn_in(&mut self.tasks, async move {
            let asked = questions.into_iter().map(|(child, generation, actor)| async move {
                (child.kind, generation, child.ask(actor).await)
            });
            let answers = join_all(asked).await;
            // When it fails, RootSupervisor is gone, and so are those who asked.
            let _ = myself.send_message(RootMsg::Surveyed { answers });
        });
    }

    fn on_surveyed(
        &mut self,
        myself: &ActorRef<RootMsg>,
        mut answers: Vec<(ChildKind, u64, Option<ActorDetail>)>,
    ) {
        self.surveying = false;
        let now = now();
        let mut children = Vec::with_capacity(self.children.len());
        for child in &self.children {
            // What an earlier incarnation said is of no interest any more.
            let position =
                answers.iter().position(|(k, g, _)| *k == child.child.kind && *g == child.generation);
            let answer = match position.map(|i| answers.swap_remove(i)) {
                None => SurveyAnswer::NotAsked,
                Some((.., None)) => SurveyAnswer::Silence,
                Some((.., Some(detail))) => SurveyAnswer::Said(detail),
            };
            children.push(child.status(now, answer));
        }
        let (state, detail) = match &self.phase {
            SupervisorPhase::Running => (ActorState::Running, None),
            SupervisorPhase::Stopping(stopping) => (ActorState::Stopping, Some(stopping.why())),
        };
        let mailbox = self.mailbox.reading();
        let tree = ActorStatus {
            id: Some(myself.get_id().to_string()),
            uptime_secs: now.duration_since(self.started).as_secs(),
            mailbox: mailbox.messages,
            mailbox_ms: mailbox.oldest_ms(),
            children,
            detail,
            ..ActorStatus::new("RootSupervisor", state)
        };
        for reply in self.surveyed_for.drain(..).filter(|reply| !reply.is_closed()) {
            // A caller that stopped waiting in this moment does not miss the answer.
            let _ = reply.send(tree.clone());
        }
    }

    fn on_respawn(&mut self, myself: &ActorRef<RootMsg>, kind: ChildKind, generation: u64) {
        let Some(child) = self.children.iter_mut().find(|c| c.child.kind == kind) else { return };
        // While the node stops, no child waits.
        if child.generation != generation || !matches!(child.life, Life::Waiting { .. }) {
            return;
        }
        child.life = Life::Starting;
        let (start, myself) = (child.child.clone(), myself.clone());
        spawn_in(&mut self.starting, async move {
            let result = start.start(myself.get_cell()).await;
            // When it fails, RootSupervisor is gone, and the linked actor with it.
            let _ = myself.send_message(RootMsg::Spawned { kind, generation, result });
        });
    }

    fn on_spawned(
        &mut self,
        myself: &ActorRef<RootMsg>,
        kind: ChildKind,
        generation: u64,
        result: Result<ActorCell, ExitKind>,
    ) {
        let expected = self
            .children
            .iter_mut()
            .find(|c| c.child.kind == kind && c.generation == generation && c.life == Life::Starting);
        let Some(child) = expected else {
            // Born after the node began to stop: nobody knows it yet, so nobody misses it.
            if let Ok(actor) = result {
                actor.kill();
            }
            return;
        };
        let early_exit = result.as_ref().ok().and_then(|actor| {
            let position = self.early_exits.iter().position(|(early, _)| early == actor)?;
            Some(self.early_exits.swap_remove(position))
        });
        match result {
            Err(exit) => self.after_exit(myself, kind, exit),
            Ok(actor) => {
                let was_degraded = child.history.is_spent();
                child.history.started(now());
                child.watched = Some(WatchedActor::new(actor.clone()));
                child.life = Life::Running(actor);
                if generation > 1 {
                    let restarts = child.history.restarts();
                    let reason = child.history.last_error().unwrap_or_default().to_owned();
                    tracing::info!(%kind, restarts, "restarted");
                    let event = NodeEvent::ActorRestarted { kind: kind.to_string(), reason, restarts };
                    self.events.publish(unix_ms(), event);
                }
                if was_degraded {
                    (self.on_degraded)(kind, None);
                }
            }
        }
        if let Some((actor, exit)) = early_exit {
            self.on_exit(myself, actor, exit);
        }
        if !self.children.iter().any(|c| c.life == Life::Starting) {
            self.early_exits.clear();
        }
    }

    fn on_exit(&mut self, myself: &ActorRef<RootMsg>, actor: ActorCell, exit: ExitKind) {
        if let Some(child) = self.children.iter().find(|c| c.is(actor.get_id())) {
            let kind = child.child.kind;
            self.after_exit(myself, kind, exit);
        } else if self.early_exits.len() < self.children.iter().filter(|c| c.life == Life::Starting).count() {
            self.early_exits.push((actor, exit));
        }
    }

    /// Decides what follows the end of a child's current incarnation, or of the attempt to start one.
    fn after_exit(&mut self, myself: &ActorRef<RootMsg>, kind: ChildKind, exit: ExitKind) {
        let stopping = matches!(self.phase, SupervisorPhase::Stopping(_));
        let Some(child) = self.children.iter_mut().find(|c| c.child.kind == kind) else { return };
        (child.child.clear)();
        let exit = match child.watched.take() {
            Some(watched) => watched.explain(exit),
            None => exit,
        };
        let reason = exit.reason();
        if stopping {
            tracing::debug!(%kind, reason, "ended while the node stops");
            child.life = Life::Stopped;
            return;
        }
        let decision = decide(child.policy, &exit, &mut child.history, now(), rand::random());
        child.generation += 1;
        let generation = child.generation;
        match decision {
            RestartDecision::Respawn { after } => {
                tracing::warn!(%kind, reason, ?after, "ended; is started again");
                child.life = Life::Waiting { degraded: false };
                self.respawn_after(myself, kind, generation, after);
            }
            RestartDecision::Degrade { retry_after, why } => {
                tracing::error!(%kind, why, ?retry_after, "the node goes on without it and tries again");
                child.life = Life::Waiting { degraded: true };
                (self.on_degraded)(kind, Some(&why));
                self.respawn_after(myself, kind, generation, retry_after);
            }
            RestartDecision::LetGo => {
                tracing::info!(%kind, reason, "ended and is not missed");
                child.life = Life::Stopped;
            }
            RestartDecision::Escalate { why } | RestartDecision::BackOff { why, .. } => {
                tracing::error!(%kind, why, "the node cannot go on without it and stops");
                child.life = Life::Stopped;
                self.begin_to_stop(myself, Err(why));
            }
        }
    }

    fn respawn_after(
        &mut self,
        myself: &ActorRef<RootMsg>,
        kind: ChildKind,
        generation: u64,
        after: Duration,
    ) {
        let myself = myself.clone();
        spawn_in(&mut self.starting, async move {
            if !after.is_zero() {
                tokio::time::sleep(after).await;
            }
            // When it fails, RootSupervisor is gone.
            let _ = myself.send_message(RootMsg::Respawn { kind, generation });
        });
    }
}

/// Starts a task, and first forgets those that are over, so that the set never grows beyond what is under way.
fn spawn_in(tasks: &mut JoinSet<()>, task: impl Future<Output = ()> + Send + 'static) {
    while tasks.try_join_next().is_some() {}
    tasks.spawn(task);
}

/// The runtime's clock, which tests can stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn unix_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}
