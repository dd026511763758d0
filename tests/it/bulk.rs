//! Contents of two whole nodes have a connection of their own in each direction.

use can_sync::testing::events::NodeEvent;

use crate::support::nodes::{TestNode, eventually};
use crate::support::store::noise;

/// Assets at each node, and their sizes.
const ASSETS: u64 = 16;
const SIZES: [usize; 4] = [100_000, 700_000, 3_000_000, 9_000_000];

async fn fill(node: &TestNode, first: u64) {
    for (n, size) in (first..first + ASSETS).zip(SIZES.into_iter().cycle()) {
        node.ingest(noise(size, n), &[("tags", "both ways")]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_at_once_end_equal_over_two_connections_that_are_no_peers() {
    let (a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    tokio::join!(fill(&a, 0), fill(&b, 1_000));
    b.dial(&a).await;
    for (node, other) in [(&a, &b), (&b, &a)] {
        eventually("both connections", async || {
            let peer = node.peer(&other.id()).await;
            let both = peer["bulk_in"] == true && peer["bulk_out"] == true;
            both.then_some(()).ok_or_else(|| peer.to_string())
        })
        .await;
    }
    tokio::join!(a.wait_in_sync(), b.wait_in_sync());
    assert_eq!(a.assets().await, b.assets().await);
    assert_eq!(a.assets().await.len() as u64, 2 * ASSETS);
    for node in [&a, &b] {
        let status = node.get("/status").await;
        assert_eq!(status["data"]["peers"]["connected"], 1, "{status}");
        let events: Vec<NodeEvent> =
            node.node().events().since(0).0.into_iter().map(|logged| logged.event).collect();
        let count = |kind: &str| events.iter().filter(|event| event.name() == kind).count();
        assert_eq!((count("peer_connected"), count("peer_lost"), count("asset_failed")), (1, 0, 0));
    }
}
