//! What goes where: members outside the network of the passphrase see their libraries and nothing else.

use can_sync::testing::library::ticket::Ticket;
use serde_json::{Value, json};

use super::{Share, stranger};
use crate::support::nodes::{TestNode, eventually};

const IMAGE: &[(&str, &str)] = &[("mime_type", "image/png")];
const TEXT: &[(&str, &str)] = &[("mime_type", "text/plain")];

async fn arrives(node: &TestNode, hash: &str) {
    eventually(&format!("{} gets {hash}", node.config.name), async || {
        node.content(hash).await.map(drop).ok_or_else(|| "it is not there".to_owned())
    })
    .await;
}

/// Hashes in the store of a node.
async fn hashes(node: &TestNode) -> Vec<String> {
    let assets = node.assets().await;
    assets.iter().filter_map(|asset| asset["hash"].as_str().map(str::to_owned)).collect()
}

fn sorted(mut hashes: Vec<String>) -> Vec<String> {
    hashes.sort();
    hashes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_gets_the_library_live_and_nothing_else() {
    let a = TestNode::start("a", |_| {}).await;
    let b = TestNode::start("b", |_| {}).await;
    b.dial(&a).await;
    let image = a.ingest("a picture", IMAGE).await;
    let text = a.ingest("a text", TEXT).await;
    let large = a.ingest(vec![7; 3_000_000], IMAGE).await;
    let c = stranger("c").await;
    let own = c.ingest("a picture of c's own", IMAGE).await;

    let share = Share::images(&a).await;
    let joined = share.invite(&a, json!({ "access": "read" })).await.join(&c).await;
    assert_eq!(joined["data"]["counts"]["assets"], 0, "{joined}");
    arrives(&c, &image).await;
    arrives(&c, &large).await;
    // Live, from either of the two that mirror each other.
    let later = b.ingest("a later picture", IMAGE).await;
    b.ingest("a later text", TEXT).await;
    arrives(&c, &later).await;
    share.in_sync(&c).await;
    assert_eq!(sorted(hashes(&c).await), sorted(vec![image.clone(), large, later, own.clone()]));

    // What it sees of the network: the one node that it was led to.
    let peers = c.get("/peers").await["data"]["peers"].as_array().cloned().unwrap();
    assert_eq!(peers.iter().map(|peer| peer["endpoint_id"].clone()).collect::<Vec<_>>(), [a.id()]);
    assert_eq!(c.get("/libraries").await["data"]["libraries"][0]["name"], "images");
    // Its own never leaves it, and the members are known with the time at which they were in sync.
    let member = share.member(&a).await;
    assert_eq!((&member["endpoint_id"], &member["access"]), (&c.id().into(), &"read".into()), "{member}");
    assert!(member["last_synced"].is_string(), "{member}");
    a.wait_in_sync().await;
    for node in [&a, &b] {
        assert!(!hashes(node).await.contains(&own), "{} has c's own", node.config.name);
        assert!(hashes(node).await.contains(&text));
    }
    assert_eq!(share.detail(&c).await["counts"]["assets"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writers_assets_reach_everybody_and_only_those_that_match() {
    let a = TestNode::start("a", |_| {}).await;
    let b = TestNode::start("b", |_| {}).await;
    b.dial(&a).await;
    let share = Share::images(&a).await;
    let (c, d) = (stranger("c").await, stranger("d").await);
    share.invite(&a, json!({ "access": "read" })).await.join(&c).await;
    let before = d.ingest("a picture from before", IMAGE).await;
    let private = d.ingest("a private text", TEXT).await;
    let ticket = share.invite(&a, json!({ "access": "write" })).await.ticket;
    d.post("/join", json!({ "ticket": ticket, "share_existing": true })).await;
    let after = d.ingest("a picture from after", IMAGE).await;
    d.ingest("another private text", TEXT).await;
    for node in [&a, &b, &c] {
        arrives(node, &before).await;
        arrives(node, &after).await;
    }
    share.in_sync(&d).await;
    for node in [&a, &b, &c] {
        assert_eq!(sorted(hashes(node).await), sorted(vec![before.clone(), after.clone()]));
        assert_ne!(node.config.name, "d");
    }
    assert!(hashes(&d).await.contains(&private));
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_move_assets_in_and_out() {
    let a = TestNode::start("a", |_| {}).await;
    let c = stranger("c").await;
    let share = Share::new(&a, json!({ "tags": ["shared"] })).await;
    share.invite(&a, json!({ "access": "read" })).await.join(&c).await;
    let hash = a.ingest("a page", TEXT).await;
    let other = a.ingest("another page", &[("mime_type", "text/plain"), ("tags", "shared")]).await;
    arrives(&c, &other).await;
    assert_eq!(c.content(&hash).await, None);
    super::edit(&a, &hash, json!({ "tags": ["shared"] })).await;
    arrives(&c, &hash).await;
    // Out: a reader keeps what it has, and hears of no further change.
    super::edit(&a, &hash, json!({ "tags": ["private"], "description": "secret" })).await;
    super::edit(&a, &other, json!({ "tags": ["shared"], "description": "told" })).await;
    let description =
        async |hash: &str| c.store(&format!("/asset/{hash}/meta")).await["data"]["description"].clone();
    eventually("the edit of what is shared", async || {
        let told = description(&other).await;
        (told == "told").then_some(()).ok_or_else(|| told.to_string())
    })
    .await;
    assert_eq!(description(&hash).await, Value::Null);
    assert_eq!(share.detail(&a).await["counts"]["assets"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_joins_through_another_one_while_the_issuer_is_away() {
    let mut a = TestNode::start("a", |_| {}).await;
    let image = a.ingest("a picture", IMAGE).await;
    let share = Share::images(&a).await;
    let (c, d) = (stranger("c").await, stranger("d").await);
    share.invite(&a, json!({ "access": "write" })).await.join(&d).await;
    arrives(&d, &image).await;
    share.in_sync(&d).await;
    share.member(&a).await;
    // What a ticket says of where others are is written down a moment after they were connected to.
    let ticket = eventually("a ticket that leads to d", async || {
        let ticket = share.invite(&a, json!({ "access": "read" })).await;
        let addrs = Ticket::parse(&ticket.ticket).expect("a ticket").addrs;
        let leads = addrs.iter().any(|addr| addr.id.to_string() == d.id());
        if leads { Ok(ticket) } else { Err(format!("{addrs:?}")) }
    })
    .await;
    a.stop().await;
    ticket.join(&c).await;
    arrives(&c, &image).await;
}
