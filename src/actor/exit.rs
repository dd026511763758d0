//! How a supervisor reads an actor's end out of what ractor tells.

use ractor::{ActorCell, ActorProcessingErr, SpawnErr, SupervisionEvent};

use super::restart::{ExitKind, shortened};

impl ExitKind {
    /// Reads an exit out of a supervision event; `asked_for` is whether the supervisor stops its children just now.
    /// `None` for events that are no exit.
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
            SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_)
            | SupervisionEvent::PidLifecycleEvent(_) => None,
        }
    }

    /// Reads an exit out of the error that a handler returned or a panic became.
    pub fn of_error(error: &ActorProcessingErr) -> Self {
        Self::Failed { reason: shortened(&error.to_string()) }
    }

    /// Reads an exit out of a start that did not succeed.
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
    use std::time::Duration;

    use ractor::{Actor, ActorRef};
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::actor::ActorResult;

    /// ractor promises neither text: an update that changes one fails here, rather than let a killed actor go.
    #[tokio::test]
    async fn a_kill_and_a_cancelled_task_are_told_from_a_stop() {
        let kill = |actor: ActorCell, _: JoinHandle<()>| actor.kill();
        let cancel = |_: ActorCell, task: JoinHandle<()>| task.abort();
        let stop = |actor: ActorCell, _: JoinHandle<()>| actor.stop(Some("killed by nobody".to_owned()));
        let killed = |reason: &str| ExitKind::Killed { reason: reason.to_owned() };
        let stopped = ExitKind::Stopped { reason: Some("killed by nobody".to_owned()), asked_for: true };
        assert_eq!(end_of(kill).await, killed("killed"));
        assert_eq!(end_of(cancel).await, killed("actor_task_cancelled"));
        assert_eq!(end_of(stop).await, stopped);
    }

    /// How the end of an actor reads to its supervisor.
    async fn end_of(end: impl FnOnce(ActorCell, JoinHandle<()>)) -> ExitKind {
        struct Idle;
        impl Actor for Idle {
            type Msg = ();
            type State = mpsc::Sender<ExitKind>;
            type Arguments = Self::State;

            async fn pre_start(&self, _: ActorRef<()>, told: Self::State) -> ActorResult<Self::State> {
                Ok(told)
            }

            async fn handle_supervisor_evt(
                &self,
                _: ActorRef<()>,
                event: SupervisionEvent,
                told: &mut Self::State,
            ) -> ActorResult {
                if let Some((_, exit)) = ExitKind::of_event(event, true) {
                    told.send(exit).await?;
                }
                Ok(())
            }
        }
        let (told, mut exits) = mpsc::channel(1);
        let (supervisor, _) = Actor::spawn(None, Idle, told.clone()).await.unwrap();
        let (actor, task) = Actor::spawn_linked(None, Idle, told, supervisor.get_cell()).await.unwrap();
        end(actor.get_cell(), task);
        tokio::time::timeout(Duration::from_secs(10), exits.recv())
            .await
            .expect("it ends")
            .expect("it is told")
    }

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
