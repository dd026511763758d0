//! One large asset from several sources, of which one is slow and one lies.

use can_sync::testing::record::ContentHash;
use can_sync::testing::store::groups::{GROUP_BYTES, GroupHasher, groups_of};
use can_sync::testing::wire;
use can_sync::testing::wire::proto::{ContentHeader, WireRecord, frame};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

use crate::support::hostile::{Attacker, hash_of, header, record};
use crate::support::nodes::{TestNode, eventually};
use crate::support::outboard::Outboard;

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

/// Damages a byte of every megabyte of what a node has stored, and makes its sums anew: its store cannot see that anything is wrong.
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
async fn a_slow_source_and_a_disk_that_rots_do_not_keep_an_asset_from_coming() {
    let content = noise();
    let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(&content));
    let (good, slow, rotten, node) = tokio::join!(
        source("good", 40, &content),
        source("slow", 1, &content),
        source("rotten", 40, &content),
        TestNode::start("node", |_| {})
    );
    spoil(&rotten, &hash);
    tokio::join!(node.dial(&slow), node.dial(&rotten), node.dial(&good));
    is_here(&node, &hash).await;
    // What it would have sent is not what its record says: it finds that out by itself, and gets it again.
    is_here(&rotten, &hash).await;
    let wrong = events(&node, "asset_failed");
    assert!(
        wrong.iter().all(|event| !event["reason"].as_str().unwrap().contains("wrong bytes")),
        "{wrong:?}"
    );
}

async fn is_here(node: &TestNode, hash: &str) {
    eventually("it is here", async || {
        let content = node.content(hash).await;
        let moving = node.get("/transfers").await;
        content.filter(|content| content.len() == BYTES).map(drop).ok_or_else(|| moving.to_string())
    })
    .await;
    let stored = node.content(hash).await.expect("it is here");
    assert_eq!(data_encoding::HEXLOWER.encode(&Sha256::digest(&stored)), hash);
}

/// Offers a content as one that it has, says when it is asked for it, proves every part of it that it is asked for, and sends
/// something else. How many bytes of that it sent before it was shut out, and what it was told.
async fn lie(node: &TestNode, content: &[u8], asked: &Notify) -> (String, u64, String) {
    let attacker = Attacker::member_of(node).await;
    let id = attacker.endpoint.id().to_string();
    let mut session = attacker.session().await;
    let (outboard, hash) = (Outboard::of(content), hash_of(content));
    let root = Some(outboard.root.to_vec().into());
    session.offer(vec![WireRecord { blake3: root, ..record(hash, content.len() as u64) }]).await;
    let mut sent = 0;
    while session.connection.close_reason().is_none() {
        let Ok(kind) = session.read().await else { break };
        let frame::Kind::Want(want) = kind else { continue };
        asked.notify_one();
        let wanted = &want.contents[0];
        let (from, to) = (wanted.offset, wanted.offset + wanted.length);
        let header = ContentHeader {
            offset: from,
            length: wanted.length,
            proof: outboard.prove(&groups_of(&(from..to))).into_flattened().into(),
            ..header(want.request, hash, content.len() as u64)
        };
        let mut stream = session.content_stream().await;
        let _ = stream.write_chunk(wire::encode(&header)).await;
        let from = usize::try_from(from).unwrap();
        for group in content[from..usize::try_from(to).unwrap()].chunks(GROUP_BYTES) {
            let wrong: Vec<u8> = group.iter().map(|byte| !byte).collect();
            if stream.write_all(&wrong).await.is_err() {
                break;
            }
            sent += wrong.len() as u64;
        }
    }
    (id, sent, session.closed().await.1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_among_three_is_named_at_its_first_group_and_costs_nobody_else_anything() {
    let content = noise();
    let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(&content));
    let (good, slow, node) = tokio::join!(
        source("good", 40, &content),
        source("slow", 1, &content),
        TestNode::start("node", |_| {})
    );
    // By itself, the good one might send everything before the liar is asked for any of it.
    let asked = Notify::new();
    let good_too = async {
        asked.notified().await;
        node.dial(&good).await;
    };
    let (liar, ..) = tokio::join!(lie(&node, &content, &asked), node.dial(&slow), good_too);
    let (liar, sent, told) = liar;
    assert!(told.contains("wrong bytes"), "{told}");
    is_here(&node, &hash).await;

    let failed = events(&node, "asset_failed");
    assert!(failed.iter().any(|event| event["from"] == liar.as_str()), "{failed:?}");
    let wrong = failed.iter().filter(|event| event["reason"].as_str().unwrap().contains("wrong bytes"));
    assert!(
        wrong.clone().count() > 0 && wrong.clone().all(|event| event["from"] == liar.as_str()),
        "{failed:?}"
    );
    let why = node.get(&format!("/why/{hash}")).await["data"].clone();
    let named = why["sources"].as_array().unwrap().iter().filter(|source| source["state"] == "lied");
    assert!(named.map(|source| source["endpoint_id"].clone()).eq([liar.as_str()]), "{why}");

    // A group of each request that it had, at most, was looked at.
    let taken = node.peer(&liar).await["bytes_received"].as_u64().unwrap();
    assert!(taken <= 8 * GROUP_BYTES as u64, "{taken} bytes of {sent} that it sent");
    // Of what the others sent, a part of the slow one's came twice at most, which is 14 of 100, and what was on its way.
    let mut received = 0;
    for honest in [&good, &slow] {
        received += node.peer(&honest.id()).await["bytes_received"].as_u64().unwrap();
    }
    assert!(received < BYTES as u64 / 100 * 120, "{received}");
}

/// What a node's store says the BLAKE3 of its content is becomes another one.
fn misname(node: &TestNode, hash: &str) {
    let database =
        rusqlite::Connection::open(node.config.data_dir.join("store/store.db")).expect("its store");
    database.busy_timeout(std::time::Duration::from_secs(30)).expect("a limit");
    let hash: ContentHash = hash.parse().expect("a hash");
    let update = "UPDATE records SET blake3 = randomblob(32) WHERE hash = ?1";
    assert_eq!(database.execute(update, [hash.0]), Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_with_a_wrong_blake3_is_named_and_its_content_comes_all_the_same() {
    let content = noise();
    let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(&content));
    for with_another in [false, true] {
        let (from, other, node) = tokio::join!(
            source("from", 100, &content),
            TestNode::start("other", |_| {}),
            TestNode::start("node", |_| {})
        );
        misname(&from, &hash);
        if with_another {
            other.ingest(content.clone(), &[]).await;
            node.dial(&other).await;
        }
        node.dial(&from).await;
        is_here(&node, &hash).await;
        let failed = events(&node, "asset_failed");
        let distrusted = failed.iter().any(|event| event["reason"].as_str().unwrap().contains("wrong bytes"));
        assert!(!distrusted, "{failed:?}");
        assert!(!node.peer(&from.id()).await["remote_addr"].is_null(), "it is still connected");
        if !with_another {
            let why = node.get(&format!("/why/{hash}")).await["data"].clone();
            let mut sources = why["sources"].as_array().unwrap().iter();
            let named = sources.find(|source| source["endpoint_id"] == from.id().as_str());
            assert!(named.unwrap()["last_error"].as_str().unwrap().contains("BLAKE3"), "{why}");
        }
    }
}
