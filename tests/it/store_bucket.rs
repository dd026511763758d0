//! Contents in object storage: a real service, and what goes wrong between it and the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use can_sync::testing::clock::Clock;
use can_sync::testing::record::ContentHash;
use can_sync::testing::store::bucket::BucketConfig;
use can_sync::testing::store::embedded::{EmbeddedStore, IngestFields};
use can_sync::testing::store::{ContentStore, ItemOutcome, StoreError};
use futures::TryStreamExt as _;
use hyper::Method;

use crate::support::bucket::{BucketFault, BucketRequest, TestBucket, try_open_on};
use crate::support::clock::{DAY_MS, SetClock};
use crate::support::embedded::{content_files, temporary_files, try_upload, upload};
use crate::support::nodes::eventually;
use crate::support::store::{edited, hash_of, held, incoming, noise, read, record_of};

mod contract;
mod copies;
mod faults;
mod on_daemons;
mod people;
mod scrubbing;
mod taking_over;
mod write_back;

async fn open(dir: &tempfile::TempDir, bucket: BucketConfig) -> EmbeddedStore {
    try_open_on(dir.path(), bucket, Clock::system()).await.expect("the store opens")
}

async fn put(store: &EmbeddedStore, content: &[u8]) -> ContentHash {
    upload(store, content, IngestFields::default()).await.asset.record.hash
}

async fn try_put(store: &EmbeddedStore, content: &[u8]) -> Result<ContentHash, StoreError> {
    Ok(try_upload(store, content, IngestFields::default()).await?.asset.record.hash)
}

/// Waits until the store says that the bucket can be used, or why not.
async fn until_usable(store: &EmbeddedStore) {
    eventually("the bucket can be used", async || {
        match store.status().await.expect("a status").contents_away {
            None => Ok(()),
            Some(why) => Err(why),
        }
    })
    .await;
}

