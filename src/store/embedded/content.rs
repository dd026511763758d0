//! Reading content. Nothing is given away that was not checked.
//!
//! What is in the database is small and hashed each time; so are files of one group. Of larger files each group is compared with
//! its sum (`sums`) before it is given away: a range costs the groups that it touches. Where the sums are not known yet,
//! a range waits until they are made; the whole is hashed while it streams, and its last piece is held back until the hash is
//! right. Wrong bytes end the stream before its end, and the content is set aside (`damage`).
//!
//! What is in a bucket is read by range, and compared in the same way; where the cache has it, from there. Read from its beginning to
//! its end, it goes to the cache (`reading`).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};

use super::incoming::blocking;
use super::reading::{BytesFrom, StoredBytes};
use super::rows::{self, ContentPlace};
use super::sums::{self, SUMS_PER_ROW, sums_in};
use super::{EmbeddedStore, HASHES_MAX, damage};
use crate::disk::{SHORT_PATIENCE, open_plain, patiently};
use crate::record::ContentHash;
use crate::store::groups::{GROUP_BYTES, GroupHasher, GroupSum, group_range, groups_of, root};
use crate::store::{ContentReader, StoreError, StoreResult};

/// Groups that are read at once: 256 KiB.
pub(super) const READ_GROUPS: u64 = 4;
/// So many of them are read ahead of their reader.
pub(super) const READ_AHEAD: usize = 2;
/// How often a content is looked for where its file is not there.
const LOOKS_MAX: usize = 3;

enum ContentSource {
    Inline(Bytes),
    DamagedInline,
    File { size: u64, has_sums: bool },
    Object { size: u64, has_sums: bool },
}

impl EmbeddedStore {
    /// The contents of those live assets whose content is at most [`INLINE_BYTES_MAX`](super::INLINE_BYTES_MAX) long,
    /// in one read; the others, and damaged ones, are left out. At most 1,000 hashes; all of it is in memory, so the
    /// caller bounds the sum by the sizes in the records.
    pub async fn contents_inline(&self, hashes: Vec<ContentHash>) -> StoreResult<Vec<(ContentHash, Bytes)>> {
        if hashes.len() > HASHES_MAX {
            return Err(StoreError::Invalid(format!("at most {HASHES_MAX} contents can be read at once")));
        }
        let read = move |conn: &rusqlite::Connection| {
            let (mut found, mut damaged) = (Vec::with_capacity(hashes.len()), Vec::new());
            for hash in hashes {
                match source(conn, hash)? {
                    Some(Ok(ContentSource::Inline(bytes))) => found.push((hash, bytes)),
                    Some(Ok(ContentSource::DamagedInline)) => damaged.push(hash),
                    Some(Ok(ContentSource::File { .. } | ContentSource::Object { .. }) | Err(_)) | None => {}
                }
            }
            Ok((found, damaged))
        };
        self.0.shared.scrub.note_use();
        let (found, damaged) = self.0.shared.readers.run("read small contents", read).await?;
        for hash in damaged {
            self.suspect(hash, WRONG_BYTES);
        }
        Ok(found)
    }

    pub(super) async fn read_content(
        &self,
        hash: ContentHash,
        offset: u64,
        length: Option<u64>,
    ) -> StoreResult<ContentReader> {
        self.0.shared.scrub.note_use();
        let source = self.find_source(hash).await?;
        if self.0.shared.damage.is_suspect(&hash) {
            return Err(self.suspect(hash, "it was found damaged just now"));
        }
        let (source, file) = self.open_source(hash, source).await?;
        let total = match &source {
            ContentSource::Inline(bytes) => bytes.len() as u64,
            ContentSource::DamagedInline => return Err(self.suspect(hash, WRONG_BYTES)),
            ContentSource::File { size, .. } | ContentSource::Object { size, .. } => *size,
        };
        if offset > total {
            return Err(StoreError::Invalid(format!(
                "offset {offset} is past the end of {hash}, which has {total} bytes"
            )));
        }
        let range = offset..length.map_or(total, |length| offset.saturating_add(length).min(total));
        let mut chunks = match (source, file) {
            (ContentSource::Inline(bytes), _) => from_memory(&bytes, range),
            (ContentSource::File { size, has_sums }, Some(opened)) => {
                self.stream_file(hash, size, opened, range, has_sums).await?
            }
            (ContentSource::Object { size, has_sums }, _) => {
                self.stream_object(hash, size, range, has_sums).await?
            }
            (ContentSource::DamagedInline | ContentSource::File { .. }, _) => stream::empty().boxed(),
        };
        // What is wrong with the first piece is an error and no stream.
        let first = chunks.try_next().await?;
        let chunks = stream::iter(first.map(Ok)).chain(chunks).boxed();
        Ok(ContentReader { total, chunks })
    }

