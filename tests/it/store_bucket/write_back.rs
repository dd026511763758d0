//! Contents that are acknowledged on this disk and go up to the bucket afterwards.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use can_sync::testing::clock::Clock;
use can_sync::testing::record::ContentHash;
use can_sync::testing::store::bucket::BucketConfig;
use can_sync::testing::store::embedded::{EmbeddedConfig, EmbeddedStore};
use can_sync::testing::store::{ContentStore, Holding, ItemOutcome, StoreError, WaitingUploads};
use futures::TryStreamExt as _;
use futures::future::join_all;
use hyper::Method;

use super::{open, put, try_put, until_nothing_is_pending, until_usable};
use crate::support::bucket::{BucketFault, TestBucket, try_open_on};
use crate::support::clock::{DAY_MS, SetClock};
use crate::support::embedded::{content_files, content_path, temporary_files};
use crate::support::mounted::Mounted;
use crate::support::nodes::eventually;
use crate::support::store::{edited, hash_of, incoming, incoming_file, noise, read, record_of};

const MIB: u64 = 1024 * 1024;

fn written_back(bucket: &TestBucket) -> BucketConfig {
    let mut config = bucket.config();
    config.place.write_back = true;
    config
}

fn is_away(bucket: &TestBucket) {
    bucket.fail(|_| Some(BucketFault::Status(503, "ServiceUnavailable")));
}

async fn waiting(store: &EmbeddedStore) -> WaitingUploads {
    store.status().await.expect("a status").waiting_uploads.expect("contents go up")
}

/// Waits until nothing waits any more.
async fn until_all_is_up(store: &EmbeddedStore) {
    eventually("all contents are up", async || {
        let status = store.status().await.expect("a status");
        match status.waiting_uploads {
            Some(waiting) if waiting.contents > 0 => Err(format!("{waiting:?}")),
            Some(_) | None => Ok(()),
        }
    })
    .await;
}

