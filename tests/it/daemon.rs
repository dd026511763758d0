//! `can-sync serve` and `can-sync demo` from outside: starting, refusing to start, signals, and two of them together.

mod binding;
mod check;
mod crowd;
mod deletions;
mod demo;
mod own_data;
mod pair;
mod refusals;
mod refusals_between;
mod secrets;
mod signals;
mod start;
mod stopping;
mod target;
mod unread;
