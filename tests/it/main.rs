//! Everything that is tested from outside a module, in one binary.

mod actors_md;
mod signals;
mod supervisor;
mod support;
