//! An actor that stands in for a neighbour: it records what it is sent, and answers queries as the test likes.

use std::sync::Arc;

use parking_lot::Mutex;

use super::nodes::DEADLINE;
use can_sync::testing::actor::{ServiceCell, ServiceRef};
use ractor::{Actor, ActorProcessingErr, ActorRef, Message};
use tokio::sync::watch;

/// What a probe does with a message: answers it (`None`), or gives it back to be recorded.
type Answer<M> = Box<dyn FnMut(M) -> Option<M> + Send + Sync>;

/// A recording stand-in for an actor that understands `M`.
pub(crate) struct Probe<M: Message> {
    actor: ActorRef<M>,
    seen: Arc<Mutex<Vec<M>>>,
    count: watch::Receiver<usize>,
}

impl<M: Message + Sync> Probe<M> {
    /// Records everything.
    pub(crate) async fn spawn() -> Self {
        Self::answering(Some).await
    }

    /// Lets `answer` deal with each message first; records what it gives back.
    pub(crate) async fn answering(answer: impl FnMut(M) -> Option<M> + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (sender, count) = watch::channel(0);
        let state = ProbeState { answer: Box::new(answer), seen: Arc::clone(&seen), count: sender };
        let (actor, _) =
            Actor::spawn(None, ProbeActor(std::marker::PhantomData), state).await.expect("a probe starts");
        Self { actor, seen, count }
    }

    /// A reference for the actor under test.
    pub(crate) fn service(&self) -> ServiceRef<M> {
        ServiceRef::fixed(self.actor.clone())
    }

    /// The same, by the name that errors call it.
    pub(crate) fn service_called(&self, name: &'static str) -> ServiceRef<M> {
        let cell = ServiceCell::new(name);
        cell.set(Some(self.actor.clone()));
        cell.service_ref()
    }

    /// Looks at everything recorded so far.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&[M]) -> T) -> T {
        at(&self.seen.lock())
    }

    /// Waits until what has been recorded satisfies `condition`.
    pub(crate) async fn wait_for(&mut self, what: &str, mut condition: impl FnMut(&[M]) -> bool) {
        let seen = Arc::clone(&self.seen);
        let met = self.count.wait_for(|_| condition(&seen.lock()));
        let met = tokio::time::timeout(DEADLINE, met).await;
        let met = met.unwrap_or_else(|_| panic!("{what} did not happen within {DEADLINE:?}"));
        met.unwrap_or_else(|_| panic!("the probe ended before {what}"));
    }
}

struct ProbeActor<M>(std::marker::PhantomData<fn() -> M>);

struct ProbeState<M> {
    answer: Answer<M>,
    seen: Arc<Mutex<Vec<M>>>,
    count: watch::Sender<usize>,
}

impl<M: Message + Sync> Actor for ProbeActor<M> {
    type Msg = M;
    type State = ProbeState<M>;
    type Arguments = ProbeState<M>;

    async fn pre_start(
        &self,
        _: ActorRef<M>,
        state: ProbeState<M>,
    ) -> Result<ProbeState<M>, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<M>,
        message: M,
        state: &mut ProbeState<M>,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(message) = (state.answer)(message) {
            state.seen.lock().push(message);
            state.count.send_modify(|count| *count += 1);
        }
        Ok(())
    }
}
