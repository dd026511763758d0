//! PeersActor's dials: the peers that discovery leads to and that users name, and which of them are dialled now.

use iroh::endpoint::{Connection, VarInt};
use iroh::{EndpointAddr, EndpointId};
use ractor::ActorRef;
use tokio::time::Instant;

use super::{NETS_EVERY, NETS_MAX, PeersState};
use crate::discovery::channel::Channel;
use crate::discovery::gossip::GossipMsg;
use crate::discovery::hints::{HINTS_AGAIN, HINTS_AT_ONCE};
use crate::discovery::rendezvous::RendezvousMsg;
use crate::library::Libraries;
use crate::library::registry::DeviceStanding;
use crate::net::close;
use crate::net::handshakes::RemoteNet;
use crate::peer::dial;
use crate::peer::messages::PeersMsg;
use crate::peer::places::{Class, Places};
use crate::peer::roster::KnownPeer;

impl PeersState {
    /// Takes some of the hints that wait. The roster is looked through once for all of them.
    pub(super) fn take_hints(&mut self, myself: &ActorRef<PeersMsg>) {
        let now = Instant::now();
        if self.due.hints.is_some_and(|at| now < at) {
            return;
        }
        let (hints, more) = self.args.discovery.hints.take(HINTS_AT_ONCE);
        self.due.hints = more.then_some(now + HINTS_AGAIN);
        if more {
            myself.send_after(HINTS_AGAIN, || PeersMsg::HintsWaiting);
        }
        let mut news = false;
        for (addr, channel) in hints {
            news |= self.on_candidate(addr, channel);
        }
        if news {
            self.dial_due(myself);
        }
    }

    /// A channel led to a peer; whether it is known now.
    pub(super) fn on_candidate(&mut self, addr: EndpointAddr, channel: Channel) -> bool {
        let id = addr.id;
        if id == self.args.endpoint.id() {
            self.probe_own_id(&addr);
            return false;
        }
        if KnownPeer::names(channel) {
            // It may be of our topic and not of our passphrase, so that no session ever tells gossip of it. Gossip may be
            // down; a session then does.
            let _ = self.args.discovery.gossip.cast(GossipMsg::Candidate { addr: addr.clone(), channel });
        }
        // What comes through the other channels was counted on its way here.
        let known = self.roster.candidate(addr, channel, Instant::now());
        if known && channel.is_static() {
            self.args.discovery.channels.found(channel, id);
        }
        known
    }

    pub(super) fn on_dial_peer(
        &mut self,
        myself: &ActorRef<PeersMsg>,
        addr: EndpointAddr,
    ) -> Result<(), String> {
        let id = addr.id;
        if id == self.args.endpoint.id() {
            return Err(if self.probe_own_id(&addr) {
                "that is this node's own endpoint id, at another address; if it is another machine's, that one runs on a copy of \
                 this node's data directory: `can-sync status` says so in a moment"
            } else {
                "that is this node itself"
            }
            .into());
        }
        if self.args.replica.libraries.standing(&id) == DeviceStanding::Denied {
            return Err("this machine was denied: `can-sync approve` lets it in".into());
        }
        if !self.on_candidate(addr.clone(), Channel::Tickets) {
            return Err("too many peers were named already: forget some with `can-sync peers forget`".into());
        }
        self.remember(&id, addr);
        self.dial_due(myself);
        Ok(())
    }

    pub(super) fn on_device_decided(&mut self, myself: &ActorRef<PeersMsg>, id: &EndpointId) {
        // A peer that is shut out has lost its connections already.
        if self.args.replica.libraries.standing(id) == DeviceStanding::Approved {
            self.roster.let_in(id, Instant::now());
            self.dial_due(myself);
        } else {
            self.drop_holder_denied(id);
        }
    }

