//! Agents in this process, alone on loopback, that find each other only as a bench says.

use std::path::Path;

use can_sync::testing::clock::Clock;
use can_sync::testing::config::{Config, Origins, RelaySetting, SettingSources};
use can_sync::testing::node::{Node, StartOutput};

use super::Result;

pub(crate) fn config(name: &str, dir: &Path, passphrase: &str) -> Result<Config> {
    let mut config = Config::load(&SettingSources::default())?.config;
    name.clone_into(&mut config.name);
    config.data_dir = dir.join("data");
    for addr in [&mut config.listen_addr, &mut config.can_listen_addr, &mut config.bind_addr] {
        *addr = "127.0.0.1:0".parse()?;
    }
    config.relay_url = RelaySetting::Disabled;
    config.sync_passphrase = Some(passphrase.into());
    config.limits.disk_reserve_bytes = 0;
    config.discovery.pkarr_relays = Vec::new();
    config.discovery.dht = false;
    config.discovery.mdns = false;
    Ok(config)
}

pub(crate) async fn start(config: &Config) -> Result<Node> {
    let output = StartOutput {
        origins: Origins::new(),
        progress: Box::new(|_| {}),
        signals: None,
        clock: Clock::system(),
    };
    Ok(Box::pin(Node::start(config.clone(), output)).await?)
}

pub(crate) async fn stop(nodes: impl IntoIterator<Item = Node>) {
    for node in nodes {
        node.stop("seen enough");
        node.wait().await;
    }
}
