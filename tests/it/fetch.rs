//! One asset on demand: asked of connected peers, then of peers that are known and not connected; what was deleted here
//! comes back; what nobody has is said to be nowhere.

use can_sync::testing::config::Config;
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::nodes::{TestNode, eventually};
use crate::support::store::noise;

async fn why(node: &TestNode, hash: &str) -> Value {
    node.get(&format!("/why/{hash}")).await
}

async fn fetch(node: &TestNode, hash: &str) -> Value {
    let answer = node.post(&format!("/fetch/{hash}"), json!({})).await;
    assert_eq!(answer["status"], "success", "{answer}");
    answer["data"].clone()
}

async fn connected(node: &TestNode, count: u64) {
    eventually("connected", async || {
        let peers = node.get("/status").await["data"]["peers"]["connected"].clone();
        (peers == count).then_some(()).ok_or_else(|| peers.to_string())
    })
    .await;
}

async fn here(node: &TestNode, hash: &str, content: &[u8]) {
    let there = eventually("the content", async || match node.content(hash).await {
        Some(there) => Ok(there),
        None => Err(why(node, hash).await.to_string()),
    });
    assert!(there.await == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_here_comes_back_and_stays() {
    let (a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    b.dial(&a).await;
    let contents = [noise(100, 1), noise(3_000_000, 2)];
    for content in &contents {
        let hash = a.ingest(content.clone(), &[("tags", "kept")]).await;
        here(&b, &hash, content).await;
        let url = format!("{}/asset/{hash}", b.node().store_url());
        b.http.delete(&url).send().await.unwrap();
        tokio::join!(a.wait_in_sync(), b.wait_in_sync());
        assert_eq!(b.content(&hash).await, None, "a's is kept, and so is the deletion");
        assert_eq!(why(&b, &hash).await["data"]["state"], "deleted");

        let state = fetch(&b, &hash).await["state"].clone();
        assert!(
            ["searching", "on_its_way", "checking", "here"].contains(&state.as_str().unwrap()),
            "{state}"
        );
        here(&b, &hash, content).await;
        assert_eq!(why(&b, &hash).await["data"]["state"], "here");
        tokio::join!(a.wait_in_sync(), b.wait_in_sync());
        assert_eq!(a.assets().await, b.assets().await, "the same version at both");
        assert_eq!(b.store(&format!("/asset/{hash}/meta")).await["data"]["tags"], json!(["kept"]));
        assert_eq!(fetch(&b, &hash).await["state"], "here", "there is nothing to fetch");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_is_searched_for_once_and_said_to_be_nowhere() {
    let (a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    b.dial(&a).await;
    connected(&b, 1).await;
    let hash = "ab".repeat(32);
    let begun = b.post(&format!("/fetch/{hash}"), json!({})).await;
    // Where the one that was asked has answered by the time that this is, it is over already.
    assert!(begun["data"]["state"] == "searching" || begun["status"] == "error", "{begun}");
    let error = eventually("an end", async || {
        let answer = why(&b, &hash).await;
        (answer["status"] == "error").then(|| answer["error"].clone()).ok_or_else(|| answer.to_string())
    })
    .await;
    assert_eq!(error, "it is not here, and the one peer that was asked does not have it");
    assert_eq!(b.get("/status").await["data"]["sync"]["state"], "in_sync", "nothing is missing for that");
    let refused = b.post("/fetch/xyz", json!({})).await;
    assert_eq!((&refused["status"], &refused["code"]), (&json!("error"), &json!("invalid_hash")));
}

/// A node that holds one connection of its own at a time.
fn narrow(config: &mut Config) {
    config.limits.max_dialled = 1;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_known_and_not_connected_is_dialled_for_it() {
    // Only c dials anybody.
    let passive = |config: &mut Config| config.limits.max_dialled = 0;
    let (a, b) = tokio::join!(TestNode::start("a", passive), TestNode::start("b", passive));
    let mut c = TestNode::start("c", narrow).await;
    // c meets a, which it remembers, and then b, which nobody else knows.
    c.dial(&a).await;
    connected(&c, 1).await;
    c.stop().await;
    let mut config = c.config.clone();
    config.discovery.bootstrap = vec![b.ticket()];
    c.config = config;
    c.boot().await;
    eventually("b alone", async || {
        let (to_a, to_b) = (c.peer(&a.id()).await, c.peer(&b.id()).await);
        let connected = |peer: &Value| peer["path"].is_string();
        (connected(&to_b) && !connected(&to_a)).then_some(()).ok_or_else(|| format!("{to_a} {to_b}"))
    })
    .await;
    let content = noise(200_000, 3);
    let hash = a.ingest(content.clone(), &[]).await;
    assert_eq!(why(&c, &hash).await["status"], "error", "c cannot know of it");
    fetch(&c, &hash).await;
    here(&c, &hash, &content).await;
    // One connection too many is given up again; that to b is the one that a user asked for.
    eventually("a is let go", async || {
        let (to_a, to_b) = (c.peer(&a.id()).await, c.peer(&b.id()).await);
        (to_a["path"].is_null() && to_b["path"].is_string()).then_some(()).ok_or_else(|| to_a.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_wants_now_overtakes_what_waits() {
    let a = TestNode::start("a", |config| config.limits.upload_bytes_per_sec = Some(1_000_000)).await;
    let b = TestNode::start("b", |_| {}).await;
    for n in 0..60 {
        a.ingest(noise(400_000, n), &[]).await;
    }
    b.dial(&a).await;
    let waiting = async || {
        let transfers = b.get("/transfers").await["data"]["transfers"].clone();
        let waits = |transfer: &&Value| transfer["started"] == false && transfer["direction"] == "receiving";
        let hashes: Vec<String> = transfers
            .as_array()
            .into_iter()
            .flatten()
            .filter(waits)
            .filter_map(|transfer| transfer["hash"].as_str().map(str::to_owned))
            .collect();
        hashes
    };
    let waits = eventually("a queue", async || {
        let waits = waiting().await;
        if waits.len() >= 40 { Ok(waits) } else { Err(format!("{waits:?}")) }
    })
    .await;
    // No order is better than by chance: three in forty are not all among the next ones by themselves.
    let wanted = &waits[..3];
    for hash in wanted {
        fetch(&b, hash).await;
    }
    for hash in wanted {
        eventually("it is here", async || b.content(hash).await.map(drop).ok_or_else(String::new)).await;
    }
    let left = waiting().await;
    let still = waits.iter().filter(|hash| left.contains(hash)).count();
    assert!(still > 15, "most others that waited as long still wait: {still} of {}", waits.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn get_and_fetch_bring_it_from_a_peer() {
    let (a, b) = (Daemon::start(&embedded_yaml("name: a")), Daemon::start(&embedded_yaml("name: b")));
    b.dial(&a).await;
    a.user.write("note.txt", "a note");
    let put = a.ok(&["put", "note.txt"]);
    let hash = put.text().split_whitespace().next().unwrap().to_owned();
    b.wait_in_sync().await;
    b.ok(&["rm", &hash]);
    b.wait_in_sync().await;
    let missing = b.run(&["get", "--local", &hash]);
    assert_eq!(missing.code, 6, "{}", missing.stderr);
    let deleted = b.run(&["get", &hash]);
    assert_eq!(deleted.code, 6, "reading brings nothing back: {}", deleted.stderr);
    assert!(deleted.stderr.contains(&format!("can-sync fetch {hash}")), "{}", deleted.stderr);
    let fetched = b.ok(&["--json", "fetch", &hash]).json();
    assert_eq!(fetched[0], json!({ "hash": hash, "size": 6, "state": "here" }));
    assert_eq!(b.ok(&["get", &hash]).text(), "a note");
    let nowhere = b.run(&["fetch", &"ab".repeat(32)]);
    assert_eq!(nowhere.code, 6, "{}", nowhere.stderr);
    assert!(nowhere.stderr.contains("does not have it"), "{}", nowhere.stderr);
}
