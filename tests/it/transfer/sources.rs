//! One large asset from several sources, of which one is slow and one lies.

use can_sync::testing::record::ContentHash;
use can_sync::testing::store::groups::GroupHasher;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::support::nodes::{TestNode, eventually};

const MIB: u64 = 1 << 20;
const BYTES: usize = 60_000_000;

fn noise() -> Vec<u8> {
    let mut content = vec![0; BYTES];
    blake3::Hasher::new().update(b"several sources").finalize_xof().fill(&mut content);
    content
}

async fn source(name: &str, mib_per_sec: u64, content: &[u8]) -> TestNode {
    let limit = |config: &mut can_sync::testing::config::Config| {
        config.limits.upload_bytes_per_sec = Some(mib_per_sec * MIB);
    };
    let node = TestNode::start(name, limit).await;
    node.ingest(content.to_vec(), &[]).await;
    node
}

/// Damages a byte of every megabyte of what a node has stored, and makes its sums anew: it believes that all is well, and lies.
fn spoil(node: &TestNode, hash: &str) {
    use std::os::unix::fs::FileExt as _;

    let store = node.config.data_dir.join("store/content");
    let path = store.join(&hash[..2]).join(&hash[2..4]).join(hash);
    let file = std::fs::File::options().read(true).write(true).open(&path).expect("its content");
    let mut byte = [0];
    for at in (0..BYTES as u64).step_by(1_000_000) {
        file.read_exact_at(&mut byte, at).expect("a byte");
        file.write_all_at(&[!byte[0]], at).expect("another one");
    }
    let mut hasher = GroupHasher::default();
    hasher.update(&std::fs::read(&path).expect("its content"));
    let (_, sums) = hasher.finish();
    let database =
        rusqlite::Connection::open(node.config.data_dir.join("store/store.db")).expect("its store");
    database.busy_timeout(std::time::Duration::from_secs(30)).expect("a limit");
    let hash: ContentHash = hash.parse().expect("a hash");
    let update = "UPDATE content_sums SET sums = ?1 WHERE hash = ?2";
    assert_eq!(database.execute(update, (sums.as_flattened(), hash.0)), Ok(1));
}

fn events(node: &TestNode, kind: &str) -> Vec<Value> {
    let events = node.node().events().since(0).0;
    let events = events.into_iter().map(|event| serde_json::to_value(event).expect("JSON"));
    events.filter(|event| event["type"] == kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_source_and_a_liar_do_not_keep_an_asset_from_coming() {
    let content = noise();
    let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(&content));
    let (good, slow, liar, node) = tokio::join!(
        source("good", 40, &content),
        source("slow", 1, &content),
        source("liar", 40, &content),
        TestNode::start("node", |_| {})
    );
    spoil(&liar, &hash);
    tokio::join!(node.dial(&slow), node.dial(&liar), node.dial(&good));
    eventually("it is here", async || {
        let content = node.content(&hash).await;
        let moving = node.get("/transfers").await;
        content.filter(|content| content.len() == BYTES).map(drop).ok_or_else(|| moving.to_string())
    })
    .await;
    let stored = node.content(&hash).await.unwrap();
    assert_eq!(data_encoding::HEXLOWER.encode(&Sha256::digest(&stored)), hash);

    let lies = eventually("the liar is named", async || {
        let failed = events(&node, "asset_failed");
        let named = failed.iter().any(|event| event["from"] == liar.id());
        named.then_some(failed.clone()).ok_or_else(|| format!("{failed:?}"))
    })
    .await;
    assert!(lies.iter().all(|event| event["hash"] == hash), "{lies:?}");
    let wrong: Vec<&Value> =
        lies.iter().filter(|e| e["reason"].as_str().unwrap().contains("wrong bytes")).collect();
    assert!(wrong.iter().all(|event| event["from"] == liar.id()), "nobody else: {wrong:?}");
    assert!(!wrong.is_empty(), "{lies:?}");
    let received = events(&node, "asset_received");
    assert_eq!(received.len(), 1, "{received:?}");
    assert_ne!(received[0]["from"], liar.id());
    let why = node.get(&format!("/why/{hash}")).await["data"].clone();
    assert_eq!(why["state"], "here", "{why}");
    let named = why["sources"].as_array().unwrap().iter().filter(|source| source["state"] == "lied");
    assert!(named.map(|source| source["endpoint_id"].clone()).eq([liar.id()]), "{why}");
    println!(
        "sent by the good one {}, the slow one {}, the liar {}",
        good.peer(&node.id()).await["bytes_sent"],
        slow.peer(&node.id()).await["bytes_sent"],
        liar.peer(&node.id()).await["bytes_sent"]
    );
}
