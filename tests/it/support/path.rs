//! Two nodes between which everything passes a forwarder.

use iroh::{EndpointAddr, TransportAddr};
use iroh_tickets::endpoint::EndpointTicket;
use serde_json::json;

use super::forwarder::{Forwarder, Link};
use super::nodes::{TestNode, eventually};

pub(crate) struct Pair {
    /// The one that dials.
    pub(crate) near: TestNode,
    pub(crate) far: TestNode,
    pub(crate) path: Forwarder,
}

impl Pair {
    /// Starts nodes of which one has IPv4 alone and the other one IPv6 alone, with a forwarder between them; they do not know
    /// each other yet. `None`, with a message, on a machine without both.
    pub(crate) async fn start(links: [Link; 2], seed: u64) -> Option<Self> {
        if !Forwarder::is_possible() {
            println!("skipped: this machine lacks IPv4 or IPv6");
            return None;
        }
        let near = TestNode::start("near", |_| {});
        let far = TestNode::start("far", |config| config.bind_addr = "[::1]:0".parse().expect("an address"));
        let (near, far) = tokio::join!(near, far);
        let ticket: EndpointTicket = far.ticket().parse().expect("a ticket");
        let to = ticket.endpoint_addr().ip_addrs().find(|addr| addr.is_ipv6()).copied();
        let path = Forwarder::start(to.expect("where the far one is"), links, seed).expect("a forwarder");
        Some(Self { near, far, path })
    }

    /// Tells the near one where the far one is.
    pub(crate) async fn dial(&self) {
        let addr =
            EndpointAddr::from_parts(self.far.node().endpoint_id(), [TransportAddr::Ip(self.path.addr())]);
        let ticket = EndpointTicket::new(addr).to_string();
        let answer = self.near.post("/peers", json!({ "ticket": ticket })).await;
        assert_eq!(answer["status"], "success", "{answer}");
    }

    pub(crate) async fn connected(&self) {
        for node in [&self.near, &self.far] {
            eventually("connected", async || {
                let status = node.get("/status").await;
                (status["data"]["peers"]["connected"] == 1).then_some(()).ok_or_else(|| status.to_string())
            })
            .await;
        }
    }

    /// Waits until both sides have compared what they have and found it equal; and looks whether it is.
    pub(crate) async fn end_equal(&self) {
        tokio::join!(self.near.wait_in_sync(), self.far.wait_in_sync());
        assert_eq!(self.near.assets().await, self.far.assets().await);
    }
}
