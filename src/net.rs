//! The endpoint that carries every connection, and what must be shown on one before anything else is said.

pub mod auth;
pub mod bulk;
pub mod close;
mod congestion;
pub mod endpoint;
pub mod gate;
pub mod handshakes;
pub mod sockets;

pub const SESSION_ALPN: &[u8] = b"/can-sync/3";
/// ALPN of the request for an agent's list of peers.
pub const LIST_PEERS_ALPN: &[u8] = b"/can-sync/peers/2";
/// ALPN of a connection that carries contents of a session in one direction.
pub const BULK_ALPN: &[u8] = b"/can-sync/bulk/1";
