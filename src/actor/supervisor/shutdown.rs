//! How the tree goes down: why, in which order, and what came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use futures::future::join_all;
use ractor::{ActorCell, ActorRef};

use super::child::{Life, Supervised};
use super::{RootMsg, RootState, spawn_in};
use crate::actor::policy::{ChildKind, POLICIES};

/// How long a killed actor may take to disappear. A kill takes effect where the actor waits for something; one that
/// never waits cannot be killed, and is left to the end of the process.
const KILL_LIMIT: Duration = Duration::from_millis(500);

/// Why the node is asked to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// SIGINT: somebody pressed Ctrl-C.
    Interrupt,
    /// SIGTERM: the system wants it.
    Terminate,
    /// Something else, in words.
    Requested(String),
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupt => f.write_str("interrupted (SIGINT)"),
            Self::Terminate => f.write_str("asked to terminate (SIGTERM)"),
            Self::Requested(reason) => f.write_str(reason),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShutdownOutcome {
    /// As asked, one child after the other.
    Ordered { reason: StopReason, killed: Vec<ChildKind> },
    /// At once, because it was asked for again while children were still stopping.
    Forced {
        /// Who asked the second time.
        reason: StopReason,
    },
    /// The node cannot go on: a child failed for good. The others were stopped in order.
    Escalated { why: String },
    /// RootSupervisor itself failed: a defect of this program.
    Crashed,
}

impl ShutdownOutcome {
    /// Whether the process should end with a failure.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Ordered { .. } => false,
            Self::Forced { .. } | Self::Escalated { .. } | Self::Crashed => true,
        }
    }
}

impl fmt::Display for ShutdownOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ordered { reason, killed } if killed.is_empty() => write!(f, "stopped in order: {reason}"),
            Self::Ordered { reason, killed } => {
                let killed: Vec<_> = killed.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "stopped in order: {reason}; killed, because they took too long: {}",
                    killed.join(", ")
                )
            }
            Self::Forced { reason } => write!(f, "stopped at once: {reason} again"),
            Self::Escalated { why } => write!(f, "stopped, because the node cannot go on: {why}"),
            Self::Crashed => f.write_str("the root supervisor itself failed; the log above says why"),
        }
    }
}

#[derive(Debug)]
pub(super) enum SupervisorPhase {
    /// Failed children are started again.
    Running,
    /// Nothing is started any more; children stop stage by stage.
    Stopping(Stopping),
}

#[derive(Debug)]
pub(super) struct Stopping {
    /// Who asked; `Err` with the reason when the node cannot go on.
    pub(super) cause: Result<StopReason, String>,
    /// Whether a shutdown was asked for; the next request stops at once.
    pub(super) asked: bool,
    pub(super) killed: Vec<ChildKind>,
}

impl Stopping {
    pub(super) fn why(&self) -> String {
        match &self.cause {
            Ok(reason) => reason.to_string(),
            Err(why) => why.clone(),
        }
    }

