//! Sessions with other agents: who to connect to, one actor per connection, and what they say.

pub mod actor;
pub mod address_book;
mod admission;
pub mod auth;
pub mod dial;
pub mod effects;
pub mod establish;
mod lane;
pub mod list_peers;
pub mod messages;
mod overview;
pub mod reconciliation;
pub mod report;
pub mod roster;
pub mod session;
mod streams;
pub mod supervisor;
