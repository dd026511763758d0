//! How agents of one network find each other: who is there, and where.
//!
//! Several channels run side by side, each useful alone ([`channel::Channel`]). What they yield are hints: an endpoint id,
//! perhaps with addresses. [`candidates::Candidates`] hands them to PeersActor, which decides which peers to dial, and to GossipActor,
//! which joins the swarm through them. Nothing that was learned here is trusted before a session has authenticated.

pub mod address_book;
pub mod announcement;
pub mod candidates;
pub mod channel;
pub mod crawl;
pub mod directory;
pub mod fuzz;
pub mod gossip;
pub mod hints;
pub mod list;
pub mod list_peers;
pub mod mdns;
pub mod network;
pub mod pace;
pub mod rendezvous;
pub mod slot;
