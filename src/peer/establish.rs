//! The first frames of a session: `Hello` and `Auth` each way ([`Handshake`]), then `Welcome`. Nothing else is served before.
//!
//! The side that opens the control stream shows first what it offers: the mirror only where that was asked for, and the
//! libraries in which the peer is known to take part. The other side shows proofs of what it lets the first into, and of
//! nothing else, so a stranger learns nothing but that an endpoint exists, and a member whose ticket does not hold no more
//! than a stranger. Where both know the passphrase, the mirror is what they share. Else it is the libraries into which each
//! lets the other by its ticket. Neither a name nor a count is said before that.

mod epochs;
#[cfg(test)]
mod tests;
mod welcome;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use iroh::EndpointId;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use parking_lot::{Mutex, MutexGuard};
use prost::Message as _;
use tokio::time::{Instant, sleep, sleep_until, timeout};

pub use self::welcome::{summary_from_wire, summary_to_wire};
use super::admission::{self, Refusal};
use crate::clock::{Clock, now_ms};
use crate::identity::Key;
use crate::library::registry::DeviceStanding;
use crate::library::revocation::{LIST_BYTES_MAX, SignedRevocations};
use crate::library::ticket::{LibraryId, SignedClaims};
use crate::library::{Libraries, Library};
use crate::net::auth::{
    AUTH_BYTES_MAX, AuthError, Binding, Credential, Handshake, HandshakeStep, LIBRARIES_MAX, OwnProofs,
    ProvedSecret, Role, SESSION, Transcript,
};
use crate::reconcile::Summary;
use crate::wire::proto::{Hello, LibraryTicket, frame};
use crate::wire::{self, WireError};

/// A refusal comes so long after what it is about, whatever the reason: how long it took to find one would say which it was.
const REFUSE_AFTER: Duration = Duration::from_millis(50);
/// Longest answer to what an opener shows: proofs, or a list of revocations.
const ANSWER_BYTES_MAX: usize = LIST_BYTES_MAX + 1024;
const _: () = assert!(ANSWER_BYTES_MAX > AUTH_BYTES_MAX);
/// How long an opener whose stream ended waits for the other side to say why: it closes the connection, and the news of the
/// stream may come first.
const REASON_WITHIN: Duration = Duration::from_secs(1);
/// How often it is looked at whether a library was read.
const FILLED_LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum EstablishError {
    /// Frames did not come as they should.
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("no session within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The other side proved nothing that we share, or does not let us in.
    #[error(
        "nothing is shared: the other side knows another passphrase, and no ticket lets one into a library of the other"
    )]
    NotShared,
    #[error("there is no library that it is known to take part in")]
    NothingToOffer,
    #[error("the peer is not let in: {0}")]
    Refused(#[from] Refusal),
    /// The first frames lead to nothing.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The mirror where it was libraries, or libraries where it was the mirror.
    #[error("a connection is for the mirror or for libraries, as its first session was")]
    OtherKind,
    /// A member told us of an epoch that began without us: with the list that it sent, the next control stream leads further.
    #[error("a library's epoch is over")]
    Outdated(LibraryId, Box<SignedRevocations>),
    /// We told that to a member, whose ticket still holds.
    #[error("the peer was told of an epoch that began without it")]
    PeerOutdated,
}

impl EstablishError {
    /// Whether the peer broke the rules, rather than the connection breaking.
    pub fn is_violation(&self) -> bool {
        match self {
            Self::Wire(error) => error.is_violation(),
            Self::Auth(error) => !matches!(error, AuthError::Binding(_) | AuthError::OwnId(_)),
            Self::OtherKind => true,
            Self::Timeout(_)
            | Self::NotShared
            | Self::NothingToOffer
            | Self::Refused(_)
            | Self::Outdated(..)
            | Self::PeerOutdated => false,
        }
    }
}

#[derive(Debug)]
pub struct CommonLibrary {
    pub library: Arc<Library>,
    pub blinded: Bytes,
    /// What the peer showed for it; nothing for the mirror.
    pub member: Option<SignedClaims>,
    pub ours: Summary,
    pub theirs: Summary,
    /// Whether both know the records of folders, and it has some.
    pub entries: bool,
}