async fn until_no_file_is_there(dir: &tempfile::TempDir) {
    eventually("no file is there", async || {
        let files = content_files(dir.path());
        if files.is_empty() { Ok(()) } else { Err(format!("{files:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_the_trash_goes_when_its_content_comes_anew_to_another_place() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let content = noise(300_000, 1);
    let store = crate::support::embedded::open(dir.path()).await;
    let hash = put(&store, &content).await;
    store.delete(hash).await.unwrap();
    store.close().await;
    let store = open(&dir, bucket.config()).await;
    assert_eq!(content_files(dir.path()), [hash].into(), "it is in the trash");
    assert_eq!(put(&store, &content).await, hash);
    assert_eq!((bucket.objects(), store.trash(None, None, 1).await.unwrap().total), ([hash].into(), 0));
    until_no_file_is_there(&dir).await;
    assert_eq!(read(&store, hash, 0, None).await.as_ref(), Ok(&content));

    // Without a bucket, what is in a file with one is in the database.
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let content = noise(20_000, 2);
    let mut waits = bucket.config();
    waits.place.write_back = true;
    bucket.fail(|request| {
        (request.method == Method::PUT && request.is_content())
            .then_some(BucketFault::Status(503, "SlowDown"))
    });
    let store = open(&dir, waits).await;
    let hash = put(&store, &content).await;
    store.delete(hash).await.unwrap();
    store.close().await;
    let store = crate::support::embedded::open(dir.path()).await;
    assert_eq!(content_files(dir.path()), [hash].into(), "it is in the trash");
    assert_eq!(put(&store, &content).await, hash);
    until_no_file_is_there(&dir).await;
    assert_eq!(read(&store, hash, 0, None).await, Ok(content));
}

#[tokio::test(flavor = "multi_thread")]
async fn larger_contents_are_in_the_bucket_alone() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let contents = [noise(4096, 1), noise(4097, 2), noise(300_000, 3), noise(20 << 20, 4)];
    let store = open(&dir, bucket.config()).await;
    for content in &contents {
        assert_eq!(put(&store, content).await, hash_of(content));
    }
    let larger = contents[1..].iter().map(|content| hash_of(content)).collect();
    assert_eq!(bucket.objects(), larger);
    assert!(bucket.object(hash_of(&contents[2])).is_file());
    assert_eq!((content_files(dir.path()).len(), temporary_files(dir.path())), (0, 0));
    store.close().await;

    let store = open(&dir, bucket.config()).await;
    for content in &contents {
        assert_eq!(read(&store, hash_of(content), 0, None).await.as_ref(), Ok(content));
    }
    bucket.take_seen();
    let (hash, large) = (hash_of(&contents[3]), &contents[3]);
    assert_eq!(read(&store, hash, 10 << 20, Some(100)).await.unwrap(), large[10 << 20..][..100]);
    let seen: Vec<_> = bucket.take_seen().into_iter().filter(BucketRequest::is_content).collect();
    assert_eq!(seen.len(), 1, "{seen:?}");
    // The group that it is in.
    assert_eq!(seen[0].range.as_deref(), Some("bytes=10485760-10551295"));
    assert_eq!(temporary_files(dir.path()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_does_as_well() {
    let (dir, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = format!("file://{}", place.path().join("contents").display());
    let config = |text: &str| {
        let place = crate::support::bucket::parse_place(text);
        BucketConfig { patience: crate::support::bucket::impatient(), ..BucketConfig::new(place, 0) }
    };
    let store = open(&dir, config(&at)).await;
    let contents = [noise(100_000, 1), noise(20 << 20, 2)];
    for content in &contents {
        put(&store, content).await;
        assert_eq!(read(&store, hash_of(content), 0, None).await.as_ref(), Ok(content));
    }
    assert!(place.path().join("contents/can-sync-bucket").is_file());
    // A user's mistake is no other place.
    store.close().await;
    let other = format!("file://{}", place.path().join("other").display());
    let refused = try_open_on(dir.path(), config(&other), Clock::system()).await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("correct store.content.url"), "{refused}");
    let store = open(&dir, config(&at)).await;
    assert_eq!(read(&store, hash_of(&contents[0]), 0, None).await.as_ref(), Ok(&contents[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_belongs_to_one_store_unless_both_say_otherwise() {
    let (one, two, bucket) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), TestBucket::start().await);
    let first = open(&one, bucket.config()).await;
    let theirs = put(&first, &noise(100_000, 1)).await;
    let refused = try_open_on(two.path(), bucket.config(), Clock::system()).await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("store.content.shared: true"), "{refused}");

    let mut shared = bucket.config();
    shared.place.shared = true;
    let second = open(&two, shared.clone()).await;
    until_usable(&second).await;
    let (both, own) = (noise(100_000, 1), noise(200_000, 2));
    put(&second, &both).await;
    let own = put(&second, &own).await;
    // The first one reads that others use it before it deletes: what is not needed any more stays.
    let unneeded = noise(50_000, 3);
    let record = record_of(&unneeded);
    let tombstone = edited(&record, 1000, None);
    assert_eq!(first.apply(vec![tombstone]).await, Ok(vec![ItemOutcome::Stored]));
    assert_eq!(first.ingest(vec![incoming(record, &unneeded)]).await, Ok(vec![ItemOutcome::Unchanged]));
    first.delete(theirs).await.unwrap();
    until_nothing_is_pending(&one).await;
    let deletions = bucket.take_seen().into_iter().filter(|request| request.method == Method::DELETE);
    assert_eq!(deletions.count(), 0);
    assert_eq!(bucket.objects(), [theirs, own, hash_of(&unneeded)].into());
    assert_eq!(read(&second, theirs, 0, None).await, Ok(both));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_waits_for_a_place_says_why() {
    let (one, two, bucket) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), TestBucket::start().await);
    until_usable(&open(&one, bucket.config()).await).await;
    let mut shared = bucket.config();
    shared.place.shared = true;
    shared.patience.settle = Duration::from_mins(1);
    let second = open(&two, shared).await;
    let why = second.status().await.unwrap().contents_away.unwrap();
    assert!(why.contains("belongs to several stores from now on: it is used once 60 s have passed"), "{why}");
    second.close().await;
}

async fn until_nothing_is_pending(dir: &tempfile::TempDir) {
    let database = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    eventually("what nothing refers to is cleaned up", async || {
        let pending: i64 =
            database.query_row("SELECT count(*) FROM pending_objects", [], |row| row.get(0)).unwrap();
        if pending == 0 { Ok(()) } else { Err(format!("{pending} are left")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_refers_to_is_deleted_in_a_place_of_its_own() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let clock = SetClock::right();
    let store = try_open_on(dir.path(), bucket.config(), clock.start()).await.unwrap();
    let (kept, deleted, unneeded) = (noise(100_000, 1), noise(100_001, 2), noise(100_002, 3));
    let kept = put(&store, &kept).await;
    let deleted = put(&store, &deleted).await;
    // Something of another program's.
    let foreign = bucket.below().join("ab/cd").join(hash_of(b"foreign").to_string());
    std::fs::create_dir_all(foreign.parent().unwrap()).unwrap();
    std::fs::write(&foreign, "foreign").unwrap();

    let record = record_of(&unneeded);
    store.apply(vec![edited(&record, 1000, None)]).await.unwrap();
    let outcome = store.ingest(vec![incoming(record, &unneeded)]).await;
    assert_eq!(outcome, Ok(vec![ItemOutcome::Unchanged]));
    until_nothing_is_pending(&dir).await;
    assert_eq!(bucket.objects(), [kept, deleted, hash_of(b"foreign")].into());

    store.delete(deleted).await.unwrap();
    assert!(bucket.object(deleted).is_file(), "it is in the trash");
    for _ in 0..3 {
        clock.pass(31 * DAY_MS);
        store.purge().await.unwrap();
    }
    until_nothing_is_pending(&dir).await;
    eventually("the object is deleted", async || {
        if bucket.object(deleted).exists() { Err("it is there".to_owned()) } else { Ok(()) }
    })
    .await;
    assert_eq!(bucket.objects(), [kept, hash_of(b"foreign")].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_cache_is_not_asked_for_again() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let config = BucketConfig { cache_bytes: 4 << 20, ..bucket.config() };
    let store = open(&dir, config.clone()).await;
    let (large, small) = (noise(1 << 20, 1), noise(20_000, 2));
    for content in [&large, &small] {
        put(&store, content).await;
    }
    bucket.take_seen();
    for content in [&large, &small] {
        assert_eq!(read(&store, hash_of(content), 0, None).await.as_ref(), Ok(content));
        assert_eq!(read(&store, hash_of(content), 100, Some(5)).await.unwrap(), content[100..105]);
    }
    assert!(bucket.take_seen().iter().all(|request| !request.is_content()));
    // A copy that is wrong is none.
    let cached =
        |hash: ContentHash| dir.path().join("cache").join(&hash.to_string()[..2]).join(hash.to_string());
    for content in [&large, &small] {
        let mut wrong = content.clone();
        wrong[10] ^= 1;
        std::fs::write(cached(hash_of(content)), wrong).unwrap();
        assert_eq!(read(&store, hash_of(content), 0, None).await.as_ref(), Ok(content));
    }
    assert_eq!(store.status().await.unwrap().damaged, 0);
    store.close().await;
    std::fs::remove_dir_all(dir.path().join("cache")).unwrap();
    let store = open(&dir, config).await;
    for _ in 0..2 {
        assert_eq!(read(&store, hash_of(&large), 0, None).await.as_ref(), Ok(&large));
        eventually("it is in the cache", async || {
            if cached(hash_of(&large)).is_file() { Ok(()) } else { Err("it is not".to_owned()) }
        })
        .await;
    }
    let asked =
        bucket.take_seen().into_iter().filter(|request| request.path.contains(&hash_of(&large).to_string()));
    let ranges = asked.filter(|request| request.method == Method::GET && request.number > 0).count();
    assert!(ranges > 0);
    // Larger contents drive out those used least recently, and are not kept beyond the bound.
    for n in 10..20 {
        put(&store, &noise(1 << 20, n)).await;
    }
    let kept: u64 = walkdir::WalkDir::new(dir.path().join("cache"))
        .into_iter()
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .filter(std::fs::Metadata::is_file)
        .map(|meta| meta.len())
        .sum();
    assert!((1..=4 << 20).contains(&kept), "{kept}");
}

/// An answer with a length is dropped once its last byte is out, and never asked for its end.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_to_its_last_byte_is_in_the_cache() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let contents = [noise(65_537, 1), noise(1 << 20, 2), noise(20 << 20, 3)];
    let store = open(&dir, bucket.config()).await;
    for content in &contents {
        put(&store, content).await;
    }
    store.close().await;
    let store = open(&dir, BucketConfig { cache_bytes: 64 << 20, ..bucket.config() }).await;
    for content in &contents {
        let hash = hash_of(content);
        let mut reader = store.content(hash, 0, None).await.unwrap();
        let mut got = Vec::new();
        while got.len() < content.len() {
            got.extend_from_slice(&reader.chunks.try_next().await.unwrap().unwrap());
        }
        drop(reader);
        assert!(got == *content, "{} bytes", content.len());
        let name = hash.to_string();
        let cached = std::fs::read(dir.path().join("cache").join(&name[..2]).join(&name));
        assert!(cached.is_ok_and(|cached| cached == *content), "{} bytes", content.len());
    }
    assert_eq!(temporary_files(dir.path()), 0);
    // What was read in part is not there.
    let part = noise(3 << 20, 4);
    let store = {
        store.close().await;
        let store = open(&dir, bucket.config()).await;
        put(&store, &part).await;
        store.close().await;
        open(&dir, BucketConfig { cache_bytes: 64 << 20, ..bucket.config() }).await
    };
    let mut reader = store.content(hash_of(&part), 0, None).await.unwrap();
    reader.chunks.try_next().await.unwrap();
    drop(reader);
    let name = hash_of(&part).to_string();
    assert!(!dir.path().join("cache").join(&name[..2]).join(&name).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_given_up_is_cleaned_up() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(&dir, bucket.config()).await;
    let broken = Arc::new(AtomicBool::new(true));
    let is_broken = Arc::clone(&broken);
    // The second part never arrives, nor does the end of the upload.
    bucket.fail(move |request| {
        let is_hit = request.query.contains("partNumber=2") || request.method == Method::DELETE;
        (is_hit && is_broken.load(Ordering::SeqCst)).then_some(BucketFault::Status(500, "InternalError"))
    });
    let content = noise(20 << 20, 1);
    assert!(matches!(try_put(&store, &content).await, Err(StoreError::BucketAway { .. })));
    assert_eq!(held(&store, hash_of(&content)).await, None);
    store.close().await;
    broken.store(false, Ordering::SeqCst);
    bucket.take_seen();
    let store = open(&dir, bucket.config()).await;
    until_nothing_is_pending(&dir).await;
    let aborted = bucket
        .take_seen()
        .into_iter()
        .any(|request| request.method == Method::DELETE && request.query.contains("uploadId="));
    assert!(aborted);
    put(&store, &content).await;
    assert_eq!(read(&store, hash_of(&content), 0, None).await, Ok(content));
}
