//! Tasks that an actor owns.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use ractor::{ActorRef, Message};
use tokio::task::{AbortHandle, JoinSet};

/// An actor's tasks; they end when it is dropped. A panic in one becomes a message to the owner, which hears of it at
/// once and can fail in turn: a task that is only joined now and then dies unnoticed.
#[derive(Debug)]
pub struct Tasks<M: Message> {
    owner: ActorRef<M>,
    failed: fn(String) -> M,
    set: JoinSet<()>,
}

impl<M: Message> Tasks<M> {
    /// None yet. `failed` makes the message that reports a panic, from what it said.
    pub fn new(owner: ActorRef<M>, failed: fn(String) -> M) -> Self {
        Self { owner, failed, set: JoinSet::new() }
    }

    pub fn spawn(&mut self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        while self.set.try_join_next().is_some() {}
        let (owner, failed) = (self.owner.clone(), self.failed);
        self.set.spawn(async move {
            if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
                // An owner that is gone took the rest of its tasks along.
                let _ = owner.send_message(failed(message_of(panic.as_ref())));
            }
        })
    }

    /// Ends them all, and waits until they have ended.
    pub async fn shutdown(&mut self) {
        self.set.shutdown().await;
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
