//! Networks of many whole nodes in this process, which find each other through rendezvous slots alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use futures::future::join_all;

use crate::support::infrastructure::Infrastructure;
use crate::support::nodes::{TestNode, eventually_within};

const AGENTS: usize = 30;
/// Far more than it takes; a debug build on two busy cores is slow.
const PATIENCE: std::time::Duration = std::time::Duration::from_mins(4);

#[tokio::test(flavor = "multi_thread")]
async fn thirty_agents_become_one_network_through_slots_alone() {
    let network = Infrastructure::start().await;
    let started = Instant::now();
    let starts = (0..AGENTS)
        .map(|n| Box::pin(TestNode::start_owned(format!("agent {n}"), |config| network.relays(config))));
    let nodes = join_all(starts).await;
    let stores = nodes.iter().enumerate().map(|(n, node)| node.ingest(format!("asset of agent {n}"), &[]));
    let hashes: BTreeSet<String> = join_all(stores).await.into_iter().collect();
    assert_eq!(hashes.len(), AGENTS);

    eventually_within(PATIENCE, "every asset everywhere", async || {
        let mut lacking = Vec::new();
        for node in &nodes {
            let held: BTreeSet<String> = node
                .assets()
                .await
                .iter()
                .filter_map(|asset| asset["hash"].as_str().map(str::to_owned))
                .collect();
            if held != hashes {
                lacking.push(held.len());
            }
        }
        if lacking.is_empty() {
            Ok(())
        } else {
            Err(format!("{} nodes lack some: {lacking:?}", lacking.len()))
        }
    })
    .await;
    println!(
        "{AGENTS} agents: every asset everywhere {:.1} s after the start",
        started.elapsed().as_secs_f64()
    );

    let mut edges = BTreeMap::new();
    for node in &nodes {
        edges.insert(node.id(), neighbours(node).await);
    }
    assert_eq!(reached(&edges).len(), AGENTS, "one connected graph: {edges:?}");

    // What is new reaches all.
    let late = nodes[AGENTS / 2].ingest("what came last", &[]).await;
    let began = Instant::now();
    eventually_within(PATIENCE, "the late asset everywhere", async || {
        for node in &nodes {
            if node.content(&late).await.is_none() {
                return Err(format!("{} lacks it", node.config.name));
            }
        }
        Ok(())
    })
    .await;
    println!("{AGENTS} agents: a new asset everywhere after {:.2} s", began.elapsed().as_secs_f64());
}

async fn neighbours(node: &TestNode) -> BTreeSet<String> {
    let listed = node.get("/peers").await;
    let peers = listed["data"]["peers"].as_array().expect("a list");
    let connected = peers.iter().filter(|peer| peer["path"].is_string());
    connected.filter_map(|peer| peer["endpoint_id"].as_str().map(str::to_owned)).collect()
}

/// Everyone whom the first one reaches.
fn reached(edges: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut open: Vec<&String> = edges.keys().take(1).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if seen.insert(id.clone()) {
            open.extend(edges.get(id).into_iter().flatten().filter(|next| edges.contains_key(*next)));
        }
    }
    seen
}
