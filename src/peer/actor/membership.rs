//! PeerActor's part in who may share what: refusals, revoked tickets, and libraries that come while a session runs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{PeerState, Running};
use crate::clock::now_ms;
use crate::library::Library;
use crate::library::registry::RegistryError;
use crate::library::revocation::SignedRevocations;
use crate::library::ticket::{LibraryId, TicketError};
use crate::net::close;
use crate::peer::admission::Refusal;
use crate::peer::lane::Lane;
use crate::peer::messages::{PeerMsg, PeersMsg};
use crate::peer::refusal::PeerRefusal;
use crate::text::stated;
use crate::wire::proto::{Doubled, Revocations, frame};
use ractor::ActorRef;
use tokio::task::{JoinHandle, spawn_blocking};

impl PeerState {
    /// Tells the peer that another machine has its endpoint id.
    pub(super) fn tell_doubled(&mut self) {
        if self.running.as_ref().is_some_and(|running| running.peer_hears_doubled) {
            self.send(frame::Kind::Doubled(Doubled {}));
        }
    }

    /// The peer says that another machine has our endpoint id. Members of libraries could say anything.
    pub(super) fn on_doubled(&self) {
        let is_own = |running: &Running| running.lanes.iter().any(|lane| lane.library.is_mirror());
        if self.running.as_ref().is_some_and(is_own) {
            self.tell(PeersMsg::OwnIdSeen);
        }
    }

    /// Says that there is no session because nothing is shared; `failed` says that the peer tried to prove something in vain.
    pub(super) fn not_shared(&self, failed: bool) {
        let peer = self.args.connection.remote_id();
        let mirror = self.args.offers_mirror;
        if mirror {
            tracing::warn!(
                peer = %peer.fmt_short(),
                "no session: the peer does not know our passphrase; check that both use the same one"
            );
        } else {
            self.note_refused(
                "its machines do not let this one in: the ticket may have been revoked or have expired; ask the library's \
                 owner for a new one",
            );
        }
        self.tell(PeersMsg::NotShared { endpoint_id: peer, mirror, failed });
    }

    /// Takes note that a peer does not let us into what we joined through it, to be shown.
    pub(super) fn note_refused(&self, why: &str) {
        let why = stated(why);
        let peer = self.args.connection.remote_id();
        tracing::warn!(peer = %peer.fmt_short(), why, "the peer does not let us in");
        for library in self.args.replica.libraries.shared() {
            let led_here = |shared: &&crate::library::SharedLibrary| {
                shared.key().is_none() && shared.ticket().addrs.iter().any(|addr| addr.id == peer)
            };
            if let Some(shared) = library.shared().filter(led_here) {
                shared.set_refused(why.clone());
            }
        }
    }

    /// Sends the lists of revocations that are newer than what the peer was sent; whether there were any.
    pub(super) fn send_revocations(&mut self) -> bool {
        let Some(running) = &mut self.running else { return false };
        let lanes = running.lanes.iter().map(|lane| (&lane.blinded, &lane.library));
        let all = lanes.chain(running.known.iter().map(|(blinded, library)| (blinded, library)));
        let lists: Vec<(bytes::Bytes, SignedRevocations)> = all
            .filter_map(|(blinded, library)| Some((blinded.clone(), library.shared()?.signed_revocations()?)))
            .filter(|(blinded, list)| {
                running.revocations_sent.get(blinded).is_none_or(|sent| *sent < list.list.version)
            })
            .collect();
        let any = !lists.is_empty();
        for (library, list) in lists {
            if let Some(running) = &mut self.running {
                running.revocations_sent.insert(library.clone(), list.list.version);
            }
            self.send(frame::Kind::Revocations(Revocations { library, list: list.encode().into() }));
        }
        any
    }

    pub(super) fn on_revocations(&mut self, myself: &ActorRef<PeerMsg>, blinded: &bytes::Bytes, list: &[u8]) {
        let Some(running) = &self.running else { return };
        let lanes = running.lanes.iter().map(|lane| (&lane.blinded, &lane.library));
        let mut all = lanes.chain(running.known.iter().map(|(blinded, library)| (blinded, library)));
        let found = all.find(|(known, _)| *known == blinded).map(|(_, library)| Arc::clone(library));
        // One that was let go here since the session began, for example.
        let Some(library) = found else {
            return tracing::debug!("revocations of a library that is not shared");
        };
        let Some(shared) = library.shared() else { return };
        let id = shared.id();
        let signed = match SignedRevocations::decode(id, list) {
            Ok(signed) => signed,
            Err(error) => return self.close(close::VIOLATION, &format!("in revocations: {error}")),
        };
        let newest = shared.revocations().version;
        let by_owner = running.lanes.iter().any(|lane| lane.blinded == *blinded && lane.is_owners());
        if signed.list.version > newest {
            self.take_revocations(myself, &library, signed, by_owner);
        } else if signed.list.version == newest && by_owner {
            self.note_told(&library, signed);
        }
    }

