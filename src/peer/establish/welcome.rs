//! The end of the first frames: what each side says of itself once it trusts the other.

use std::sync::Arc;

use bytes::Bytes;
use iroh::endpoint::{RecvStream, SendStream};

use super::{Admitted, BlindedLibrary, CommonLibrary, EstablishError, Established, Meeting, Purpose};
use crate::identity::Key;
use crate::library::Library;
use crate::net::auth::{AuthError, LIBRARIES_MAX, Role, Transcript};
use crate::reconcile::{EntrySummary, Summary};
use crate::wire::WireError;
use crate::wire::proto::{LibrarySummary, Welcome, frame};

/// The ability to be asked for contents by their names.
const FEATURE_FIND: &str = "find";
/// The ability to be told of another machine with the same endpoint id.
const FEATURE_DOUBLED: &str = "doubled";
/// The ability to be asked to keep contents.
const FEATURE_KEEP: &str = "keep";
/// The ability to take contents on a connection of their own.
const FEATURE_BULK: &str = "bulk";
/// The ability to keep records of folders.
const FEATURE_ENTRIES: &str = "entries";
/// Abilities that are looked at.
const FEATURES_MAX: usize = crate::wire::decode::FEATURES_MAX;
/// Longest name that a peer may give itself, in characters.
const NAME_CHARS_MAX: usize = 64;
/// Longest ticket that a peer may give, in bytes.
const TICKET_BYTES_MAX: usize = 4096;

impl Meeting<'_> {
    /// Says who we are and what we have, as `role`.
    pub(super) fn introduce(&self, transcript: &Transcript, role: Role, ours: &[Admitted]) -> frame::Kind {
        let summaries = ours.iter().map(|((blinded, _), _, summary)| summary_to_wire(blinded, summary));
        let mirrors = purpose_of(ours) == Purpose::Mirror;
        let beside = if mirrors { self.beside_mirror() } else { Vec::new() };
        let known: Vec<_> = beside.iter().map(|library| transcript.prove(known_by(library), role)).collect();
        self.memory.own_proofs().note(&known);
        let entries = ours.iter().any(|(_, _, summary)| summary.entries.is_some());
        let always = [FEATURE_FIND, FEATURE_DOUBLED, FEATURE_BULK, FEATURE_KEEP].into_iter();
        let features = always.chain(entries.then_some(FEATURE_ENTRIES)).map(str::to_owned).collect();
        frame::Kind::Welcome(Welcome {
            name: self.introduction.name.clone(),
            libraries: summaries.collect(),
            ticket: self.introduction.ticket.borrow().clone(),
            agent_version: env!("CARGO_PKG_VERSION").into(),
            features,
            known,
            clock_ms: if mirrors { self.introduction.clock.own_ms() } else { 0 },
            boot_id: self.introduction.boot_id,
        })
    }

    /// Libraries of which members of the mirror pass the revocations on to each other.
    fn beside_mirror(&self) -> Vec<Arc<Library>> {
        self.own_libraries().into_iter().take(LIBRARIES_MAX).collect()
    }

    /// What is shared is what both sides gave a summary of; that is at least one library. `role` is ours.
    pub(super) fn finish(
        &self,
        (send, receive): (SendStream, RecvStream),
        transcript: Transcript,
        role: Role,
        ours: Vec<Admitted>,
        welcome: Welcome,
    ) -> Result<Established, EstablishError> {
        if welcome.known.len() > LIBRARIES_MAX {
            return Err(AuthError::Malformed("more libraries than may be known").into());
        }
        let purpose = purpose_of(&ours);
        let has = |name: &str| welcome.features.iter().take(FEATURES_MAX).any(|feature| feature == name);
        let mut shared = Vec::with_capacity(ours.len());
        let mut missing = None;
        for ((blinded, library), member, ours) in ours {
            match summary_from_wire(&blinded, &welcome.libraries) {
                Ok(theirs) => {
                    let both = ours.entries.is_some() && theirs.entries.is_some() && has(FEATURE_ENTRIES);
                    let entries = both && library.has_entries();
                    shared.push(CommonLibrary { library, blinded, member, ours, theirs, entries });
                }
                Err(error) => missing = Some(error),
            }
        }
        if shared.is_empty() {
            return Err(missing.map_or(EstablishError::NotShared, EstablishError::Wire));
        }
        self.memory.decide(purpose)?;
        let beside = if purpose == Purpose::Mirror { self.beside_mirror() } else { Vec::new() };
        let known = |library: Arc<Library>| {
            let key = known_by(&library);
            transcript.find(key, role.other(), &welcome.known)?;
            Some((Bytes::copy_from_slice(&transcript.blinded(key)), library))
        };
        let known: Vec<BlindedLibrary> = beside.into_iter().filter_map(known).collect();
        let (finds, hears_doubled, takes_bulk) = (has(FEATURE_FIND), has(FEATURE_DOUBLED), has(FEATURE_BULK));
        let name = name_of(&welcome);
        let ticket = if welcome.ticket.len() <= TICKET_BYTES_MAX { welcome.ticket } else { String::new() };
        let (clock_ms, boot_id) = (welcome.clock_ms, welcome.boot_id);
        Ok(Established {
            send,
            receive,
            transcript,
            role,
            shared,
            known,
            name,
            ticket,
            finds,
            hears_doubled,
            takes_bulk,
            keeps: purpose == Purpose::Mirror && has(FEATURE_KEEP),
            clock_ms,
            boot_id,
        })
    }
}

