//! Everything that is tested from outside a module, in one binary.

mod actors_md;
mod signals;
mod store_embedded;
mod supervisor;
mod support;
