//! kill -9 in the middle of a snapshot, and of a restoration.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use can_sync::testing::store::ContentStore as _;
use hyper::Method;
use serde_json::json;

use super::{new_user, open, report, restore, snapshot_files, until_snapshot};
use crate::support::bucket::{BucketFault, BucketRequest, TestBucket};
use crate::support::command::{kill_when, starts_no_node};
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::nodes::eventually;
use crate::support::store::{incoming, noise, record_of};

/// Small contents that make more than one chunk.
const MANY: u64 = 3_000;

fn is_manifest(request: &BucketRequest) -> bool {
    request.method == Method::PUT
        && Path::new(&request.path).extension().is_some_and(|end| end == "json")
        && request.is_of_snapshots()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_was_killed_is_none_and_the_next_one_is_whole() {
    let bucket = TestBucket::start().await;
    bucket
        .fail(|request| request.is_of_snapshots().then_some(BucketFault::Status(503, "ServiceUnavailable")));
    let mut daemon = Daemon::start(&embedded_yaml(&bucket.yaml()));
    for seed in 0..3_u64 {
        let name = format!("{seed}.bin");
        daemon.user.write(&name, noise(3000, seed));
        daemon.ok(&["put", &name]);
    }
    // The chunk arrives, and what makes it one does not.
    bucket.fail(|request| is_manifest(request).then_some(BucketFault::Drop));
    daemon.kill();
    daemon = daemon.restart();
    let is_chunk = |path: &std::path::PathBuf| path.extension().is_none();
    eventually("a chunk is there", async || {
        if snapshot_files(&bucket).iter().any(is_chunk) { Ok(()) } else { Err("none is".to_owned()) }
    })
    .await;
    daemon.kill();
    bucket.fail(|_| None);
    let ran = restore(&new_user(&bucket.shared_yaml()), &[]);
    assert!(ran.code == 1 && ran.stderr.contains("there is no snapshot"), "{}", ran.stderr);
    let mut daemon = daemon.restart();
    eventually("a snapshot is made", async || {
        let status = daemon.get("/status").await;
        let report = &status["store"]["snapshots"];
        if report["last_ms"].is_u64() && report["problem"].is_null() {
            Ok(())
        } else {
            Err(report.to_string())
        }
    })
    .await;
    let said = daemon.ok(&["status"]);
    assert!(said.text().contains("the last was made"), "{}", said.text());
    daemon.kill();
    let ran = restore(&new_user(&bucket.shared_yaml()), &[]);
    assert_eq!((ran.code, &report(&ran)["assets"]), (0, &json!(3)), "{}", ran.stderr);
}

fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |meta| meta.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restoration_that_was_killed_starts_no_node_and_can_be_done_again() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(dir.path(), bucket.config_with_snapshots()).await;
    for batch in 0..MANY / 500 {
        let contents = (batch * 500..(batch + 1) * 500).map(|seed| noise(4000, seed));
        let batch = contents.map(|content| incoming(record_of(&content), &content)).collect();
        store.ingest(batch).await.unwrap();
    }
    store.close().await;
    // One that has all of it in one base.
    let store = open(dir.path(), bucket.config()).await;
    std::fs::remove_dir_all(bucket.below().join("can-sync-snapshots")).unwrap();
    store.close().await;
    let store = open(dir.path(), bucket.config_with_snapshots()).await;
    until_snapshot(&store).await;
    store.close().await;
    assert!(snapshot_files(&bucket).len() >= 3, "{:?}", snapshot_files(&bucket));

    let user = new_user(&bucket.shared_yaml());
    let draft = user.home().join("data/restoring");
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    // The second chunk does not come.
    bucket.fail(move |request| {
        let is_second = request.is_of_snapshots() && request.path.contains("000000-00001-");
        counted.fetch_add(usize::from(is_second), Ordering::SeqCst);
        is_second.then_some(BucketFault::Status(503, "ServiceUnavailable"))
    });
    for step in 0..3 {
        let mut child = user.spawn(&["restore", "--from", super::PLACE]);
        let running = kill_when(&mut child, || match step {
            0 => draft.is_dir(),
            1 => draft.join("store/store.db").is_file(),
            _ => length(&draft.join("store/store.db-wal")) > 2 << 20,
        });
        assert!(running, "step {step}");
        starts_no_node(&user);
    }
    assert!(reads.load(Ordering::SeqCst) > 0);
    bucket.fail(|_| None);
    let ran = restore(&user, &[]);
    assert_eq!((ran.code, &report(&ran)["assets_held"]), (0, &json!(MANY)), "{}", ran.stderr);
    assert!(!draft.exists());
    let restored = Daemon::start_as(user);
    assert_eq!(restored.get("/status").await["store"]["assets"], json!(MANY));
}
