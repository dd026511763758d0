//! Helpers that several tests share.

pub(crate) mod faulty;
pub(crate) mod probe;
pub(crate) mod tree;
