//! Who is let into which library: what is checked before anything is said, and again and again afterwards.

use bytes::Bytes;
use iroh::EndpointId;
use tokio::task::spawn_blocking;

use crate::clock::now_ms;
use crate::library::registry::{Device, DeviceStanding};
use crate::library::ticket::{SignedClaims, TicketError};
use crate::library::{Libraries, Library, SharedLibrary};
use crate::net::close;
use crate::wire::decode::decode;
use crate::wire::proto::LibraryTicket;

/// Why somebody is not let in, or not any longer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("this machine was denied by its owner")]
    Denied,
    #[error("this machine waits for approval: `can-sync approve` on the other side lets it in")]
    Waiting,
    #[error("{0}")]
    Ticket(#[from] TicketError),
    #[error("the library was deleted")]
    Gone,
    #[error("cannot tell whether it may: try again")]
    Unknown,
}

impl Refusal {
    pub fn close_code(&self) -> u32 {
        match self {
            Self::Denied => close::DENIED,
            Self::Waiting => close::UNAPPROVED,
            Self::Ticket(_) | Self::Gone | Self::Unknown => close::REFUSED,
        }
    }
}

/// Whether a peer that knows the passphrase is let in; takes note of one that has to wait.
pub(super) async fn admit_device(libraries: &Libraries, peer: EndpointId, name: &str) -> Result<(), Refusal> {
    match libraries.standing(&peer) {
        DeviceStanding::Approved => Ok(()),
        DeviceStanding::Denied => Err(Refusal::Denied),
        DeviceStanding::Waiting => {
            if let Some(registry) = libraries.registry().cloned() {
                let device = Device {
                    endpoint_id: peer.to_string(),
                    name: name.to_owned(),
                    standing: DeviceStanding::Waiting,
                    at_ms: now_ms(),
                };
                let noted = spawn_blocking(move || registry.set_device(&device)).await;
                if !matches!(noted, Ok(Ok(()))) {
                    tracing::warn!(peer = %peer.fmt_short(), "a machine that waits for approval is not written down");
                }
            }
            Err(Refusal::Waiting)
        }
    }
}

/// Whether the ticket that a peer shows lets it into a library; counts the use where that is limited. `between` names the peer, us
/// and the stream.
pub(super) async fn admit_member(
    libraries: &Libraries,
    shared: &SharedLibrary,
    peer: EndpointId,
    shown: &[u8],
    between: &[u8],
) -> Result<SignedClaims, Refusal> {
    if libraries.standing(&peer) == DeviceStanding::Denied {
        return Err(Refusal::Denied);
    }
    let signed = check_ticket(shared, peer, shown, between, now_ms())?;
    let claims = &signed.claims;
    if claims.uses == 0 {
        return Ok(signed);
    }
    let (true, Some(registry)) = (shared.key().is_some(), libraries.registry().cloned()) else {
        return Err(TicketError::NeedsIssuer.into());
    };
    let (library, serial, uses) = (shared.id(), claims.serial, claims.uses);
    match spawn_blocking(move || registry.redeem(library, serial, uses, peer)).await {
        Ok(Ok(true)) => Ok(signed),
        Ok(Ok(false)) => Err(TicketError::Spent(uses).into()),
        Ok(Err(error)) => {
            tracing::warn!(%error, "a use of a ticket cannot be counted, so it is not allowed");
            Err(Refusal::Unknown)
        }
        Err(_) => Err(Refusal::Unknown),
    }
}

/// What can be told of a ticket from itself, at `now_ms`; how often it was used is not among that.
pub(super) fn check_ticket(
    shared: &SharedLibrary,
    peer: EndpointId,
    shown: &[u8],
    between: &[u8],
    now_ms: u64,
) -> Result<SignedClaims, TicketError> {
    let shown: LibraryTicket = decode(Bytes::copy_from_slice(shown)).map_err(|_| TicketError::NotHeld)?;
    let signed = SignedClaims::decode(&shown.claims)?;
    signed.check_held(between, &shown.proof)?;
    signed.claims.check(shared.id(), peer, &shared.revocations(), now_ms)?;
    Ok(signed)
}

/// Whether a peer that is in a library may stay at `now_ms`.
pub(super) fn may_stay(
    libraries: &Libraries,
    library: &Library,
    peer: EndpointId,
    claims: Option<&SignedClaims>,
    now_ms: u64,
) -> Result<(), Refusal> {
    match (libraries.standing(&peer), library.shared(), claims) {
        (DeviceStanding::Denied, ..) => Err(Refusal::Denied),
        (DeviceStanding::Waiting, None, _) => Err(Refusal::Waiting),
        (DeviceStanding::Approved, None, _) => Ok(()),
        (DeviceStanding::Approved | DeviceStanding::Waiting, Some(shared), claims) => {
            let current = libraries.get(shared.id());
            if current.is_none_or(|current| !std::ptr::eq(current.as_ref(), library)) {
                return Err(Refusal::Gone);
            }
            let claims = claims.ok_or(Refusal::Gone)?;
            claims.claims.check(shared.id(), peer, &shared.revocations(), now_ms)?;
            Ok(())
        }
    }
}
