//! A reference to a service rather than to one incarnation of its actor.
//!
//! A supervisor keeps the [`ServiceCell`] and puts each new incarnation into it; siblings hold a [`ServiceRef`] and
//! always reach the current one. Between two incarnations there is none, and a send says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
    undelivered: Arc<AtomicU64>,
}

impl<M: Message> ServiceCell<M> {
    /// A service that is not running yet; `name` is what errors call it.
    pub fn new(name: &'static str) -> Self {
        Self { name, cell: watch::Sender::new(None), undelivered: Arc::default() }
    }

    /// Replaces the incarnation, or says that there is none.
    pub fn set(&self, actor: Option<ActorRef<M>>) {
        self.cell.send_replace(actor);
    }

    pub fn service_ref(&self) -> ServiceRef<M> {
        let undelivered = Arc::clone(&self.undelivered);
        ServiceRef { name: self.name, cell: self.cell.subscribe(), undelivered }
    }

    /// How many messages were sent while no incarnation took them.
    pub fn undelivered(&self) -> u64 {
        self.undelivered.load(Ordering::Relaxed)
    }
}

/// A sibling's end. Cheap to clone.
#[derive(Debug)]
pub struct ServiceRef<M: Message> {
    name: &'static str,
    cell: watch::Receiver<Option<ActorRef<M>>>,
    undelivered: Arc<AtomicU64>,
}

impl<M: Message> Clone for ServiceRef<M> {
    fn clone(&self) -> Self {
        let undelivered = Arc::clone(&self.undelivered);
        Self { name: self.name, cell: self.cell.clone(), undelivered }
    }
}

impl<M: Message> ServiceRef<M> {
    /// A reference that always leads to `actor`: for tests.
    pub fn fixed(actor: ActorRef<M>) -> Self {
        let cell = ServiceCell::new("fixed actor");
        cell.set(Some(actor));
        cell.service_ref()
    }

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
        match self.get().map(|actor| actor.send_message(message)) {
            Some(Ok(())) => Ok(()),
            None | Some(Err(_)) => Err(self.not_delivered()),
        }
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
        let actor = self.get().ok_or_else(|| self.not_delivered())?;
        match actor.call(message, Some(timeout)).await {
            Ok(ractor::rpc::CallResult::Success(answer)) => Ok(answer),
            Ok(ractor::rpc::CallResult::Timeout) => Err(ServiceError::Timeout(self.name)),
            // It came, and its actor ended.
            Ok(ractor::rpc::CallResult::SenderError) => Err(ServiceError::Down(self.name)),
            Err(_) => Err(self.not_delivered()),
        }
    }

    fn not_delivered(&self) -> ServiceError {
        self.undelivered.fetch_add(1, Ordering::Relaxed);
        ServiceError::Down(self.name)
    }
}
