//! What a session answers to offers of the peer: in few frames, each of which says whether it is about records of folders.

use bytes::Bytes;

use super::{RECORDS_PER_FRAME_MAX, Session, SessionEffect};
use crate::wire::proto::{self, Deferral, Have, Later, frame};

/// Whether an answer is about assets or records of folders: a name that both have names two things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OfferKind {
    Asset,
    Entry,
}

impl Session {
    /// These are durable here, or were settled otherwise.
    pub(super) fn confirm(&self, kind: OfferKind, hashes: &[Bytes], out: &mut Vec<SessionEffect>) {
        for some in hashes.chunks(RECORDS_PER_FRAME_MAX) {
            let (hashes, entries) = match kind {
                OfferKind::Asset => (some.to_vec(), Vec::new()),
                OfferKind::Entry => (Vec::new(), some.to_vec()),
            };
            let have = Have { library: self.settings.tag.clone(), hashes, entries };
            out.push(SessionEffect::Send(frame::Kind::Have(have)));
        }
    }

    /// An offer of `hash` is not taken, and why.
    pub(super) fn refuse(
        &self,
        kind: OfferKind,
        hash: [u8; 32],
        code: u32,
        message: &str,
        out: &mut Vec<SessionEffect>,
    ) {
        out.push(SessionEffect::Send(frame::Kind::Error(proto::Error {
            code,
            message: message.to_owned(),
            hash: Some(Bytes::copy_from_slice(&hash)),
            library: self.settings.tag.clone(),
            entry: kind == OfferKind::Entry,
        })));
    }

    /// Offers are not taken yet.
    pub(super) fn postpone(&self, deferrals: &[Deferral], out: &mut Vec<SessionEffect>) {
        for some in deferrals.chunks(RECORDS_PER_FRAME_MAX) {
            let later = Later { library: self.settings.tag.clone(), deferrals: some.to_vec() };
            out.push(SessionEffect::Send(frame::Kind::Later(later)));
        }
    }
}
