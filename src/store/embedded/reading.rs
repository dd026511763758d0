//! Where the bytes of a content are read from: its file, the bucket, or the cache of the bucket.

use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tempfile::NamedTempFile;

use super::EmbeddedStore;
use super::content::{READ_AHEAD, READ_GROUPS, WRONG_BYTES, from_memory, index, read_at};
use super::incoming::blocking;
use crate::record::ContentHash;
use crate::store::StoreResult;
use crate::store::groups::{GROUP_BYTES, GroupSum, group_sum};

/// Groups of a bucket's object that are read at once: 1 MiB, for each request takes a while.
const OBJECT_GROUPS: u64 = 16;
/// So many requests are ahead of the reader.
const OBJECTS_AHEAD: usize = 4;
/// Longest piece that a reader is given.
const PIECE_BYTES: usize = 4 * GROUP_BYTES;

#[derive(Clone)]
pub(super) struct StoredBytes {
    pub(super) hash: ContentHash,
    pub(super) size: u64,
    pub(super) from: BytesFrom,
}

#[derive(Clone)]
pub(super) enum BytesFrom {
    /// The content's own file.
    File(Arc<File>),
    /// A copy of what is in the bucket: where it is wrong, that is asked.
    Cached(Arc<File>),
    Object,
}

impl BytesFrom {
    pub(super) fn groups_at_once(&self) -> u64 {
        match self {
            Self::File(_) | Self::Cached(_) => READ_GROUPS,
            Self::Object => OBJECT_GROUPS,
        }
    }

    /// How many such reads are ahead of the reader.
    pub(super) fn runs_ahead(&self) -> usize {
        match self {
            Self::File(_) | Self::Cached(_) => READ_AHEAD,
            Self::Object => OBJECTS_AHEAD,
        }
    }
}

impl EmbeddedStore {
    /// Reads whole groups from `first` on: their bytes, and what they hash to.
    pub(super) async fn read_groups(
        &self,
        content: &StoredBytes,
        first: u64,
        at: Range<u64>,
    ) -> StoreResult<(Bytes, Vec<GroupSum>)> {
        let hash = content.hash;
        let sums = move |bytes: &[u8]| {
            let groups = (index(first)..).zip(bytes.chunks(GROUP_BYTES));
            groups.map(|(group, bytes)| group_sum(group, bytes)).collect::<Vec<_>>()
        };
        match &content.from {
            BytesFrom::File(file) | BytesFrom::Cached(file) => {
                let (file, range) = (Arc::clone(file), at.clone());
                let read = blocking("read content", move || {
                    Ok(read_at(&file, range).map(|bytes| {
                        let found = sums(&bytes);
                        (bytes, found)
                    }))
                });
                match (read.await?, &content.from) {
                    (Ok(read), _) => Ok(read),
                    // It is asked for in the bucket.
                    (Err(_), BytesFrom::Cached(_)) => Ok((Bytes::new(), Vec::new())),
                    (Err(error), BytesFrom::File(_) | BytesFrom::Object) => Err(self.failed(hash, &error)),
                }
            }
            BytesFrom::Object => {
                let bytes = self.read_object(hash, content.size, at).await?;
                blocking("read content", move || {
                    let found = sums(&bytes);
                    Ok((bytes, found))
                })
                .await
            }
        }
    }

    async fn read_object(&self, hash: ContentHash, size: u64, at: Range<u64>) -> StoreResult<Bytes> {
        let Some(objects) = &self.0.shared.objects else { return Err(EmbeddedStore::without_bucket()) };
        objects.bucket.range(hash, size, at).await.map_err(|error| self.object_failed(hash, error))
    }

    /// What a copy is one of, now that it was found to be wrong: it is removed. `None` for what is no copy.
    pub(super) async fn without_cached(&self, content: &StoredBytes) -> StoreResult<Option<StoredBytes>> {
        if !matches!(content.from, BytesFrom::Cached(_)) {
            return Ok(None);
        }
        let hash = content.hash;
        tracing::warn!(%hash, "a content in the cache is damaged: it is removed, and read from the object storage");
        if let Some(objects) = &self.0.shared.objects {
            let cache = Arc::clone(&objects.cache);
            blocking("remove a content from the cache", move || {
                cache.remove(hash);
                Ok(())
            })
            .await?;
        }
        Ok(Some(StoredBytes { from: BytesFrom::Object, ..content.clone() }))
    }

    /// The cache's file of a content, if it has one.
    pub(super) async fn open_cached(&self, hash: ContentHash, size: u64) -> StoreResult<Option<File>> {
        let Some(objects) = &self.0.shared.objects else { return Ok(None) };
        let cache = Arc::clone(&objects.cache);
        blocking("look into the cache", move || Ok(cache.file(hash, size))).await
    }

