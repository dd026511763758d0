//! What agents meet through, on loopback: a real mainline DHT, and a real pkarr relay in front of it.

use can_sync::testing::config::{Config, HttpUrl};
use mainline::Testnet;
use pkarr_relay::Relay;

/// Nodes of the DHT.
const DHT_NODES: usize = 10;

/// Gone when dropped.
pub(crate) struct Infrastructure {
    dht: Testnet,
    relay: Relay,
}

impl Infrastructure {
    pub(crate) async fn start() -> Self {
        let dht = tokio::task::spawn_blocking(|| Testnet::builder(DHT_NODES).build().expect("a DHT"));
        let dht = dht.await.expect("no panic");
        let relay = Relay::run_test(&dht.bootstrap).await.expect("a relay");
        Self { dht, relay }
    }

    /// The relay.
    pub(crate) fn relay_url(&self) -> HttpUrl {
        HttpUrl::parse(self.relay.local_url().as_str()).expect("a URL")
    }

    /// Nodes through which the DHT is entered.
    pub(crate) fn bootstrap(&self) -> Vec<String> {
        self.dht.bootstrap.clone()
    }

    /// Rendezvous through the relay alone.
    pub(crate) fn relays(&self, config: &mut Config) {
        config.discovery.pkarr_relays = vec![self.relay_url()];
    }

    /// Rendezvous through the DHT alone.
    pub(crate) fn dht(&self, config: &mut Config) {
        config.discovery.dht = true;
        config.discovery.dht_bootstrap = Some(self.bootstrap());
    }
}
