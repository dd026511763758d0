//! Two and three nodes in one process keep each other's assets complete.

use can_sync::testing::library::registry::Registry;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::support::nodes::{TestNode, eventually};

fn bytes(seed: u32, len: usize) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    let mut out = vec![0; len];
    hasher.finalize_xof().fill(&mut out);
    out
}

fn sha256(content: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(content))
}

async fn pair() -> (TestNode, TestNode) {
    let (a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    b.dial(&a).await;
    (a, b)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_end_with_the_same_assets() {
    let (a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    let sizes = [0, 1, 4_096, 65_536, 65_537, 300_000, 3_000_000];
    for (i, size) in sizes.into_iter().cycle().take(60).enumerate() {
        let node = if i % 2 == 0 { &a } else { &b };
        let seed = u32::try_from(i).unwrap();
        let fields = [
            ("application", "test"),
            ("user", "ü\u{1F40C}"),
            ("tags", "b,a"),
            ("filename", "../etc/passwd"),
            ("description", "line\nline"),
        ];
        node.ingest(bytes(seed, size), &fields[..i % 6]).await;
    }
    let both = bytes(7_000, 70_000);
    a.ingest(both.clone(), &[("user", "from a")]).await;
    b.ingest(both, &[("user", "from b")]).await;
    b.dial(&a).await;
    eventually("connected", async || {
        let state = b.get("/status").await["data"]["peers"]["connected"].clone();
        (state == 1).then_some(()).ok_or_else(|| state.to_string())
    })
    .await;
    tokio::join!(a.wait_in_sync(), b.wait_in_sync());

    let (of_a, of_b) = (a.assets().await, b.assets().await);
    assert_eq!(of_a, of_b);
    for asset in &of_b {
        let hash = asset["hash"].as_str().unwrap();
        for node in [&a, &b] {
            let content = node.content(hash).await.unwrap();
            assert_eq!(sha256(&content), hash);
        }
    }
    // What is offered back would be asked for again: content crosses once.
    let (to_a, to_b) = (b.peer(&a.id()).await, a.peer(&b.id()).await);
    let crossed = to_a["bytes_sent"].as_u64().unwrap() + to_b["bytes_sent"].as_u64().unwrap();
    let missing: u64 = of_a.iter().map(|asset| asset["size"].as_u64().unwrap()).sum::<u64>() - 70_000;
    assert_eq!(crossed, missing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_asset_an_edit_and_a_return_travel_live() {
    let (a, b) = pair().await;
    b.wait_in_sync().await;
    let hash = a.ingest(bytes(1, 64), &[("tags", "one")]).await;
    let there = async |tag: &str| {
        eventually(tag, async || {
            let meta = b.store(&format!("/asset/{hash}/meta")).await;
            (meta["data"]["tags"] == json!([tag])).then_some(()).ok_or_else(|| meta.to_string())
        })
        .await;
    };
    there("one").await;
    let url = format!("{}/asset/{hash}/meta", b.node().store_url());
    b.http.patch(&url).json(&json!({ "tags": ["two"], "description": null })).send().await.unwrap();
    eventually("the edit comes back to a", async || {
        let meta = a.store(&format!("/asset/{hash}/meta")).await;
        (meta["data"]["tags"] == json!(["two"])).then_some(()).ok_or_else(|| meta.to_string())
    })
    .await;
    let url = format!("{}/asset/{hash}/meta", a.node().store_url());
    a.http.patch(&url).json(&json!({ "tags": ["three"] })).send().await.unwrap();
    there("three").await;
    tokio::join!(a.wait_in_sync(), b.wait_in_sync());
    assert_eq!(a.assets().await, b.assets().await);
    let sent = b.peer(&a.id()).await["bytes_sent"].clone();
    assert_eq!(sent, 0, "nothing goes back to where it came from");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_new_asset_needs_no_question() {
    // In a row: nobody hears of the one at the other end.
    let apart = async |name: &str| {
        TestNode::start(name, |config| config.discovery.topic = Some(format!("of {name} alone"))).await
    };
    let (a, b, c) = tokio::join!(apart("a"), apart("b"), apart("c"));
    b.dial(&a).await;
    c.dial(&b).await;
    tokio::join!(a.wait_in_sync(), b.wait_in_sync(), c.wait_in_sync());
    for (n, size) in [0_usize, 1, 4_096, 16 * 1024, 16 * 1024 + 1].into_iter().enumerate() {
        let content = bytes(u32::try_from(n).unwrap(), size);
        let hash = a.ingest(content.clone(), &[("tags", "live")]).await;
        for node in [&b, &c] {
            let there =
                eventually("the content", async || node.content(&hash).await.ok_or_else(String::new)).await;
            assert!(there == content);
            let meta = node.store(&format!("/asset/{hash}/meta")).await;
            assert_eq!(meta["data"]["tags"], json!(["live"]));
        }
    }
    tokio::join!(a.wait_in_sync(), b.wait_in_sync(), c.wait_in_sync());
    // Counted like any other content, and each crossed once on each path.
    let total = 1 + 4_096 + 2 * 16 * 1024 + 1;
    for (from, to) in [(&a, &b), (&b, &c)] {
        let counts = (from.peer(&to.id()).await, to.peer(&from.id()).await);
        assert_eq!(counts.0["bytes_sent"], total);
        assert_eq!(counts.1["bytes_received"], total);
        assert_eq!(counts.0["bytes_received"], 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_in_a_line_converge() {
    let (a, b, c) = tokio::join!(
        TestNode::start("a", |_| {}),
        TestNode::start("b", |_| {}),
        TestNode::start("c", |_| {})
    );
    for (i, node) in [&a, &b, &c].into_iter().enumerate() {
        for n in 0..20 {
            node.ingest(bytes(u32::try_from(i * 100 + n).unwrap(), 5_000 * n), &[]).await;
        }
    }
    a.dial(&b).await;
    c.dial(&b).await;
    // Twenty each; the empty one is the same everywhere.
    tokio::join!(a.holds(58), b.holds(58), c.holds(58));
    eventually("all that is said of them is the same", async || {
        let (of_a, of_c) = (a.assets().await, c.assets().await);
        (of_a == of_c).then_some(()).ok_or_else(|| format!("{of_a:?}\n{of_c:?}"))
    })
    .await;
    a.ingest(bytes(999, 12), &[]).await;
    c.holds(59).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_reach_those_who_want_them() {
    let (a, b, c) = tokio::join!(
        TestNode::start("a", |_| {}),
        TestNode::start("b", |config| config.replicate_deletes = true),
        TestNode::start("c", |_| {})
    );
    b.dial(&a).await;
    c.dial(&a).await;
    let kept = a.ingest(bytes(1, 100), &[]).await;
    let gone = a.ingest(bytes(2, 100_000), &[]).await;
    for node in [&b, &c] {
        node.holds(2).await;
    }
    let url = format!("{}/asset/{gone}", a.node().store_url());
    assert!(a.http.delete(url).send().await.unwrap().status().is_success());
    eventually("gone at b", async || {
        b.content(&gone).await.is_none().then_some(()).ok_or_else(|| "still there".to_owned())
    })
    .await;
    a.wait_in_sync().await;
    assert!(c.content(&gone).await.is_some(), "c does not apply deletions");
    assert!(b.content(&kept).await.is_some());
    assert!(a.content(&gone).await.is_none(), "and does not bring it back");
}

#[tokio::test(flavor = "multi_thread")]
async fn mass_deletions_are_held_back_until_somebody_confirms() {
    let (a, b) = tokio::join!(
        TestNode::start("a", |_| {}),
        TestNode::start("b", |config| config.replicate_deletes = true)
    );
    b.dial(&a).await;
    let mut hashes = Vec::new();
    for n in 0..40 {
        hashes.push(a.ingest(bytes(n, 10), &[]).await);
    }
    b.holds(40).await;
    let delete = async |hashes: &[String]| {
        for hash in hashes {
            a.http.delete(format!("{}/asset/{hash}", a.node().store_url())).send().await.unwrap();
        }
    };
    delete(&hashes[..20]).await;
    b.holds(20).await;
    delete(&hashes[20..]).await;
    eventually("the brake holds", async || {
        let status = b.get("/status").await;
        (status["data"]["sync"]["held_deletions"] == 20).then_some(()).ok_or_else(|| status.to_string())
    })
    .await;
    assert_eq!(b.assets().await.len(), 20);
    let answer = b.post("/deletions/confirm", json!({})).await;
    assert_eq!(answer["status"], "success", "{answer}");
    b.holds(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_new_assets_give_nobody_more_to_delete() {
    let (a, mut b) = tokio::join!(
        TestNode::start("a", |_| {}),
        TestNode::start("b", |config| config.replicate_deletes = true)
    );
    b.dial(&a).await;
    let mut hashes = Vec::new();
    for n in 0..30 {
        hashes.push(a.ingest(bytes(n, 10), &[]).await);
    }
    b.holds(30).await;
    // It looks how much there is when it starts.
    assert!(!b.stop().await.failed);
    b.boot().await;
    let registry = Registry::open(&b.config.data_dir.join("libraries.db")).unwrap();
    eventually("b knows how much there is", async || {
        let sizes = registry.deletions().unwrap().sizes;
        sizes.iter().any(|(_, _, least)| *least <= 30).then_some(()).ok_or_else(|| format!("{sizes:?}"))
    })
    .await;
    for n in 100..400 {
        a.ingest(bytes(n, 11), &[]).await;
    }
    b.wait_in_sync().await;
    let many = b.assets().await.len();
    for hash in &hashes {
        a.http.delete(format!("{}/asset/{hash}", a.node().store_url())).send().await.unwrap();
    }
    eventually("they are held back", async || {
        let status = b.get("/status").await;
        let held = status["data"]["sync"]["held_deletions"].as_u64();
        held.filter(|held| *held >= 10).ok_or_else(|| status.to_string())
    })
    .await;
    assert!(b.assets().await.len() >= many - 20, "a tenth of what is there now would be all of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_passphrase_is_refused_and_learns_nothing() {
    let a = TestNode::start("secret name of a", |_| {}).await;
    let stranger = TestNode::start("stranger", |config| {
        config.sync_passphrase = Some("nine noisy ravens polish distant copper bells".into());
    })
    .await;
    a.ingest(bytes(1, 100), &[]).await;
    stranger.dial(&a).await;
    let error = eventually("refused", async || {
        let peer = stranger.peer(&a.id()).await;
        let error = peer["last_error"].as_str().unwrap_or_default().to_owned();
        if error.contains("passphrase") { Ok(peer) } else { Err(peer.to_string()) }
    })
    .await;
    assert_eq!(error["name"], "", "not even a name");
    assert_eq!(error["assets"], json!(null));
    assert_eq!(stranger.assets().await.len(), 0);
    assert_eq!(a.get("/status").await["data"]["peers"]["connected"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_find_each_other_again_after_a_restart() {
    let (mut a, mut b) = pair().await;
    b.wait_in_sync().await;
    assert!(!a.stop().await.failed);
    b.ingest(bytes(1, 200_000), &[]).await;
    a.boot().await;
    a.holds(1).await;
    // Now the one that was dialled first remembers too.
    assert!(!b.stop().await.failed);
    a.ingest(bytes(2, 100), &[]).await;
    b.boot().await;
    b.holds(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ticket_files_connect_two_nodes_in_either_order() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.ticket");
    let b = TestNode::start("b", |config| config.connect_ticket_file = Some(file.clone())).await;
    let a = TestNode::start("a", |config| config.ticket_file = Some(file.clone())).await;
    a.ingest(bytes(1, 100), &[]).await;
    b.holds(1).await;
    assert!(b.get("/status").await["data"]["discovery"]["tickets"]["last_success"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_dial_each_other_at_once_keep_one_connection() {
    let (a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    tokio::join!(a.dial(&b), b.dial(&a));
    a.ingest(bytes(1, 100), &[]).await;
    b.ingest(bytes(2, 100), &[]).await;
    tokio::join!(a.holds(2), b.holds(2));
    for node in [&a, &b] {
        eventually("one PeerActor", async || {
            let tree = node.get("/actors").await;
            let peers = tree["data"]["children"]
                .as_array()
                .and_then(|children| children.iter().find(|child| child["kind"] == "PeersActor").cloned())
                .map_or(0, |peers| peers["children"].as_array().map_or(0, Vec::len));
            (peers == 1).then_some(()).ok_or_else(|| tree.to_string())
        })
        .await;
    }
}
