//! Contents on their way between files and the store: copied first, in bounded pieces.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};

use bytes::Bytes;
use futures::StreamExt as _;

use super::reading::{CopyPlace, FileCopy, READS_MAX};
use super::{FolderWork, WorkError};
use crate::entry::EntryFile;
use crate::record::{AssetMeta, AssetRecord, ContentHash};
use crate::store::groups::GroupHasher;
use crate::store::{IncomingAsset, IncomingContent, ItemOutcome, ReceivedFile, StoreResult};

/// Contents up to this size are held in memory.
pub(super) const SMALL_BYTES_MAX: u64 = 64 * 1024;
/// What is read of a copy at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// A content of the store's, at hand.
pub(super) enum TempContent {
    Small(Bytes),
    /// The store's own file, unchecked.
    Stored(File),
    Large(File),
}

pub(super) fn io_error(action: &str) -> impl Fn(io::Error) -> WorkError {
    move |source| WorkError::Io { action: action.to_owned(), source }
}

impl FolderWork {
    /// Takes copies into the store; which contents it has then.
    pub(super) fn ingest(&mut self, copies: Vec<FileCopy>) -> Result<BTreeSet<ContentHash>, WorkError> {
        let hashes: BTreeSet<ContentHash> = copies.iter().map(|copied| copied.hash).collect();
        let mut known = HashMap::new();
        for part in hashes.iter().copied().collect::<Vec<_>>().chunks(READS_MAX) {
            for stored in self.wait(self.context.store.records(part.to_vec()))? {
                known.insert(stored.record.hash, stored);
            }
        }
        let (mut kept, mut batch, mut named) = (BTreeSet::new(), Vec::new(), Vec::new());
        for copied in copies {
            let hash = copied.hash;
            let stored = known.get(&hash);
            if stored.is_some_and(|stored| !stored.record.deleted && stored.holding.is_held()) {
                kept.insert(hash);
                continue;
            }
            if named.contains(&hash) {
                continue;
            }
            let record = self.asset_record(stored.map(|stored| &stored.record), &copied);
            let content = incoming(copied).map_err(io_error("cannot read the copy of a file"))?;
            named.push(hash);
            batch.push(IncomingAsset { record, content });
        }
        if batch.is_empty() {
            return Ok(kept);
        }
        let outcomes = self.wait(self.context.store.ingest(batch))?;
        for (hash, outcome) in named.into_iter().zip(outcomes) {
            match outcome {
                ItemOutcome::Stored | ItemOutcome::Unchanged => {
                    kept.insert(hash);
                }
                ItemOutcome::Absent | ItemOutcome::NeedsContent => {}
                ItemOutcome::Rejected(why) => self.problem(format!("the store refuses {hash}: {why}")),
            }
        }
        // `Unchanged` may also mean that a deletion is newer.
        let here = self.are_here(kept.iter().copied())?;
        kept.retain(|hash| here.contains(hash));
        Ok(kept)
    }

    /// What the asset of a content is: what is known of it, revived where it was deleted; else new.
    fn asset_record(&self, known: Option<&AssetRecord>, copied: &FileCopy) -> AssetRecord {
        let now_ms = self.context.clock.now_ms();
        match known {
            Some(known) if !known.deleted => known.clone(),
            known => {
                let mtime_ms = u64::try_from(copied.stat.mtime_ns / 1_000_000).ok();
                let name = Some(copied.filename.clone());
                let meta = AssetMeta {
                    mime_type: mime_guess::from_path(&copied.filename)
                        .first_raw()
                        .unwrap_or("application/octet-stream")
                        .to_owned(),
                    filename: name.filter(|name| !name.contains(crate::text::is_hazard)),
                    created_at_ms: now_ms,
                    modified_at_ms: mtime_ms.filter(|ms| ms >> 48 == 0),
                    ..AssetMeta::default()
                };
                let record = AssetRecord::new(copied.hash, copied.bytes, None, meta);
                match known {
                    Some(tombstone) => AssetRecord {
                        hlc: tombstone.hlc.next(now_ms),
                        writer: self.author().writer,
                        ..record
                    },
                    None => record,
                }
            }
        }
    }

    /// Those of these contents that are small and at hand, in one read.
    pub(super) fn small_contents<'a>(
        &self,
        files: impl Iterator<Item = &'a EntryFile>,
    ) -> Result<HashMap<ContentHash, Bytes>, WorkError> {
        let small = files.filter(|file| file.size <= SMALL_BYTES_MAX).map(|file| file.target);
        let small: Vec<ContentHash> = small.collect::<BTreeSet<_>>().into_iter().collect();
        if small.is_empty() {
            return Ok(HashMap::new());
        }
        Ok(self.wait(self.context.store.small_contents(small))?.into_iter().collect())
    }

    /// A content as it is needed to write it: small ones in memory, others in a file. Whoever writes it hashes it.
    pub(super) fn content_of(&self, file: &EntryFile) -> Result<TempContent, WorkError> {
        if file.size > SMALL_BYTES_MAX
            && let Some(stored) = self.wait(self.context.store.content_file(file.target))?
        {
            return Ok(TempContent::Stored(stored));
        }
        self.checked_content(file)
    }

    /// The same, as the store gives it after it checked all of it.
    pub(super) fn checked_content(&self, file: &EntryFile) -> Result<TempContent, WorkError> {
        let reader = self.wait(self.context.store.content(file.target, 0, None))?;
        let mut chunks = reader.chunks;
        if reader.total <= SMALL_BYTES_MAX {
            let mut bytes = Vec::new();
            while let Some(chunk) = self.next_chunk(&mut chunks)? {
                bytes.extend_from_slice(&chunk);
            }
            return Ok(TempContent::Small(bytes.into()));
        }
        self.check_copy_room(reader.total)?;
        let failed = io_error("cannot write beside a folder");
        let mut copy = tempfile::tempfile_in(&self.context.temporary).map_err(&failed)?;
        while let Some(chunk) = self.next_chunk(&mut chunks)? {
            copy.write_all(&chunk).map_err(&failed)?;
            self.check_stop()?;
        }
        copy.rewind().map_err(&failed)?;
        Ok(TempContent::Large(copy))
    }

    fn next_chunk(
        &self,
        chunks: &mut futures::stream::BoxStream<'static, StoreResult<Bytes>>,
    ) -> Result<Option<Bytes>, WorkError> {
        self.wait(async { chunks.next().await.transpose() })
    }
}

/// A copy as the store takes it: small ones from memory, others as a durable file.
fn incoming(copied: FileCopy) -> io::Result<IncomingContent> {
    let FileCopy { copy, hash, bytes: size, .. } = copied;
    let (mut file, path) = match copy {
        CopyPlace::Memory(bytes) => return Ok(IncomingContent::Bytes(bytes.into())),
        CopyPlace::Beside(file, path) => (file, path),
    };
    file.rewind()?;
    if size <= SMALL_BYTES_MAX {
        let mut bytes = Vec::new();
        file.take(SMALL_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        return Ok(IncomingContent::Bytes(bytes.into()));
    }
    let (mut hasher, mut buffer) = (GroupHasher::default(), vec![0; CHUNK_BYTES]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    file.sync_all()?;
    let (blake3, groups) = hasher.finish();
    Ok(IncomingContent::File(ReceivedFile { path, size, sha256: hash, blake3, groups }))
}
