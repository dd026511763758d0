//! `can-sync serve` and `can-sync demo` from outside: starting, refusing to start, signals, and two of them together.

mod deletions;
mod demo;
mod pair;
mod refusals;
mod secrets;
mod signals;
mod start;
