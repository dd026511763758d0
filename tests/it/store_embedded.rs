//! The embedded store: the contract that it shares with others, and what it promises beyond that.

mod contract {
    use bytes::Bytes;
    use can_sync::record::ContentHash;
    use can_sync::store::StoreRef;
    use can_sync::store::embedded::{EmbeddedStore, IngestFields, MetaPatch};
    use futures::FutureExt;
    use futures::future::BoxFuture;

    use crate::store_conformance::{Fixture, conformance_tests};

    struct Embedded {
        store: EmbeddedStore,
        _dir: tempfile::TempDir,
    }

    impl Embedded {
        async fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            Self { store: super::open(dir.path()).await, _dir: dir }
        }
    }

    impl Fixture for Embedded {
        fn store(&self) -> StoreRef {
            std::sync::Arc::new(self.store.clone())
        }

        fn put(&self, content: Vec<u8>, fields: IngestFields) -> BoxFuture<'_, ContentHash> {
            async move {
                let mut upload = self.store.begin_upload();
                for chunk in content.chunks(50_000) {
                    upload.write(Bytes::copy_from_slice(chunk)).await.expect("content is taken");
                }
                upload.finish(fields).await.expect("the upload is stored").asset.record.hash
            }
            .boxed()
        }

        fn describe(&self, hash: ContentHash, text: &'static str) -> BoxFuture<'_, ()> {
            let patch = MetaPatch { description: Some(Some(text.into())), ..MetaPatch::default() };
            async move { drop(self.store.patch(hash, patch).await.expect("the asset is edited")) }.boxed()
        }

        fn delete(&self, hash: ContentHash) -> BoxFuture<'_, ()> {
            async move { drop(self.store.delete(hash).await.expect("the asset is deleted")) }.boxed()
        }
    }

    conformance_tests!(Embedded::new().await);
}

use bytes::Bytes;
use can_sync::store::embedded::{EmbeddedConfig, EmbeddedStore, IngestFields, Ingested, ListQuery};
use can_sync::store::{ContentStore, StoreError};
use futures::TryStreamExt;

async fn open(dir: &std::path::Path) -> EmbeddedStore {
    EmbeddedStore::open(EmbeddedConfig { dir: dir.to_owned(), disk_reserve_bytes: 0 })
        .await
        .expect("the store opens")
}

async fn upload(store: &EmbeddedStore, content: &[u8], fields: IngestFields) -> Result<Ingested, StoreError> {
    let mut upload = store.begin_upload();
    for chunk in content.chunks(50_000) {
        upload.write(Bytes::copy_from_slice(chunk)).await?;
    }
    upload.finish(fields).await
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let small = upload(&store, b"small", IngestFields::default()).await.unwrap();
    let large = upload(&store, &vec![7; 300_000], IngestFields::default()).await.unwrap();
    assert!(small.new && large.new);
    store.close().await;

    let store = open(dir.path()).await;
    let page = store.list(ListQuery::default()).await.unwrap();
    assert_eq!((page.assets.len(), page.total), (2, 2));
    let reader = store.content(large.asset.record.hash, 0, None).await.unwrap();
    let chunks: Vec<Bytes> = reader.chunks.try_collect().await.unwrap();
    assert_eq!(chunks.concat(), vec![7; 300_000]);
}
