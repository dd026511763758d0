//! The first frames of a session: `Hello`, proof of a shared library, `Welcome`. Nothing else is served before it.
//!
//! The side that opens the control stream proves itself first; the other answers only if they share a library, so a
//! stranger learns nothing but that an endpoint exists. Where both know the passphrase, the mirror is what they share.
//! Else each shows its tickets, and neither a name nor a count is said before the tickets of whoever hears it were found
//! to hold.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iroh::EndpointId;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use tokio::time::timeout;

use super::admission::{self, Refusal};
use crate::clock::now_ms;
use crate::library::registry::Standing;
use crate::library::ticket::SignedClaims;
use crate::library::{Libraries, Library};
use crate::net::auth::{BindError, Binding, LIBRARIES_MAX, Role};
use crate::reconcile::Summary;
use crate::wire::proto::{Auth, Hello, LibraryProof, LibrarySummary, LibraryTicket, Tickets, Welcome, frame};
use crate::wire::{self, WireError};

/// Version in `Hello`.
const VERSION: u32 = 2;
/// The ability to be asked for contents by their names.
const FEATURE_FIND: &str = "find";
/// Abilities that are looked at.
const FEATURES_MAX: usize = crate::wire::decode::FEATURES_MAX;
/// Proofs are shown in multiples of this, so that whoever is dialled does not learn how many libraries there are.
const PROOFS_STEP: usize = 8;
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
    /// They do, and the peer may not.
    #[error("the peer is not let in: {0}")]
    Refused(#[from] Refusal),
    /// Another version of the protocol.
    #[error("the other side speaks version {0} of the protocol, we speak {VERSION}: update the older one")]
    Version(u32),
    /// The TLS session does not give keying material.
    #[error(transparent)]
    Binding(#[from] BindError),
}

/// A library that both sides let each other into.
#[derive(Debug)]
pub struct SharedLibrary {
    /// The library.
    pub library: Arc<Library>,
    /// Its blinded id on this connection.
    pub blinded: Bytes,
    /// What the peer showed for it; nothing for the mirror.
    pub member: Option<SignedClaims>,
    /// Our summary as we sent it.
    pub ours: Summary,
    /// The peer's summary.
    pub theirs: Summary,
}

/// A new session.
#[derive(Debug)]
pub struct Established {
    /// Our end of the control stream.
    pub send: SendStream,
    /// The peer's end.
    pub receive: RecvStream,
    /// What is shared: the mirror alone, or at least one other library.
    pub shared: Vec<SharedLibrary>,
    /// Libraries that both know beside a shared mirror; only their revocations are passed on.
    pub known: Vec<(Bytes, Arc<Library>)>,
    /// What the peer calls itself, printable and bounded.
    pub name: String,
    /// Ticket with the addresses where the peer can be reached, if it gave one.
    pub ticket: String,
    /// Whether it can be asked for contents by their names.
    pub finds: bool,
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
    libraries: &Libraries,
    introduction: &Introduction,
    within: Duration,
) -> Result<Established, EstablishError> {
    let work = async {
        let meeting = Meeting::new(connection, own_id, libraries, introduction)?;
        let (mut send, mut receive) =
            connection.open_bi().await.map_err(|e| WireError::Broken(e.to_string()))?;
        wire::write_frame(&mut send, hello()).await?;
        let offered = meeting.offered();
        wire::write_frame(&mut send, auth(meeting.proofs(&offered, Role::Opener, true))).await?;
        let finds = expect_hello(first_frame(&mut receive).await?)?;
        let proofs = expect_auth(first_frame(&mut receive).await?)?;
        let common = meeting.common(offered, Role::Answerer, &proofs);
        if let Some((mirror, known)) = split_mirror(&common) {
            let welcome = expect_welcome(wire::read_frame(&mut receive).await?)?;
            admission::admit_device(libraries, meeting.peer, &name_of(&welcome)).await?;
            let ours = [(mirror, None, libraries.mirror().summary())];
            wire::write_frame(&mut send, meeting.introduce(&ours)).await?;
            return finish((send, receive), ours.into(), known, welcome, finds);
        }
        if common.is_empty() {
            return Err(EstablishError::NotShared);
        }
        wire::write_frame(&mut send, meeting.tickets(Role::Opener, common.iter())).await?;
        let shown = expect_tickets(wire::read_frame(&mut receive).await?)?;
        let welcome = expect_welcome(wire::read_frame(&mut receive).await?)?;
        let admitted = meeting.admit(Role::Answerer, common, &shown).await?;
        let ours = with_summaries(admitted);
        wire::write_frame(&mut send, meeting.introduce(&ours)).await?;
        finish((send, receive), ours, Vec::new(), welcome, finds)
    };
    timeout(within, Box::pin(work)).await.unwrap_or(Err(EstablishError::Timeout(within)))
}

/// Answers on a control stream that the peer opened, `within` a limit; its `Hello` was read already.
///
/// # Errors
/// See [`EstablishError`]. [`EstablishError::NotShared`] is a failed authentication; nothing was revealed.
pub async fn answer(
    connection: &Connection,
    own_id: EndpointId,
    libraries: &Libraries,
    introduction: &Introduction,
    hello_frame: Hello,
    (mut send, mut receive): (SendStream, RecvStream),
    within: Duration,
) -> Result<Established, EstablishError> {
    let work = async {
        let meeting = Meeting::new(connection, own_id, libraries, introduction)?;
        let finds = expect_hello(frame::Kind::Hello(hello_frame))?;
        let proofs = expect_auth(first_frame(&mut receive).await?)?;
        let common = meeting.common(meeting.offered(), Role::Opener, &proofs);
        if common.is_empty() {
            return Err(EstablishError::NotShared);
        }
        let mirror = split_mirror(&common);
        if mirror.is_some() {
            admission::admit_device(libraries, meeting.peer, "").await?;
        }
        wire::write_frame(&mut send, hello()).await?;
        wire::write_frame(&mut send, auth(meeting.proofs(&common, Role::Answerer, false))).await?;
        if let Some((mirror, known)) = mirror {
            let ours = [(mirror, None, libraries.mirror().summary())];
            wire::write_frame(&mut send, meeting.introduce(&ours)).await?;
            let welcome = expect_welcome(wire::read_frame(&mut receive).await?)?;
            return finish((send, receive), ours.into(), known, welcome, finds);
        }
        let shown = expect_tickets(wire::read_frame(&mut receive).await?)?;
        let admitted = meeting.admit(Role::Opener, common, &shown).await?;
        let ours = with_summaries(admitted);
        wire::write_frame(&mut send, meeting.tickets(Role::Answerer, ours.iter().map(|(known, ..)| known)))
            .await?;
        wire::write_frame(&mut send, meeting.introduce(&ours)).await?;
        let welcome = expect_welcome(wire::read_frame(&mut receive).await?)?;
        finish((send, receive), ours, Vec::new(), welcome, finds)
    };
    timeout(within, Box::pin(work)).await.unwrap_or(Err(EstablishError::Timeout(within)))
}

/// A library and its blinded id.
type Known = (Bytes, Arc<Library>);
/// The same with what the peer showed for it, and our summary.
type Admitted = (Known, Option<SignedClaims>, Summary);

/// The mirror among these, and the others.
fn split_mirror(common: &[Known]) -> Option<(Known, Vec<Known>)> {
    let is_mirror = |known: &&Known| known.1.shared().is_none();
    let mirror = common.iter().find(is_mirror)?.clone();
    Some((mirror, common.iter().filter(|known| !is_mirror(known)).cloned().collect()))
}

fn with_summaries(admitted: Vec<(Known, SignedClaims)>) -> Vec<Admitted> {
    let summed = |(known, claims): (Known, SignedClaims)| {
        let summary = known.1.summary();
        (known, Some(claims), summary)
    };
    admitted.into_iter().map(summed).collect()
}

/// Two ends that find out what they share.
struct Meeting<'a> {
    binding: Binding,
    own_id: EndpointId,
    peer: EndpointId,
    libraries: &'a Libraries,
    introduction: &'a Introduction,
}

