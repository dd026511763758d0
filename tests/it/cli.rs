//! The command line, on the real program.

mod assets;
mod daemon;
mod local;
mod peers;
mod repl;
