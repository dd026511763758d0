//! can-sync: peer-to-peer replication of content-addressed assets between machines that share a passphrase.

pub mod actor;
pub mod cli;
pub mod config;
pub mod http;
pub mod identity;
pub mod library;
pub mod node;
pub mod peer;
pub mod proto;
pub mod reconcile;
pub mod record;
pub mod store;
pub mod transfer;
