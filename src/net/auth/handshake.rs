//! The first frames of a stream, as a machine: frames go in, frames and what the other side proved come out. Pure.
//!
//! ```text
//! opener                                 answerer
//! open ───────────── Hello ────────────► handle
//! handle ◄────────── Hello ───────────── Step::Send
//! show ─────── Auth: all it offers ────► handle, Step::Judge
//! handle ◄─ Auth: what it is let into ── show
//! ```

use iroh::EndpointId;

use super::{Binding, Domain, LIBRARIES_MAX, OwnProofs, Role, SEALED_BYTES, Transcript, VERSION};
use crate::identity::Key;
use crate::wire::proto::{Auth, Hello, LibraryProof, frame};

/// The side that opens shows proofs in multiples of this, so that who is dialled does not learn how many secrets there are.
const PROOFS_STEP: usize = 8;

/// Why the first frames lead to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// TLS gives no keying material.
    #[error("the connection cannot be bound to a proof: {0}")]
    Binding(String),
    #[error("the other side speaks version {0} of the protocol, we speak {VERSION}: update the older one")]
    Version(u32),
    #[error("a frame out of order at the start of a stream")]
    OutOfOrder,
    /// A frame that no honest endpoint sends.
    #[error("{0}")]
    Malformed(&'static str),
    /// A proof of our own came back.
    #[error("an attack: it sent our own proof back to us")]
    Reflected,
    /// The other end has our own key.
    #[error(
        "another machine has this one's endpoint id, {}: a copied data directory; stop the copy, run `can-sync id --new` there, \
         and start it again", .0.fmt_short()
    )]
    OwnId(EndpointId),
}

/// What we show of one secret.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The secret, which serves nothing else.
    pub key: Key,
    /// What we claim beside it, made for this stream; at most [`TICKET_BYTES_MAX`](super::TICKET_BYTES_MAX) bytes.
    pub ticket: Option<Vec<u8>>,
}

/// A secret that the other side proved to know on this stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvedSecret {
    /// Which: its place among the keys or credentials that we gave.
    pub index: usize,
    /// What the other side claims beside it; nobody who does not know the secret can have sealed it.
    pub ticket: Option<Vec<u8>>,
}

#[derive(Debug, PartialEq)]
pub enum HandshakeStep {
    /// Send this; the transcript is known.
    Send(frame::Kind),
    /// The transcript is known: show what we offer, see [`Handshake::show`].
    Show,
    /// These were proved, and nothing else. An opener is done; an answerer shows what it lets the opener into.
    Judge(Vec<ProvedSecret>),
}

#[derive(Debug)]
enum HandshakePhase {
    /// Waits for the other side's `Hello`.
    Hello,
    /// Is about to show something: an opener all that it offers, an answerer what it lets the other side into.
    Show(Transcript),
    /// Waits for the other side's `Auth`.
    Auth(Transcript),
    /// Nothing more is to come.
    Over(Transcript),
}

/// One end's part in the first frames of one stream.
#[derive(Debug)]
pub struct Handshake {
    domain: &'static Domain,
    binding: Binding,
    role: Role,
    nonce: [u8; 32],
    keys: Vec<Key>,
    phase: HandshakePhase,
}

impl Handshake {
    /// The side that opens a stream, with a nonce that it has chosen for this stream alone; its `Hello`.
    #[must_use]
    pub fn open(domain: &'static Domain, binding: Binding, nonce: [u8; 32]) -> (Self, frame::Kind) {
        let hello = hello(&nonce);
        let (role, keys, phase) = (Role::Opener, Vec::new(), HandshakePhase::Hello);
        (Self { domain, binding, role, nonce, keys, phase }, hello)
    }

    /// The other side, with a nonce that it has chosen for this stream alone; `keys` are what the opener may prove.
    pub fn answer(domain: &'static Domain, binding: Binding, nonce: [u8; 32], keys: Vec<Key>) -> Self {
        Self { domain, binding, role: Role::Answerer, nonce, keys, phase: HandshakePhase::Hello }
    }

    pub fn role(&self) -> Role {
        self.role
    }

    /// What ties proofs to this stream, once both nonces are known.
    pub fn transcript(&self) -> Option<&Transcript> {
        match &self.phase {
            HandshakePhase::Hello => None,
            HandshakePhase::Show(transcript)
            | HandshakePhase::Auth(transcript)
            | HandshakePhase::Over(transcript) => Some(transcript),
        }
    }

