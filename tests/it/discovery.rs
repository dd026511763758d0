//! Whole nodes that have nothing in common but the passphrase, and one way of finding each other at a time; the
//! infrastructure is real and on loopback.

use std::time::{Duration, Instant};

use can_sync::testing::config::{Config, SlotFormat};
use can_sync::testing::discovery::channel::Channel;
use serde_json::Value;

use crate::support::infrastructure::Infrastructure;
use crate::support::nodes::{TestNode, eventually};
use crate::support::scoreboard;

/// How soon two that have one way of finding each other are connected.
const CONNECTED_WITHIN: Duration = Duration::from_secs(30);

/// Starts two nodes, and waits until they are connected and have each other's asset. How long they took until they were connected.
async fn meet(adjust: impl Fn(&mut Config)) -> ([TestNode; 2], Duration) {
    let nodes = [TestNode::start("first", &adjust).await, TestNode::start("second", &adjust).await];
    let began = Instant::now();
    let mut hashes = Vec::new();
    for (i, node) in nodes.iter().enumerate() {
        hashes.push(node.ingest(format!("content of node {i}"), &[]).await);
    }
    for (node, other) in [(&nodes[0], &nodes[1]), (&nodes[1], &nodes[0])] {
        connected(node, &other.id()).await;
    }
    let took = began.elapsed();
    for node in &nodes {
        for hash in &hashes {
            eventually("the other's content", async || {
                node.content(hash).await.map(drop).ok_or_else(|| format!("{hash} is not there"))
            })
            .await;
        }
    }
    (nodes, took)
}

/// As [`meet`], and checks that this channel did it: it led at least one of the two to the other.
async fn meet_through(channel: Channel, adjust: impl Fn(&mut Config)) {
    let (nodes, took) = meet(adjust).await;
    let figure = format!("{}: connected after {:.1} s", channel.name(), took.as_secs_f64());
    scoreboard::figure(took <= CONNECTED_WITHIN, &figure);
    let mut found = 0;
    for (node, other) in [(&nodes[0], &nodes[1]), (&nodes[1], &nodes[0])] {
        let sources = node.peer(&other.id()).await["sources"].clone();
        if sources.as_array().is_some_and(|sources| sources.contains(&channel.name().into())) {
            found += 1;
            // Two may be connected by the first slot that was read, before the look or the write is over that tells how it went.
            eventually("the channel says that it did it", async || {
                let report = node.get("/status").await["data"]["discovery"][channel.name()].clone();
                let has_found = report["found"].as_u64().is_some_and(|found| found > 0);
                let is_so = report["state"] == "up" && has_found && report["last_success"].is_string();
                is_so.then_some(()).ok_or_else(|| report.to_string())
            })
            .await;
        }
    }
    assert!(found > 0, "{} led nobody to nobody", channel.name());
}

async fn connected(node: &TestNode, other: &str) {
    eventually("connected", async || {
        let peer = node.peer(other).await;
        if peer["path"] == "direct" { Ok(()) } else { Err(node.get("/status").await.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_alone_bring_two_together() {
    let network = Infrastructure::start().await;
    meet_through(Channel::Relays, |config| network.relays(config)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dht_alone_brings_two_together() {
    let network = Infrastructure::start().await;
    meet_through(Channel::Dht, |config| network.dht(config)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_network_alone_brings_two_together() {
    meet_through(Channel::Mdns, |config| config.discovery.mdns = true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configured_list_alone_brings_two_together() {
    let first = TestNode::start("first", |_| {}).await;
    let ticket = first.ticket();
    let second = TestNode::start("second", |config| config.discovery.bootstrap = vec![ticket]).await;
    connected(&second, &first.id()).await;
    assert_eq!(second.peer(&first.id()).await["sources"][0], "bootstrap");
    // The connection is there a moment before its session.
    eventually("a success", async || {
        let status = second.get("/status").await;
        let channel = &status["data"]["discovery"]["bootstrap"];
        channel["last_success"].is_string().then_some(()).ok_or_else(|| channel.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_in_the_configured_list_is_enough_where_its_record_can_be_read() {
    let network = Infrastructure::start().await;
    let adjusts: [&dyn Fn(&mut Config); 2] =
        [&|config| network.relays(config), &|config| network.dht(config)];
    for adjust in adjusts {
        // Slots of different formats lead nobody to anybody.
        let first = TestNode::start("first", |config| {
            adjust(config);
            config.discovery.slots = SlotFormat::Compatible;
        })
        .await;
        let id = first.id();
        let second = TestNode::start("second", |config| {
            adjust(config);
            config.discovery.bootstrap = vec![id.clone()];
        })
        .await;
        connected(&second, &id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn saved_peers_alone_bring_two_together_again() {
    let first = TestNode::start("first", |_| {}).await;
    let mut second = TestNode::start("second", |_| {}).await;
    second.dial(&first).await;
    connected(&second, &first.id()).await;
    second.stop().await;
    second.boot().await;
    connected(&second, &first.id()).await;
    // The other one may have dialled before the book was read.
    eventually("it was remembered", async || {
        let report = second.get("/status").await["data"]["discovery"]["saved"].clone();
        (report["state"] == "up" && report["found"] == 1).then_some(()).ok_or_else(|| report.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gossip_leads_to_those_whom_a_neighbour_knows() {
    let middle = TestNode::start("middle", |_| {}).await;
    let ticket = middle.ticket();
    let bootstrap = |config: &mut Config| config.discovery.bootstrap = vec![ticket.clone()];
    let (left, right) = (TestNode::start("left", bootstrap).await, TestNode::start("right", bootstrap).await);
    connected(&left, &right.id()).await;
    eventually("announced with its name", async || {
        let listed = left.get("/peers").await;
        let peers = listed["data"]["peers"].as_array().cloned().unwrap_or_default();
        let right = peers.iter().find(|peer| peer["endpoint_id"] == right.id().as_str());
        let found = right.is_some_and(|peer| {
            let sources = peer["sources"].as_array().cloned().unwrap_or_default();
            peer["name"] == "right" && sources.contains(&"gossip".into())
        });
        found.then_some(()).ok_or_else(|| listed.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_passphrase_is_another_network() {
    let network = Infrastructure::start().await;
    let adjust = |config: &mut Config| {
        network.relays(config);
        network.dht(config);
        config.discovery.mdns = true;
    };
    let ([first, second], _) = meet(adjust).await;
    let stranger = TestNode::start("stranger", |config| {
        adjust(config);
        config.sync_passphrase = Some("eight other otters hum a quite different tune".into());
        config.discovery.bootstrap = vec![first.ticket()];
    })
    .await;
    // It dialled, was turned away, and knows why.
    eventually("turned away", async || {
        let peer = stranger.peer(&first.id()).await;
        let why = peer["last_error"].as_str().unwrap_or_default();
        why.contains("passphrase").then_some(()).ok_or_else(|| peer.to_string())
    })
    .await;
    let listed = |listed: &Value| listed["data"]["peers"].as_array().cloned().unwrap_or_default();
    for node in [&first, &second] {
        let peers = listed(&node.get("/peers").await);
        assert!(peers.iter().all(|peer| peer["endpoint_id"] != stranger.id().as_str()), "{peers:?}");
    }
    let peers = listed(&stranger.get("/peers").await);
    for peer in &peers {
        assert_eq!((&peer["name"], &peer["assets"]), (&"".into(), &Value::Null), "something was revealed");
        assert_eq!(peer["endpoint_id"], first.id(), "only whom its user named");
    }
    assert_eq!(stranger.get("/status").await["data"]["peers"]["connected"], 0);
}
