//! Helpers that several tests share.

pub(crate) mod agent;
pub(crate) mod browser;
pub(crate) mod candidates;
pub(crate) mod clock;
pub(crate) mod command;
pub(crate) mod daemon;
pub(crate) mod description;
pub(crate) mod embedded;
pub(crate) mod fake_daemon;
pub(crate) mod faulty;
pub(crate) mod hostile;
pub(crate) mod infrastructure;
pub(crate) mod library_member;
pub(crate) mod listing;
pub(crate) mod member;
pub(crate) mod mounted;
pub(crate) mod netns;
pub(crate) mod nodes;
pub(crate) mod peers;
pub(crate) mod probe;
pub(crate) mod proving;
pub(crate) mod rendezvous;
pub(crate) mod scripted;
pub(crate) mod service;
pub(crate) mod store;
pub(crate) mod tree;
