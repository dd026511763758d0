//! Contents that are in the bucket and that a store does not know to be there: another one put them there, or it was set back.

use can_sync::testing::store::bucket::BucketConfig;
use can_sync::testing::store::{ContentStore, Holding, ItemOutcome, StoreError};
use hyper::Method;

use super::{open, put, until_nothing_is_pending, until_usable};
use crate::support::bucket::{BucketFault, TestBucket};
use crate::support::embedded::{content_files, content_path};
use crate::support::nodes::eventually;
use crate::support::store::{edited, hash_of, held, incoming, noise, read, record_of};

fn shared(bucket: &TestBucket) -> BucketConfig {
    let mut config = bucket.config();
    config.place.shared = true;
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_is_taken_over_once_all_of_it_is_found_right() {
    let (one, two, bucket) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), TestBucket::start().await);
    let (first, second) = (open(&one, shared(&bucket)).await, open(&two, shared(&bucket)).await);
    until_usable(&second).await;
    for content in [noise(5_000, 1), noise(300_000, 2), noise(9 << 20, 3)] {
        put(&first, &content).await;
        bucket.take_seen();
        let record = record_of(&content);
        assert!(second.may_take_over(record.size));
        assert_eq!(second.take_over(record.clone()).await, Ok(Some(ItemOutcome::Stored)));
        let seen = bucket.take_seen();
        assert!(seen.iter().all(|request| [Method::HEAD, Method::GET].contains(&request.method)));
        assert_eq!(second.records(vec![record.hash]).await.unwrap()[0].holding, Holding::Held);
        // Ranges are compared with the sums that were made of it, and no more than a group is read.
        assert_eq!(read(&second, record.hash, 100, Some(50)).await.as_deref(), Ok(&content[100..150]));
        bucket.take_seen();
        assert_eq!(second.take_over(record).await, Ok(Some(ItemOutcome::Unchanged)));
        assert!(bucket.take_seen().iter().all(|request| !request.is_content()));
    }
    // What is inline is never looked for, nor what was deleted here meanwhile kept.
    assert!(!second.may_take_over(4096));
    let deleted = noise(300_000, 4);
    put(&first, &deleted).await;
    let record = record_of(&deleted);
    second.apply(vec![edited(&record, 1000, None)]).await.unwrap();
    assert_eq!(second.take_over(record).await, Ok(Some(ItemOutcome::Unchanged)));
    assert!(second.records(vec![hash_of(&deleted)]).await.unwrap()[0].record.deleted);
    assert!(bucket.object(hash_of(&deleted)).is_file());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_or_not_right_is_left_to_be_fetched() {
    let (one, two, bucket) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), TestBucket::start().await);
    let (first, second) = (open(&one, shared(&bucket)).await, open(&two, shared(&bucket)).await);
    until_usable(&second).await;
    assert_eq!(second.take_over(record_of(&noise(300_000, 4))).await, Ok(None));
    for wrong in [noise(300_000, 6), noise(200_000, 6)] {
        let content = noise(300_000, 5);
        put(&first, &content).await;
        std::fs::write(bucket.object(hash_of(&content)), wrong).unwrap();
        assert_eq!(second.take_over(record_of(&content)).await, Ok(None));
        assert_eq!(held(&second, hash_of(&content)).await, None);
    }
    let content = noise(300_000, 5);
    let arrived = second.ingest(vec![incoming(record_of(&content), &content)]).await;
    assert_eq!(arrived, Ok(vec![ItemOutcome::Stored]));
    assert_eq!(read(&first, hash_of(&content), 0, None).await, Ok(content));
    // One that does not answer is not asked for each content.
    let away = noise(300_000, 7);
    put(&first, &away).await;
    bucket.fail(|_| Some(BucketFault::Status(503, "ServiceUnavailable")));
    assert_eq!(second.take_over(record_of(&away)).await, Ok(None));
    assert!(!second.may_take_over(300_000));
    bucket.fail(|_| None);
    until_usable(&second).await;
    eventually("it is asked again", async || {
        if second.may_take_over(300_000) { Ok(()) } else { Err("it is not".to_owned()) }
    })
    .await;
    assert_eq!(second.take_over(record_of(&away)).await, Ok(Some(ItemOutcome::Stored)));
    // An own place has nothing of others.
    let own = TestBucket::start().await;
    let dir = tempfile::tempdir().unwrap();
    assert!(!open(&dir, own.config()).await.may_take_over(300_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_is_found_once_it_is_there_again_and_nothing_else_is_looked_for() {
    let (one, two, bucket) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), TestBucket::start().await);
    let (first, second) = (open(&one, shared(&bucket)).await, open(&two, shared(&bucket)).await);
    until_usable(&second).await;
    let (lost, never_here) = (noise(300_000, 1), noise(300_001, 2));
    let hash = put(&second, &lost).await;
    std::fs::remove_file(bucket.object(hash)).unwrap();
    eventually("it is lost", async || match read(&second, hash, 0, None).await {
        Err(StoreError::NotHeld(_)) => Ok(()),
        other => Err(format!("{:?}", other.map(drop))),
    })
    .await;
    second.take_absent(vec![record_of(&never_here)]).await.unwrap();
    // Another store brings them.
    put(&first, &never_here).await;
    put(&first, &lost).await;
    eventually("it is found", async || {
        let stored = second.records(vec![hash]).await.unwrap().remove(0);
        if stored.holding == Holding::Held { Ok(()) } else { Err(format!("{stored:?}")) }
    })
    .await;
    assert_eq!(read(&second, hash, 0, None).await, Ok(lost));
    // Whether it is to be held here is not the store's to know.
    assert_eq!(second.records(vec![hash_of(&never_here)]).await.unwrap()[0].holding, Holding::Wanted);
    let looks = bucket.take_seen().into_iter().filter(|request| request.method == Method::HEAD);
    let name = hash_of(&never_here).to_string();
    assert!(looks.into_iter().all(|request| !request.path.contains(&name)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_right_in_the_bucket_outlives_a_file_of_it_that_is_not() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let mut config = bucket.config();
    config.place.write_back = true;
    let store = open(&dir, config).await;
    let waiting =
        async || store.status().await.unwrap().waiting_uploads.map_or(0, |waiting| waiting.contents);
    let content = noise(300_000, 1);
    let hash = put(&store, &content).await;
    eventually("it is up", async || {
        let left = (waiting().await, content_files(dir.path()));
        if left.0 == 0 && left.1.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    let is_put = |request: &hyper::Method| *request == Method::PUT;
    bucket.fail(move |request| {
        is_put(&request.method).then_some(BucketFault::Status(503, "ServiceUnavailable"))
    });
    put(&store, &content).await;
    assert_eq!(waiting().await, 1);
    std::fs::write(content_path(dir.path(), hash), noise(300_000, 2)).unwrap();
    // Who brings it up reads it as well, and may have set it aside already.
    let refused = read(&store, hash, 0, None).await;
    assert!(matches!(refused, Err(StoreError::Corrupt(_) | StoreError::NotHeld(_))), "{refused:?}");
    eventually("it is set aside", async || {
        let damaged = store.status().await.unwrap().damaged;
        if damaged == 1 { Ok(()) } else { Err(damaged.to_string()) }
    })
    .await;
    bucket.fail(|_| None);
    eventually("it is found where it was all the time", async || {
        let stored = store.records(vec![hash]).await.unwrap().remove(0);
        if stored.holding == Holding::Held { Ok(()) } else { Err(format!("{stored:?}")) }
    })
    .await;
    assert_eq!(read(&store, hash, 0, None).await, Ok(content));
    until_nothing_is_pending(&dir).await;
    assert_eq!((bucket.objects(), store.status().await.unwrap().damaged), ([hash].into(), 0));
}
