//! Sessions with other agents: who to connect to, one actor per connection, and what they say.

pub mod actor;
mod admission;
pub mod args;
mod bulk;
pub mod deferrals;
pub mod delete_guard;
pub mod dial;
pub mod doubles;
pub mod effects;
pub mod establish;
pub mod held;
mod lane;
pub mod letting_go;
pub mod messages;
pub mod places;
pub mod reconciliation;
pub mod refusal;
pub mod report;
pub mod roster;
pub mod session;
mod streams;
pub mod supervisor;
pub mod windows;
pub mod wishes;
