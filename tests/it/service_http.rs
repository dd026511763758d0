//! The CAN Service's HTTP API, over real sockets and a real store.

mod content;
mod events;
mod guard;
mod ingest;
mod metadata;
mod names;
mod sync;
