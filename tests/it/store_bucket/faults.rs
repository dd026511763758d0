//! What goes wrong between a store and its bucket.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use can_sync::testing::clock::Clock;
use can_sync::testing::store::bucket::BucketConfig;
use can_sync::testing::store::embedded::EmbeddedStore;
use can_sync::testing::store::{ContentStore, Holding, ItemOutcome, StoreError};
use futures::future::join_all;
use hyper::Method;

use super::{open, put, try_put, until_nothing_is_pending, until_usable};
use crate::support::bucket::{BucketFault, TestBucket, impatient, parse_place, try_open_on};
use crate::support::nodes::eventually;
use crate::support::store::{edited, hash_of, held, incoming, noise, read, record_of};

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_fail_now_and_then_are_made_again() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(&dir, bucket.config()).await;
    let faults = [
        BucketFault::Status(503, "SlowDown"),
        BucketFault::Drop,
        BucketFault::Cut,
        BucketFault::Status(429, "TooManyRequests"),
        BucketFault::Deaf,
        BucketFault::Status(500, "InternalError"),
    ];
    bucket.fail(move |request| (request.number % 4 == 0).then(|| faults[request.number / 4 % faults.len()]));
    let contents: Vec<Vec<u8>> =
        (0..24).map(|n| noise(30_000 + n * 20_000, n as u64)).chain([noise(20 << 20, 99)]).collect();
    // What is refused is put again, as peers and people do.
    let puts = contents.iter().map(|content| async {
        eventually("a content is stored", async || {
            try_put(&store, content).await.map_err(|error| error.to_string())
        })
        .await
    });
    join_all(puts).await;
    for content in &contents {
        let read = eventually("a content is read", async || {
            read(&store, hash_of(content), 0, None).await.map_err(|error| error.to_string())
        });
        assert_eq!(&read.await, content);
    }
    assert_eq!(store.status().await.unwrap().damaged, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_was_put_without_an_answer_it_is_found_out_what_became() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(&dir, bucket.config()).await;
    until_usable(&store).await;
    for (seed, fault) in (1..).zip([BucketFault::Deaf, BucketFault::Drop]) {
        let is_first = AtomicBool::new(true);
        bucket.fail(move |request| {
            (request.creates && is_first.swap(false, Ordering::Relaxed)).then_some(fault)
        });
        let content = noise(100_000, seed);
        let hash = put(&store, &content).await;
        assert_eq!(read(&store, hash, 0, None).await.as_ref(), Ok(&content));
    }
    // Services say that there is one already before they have read another one, and end the connection in the middle of it.
    let content = noise(4 << 20, 3);
    let hash = put(&store, &content).await;
    bucket.fail(|request| request.creates.then_some(BucketFault::Status(412, "PreconditionFailed")));
    for _ in 0..5 {
        assert_eq!(put(&store, &content).await, hash);
    }
    // One of which no connection lives long enough is refused.
    bucket.fail(|request| request.creates.then_some(BucketFault::Drop));
    let refused = try_put(&store, &noise(100_000, 9)).await;
    assert!(matches!(refused, Err(StoreError::BucketAway { .. })), "{refused:?}");
    bucket.fail(|_| None);
    assert_eq!(read(&store, hash, 0, None).await, Ok(content));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_cannot_be_used_nothing_is_acknowledged_and_it_is_said_why() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(&dir, bucket.config()).await;
    let (before, small) = (noise(200_000, 1), noise(2000, 2));
    put(&store, &before).await;
    for (seed, (status, code, said)) in (10..).zip([
        (403, "InvalidAccessKeyId", "does not know the access key"),
        (403, "RequestTimeTooSkewed", "set the clock"),
        (403, "AccessDenied", "the keys need the right"),
        (400, "ExpiredToken", "have expired"),
        (404, "NoSuchBucket", "there is no such bucket"),
        (503, "ServiceUnavailable", "503"),
    ]) {
        bucket.fail(move |_| Some(BucketFault::Status(status, code)));
        let content = noise(100_000, seed);
        let refused = try_put(&store, &content).await.unwrap_err();
        assert!(
            matches!(&refused, StoreError::BucketAway { reason, .. } if reason.contains(said)),
            "{refused}"
        );
        let unread = read(&store, hash_of(&before), 0, None).await.unwrap_err();
        assert!(matches!(unread, StoreError::BucketAway { .. }), "{unread}");
        let status = store.status().await.unwrap();
        assert!(status.contents_away.as_ref().is_some_and(|why| why.contains(said)), "{status:?}");
        assert!(status.problem().is_some());
        assert!(store.check_room(100_000).is_err() && store.check_room(100).is_ok());
        // What needs no bucket goes on, and nothing is taken for gone.
        put(&store, &small).await;
        assert_eq!(held(&store, hash_of(&content)).await, None);
        assert_eq!(store.records(vec![hash_of(&before)]).await.unwrap()[0].holding, Holding::Held);
        bucket.fail(|_| None);
        until_usable(&store).await;
        assert_eq!(read(&store, hash_of(&before), 0, None).await.as_ref(), Ok(&before));
        put(&store, &content).await;
    }
    let status = store.status().await.unwrap();
    assert_eq!((status.damaged, status.contents_away), (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_opens_without_its_bucket_and_goes_on_once_that_is_there() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    bucket.fail(|_| Some(BucketFault::Status(503, "ServiceUnavailable")));
    let store = open(&dir, bucket.config()).await;
    let content = noise(100_000, 1);
    assert!(matches!(try_put(&store, &content).await, Err(StoreError::BucketAway { .. })));
    bucket.fail(|_| None);
    until_usable(&store).await;
    put(&store, &content).await;
    store.close().await;
    // Without the setting it is said where they are.
    let store = crate::support::embedded::open(dir.path()).await;
    let said = store.status().await.unwrap().contents_away.unwrap();
    assert!(said.contains("s3://assets/can") && said.contains("store.content"), "{said}");
    assert!(matches!(read(&store, hash_of(&content), 0, None).await, Err(StoreError::BucketAway { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_bucket_does_not_give_back_as_it_was_is_not_acknowledged() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(&dir, bucket.config()).await;
    bucket
        .fail(|request| (request.method == Method::GET && request.is_content()).then_some(BucketFault::Flip));
    for content in [noise(100_000, 1), noise(10 << 20, 2)] {
        let refused = try_put(&store, &content).await.unwrap_err();
        assert!(refused.to_string().contains("does not keep what is put there"), "{refused}");
        assert_eq!(held(&store, hash_of(&content)).await, None);
    }
    bucket.fail(|_| None);
    let content = noise(100_000, 1);
    // Something else lies there already: it is not believed.
    std::fs::create_dir_all(bucket.object(hash_of(&content)).parent().unwrap()).unwrap();
    std::fs::write(bucket.object(hash_of(&content)), noise(100_000, 77)).unwrap();
    put(&store, &content).await;
    assert_eq!(read(&store, hash_of(&content), 0, None).await, Ok(content));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_never_served_and_give_way_to_the_right_ones() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(&dir, bucket.config()).await;
    for (content, wrong) in [
        (noise(20_000, 1), noise(20_000, 11)),
        (noise(3 << 20, 2), [&noise(3 << 20, 2)[..(3 << 20) - 1], &[0]].concat()),
        (noise(300_000, 3), noise(1000, 3)),
    ] {
        let hash = put(&store, &content).await;
        std::fs::write(bucket.object(hash), &wrong).unwrap();
        let failed = read(&store, hash, 0, None).await.unwrap_err();
        assert_eq!(failed, StoreError::Corrupt(hash));
        eventually("it is set aside", async || {
            let stored = store.records(vec![hash]).await.unwrap().remove(0);
            let is_aside = store.status().await.unwrap().damaged == 1;
            match (stored.holding, stored.record.deleted, is_aside) {
                (Holding::Wanted, false, true) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        let healed = store.ingest(vec![incoming(record_of(&content), &content)]).await;
        assert_eq!(healed, Ok(vec![ItemOutcome::Stored]));
        assert_eq!(read(&store, hash, 0, None).await.as_ref(), Ok(&content));
        assert_eq!(store.status().await.unwrap().damaged, 0);
    }
}

/// Waits until the store says that one content is damaged.
async fn until_one_is_damaged(store: &EmbeddedStore) {
    eventually("it is set aside", async || {
        let damaged = store.status().await.unwrap().damaged;
        if damaged == 1 { Ok(()) } else { Err(damaged.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_with_wrong_bytes_that_nobody_wants_any_more_is_deleted() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(&dir, bucket.config()).await;
    let content = noise(20_000, 1);
    let hash = put(&store, &content).await;
    std::fs::write(bucket.object(hash), noise(20_000, 2)).unwrap();
    assert_eq!(read(&store, hash, 0, None).await, Err(StoreError::Corrupt(hash)));
    until_one_is_damaged(&store).await;
    until_nothing_is_pending(&dir).await;
    assert!(bucket.object(hash).exists(), "it may be right tomorrow");
    store.delete(hash).await.unwrap();
    until_nothing_is_pending(&dir).await;
    assert_eq!(bucket.objects(), [].into());
}

/// A file that was set aside of the same content takes the mark of the object in the database.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_with_wrong_bytes_is_deleted_also_where_a_file_was_set_aside_beside_it() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(&dir, bucket.config()).await;
    let hash = put(&store, &noise(20_000, 1)).await;
    std::fs::write(bucket.object(hash), noise(20_000, 2)).unwrap();
    assert_eq!(read(&store, hash, 0, None).await, Err(StoreError::Corrupt(hash)));
    until_one_is_damaged(&store).await;
    store.close().await;
    let aside = dir.path().join("damaged").join(hash.to_string());
    std::fs::write(&aside, noise(20_000, 3)).unwrap();

    let store = open(&dir, bucket.config()).await;
    until_usable(&store).await;
    assert!(bucket.object(hash).exists(), "it may be right tomorrow");
    store.delete(hash).await.unwrap();
    until_nothing_is_pending(&dir).await;
    assert_eq!(bucket.objects(), [].into());
    assert!(!aside.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_gone_is_looked_for_and_then_absent() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(&dir, bucket.config()).await;
    let content = noise(300_000, 1);
    let hash = put(&store, &content).await;
    let kept = bucket.dir.path().join("kept");
    std::fs::rename(bucket.object(hash), &kept).unwrap();
    assert!(matches!(read(&store, hash, 0, None).await, Err(StoreError::Busy(_))));
    // It was not there for a moment only.
    std::fs::rename(&kept, bucket.object(hash)).unwrap();
    eventually("it is read again", async || {
        read(&store, hash, 0, None).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(store.records(vec![hash]).await.unwrap()[0].holding, Holding::Held);

    std::fs::remove_file(bucket.object(hash)).unwrap();
    eventually("it is absent", async || match read(&store, hash, 0, None).await {
        Err(StoreError::NotHeld(_)) => Ok(()),
        other => Err(format!("{:?}", other.map(drop))),
    })
    .await;
    let stored = store.records(vec![hash]).await.unwrap().remove(0);
    assert_eq!((stored.record.deleted, stored.holding), (false, Holding::Wanted));
    let came = store.ingest(vec![incoming(record_of(&content), &content)]).await;
    assert_eq!(came, Ok(vec![ItemOutcome::Stored]));
    assert_eq!(read(&store, hash, 0, None).await, Ok(content));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_was_emptied_makes_nothing_absent() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(&dir, bucket.config()).await;
    let content = noise(300_000, 1);
    let hash = put(&store, &content).await;
    let away = bucket.dir.path().join("away");
    std::fs::rename(bucket.below(), &away).unwrap();
    assert!(read(&store, hash, 0, None).await.is_err());
    eventually("it is said", async || {
        let said = store.status().await.unwrap().contents_away;
        said.filter(|why| why.contains("can-sync-bucket")).map(drop).ok_or_else(|| "nothing".to_owned())
    })
    .await;
    assert_eq!(store.records(vec![hash]).await.unwrap()[0].holding, Holding::Held);
    std::fs::rename(&away, bucket.below()).unwrap();
    until_usable(&store).await;
    assert_eq!(read(&store, hash, 0, None).await, Ok(content));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_may_not_delete_hinder_nothing_else() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(&dir, bucket.config()).await;
    bucket.fail(|request| {
        (request.method == Method::DELETE).then_some(BucketFault::Status(403, "AccessDenied"))
    });
    let unneeded = noise(50_000, 1);
    let record = record_of(&unneeded);
    store.apply(vec![edited(&record, 1000, None)]).await.unwrap();
    let outcome = store.ingest(vec![incoming(record, &unneeded)]).await;
    assert_eq!(outcome, Ok(vec![ItemOutcome::Unchanged]));
    eventually("it is tried to delete it", async || {
        let is_tried = bucket.take_seen().iter().any(|request| request.method == Method::DELETE);
        if is_tried { Ok(()) } else { Err("it is not".to_owned()) }
    })
    .await;
    for seed in 2..4 {
        put(&store, &noise(100_000, seed)).await;
        assert_eq!(store.status().await.unwrap().contents_away, None);
    }
    bucket.fail(|_| None);
    until_nothing_is_pending(&dir).await;
    assert!(!bucket.object(hash_of(&unneeded)).exists());
}

/// Services that take no condition say so, each in its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_cannot_only_make_objects_replaces_them() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    bucket.fail(|request| request.creates.then_some(BucketFault::Status(501, "NotImplemented")));
    let store = open(&dir, bucket.config()).await;
    until_usable(&store).await;
    let contents = [noise(100_000, 1), noise(100_001, 2)];
    for content in &contents {
        put(&store, content).await;
        assert_eq!(read(&store, hash_of(content), 0, None).await.as_ref(), Ok(content));
    }
    bucket.take_seen();
    put(&store, &noise(100_002, 3)).await;
    // It is not asked of it again.
    assert!(bucket.take_seen().iter().all(|request| !request.creates));
}

/// A store on a directory, whose disk can be taken away.
struct OnDisk {
    disk: tempfile::TempDir,
    config: BucketConfig,
}

impl OnDisk {
    fn new(write_back: bool) -> Self {
        let disk = tempfile::tempdir().unwrap();
        let place = parse_place(&disk.path().join("mounted").display().to_string());
        let mut config = BucketConfig { patience: impatient(), ..BucketConfig::new(place, 0) };
        config.place.write_back = write_back;
        Self { disk, config }
    }

    fn place(&self) -> PathBuf {
        self.disk.path().join("mounted")
    }

    /// Takes it away, and leaves an empty directory where it was, as a file system that is not mounted does.
    fn unmount(&self, leaves_a_directory: bool) {
        std::fs::rename(self.place(), self.disk.path().join("away")).unwrap();
        if leaves_a_directory {
            std::fs::create_dir(self.place()).unwrap();
        }
    }

    /// Brings it back; what was written meanwhile where it belongs.
    fn mount(&self) -> Vec<PathBuf> {
        let beneath = walkdir::WalkDir::new(self.place()).into_iter().filter_map(Result::ok);
        // Of a snapshot that was being written when the disk went, a piece may be there, which counts as not written.
        let is_left = |entry: &walkdir::DirEntry| {
            let is_of_snapshot = entry.path().iter().any(|part| part == "can-sync-snapshots");
            entry.file_type().is_file() && !is_of_snapshot
        };
        let beneath = beneath.filter(is_left).map(|entry| entry.path().to_owned()).collect();
        let _ = std::fs::remove_dir_all(self.place());
        std::fs::rename(self.disk.path().join("away"), self.place()).unwrap();
        beneath
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_put_where_the_disk_of_a_directory_was() {
    for leaves_a_directory in [false, true] {
        let (dir, on) = (tempfile::tempdir().unwrap(), OnDisk::new(false));
        let store = open(&dir, on.config.clone()).await;
        let contents = [noise(100_000, 1), noise(20 << 20, 2)];
        put(&store, &contents[0]).await;
        on.unmount(leaves_a_directory);
        for content in [noise(200_000, 3), noise(20 << 20, 4)] {
            let refused = try_put(&store, &content).await;
            assert!(matches!(refused, Err(StoreError::BucketAway { .. })), "{refused:?}");
        }
        let away = store.status().await.unwrap().contents_away.expect("it is said");
        assert!(away.contains("can-sync-bucket"), "{away}");
        // What is read from there by chance does not make it the place again.
        let stray = noise(300_000, 5);
        let hash = hash_of(&stray).to_string();
        let at = on.place().join(&hash[..2]).join(&hash[2..4]);
        std::fs::create_dir_all(&at).unwrap();
        std::fs::write(at.join(&hash), &stray).unwrap();
        assert!(try_put(&store, &stray).await.is_err());
        let _ = read(&store, hash_of(&contents[0]), 0, None).await;
        assert!(store.status().await.unwrap().contents_away.is_some());
        std::fs::remove_dir_all(on.place().join(&hash[..2])).unwrap();
        assert_eq!(on.mount(), [""; 0].map(PathBuf::from), "nothing else was written there");
        until_usable(&store).await;
        put(&store, &contents[1]).await;
        for content in &contents {
            assert_eq!(read(&store, hash_of(content), 0, None).await.as_ref(), Ok(content));
        }
        assert_eq!(store.status().await.unwrap().damaged, 0);
        // Without its disk it is not opened, and nothing is made there.
        store.close().await;
        on.unmount(false);
        let refused =
            try_open_on(dir.path(), on.config.clone(), Clock::system()).await.map(drop).unwrap_err();
        assert!(refused.to_string().contains("mount the disk"), "{refused}");
        assert!(!on.place().exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_up_later_waits_for_the_disk_of_a_directory() {
    let (dir, on) = (tempfile::tempdir().unwrap(), OnDisk::new(true));
    let store = open(&dir, on.config.clone()).await;
    until_usable(&store).await;
    on.unmount(true);
    let contents = [noise(100_000, 1), noise(20 << 20, 2)];
    for content in &contents {
        put(&store, content).await;
    }
    eventually("it is said why they wait", async || {
        let waiting = store.status().await.unwrap().waiting_uploads.unwrap();
        let is_said = waiting.last_error.as_ref().is_some_and(|why| why.contains("can-sync-bucket"));
        if is_said && waiting.contents == 2 { Ok(()) } else { Err(format!("{waiting:?}")) }
    })
    .await;
    for content in &contents {
        assert_eq!(read(&store, hash_of(content), 0, None).await.as_ref(), Ok(content));
    }
    assert_eq!(on.mount(), [""; 0].map(PathBuf::from));
    eventually("they go up", async || {
        let waiting = store.status().await.unwrap().waiting_uploads.unwrap();
        if waiting.contents == 0 { Ok(()) } else { Err(format!("{waiting:?}")) }
    })
    .await;
    for content in &contents {
        let hash = hash_of(content).to_string();
        assert!(on.place().join(&hash[..2]).join(&hash[2..4]).join(&hash).is_file());
        assert_eq!(read(&store, hash_of(content), 0, None).await.as_ref(), Ok(content));
    }
}
