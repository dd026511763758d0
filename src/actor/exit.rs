//! How an actor ends on purpose, and how its supervisor reads an end out of what ractor tells.

use ractor::{ActorCell, ActorProcessingErr, SpawnErr, SupervisionEvent};

use super::restart::{ExitKind, shortened};

/// An error that an actor returns from a handler. Anything else that ends an actor (a panic, a kill, another error)
/// counts as [`ActorExit::Transient`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActorExit {
    /// It may work again after a restart.
    #[error("{0}")]
    Transient(String),
    /// A restart cannot help: give up at once.
    #[error("fatal: {0}")]
    Fatal(String),
    /// Nothing left to do; not a failure.
    #[error("done: {0}")]
    Done(String),
}

impl ExitKind {
    /// Reads an exit out of a supervision event; `asked_for` is whether the supervisor stops its children just now.
    /// `None` for events that are no exit.
    #[must_use]
    pub fn of_event(event: SupervisionEvent, asked_for: bool) -> Option<(ActorCell, Self)> {
        match event {
            SupervisionEvent::ActorFailed(who, error) => Some((who, Self::of_error(&error))),
            SupervisionEvent::ActorTerminated(who, _state, reason) => {
                // ractor has no other mark for a kill and a cancelled task than these texts.
                let exit = match reason {
                    Some(reason) if reason == "killed" || reason == "actor_task_cancelled" => {
                        Self::Killed { reason }
                    }
                    reason => Self::Stopped { reason, asked_for },
                };
                Some((who, exit))
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => None,
        }
    }

    /// Reads an exit out of the error that a handler returned or a panic became.
    #[must_use]
    pub fn of_error(error: &ActorProcessingErr) -> Self {
        match error.downcast_ref::<ActorExit>() {
            Some(ActorExit::Done(reason)) => {
                Self::Stopped { reason: Some(shortened(reason)), asked_for: true }
            }
            Some(ActorExit::Fatal(reason)) => Self::Failed { reason: shortened(reason), fatal: true },
            Some(ActorExit::Transient(reason)) => Self::Failed { reason: shortened(reason), fatal: false },
            None => Self::Failed { reason: shortened(&error.to_string()), fatal: false },
        }
    }

    /// Reads an exit out of a start that did not succeed.
    #[must_use]
    pub fn of_spawn_error(error: &SpawnErr) -> Self {
        let exit = match error {
            SpawnErr::StartupFailed(inner) => Self::of_error(inner),
            SpawnErr::ActorAlreadyStarted | SpawnErr::ActorAlreadyRegistered(_) => {
                Self::Failed { reason: error.to_string(), fatal: false }
            }
        };
        match exit {
            Self::Failed { reason, fatal } => {
                Self::Failed { reason: format!("could not start: {reason}"), fatal }
            }
            Self::Killed { .. } | Self::Stopped { .. } => exit,
        }
    }
}
