//! Whom an agent knows: asked for on an ALPN of its own, independent of sessions.

/// ALPN of the request for an agent's list of peers.
pub const ALPN: &[u8] = b"/can-sync/peers/1";
