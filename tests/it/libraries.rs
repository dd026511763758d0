//! Libraries that are shared by ticket, with whole nodes: what people do with them, and what goes where.

mod operations;

/// A passphrase of another network.
const OTHER: &str = "eight other otters hum a quite different tune";
