//! Everything that is tested from outside a module, in one binary.

mod cli;
mod support;
