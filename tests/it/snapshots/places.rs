//! Whose a place is, before and after somebody restores from it.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use can_sync::testing::store::bucket::{BucketConfig, SnapshotPace};
use can_sync::testing::store::{ContentStore as _, Holding};
use hyper::Method;
use parking_lot::Mutex;
use serde_json::json;

use super::{manifests, new_user, open, put, report, restore, snapshots_of, until_all_held, until_snapshot};
use crate::support::bucket::{BucketRequest, TestBucket, restless, try_open_on};
use crate::support::nodes::eventually;
use crate::support::store::{hash_of, holding, noise, read};

fn shared(config: BucketConfig) -> BucketConfig {
    let mut config = BucketConfig { snapshots: Some(restless()), ..config };
    config.place.shared = true;
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_stores_one_is_named_and_nothing_is_ever_deleted() {
    let bucket = TestBucket::start().await;
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let pace = SnapshotPace { base: Duration::ZERO, ..restless() };
    let config = BucketConfig { snapshots: Some(pace), ..shared(bucket.config()) };
    let (first, second) = (open(one.path(), config.clone()).await, open(two.path(), config).await);
    for number in 0..4 {
        put(&first, &noise(5_000 + number, number as u64), "first.bin").await;
        put(&second, &noise(6_000 + number, 10 + number as u64), "second.bin").await;
        until_snapshot(&first).await;
        until_snapshot(&second).await;
    }
    put(&second, &noise(7_000, 20), "one more.bin").await;
    until_snapshot(&second).await;
    let ids = [first.id().to_string(), second.id().to_string()];
    first.close().await;
    second.close().await;
    let gone = |request: BucketRequest| request.method == Method::DELETE;
    assert!(!bucket.take_seen().into_iter().any(gone), "of a shared place nothing is deleted");
    for id in &ids {
        assert!(manifests(&bucket, id).len() >= 4);
    }

    let user = new_user(&bucket.shared_yaml());
    let ran = restore(&user, &[]);
    assert!(ran.code == 2 && ran.stderr.contains("--store ID"), "{}", ran.stderr);
    let listed: BTreeSet<_> = ran
        .json()
        .iter()
        .map(|choice| (choice["store"].as_str().unwrap().to_owned(), choice["assets"].as_u64().unwrap()))
        .collect();
    assert_eq!(listed, [(ids[0].clone(), 4), (ids[1].clone(), 5)].into());
    assert!(!user.home().join("data").exists());
    let ran = restore(&user, &["--store", &"0".repeat(32)]);
    assert!(ran.code == 1 && ran.stderr.contains("no snapshot of the store"), "{}", ran.stderr);
    let ran = restore(&user, &["--store", &ids[1]]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(report(&ran)["assets"], json!(5));
    let restored = open(&user.home().join("data/store"), shared(bucket.config())).await;
    until_all_held(&restored).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_place_of_its_own_the_two_latest_generations_stay() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let pace = SnapshotPace { base: Duration::ZERO, ..restless() };
    let store = open(dir.path(), BucketConfig { snapshots: Some(pace), ..bucket.config() }).await;
    let id = store.id().to_string();
    put(&store, &noise(5_000, 1), "file.bin").await;
    until_snapshot(&store).await;
    // What another store has there, what another program has, and what was left half.
    let foreign = snapshots_of(&bucket, &"a".repeat(32)).join("2026-01-01T00-00-00000Z-00000000");
    let other = snapshots_of(&bucket, "..").join("can-sync-snapshots/notes.txt");
    let half = snapshots_of(&bucket, &id).join("2026-01-01T00-00-00000Z-00000000");
    for dir in [&foreign, &half] {
        fs::create_dir_all(dir).unwrap();
    }
    fs::write(&other, "notes").unwrap();
    fs::write(foreign.join("000000.json"), "theirs").unwrap();
    fs::write(half.join("000000-00000-0123456789abcdef"), "half").unwrap();
    eventually("old ones are deleted", async || {
        put(&store, &noise(5_000, super::now_ms()), "more.bin").await;
        let bases = manifests(&bucket, &id).len();
        let is_left = half.join("000000-00000-0123456789abcdef").exists();
        if bases == 2 && !is_left { Ok(()) } else { Err(format!("{bases}, {is_left}")) }
    })
    .await;
    assert!(foreign.join("000000.json").is_file() && other.is_file());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_said_to_be_gone_and_comes_back_deletes_nothing() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(dir.path(), bucket.config_with_snapshots()).await;
    let content = noise(100_000, 1);
    let hash = put(&store, &content, "file.bin").await;
    until_snapshot(&store).await;
    // It still runs while somebody restores: a place of one's own is asked about.
    let user = new_user(&bucket.yaml());
    let ran = restore(&user, &[]);
    assert!(ran.code == 1 && ran.stderr.contains("say --alone"), "{}", ran.stderr);
    let ran = restore(&user, &["--alone"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    eventually("the old one halts the place", async || {
        let notice = store.status().await.unwrap().notice.unwrap_or_default();
        if notice.contains("nothing is deleted") { Ok(()) } else { Err(notice) }
    })
    .await;
    let data = user.home().join("data/store");
    let restored = open(&data, bucket.config()).await;
    let notice = restored.status().await.unwrap().notice.unwrap_or_default();
    let code = notice.split_once("store.content.alone: ").expect(&notice).1;
    let code = code.split_whitespace().next().unwrap().to_owned();
    store.close().await;
    restored.close().await;
    // The user says that it is gone: from then on it does not even open.
    let mut config = bucket.config();
    config.place.alone = Some(code);
    let restored = open(&data, config).await;
    eventually("the content is found", async || {
        let found = holding(&restored, hash).await.unwrap().holding;
        if found == Holding::Held { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    assert_eq!(read(&restored, hash, 0, None).await, Ok(content.clone()));
    let clock = can_sync::testing::clock::Clock::system();
    let refused = try_open_on(dir.path(), bucket.config(), clock).await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("took the place over"), "{refused}");
    assert!(bucket.object(hash_of(&content)).is_file());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_a_place_over_counts_on_nothing_there_before_deletions_of_before_are_over() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(dir.path(), bucket.config_with_snapshots()).await;
    let content = noise(100_000, 1);
    let hash = put(&store, &content, "file.bin").await;
    until_snapshot(&store).await;
    store.close().await;
    let user = new_user(&bucket.yaml());
    let ran = restore(&user, &["--alone"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);

    let times = Arc::new(Mutex::new((None, None)));
    let noted = Arc::clone(&times);
    bucket.fail(move |request| {
        let (written, looked) = &mut *noted.lock();
        if request.method == Method::PUT && request.path.ends_with("can-sync-bucket") {
            written.get_or_insert(Instant::now());
        } else if request.is_content() {
            looked.get_or_insert(Instant::now());
        }
        None
    });
    let mut config = bucket.config();
    config.patience.settle = Duration::from_secs(1);
    let settle = config.patience.settle;
    let data = user.home().join("data/store");
    let restored = open(&data, config).await;
    eventually("the content is found", async || {
        let found = holding(&restored, hash).await.unwrap().holding;
        if found == Holding::Held { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    let (written, looked) = *times.lock();
    let waited = looked.expect("a look").duration_since(written.expect("its opening"));
    assert!(waited >= settle, "{waited:?}");
    restored.close().await;

    // It did so once.
    let away = Duration::from_hours(1);
    let mut config = bucket.config();
    config.patience.settle = away;
    let restored = open(&data, config).await;
    assert_eq!(restored.status().await.unwrap().contents_away, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn none_is_made_where_that_is_not_wanted_and_why_is_said_where_it_cannot_be() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(dir.path(), bucket.config()).await;
    put(&store, &noise(5_000, 1), "file.bin").await;
    assert_eq!(store.status().await.unwrap().snapshots, None);
    store.close().await;
    assert!(super::snapshot_files(&bucket).is_empty());
    bucket.fail(|request| {
        let is_put = request.method == Method::PUT && request.path.contains("can-sync-snapshots");
        is_put.then_some(crate::support::bucket::BucketFault::Status(403, "AccessDenied"))
    });
    let store = open(dir.path(), bucket.config_with_snapshots()).await;
    eventually("why is said", async || {
        let report = store.status().await.unwrap().snapshots.expect("a report");
        let why = report.problem.clone().unwrap_or_default();
        if report.last_ms.is_none() && why.contains("the right to list") {
            Ok(())
        } else {
            Err(format!("{report:?}"))
        }
    })
    .await;
    bucket.fail(|_| None);
    until_snapshot(&store).await;
    assert_eq!(store.status().await.unwrap().snapshots.unwrap().problem, None);
}
