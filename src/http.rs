//! What every HTTP server of the package shares: the agent's API and the CAN Service's answer in one envelope, guard
//! against the same threats, and serve connections under the same limits.
//!
//! The rest is the agent's own: [`actor`] serves its API, events, metrics and page.

pub mod actor;
mod api;
pub mod envelope;
pub mod events;
pub mod extract;
pub mod guard;
mod libraries;
pub mod metrics;
mod model;
mod page;
pub mod proxy;
pub mod serve;
pub mod shapes;
mod token;
pub mod view;
mod why;

pub use actor::{HttpActor, HttpArgs, HttpMsg, SharedListener};
pub use envelope::{ApiError, ApiResult, Success};
pub use guard::{GuardSettings, protect};
pub use serve::{Closing, serve};
pub use view::AgentView;
