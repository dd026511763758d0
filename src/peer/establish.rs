//! The first frames of a session: `Hello`, proof of a shared library, `Welcome`. Nothing else is served before it.
//!
//! The side that opens the control stream proves itself first; the other answers only if they share a library, so a
//! stranger learns nothing but that an endpoint exists.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iroh::EndpointId;
use iroh::endpoint::{Connection, RecvStream, SendStream, Side};
use tokio::time::timeout;

use super::auth::{Binding, EXPORTER_LABEL, LIBRARIES_MAX, Role};
use super::session::Summary;
use super::wire::{self, WireError};
use crate::library::Library;
use crate::proto::{Auth, Hello, LibraryProof, LibrarySummary, Welcome, frame};

/// ALPN of sessions.
pub const ALPN: &[u8] = b"/can-sync/2";
/// Version in `Hello`.
const VERSION: u32 = 2;
/// Longest name that a peer may give itself, in characters.
const NAME_CHARS_MAX: usize = 64;
/// Longest ticket that a peer may give, in bytes.
const TICKET_BYTES_MAX: usize = 4096;

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum EstablishError {
    /// Frames did not come as they should.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The exchange took too long.
    #[error("no session within {} s", .0.as_secs())]
    Timeout(Duration),
    /// They share nothing.
    #[error("the other side does not know our passphrase: check that both use the same one")]
    NotShared,
    /// Another version of the protocol.
    #[error("the other side speaks version {0} of the protocol, we speak {VERSION}: update the older one")]
    Version(u32),
    /// The TLS session does not give keying material.
    #[error("the connection cannot be bound to a proof: {0}")]
    Binding(String),
}

/// A new session.
#[derive(Debug)]
pub struct Established {
    /// Our end of the control stream.
    pub send: SendStream,
    /// The peer's end.
    pub receive: RecvStream,
    /// The library's blinded id on this connection.
    pub library: Bytes,
    /// Our summary as we sent it.
    pub ours: Summary,
    /// The peer's summary.
    pub theirs: Summary,
    /// What the peer calls itself, printable and bounded.
    pub name: String,
    /// Ticket with the addresses where the peer can be reached, if it gave one.
    pub ticket: String,
}

/// What this node says of itself once it trusts the other side.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// Its name.
    pub name: String,
    /// Its current ticket.
    pub ticket: tokio::sync::watch::Receiver<String>,
}

/// Opens a control stream and establishes a session on it, `within` a limit for the whole exchange.
///
/// # Errors
/// See [`EstablishError`].
pub async fn open(
    connection: &Connection,
    own_id: EndpointId,
    library: &Arc<Library>,
    introduction: &Introduction,
    within: Duration,
) -> Result<Established, EstablishError> {
    let work = async {
        let binding = bind(connection, own_id)?;
        let (mut send, mut receive) =
            connection.open_bi().await.map_err(|e| WireError::Broken(e.to_string()))?;
        wire::write_frame(&mut send, hello()).await?;
        let proof = binding.prove(library.keys(), Role::Opener);
        let blinded = proof.blinded.clone();
        wire::write_frame(&mut send, auth(proof)).await?;
        expect_hello(first_frame(&mut receive).await?)?;
        expect_proof(first_frame(&mut receive).await?, &binding, library, Role::Answerer)?;
        let welcome = expect_welcome(wire::read_frame(&mut receive).await?)?;
        let ours = library.summary();
        wire::write_frame(&mut send, introduce(introduction, &blinded, &ours)).await?;
        finish(send, receive, blinded, ours, welcome)
    };
    timeout(within, work).await.unwrap_or(Err(EstablishError::Timeout(within)))
}

/// Answers on a control stream that the peer opened, `within` a limit; its `Hello` was read already.
///
/// # Errors
/// See [`EstablishError`]. [`EstablishError::NotShared`] is a failed authentication; nothing was revealed.
pub async fn answer(
    connection: &Connection,
    own_id: EndpointId,
    library: &Arc<Library>,
    introduction: &Introduction,
    hello_frame: Hello,
    (mut send, mut receive): (SendStream, RecvStream),
    within: Duration,
) -> Result<Established, EstablishError> {
    let work = async {
        let binding = bind(connection, own_id)?;
        expect_hello(frame::Kind::Hello(hello_frame))?;
        expect_proof(first_frame(&mut receive).await?, &binding, library, Role::Opener)?;
        let proof = binding.prove(library.keys(), Role::Answerer);
        let blinded = proof.blinded.clone();
        wire::write_frame(&mut send, hello()).await?;
        wire::write_frame(&mut send, auth(proof)).await?;
        let ours = library.summary();
        wire::write_frame(&mut send, introduce(introduction, &blinded, &ours)).await?;
        let welcome = expect_welcome(wire::read_frame(&mut receive).await?)?;
        finish(send, receive, blinded, ours, welcome)
    };
    timeout(within, work).await.unwrap_or(Err(EstablishError::Timeout(within)))
}

