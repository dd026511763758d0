//! Helpers that several tests share.

pub(crate) mod embedded;
pub(crate) mod service;
pub(crate) mod store;
