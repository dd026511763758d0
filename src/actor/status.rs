//! How the actors are: the tree that `GET /actors` and the status dump show.

use std::time::Duration;

use futures::future::join_all;
use ractor::rpc::CallResult;
use ractor::{ActorRef, Message, RpcReplyPort};
use serde::{Deserialize, Serialize};

use super::mailbox::MailboxReading;
use super::policy::ChildKind;
use super::restart::History;

/// How long RootSupervisor waits for a child to say how it is; after that the child counts as unresponsive.
pub const ASK_CHILD_LIMIT: Duration = Duration::from_millis(500);

/// How long a child waits for its own children while it is being asked: shorter, so that one hung grandchild does not
/// make the whole branch look hung.
const ASK_GRANDCHILD_LIMIT: Duration = Duration::from_millis(300);

/// What an actor is up to, seen from its supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorState {
    /// It runs and answers.
    Running,
    /// Its first start is under way.
    Starting,
    /// It failed and is about to run again.
    Restarting,
    /// It failed too often; the node goes on without it and tries again from time to time.
    Degraded,
    /// It runs, but did not answer in time.
    Unresponsive,
    /// It finishes its work before it ends.
    Stopping,
    /// It ended and is not missed.
    Stopped,
}

impl ActorState {
    /// The state as in its JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Starting => "starting",
            Self::Restarting => "restarting",
            Self::Degraded => "degraded",
            Self::Unresponsive => "unresponsive",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActorStatus {
    /// Identity of the current incarnation; `None` while there is none.
    pub id: Option<String>,
    /// The actor's name, such as `PeersActor`.
    pub kind: String,
    /// What tells it from others of its kind, such as a peer's name.
    pub label: Option<String>,
    pub state: ActorState,
    /// How often it was started again since the process started.
    pub restarts: u32,
    /// For how long the current incarnation runs.
    pub uptime_secs: u64,
    /// Messages that wait in its mailbox.
    #[serde(default)]
    pub mailbox: u64,
    /// How long the oldest of them has waited, in milliseconds.
    #[serde(default)]
    pub mailbox_ms: u64,
    /// Messages that were sent while no incarnation ran, and so never came; since the process started.
    #[serde(default)]
    pub undelivered: u64,
    /// Jobs that wait for it, as far as it can tell.
    pub queued: Option<u64>,
    pub last_error: Option<String>,
    pub children: Vec<ActorStatus>,
    /// What else it says of itself, in one line.
    pub detail: Option<String>,
}

impl ActorStatus {
    /// Nothing but this is known.
    pub fn new(kind: &str, state: ActorState) -> Self {
        Self {
            id: None,
            kind: kind.to_owned(),
            label: None,
            state,
            restarts: 0,
            uptime_secs: 0,
            mailbox: 0,
            mailbox_ms: 0,
            undelivered: 0,
            queued: None,
            last_error: None,
            children: Vec::new(),
            detail: None,
        }
    }
}

/// What an actor says of itself when its supervisor asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ActorDetail {
    /// Jobs that wait for it.
    pub queued: Option<u64>,
    /// One line on what it is doing.
    pub detail: Option<String>,
    pub children: Vec<ActorStatus>,
}

/// Asks children how they are, all at once.
pub async fn ask_all<M: Message>(
    children: Vec<AskedChild<M>>,
    query: fn(RpcReplyPort<ActorDetail>) -> M,
) -> Vec<ActorStatus> {
    join_all(children.into_iter().map(|child| child.status(query))).await
}

/// Asks one actor how it is, for at most `limit`. `None` when it does not answer in time or is gone.
pub async fn ask<M: Message>(
    actor: &ActorRef<M>,
    query: impl FnOnce(RpcReplyPort<ActorDetail>) -> M + Send,
    limit: Duration,
) -> Option<ActorDetail> {
    match actor.call(query, Some(limit)).await {
        Ok(CallResult::Success(detail)) => Some(detail),
        Ok(CallResult::Timeout | CallResult::SenderError) | Err(_) => None,
    }
}

/// A child of many, as whoever starts them knows it when it is asked how it is.
pub struct AskedChild<M> {
    pub kind: ChildKind,
    pub label: String,
    pub actor: Option<ActorRef<M>>,
    pub history: History,
    /// Whether it failed too often, and nobody waits for it.
    pub degraded: bool,
    pub mailbox: MailboxReading,
    pub undelivered: u64,
}

impl<M: Message> AskedChild<M> {
    /// What is known of it, and what it says of itself; one that does not answer is shown as such.
    async fn status(self, query: fn(RpcReplyPort<ActorDetail>) -> M) -> ActorStatus {
        let Self { kind, label, actor, history, degraded, mailbox, undelivered } = self;
        let answer = match &actor {
            Some(actor) => ask(actor, query, ASK_GRANDCHILD_LIMIT).await,
            None => None,
        };
        let state = match (&actor, &answer) {
            (None, _) if degraded => ActorState::Degraded,
            (None, _) => ActorState::Restarting,
            (Some(_), None) => ActorState::Unresponsive,
            (Some(_), Some(_)) => ActorState::Running,
        };
        let answer = answer.unwrap_or_default();
        ActorStatus {
            id: actor.map(|actor| actor.get_id().to_string()),
            kind: kind.to_string(),
            label: Some(label),
            state,
            restarts: history.restarts(),
            uptime_secs: history.running_since().map_or(0, |since| since.elapsed().as_secs()),
            mailbox: mailbox.messages,
            mailbox_ms: mailbox.oldest_ms(),
            undelivered,
            queued: answer.queued,
            last_error: history.last_error().map(str::to_owned),
            children: Vec::new(),
            detail: answer.detail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_says_what_the_dump_says() {
        let json = serde_json::to_value(ActorStatus::new("HttpActor", ActorState::Degraded)).unwrap();
        assert_eq!(json["state"], ActorState::Degraded.name());
        assert_eq!(json["kind"], "HttpActor");
    }
}
