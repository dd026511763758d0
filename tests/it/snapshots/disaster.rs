//! The whole of it: a machine is gone with its disk, and a new one takes its place.

use std::time::Instant;

use can_sync::testing::store::ContentStore as _;
use serde_json::json;

use super::{new_user, open, put, report, restore, until_snapshot};
use crate::support::bucket::TestBucket;
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::nodes::eventually;
use crate::support::store::{hash_of, incoming, noise, read, record_of};

const SMALL: u64 = 1_500;
const LARGE: u64 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_gone_comes_back_from_its_bucket_and_its_peer() {
    let bucket = TestBucket::start().await;
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
    eventually("the new one has all that its peer has", async || {
        let (ours, theirs) = (c.assets().await, b.assets().await);
        if ours == theirs { Ok(()) } else { Err(format!("{} and {}", ours.len(), theirs.len())) }
    })
    .await;
    println!("records restored after {restored:?}, equal to the peer after {:?}", began.elapsed());
    let peers = c.get("/peers").await;
    let received = peers["peers"][0]["bytes_received"].as_u64().unwrap();
    let of_late: u64 = late.iter().map(|content| content.len() as u64).sum();
    assert!(received < 2 * of_late, "what is in the bucket crosses no wire: {received}");
    let store = c.sync_store();
    for content in small.iter().step_by(100).chain(&large).chain(&late) {
        assert_eq!(read(&store, hash_of(content), 0, None).await.as_ref(), Ok(content));
    }
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
