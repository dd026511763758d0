//! Agents that do nothing but say whom they know: a real endpoint each, with the real service on it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use can_sync::testing::discovery::announcement::Announcement;
use can_sync::testing::discovery::channel::ChannelSet;
use can_sync::testing::discovery::directory::AgentListing;
use can_sync::testing::discovery::list_peers::{ListPeersService, ListingSource};
use can_sync::testing::identity::{Key, PresenceKeys};
use can_sync::testing::net::handshakes::{RemoteNet, SharedHandshakes};
use can_sync::testing::net::{close, endpoint};
use can_sync::testing::wire::proto::SignedAnnouncement;
use iroh::endpoint::Connection;
use iroh::{Endpoint, EndpointAddr, SecretKey};
use prost::Message as _;
use tokio::task::JoinHandle;

use super::peers::{addr_of, bind};

/// The key of the network of these tests: that of a topic without a secret, because it needs no stretching.
pub(crate) fn key() -> Key {
    PresenceKeys::of_topic("a network of tests", None).rpc().clone()
}

/// An announcement, signed by whom it is about.
pub(crate) fn announcement(key: &SecretKey, name: &str, assets: u64, addr: &EndpointAddr) -> Bytes {
    let announcement = Announcement {
        id: key.public(),
        name: name.to_owned(),
        assets,
        total_bytes: assets * 1000,
        fingerprint: [0; 16],
        timestamp_ms: u64::try_from(jiff::Timestamp::now().as_millisecond()).expect("after 1970"),
        boot_id: 1,
        counter: 1,
        addrs: addr.ip_addrs().copied().collect(),
        relay_url: None,
        version: "0.1.0".to_owned(),
    };
    announcement.sign(key)
}

/// Signs whatever bytes as an announcement is signed.
pub(crate) fn sign(key: &SecretKey, announcement: Bytes) -> Bytes {
    let message = [b"can-sync announcement v1".as_slice(), &announcement].concat();
    let signature = key.sign(&message).to_bytes().to_vec().into();
    SignedAnnouncement { announcement, signature }.encode_to_vec().into()
}

/// The directory's entry about an agent.
pub(crate) fn listing(key: &SecretKey, name: &str, addr: EndpointAddr, age: Duration) -> AgentListing {
    AgentListing {
        id: key.public(),
        name: name.to_owned(),
        assets: 3,
        total_bytes: 3000,
        age,
        stale: false,
        signed: Some(announcement(key, name, 3, &addr)),
        addr,
        sources: ChannelSet::default(),
    }
}

/// What an agent answers from.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) own: Option<Bytes>,
    pub(crate) listings: Vec<AgentListing>,
}

impl ListingSource for Known {
    fn own(&self) -> Option<Bytes> {
        self.own.clone()
    }

    fn listings(&self) -> Vec<AgentListing> {
        self.listings.clone()
    }
}

/// One of them. Ends when dropped.
pub(crate) struct Lister {
    pub(crate) endpoint: Endpoint,
    accepting: JoinHandle<()>,
}

impl Lister {
    /// Serves `known` on `endpoint` to those who know one of `keys`.
    pub(crate) fn serve(endpoint: Endpoint, keys: Vec<Key>, known: Known) -> Self {
        let handler = ListPeersService::new(endpoint.id(), keys, known).handler();
        let handshakes = SharedHandshakes::new(32);
        Self::accept(endpoint, move |connection| {
            match handshakes.begin(RemoteNet::Relayed(connection.remote_id()), true) {
                Ok(pending) => handler(connection, pending),
                Err(_) => connection.close(close::BUSY.into(), b"busy"),
            }
        })
    }

    /// Hands every connection to `handle`: for those that do not play by the rules.
    pub(crate) fn accept(endpoint: Endpoint, handle: impl Fn(Connection) + Send + 'static) -> Self {
        let accepting = endpoint.clone();
        let accepting = tokio::spawn(async move {
            let server = endpoint::strangers(&accepting);
            while let Some(incoming) = accepting.accept().await {
                let Ok(incoming) = incoming.accept_with(Arc::clone(&server)) else { continue };
                if let Ok(connection) = incoming.await {
                    handle(connection);
                }
            }
        });
        Self { endpoint, accepting }
    }

    /// One that knows `peers` and calls itself `name`.
    pub(crate) async fn start(key: SecretKey, name: &str, keys: Vec<Key>, peers: Vec<AgentListing>) -> Self {
        let endpoint = bind(key.clone()).await;
        let own = announcement(&key, name, 7, &addr_of(&endpoint));
        Self::serve(endpoint, keys, Known { own: Some(own), listings: peers })
    }

    pub(crate) fn addr(&self) -> EndpointAddr {
        addr_of(&self.endpoint)
    }
}

impl Drop for Lister {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
