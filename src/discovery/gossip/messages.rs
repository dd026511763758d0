//! What GossipActor understands, and what it is started with.

use std::collections::HashSet;
use std::sync::Arc;

use futures::future::BoxFuture;
use iroh::address_lookup::memory::MemoryLookup;
use iroh::{Endpoint, EndpointAddr, EndpointId, SecretKey};
use iroh_gossip::api::GossipSender;
use iroh_gossip::net::Gossip;
use iroh_gossip::proto::TopicId;
use ractor::RpcReplyPort;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::actor::status::ActorDetail;
use crate::discovery::address_book::AddressBook;
use crate::discovery::announcement::Signed;
use crate::discovery::candidates::Candidates;
use crate::discovery::channel::{Channel, Channels};
use crate::discovery::directory::{SavedPeer, SharedDirectory};
use crate::discovery::hints::Hints;
use crate::discovery::mdns::Mdns;
use crate::events::EventLog;
use crate::reconcile::Summary;

/// Asks an agent whether it is there. `true` only if it has proved as well that it belongs to the presence network: we join
/// through one that did, and so tell it the topic.
pub type PresenceProbe = Arc<dyn Fn(EndpointAddr) -> BoxFuture<'static, bool> + Send + Sync>;

#[derive(Debug)]
pub enum GossipMsg {
    /// Other channels: hints wait in [`GossipArgs::hints`], so join through them.
    HintsWaiting,
    /// PeersActor: a user named somebody, so join through it.
    Candidate {
        addr: EndpointAddr,
        /// Which channel led there.
        channel: Channel,
    },
    /// PeersActor: a session with this peer is up, so it is alive and of our network.
    PeerUp {
        addr: EndpointAddr,
        /// What it calls itself.
        name: String,
        /// Live assets that it holds.
        assets: u64,
    },
    /// PeersActor: the session with this peer is over.
    PeerGone { endpoint_id: EndpointId },
    /// PeersActor: dialling this peer came to nothing.
    DialFailed { endpoint_id: EndpointId },
    /// PeersActor: the network may be another one, so speak up and join afresh.
    JoinNow,
    /// Own task: who was remembered from the last run.
    Restored(Vec<SavedPeer>),
    /// Follower: we are subscribed, and this is where we speak.
    Subscribed(GossipSender),
    /// Follower: an announcement whose signature is good.
    Heard {
        signed: Box<Signed>,
        /// Bounds those that wait.
        permit: OwnedSemaphorePermit,
    },
    /// Follower: our neighbours in the swarm are these now.
    Neighbours {
        ids: HashSet<EndpointId>,
        /// Bounds those that wait.
        permit: OwnedSemaphorePermit,
    },
    /// Own task: whether an agent gave a sign of life.
    Probed { endpoint_id: EndpointId, alive: bool },
    /// Own task: an attempt to join through an agent ended.
    JoinEnded {
        endpoint_id: EndpointId,
        /// Whether gossip has a connection to it now.
        joined: bool,
    },
    /// Own tasks: one of them panicked, and why.
    TaskFailed(String),
    /// Timer of the actor itself.
    Tick,
    /// Status: how it is.
    GetHealth { reply: RpcReplyPort<ActorDetail> },
}

/// What it is started with.
#[derive(Clone)]
pub struct GossipArgs {
    /// Gossip on the endpoint, as [`start`](super::start) makes it; outlives the actor.
    pub gossip: Gossip,
    /// The QUIC endpoint; outlives the actor.
    pub endpoint: Endpoint,
    /// Signs what we say.
    pub secret_key: SecretKey,
    /// Where the network meets.
    pub topic: TopicId,
    /// What we call ourselves.
    pub name: String,
    pub ticket: watch::Receiver<String>,
    /// What we hold, as of the moment of the call.
    pub summary: Arc<dyn Fn() -> Summary + Send + Sync>,
    /// Who is there; outlives the actor.
    pub directory: SharedDirectory,
    /// Where it is kept.
    pub book: AddressBook,
    /// What other channels found and nobody looked at yet.
    pub hints: Hints,
    /// Told of the agents that we find.
    pub candidates: Candidates,
    /// How the ways of finding peers do.
    pub channels: Channels,
    /// The endpoint's addresses of others.
    pub lookup: MemoryLookup,
    /// What happens is told here.
    pub events: EventLog,
    /// Announcements whose signatures are checked.
    pub announcements_per_sec: u32,
    /// How to ask for a sign of life.
    pub probe: PresenceProbe,
    /// Whether an agent is shut out: nothing is heard of it.
    pub shut_out: Arc<dyn Fn(&EndpointId) -> bool + Send + Sync>,
    /// The local network; `None` leaves it alone.
    pub mdns: Option<Mdns>,
}