    /// Has a peer looked up that a user named, where it is not at the address that the user gave, or the user gave none.
    fn locate(&self, endpoint_id: EndpointId) {
        // It may be down; the next attempt asks again.
        let _ = self.args.discovery.rendezvous.cast(RendezvousMsg::Locate { endpoint_id });
    }

    pub(super) fn on_address_changed(&mut self, myself: &ActorRef<PeersMsg>) {
        self.roster.revisit(Instant::now());
        self.dial_due(myself);
    }

    pub(super) fn on_knocked(&mut self, myself: &ActorRef<PeersMsg>, id: &EndpointId) {
        self.roster.shows_life(id, Instant::now());
        self.dial_due(myself);
    }

    pub(super) async fn on_dialed(
        &mut self,
        myself: &ActorRef<PeersMsg>,
        id: EndpointId,
        result: Result<Connection, String>,
    ) {
        match result {
            Ok(connection) if self.roster.get(&id).is_none() => {
                connection.close(VarInt::from_u32(close::SHUTDOWN), b"forgotten while it was dialled");
            }
            Ok(connection) => self.on_connection(myself, connection, None).await,
            Err(error) => self.on_dial_failed(myself, id, error),
        }
    }

    fn on_dial_failed(&mut self, myself: &ActorRef<PeersMsg>, endpoint_id: EndpointId, error: String) {
        tracing::debug!(peer = %endpoint_id.fmt_short(), error, "a dial failed");
        self.fetching.searches_mut().gone(&endpoint_id);
        self.roster.dial_failed(&endpoint_id, error, Instant::now(), rand::random());
        if self.roster.get(&endpoint_id).is_some_and(KnownPeer::is_wanted) {
            self.locate(endpoint_id);
        }
        // Gossip may be down; it then starts anew, without what failed.
        let _ = self.args.discovery.gossip.cast(GossipMsg::DialFailed { endpoint_id });
        self.dial_due(myself);
    }

    pub(super) fn dial_due(&mut self, myself: &ActorRef<PeersMsg>) {
        if !self.accepting {
            return;
        }
        let may_dial = may_dial(&self.args.replica.libraries, &self.admission.places);
        let due = self.roster.due(Instant::now(), rand::random(), may_dial);
        self.dial(myself, due);
    }

    /// Dials those that were connected lately, whatever the back-off.
    pub(super) fn retry_lost(&mut self, myself: &ActorRef<PeersMsg>, now: Instant) {
        if !self.accepting {
            return;
        }
        let may_dial = may_dial(&self.args.replica.libraries, &self.admission.places);
        let lost = self.roster.retry(now, rand::random(), may_dial);
        self.dial(myself, lost);
    }

    fn dial(&mut self, myself: &ActorRef<PeersMsg>, chosen: Vec<(EndpointAddr, bool)>) {
        for (addr, hint) in chosen {
            self.tasks.spawn(dial::dial(myself.clone(), self.args.endpoint.clone(), addr, hint));
        }
    }

    /// Keeps places for handshakes with those who may come from where own devices and named peers were last.
    pub(super) fn know_nets(&mut self, now: Instant) {
        if now < self.due.nets {
            return;
        }
        self.due.nets = now + NETS_EVERY;
        let known = self.roster.iter().filter(|(_, known)| known.is_wanted() || known.is_own());
        let nets = known.flat_map(|(_, known)| RemoteNet::of_peer(&known.addr));
        self.admission.handshakes.lock().set_known(nets.take(NETS_MAX).collect());
    }
}

/// Whether there would be a place for a peer, and something to offer it.
fn may_dial<'a>(
    libraries: &'a Libraries,
    places: &'a Places,
) -> impl Fn(&EndpointId, &KnownPeer) -> bool + use<'a> {
    let room_for_own = places.has_room_for(Class::Own);
    move |id, known| {
        let room = match known.class() {
            Class::Named => true,
            Class::Own | Class::Stranger => room_for_own,
            class @ Class::Member(_) => places.has_room_for(class),
        };
        room && dial::may_dial(libraries, id, known)
    }
}
