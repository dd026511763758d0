//! The agent's own HTTP API, its events and metrics, and the web page: what [`actor`] serves.
//!
//! Shapes of answers live here; nothing below knows how an answer looks.

pub mod actor;
pub mod bodies;
pub mod damaged;
mod deletions;
mod drops;
pub mod events;
mod folders;
mod libraries;
pub mod metrics;
mod model;
pub(crate) mod on_demand;
mod page;
mod pins;
pub mod proxy;
mod routes;
mod status;
mod token;
pub mod view;
mod why;
mod words;

pub use actor::{HttpActor, HttpArgs, HttpMsg};
pub use view::AgentView;
