//! Helpers that several tests share.

pub(crate) mod embedded;
pub(crate) mod store;
