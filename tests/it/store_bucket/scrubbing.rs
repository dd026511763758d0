//! Scrubbing a store with contents in a bucket: they are not read, and nobody says that they were.

use std::sync::Arc;
use std::time::Duration;

use can_sync::testing::store::scrub::{ScrubResult, ScrubSettings};

use super::*;

/// Scrubs a store once.
async fn scrubbed(store: &EmbeddedStore) -> ScrubResult {
    let settings =
        ScrubSettings { settle: Duration::ZERO, ..ScrubSettings::every(30, 1 << 30, Arc::new(|| false)) };
    let scrubber = tokio::spawn(store.clone().scrub_for_ever(settings));
    let last = eventually("the store is scrubbed", async || {
        let report = store.scrub_report().await.expect("a report");
        report.last.clone().ok_or_else(|| format!("{report:?}"))
    })
    .await;
    scrubber.abort();
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_bucket_is_counted_apart_from_what_was_checked() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let (small, large): (Vec<_>, Vec<_>) = (0..20).map(|n| (noise(500, n), noise(5_000, 100 + n))).unzip();
    let file = noise(300_000, 200);
    let store = crate::support::embedded::open(dir.path()).await;
    put(&store, &file).await;
    store.close().await;
    let store = open(&dir, bucket.config()).await;
    for content in small.iter().chain(&large) {
        put(&store, content).await;
    }
    bucket.take_seen();
    let last = scrubbed(&store).await;
    assert_eq!((last.checked, last.bytes), (21, 20 * 500 + 300_000), "{last:?}");
    assert_eq!((last.not_checked, last.not_checked_bytes), (20, 20 * 5_000), "{last:?}");
    assert_eq!((last.found, last.unreadable, last.without_record), (0, 0, 0), "{last:?}");
    assert!(bucket.take_seen().iter().all(|request| !request.is_content()), "reading costs money");
}
