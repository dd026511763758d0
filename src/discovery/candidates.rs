//! Where hints go.

use iroh::EndpointAddr;

use super::channel::{Channel, Channels};
use super::gossip::GossipMsg;
use crate::actor::ServiceRef;
use crate::peer::messages::PeersMsg;

/// Hands candidates to whoever does something with them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Candidates {
    peers: ServiceRef<PeersMsg>,
    gossip: ServiceRef<GossipMsg>,
    channels: Channels,
}

impl Candidates {
    /// To these two.
    #[must_use]
    pub fn new(peers: ServiceRef<PeersMsg>, gossip: ServiceRef<GossipMsg>, channels: Channels) -> Self {
        Self { peers, gossip, channels }
    }

    /// A channel led to a peer. One of the two that is down just now hears of it the next time.
    pub fn found(&self, addr: EndpointAddr, channel: Channel) {
        self.channels.found(channel, addr.id);
        let _ = self.gossip.cast(GossipMsg::Candidate { addr: addr.clone(), channel });
        let _ = self.peers.cast(PeersMsg::Candidate { addr, channel });
    }
}
