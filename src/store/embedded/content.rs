//! Reading content. What is in the database is small and hashed each time; a file is checked for its length, since it
//! was hashed on its way in and hashing it again for each range would cost more than reading it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use sha2::{Digest, Sha256};

use super::rows::{self, ContentPlace};
use super::{EmbeddedStore, HASHES_MAX};
use crate::record::ContentHash;
use crate::store::{ContentReader, StoreError};

/// Bytes read at once.
const CHUNK_BYTES: u64 = 256 * 1024;
/// Chunks that are read ahead of their reader.
const READ_AHEAD: usize = 2;

enum ContentSource {
    Inline(Bytes),
    File { size: u64 },
}

impl EmbeddedStore {
    /// The contents of those live assets whose content is at most [`INLINE_BYTES_MAX`](super::INLINE_BYTES_MAX) long,
    /// in one read; the others, and damaged ones, are left out. At most 1,000 hashes; all of it is in memory, so the
    /// caller bounds the sum by the sizes in the records.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for too many hashes; [`StoreError::Io`].
    pub async fn contents_inline(
        &self,
        hashes: Vec<ContentHash>,
    ) -> Result<Vec<(ContentHash, Bytes)>, StoreError> {
        if hashes.len() > HASHES_MAX {
            return Err(StoreError::Invalid(format!("at most {HASHES_MAX} contents can be read at once")));
        }
        let read = move |conn: &rusqlite::Connection| {
            let mut found = Vec::with_capacity(hashes.len());
            for hash in hashes {
                if let Some(Ok(ContentSource::Inline(bytes))) = source(conn, hash)? {
                    found.push((hash, bytes));
                }
            }
            Ok(found)
        };
        self.0.shared.readers.run("read small contents", read).await
    }

    pub(super) async fn read_content(
        &self,
        hash: ContentHash,
        offset: u64,
        length: Option<u64>,
    ) -> Result<ContentReader, StoreError> {
        let found = self.0.shared.readers.run("read content", move |conn| source(conn, hash)).await?;
        let source = found.ok_or(StoreError::NotFound(hash))??;
        let total = match &source {
            ContentSource::Inline(bytes) => bytes.len() as u64,
            ContentSource::File { size } => *size,
        };
        if offset > total {
            return Err(StoreError::Invalid(format!(
                "offset {offset} is past the end of {hash}, which has {total} bytes"
            )));
        }
        let end = length.map_or(total, |length| offset.saturating_add(length).min(total));
        match source {
            ContentSource::Inline(bytes) => Ok(from_memory(&bytes, offset, end)),
            ContentSource::File { size } => self.stream_file(hash, size, offset, end).await,
        }
    }

    async fn stream_file(
        &self,
        hash: ContentHash,
        size: u64,
        offset: u64,
        end: u64,
    ) -> Result<ContentReader, StoreError> {
        let path = self.0.shared.layout.content(hash);
        let opened = tokio::task::spawn_blocking(move || {
            let file = File::open(path)?;
            let len = file.metadata()?.len();
            Ok::<_, io::Error>((file, len))
        })
        .await
        .map_err(|error| unreadable(hash, &error.to_string()))?;
        let file = match opened {
            Ok((file, len)) if len == size => Arc::new(file),
            Ok((_, len)) => {
                tracing::error!(%hash, len, size, "stored content has the wrong length");
                return Err(StoreError::Corrupt(hash));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::error!(%hash, "stored content is missing");
                return Err(StoreError::Corrupt(hash));
            }
            Err(error) => return Err(unreadable(hash, &error.to_string())),
        };
        let starts = (0..).map(move |n| offset + n * CHUNK_BYTES).take_while(move |start| *start < end);
        let chunks = stream::iter(starts)
            .map(move |start| {
                let len = CHUNK_BYTES.min(end - start);
                read_chunk(Arc::clone(&file), hash, start, len)
            })
            .buffered(READ_AHEAD);
        Ok(ContentReader { total: size, chunks: chunks.boxed() })
    }
}

/// Where the content of a live asset is: `None` if there is no such asset, an error if its content is damaged or not here.
fn source(
    conn: &rusqlite::Connection,
    hash: ContentHash,
) -> Result<Option<Result<ContentSource, StoreError>>, rusqlite::Error> {
    let Some(stored) = rows::find(conn, hash)? else { return Ok(None) };
    Ok(match stored.place {
        None if stored.asset.record.deleted => None,
        None => Some(Err(StoreError::NotHeld(hash))),
        Some(ContentPlace::File) => Some(Ok(ContentSource::File { size: stored.asset.record.size })),
        Some(ContentPlace::Inline(id)) => {
            let whole =
                rows::inline_content(conn, id)?.filter(|data| Sha256::digest(data).as_slice() == hash.0);
            if whole.is_none() {
                tracing::error!(%hash, "stored content is damaged");
            }
            Some(whole.map(|data| ContentSource::Inline(data.into())).ok_or(StoreError::Corrupt(hash)))
        }
    })
}

fn from_memory(bytes: &Bytes, offset: u64, end: u64) -> ContentReader {
    let total = bytes.len() as u64;
    // Both are at most the length, which came from a usize.
    let index = |at: u64| usize::try_from(at).unwrap_or(bytes.len());
    let part = bytes.slice(index(offset)..index(end).max(index(offset)));
    let chunks =
        if part.is_empty() { stream::empty().boxed() } else { stream::once(async { Ok(part) }).boxed() };
    ContentReader { total, chunks }
}

async fn read_chunk(file: Arc<File>, hash: ContentHash, start: u64, len: u64) -> Result<Bytes, StoreError> {
    let read = tokio::task::spawn_blocking(move || {
        let mut chunk = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut chunk, start).map(|()| Bytes::from(chunk))
    })
    .await
    .map_err(|error| unreadable(hash, &error.to_string()))?;
    read.map_err(|error| {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            StoreError::Corrupt(hash)
        } else {
            unreadable(hash, &error.to_string())
        }
    })
}

fn unreadable(hash: ContentHash, reason: &str) -> StoreError {
    StoreError::Io { action: format!("read the content of {hash}"), reason: reason.into() }
}