#[expect(clippy::struct_excessive_bools, reason = "each is an ability of its own")]
#[derive(Debug)]
pub struct Established {
    pub send: SendStream,
    pub receive: RecvStream,
    /// What ties everything to this control stream; known to both ends alone.
    pub transcript: Transcript,
    pub role: Role,
    /// What is shared: the mirror alone, or at least one other library.
    pub shared: Vec<CommonLibrary>,
    /// Libraries that both know beside a shared mirror; only their revocations are passed on.
    pub known: Vec<(Bytes, Arc<Library>)>,
    /// What the peer calls itself, printable and bounded.
    pub name: String,
    /// Ticket with the addresses where the peer can be reached, if it gave one.
    pub ticket: String,
    /// Whether it can be asked for contents by their names.
    pub finds: bool,
    /// Whether it can be told that another machine has its endpoint id.
    pub hears_doubled: bool,
    /// Whether it takes contents on a connection of their own.
    pub takes_bulk: bool,
    /// Whether it can be asked to keep contents: one of our own devices.
    pub keeps: bool,
    /// What its clock shows, in milliseconds since the Unix epoch; 0 if it does not say.
    pub clock_ms: u64,
    /// Which run of the peer it is.
    pub boot_id: u64,
}

/// What this node says of itself once it trusts the other side.
#[derive(Clone, Debug)]
pub struct Introduction {
    pub name: String,
    pub ticket: tokio::sync::watch::Receiver<String>,
    /// Its clock, for other machines of the user's.
    pub clock: Clock,
    /// Chosen by chance when this process began.
    pub boot_id: u64,
}

/// What a connection is for: decided by the first session on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Mirror,
    /// Libraries that are shared by ticket.
    Libraries,
}

/// What is kept of a connection from one control stream to the next; outlives the PeerActor.
#[derive(Debug, Default)]
pub struct ConnectionMemory {
    purpose: Mutex<Option<Purpose>>,
    mirror_offered: AtomicBool,
    own_proofs: Mutex<OwnProofs>,
}

impl ConnectionMemory {
    /// What the connection is for, once a session has decided that.
    pub fn purpose(&self) -> Option<Purpose> {
        *self.purpose.lock()
    }

    /// Of a connection that is for the mirror from the beginning.
    pub fn for_mirror() -> Self {
        Self { purpose: Mutex::new(Some(Purpose::Mirror)), ..Self::default() }
    }

    pub fn has_offered_mirror(&self) -> bool {
        self.mirror_offered.load(Ordering::Relaxed)
    }

    fn decide(&self, purpose: Purpose) -> Result<(), EstablishError> {
        let mut decided = self.purpose.lock();
        if *decided.get_or_insert(purpose) == purpose { Ok(()) } else { Err(EstablishError::OtherKind) }
    }

    fn own_proofs(&self) -> MutexGuard<'_, OwnProofs> {
        self.own_proofs.lock()
    }
}

/// A library and the key with which its members prove themselves on this stream, whatever epoch begins meanwhile.
type KeyedLibrary = (Arc<Library>, Key);
type BlindedLibrary = (Bytes, Arc<Library>);
/// The same with what the peer showed for it, and our summary.
type Admitted = (BlindedLibrary, Option<SignedClaims>, Summary);

/// Two ends that find out what they share on one stream.
#[derive(Clone, Copy)]
pub struct Meeting<'a> {
    pub connection: &'a Connection,
    pub own_id: EndpointId,
    pub libraries: &'a Libraries,
    pub introduction: &'a Introduction,
    pub memory: &'a ConnectionMemory,
    /// Whether the mirror is offered to this peer, on a stream that we open.
    pub offers_mirror: bool,
    pub within: Duration,
}

