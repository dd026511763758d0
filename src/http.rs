//! What every HTTP server of the package shares: the agent's API and the CAN Service's answer in one envelope, guard
//! against the same threats, and serve connections under the same limits.

pub(crate) mod bearer;
pub mod description;
pub mod envelope;
pub mod extract;
pub mod fuzz;
pub mod guard;
mod listener;
pub mod serve;
pub mod server;
pub(crate) mod sse;

pub use envelope::{ApiError, ApiResult};
pub use listener::{ListenError, SharedListener};
pub use serve::{Closing, ServeLimits, serve, serve_within};
pub use server::ServerTask;
