//! What RendezvousActor understands, and what it is started with.

use std::time::Duration;

use iroh::{EndpointAddr, EndpointId, SecretKey};
use iroh_tickets::endpoint::EndpointTicket;
use ractor::RpcReplyPort;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::actor::mailbox::counted;
use crate::actor::status::ActorDetail;
use crate::discovery::candidates::Candidates;
use crate::discovery::channel::{Channel, Channels};
use crate::discovery::directory::SharedDirectory;
use crate::discovery::network::{Connect, NetworkError};
use crate::discovery::slot::pace::Timing;
use crate::discovery::slot::{Slot, SlotKeys, SlotReading};
use crate::identity::NetworkKeys;

counted!(RendezvousMsg);

#[derive(Debug)]
pub enum RendezvousMsg {
    /// Timer: look into the channel's slots.
    ScanDue {
        channel: Channel,
        /// Of the timer; an older one was replaced.
        generation: u64,
    },
    /// Timer: write, if it is our turn.
    PublishDue { channel: Channel, generation: u64 },
    /// Timer: see whether what was written is still there.
    VerifyDue { channel: Channel, slot: Slot },
    /// Own tasks: a slot was read.
    SlotRead { channel: Channel, slot: Slot, look: SlotReading },
    /// Own task: a look is over; why nothing could be read, if so.
    Scanned {
        channel: Channel,
        /// Nothing, if any slot could be read.
        failure: Option<String>,
    },
    /// Own task: a write is over.
    Published {
        channel: Channel,
        /// The addresses in the record that was written, if it was.
        record: Option<EndpointAddr>,
        /// The slot that was written; none when it was not our turn or there was no place.
        slot: Option<Slot>,
        /// Why something was not written.
        failure: Option<String>,
    },
    /// Own task: the slot was read again; whether we are in it. Nothing when it could not be read.
    Verified { channel: Channel, held: Option<bool> },
    /// Own task: an agent's record was looked for.
    Located {
        channel: Channel,
        id: EndpointId,
        /// Where it is; nothing if there is no record of it, an error if that could not be found out.
        addr: Result<Option<EndpointAddr>, NetworkError>,
    },
    /// PeersActor: a user named this agent, and it is not where it was, or nothing but its id is known.
    Locate { endpoint_id: EndpointId },
    /// PeersActor: the network may be another one, so look and write afresh.
    LookNow,
    /// Own task: nobody is connected any more, or somebody again.
    ContactChanged,
    /// Own task: we can be reached elsewhere.
    AddressChanged,
    /// Own tasks: one of them panicked, and why.
    TaskFailed(String),
    /// Status: how it is.
    GetHealth { reply: RpcReplyPort<ActorDetail> },
}

#[derive(Clone)]
pub struct RendezvousArgs {
    /// The endpoint's key: signs our own record.
    pub secret_key: SecretKey,
    /// The slots' keys, in the configured format.
    pub slots: SlotKeys,
    /// The network's keys: seal our own record.
    pub keys: NetworkKeys,
    /// Makes the channels to pkarr.
    pub connect: Connect,
    /// Where we can be reached: an endpoint ticket, always current.
    pub ticket: watch::Receiver<String>,
    /// Told of the agents that we found.
    pub candidates: Candidates,
    pub channels: Channels,
    /// Who was seen alive: how large the network is, and what our record lists.
    pub directory: SharedDirectory,
    pub connected: watch::Receiver<usize>,
    pub timing: Timing,
}

impl RendezvousArgs {
    pub(super) fn contact(&self) -> bool {
        *self.connected.borrow() > 0
    }

    /// Agents in the network, ourselves among them, as far as known.
    pub(super) fn network_size(&self) -> usize {
        self.directory.lock().fresh(Instant::now()).max(*self.connected.borrow()) + 1
    }

    pub(super) fn own_addr(&self) -> EndpointAddr {
        let ticket = self.ticket.borrow().parse::<EndpointTicket>();
        ticket.map_or_else(|_| EndpointAddr::new(self.secret_key.public()), |t| t.endpoint_addr().clone())
    }

    /// Agents that are alive, the latest first.
    pub(super) fn seen_alive(&self) -> Vec<(EndpointId, Duration)> {
        let listings = self.directory.lock().listings(Instant::now());
        let mut alive: Vec<_> = listings.iter().filter(|l| !l.stale).map(|l| (l.id, l.age)).collect();
        alive.sort_by_key(|(id, age)| (*age, *id));
        alive
    }
}
