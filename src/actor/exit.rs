//! How an actor ends on purpose, and what its supervisor should make of it.

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
