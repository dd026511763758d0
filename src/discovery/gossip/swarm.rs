//! The swarm: gossip on an endpoint, the topic of a network, and an attempt to join through one agent.

use std::time::Duration;

use iroh::{Endpoint, EndpointAddr};
use iroh_gossip::api::GossipSender;
use iroh_gossip::net::{GOSSIP_ALPN, Gossip};
use iroh_gossip::proto::{PlumtreeConfig, TopicId};

use super::PresenceProbe;
use crate::identity::Key;

/// How long gossip keeps messages for neighbours that missed them, and what it has seen: as little as works, for that is
/// what a flood fills.
const GOSSIP_KEEPS_MESSAGES: Duration = Duration::from_secs(3);
const GOSSIP_KEEPS_IDS: Duration = Duration::from_secs(10);

/// Starts gossip on an endpoint. Connections on [`GOSSIP_ALPN`] go to [`Gossip::handle_connection`].
///
/// # Panics
/// Outside of a tokio runtime.
#[must_use]
pub fn start(endpoint: &Endpoint) -> Gossip {
    let broadcast = PlumtreeConfig {
        message_cache_retention: GOSSIP_KEEPS_MESSAGES,
        message_id_retention: GOSSIP_KEEPS_IDS,
        ..PlumtreeConfig::default()
    };
    Gossip::builder().broadcast_config(broadcast).spawn(endpoint.clone())
}

pub fn topic_of(key: &Key) -> TopicId {
    TopicId::from_bytes(*key.expose())
}

pub(super) struct Join {
    pub(super) gossip: Gossip,
    pub(super) endpoint: Endpoint,
    pub(super) sender: GossipSender,
    /// Asks first, where the agent has not proved itself yet.
    pub(super) probe: Option<PresenceProbe>,
}

impl Join {
    /// Whether gossip has a connection to the agent now and was told to join through it.
    pub(super) async fn run(self, addr: EndpointAddr) -> bool {
        let id = addr.id;
        if let Some(probe) = self.probe
            && !probe(addr.clone()).await
        {
            return false;
        }
        let connection = match self.endpoint.connect(addr, GOSSIP_ALPN).await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::debug!(peer = %id.fmt_short(), %error, "the swarm is not joined through it");
                return false;
            }
        };
        self.gossip.handle_connection(connection).await.is_ok()
            && self.sender.join_peers(vec![id]).await.is_ok()
    }
}
