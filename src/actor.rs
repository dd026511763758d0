//! Our small kit over ractor: references that survive restarts, and exits that carry the restart policy.

pub mod exit;
pub mod policy;
pub mod restart;
pub mod service_ref;
pub mod status;
pub mod supervisor;
pub mod tasks;

pub use exit::ActorExit;
pub use service_ref::{ServiceCell, ServiceRef};
