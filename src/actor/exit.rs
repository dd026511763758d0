//! How a supervisor reads an actor's end out of what ractor tells.

use ractor::{ActorCell, ActorProcessingErr, SpawnErr, SupervisionEvent};

use super::restart::{ExitKind, shortened};

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
        Self::Failed { reason: shortened(&error.to_string()) }
    }

    /// Reads an exit out of a start that did not succeed.
    #[must_use]
    pub fn of_spawn_error(error: &SpawnErr) -> Self {
        let reason = match error {
            SpawnErr::StartupFailed(inner) => inner.to_string(),
            SpawnErr::ActorAlreadyStarted | SpawnErr::ActorAlreadyRegistered(_) => error.to_string(),
        };
        Self::Failed { reason: format!("could not start: {}", shortened(&reason)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_failures_with_their_text() {
        assert_eq!(ExitKind::of_error(&"d".into()), ExitKind::Failed { reason: "d".to_owned() });
        let start = SpawnErr::StartupFailed("e".into());
        let reason = "could not start: e".to_owned();
        assert_eq!(ExitKind::of_spawn_error(&start), ExitKind::Failed { reason });
    }

    #[test]
    fn an_endless_error_is_cut() {
        let ExitKind::Failed { reason } = ExitKind::of_error(&"\u{e9}".repeat(100_000).into()) else {
            panic!("an error is a failure")
        };
        assert_eq!(reason.chars().count(), 301);
    }
}