impl<'a> Meeting<'a> {
    fn new(
        connection: &Connection,
        own_id: EndpointId,
        libraries: &'a Libraries,
        introduction: &'a Introduction,
    ) -> Result<Self, EstablishError> {
        let binding = Binding::of(connection, own_id)?;
        let peer = connection.remote_id();
        if libraries.standing(&peer) == Standing::Denied {
            return Err(Refusal::Denied.into());
        }
        Ok(Self { binding, own_id, peer, libraries, introduction })
    }

    /// What we may offer: the mirror, and libraries whose tickets still hold as far as we know.
    fn offered(&self) -> Vec<Known> {
        let now = now_ms();
        let holds = |library: &Arc<Library>| {
            library.shared().is_some_and(|shared| shared.check_own(self.own_id, now).is_ok())
        };
        let shared = self.libraries.shared().into_iter().filter(holds);
        let blinded =
            |library: &Arc<Library>| Bytes::copy_from_slice(&self.binding.blinded(library.keys().auth()));
        let all = [Arc::clone(self.libraries.mirror())].into_iter().chain(shared).take(LIBRARIES_MAX);
        all.map(|library| (blinded(&library), library)).collect()
    }

    /// Proofs of these; with `hide`, so many more that look alike that their number says little.
    fn proofs(&self, known: &[Known], role: Role, hide: bool) -> Vec<LibraryProof> {
        let mut proofs: Vec<LibraryProof> =
            known.iter().map(|(_, library)| self.binding.prove(library.keys(), role)).collect();
        while hide && !proofs.len().is_multiple_of(PROOFS_STEP) {
            let random = || Bytes::copy_from_slice(&rand::random::<[u8; 32]>());
            proofs.push(LibraryProof { blinded: random(), proof: random() });
        }
        proofs
    }

    /// Those of `known` that the proofs of the other side are right for.
    fn common(&self, known: Vec<Known>, role: Role, proofs: &[LibraryProof]) -> Vec<Known> {
        known.into_iter().filter(|(_, library)| self.binding.verify(library.keys(), role, proofs)).collect()
    }

