//! Sessions with other agents: who to connect to, one actor per connection, and what they say.

pub mod auth;
pub mod messages;
pub mod report;
pub mod session;
pub mod wire;