    /// Takes a frame in. `own` are our proofs on this connection. An error ends the stream.
    pub fn handle(&mut self, kind: frame::Kind, own: &OwnProofs) -> Result<HandshakeStep, AuthError> {
        match (&self.phase, kind) {
            (HandshakePhase::Hello, frame::Kind::Hello(hello)) => self.on_hello(&hello),
            (HandshakePhase::Auth(transcript), frame::Kind::Auth(auth)) => {
                let transcript = transcript.clone();
                self.on_auth(transcript, &auth, own)
            }
            _ => Err(AuthError::OutOfOrder),
        }
    }

    fn on_hello(&mut self, hello: &Hello) -> Result<HandshakeStep, AuthError> {
        if hello.version != VERSION {
            return Err(AuthError::Version(hello.version));
        }
        if self.binding.own_id == self.binding.peer {
            return Err(AuthError::OwnId(self.binding.own_id));
        }
        let theirs = hello
            .nonce
            .as_ref()
            .try_into()
            .map_err(|_| AuthError::Malformed("a nonce that has not 32 bytes"))?;
        let transcript = Transcript::new(self.domain, &self.binding, self.role, &self.nonce, theirs);
        match self.role {
            Role::Opener => {
                self.phase = HandshakePhase::Show(transcript);
                Ok(HandshakeStep::Show)
            }
            Role::Answerer => {
                self.phase = HandshakePhase::Auth(transcript);
                Ok(HandshakeStep::Send(self::hello(&self.nonce)))
            }
        }
    }

    fn on_auth(
        &mut self,
        transcript: Transcript,
        auth: &Auth,
        own: &OwnProofs,
    ) -> Result<HandshakeStep, AuthError> {
        if auth.libraries.len() > LIBRARIES_MAX {
            return Err(AuthError::Malformed("more libraries than may be offered"));
        }
        if own.is_among(&auth.libraries) {
            return Err(AuthError::Reflected);
        }
        let prover = self.role.other();
        // Every key is tried, so that time tells nothing of which one it was.
        let known = self.keys.iter().enumerate().filter_map(|(index, key)| {
            let shown = transcript.find(key, prover, &auth.libraries)?;
            let ticket = transcript.ticket(self.domain, key, prover, shown);
            Some(ProvedSecret { index, ticket })
        });
        let judged = HandshakeStep::Judge(known.collect());
        self.phase = match self.role {
            Role::Opener => HandshakePhase::Over(transcript),
            Role::Answerer => HandshakePhase::Show(transcript),
        };
        Ok(judged)
    }

    /// Shows these: as opener all that it offers, with random ones among them that hide how many there are; as answerer what it
    /// lets the other side into. `random` fills bytes by chance, `own` takes note of what is shown.
    pub fn show(
        &mut self,
        credentials: Vec<Credential>,
        mut random: impl FnMut(&mut [u8]),
        own: &mut OwnProofs,
    ) -> Result<frame::Kind, AuthError> {
        let HandshakePhase::Show(transcript) = &self.phase else { return Err(AuthError::OutOfOrder) };
        let transcript = transcript.clone();
        let mut noise = |len: usize| {
            let mut bytes = vec![0; len];
            random(&mut bytes);
            bytes::Bytes::from(bytes)
        };
        let sealed_bytes = if self.domain.tickets.is_some() { SEALED_BYTES } else { 0 };
        let mut libraries = Vec::with_capacity(credentials.len());
        for credential in credentials.iter().take(LIBRARIES_MAX) {
            let shown = transcript.show(self.domain, credential, self.role);
            let mut shown = shown.ok_or(AuthError::Malformed("a ticket of our own that is too long"))?;
            if shown.ticket.is_empty() {
                shown.ticket = noise(sealed_bytes);
            }
            libraries.push(shown);
        }
        own.note(&libraries);
        match self.role {
            Role::Opener => {
                while !libraries.len().is_multiple_of(PROOFS_STEP) {
                    let (blinded, proof, ticket) = (noise(32), noise(32), noise(sealed_bytes));
                    libraries.push(LibraryProof { blinded, proof, ticket });
                }
                self.keys = credentials.into_iter().map(|credential| credential.key).collect();
                self.phase = HandshakePhase::Auth(transcript);
            }
            Role::Answerer => self.phase = HandshakePhase::Over(transcript),
        }
        Ok(frame::Kind::Auth(Auth { libraries }))
    }
}

fn hello(nonce: &[u8; 32]) -> frame::Kind {
    frame::Kind::Hello(Hello { version: VERSION, nonce: nonce.to_vec().into() })
}
