//! What differs between two agents, found with little traffic: range-based set reconciliation.
//!
//! Wire-compatible with version 1 of the negentropy protocol (<https://github.com/hoytech/negentropy>), where an item's
//! timestamp is the record's clock and its id the record's id. An [`tree::ItemTree`] is kept up to date with every change of
//! a library; a session works on a [`tree::Snapshot`] of it, which costs an `Arc` per few hundred items and never blocks the
//! tree. [`Initiator`] and [`Responder`] turn messages into messages and differences.
//!
//! Pure: no clock, no I/O, no runtime. The caller that drives a session supplies its time limit.

pub mod engine;
mod fingerprint;
pub mod fuzz;
#[cfg(test)]
mod oracle;
mod summary;
pub mod tree;
mod wire;

pub use engine::{EngineLimits, Initiator, Responder};
pub use summary::{EntrySummary, Summary};
