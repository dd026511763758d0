//! PeersActor's part in searches for contents that a user asked for by name: which peers it asks, and which it dials for that.

use iroh::EndpointId;
use ractor::ActorRef;
use tokio::time::Instant;

use super::PeersState;
use crate::peer::dial;
use crate::peer::messages::{PeerMsg, PeersMsg};
use crate::peer::places::Class;
use crate::peer::roster::{KnownPeer, LinkState};
use crate::record::ContentHash;
use crate::store::FeedEntry;
use crate::transfer::schedule::SessionId;
use crate::transfer::search::TooMany;

/// Peers that are dialled at once for what is searched for.
const DIALS_AT_ONCE: usize = 8;

impl PeersState {
    pub(super) fn on_fetch_now(&mut self, hash: ContentHash) -> Result<(), TooMany> {
        let decisions = self.fetching.search(hash, Instant::now())?;
        self.carry_out(decisions);
        let up: Vec<SessionId> =
            self.links.iter().filter(|(_, link)| link.up).map(|(session, _)| session).collect();
        for session in up {
            self.ask_for_searched(session);
        }
        // A peer that is not connected is dialled with the next tick, unless somebody has it by then.
        Ok(())
    }

    /// Asks a peer whose session is up for what is searched for.
    pub(super) fn ask_for_searched(&mut self, session: SessionId) {
        let Some(link) = self.links.get(session) else { return };
        let hashes = self.fetching.searches_mut().ask(link.endpoint_id, Instant::now());
        if !hashes.is_empty() {
            link.cast(PeerMsg::Find(hashes));
        }
    }

    /// What was searched for and is in the store now.
    pub(super) fn note_came(&mut self, entries: &[FeedEntry]) {
        for entry in entries.iter().filter(|entry| entry.holding.is_held()) {
            self.fetching.searches_mut().came(&entry.record.hash);
        }
    }

    /// Dials peers beyond the usual number of connections, for as long as something is searched for.
    fn dial_for_searches(&mut self, myself: &ActorRef<PeersMsg>) {
        if self.fetching.searches().is_empty() || !self.accepting {
            return;
        }
        let room = if self.admission.places.has_room_for(Class::Own) { DIALS_AT_ONCE } else { 0 };
        let (searches, libraries, now) =
            (self.fetching.searches(), &self.args.replica.libraries, Instant::now());
        let is_sought = |id: &EndpointId, known: &KnownPeer| {
            searches.would_dial(id, now) && dial::may_dial(libraries, id, known)
        };
        let chosen = self.roster.seek(now, rand::random(), room, is_sought);
        for (addr, hint) in chosen {
            self.fetching.searches_mut().dialled(addr.id, now);
            self.visited.insert(addr.id);
            self.tasks.spawn(dial::dial(myself.clone(), self.args.endpoint.clone(), addr, hint));
        }
    }

    pub(super) fn tick_searches(&mut self, myself: &ActorRef<PeersMsg>) {
        self.dial_for_searches(myself);
        let now = Instant::now();
        let (searches, libraries) = (self.fetching.searches(), &self.args.replica.libraries);
        let is_sought = |id: &EndpointId, known: &KnownPeer| {
            searches.would_dial(id, now) && dial::may_dial(libraries, id, known)
        };
        let more = self.roster.could_seek(now, is_sought)
            || self.links.values().any(|link| !link.up && searches.would_dial(&link.endpoint_id, now));
        self.fetching.tick_searches(now, more);
        self.leave_visited();
    }

    /// Gives up connections that were made for a search and have no more use, where there are more than there should be.
    fn leave_visited(&mut self) {
        let over = |id: &&EndpointId| {
            let is_dialled = self.roster.get(id).is_some_and(|known| known.link == LinkState::Dialing);
            !is_dialled && !self.fetching.searches().needs(id)
        };
        let done: Vec<EndpointId> = self.visited.iter().filter(over).copied().collect();
        for id in done {
            self.visited.remove(&id);
            let too_many = self.roster.connected_count() > self.args.limits.dialling.dialled_max;
            if too_many && self.roster.get(&id).is_some_and(|known| !known.is_wanted()) {
                self.give_up(&id);
            }
        }
    }
}
