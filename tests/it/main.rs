//! Everything that is tested from outside a module, in one binary.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a test measured belongs into its output")]
#![allow(
    clippy::large_futures,
    clippy::manual_assert,
    clippy::needless_pass_by_value,
    clippy::similar_names,
    clippy::unchecked_time_subtraction,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "whole nodes make large futures; a helper may unwrap as a test may; what a test does not expect is one case"
)]

mod absent;
mod actors_md;
mod agent_api;
mod backup;
mod browser;
mod bulk;
mod can_http_conformance;
mod can_http_faults;
mod can_service;
mod can_service_actor;
mod cli;
mod clocks;
mod connects;
mod copied;
mod crash_storm;
mod crawl;
mod cut;
mod cut_events;
mod daemon;
mod discovery;
mod export;
mod external;
mod external_folders;
mod fetch;
mod folder_commands;
mod folder_release;
mod folder_torture;
mod folders;
mod folders_on_disk;
mod foreign_folders;
mod frozen;
mod gossip;
mod healing;
mod holding;
mod hostile;
mod hung;
mod kill;
mod layers;
mod letting_go;
mod libraries;
mod list_peers;
mod mirror;
mod negentropy;
mod network;
mod on_demand;
mod only_copy;
mod paths;
mod peer_actor;
mod peer_crash;
mod peers_actor;
mod quota;
mod relay_path;
mod rendezvous;
mod restarts;
mod scrub;
mod service_http;
mod set_back;
mod shared_folders;
mod siege;
mod signals;
mod snapshots;
mod store_bucket;
mod store_clock;
mod store_conformance;
mod store_damage;
mod store_embedded;
mod store_entries;
mod store_faults;
mod store_list;
mod store_loss;
mod store_merge;
mod store_names;
mod store_promises;
mod store_search;
mod store_server;
mod store_space;
mod supervisor;
mod support;
mod swarm;
mod transfer;
mod unwatched;
