//! What every store has to do, done by one that has its larger contents in a bucket.

use can_sync::testing::clock::Clock;
use can_sync::testing::record::ContentHash;
use can_sync::testing::store::StoreRef;
use can_sync::testing::store::embedded::{EmbeddedStore, IngestFields, MetaPatch};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::store_conformance::{Fixture, conformance_tests};
use crate::support::bucket::{TestBucket, try_open_on};
use crate::support::embedded::upload;

struct OnBucket {
    store: EmbeddedStore,
    _dir: tempfile::TempDir,
    _bucket: TestBucket,
}

impl OnBucket {
    async fn new(write_back: bool) -> Self {
        let (dir, bucket) = (tempfile::tempdir().expect("a directory"), TestBucket::start().await);
        let mut config = bucket.config();
        config.place.write_back = write_back;
        let store = try_open_on(dir.path(), config, Clock::system()).await;
        Self { store: store.expect("the store opens"), _dir: dir, _bucket: bucket }
    }
}

impl Fixture for OnBucket {
    fn store(&self) -> StoreRef {
        std::sync::Arc::new(self.store.clone())
    }

    fn put(&self, content: Vec<u8>, fields: IngestFields) -> BoxFuture<'_, ContentHash> {
        async move { upload(&self.store, &content, fields).await.asset.record.hash }.boxed()
    }

    fn describe(&self, hash: ContentHash, text: &'static str) -> BoxFuture<'_, ()> {
        let patch = MetaPatch { description: Some(Some(text.into())), ..MetaPatch::default() };
        async move { drop(self.store.patch(hash, patch).await.expect("the asset is edited")) }.boxed()
    }

    fn delete(&self, hash: ContentHash) -> BoxFuture<'_, ()> {
        async move { drop(self.store.delete(hash).await.expect("the asset is deleted")) }.boxed()
    }
}

conformance_tests!(OnBucket::new(false).await);

/// By one whose contents go there afterwards.
mod write_back {
    use super::OnBucket;
    use crate::store_conformance::conformance_tests;

    conformance_tests!(OnBucket::new(true).await);
}
