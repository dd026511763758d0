//! Helpers that several tests share.

pub(crate) mod command;
pub(crate) mod fake_daemon;
