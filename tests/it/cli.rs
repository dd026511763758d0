//! The command line, on the real program.

mod assets;
mod commands;
mod daemon;
mod doctor;
mod local;
mod names;
mod odd_files;
mod peers;
mod repl;
