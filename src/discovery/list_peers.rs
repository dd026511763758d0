//! The peers of an agent: asked for on an ALPN of its own, independent of sessions.
//!
//! The one that asks opens a stream; both say `Hello`, then the one that asks shows, for each key that it knows (its network's, a
//! topic's), a proof made for this stream and for the other end; the one that is asked answers for the keys that it shares, or
//! closes and has said nothing ([`Handshake`](crate::net::auth::Handshake)). Each question then has a stream of its own: a
//! [`ListPeersRequest`](crate::wire::proto::ListPeersRequest), and a
//! [`ListPeersReply`](crate::wire::proto::ListPeersReply) with a page of announcements, signed by the agents that they are about.
//!
//! [`ListPeersService`] answers, [`ListingConnection`] asks; both bound whatever the other side may do.

pub(super) mod client;
mod server;

pub use client::{Found, ListError, Listed, ListingConnection, list_all, probe};
pub use server::{ListPeersService, ListingSource};

pub use crate::net::LIST_PEERS_ALPN as ALPN;
pub const PAGE_ENTRIES_MAX: usize = crate::wire::decode::LISTED_PER_PAGE_MAX;
pub const PAGE_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a request: a cursor and a number.
const REQUEST_BYTES_MAX: usize = 256;
/// Bytes of a cursor that is sent back to its maker.
const CURSOR_BYTES_MAX: usize = 64;