impl Meeting<'_> {
    /// Opens a control stream and establishes a session on it.
    pub async fn open(&self) -> Result<Established, EstablishError> {
        let opened = timeout(self.within, Box::pin(self.open_unlimited())).await;
        if let Ok(Err(EstablishError::Wire(WireError::Ended | WireError::Truncated | WireError::Broken(_)))) =
            opened
        {
            let _ = timeout(REASON_WITHIN, self.connection.closed()).await;
        }
        opened.unwrap_or(Err(EstablishError::Timeout(self.within)))
    }

    async fn open_unlimited(&self) -> Result<Established, EstablishError> {
        let binding = self.bind()?;
        let mut offered = self.offered();
        if offered.is_empty() {
            return Err(EstablishError::NothingToOffer);
        }
        if offered.iter().any(|(library, _)| library.is_mirror()) {
            self.memory.mirror_offered.store(true, Ordering::Relaxed);
        }
        let (mut handshake, hello) = Handshake::open(&SESSION, binding, rand::random());
        let (mut send, mut receive) =
            self.connection.open_bi().await.map_err(|e| WireError::Broken(e.to_string()))?;
        wire::write_frame(&mut send, hello).await?;
        let first = wire::read_frame_of(&mut receive, wire::FIRST_FRAME_BYTES_MAX).await?;
        handshake.handle(first, &self.memory.own_proofs())?;
        let auth = self.show(&mut handshake, &offered)?;
        wire::write_frame(&mut send, auth).await?;
        let second = wire::read_frame_of(&mut receive, ANSWER_BYTES_MAX).await?;
        let transcript = transcript_of(&handshake)?;
        if let frame::Kind::Revocations(told) = &second {
            return Err(epochs::outdated_by(&transcript, &offered, told)?);
        }
        let proved = self.judge(&mut handshake, second)?;
        let admitted = if let Some(mirror) = mirror_among(&offered, &proved) {
            let welcome = welcome::expect(wire::read_frame(&mut receive).await?)?;
            admission::admit_device(self.libraries, self.peer(), &welcome::name_of(&welcome)).await?;
            let ours = vec![self.admitted(&transcript, mirror, None)];
            wire::write_frame(&mut send, self.introduce(&transcript, Role::Opener, &ours)).await?;
            return self.finish((send, receive), transcript, Role::Opener, ours, welcome);
        } else {
            self.admit(&transcript, Role::Answerer, &mut offered, proved).await
        };
        let ours = admitted.map_err(|refusal| refusal.map_or(EstablishError::NotShared, Into::into))?;
        let welcome = welcome::expect(wire::read_frame(&mut receive).await?)?;
        wire::write_frame(&mut send, self.introduce(&transcript, Role::Opener, &ours)).await?;
        self.finish((send, receive), transcript, Role::Opener, ours, welcome)
    }

    /// Answers on a control stream that the peer opened; its `Hello` was read already.
    ///
    /// # Errors
    /// See [`EstablishError`]. [`EstablishError::NotShared`] is a failed authentication; nothing was revealed.
    pub async fn answer(
        &self,
        hello: Hello,
        streams: (SendStream, RecvStream),
    ) -> Result<Established, EstablishError> {
        let answered = timeout(self.within, Box::pin(self.answer_unlimited(hello, streams))).await;
        answered.unwrap_or(Err(EstablishError::Timeout(self.within)))
    }

    async fn answer_unlimited(
        &self,
        hello: Hello,
        (mut send, mut receive): (SendStream, RecvStream),
    ) -> Result<Established, EstablishError> {
        let binding = self.bind()?;
        let (mut known, former) = self.known_with_former();
        let keys = known.iter().chain(&former).map(|(_, key)| key.clone()).collect();
        let mut handshake = Handshake::answer(&SESSION, binding, rand::random(), keys);
        let step = handshake.handle(frame::Kind::Hello(hello), &self.memory.own_proofs())?;
        let HandshakeStep::Send(ours) = step else { return Err(AuthError::OutOfOrder.into()) };
        wire::write_frame(&mut send, ours).await?;
        let second = wire::read_frame_of(&mut receive, AUTH_BYTES_MAX).await?;
        let refuse_at = Instant::now() + REFUSE_AFTER;
        let proved = self.judge(&mut handshake, second)?;
        let transcript = transcript_of(&handshake)?;
        let mirror = mirror_among(&known, &proved);
        let not_in_this_epoch = self.refusal_of_former(&transcript, known.len(), &former, &proved);
        if mirror.is_none()
            && let Some(told) = self.tells_epoch(&transcript, known.len(), &former, &proved)
        {
            wire::write_frame(&mut send, told).await?;
            return Err(EstablishError::PeerOutdated);
        }
        let ours = match mirror {
            Some(mirror) => {
                admission::admit_device(self.libraries, self.peer(), "").await?;
                vec![self.admitted(&transcript, mirror, None)]
            }
            None => match self.admit(&transcript, Role::Opener, &mut known, proved).await {
                Ok(admitted) => admitted,
                Err(refusal) => {
                    sleep_until(refuse_at).await;
                    let refusal = refusal.or(not_in_this_epoch);
                    return Err(refusal.map_or(EstablishError::NotShared, Into::into));
                }
            },
        };
        let is_shown =
            |offered: &&KeyedLibrary| ours.iter().any(|((_, ours), ..)| Arc::ptr_eq(ours, &offered.0));
        let shown: Vec<KeyedLibrary> = known.iter().filter(is_shown).cloned().collect();
        let auth = self.show(&mut handshake, &shown)?;
        wire::write_frame(&mut send, auth).await?;
        wire::write_frame(&mut send, self.introduce(&transcript, Role::Answerer, &ours)).await?;
        let welcome = welcome::expect(wire::read_frame(&mut receive).await?)?;
        self.finish((send, receive), transcript, Role::Answerer, ours, welcome)
    }

    fn peer(&self) -> EndpointId {
        self.connection.remote_id()
    }

    fn bind(&self) -> Result<Binding, EstablishError> {
        if self.peer() == self.own_id {
            return Err(AuthError::OwnId(self.own_id).into());
        }
        if self.libraries.standing(&self.peer()) == DeviceStanding::Denied {
            return Err(Refusal::Denied.into());
        }
        Ok(Binding::of(self.connection, self.own_id, &SESSION)?)
    }

    /// What the peer may prove: the mirror, and libraries whose tickets still hold as far as we know.
    fn known(&self) -> Vec<KeyedLibrary> {
        self.known_with_former().0
    }

    /// The same, and with it the keys of former epochs.
    fn known_with_former(&self) -> (Vec<KeyedLibrary>, Vec<KeyedLibrary>) {
        let (mut known, mut former) = (Vec::new(), Vec::new());
        for library in self.known_libraries() {
            let keys = library.session_keys();
            former.extend(keys.former.into_iter().map(|key| (Arc::clone(&library), key)));
            known.push((library, keys.current));
        }
        (known, former)
    }

    fn known_libraries(&self) -> Vec<Arc<Library>> {
        let mirror = Some(Arc::clone(self.libraries.mirror()));
        let purpose = self.memory.purpose();
        let mirror = mirror.filter(|_| purpose != Some(Purpose::Libraries));
        let shared = if purpose == Some(Purpose::Mirror) { Vec::new() } else { self.own_libraries() };
        mirror.into_iter().chain(shared).collect()
    }

    /// What we show on a stream that we open.
    fn offered(&self) -> Vec<KeyedLibrary> {
        let (mut known, peer, own_id) = (self.known(), self.peer(), self.own_id);
        let offers_mirror = self.offers_mirror || self.memory.purpose() == Some(Purpose::Mirror);
        known.retain(|(library, _)| library.shared().map_or(offers_mirror, |shared| shared.leads_to(&peer)));
        known.truncate(LIBRARIES_MAX);
        debug_assert!(peer != own_id);
        known
    }

    fn own_libraries(&self) -> Vec<Arc<Library>> {
        let now = now_ms();
        let holds = |library: &Arc<Library>| {
            library.shared().is_some_and(|shared| shared.check_own(self.own_id, now).is_ok())
        };
        self.libraries.shared().into_iter().filter(holds).collect()
    }

    fn show(
        &self,
        handshake: &mut Handshake,
        libraries: &[KeyedLibrary],
    ) -> Result<frame::Kind, EstablishError> {
        let (transcript, role) = (transcript_of(handshake)?, handshake.role());
        let credentials = libraries.iter().map(|offered| credential(offered, &transcript, role)).collect();
        Ok(handshake.show(credentials, |bytes| rand::fill(bytes), &mut self.memory.own_proofs())?)
    }

    fn judge(
        &self,
        handshake: &mut Handshake,
        auth: frame::Kind,
    ) -> Result<Vec<ProvedSecret>, EstablishError> {
        match handshake.handle(auth, &self.memory.own_proofs())? {
            HandshakeStep::Judge(proved) => Ok(proved),
            HandshakeStep::Send(_) | HandshakeStep::Show => Err(AuthError::OutOfOrder.into()),
        }
    }

    /// The libraries into which the tickets of the peer, who is `role`, let it. Else why not, where the peer may know that.
    async fn admit(
        &self,
        transcript: &Transcript,
        role: Role,
        known: &mut [KeyedLibrary],
        proved: Vec<ProvedSecret>,
    ) -> Result<Vec<Admitted>, Option<Refusal>> {
        let (mut admitted, mut refusal) = (Vec::new(), None);
        let between = transcript.between(role);
        for ProvedSecret { index, ticket } in proved {
            let Some(offered) = known.get(index) else { continue };
            let Some(shared) = offered.0.shared() else { continue };
            let shown = ticket.unwrap_or_default();
            match admission::admit_member(self.libraries, shared, self.peer(), &shown, &between).await {
                Ok(claims) => {
                    until_filled(&offered.0).await;
                    admitted.push(self.admitted(transcript, offered.clone(), Some(claims)));
                }
                // A member does not make itself known to somebody whose ticket does not hold. Who has a ticket knows the
                // owner, and a peer that answers us knows what we offered.
                Err(why) if shared.key().is_some() || role == Role::Answerer => {
                    refusal = refusal.or(Some(why));
                }
                Err(why) => tracing::info!(peer = %self.peer().fmt_short(), %why, "a member is not let in"),
            }
        }
        if admitted.is_empty() { Err(refusal) } else { Ok(admitted) }
    }

    fn admitted(
        &self,
        transcript: &Transcript,
        (library, key): KeyedLibrary,
        member: Option<SignedClaims>,
    ) -> Admitted {
        if let (Some(shared), Some(member)) = (library.shared(), &member) {
            shared.met(self.peer(), member.claims.serial);
        }
        let summary = library.summary();
        ((Bytes::copy_from_slice(&transcript.blinded(&key)), library), member, summary)
    }
}

/// Waits until all was read into a folder that we share, as long as the meeting may take: a part of it is another folder.
async fn until_filled(library: &Library) {
    while library.share().is_some() && library.is_filling() {
        sleep(FILLED_LOOK).await;
    }
}

fn mirror_among(known: &[KeyedLibrary], proved: &[ProvedSecret]) -> Option<KeyedLibrary> {
    let mut proved = proved.iter().filter_map(|proved| known.get(proved.index));
    proved.find(|(library, _)| library.is_mirror()).cloned()
}

/// What we show of a library, as `role`.
pub(super) fn credential((library, key): &KeyedLibrary, transcript: &Transcript, role: Role) -> Credential {
    let ticket = library.shared().map(|shared| {
        let ticket = shared.ticket();
        let proof = ticket.prove(&transcript.between(role)).to_vec().into();
        LibraryTicket { claims: ticket.signed.encode().into(), proof }.encode_to_vec()
    });
    Credential { key: key.clone(), ticket }
}

fn transcript_of(handshake: &Handshake) -> Result<Transcript, EstablishError> {
    Ok(handshake.transcript().cloned().ok_or(AuthError::OutOfOrder)?)
}