    /// Reads a range of a content in the bucket.
    pub(super) async fn stream_object(
        &self,
        hash: ContentHash,
        size: u64,
        range: Range<u64>,
        has_sums: bool,
    ) -> StoreResult<BoxStream<'static, StoreResult<Bytes>>> {
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        let cached = self.open_cached(hash, size).await?;
        let from = cached.map_or(BytesFrom::Object, |file| BytesFrom::Cached(Arc::new(file)));
        let content = StoredBytes { hash, size, from };
        if size <= GROUP_BYTES as u64 {
            return self.read_single_group(content, range).await;
        }
        if !has_sums {
            self.make_sums(hash).await?;
        }
        let is_kept = self.0.shared.objects.as_ref().is_some_and(|objects| objects.cache.takes(size));
        let fills = matches!(content.from, BytesFrom::Object) && is_kept && range == (0..size);
        let read = self.compared(content, range);
        let read = if fills { self.filling_cache(hash, size, read).await } else { read };
        Ok(read.map_ok(|bytes| stream::iter(pieces(bytes).map(Ok))).try_flatten().boxed())
    }

    /// A content of one group is hashed each time.
    async fn read_single_group(
        &self,
        content: StoredBytes,
        range: Range<u64>,
    ) -> StoreResult<BoxStream<'static, StoreResult<Bytes>>> {
        let (hash, size) = (content.hash, content.size);
        if matches!(content.from, BytesFrom::Cached(_)) {
            let (bytes, _) = self.read_groups(&content, 0, 0..size).await?;
            if hash.is_of(&bytes) {
                return Ok(from_memory(&bytes, range));
            }
            self.without_cached(&content).await?;
        }
        let bytes = self.read_object(hash, size, 0..size).await?;
        if !hash.is_of(&bytes) {
            return Err(self.suspect(hash, WRONG_BYTES));
        }
        let read = from_memory(&bytes, range);
        if let Some(mut fill) = self.begin_fill(hash, size).await {
            fill.take(bytes).await;
            fill.finish(self).await;
        }
        Ok(read)
    }

    /// The same bytes, which go to the cache on their way.
    async fn filling_cache(
        &self,
        hash: ContentHash,
        size: u64,
        read: BoxStream<'static, StoreResult<Bytes>>,
    ) -> BoxStream<'static, StoreResult<Bytes>> {
        let Some(fill) = self.begin_fill(hash, size).await else { return read };
        let store = self.clone();
        stream::try_unfold((read, Some(fill)), move |(mut read, mut fill)| {
            let store = store.clone();
            async move {
                let next = read.try_next().await?;
                if let (Some(bytes), Some(filling)) = (&next, &mut fill) {
                    filling.take(bytes.clone()).await;
                }
                // Readers that know the length do not come back for the end.
                if let Some(full) = fill.take_if(|fill| fill.is_full()) {
                    full.finish(&store).await;
                }
                Ok(next.map(|bytes| (bytes, (read, fill))))
            }
        })
        .boxed()
    }

    async fn begin_fill(&self, hash: ContentHash, size: u64) -> Option<CacheFill> {
        let cache = Arc::clone(&self.0.shared.objects.as_ref()?.cache);
        let is_wanted = cache.takes(size) && self.0.shared.space.shortage().is_none();
        if !is_wanted {
            return None;
        }
        let tmp = self.0.shared.layout.tmp();
        let made = blocking("make a temporary file", move || Ok(NamedTempFile::new_in(tmp).ok()));
        let file = made.await.ok().flatten()?;
        Some(CacheFill { hash, size, written: 0, file: Some(file) })
    }
}

/// A content on its way into the cache.
struct CacheFill {
    hash: ContentHash,
    size: u64,
    written: u64,
    /// `None` once it could not be written.
    file: Option<NamedTempFile>,
}

impl CacheFill {
    fn is_full(&self) -> bool {
        self.written >= self.size
    }

    async fn take(&mut self, bytes: Bytes) {
        let Some(mut file) = self.file.take() else { return };
        self.written += bytes.len() as u64;
        let written = tokio::task::spawn_blocking(move || file.write_all(&bytes).map(|()| file));
        self.file = written.await.ok().and_then(Result::ok);
    }

    async fn finish(self, store: &EmbeddedStore) {
        if let (Some(file), Some(objects)) = (self.file, &store.0.shared.objects)
            && self.written == self.size
        {
            store.cache_file(objects, self.hash, self.size, file.into_temp_path()).await;
        }
    }
}

/// The same bytes in pieces that readers take.
fn pieces(bytes: Bytes) -> impl Iterator<Item = Bytes> {
    let starts = (0..bytes.len()).step_by(PIECE_BYTES);
    starts.map(move |start| bytes.slice(start..(start + PIECE_BYTES).min(bytes.len())))
}