    /// It holds at once; whether it is written down before a crash is for the next session to make good. The end of this one
    /// does not stop the writing.
    fn take_revocations(
        &mut self,
        myself: &ActorRef<PeerMsg>,
        library: &Arc<Library>,
        signed: SignedRevocations,
        by_owner: bool,
    ) {
        let now_ms = self.args.replica.deferrals.clock().now_ms();
        let Some(shared) = library.shared() else { return };
        shared.take_list(signed, now_ms, by_owner);
        let Some(writing) = self.write_list(library) else { return };
        let (actor, id) = (myself.clone(), shared.id());
        self.tasks.spawn(async move {
            if !matches!(writing.await, Ok(Ok(()))) {
                tracing::warn!(library = %id, "revocations are not written down");
            }
            let _ = actor.send_message(PeerMsg::RevocationsTaken);
        });
    }

    /// The owner says that our list is the newest. What is not written down before a crash is told by the owner once more.
    fn note_told(&mut self, library: &Arc<Library>, signed: SignedRevocations) {
        let now_ms = self.args.replica.deferrals.clock().now_ms();
        let Some(shared) = library.shared() else { return };
        if !shared.take_list(signed, now_ms, true) {
            return;
        }
        let Some(writing) = self.write_list(library) else { return };
        let id = shared.id();
        self.tasks.spawn(async move {
            if !matches!(writing.await, Ok(Ok(()))) {
                tracing::warn!(library = %id, "when the list of revocations came is not written down");
            }
        });
    }

    /// Writes down the list and its dates together: the date of one says nothing of another.
    fn write_list(&self, library: &Arc<Library>) -> Option<JoinHandle<Result<(), RegistryError>>> {
        let registry = self.args.replica.libraries.registry().cloned()?;
        let (library, id) = (Arc::clone(library), library.id()?);
        let known = move || library.shared()?.dated_revocations();
        Some(spawn_blocking(move || registry.set_dated_revocations(id, known)))
    }

    /// Whether a list is new enough in all libraries where one was not at the last look.
    pub(super) fn lists_are_fresh_again(&mut self) -> bool {
        let now_ms = self.args.replica.deferrals.clock().now_ms();
        let Some(running) = &mut self.running else { return false };
        let stale = |lane: &Lane| lane.library.shared().is_some_and(|shared| shared.is_stale(now_ms));
        let stale = running.lanes.iter().filter(|lane| stale(lane)).count();
        std::mem::replace(&mut running.stale, stale) > stale
    }

    /// A member told us of an epoch that began without us, instead of letting us in: shown with its key, we may be.
    pub(super) fn on_outdated(&mut self, myself: &ActorRef<PeerMsg>, id: LibraryId, list: SignedRevocations) {
        let Some(library) = self.args.replica.libraries.get(id) else { return };
        let Some(shared) = library.shared() else { return };
        let before = shared.session_keys();
        let is_news = list.list.version > shared.revocations().version;
        if is_news {
            self.take_revocations(myself, &library, list, false);
        }
        if is_news && shared.session_keys() == before {
            return self.close(
                close::REFUSED,
                "the library's epoch is over, and our ticket does not lead into the next",
            );
        }
        tracing::info!(library = %id, "an epoch of the library began while we were away");
        self.open(myself);
    }

    /// Closes the connection once somebody on it may not stay; what else it shared is shared again on the next one.
    pub(super) fn check_admission(&mut self) {
        let (now, own_id) = (now_ms(), self.args.own_id());
        let Some(running) = &self.running else { return };
        let own: Vec<TicketError> =
            running.lanes.iter().filter_map(|lane| lane.check_own(own_id, now).err()).collect();
        let refused =
            running.lanes.iter().find_map(|lane| lane.check(&self.args.replica.libraries, now).err());
        if let Some(why) = own.first() {
            tracing::info!(peer = %self.args.connection.remote_id().fmt_short(), %why, "closing the connection: our ticket");
            self.shared_view().refusal = Some(PeerRefusal::TicketThere(why.to_string()));
            return self.close(close::OWN_TICKET, &why.to_string());
        }
        if let Some(why) = refused {
            tracing::info!(peer = %self.args.connection.remote_id().fmt_short(), %why, "closing the connection");
            self.refuse(&why);
        }
    }

    /// Closes the connection of a peer that is not let in, or not any longer.
    pub(super) fn refuse(&mut self, why: &Refusal) {
        self.shared_view().refusal = PeerRefusal::of_refusal(why);
        self.close(why.close_code(), &why.to_string());
    }

    /// Begins the session anew where libraries have come since it began, for the peer may share them.
    pub(super) fn share_more(&mut self, myself: &ActorRef<PeerMsg>) {
        let generation = self.args.replica.libraries.generation();
        let Some(running) = &mut self.running else { return };
        if running.generation == generation {
            return;
        }
        running.generation = generation;
        // With the mirror, everything is shared already.
        let foreign = running.lanes.iter().all(|lane| !lane.library.is_mirror());
        if foreign && !self.opening.load(Ordering::Relaxed) {
            self.open(myself);
        }
    }
}
