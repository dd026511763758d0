//! Machines of one user that first meet as members of a library.

use serde_json::{Value, json};

use super::Share;
use crate::support::nodes::{TestNode, eventually};

/// The identities of the actors that run sessions at a node, one for each connection.
async fn peer_actors(node: &TestNode) -> Vec<String> {
    let tree = node.get("/actors").await["data"].clone();
    let children = |actor: &Value| actor["children"].as_array().cloned().unwrap_or_default();
    let peers = children(&tree).into_iter().find(|child| child["kind"] == "PeersActor").expect("PeersActor");
    children(&peers).iter().filter_map(|child| child["id"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_own_machine_that_is_connected_for_a_library_gets_the_mirror_on_a_second_connection() {
    let (a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    let picture = a.ingest("a picture", &[("mime_type", "image/png")]).await;
    let text = a.ingest("a text", &[("mime_type", "text/plain")]).await;
    let share = Share::images(&a).await;
    // Both know the passphrase, and nothing says so: the ticket is all that leads from one to the other.
    share.invite(&a, json!({ "access": "read" })).await.join(&b).await;
    eventually("the picture", async || b.content(&picture).await.map(drop).ok_or_else(String::new)).await;
    share.in_sync(&b).await;
    assert!(b.content(&text).await.is_none(), "the mirror was offered to a member of a library");
    assert_eq!(b.peer(&a.id()).await["sources"], json!(["library"]));

    // The user says that it is a machine of theirs.
    b.dial(&a).await;
    eventually("the text", async || b.content(&text).await.map(drop).ok_or_else(String::new)).await;
    // One connection is left, and it is for everything, both ways.
    let news = b.ingest("news", &[("mime_type", "text/plain")]).await;
    eventually("the news", async || a.content(&news).await.map(drop).ok_or_else(String::new)).await;
    for node in [&a, &b] {
        eventually("one connection", async || {
            let sessions = peer_actors(node).await;
            (sessions.len() == 1).then_some(()).ok_or_else(|| format!("{sessions:?}"))
        })
        .await;
        let status = node.get("/status").await;
        assert_eq!(status["data"]["peers"]["connected"], 1, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_does_not_know_the_passphrase_keeps_its_library_when_it_is_offered_the_mirror() {
    let a = TestNode::start("a", |_| {}).await;
    let c = super::stranger("c").await;
    let picture = a.ingest("a picture", &[("mime_type", "image/png")]).await;
    let share = Share::images(&a).await;
    share.invite(&a, json!({ "access": "read" })).await.join(&c).await;
    eventually("the picture", async || c.content(&picture).await.map(drop).ok_or_else(String::new)).await;
    share.in_sync(&c).await;
    let connected = peer_actors(&c).await;
    assert_eq!(connected.len(), 1);
    c.dial(&a).await;
    eventually("it is told that the passphrase is another one", async || {
        let peer = c.peer(&a.id()).await;
        peer.to_string().contains("passphrase").then_some(()).ok_or_else(|| peer.to_string())
    })
    .await;
    let later = a.ingest("another picture", &[("mime_type", "image/png")]).await;
    eventually("the library goes on", async || c.content(&later).await.map(drop).ok_or_else(String::new))
        .await;
    eventually("the first connection alone goes on", async || {
        let sessions = peer_actors(&c).await;
        (sessions == connected).then_some(()).ok_or_else(|| format!("{sessions:?} and not {connected:?}"))
    })
    .await;
}
