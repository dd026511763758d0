//! Everything that is tested from outside a module, in one binary.

mod sessions;
mod store_embedded;
mod support;
