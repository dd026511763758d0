//! GossipActor.

use iroh::{EndpointAddr, EndpointId};
use ractor::RpcReplyPort;

use super::channel::Channel;
use crate::node::status::ActorDetail;

/// What GossipActor understands.
#[derive(Debug)]
pub enum GossipMsg {
    /// Other channels: somebody may be there, so join through them.
    Candidate {
        /// Where.
        addr: EndpointAddr,
        /// Which channel led there.
        channel: Channel,
    },
    /// PeersActor: a session with this peer is up, so it is alive and of our network.
    PeerUp {
        /// Where it is.
        addr: EndpointAddr,
        /// What it calls itself.
        name: String,
        /// Live assets that it holds.
        assets: u64,
    },
    /// PeersActor: dialling this peer came to nothing.
    DialFailed {
        /// Whom.
        endpoint_id: EndpointId,
    },
    /// Status: how it is.
    GetHealth {
        /// The answer.
        reply: RpcReplyPort<ActorDetail>,
    },
}