    /// Opens the file of a content that has one, and of which nothing bad is known.
    pub(super) async fn open_unchecked(&self, hash: ContentHash) -> StoreResult<Option<File>> {
        self.0.shared.scrub.note_use();
        let source = self.find_source(hash).await?;
        if self.0.shared.damage.is_suspect(&hash) {
            return Ok(None);
        }
        match self.open_source(hash, source).await? {
            (_, Some(file)) => Ok(Arc::into_inner(file)),
            (ContentSource::Object { size, .. }, None) => self.open_cached(hash, size).await,
            (ContentSource::File { .. } | ContentSource::Inline(_) | ContentSource::DamagedInline, None) => {
                Ok(None)
            }
        }
    }

    async fn find_source(&self, hash: ContentHash) -> StoreResult<ContentSource> {
        let found = self.0.shared.readers.run("read content", move |conn| source(conn, hash)).await?;
        found.ok_or(StoreError::NotFound(hash))?
    }

    /// Opens the file of a content that is in one. Where it is not there, the content may have gone to the bucket since: it is looked
    /// for again. A file that is not there then, or not of this length, is damaged.
    async fn open_source(
        &self,
        hash: ContentHash,
        mut source: ContentSource,
    ) -> StoreResult<(ContentSource, Option<Arc<File>>)> {
        for looks_left in (0..LOOKS_MAX).rev() {
            let ContentSource::File { size, .. } = source else { break };
            match self.open_content(hash, size).await? {
                Ok(file) => return Ok((source, Some(Arc::new(file)))),
                Err(error) if looks_left > 0 && error.kind() == io::ErrorKind::NotFound => {
                    source = self.find_source(hash).await?;
                }
                Err(error) => return Err(self.failed(hash, &error)),
            }
        }
        Ok((source, None))
    }

    async fn open_content(&self, hash: ContentHash, size: u64) -> StoreResult<io::Result<File>> {
        let path = self.0.shared.layout.content(hash);
        blocking("open content", move || Ok(open_whole(&path, size))).await
    }

