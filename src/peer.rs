//! Sessions with other agents: who to connect to, one actor per connection, and what they say.

pub mod auth;
pub mod establish;
pub mod messages;
pub mod reconciliation;
pub mod report;
pub mod session;
pub mod wire;
