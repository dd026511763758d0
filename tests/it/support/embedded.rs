//! Embedded stores in directories of tests.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;
use can_sync::testing::clock::Clock;
use can_sync::testing::record::ContentHash;
use can_sync::testing::store::StoreError;
use can_sync::testing::store::embedded::{EmbeddedConfig, EmbeddedStore, IngestFields, Ingested};

/// Opens a store without a reserve.
pub(crate) async fn open(dir: &Path) -> EmbeddedStore {
    try_open(dir, 0).await.expect("the store opens")
}

/// Opens a store.
pub(crate) async fn try_open(dir: &Path, disk_reserve_bytes: u64) -> Result<EmbeddedStore, StoreError> {
    let clock = Clock::system();
    EmbeddedStore::open(EmbeddedConfig { dir: dir.to_owned(), disk_reserve_bytes, clock }).await
}

/// Opens a store on a machine with this clock.
pub(crate) async fn open_by(dir: &Path, clock: &Clock) -> EmbeddedStore {
    let config = EmbeddedConfig { dir: dir.to_owned(), disk_reserve_bytes: 0, clock: clock.clone() };
    EmbeddedStore::open(config).await.expect("the store opens")
}

/// Uploads content as a user does, in chunks.
pub(crate) async fn try_upload(
    store: &EmbeddedStore,
    content: &[u8],
    fields: IngestFields,
) -> Result<Ingested, StoreError> {
    let mut upload = store.begin_upload();
    for chunk in content.chunks(50_000) {
        upload.write(Bytes::copy_from_slice(chunk)).await?;
    }
    upload.finish(fields).await
}

/// Uploads content that is taken.
pub(crate) async fn upload(store: &EmbeddedStore, content: &[u8], fields: IngestFields) -> Ingested {
    try_upload(store, content, fields).await.expect("the upload is stored")
}

/// The files below `content/`, by the names that they have.
pub(crate) fn content_files(dir: &Path) -> BTreeSet<ContentHash> {
    walkdir::WalkDir::new(dir.join("content"))
        .into_iter()
        .map(|entry| entry.expect("a readable directory"))
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()).expect("a hash"))
        .collect()
}

/// How many files are below `tmp/`.
pub(crate) fn temporary_files(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("tmp")).expect("a readable directory").count()
}

/// Where the content of this hash lies if it is in a file.
pub(crate) fn content_path(dir: &Path, hash: ContentHash) -> std::path::PathBuf {
    let name = hash.to_string();
    dir.join("content").join(&name[..2]).join(&name[2..4]).join(name)
}

/// Copies a directory, a store that is open perhaps, as somebody does who does not know better.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry.expect("a readable directory");
        let target = to.join(entry.path().strip_prefix(from).expect("it is below"));
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(target).expect("a directory");
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}
