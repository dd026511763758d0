//! Bringing contents into the bucket, before the writer commits what relies on them.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _};

use super::super::EmbeddedStore;
use super::super::incoming::blocking;
use super::{Objects, UploadedContents, leave, pending};
use crate::disk::open_plain;
use crate::record::ContentHash;
use crate::store::bucket::upload::PutContent;
use crate::store::bucket::{Bucket, NoteUpload};
use crate::store::{ReceivedFile, StoreResult};

/// Uploads of one batch at once; the bucket has a bound of its own over all.
const UPLOADS_AT_ONCE: usize = 16;

impl EmbeddedStore {
    /// Puts files into the bucket, where there is one: what is left for the writer to place, and what is there now.
    pub(in crate::store::embedded) async fn upload_all(
        &self,
        files: &mut [ReceivedFile],
    ) -> StoreResult<Option<UploadedContents>> {
        let Some(objects) = self.0.shared.objects.as_ref().filter(|objects| !objects.write_back) else {
            return Ok(None);
        };
        let mut hashes: Vec<ContentHash> = files.iter().map(|file| file.sha256).collect();
        hashes.sort_unstable();
        hashes.dedup();
        if hashes.is_empty() {
            return Ok(None);
        }
        // In one order for all: no two uploads wait for each other.
        let mut locks = Vec::with_capacity(hashes.len());
        for hash in &hashes {
            locks.push(objects.lock(*hash).await);
        }
        // Of one that comes twice, either will do.
        let contents = files.iter().map(|file| (file.sha256, (file.size, file.path.to_path_buf())));
        let contents: HashMap<_, _> = contents.collect();
        let contents = contents.into_iter().map(|(hash, (size, path))| (hash, size, path)).collect();
        let uploading: BoxFuture<'static, StoreResult> = {
            let (store, bucket) = (self.clone(), Arc::clone(&objects.bucket));
            Box::pin(async move { store.upload_locked(bucket, contents).await })
        };
        let uploaded = uploading.await;
        if uploaded.is_err() {
            drop(locks);
            objects.wake();
            return uploaded.map(|()| None);
        }
        let contents = files.iter_mut().map(|file| (file.sha256, std::mem::take(&mut file.groups))).collect();
        Ok(Some(UploadedContents { contents, _locks: locks }))
    }

    /// Names the contents, and puts them into the bucket.
    async fn upload_locked(
        &self,
        bucket: Arc<Bucket>,
        contents: Vec<(ContentHash, u64, PathBuf)>,
    ) -> StoreResult {
        if let Some(why) = bucket.trouble_of_writing() {
            return Err(bucket.away(why));
        }
        self.name_objects(contents.iter().map(|(hash, ..)| *hash).collect(), &bucket).await?;
        let mut uploads: Vec<BoxFuture<'static, StoreResult>> = Vec::with_capacity(contents.len());
        for (hash, size, path) in contents {
            uploads.push(Box::pin(self.clone().upload(Arc::clone(&bucket), hash, size, path)));
        }
        futures::stream::iter(uploads).buffer_unordered(UPLOADS_AT_ONCE).try_collect::<()>().await
    }

    /// Names an object that is about to be put; who is told of the upload in parts that makes it.
    pub(super) async fn name_object(&self, hash: ContentHash, bucket: &Bucket) -> StoreResult<NoteUpload> {
        self.name_objects(vec![hash], bucket).await?;
        Ok(self.upload_noter(hash))
    }

    /// Names objects that are about to be put, and aborts earlier uploads of theirs.
    async fn name_objects(&self, hashes: Vec<ContentHash>, bucket: &Bucket) -> StoreResult {
        // What goes up from a full disk makes room there.
        let named = self.submit_deletion(move |tx| {
            let mut abandoned = Vec::new();
            for hash in &hashes {
                let upload = pending(tx.conn, *hash)?.and_then(|pending| pending.upload);
                abandoned.extend(upload.map(|upload| (*hash, upload)));
                leave(tx.conn, *hash)?;
            }
            Ok(Ok(abandoned))
        });
        for (hash, upload) in named.await? {
            if let Err(error) = bucket.abort(hash, upload).await {
                tracing::debug!(%hash, ?error, "an earlier upload is not aborted");
            }
        }
        Ok(())
    }

    async fn upload(self, bucket: Arc<Bucket>, hash: ContentHash, size: u64, path: PathBuf) -> StoreResult {
        let store = self.clone();
        let opened = blocking("open content", move || {
            open_plain(&path).map_err(|error| store.io_failed("open received content", &error))
        });
        let file: Arc<File> = Arc::new(opened.await?);
        let note = self.upload_noter(hash);
        bucket.put(PutContent { hash, size, file }, note).await.map_err(|error| bucket.refusal(error))
    }

    fn upload_noter(&self, hash: ContentHash) -> NoteUpload {
        let store = self.clone();
        Arc::new(move |upload| {
            let store = store.clone();
            Box::pin(async move { store.note_upload(hash, upload).await })
        })
    }

    async fn note_upload(&self, hash: ContentHash, upload: String) -> StoreResult {
        let noted = self.submit_deletion(move |tx| {
            tx.conn
                .prepare_cached("UPDATE pending_objects SET upload = ?2 WHERE hash = ?1")?
                .execute((hash.0, &upload))?;
            Ok(Ok(()))
        });
        noted.await
    }

    /// Keeps contents that were uploaded on this disk, too, as far as the cache takes them.
    pub(in crate::store::embedded) async fn cache_uploaded(&self, files: Vec<ReceivedFile>) {
        let Some(objects) = &self.0.shared.objects else { return };
        for ReceivedFile { path, size, sha256, .. } in files {
            self.cache_file(objects, sha256, size, path).await;
        }
    }

    /// Gives a file to the cache; where the disk has little room, the cache gives way.
    pub(in crate::store::embedded) async fn cache_file(
        &self,
        objects: &Objects,
        hash: ContentHash,
        size: u64,
        file: tempfile::TempPath,
    ) {
        let cache = Arc::clone(&objects.cache);
        let is_short = self.0.shared.space.shortage().is_some();
        let kept = blocking("keep a content in the cache", move || {
            if is_short {
                cache.shrink(0);
            } else {
                cache.adopt(hash, size, file);
            }
            Ok(())
        });
        if let Err(error) = kept.await {
            tracing::debug!(%error, "a content is not kept in the cache");
        }
    }
}
