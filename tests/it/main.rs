//! Everything that is tested from outside a module, in one binary.

mod store_embedded;
mod support;