/// Waits until there are no more files of contents than these.
async fn until_files_are(dir: &tempfile::TempDir, files: &BTreeSet<ContentHash>) {
    eventually("files of what is up are gone", async || {
        let found = content_files(dir.path());
        if found == *files { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

async fn until_waits_because(store: &EmbeddedStore, why: &str) {
    eventually("it is said why contents wait", async || {
        let waiting = waiting(store).await;
        match &waiting.last_error {
            Some(said) if said.contains(why) && waiting.contents > 0 => Ok(()),
            _ => Err(format!("{waiting:?}")),
        }
    })
    .await;
}

async fn all_are_right(store: &EmbeddedStore, contents: &[Vec<u8>]) {
    for content in contents {
        assert_eq!(read(store, hash_of(content), 0, None).await.as_ref(), Ok(content));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_while_the_bucket_was_away_goes_up_later() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    is_away(&bucket);
    let store = open(&dir, written_back(&bucket)).await;
    let contents =
        [noise(5000, 1), noise(100_000, 2), noise(9 << 20, 3), noise(70_000, 4), noise(300_000, 5)];
    let hashes: BTreeSet<_> = contents.iter().map(|content| hash_of(content)).collect();
    for content in &contents[..3] {
        put(&store, content).await;
    }
    for asset in [
        incoming(record_of(&contents[3]), &contents[3]),
        incoming_file(record_of(&contents[4]), &contents[4]),
    ] {
        assert_eq!(store.ingest(vec![asset]).await, Ok(vec![ItemOutcome::Stored]));
    }
    put(&store, &noise(3000, 9)).await;
    assert_eq!((content_files(dir.path()), temporary_files(dir.path())), (hashes.clone(), 0));
    all_are_right(&store, &contents).await;
    assert_eq!(store.check_room(100_000), Ok(()));
    until_waits_because(&store, "503").await;
    let said = waiting(&store).await;
    let bytes: usize = contents.iter().map(Vec::len).sum();
    assert_eq!((said.contents, said.bytes), (5, bytes as u64));
    assert!(said.oldest_secs.is_some());
    let away = store.status().await.unwrap().contents_away.unwrap();
    assert!(away.contains("stay on this disk"), "{away}");
    store.close().await;

    let store = open(&dir, written_back(&bucket)).await;
    assert_eq!(waiting(&store).await.contents, 5);
    all_are_right(&store, &contents).await;
    assert!(bucket.objects().is_empty());
    bucket.fail(|_| None);
    until_all_is_up(&store).await;
    until_files_are(&dir, &BTreeSet::new()).await;
    until_nothing_is_pending(&dir).await;
    assert_eq!(bucket.objects(), hashes);
    all_are_right(&store, &contents).await;
    let status = store.status().await.unwrap();
    let done = WaitingUploads { contents: 0, bytes: 0, oldest_secs: None, last_error: None };
    assert_eq!((status.damaged, status.waiting_uploads, status.contents_away), (0, Some(done), None));
    // It is known what there is of each, as if it had been in the bucket from the start.
    bucket.take_seen();
    assert_eq!(
        read(&store, hash_of(&contents[2]), 8 << 20, Some(10)).await.unwrap(),
        contents[2][8 << 20..][..10]
    );
    assert_eq!(bucket.take_seen().iter().filter(|request| request.is_content()).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_contents_stay_on_the_disk_and_it_is_said_why() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(&dir, written_back(&bucket)).await;
    until_usable(&store).await;
    let is_put = |method: &Method| *method == Method::PUT || *method == Method::POST;
    for (n, (fault, at_put, why)) in (0..).zip([
        (BucketFault::Status(503, "SlowDown"), true, "slow down"),
        (BucketFault::Status(429, "TooManyRequests"), true, "slow down"),
        (BucketFault::Status(403, "AccessDenied"), true, "the keys need the right"),
        (BucketFault::Status(403, "InvalidAccessKeyId"), true, "does not know the access key"),
        (BucketFault::Drop, true, ""),
        (BucketFault::Deaf, true, ""),
        (BucketFault::Cut, false, ""),
        (BucketFault::Flip, false, "does not keep what is put there"),
    ]) {
        bucket.fail(move |request| {
            let is_hit = request.is_content() && is_put(&request.method) == at_put;
            is_hit.then_some(fault)
        });
        let contents = [noise(100_000 + n, n as u64), noise((9 << 20) + n, n as u64)];
        join_all(contents.iter().map(|content| put(&store, content))).await;
        until_waits_because(&store, why).await;
        // Of what is put in one piece it is found out that it is there.
        let is_carried_out = matches!(fault, BucketFault::Deaf);
        let waiting = waiting(&store).await.contents;
        assert!(waiting == 2 || (is_carried_out && waiting == 1), "{fault:?}: {waiting}");
        let files = content_files(dir.path()).len() as u64;
        assert!(files == 2 || (is_carried_out && files == 1), "{fault:?}: {files} files");
        all_are_right(&store, &contents).await;
        bucket.fail(|_| None);
        until_all_is_up(&store).await;
        until_files_are(&dir, &BTreeSet::new()).await;
        all_are_right(&store, &contents).await;
    }
    until_nothing_is_pending(&dir).await;
    until_usable(&store).await;
    assert_eq!(store.status().await.unwrap().damaged, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_before_it_is_up_never_gets_there_and_comes_back() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let clock = SetClock::right();
    let store = try_open_on(dir.path(), written_back(&bucket), clock.start()).await.unwrap();
    until_usable(&store).await;
    // All of it is there, and was not read back.
    bucket.fail(|request| {
        (request.method == Method::GET && request.is_content())
            .then_some(BucketFault::Status(500, "InternalError"))
    });
    let (deleted, back) = (noise(100_000, 1), noise(100_001, 2));
    let (gone, hash) = (put(&store, &deleted).await, put(&store, &back).await);
    eventually("they are put", async || {
        if bucket.objects().len() == 2 { Ok(()) } else { Err(format!("{:?}", bucket.objects())) }
    })
    .await;
    store.delete(gone).await.unwrap();
    let tombstone = store.delete(hash).await.unwrap().record;
    assert_eq!(waiting(&store).await.contents, 0);
    bucket.fail(|_| None);
    until_nothing_is_pending(&dir).await;
    assert_eq!((bucket.objects(), content_files(dir.path()).len()), (BTreeSet::new(), 2));
    // From the trash, and up.
    let newer = edited(&tombstone, 1000, Some("again"));
    assert_eq!(store.apply(vec![newer]).await, Ok(vec![ItemOutcome::Stored]));
    until_all_is_up(&store).await;
    assert_eq!(bucket.objects(), [hash].into());
    assert_eq!(read(&store, hash, 0, None).await.as_ref(), Ok(&back));
    // What was up goes to the trash there, and comes back by being put again.
    store.delete(hash).await.unwrap();
    is_away(&bucket);
    put(&store, &back).await;
    assert_eq!(waiting(&store).await.contents, 1);
    assert_eq!(read(&store, hash, 0, None).await.as_ref(), Ok(&back));
    bucket.fail(|_| None);
    until_all_is_up(&store).await;
    assert_eq!(read(&store, hash, 0, None).await, Ok(back));
    for _ in 0..3 {
        clock.pass(31 * DAY_MS);
        store.purge().await.unwrap();
    }
    until_files_are(&dir, &BTreeSet::new()).await;
    until_nothing_is_pending(&dir).await;
    assert_eq!(bucket.objects(), [hash].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_damaged_before_it_is_up_is_set_aside() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    is_away(&bucket);
    let store = open(&dir, written_back(&bucket)).await;
    let contents = [noise(100_000, 1), noise(9 << 20, 2), noise(20_000, 3)];
    let hashes: Vec<_> = contents.iter().map(|content| hash_of(content)).collect();
    for content in &contents {
        put(&store, content).await;
    }
    for (hash, content) in hashes.iter().zip(&contents).take(2) {
        let mut wrong = content.clone();
        wrong[10] ^= 1;
        std::fs::write(content_path(dir.path(), *hash), wrong).unwrap();
    }
    std::fs::remove_file(content_path(dir.path(), hashes[2])).unwrap();
    bucket.fail(|_| None);
    eventually("all are set aside", async || {
        let (status, records) = (store.status().await.unwrap(), store.records(hashes.clone()).await.unwrap());
        let is_aside = records.iter().all(|stored| stored.holding == Holding::Wanted);
        if is_aside && status.damaged == 3 { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    until_all_is_up(&store).await;
    for content in &contents {
        let came = store.ingest(vec![incoming(record_of(content), content)]).await;
        assert_eq!(came, Ok(vec![ItemOutcome::Stored]));
    }
    until_all_is_up(&store).await;
    until_files_are(&dir, &BTreeSet::new()).await;
    until_nothing_is_pending(&dir).await;
    all_are_right(&store, &contents).await;
    assert_eq!((bucket.objects(), store.status().await.unwrap().damaged), (hashes.into_iter().collect(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_again_lies_on_the_disk_until_it_is_up_again() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(&dir, written_back(&bucket)).await;
    let content = noise(9 << 20, 1);
    let hash = put(&store, &content).await;
    until_all_is_up(&store).await;
    until_files_are(&dir, &BTreeSet::new()).await;
    // Nobody noticed.
    std::fs::remove_file(bucket.object(hash)).unwrap();
    is_away(&bucket);
    put(&store, &content).await;
    assert_eq!(waiting(&store).await.contents, 1);
    assert_eq!(read(&store, hash, 0, None).await.as_ref(), Ok(&content));
    bucket.fail(|_| None);
    until_all_is_up(&store).await;
    until_files_are(&dir, &BTreeSet::new()).await;
    assert_eq!(bucket.objects(), [hash].into());
    assert_eq!(read(&store, hash, 0, None).await, Ok(content));
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_are_read_and_edited_while_they_go_up() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    is_away(&bucket);
    let store = open(&dir, written_back(&bucket)).await;
    let contents: Vec<_> = (0..40).map(|n| noise(20_000 + 40_000 * n, n as u64)).collect();
    for content in &contents {
        put(&store, content).await;
    }
    let last = contents.last().unwrap();
    let mut begun = store.content(hash_of(last), 0, None).await.unwrap();
    let first = begun.chunks.try_next().await.unwrap().unwrap();
    bucket.fail(|_| None);
    let store = Arc::new(store);
    let readers = contents.iter().map(|content| {
        let store = Arc::clone(&store);
        async move {
            let hash = hash_of(content);
            for n in 0.. {
                assert_eq!(read(store.as_ref(), hash, 0, None).await.as_ref(), Ok(content));
                let file = store.content_file(hash).await.unwrap();
                assert!(store.look_at(hash).await.unwrap().unwrap().holding.is_held());
                if n > 0 && file.is_none() {
                    return;
                }
                let stored = store.records(vec![hash]).await.unwrap().pop().unwrap().record;
                let said = format!("edit {n}");
                store.apply(vec![edited(&stored, 1, Some(&said))]).await.unwrap();
            }
        }
    });
    tokio::time::timeout(crate::support::nodes::DEADLINE, join_all(readers)).await.unwrap();
    let rest: Vec<_> = begun.chunks.try_collect().await.unwrap();
    assert_eq!([&[first], &rest[..]].concat().concat(), *last);
    until_all_is_up(&store).await;
    assert_eq!(store.status().await.unwrap().damaged, 0);
    until_files_are(&dir, &BTreeSet::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn turned_off_what_waits_still_goes_up() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    // What was in a file before there was a bucket stays there.
    let store = crate::support::embedded::open(dir.path()).await;
    let former = put(&store, &noise(200_000, 1)).await;
    store.close().await;
    is_away(&bucket);
    let store = open(&dir, written_back(&bucket)).await;
    let (late, again) = (noise(200_000, 2), noise(200_000, 3));
    let (hash, _) = (put(&store, &late).await, put(&store, &again).await);
    store.close().await;
    // Nothing is lost without the bucket either.
    let store = crate::support::embedded::open(dir.path()).await;
    assert_eq!(read(&store, hash, 0, None).await.as_ref(), Ok(&late));
    assert_eq!(store.status().await.unwrap().waiting_uploads, None);
    store.close().await;

    let store = open(&dir, bucket.config()).await;
    assert_eq!(waiting(&store).await.contents, 2);
    assert!(matches!(try_put(&store, &noise(200_000, 4)).await, Err(StoreError::BucketAway { .. })));
    bucket.fail(|_| None);
    until_usable(&store).await;
    // It goes there at once, and need not wait any more.
    put(&store, &again).await;
    until_all_is_up(&store).await;
    until_files_are(&dir, &[former].into()).await;
    assert_eq!(bucket.objects(), [hash, hash_of(&again)].into());
    assert_eq!(store.status().await.unwrap().waiting_uploads, None);
    all_are_right(&store, &[noise(200_000, 1), late, again]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_what_is_up_becomes_one_of_the_cache() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    is_away(&bucket);
    let store = open(&dir, BucketConfig { cache_bytes: 4 << 20, ..written_back(&bucket) }).await;
    let (small, large) = (noise(1 << 20, 1), noise(3 << 20, 2));
    let (hash, _) = (put(&store, &small).await, put(&store, &large).await);
    let inode = std::fs::metadata(content_path(dir.path(), hash)).unwrap().ino();
    bucket.fail(|_| None);
    until_all_is_up(&store).await;
    until_files_are(&dir, &BTreeSet::new()).await;
    let name = hash.to_string();
    let cached = dir.path().join("cache").join(&name[..2]).join(&name);
    assert_eq!(std::fs::metadata(cached).unwrap().ino(), inode);
    bucket.take_seen();
    assert_eq!(read(&store, hash, 0, None).await, Ok(small));
    assert!(bucket.take_seen().iter().all(|request| !request.is_content()));
    // More than half of the cache is not taken.
    assert_eq!(read(&store, hash_of(&large), 0, None).await, Ok(large));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_disk_full_of_what_waits_new_contents_are_refused_and_nothing_is_dropped() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let Some(mounted) = Mounted::new(dir.path(), "size=48m") else { return };
    let home = dir.path().join("store");
    let config = EmbeddedConfig { dir: home.clone(), disk_reserve_bytes: 8 * MIB, clock: Clock::system() };
    let bucket_config = BucketConfig { cache_bytes: 16 << 20, ..written_back(&bucket) };
    let store = EmbeddedStore::open_on(config, Some(bucket_config)).await.unwrap();
    until_usable(&store).await;
    // The cache is full, and gives way to what is new.
    let mut acknowledged: Vec<_> = (0..20).map(|n| noise(1 << 20, n)).collect();
    for content in &acknowledged {
        put(&store, content).await;
    }
    until_all_is_up(&store).await;
    is_away(&bucket);
    let refused = loop {
        let content = noise(1 << 20, 1000 + acknowledged.len() as u64);
        match try_put(&store, &content).await {
            Ok(_) => acknowledged.push(content),
            Err(refused) => break refused,
        }
        assert!(acknowledged.len() < 100, "the disk is used up");
    };
    assert!(matches!(&refused, StoreError::Full(why) if why.contains("s3://assets/can")), "{refused}");
    assert!(acknowledged.len() > 40, "{} were taken", acknowledged.len());
    assert_eq!(waiting(&store).await.contents, acknowledged.len() as u64 - 20);
    bucket.fail(|_| None);
    until_all_is_up(&store).await;
    let late = noise(1 << 20, 5000);
    eventually("there is room again", async || {
        try_put(&store, &late).await.map_err(|error| error.to_string())
    })
    .await;
    all_are_right(&store, &acknowledged).await;
    store.close().await;
    drop(mounted);
}
