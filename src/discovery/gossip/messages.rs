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
use tokio::time::Instant;

use crate::actor::mailbox::counted;
use crate::actor::status::ActorDetail;
use crate::discovery::address_book::AddressBook;
use crate::discovery::announcement::{Mark, Signed};
use crate::discovery::candidates::Candidates;
use crate::discovery::channel::{Channel, Channels};
use crate::discovery::directory::{CLOCKS_APART_MAX_MS, SavedPeer, SharedDirectory};
use crate::discovery::hints::Hints;
use crate::discovery::mdns::Mdns;
use crate::events::EventLog;
use crate::net::gate::Gate;
use crate::reconcile::Summary;

/// Asks an agent whether it is there. `true` only if it has proved as well that it belongs to the presence network: we join
/// through one that did, and so tell it the topic.
pub type PresenceProbe = Arc<dyn Fn(EndpointAddr) -> BoxFuture<'static, bool> + Send + Sync>;

/// An agent, and which run of it was heard.
pub type RunHeard = Arc<dyn Fn(EndpointId, u64) + Send + Sync>;

/// One run of a node: from the start of the process to its end.
#[derive(Clone, Copy, Debug)]
pub struct NodeRun {
    /// Chosen by chance.
    pub boot_id: u64,
    pub began: Instant,
}

impl NodeRun {
    #[must_use]
    pub fn begin() -> Self {
        Self { boot_id: rand::random(), began: Instant::now() }
    }

    /// Whether an announcement with our own id shows another machine with it: it is of another run, and was written while this
    /// one was there already. One of an earlier run of ours is older, no matter which peer sends it again.
    pub fn is_doubled_by(&self, mark: Mark, now: Instant, now_ms: u64) -> bool {
        let since = u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX);
        let ahead = mark.timestamp_ms > now_ms.saturating_add(CLOCKS_APART_MAX_MS);
        mark.boot_id != self.boot_id && mark.timestamp_ms > now_ms.saturating_sub(since) && !ahead
    }
}

counted!(GossipMsg);

#[derive(Debug)]
pub enum GossipMsg {
    /// Other channels: hints wait in [`GossipArgs::hints`], so join through them.
    HintsWaiting,
    /// PeersActor: a user named somebody, so join through it.
    Candidate { addr: EndpointAddr, channel: Channel },
    /// PeersActor: a session with this peer is up, so it is alive and of our network.
    PeerUp { addr: EndpointAddr, name: String, assets: u64 },
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

#[derive(Clone)]
pub struct GossipArgs {
    /// Gossip on the endpoint, as [`start`](super::start) makes it; outlives the actor.
    pub gossip: Gossip,
    /// The QUIC endpoint; outlives the actor.
    pub endpoint: Endpoint,
    /// Keeps its door, and knows gossip's connections.
    pub gate: Gate,
    pub secret_key: SecretKey,
    pub topic: TopicId,
    pub name: String,
    pub run: NodeRun,
    /// Told of an agent's announcement in another run than that of the one before; of our own id, of each in another run that is
    /// not older than ours.
    pub run_heard: RunHeard,
    pub ticket: watch::Receiver<String>,
    /// What we hold, as of the moment of the call.
    pub summary: Arc<dyn Fn() -> Summary + Send + Sync>,
    /// Who is there; outlives the actor.
    pub directory: SharedDirectory,
    pub book: AddressBook,
    /// What other channels found and nobody looked at yet.
    pub hints: Hints,
    /// Told of the agents that we find.
    pub candidates: Candidates,
    pub channels: Channels,
    /// The endpoint's addresses of others.
    pub lookup: MemoryLookup,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_what_another_machine_says_now_shows_that_there_is_one() {
        let run = NodeRun { boot_id: 7, began: Instant::now() };
        let (later, now_ms) = (run.began + Duration::from_mins(1), 1_700_000_000_000);
        let shows = |boot_id, timestamp_ms| {
            run.is_doubled_by(Mark { timestamp_ms, boot_id, counter: 1 }, later, now_ms)
        };
        assert!(shows(8, now_ms));
        assert!(shows(8, now_ms + 60_000), "its clock is ahead");
        assert!(!shows(7, now_ms), "it is our own");
        assert!(!shows(8, now_ms - 60_000), "an earlier run of ours wrote it, and somebody sends it again");
        assert!(!shows(8, now_ms + CLOCKS_APART_MAX_MS + 1), "nobody knows when");
    }
}