/// What our own machines know a library by among each other. Not by the key of an epoch: the one that was away for some
/// revocations, and so knows none of the keys that the other shows, is the one that has to be told.
fn known_by(library: &Library) -> &Key {
    library.keys().auth()
}

fn purpose_of(ours: &[Admitted]) -> Purpose {
    let is_mirror = |((_, library), ..): &Admitted| library.is_mirror();
    if ours.iter().any(is_mirror) { Purpose::Mirror } else { Purpose::Libraries }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "every other frame is out of order")]
pub(super) fn expect(kind: frame::Kind) -> Result<Welcome, EstablishError> {
    match kind {
        frame::Kind::Welcome(welcome) => Ok(welcome),
        _ => Err(AuthError::OutOfOrder.into()),
    }
}

pub(super) fn name_of(welcome: &Welcome) -> String {
    welcome.name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect()
}

/// The wire form of a library's summary.
pub fn summary_to_wire(blinded: &Bytes, summary: &Summary) -> LibrarySummary {
    LibrarySummary {
        blinded: blinded.clone(),
        count: summary.count,
        fingerprint: summary.fingerprint.to_vec().into(),
        assets: summary.assets,
        total_bytes: summary.bytes,
        entries: summary.entries.map_or(0, |entries| entries.count),
        entries_fingerprint: summary
            .entries
            .map(|entries| entries.fingerprint.to_vec().into())
            .unwrap_or_default(),
    }
}

/// The summary of the library `blinded` among those that a peer sent.
pub fn summary_from_wire(blinded: &Bytes, summaries: &[LibrarySummary]) -> Result<Summary, WireError> {
    let malformed = || WireError::Malformed("no summary of the shared library".into());
    let found = summaries.iter().take(LIBRARIES_MAX).find(|s| s.blinded == *blinded).ok_or_else(malformed)?;
    let fingerprint = found.fingerprint.as_ref().try_into().map_err(|_| malformed())?;
    let entries = match &found.entries_fingerprint[..] {
        [] => None,
        fingerprint => {
            let fingerprint = fingerprint.try_into().map_err(|_| malformed())?;
            Some(EntrySummary { count: found.entries, fingerprint })
        }
    };
    Ok(Summary { count: found.count, fingerprint, assets: found.assets, bytes: found.total_bytes, entries })
}
