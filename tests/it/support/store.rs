//! Records and content to put into stores, and ways to look at what a store holds.

use std::io::Write;

use bytes::Bytes;
use can_sync::testing::record::{AssetMeta, AssetRecord, ContentHash, Hlc, WriterId};
use can_sync::testing::store::{
    ContentStore, FeedEntry, IncomingAsset, IncomingContent, ReceivedFile, StoreError, StoredRecord,
};
use futures::TryStreamExt;
use sha2::{Digest, Sha256};

/// A time at which the tests' records were made, well in the past.
pub(crate) const LONG_AGO_MS: u64 = 1_700_000_000_000;

/// The CAN hash of content.
pub(crate) fn hash_of(content: &[u8]) -> ContentHash {
    ContentHash(Sha256::digest(content).into())
}

/// The record of content that was first stored at [`LONG_AGO_MS`] and never edited.
pub(crate) fn record_of(content: &[u8]) -> AssetRecord {
    let meta =
        AssetMeta { mime_type: "text/plain".into(), created_at_ms: LONG_AGO_MS, ..AssetMeta::default() };
    let blake3 = *blake3::hash(content).as_bytes();
    AssetRecord::new(hash_of(content), content.len() as u64, Some(blake3), meta)
}

/// The record as someone edited it `after_ms` later: with this description, or deleted.
pub(crate) fn edited(record: &AssetRecord, after_ms: u64, description: Option<&str>) -> AssetRecord {
    let meta = AssetMeta { description: description.map(str::to_owned), ..record.meta.clone() };
    AssetRecord {
        hlc: Hlc::from_ms(record.hlc.ms() + after_ms),
        writer: WriterId([7; 32]),
        deleted: description.is_none(),
        meta,
        ..record.clone()
    }
}

/// An asset to ingest, with its content in memory.
pub(crate) fn incoming(record: AssetRecord, content: &[u8]) -> IncomingAsset {
    IncomingAsset { record, content: IncomingContent::Bytes(Bytes::copy_from_slice(content)) }
}

/// An asset to ingest, with its content in a file as a receiver leaves it.
pub(crate) fn incoming_file(record: AssetRecord, content: &[u8]) -> IncomingAsset {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(content).expect("content is written");
    let received = ReceivedFile {
        path: file.into_temp_path(),
        size: content.len() as u64,
        sha256: hash_of(content),
        blake3: *blake3::hash(content).as_bytes(),
        groups: Vec::new(),
    };
    IncomingAsset { record, content: IncomingContent::File(received) }
}

/// Content of this length that compresses badly and differs by `seed`.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut content = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).finalize_xof().fill(&mut content);
    content
}

/// Part of an asset's content.
pub(crate) async fn read(
    store: &dyn ContentStore,
    hash: ContentHash,
    offset: u64,
    length: Option<u64>,
) -> Result<Vec<u8>, StoreError> {
    let reader = store.content(hash, offset, length).await?;
    let chunks: Vec<Bytes> = reader.chunks.try_collect().await?;
    assert!(chunks.iter().all(|chunk| chunk.len() <= 256 * 1024), "chunks are bounded");
    Ok(chunks.concat())
}

/// The whole feed after `since`, in pages of `limit`.
pub(crate) async fn read_feed(store: &dyn ContentStore, mut since: u64, limit: usize) -> Vec<FeedEntry> {
    let mut all = Vec::new();
    loop {
        let page = store.feed(since, limit).await.expect("the feed can be read");
        assert!(!page.reset, "the cursor {since} is not too old");
        assert!(page.entries.len() <= limit);
        match page.entries.last() {
            Some(last) => since = last.seq,
            None => return all,
        }
        all.extend(page.entries);
    }
}

/// The record that the store has, if it has one, and whether its content is there.
pub(crate) async fn holding(store: &dyn ContentStore, hash: ContentHash) -> Option<StoredRecord> {
    store.records(vec![hash]).await.expect("records can be read").pop()
}

/// The record that the store has, if it has one.
pub(crate) async fn held(store: &dyn ContentStore, hash: ContentHash) -> Option<AssetRecord> {
    holding(store, hash).await.map(|stored| stored.record)
}
