//! Helpers that several tests share.

pub(crate) mod agent;
pub(crate) mod probe;
pub(crate) mod service;
