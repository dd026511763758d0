//! The whole of it: a machine is gone with its disk, and a new one takes its place.

use std::collections::BTreeMap;
use std::time::Instant;

use can_sync::testing::record::{AssetRecord, ContentHash};
use can_sync::testing::store::{ContentStore, Holding};
use serde_json::json;

use super::{new_user, open, put, report, restore, until_snapshot};
use crate::support::bucket::TestBucket;
use crate::support::command::User;
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::nodes::eventually;
use crate::support::store::{hash_of, incoming, noise, read, read_feed, record_of};

const SMALL: u64 = 1_500;
const LARGE: u64 = 40;

/// What a store has: every record, and whether its content is there.
async fn records(store: &dyn ContentStore) -> BTreeMap<ContentHash, (AssetRecord, Holding)> {
    let feed = read_feed(store, 0, 1_000).await;
    feed.into_iter().map(|entry| (entry.record.hash, (entry.record, entry.holding))).collect()
}

/// A user whose store has large contents, in the bucket, and small ones, in a snapshot of it there.
async fn filled(bucket: &TestBucket) -> (User, Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let home = new_user(&bucket.yaml());
    let store = open(&home.home().join("data/store"), bucket.config_with_snapshots()).await;
    let small: Vec<_> = (0..SMALL).map(|seed| noise(500, seed)).collect();
    for batch in small.chunks(500) {
        let batch = batch.iter().map(|content| incoming(record_of(content), content)).collect();
        store.ingest(batch).await.unwrap();
    }
    let large: Vec<_> = (0..LARGE).map(|seed| noise(200_000, 10_000 + seed)).collect();
    for (number, content) in large.iter().enumerate() {
        put(&store, content, &format!("large {number}.bin")).await;
    }
    until_snapshot(&store).await;
    store.close().await;
    (home, small, large)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_gone_comes_back_from_its_bucket_and_its_peer() {
    let bucket = TestBucket::start().await;
    let (home, small, large) = filled(&bucket).await;
    let mut a = Daemon::start_as(home);
    let b = Daemon::start(&embedded_yaml("name: b"));
    a.dial(&b).await;
    eventually("b has it all", async || {
        let (ours, theirs) = (a.assets().await, b.assets().await);
        if ours == theirs && theirs.len() as u64 == SMALL + LARGE {
            Ok(())
        } else {
            Err(theirs.len().to_string())
        }
    })
    .await;
    a.kill();
    let id = a.id().to_owned();
    drop(a);
    // It goes on without the one that is gone.
    let late: Vec<_> = (0..10).map(|seed| noise(100_000 + seed, 20_000 + seed as u64)).collect();
    for (number, content) in late.iter().enumerate() {
        let name = format!("late {number}.bin");
        b.user.write(&name, content);
        b.ok(&["put", &name]);
    }

    let began = Instant::now();
    let home = new_user(&bucket.yaml());
    let ran = restore(&home, &["--alone"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(report(&ran)["assets"], json!(SMALL + LARGE));
    let restored = began.elapsed();
    // It waits for what the one that is gone may have been about to delete, without the patience of a daemon.
    open(&home.home().join("data/store"), bucket.config()).await.close().await;
    let c = Daemon::start_as(home);
    assert_ne!(c.id(), id);
    c.dial(&b).await;
    let (store, of_peer) = (c.sync_store(), b.sync_store());
    eventually("the new one has all that its peer has", async || {
        let (ours, theirs) = (records(&store).await, records(&of_peer).await);
        let held = ours.values().filter(|(_, holding)| holding.is_held()).count();
        let is_all = ours == theirs && held == small.len() + large.len() + late.len();
        if is_all { Ok(()) } else { Err(format!("{} and {}, {held} held", ours.len(), theirs.len())) }
    })
    .await;
    println!(
        "records restored after {restored:?}, equal to the peer, and all held, after {:?}",
        began.elapsed()
    );
    assert_eq!(c.assets().await, b.assets().await, "what is listed, to the last field");
    let peers = c.get("/peers").await;
    let received = peers["peers"][0]["bytes_received"].as_u64().unwrap();
    let of_late: u64 = late.iter().map(|content| content.len() as u64).sum();
    assert!(received < 2 * of_late, "what is in the bucket crosses no wire: {received}");
    for content in small.iter().chain(&large).chain(&late) {
        for store in [&store, &of_peer] {
            assert_eq!(read(store, hash_of(content), 0, None).await.as_ref(), Ok(content));
        }
    }
    println!("all contents read on both sides after {:?}", began.elapsed());
    assert_eq!(store.status().await.unwrap().damaged, 0);
    // And it makes snapshots of its own.
    eventually("a snapshot is made", async || {
        let report = store.status().await.unwrap().snapshots;
        if report.as_ref().is_some_and(|report| report.last_ms.is_some()) {
            Ok(())
        } else {
            Err(format!("{report:?}"))
        }
    })
    .await;
}
