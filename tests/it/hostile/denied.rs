//! Machines that know the passphrase and were denied, or wait for approval: what they hear.

use std::sync::LazyLock;

use can_sync::testing::discovery::list_peers::{ListError, ListingConnection};
use can_sync::testing::identity::NetworkKeys;
use can_sync::testing::net::{LIST_PEERS_ALPN, SESSION_ALPN, close};
use iroh::EndpointAddr;
use iroh_gossip::net::GOSSIP_ALPN;
use iroh_tickets::endpoint::EndpointTicket;
use serde_json::json;

use crate::support::hostile::closed;
use crate::support::member::HostileMember;
use crate::support::nodes::{PASSPHRASE, TestNode, eventually};

static KEYS: LazyLock<NetworkKeys> = LazyLock::new(|| NetworkKeys::derive(&PASSPHRASE.into()));

async fn decide(node: &TestNode, id: &str, what: &str) {
    let answer = node.post(&format!("/devices/{id}/{what}"), json!({})).await;
    assert_eq!(answer["status"], "success", "{answer}");
}

fn addr(node: &TestNode) -> EndpointAddr {
    node.ticket().parse::<EndpointTicket>().expect("a ticket").into()
}

async fn asks(m: &HostileMember, node: &TestNode) -> Result<ListingConnection, ListError> {
    Box::pin(ListingConnection::connect(&m.endpoint, addr(node), &[KEYS.presence().rpc().clone()])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_machine_is_shut_out_of_every_protocol_and_of_what_it_has_open() {
    let a = TestNode::start("a", |_| {}).await;
    let m = HostileMember::new().await;
    let asking = asks(&m, &a).await.expect("it knows the passphrase");
    let gossip = m.dial_on(&a, GOSSIP_ALPN).await;
    assert!(asking.list_page(bytes::Bytes::new(), 10).await.is_ok());
    decide(&a, &m.id().to_string(), "deny").await;
    let (code, reason) = closed(&gossip).await;
    assert!(code == close::DENIED && reason.contains("denied"), "{code}: {reason}");
    eventually("what it has open is closed", async || {
        asking.list_page(bytes::Bytes::new(), 10).await.map_or(Ok(()), |_| Err("it is answered".to_owned()))
    })
    .await;
    for alpn in [SESSION_ALPN, LIST_PEERS_ALPN, GOSSIP_ALPN] {
        let (code, reason) = closed(&m.dial_on(&a, alpn).await).await;
        assert!(code == close::DENIED && reason.contains("denied"), "{code}: {reason}");
    }
    assert!(asks(&m, &a).await.is_err());
    // Nor is it dialled, whoever asks for that.
    let answer = a.post("/peers", json!({ "ticket": m.endpoint_ticket() })).await;
    assert!(answer["error"].as_str().is_some_and(|error| error.contains("denied")), "{answer}");
    decide(&a, &m.id().to_string(), "approve").await;
    assert!(asks(&m, &a).await.is_ok(), "it is let in again");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_heard_of_a_denied_machine_by_way_of_others() {
    let (a, b, m) = tokio::join!(
        TestNode::start("a", |_| {}),
        TestNode::start("b", |_| {}),
        TestNode::start("m", |_| {}),
    );
    b.dial(&a).await;
    b.dial(&m).await;
    let hears_of = async |other: &TestNode| {
        let peers = a.get("/peers").await;
        let all = peers["data"]["peers"].as_array().cloned().unwrap_or_default();
        all.iter().any(|peer| peer["endpoint_id"] == other.id() && peer["assets"].is_number())
    };
    eventually("a hears of m through b", async || hears_of(&m).await.then_some(()).ok_or_else(String::new))
        .await;
    decide(&a, &m.id(), "deny").await;
    eventually("a forgets m", async || {
        let found = a.get("/actors").await;
        (!hears_of(&m).await).then_some(()).ok_or_else(|| found.to_string())
    })
    .await;
    // What m says from now on still reaches b, and a hears what b says after that.
    let news = m.ingest("news", &[]).await;
    eventually("b has it", async || b.content(&news).await.map(drop).ok_or_else(String::new)).await;
    eventually("a has it from b", async || a.content(&news).await.map(drop).ok_or_else(String::new)).await;
    eventually("a hears what b says of itself afterwards", async || {
        let peer = a.peer(&b.id()).await;
        (peer["assets"] == 1).then_some(()).ok_or_else(|| peer.to_string())
    })
    .await;
    assert!(!hears_of(&m).await, "it heard of m again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_waits_for_approval_hears_nothing_of_the_network() {
    let a = TestNode::start("a", |config| config.approve_devices = true).await;
    let m = HostileMember::new().await;
    for alpn in [LIST_PEERS_ALPN, GOSSIP_ALPN] {
        let (code, reason) = closed(&m.dial_on(&a, alpn).await).await;
        assert!(code == close::UNAPPROVED && reason.contains("waits for approval"), "{code}: {reason}");
    }
    // It may show that it knows the passphrase, and so come to wait.
    let connection = m.dial(&a).await;
    let mut talk = m.open(&connection).await;
    talk.prove(&[KEYS.mirror().auth().clone()]).await.unwrap();
    assert!(talk.hear().await.is_err(), "it is let in");
    let (code, reason) = closed(&connection).await;
    assert!(code == close::UNAPPROVED && reason.contains("waits for approval"), "{code}: {reason}");
    eventually("it waits", async || {
        let devices = a.get("/devices").await;
        let device = &devices["data"]["devices"][0];
        let waits = device["endpoint_id"] == m.id().to_string() && device["standing"] == "waiting";
        waits.then_some(()).ok_or_else(|| devices.to_string())
    })
    .await;
    decide(&a, &m.id().to_string(), "approve").await;
    assert!(asks(&m, &a).await.is_ok());
    let connection = m.dial(&a).await;
    let mut talk = m.open(&connection).await;
    talk.prove(&[KEYS.mirror().auth().clone()]).await.unwrap();
    assert_eq!(talk.hear_proofs().await.expect("it is let in").len(), 1);
}
