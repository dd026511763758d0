//! Helpers that several tests share.

pub(crate) mod agent;
pub(crate) mod faulty;
pub(crate) mod probe;
pub(crate) mod service;
pub(crate) mod tree;
