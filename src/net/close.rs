//! Application error codes that close a connection.

use iroh::endpoint::{ConnectionError, VarInt};

pub const SHUTDOWN: u32 = 0;
/// The peer broke the rules.
pub const VIOLATION: u32 = 400;
/// Given up in favour of another peer, so that the network stays mixed; both ends leave it at that for a while.
pub const ROTATED: u32 = 1;
/// To begin anew, by what both sides can do by now.
pub const ANEW: u32 = 2;
pub const NOT_SHARED: u32 = 401;
/// Known, and not let in, or not any longer: the reason says why.
pub const REFUSED: u32 = 403;
/// The peer was shut out by the user of the side that closes.
pub const DENIED: u32 = 4031;
/// The peer knows the passphrase, and waits for the user of the side that closes.
pub const UNAPPROVED: u32 = 4032;
/// The ticket of the side that closes does not hold any more.
pub const OWN_TICKET: u32 = 4033;
/// Another machine with the endpoint id of the side that is told has a connection, which is kept.
pub const DOUBLED: u32 = 4034;
/// No session in time.
pub const TIMEOUT: u32 = 408;
/// Another connection of the same two endpoints is kept.
pub const DUPLICATE: u32 = 409;
pub const BUSY: u32 = 503;

/// Whether a connection was closed with this application error code, by either side.
pub fn is_close(reason: &ConnectionError, code: u32) -> bool {
    match reason {
        ConnectionError::ApplicationClosed(close) => close.error_code == VarInt::from_u32(code),
        ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => false,
    }
}
