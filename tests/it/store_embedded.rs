//! The embedded store beyond the contract that it shares with others.

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