async fn first_frame(receive: &mut RecvStream) -> Result<frame::Kind, WireError> {
    wire::read_frame_of(receive, wire::FIRST_FRAME_BYTES_MAX).await
}

/// What ties proofs to this connection.
pub(super) fn bind(connection: &Connection, own_id: EndpointId) -> Result<Binding, EstablishError> {
    let other = connection.remote_id();
    let (dialer, acceptor) = match connection.side() {
        Side::Client => (own_id, other),
        Side::Server => (other, own_id),
    };
    let mut ekm = [0; 32];
    connection
        .export_keying_material(&mut ekm, EXPORTER_LABEL, &Binding::context(dialer, acceptor))
        .map_err(|e| EstablishError::Binding(format!("{e:?}")))?;
    Ok(Binding::new(ekm, dialer, acceptor))
}

fn hello() -> frame::Kind {
    frame::Kind::Hello(Hello { version: VERSION, features: Vec::new() })
}

fn auth(proof: LibraryProof) -> frame::Kind {
    frame::Kind::Auth(Auth { libraries: vec![proof] })
}

fn introduce(introduction: &Introduction, blinded: &Bytes, ours: &Summary) -> frame::Kind {
    frame::Kind::Welcome(Welcome {
        name: introduction.name.clone(),
        libraries: vec![summary_to_wire(blinded, ours)],
        ticket: introduction.ticket.borrow().clone(),
        agent_version: env!("CARGO_PKG_VERSION").into(),
    })
}

/// The wire form of a library's summary.
#[must_use]
pub fn summary_to_wire(blinded: &Bytes, summary: &Summary) -> LibrarySummary {
    LibrarySummary {
        blinded: blinded.clone(),
        count: summary.count,
        fingerprint: summary.fingerprint.to_vec().into(),
        assets: summary.assets,
        total_bytes: summary.bytes,
    }
}

/// The summary of the library `blinded` among those that a peer sent.
///
/// # Errors
/// If it is not there, or has a fingerprint of another length.
pub fn summary_from_wire(blinded: &Bytes, summaries: &[LibrarySummary]) -> Result<Summary, WireError> {
    let malformed = || WireError::Malformed("no summary of the shared library".into());
    let found = summaries.iter().take(LIBRARIES_MAX).find(|s| s.blinded == *blinded).ok_or_else(malformed)?;
    let fingerprint = found.fingerprint.as_ref().try_into().map_err(|_| malformed())?;
    Ok(Summary { count: found.count, fingerprint, assets: found.assets, bytes: found.total_bytes })
}

fn expect_hello(kind: frame::Kind) -> Result<(), EstablishError> {
    let frame::Kind::Hello(hello) = kind else { return Err(out_of_order()) };
    if hello.version == VERSION { Ok(()) } else { Err(EstablishError::Version(hello.version)) }
}

fn expect_proof(
    kind: frame::Kind,
    binding: &Binding,
    library: &Library,
    role: Role,
) -> Result<(), EstablishError> {
    let frame::Kind::Auth(auth) = kind else { return Err(out_of_order()) };
    if auth.libraries.len() > LIBRARIES_MAX {
        return Err(WireError::Malformed("more libraries than may be offered".into()).into());
    }
    if binding.verify(library.keys(), role, &auth.libraries) {
        Ok(())
    } else {
        Err(EstablishError::NotShared)
    }
}

fn expect_welcome(kind: frame::Kind) -> Result<Welcome, EstablishError> {
    let frame::Kind::Welcome(welcome) = kind else { return Err(out_of_order()) };
    Ok(welcome)
}

fn out_of_order() -> EstablishError {
    WireError::Malformed("a frame out of order at the start of a session".into()).into()
}

fn finish(
    send: SendStream,
    receive: RecvStream,
    library: Bytes,
    ours: Summary,
    welcome: Welcome,
) -> Result<Established, EstablishError> {
    let theirs = summary_from_wire(&library, &welcome.libraries)?;
    let name = welcome.name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
    let ticket = if welcome.ticket.len() <= TICKET_BYTES_MAX { welcome.ticket } else { String::new() };
    Ok(Established { send, receive, library, ours, theirs, name, ticket })
}
