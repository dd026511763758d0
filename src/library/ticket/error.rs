//! Why a ticket is not accepted.

use iroh::EndpointId;

use super::{PREFIX, TEXT_BYTES_MAX, VERSION_OF_FOLDER_WITH_KEY};
use crate::library::codec::CodecError;

/// Why a ticket is not accepted: the rule that it breaks, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    #[error(
        "that is no library ticket: one begins with '{PREFIX}'; copy all of what `can-sync library invite` printed"
    )]
    NotATicket,
    #[error("the ticket has {0} bytes: none is longer than {TEXT_BYTES_MAX}")]
    TooLong(usize),
    #[error("the ticket is damaged, for it has characters that no ticket has: copy it again, all of it")]
    Characters,
    #[error(
        "the ticket is of version {0}, we know versions up to {VERSION_OF_FOLDER_WITH_KEY}: update can-sync"
    )]
    Version(u8),
    #[error("the ticket is damaged: {0}; copy it again, all of it")]
    Malformed(#[from] CodecError),
    #[error("the ticket's signature does not match: it was altered; ask for another one")]
    Signature,
    #[error(
        "the ticket was shown without a proof of having it: update can-sync on the machine that shows it"
    )]
    NotHeld,
    #[error("the ticket is not valid before {at}: wait, or check this machine's clock")]
    NotYetValid {
        /// When it is, RFC 3339.
        at: String,
    },
    #[error("the ticket expired at {at}: ask for another one")]
    Expired {
        /// When it did, RFC 3339.
        at: String,
    },
    #[error(
        "the ticket is for the endpoint {0} alone: ask for one for this machine, whose id `can-sync id` prints"
    )]
    Subject(EndpointId),
    #[error("the ticket (serial {0}) was revoked: ask the library's owner for another one")]
    Revoked(u64),
    #[error(
        "the ticket was revoked together with all that were issued before: ask the library's owner for another one"
    )]
    OldEpoch,
    #[error("the ticket was used as often as it may be ({0}): ask for another one")]
    Spent(u32),
    #[error("the ticket is for another library")]
    OtherLibrary,
    #[error(
        "the ticket may be used a limited number of times, which its issuer counts: connect to the issuer first"
    )]
    NeedsIssuer,
}