    pub(super) fn outcome(&self) -> ShutdownOutcome {
        match &self.cause {
            Ok(reason) => ShutdownOutcome::Ordered { reason: reason.clone(), killed: self.killed.clone() },
            Err(why) => ShutdownOutcome::Escalated { why: why.clone() },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It worked off its mailbox and stopped.
    Drained,
    /// It left messages unread, but stopped.
    Stopped,
    Killed,
    /// It could not even be killed within its time.
    Stuck,
}

impl RootState {
    pub(super) fn on_shutdown(&mut self, myself: &ActorRef<RootMsg>, reason: StopReason) {
        match &mut self.phase {
            SupervisorPhase::Running => self.begin_to_stop(myself, Ok(reason)),
            // The first request meets a shutdown that is under way for another reason.
            SupervisorPhase::Stopping(stopping) if stopping.cause.is_err() && !stopping.asked => {
                stopping.asked = true;
                tracing::info!(%reason, "the node is stopping already; asking again stops it at once");
            }
            SupervisorPhase::Stopping(_) => {
                tracing::warn!(%reason, "asked again: stops at once");
                for actor in self.children.iter().filter_map(Supervised::actor) {
                    actor.kill();
                }
                self.finish(myself, ShutdownOutcome::Forced { reason });
            }
        }
    }

    pub(super) fn begin_to_stop(&mut self, myself: &ActorRef<RootMsg>, cause: Result<StopReason, String>) {
        let stopping = Stopping { asked: cause.is_ok(), cause, killed: Vec::new() };
        tracing::info!(why = stopping.why(), "the node stops");
        self.phase = SupervisorPhase::Stopping(stopping);
        self.starting.abort_all();
        for child in &mut self.children {
            if matches!(child.life, Life::Starting | Life::Waiting { .. }) {
                child.life = Life::Stopped;
            }
        }
        self.stop_next_stage(myself);
    }

    fn stop_next_stage(&mut self, myself: &ActorRef<RootMsg>) {
        let running = self.children.iter().filter(|c| matches!(c.life, Life::Running(_)));
        let Some(order) = running.map(|c| c.policy.stop_order).min() else {
            if let SupervisorPhase::Stopping(stopping) = &self.phase {
                let outcome = stopping.outcome();
                self.finish(myself, outcome);
            }
            return;
        };
        let mut stage = Vec::new();
        for child in self.children.iter_mut().filter(|c| c.policy.stop_order == order) {
            if let Life::Running(actor) = &child.life {
                let actor = actor.clone();
                tracing::debug!(kind = %child.child.kind, limit = ?child.policy.stop_timeout, "is asked to stop");
                stage.push((child.child.kind, actor.clone(), child.policy.stop_timeout));
                child.life = Life::Stopping(actor);
            }
        }
        let myself = myself.clone();
        spawn_in(&mut self.tasks, async move {
            let ended = stop_stage(stage).await;
            // When it fails, RootSupervisor was told to stop at once.
            let _ = myself.send_message(RootMsg::StageStopped { ended });
        });
    }

    pub(super) fn on_stage_stopped(&mut self, myself: &ActorRef<RootMsg>, ended: &[(ChildKind, Ended)]) {
        let SupervisorPhase::Stopping(stopping) = &mut self.phase else { return };
        for (kind, how) in ended {
            match how {
                Ended::Drained => tracing::debug!(%kind, "stopped"),
                Ended::Stopped => tracing::warn!(%kind, "stopped, with messages left unread"),
                Ended::Killed => tracing::warn!(%kind, "did not stop in time and was killed"),
                Ended::Stuck => tracing::error!(%kind, "could not even be killed in time and is abandoned"),
            }
            if matches!(how, Ended::Killed | Ended::Stuck) {
                stopping.killed.push(*kind);
            }
            if let Some(child) = self.children.iter_mut().find(|c| c.child.kind == *kind) {
                (child.child.clear)();
                child.life = Life::Stopped;
            }
        }
        self.stop_next_stage(myself);
    }

    fn finish(&mut self, myself: &ActorRef<RootMsg>, outcome: ShutdownOutcome) {
        tracing::debug!(%outcome, "the tree is down");
        let reason = outcome.to_string();
        // Set once: whatever comes after the first end changes nothing.
        let _ = self.outcome.set(outcome);
        myself.stop(Some(reason));
    }
}

/// Stops several children together; each has its own limit.
async fn stop_stage(stage: Vec<(ChildKind, ActorCell, Duration)>) -> Vec<(ChildKind, Ended)> {
    join_all(
        stage.into_iter().map(|(kind, actor, limit)| async move { (kind, stop_one(&actor, limit).await) }),
    )
    .await
}

/// First lets the actor work off what is in its mailbox; at half time asks it to stop after the message at hand; kills
/// it when its time is over.
async fn stop_one(actor: &ActorCell, limit: Duration) -> Ended {
    // An error here means that it is gone already, and so does the wait's immediate return.
    let _ = actor.drain();
    if actor.wait(Some(limit / 2)).await.is_ok() {
        return Ended::Drained;
    }
    actor.stop(Some("the node stops".to_owned()));
    if actor.wait(Some(limit / 2)).await.is_ok() {
        return Ended::Stopped;
    }
    actor.kill();
    match actor.wait(Some(KILL_LIMIT)).await {
        Ok(()) => Ended::Killed,
        Err(_) => Ended::Stuck,
    }
}

/// The longest that an ordered shutdown takes: each stage's longest stop plus the kill after it.
pub fn shutdown_limit() -> Duration {
    let mut stages: BTreeMap<u8, Duration> = BTreeMap::new();
    for policy in &POLICIES {
        let longest = stages.entry(policy.stop_order).or_default();
        *longest = policy.stop_timeout.max(*longest);
    }
    stages.values().map(|longest| *longest + KILL_LIMIT).sum()
}
