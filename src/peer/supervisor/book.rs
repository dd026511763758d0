//! The address book: who was met before, and who is remembered.

use iroh::endpoint::VarInt;
use iroh::{EndpointAddr, EndpointId};
use ractor::ActorRef;
use tokio::time::Instant;

use super::PeersState;
use crate::clock::now_ms;
use crate::discovery::address_book::{BookChange, RememberedPeer};
use crate::discovery::channel::Channel;
use crate::net::close;
use crate::peer::messages::PeersMsg;

impl PeersState {
    pub(super) fn on_remembered(&mut self, myself: &ActorRef<PeersMsg>, entries: Vec<RememberedPeer>) {
        if !entries.is_empty() {
            self.args.discovery.channels.up(Channel::Saved);
        }
        for entry in entries {
            let id = entry.addr.id;
            self.on_candidate(entry.addr, Channel::Saved);
            // Older books do not say: a peer that is not known to take part in a library was of our network.
            let mirror = entry.mirror.unwrap_or_else(|| !self.args.replica.libraries.lead_to(&id));
            let now = (Instant::now(), now_ms());
            self.roster.remembered(&id, entry.name, entry.last_seen_ms, mirror, now);
        }
        self.dial_due(myself);
    }

    pub(super) fn on_forget_peer(&mut self, id: &EndpointId) -> bool {
        if let Some(link) = self.links.current(id) {
            link.connection.close(VarInt::from_u32(close::SHUTDOWN), b"forgotten");
        }
        self.change_book(BookChange::Forget(*id));
        // What it announced is forgotten, too: else it would be back with the next start.
        let announced = self.args.discovery.directory.lock().forget(|other| other == id);
        self.roster.forget(id) || !announced.is_empty()
    }

    pub(super) fn remember(&mut self, id: &EndpointId, addr: EndpointAddr) {
        let Some(known) = self.roster.get(id) else { return };
        let mirror = Some(known.is_offered_mirror());
        let entry =
            RememberedPeer { addr, name: known.name.clone(), last_seen_ms: known.last_seen_ms, mirror };
        self.change_book(BookChange::Remember(entry));
    }

    /// Changes are made in order by one task; with too many waiting, one is left out.
    pub(super) fn change_book(&self, change: BookChange) {
        if self.book.try_send(change).is_err() {
            tracing::warn!("the next start will not know of a change of the address book");
        }
    }
}
