//! Our small kit over ractor: references that survive restarts, supervision by one policy table, and how actors are.

mod exit;
pub mod mailbox;
pub mod policy;
pub mod restart;
pub mod service_ref;
pub mod status;
pub mod supervisor;
pub mod tasks;
pub mod watch;

pub use service_ref::{ServiceCell, ServiceRef};

/// What a method of an actor comes to; an error ends the actor.
pub type ActorResult<T = ()> = Result<T, ractor::ActorProcessingErr>;
