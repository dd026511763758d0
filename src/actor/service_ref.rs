//! A reference to a service rather than to one incarnation of its actor.
//!
//! A supervisor keeps the [`ServiceCell`] and puts each new incarnation into it; siblings hold a [`ServiceRef`] and
//! always reach the current one. Between two incarnations there is none, and a send says so.

use std::time::Duration;

use ractor::{ActorRef, Message, RpcReplyPort};
use tokio::sync::watch;

/// Why a message did not reach a service, or its answer did not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    #[error("the {0} is not running at the moment")]
    Down(&'static str),
    #[error("the {0} did not answer in time")]
    Timeout(&'static str),
}

/// The supervisor's end: holds the current incarnation.
#[derive(Debug)]
pub struct ServiceCell<M: Message> {
    name: &'static str,
    cell: watch::Sender<Option<ActorRef<M>>>,
}

impl<M: Message> ServiceCell<M> {
    /// A service that is not running yet; `name` is what errors call it.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self { name, cell: watch::Sender::new(None) }
    }

    /// Replaces the incarnation, or says that there is none.
    pub fn set(&self, actor: Option<ActorRef<M>>) {
        self.cell.send_replace(actor);
    }

    #[must_use]
    pub fn service_ref(&self) -> ServiceRef<M> {
        ServiceRef { name: self.name, cell: self.cell.subscribe() }
    }
}

/// A sibling's end. Cheap to clone.
#[derive(Debug)]
pub struct ServiceRef<M: Message> {
    name: &'static str,
    cell: watch::Receiver<Option<ActorRef<M>>>,
}

impl<M: Message> Clone for ServiceRef<M> {
    fn clone(&self) -> Self {
        Self { name: self.name, cell: self.cell.clone() }
    }
}

impl<M: Message> ServiceRef<M> {
    /// A reference that always leads to `actor`: for tests.
    #[must_use]
    pub fn fixed(actor: ActorRef<M>) -> Self {
        let cell = ServiceCell::new("fixed actor");
        cell.set(Some(actor));
        cell.service_ref()
    }

    #[must_use]
    pub fn get(&self) -> Option<ActorRef<M>> {
        self.cell.borrow().clone()
    }

    /// Waits until some incarnation runs; for ever if the supervisor is gone.
    pub async fn up(&self) {
        if self.cell.clone().wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Sends without waiting.
    ///
    /// # Errors
    /// [`ServiceError::Down`] when no incarnation takes it; the sender decides what that means.
    pub fn cast(&self, message: M) -> Result<(), ServiceError> {
        let down = ServiceError::Down(self.name);
        self.get().ok_or(down)?.send_message(message).map_err(|_| down)
    }

    /// Sends a query and waits at most `timeout` for the answer.
    ///
    /// # Errors
    /// [`ServiceError::Down`] when no incarnation takes it or it ends first, [`ServiceError::Timeout`] after `timeout`.
    pub async fn call<T: Send + 'static>(
        &self,
        message: impl FnOnce(RpcReplyPort<T>) -> M + Send,
        timeout: Duration,
    ) -> Result<T, ServiceError> {
        let down = ServiceError::Down(self.name);
        let actor = self.get().ok_or(down)?;
        match actor.call(message, Some(timeout)).await {
            Ok(ractor::rpc::CallResult::Success(answer)) => Ok(answer),
            Ok(ractor::rpc::CallResult::Timeout) => Err(ServiceError::Timeout(self.name)),
            Ok(ractor::rpc::CallResult::SenderError) | Err(_) => Err(down),
        }
    }
}
