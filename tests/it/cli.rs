//! The command line, on the real program.

mod assets;
mod daemon;
mod doctor;
mod local;
mod peers;
mod repl;