    /// Whether a content is where it should be, as far as a look shows; else it is examined. What is in a bucket is not looked at: that
    /// takes long, and vouches for nothing.
    pub(super) async fn is_in_place(&self, hash: ContentHash) -> StoreResult<bool> {
        let found = async {
            let source = self.find_source(hash).await?;
            match self.open_source(hash, source).await? {
                (ContentSource::DamagedInline, _) => Err(self.suspect(hash, WRONG_BYTES)),
                _ => Ok(()),
            }
        };
        match found.await {
            Ok(()) => Ok(true),
            Err(StoreError::Corrupt(_) | StoreError::NotFound(_) | StoreError::NotHeld(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What a failure to read a content means: it is damaged, or it is not the content's fault.
    pub(super) fn failed(&self, hash: ContentHash, error: &io::Error) -> StoreError {
        match self.fault_of(error) {
            Some(fault) => self.suspect(hash, &fault),
            None => self.unread(hash, error),
        }
    }

    /// A failure to read a content that is not its own fault.
    pub(super) fn unread(&self, hash: ContentHash, error: &io::Error) -> StoreError {
        let io =
            || StoreError::Io { action: format!("read the content of {hash}"), reason: error.to_string() };
        self.0.shared.anchors.contents_problem().map_or_else(io, StoreError::ReadOnly)
    }

    async fn stream_file(
        &self,
        hash: ContentHash,
        size: u64,
        file: Arc<File>,
        range: Range<u64>,
        has_sums: bool,
    ) -> StoreResult<BoxStream<'static, StoreResult<Bytes>>> {
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        let is_whole = range == (0..size);
        if size <= GROUP_BYTES as u64 || (is_whole && !has_sums) {
            return Ok(self.hashed(hash, size, file, range));
        }
        if !has_sums {
            self.make_sums(hash).await?;
        }
        Ok(self.compared(StoredBytes { hash, size, from: BytesFrom::File(file) }, range))
    }

    /// Compares each group with its sum before it is given away.
    pub(super) fn compared(
        &self,
        file: StoredBytes,
        range: Range<u64>,
    ) -> BoxStream<'static, StoreResult<Bytes>> {
        let groups = groups_of(&range);
        let rows = groups.start / SUMS_PER_ROW as u64..(groups.end - 1) / SUMS_PER_ROW as u64 + 1;
        let store = self.clone();
        let load = store.clone();
        stream::iter(rows)
            .then(move |row| {
                let store = load.clone();
                async move {
                    let count = sums_in(row, file.size);
                    let sums = move |conn: &rusqlite::Connection| sums::read(conn, file.hash, row, count);
                    let sums = store.0.shared.readers.run("read the sums of a content", sums).await?;
                    let sums = match sums {
                        Some(sums) => sums,
                        None => store.remake_sums(file.hash, row, count).await?,
                    };
                    Ok((row, sums))
                }
            })
            .map_ok(move |(row, sums)| {
                let first = row * SUMS_PER_ROW as u64;
                let here = groups.start.max(first)..groups.end.min(first + sums.len() as u64);
                let (store, file, range) = (store.clone(), file.clone(), range.clone());
                let ahead = file.from.runs_ahead();
                stream::iter(runs(here, file.from.groups_at_once()))
                    .map(move |run| {
                        let sums = sums[index(run.start - first)..index(run.end - first)].to_vec();
                        store.clone().read_compared(file.clone(), run.start, sums, range.clone())
                    })
                    .buffered(ahead)
            })
            .try_flatten()
            .boxed()
    }

    /// Makes the sums anew of a content that is held and whose kept ones have a wrong shape. They go with the file, when it is purged.
    async fn remake_sums(&self, hash: ContentHash, row: u64, count: usize) -> StoreResult<Vec<GroupSum>> {
        if !self.asset(hash).await?.is_some_and(|asset| asset.holding.is_held()) {
            return Err(StoreError::NotFound(hash));
        }
        tracing::warn!(%hash, "the sums of a content are not those of its size: they are made anew");
        self.make_sums(hash).await?;
        let read = move |conn: &rusqlite::Connection| sums::read(conn, hash, row, count);
        let made = self.0.shared.readers.run("read the sums of a content", read).await?;
        made.ok_or(StoreError::NotFound(hash))
    }

    /// What a range takes of the groups from `first` on that have these sums, once they are found to be right.
    async fn read_compared(
        self,
        file: StoredBytes,
        first: u64,
        sums: Vec<GroupSum>,
        range: Range<u64>,
    ) -> StoreResult<Bytes> {
        self.0.shared.scrub.note_use();
        let bytes = first * GROUP_BYTES as u64..group_range(first + sums.len() as u64 - 1, file.size).end;
        let StoredBytes { hash, size, .. } = file;
        let (mut read, mut found) = self.read_groups(&file, first, bytes.clone()).await?;
        if found != sums
            && let Some(original) = self.without_cached(&file).await?
        {
            (read, found) = self.read_groups(&original, first, bytes.clone()).await?;
        }
        if found != sums {
            let kept = self.mended_sums(hash, size).await?;
            let first = index(first);
            if kept.get(first..first + found.len()) != Some(found.as_slice()) {
                return Err(self.suspect(hash, WRONG_BYTES));
            }
        }
        let part = range.start.max(bytes.start)..range.end.min(bytes.end);
        Ok(read.slice(index(part.start - bytes.start)..index(part.end - bytes.start)))
    }

    /// The sums of a content that its BLAKE3 vouches for: made anew, if those that are kept are not its own. It is they that are
    /// damaged then.
    async fn mended_sums(&self, hash: ContentHash, size: u64) -> StoreResult<Vec<GroupSum>> {
        let compare = move |conn: &rusqlite::Connection| {
            let blake3 = rows::find(conn, hash)?.and_then(|stored| stored.asset.record.blake3);
            let kept = damage::kept_sums(conn, hash, size)?;
            let is_wrong = blake3.is_some_and(|blake3| kept.len() < 2 || root(&kept) != blake3);
            Ok((kept, is_wrong))
        };
        let (kept, is_wrong) = self.0.shared.readers.run("compare the sums of a content", compare).await?;
        if !is_wrong {
            return Ok(kept);
        }
        tracing::warn!(%hash, "the sums of a content are damaged: they are made anew");
        self.make_sums(hash).await?;
        let read = move |conn: &rusqlite::Connection| damage::kept_sums(conn, hash, size);
        self.0.shared.readers.run("read the sums of a content", read).await
    }

    /// Hashes all of it and gives the range away; the last piece once the hash is right. For content of one group, and for a
    /// range that is all of it.
    fn hashed(
        &self,
        hash: ContentHash,
        size: u64,
        file: Arc<File>,
        range: Range<u64>,
    ) -> BoxStream<'static, StoreResult<Bytes>> {
        let file = StoredFile { hash, size, file };
        let begin = WholeReading { store: self.clone(), file, hashers: Box::default(), next: 0, held: None };
        stream::try_unfold(begin, move |reading| {
            let range = range.clone();
            async move { reading.step(range).await }
        })
        .boxed()
    }
}

pub(super) const WRONG_BYTES: &str = "its bytes are not those that it is named by";

/// A content's file, open, and of the right length.
#[derive(Clone)]
struct StoredFile {
    hash: ContentHash,
    size: u64,
    file: Arc<File>,
}

/// A content that is hashed while it is read.
struct WholeReading {
    store: EmbeddedStore,
    file: StoredFile,
    hashers: Box<(Sha256, GroupHasher)>,
    next: u64,
    /// Read, and not given away yet.
    held: Option<Bytes>,
}

impl WholeReading {
    /// Reads on; the piece before the one that was read.
    async fn step(mut self, range: Range<u64>) -> StoreResult<Option<(Bytes, Self)>> {
        while self.next < self.file.size {
            self.store.0.shared.scrub.note_use();
            let at = self.next..(self.next + READ_GROUPS * GROUP_BYTES as u64).min(self.file.size);
            let end = at.end;
            let (file, mut hashers) = (Arc::clone(&self.file.file), std::mem::take(&mut self.hashers));
            let read = blocking("read content", move || {
                Ok(read_at(&file, at).map(|bytes| {
                    hashers.0.update(&bytes);
                    hashers.1.update(&bytes);
                    (bytes, hashers)
                }))
            });
            let (bytes, hashers) = read.await?.map_err(|error| self.store.failed(self.file.hash, &error))?;
            self.hashers = hashers;
            self.next = end;
            if let Some(before) = self.held.replace(bytes) {
                return Ok(Some((before, self)));
            }
        }
        let Some(last) = self.held.take() else { return Ok(None) };
        let (sha256, groups) = std::mem::take(&mut *self.hashers);
        if sha256.finalize().as_slice() != self.file.hash.0 {
            return Err(self.store.suspect(self.file.hash, WRONG_BYTES));
        }
        let (_, sums) = groups.finish();
        if sums.is_empty() {
            // The only group: of this one, the range may be a part.
            return Ok(Some((last.slice(index(range.start)..index(range.end)), self)));
        }
        let (store, hash) = (self.store.clone(), self.file.hash);
        tokio::spawn(async move {
            if let Err(error) = store.keep_sums(hash, sums).await {
                tracing::debug!(%hash, %error, "the sums of a content are not kept");
            }
        });
        Ok(Some((last, self)))
    }
}

/// Where the content of a live asset is: `None` if there is no such asset, an error if its content is not here.
fn source(
    conn: &rusqlite::Connection,
    hash: ContentHash,
) -> rusqlite::Result<Option<StoreResult<ContentSource>>> {
    let Some(stored) = rows::find(conn, hash)? else { return Ok(None) };
    let size = stored.asset.record.size;
    Ok(match stored.place {
        None if stored.asset.record.deleted => None,
        None => Some(Err(StoreError::NotHeld(hash))),
        Some(ContentPlace::File) => {
            let has_sums = sums::are_known(conn, hash, size)?;
            Some(Ok(ContentSource::File { size, has_sums }))
        }
        Some(ContentPlace::Object) => {
            let has_sums = sums::are_known(conn, hash, size)?;
            Some(Ok(ContentSource::Object { size, has_sums }))
        }
        Some(ContentPlace::Inline(id)) => {
            let whole = rows::whole_inline_content(conn, id, hash)?;
            Some(Ok(whole.map_or(ContentSource::DamagedInline, |data| ContentSource::Inline(data.into()))))
        }
    })
}

pub(super) fn from_memory(bytes: &Bytes, range: Range<u64>) -> BoxStream<'static, StoreResult<Bytes>> {
    let part = bytes.slice(index(range.start)..index(range.end).max(index(range.start)));
    if part.is_empty() { stream::empty().boxed() } else { stream::once(async { Ok(part) }).boxed() }
}

/// A place in bytes that are in memory.
pub(super) fn index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

/// Opens a content's file for reading, if it has this length.
pub(super) fn open_whole(path: &Path, size: u64) -> io::Result<File> {
    let file = patiently(&SHORT_PATIENCE, || open_plain(path))?;
    let meta = patiently(&SHORT_PATIENCE, || file.metadata())?;
    if meta.len() == size { Ok(file) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Groups in runs that are read at once.
fn runs(groups: Range<u64>, at_once: u64) -> impl Iterator<Item = Range<u64>> {
    let next = move |at: &u64| (*at < groups.end).then(|| (at / at_once + 1) * at_once);
    let starts = std::iter::successors(Some(groups.start), next);
    starts.filter_map(move |at| next(&at).map(|end| at..end.min(groups.end)))
}

pub(super) fn read_at(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let length = index(range.end - range.start);
    patiently(&SHORT_PATIENCE, || {
        // Nothing is zeroed that is overwritten at once.
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let at = range.start + bytes.len() as u64;
            match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.truncate(length);
        Ok(bytes)
    })
    .map(Bytes::from)
}
