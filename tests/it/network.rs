//! Networks of many whole nodes in this process, which find each other through rendezvous slots alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::support::infrastructure::Infrastructure;
use crate::support::nodes::{TestNode, eventually_within};
use crate::support::scoreboard;

/// More than an agent dials, and as many as a busy machine takes in its stride: the work grows with the square of it.
/// `CAN_SYNC_TEST_AGENTS=100` tries more.
const AGENTS: usize = 20;
/// Far more than it takes, for each agent; a debug build on two busy cores is slow.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
async fn many_agents_become_one_network_through_slots_alone() {
    let agents = scoreboard::number("CAN_SYNC_TEST_AGENTS", AGENTS);
    let patience = PATIENCE * u32::try_from(agents).expect("not that many");
    let network = Infrastructure::start().await;
    let started = Instant::now();
    let starts = (0..agents)
        .map(|n| Box::pin(TestNode::start_owned(format!("agent {n}"), |config| network.relays(config))));
    let nodes = join_all(starts).await;
    let stores = nodes.iter().enumerate().map(|(n, node)| node.ingest(format!("asset of agent {n}"), &[]));
    let hashes: BTreeSet<String> = join_all(stores).await.into_iter().collect();
    assert_eq!(hashes.len(), agents);

    eventually_within(patience, "every asset everywhere", async || {
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
    let took = started.elapsed();
    let figure =
        format!("{agents} agents: every asset everywhere {:.1} s after the start", took.as_secs_f64());
    scoreboard::figure(took <= Duration::from_mins(2), &figure);

    let (reads, writes) = requests(&nodes, patience).await;
    let minutes = started.elapsed().as_secs_f64() / 60.0 * agents as f64;
    println!(
        "{agents} agents: {:.1} reads and {:.1} writes per agent and minute so far",
        reads as f64 / minutes,
        writes as f64 / minutes
    );

    // The agents are asked one after the other, and a connection may be exchanged for another meanwhile.
    eventually_within(patience, "one connected graph", async || {
        let mut edges = BTreeMap::new();
        for node in &nodes {
            edges.insert(node.id(), neighbours(node).await);
        }
        (reached(&edges).len() == agents).then_some(()).ok_or_else(|| format!("{edges:?}"))
    })
    .await;

    // What is new reaches all.
    let late = nodes[agents / 2].ingest("what came last", &[]).await;
    let began = Instant::now();
    eventually_within(patience, "the late asset everywhere", async || {
        for node in &nodes {
            if node.content(&late).await.is_none() {
                return Err(format!("{} lacks it", node.config.name));
            }
        }
        Ok(())
    })
    .await;
    println!("{agents} agents: a new asset everywhere after {:.2} s", began.elapsed().as_secs_f64());
}

/// Reads and writes of relays, all agents together, as RendezvousActor tells them.
async fn requests(nodes: &[TestNode], patience: Duration) -> (u64, u64) {
    let mut sum = (0, 0);
    for node in nodes {
        let mut numbers = [0; 2];
        // On a busy machine it does not always answer in time.
        eventually_within(patience, "RendezvousActor says how it is", async || {
            let tree = node.get("/actors").await["data"].to_string();
            let detail = tree.split("relays: ").nth(1).ok_or_else(|| tree.clone())?;
            let mut said = detail.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
            numbers = [said.next().expect("reads"), said.next().expect("writes")];
            Ok(())
        })
        .await;
        sum = (sum.0 + numbers[0], sum.1 + numbers[1]);
    }
    sum
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