    /// Our tickets of these, as `role`.
    fn tickets<'k>(&self, role: Role, known: impl Iterator<Item = &'k Known>) -> frame::Kind {
        let binding = self.binding.held(role);
        let ticket = |(blinded, library): &Known| {
            let ticket = library.shared()?.ticket();
            let proof = ticket.prove(&binding).to_vec().into();
            Some(LibraryTicket { library: blinded.clone(), claims: ticket.signed.encode().into(), proof })
        };
        frame::Kind::Tickets(Tickets { tickets: known.filter_map(ticket).collect() })
    }

    /// Those of `common` that the tickets of the peer, who is `role`, let it into; the first refusal if there are none.
    async fn admit(
        &self,
        role: Role,
        common: Vec<Known>,
        shown: &[LibraryTicket],
    ) -> Result<Vec<(Known, SignedClaims)>, EstablishError> {
        let (mut admitted, mut refusal) = (Vec::new(), None);
        let binding = self.binding.held(role);
        for known in common {
            let ticket = shown.iter().find(|ticket| ticket.library == known.0);
            let (Some(ticket), Some(shared)) = (ticket, known.1.shared()) else { continue };
            match admission::admit_member(self.libraries, shared, self.peer, ticket, &binding).await {
                Ok(claims) => admitted.push((known, claims)),
                Err(why) => refusal = refusal.or(Some(why)),
            }
        }
        match (admitted.is_empty(), refusal) {
            (false, _) => Ok(admitted),
            (true, Some(refusal)) => Err(refusal.into()),
            (true, None) => Err(EstablishError::NotShared),
        }
    }

    fn introduce(&self, ours: &[Admitted]) -> frame::Kind {
        let summaries = ours.iter().map(|((blinded, _), _, summary)| summary_to_wire(blinded, summary));
        frame::Kind::Welcome(Welcome {
            name: self.introduction.name.clone(),
            libraries: summaries.collect(),
            ticket: self.introduction.ticket.borrow().clone(),
            agent_version: env!("CARGO_PKG_VERSION").into(),
        })
    }
}

async fn first_frame(receive: &mut RecvStream) -> Result<frame::Kind, WireError> {
    wire::read_frame_of(receive, wire::FIRST_FRAME_BYTES_MAX).await
}

fn hello() -> frame::Kind {
    frame::Kind::Hello(Hello { version: VERSION, features: vec![FEATURE_FIND.into()] })
}

fn auth(libraries: Vec<LibraryProof>) -> frame::Kind {
    frame::Kind::Auth(Auth { libraries })
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

/// Whether the peer understands `Find`.
fn expect_hello(kind: frame::Kind) -> Result<bool, EstablishError> {
    let frame::Kind::Hello(hello) = kind else { return Err(out_of_order()) };
    if hello.version != VERSION {
        return Err(EstablishError::Version(hello.version));
    }
    Ok(hello.features.iter().take(FEATURES_MAX).any(|feature| feature == FEATURE_FIND))
}

fn expect_auth(kind: frame::Kind) -> Result<Vec<LibraryProof>, EstablishError> {
    let frame::Kind::Auth(auth) = kind else { return Err(out_of_order()) };
    if auth.libraries.len() > LIBRARIES_MAX {
        return Err(WireError::Malformed("more libraries than may be offered".into()).into());
    }
    Ok(auth.libraries)
}

fn expect_tickets(kind: frame::Kind) -> Result<Vec<LibraryTicket>, EstablishError> {
    let frame::Kind::Tickets(tickets) = kind else { return Err(out_of_order()) };
    if tickets.tickets.len() > LIBRARIES_MAX {
        return Err(WireError::Malformed("more tickets than libraries may be offered".into()).into());
    }
    Ok(tickets.tickets)
}

fn expect_welcome(kind: frame::Kind) -> Result<Welcome, EstablishError> {
    let frame::Kind::Welcome(welcome) = kind else { return Err(out_of_order()) };
    Ok(welcome)
}

fn out_of_order() -> EstablishError {
    WireError::Malformed("a frame out of order at the start of a session".into()).into()
}

fn name_of(welcome: &Welcome) -> String {
    welcome.name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect()
}

/// What is shared is what both sides gave a summary of; that is at least one library.
fn finish(
    (send, receive): (SendStream, RecvStream),
    ours: Vec<Admitted>,
    known: Vec<Known>,
    welcome: Welcome,
    finds: bool,
) -> Result<Established, EstablishError> {
    let name = name_of(&welcome);
    let mut shared = Vec::with_capacity(ours.len());
    let mut missing = None;
    for ((blinded, library), member, ours) in ours {
        match summary_from_wire(&blinded, &welcome.libraries) {
            Ok(theirs) => shared.push(SharedLibrary { library, blinded, member, ours, theirs }),
            Err(error) => missing = Some(error),
        }
    }
    if shared.is_empty() {
        return Err(missing.map_or(EstablishError::NotShared, EstablishError::Wire));
    }
    let ticket = if welcome.ticket.len() <= TICKET_BYTES_MAX { welcome.ticket } else { String::new() };
    Ok(Established { send, receive, shared, known, name, ticket, finds })
}
