//! One of the libraries that a connection shares, with its session. The mirror is on a connection alone; libraries that
//! are shared by ticket may be several.

use std::sync::Arc;

use bytes::Bytes;
use iroh::EndpointId;
use tokio::time::Instant;

use super::admission::{self, Refusal};
use super::establish::CommonLibrary;
use super::report::ConnectionState;
use super::session::{Session, SessionEffect, SessionSettings, SessionStatus};
use super::wishes::Wishes;
use crate::library::registry::{Deleter, Member};
use crate::library::report::MemberStanding;
use crate::library::ticket::TicketError;
use crate::library::ticket::{Access, Claims, SignedClaims};
use crate::library::{Libraries, Library};

/// The number of the owner's own ticket.
const OWNER_SERIAL: u64 = 0;

pub(super) struct Lane {
    pub(super) blinded: Bytes,
    pub(super) library: Arc<Library>,
    pub(super) session: Session,
    peer: EndpointId,
    /// What the peer showed for it; nothing for the mirror.
    member: Option<SignedClaims>,
    /// What is wanted here and missing, as far as the peer is asked for it.
    pub(super) wishes: Wishes,
    /// The peer's question that is being answered.
    pub(super) answering: Option<u64>,
    /// Whether our feed had not caught up with our store when we last asked.
    pub(super) asked_behind: bool,
}

impl Lane {
    /// Begins the session, with its first effects.
    pub(super) fn new(
        shared: CommonLibrary,
        peer: EndpointId,
        (dialer, lanes): (bool, usize),
        probe_after: std::time::Duration,
        now: Instant,
    ) -> (Self, Vec<SessionEffect>) {
        let CommonLibrary { library, blinded, member, ours, theirs, entries } = shared;
        let settings = SessionSettings {
            library: blinded.clone(),
            tag: if library.is_mirror() { Bytes::new() } else { blinded.clone() },
            record_key: library.keys().record().clone(),
            gives: library.writes(),
            takes: member.as_ref().is_none_or(|member| may_write(&library, &member.claims)),
            entries,
            lanes,
            dialer,
            probe_after,
        };
        let (session, effects) = Session::new(settings, ours, theirs, now);
        let (answering, asked_behind, wishes) = (None, false, Wishes::new(now));
        (Self { blinded, library, session, peer, member, wishes, answering, asked_behind }, effects)
    }

    /// Its name in frames that leave it out for the mirror.
    pub(super) fn tag(&self) -> Bytes {
        if self.library.is_mirror() { Bytes::new() } else { self.blinded.clone() }
    }

    /// What the peer's deletions count for: its device in the mirror, its ticket in a library.
    pub(super) fn deleter(&self) -> Deleter {
        match (self.library.id(), &self.member) {
            (Some(id), Some(member)) => Deleter::of_ticket(id.to_string(), member.claims.serial),
            (id, _) => {
                let library = id.map(|id| id.to_string()).unwrap_or_default();
                Deleter { library, ..Deleter::of_device(&self.peer.to_string()) }
            }
        }
    }

    pub(super) fn is_owners(&self) -> bool {
        self.member.as_ref().is_some_and(|member| member.claims.serial == OWNER_SERIAL)
    }

    /// Whether the peer may stay.
    pub(super) fn check(&self, libraries: &Libraries, now_ms: u64) -> Result<(), Refusal> {
        admission::may_stay(libraries, &self.library, self.peer, self.member.as_ref(), now_ms)
    }

    /// Takes note where our own ticket does not hold any more, to be shown.
    pub(super) fn check_own(&self, own_id: EndpointId, now_ms: u64) -> Result<(), TicketError> {
        let Some(shared) = self.library.shared() else { return Ok(()) };
        shared.check_own(own_id, now_ms).inspect_err(|why| shared.set_refused(why.to_string()))
    }

    /// Tells the library how things stand with this member, which sends content at this rate; `here` says how much of
    /// what is on its way has come.
    pub(super) fn publish(&self, rate: f64, here: impl FnOnce() -> u64) {
        let Some(shared) = self.library.shared() else { return };
        let standing = self.session.standing();
        let standing = MemberStanding {
            in_sync: standing.is_in_sync(),
            is_busy: standing.state != ConnectionState::InSync,
            missing: standing.missing_here,
            missing_bytes: standing.missing_here_bytes.saturating_sub(here()),
            missing_there: standing.missing_there,
            held_here: standing.waiting.held_here,
            held_there: standing.waiting.held_there,
            rate,
        };
        shared.set_standing(self.peer, Some(standing));
    }

    /// Takes note of a member that is in sync.
    pub(super) fn note_member(&self, name: &str, now_ms: u64) {
        let (Some(shared), Some(member)) = (self.library.shared(), &self.member) else { return };
        if self.session.standing().is_in_sync() {
            let member = Member {
                endpoint_id: self.peer.to_string(),
                name: name.to_owned(),
                access: member.claims.access,
                serial: member.claims.serial,
                last_synced_ms: now_ms,
            };
            shared.member_synced(self.peer, member);
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(shared) = self.library.shared() {
            shared.set_standing(self.peer, None);
        }
    }
}

/// Whether a member's records are taken. Into a folder nobody writes but its owner.
fn may_write(library: &Library, claims: &Claims) -> bool {
    claims.access == Access::Write && (library.folder().is_none() || claims.serial == OWNER_SERIAL)
}

/// How things stand on all of a connection's lanes.
pub(super) fn standing(lanes: &[Lane]) -> Option<SessionStatus> {
    let all = lanes.iter().map(|lane| lane.session.standing());
    all.reduce(|one, other| SessionStatus {
        state: match (one.state, other.state) {
            (ConnectionState::Syncing, _) | (_, ConnectionState::Syncing) => ConnectionState::Syncing,
            (ConnectionState::Reconciling, _) | (_, ConnectionState::Reconciling) => {
                ConnectionState::Reconciling
            }
            (state, _) => state,
        },
        assets: one.assets + other.assets,
        missing_here: one.missing_here + other.missing_here,
        missing_here_bytes: one.missing_here_bytes + other.missing_here_bytes,
        unseen: one.unseen + other.unseen,
        missing_there: one.missing_there + other.missing_there,
        last_error: one.last_error.or(other.last_error),
        waiting: one.waiting.and(other.waiting),
        verified: one.verified.min(other.verified),
    })
}
