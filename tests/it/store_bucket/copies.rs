//! Two stores that each take a bucket for their own: a data directory that was copied, or restored.

use std::path::Path;
use std::time::Duration;

use can_sync::testing::clock::Clock;
use can_sync::testing::record::ContentHash;
use can_sync::testing::store::bucket::BucketConfig;
use can_sync::testing::store::embedded::EmbeddedStore;
use can_sync::testing::store::{ContentStore, ItemOutcome};
use hyper::Method;
use tempfile::TempDir;

use super::{open, put, until_nothing_is_pending, until_usable};
use crate::support::bucket::{BucketFault, TestBucket, impatient, parse_place, try_open_on};
use crate::support::nodes::eventually;
use crate::support::store::{edited, hash_of, incoming, noise, read, record_of};

/// Copies the database as a backup or `cp` of a data directory does.
fn copy(of: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(of).unwrap().map(Result::unwrap) {
        if entry.path().is_file() && entry.file_name() != "store.lock" {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    copy
}

/// Takes away what tells the copy of a file from the original, as where a whole disk was cloned.
fn clone_disk(of: &Path) -> TempDir {
    let clone = copy(of);
    let database = rusqlite::Connection::open(clone.path().join("store.db")).unwrap();
    database.execute("UPDATE bucket_openings SET inode = NULL, born_ms = NULL", []).unwrap();
    clone
}

/// Has a store upload a content that it does not need in the end.
async fn leave_unneeded(store: &EmbeddedStore, content: &[u8]) -> ContentHash {
    let record = record_of(content);
    store.apply(vec![edited(&record, 1000, None)]).await.unwrap();
    let outcome = store.ingest(vec![incoming(record, content)]).await;
    assert_eq!(outcome, Ok(vec![ItemOutcome::Unchanged]));
    hash_of(content)
}

/// Waits until a store says that nothing is deleted; the code.
async fn until_halted(store: &EmbeddedStore) -> String {
    eventually("the place is halted", async || {
        let notice = store.status().await.unwrap().notice.unwrap_or_default();
        let (_, code) = notice.split_once("store.content.alone: ").ok_or(notice.clone())?;
        Ok(code.split_whitespace().next().unwrap_or_default().to_owned())
    })
    .await
}

fn pending(dir: &Path) -> i64 {
    let database = rusqlite::Connection::open(dir.join("store.db")).unwrap();
    database.query_row("SELECT count(*) FROM pending_objects", [], |row| row.get(0)).unwrap()
}

/// With so much time to notice each other as a busy machine needs.
fn unhurried(config: BucketConfig) -> BucketConfig {
    let mut config = config;
    config.patience.settle = Duration::from_secs(4);
    config
}

fn alone(config: BucketConfig, code: &str) -> BucketConfig {
    let mut config = config;
    config.place.alone = Some(code.to_owned());
    config
}

/// What two stores of one id do to each other in a place, the second of which was made by `copied` while the first one was open.
async fn nothing_is_deleted(copied: impl Fn(&Path) -> TempDir, config: BucketConfig, bucket: &TestBucket) {
    let dir = tempfile::tempdir().unwrap();
    let first = open(&dir, config.clone()).await;
    let before = noise(100_000, 1);
    put(&first, &before).await;
    let twin = copied(dir.path());
    let (of_first, of_second) = (noise(100_001, 2), noise(100_002, 3));
    put(&first, &of_first).await;
    let second = open(&twin, config.clone()).await;
    until_usable(&second).await;
    put(&second, &of_second).await;
    // Each needs what the other one does not.
    let (unneeded_by_first, unneeded_by_second) = (noise(50_001, 4), noise(50_002, 5));
    put(&second, &unneeded_by_first).await;
    put(&first, &unneeded_by_second).await;
    bucket.take_seen();
    leave_unneeded(&first, &unneeded_by_first).await;
    leave_unneeded(&second, &unneeded_by_second).await;
    let code = until_halted(&first).await;
    assert_eq!(until_halted(&second).await, code);
    // Nor later.
    for store in [&first, &second] {
        for seed in 10..12 {
            leave_unneeded(store, &noise(60_000, seed)).await;
        }
    }
    first.close().await;
    let first = open(&dir, config.clone()).await;
    until_usable(&first).await;
    assert_eq!(until_halted(&first).await, code);
    for store in [&first, &second] {
        assert_eq!(read(store, hash_of(&before), 0, None).await.as_ref(), Ok(&before));
    }
    for (store, content) in [
        (&first, &of_first),
        (&second, &of_second),
        (&first, &unneeded_by_second),
        (&second, &unneeded_by_first),
    ] {
        assert_eq!(read(store, hash_of(content), 0, None).await.as_ref(), Ok(content));
        assert_eq!(store.status().await.unwrap().contents_away, None);
    }
    assert!(bucket.take_seen().iter().all(|request| request.method != Method::DELETE));
    assert!(pending(dir.path()) > 0 && pending(twin.path()) > 0);

    // The second one is gone, and the user says so.
    second.close().await;
    first.close().await;
    let first = open(&dir, alone(config.clone(), &code)).await;
    until_nothing_is_pending(&dir).await;
    assert_eq!(first.status().await.unwrap().notice, None);
    assert!(!bucket.object(hash_of(&unneeded_by_first)).exists());
    // If it is not gone after all, nothing is deleted any more; by that code neither.
    let second = open(&twin, alone(config, &code)).await;
    let next = until_halted(&second).await;
    assert_ne!(next, code);
    assert_eq!(until_halted(&first).await, next);
    until_usable(&second).await;
    put(&second, &noise(50_003, 6)).await;
    leave_unneeded(&first, &noise(50_003, 6)).await;
    assert_eq!(pending(dir.path()), 1);
    assert_eq!(read(&second, hash_of(&noise(50_003, 6)), 0, None).await, Ok(noise(50_003, 6)));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_store_and_its_copy_neither_deletes_what_the_other_one_has() {
    let bucket = TestBucket::start().await;
    nothing_is_deleted(copy, unhurried(bucket.config()), &bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_where_nothing_tells_the_copy_from_the_original() {
    let bucket = TestBucket::start().await;
    nothing_is_deleted(clone_disk, unhurried(bucket.config()), &bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_where_the_service_knows_no_conditions() {
    let bucket = TestBucket::start().await;
    bucket.fail(|request| {
        (request.creates || request.updates).then_some(BucketFault::Status(501, "NotImplemented"))
    });
    nothing_is_deleted(clone_disk, unhurried(bucket.config()), &bucket).await;
}

/// What one of two is to lose, by its user's decision, is not all that there is of a content.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_up_to_a_place_that_two_take_for_their_own() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let mut config = unhurried(bucket.config());
    config.place.write_back = true;
    let first = open(&dir, config.clone()).await;
    until_usable(&first).await;
    let twin = clone_disk(dir.path());
    let second = open(&twin, config.clone()).await;
    let code = until_halted(&first).await;
    until_usable(&second).await;
    assert_eq!(until_halted(&second).await, code);
    let contents = [noise(100_000, 1), noise(100_001, 2)];
    for (store, content) in [&first, &second].into_iter().zip(&contents) {
        put(store, content).await;
        eventually("it is said why it waits", async || {
            let waiting = store.status().await.unwrap().waiting_uploads.unwrap();
            let is_said = waiting.last_error.as_ref().is_some_and(|why| why.contains(&code));
            if is_said && waiting.contents == 1 { Ok(()) } else { Err(format!("{waiting:?}")) }
        })
        .await;
        assert_eq!(read(store, hash_of(content), 0, None).await.as_ref(), Ok(content));
    }
    assert_eq!(bucket.objects(), [].into());
    second.close().await;
    first.close().await;
    let first = open(&dir, alone(config, &code)).await;
    eventually("it goes up", async || {
        if bucket.object(hash_of(&contents[0])).exists() { Ok(()) } else { Err("it does not".to_owned()) }
    })
    .await;
    assert_eq!(read(&first, hash_of(&contents[0]), 0, None).await.as_ref(), Ok(&contents[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_store_that_is_not_running_deletes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let at = parse_place(&place.path().join("contents").display().to_string());
    let config = BucketConfig { patience: impatient(), ..BucketConfig::new(at, 0) };
    let dir = tempfile::tempdir().unwrap();
    let first = open(&dir, config.clone()).await;
    let content = noise(100_000, 1);
    let hash = put(&first, &content).await;
    first.close().await;
    let twin = copy(dir.path());
    let second = open(&twin, config.clone()).await;
    until_usable(&second).await;
    until_halted(&second).await;
    second.close().await;
    // Of the original nothing was lost, and it says what happened.
    let first = open(&dir, config).await;
    until_halted(&first).await;
    until_usable(&first).await;
    assert_eq!(read(&first, hash, 0, None).await, Ok(content));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ended_at_any_moment_goes_on_deleting_what_is_its_own() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let mut left = Vec::new();
    for round in 0..6 {
        // It ends while it opens the place: what it wrote there was carried out without an answer, or was not.
        bucket.fail(move |request| match round % 4 {
            1 if request.updates => Some(BucketFault::Deaf),
            3 if request.updates => Some(BucketFault::Drop),
            _ => None,
        });
        let store = open(&dir, bucket.config()).await;
        if round % 2 == 0 {
            until_usable(&store).await;
            left.push(leave_unneeded(&store, &noise(50_000, round)).await);
        }
        store.close().await;
    }
    bucket.fail(|_| None);
    let store = open(&dir, bucket.config()).await;
    until_nothing_is_pending(&dir).await;
    assert_eq!(store.status().await.unwrap().notice, None);
    assert!(left.iter().all(|hash| !bucket.object(*hash).exists()));
}

/// What it was about to write there would be another store's to the one that is opened next.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_closed_says_nothing_more_of_whose_place_it_is() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(&dir, bucket.config()).await;
    until_usable(&store).await;
    store.close().await;
    bucket.fail(|request| request.updates.then_some(BucketFault::Drop));
    let opening = {
        let (path, config) = (dir.path().to_owned(), bucket.config());
        tokio::spawn(async move { try_open_on(&path, config, Clock::system()).await })
    };
    let is_writing = || bucket.take_seen().iter().any(|request| request.updates);
    eventually(
        "it writes its opening",
        async || if is_writing() { Ok(()) } else { Err("not yet".to_owned()) },
    )
    .await;
    let store = opening.await.unwrap().unwrap();
    store.close().await;
    bucket.take_seen();
    let one_more =
        eventually("one more", async || if is_writing() { Ok(()) } else { Err("none".to_owned()) });
    assert!(tokio::time::timeout(Duration::from_secs(3), one_more).await.is_err());
    bucket.fail(|_| None);
    let store = open(&dir, bucket.config()).await;
    until_usable(&store).await;
    assert_eq!(store.status().await.unwrap().notice, None);
}
