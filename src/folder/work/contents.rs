//! Contents on their way between files and the store: copied first, in bounded pieces.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::PathBuf;

use futures::StreamExt as _;
use tempfile::TempPath;

use super::{FolderWork, Observed, WorkError};
use crate::entry::{EntryFile, EntryHash, EntryPath};
use crate::folder::files::{CopiedFile, CopyError, OwnPath};
use crate::folder::{DiskSight, ReadFile};
use crate::record::{AssetMeta, AssetRecord, ContentHash};
use crate::store::groups::GroupHasher;
use crate::store::{IncomingAsset, IncomingContent, ItemOutcome, ReceivedFile, StoreError};

/// Contents up to this size are held in memory.
const SMALL_BYTES_MAX: u64 = 64 * 1024;
/// Files that are read at once, and bytes of their copies.
const READS_MAX: usize = 256;
const READ_BYTES_MAX: u64 = 256 << 20;
/// What is read of a copy at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// A content of the store's, at hand.
pub(super) enum TempContent {
    Small(Vec<u8>),
    Large(File),
}

/// A file that was copied.
pub(super) struct Copied {
    pub(super) copy: CopiedFile,
    pub(super) path: TempPath,
    /// When copying began.
    pub(super) at_ms: u64,
    /// What the file is called.
    pub(super) filename: String,
}

fn io_error(action: &str) -> impl Fn(io::Error) -> WorkError {
    move |source| WorkError::Io { action: action.to_owned(), source }
}

impl FolderWork {
    /// Copies files into the store. Those that changed meanwhile are left for later.
    pub(super) fn read_all(&mut self, hashes: Vec<EntryHash>) -> Result<BTreeSet<EntryHash>, WorkError> {
        let mut done = BTreeSet::new();
        let mut rest = hashes.into_iter().peekable();
        while rest.peek().is_some() {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            let before = rest.len();
            while let Some(hash) =
                rest.next_if(|_| batch.is_empty() || (batch.len() < READS_MAX && bytes < READ_BYTES_MAX))
            {
                if let Some(copied) = self.copy_file(hash)? {
                    bytes += copied.copy.bytes;
                    batch.push((hash, copied));
                }
            }
            let reads: Vec<_> = batch
                .iter()
                .map(|(hash, copied)| (*hash, copied.copy.stat, copied.copy.hash, copied.at_ms))
                .collect();
            let kept = self.ingest(batch.into_iter().map(|(_, copied)| copied).collect())?;
            for (hash, stat, content, at_ms) in reads {
                if kept.contains(&content) {
                    self.reads.insert(hash, (stat, ReadFile { hash: content, at_ms }));
                    done.insert(hash);
                }
            }
            self.meter.add((before - rest.len()) as u64, bytes);
            self.check_stop()?;
        }
        Ok(done)
    }

    fn copy_file(&mut self, hash: EntryHash) -> Result<Option<Copied>, WorkError> {
        let Some(Observed { path, name, disk: DiskSight::File(file) }) = self.observed.get(&hash) else {
            return Ok(None);
        };
        let name = if file.is_aside { path.aside(self.binding.marker.folder) } else { name.clone() };
        let (agreed, at_ms) = (Some(file.stat.executable), self.now_ms());
        if let Err(error) = self.context.store.check_room(file.stat.size) {
            self.problem(format!("{name} is not taken in: {error}"));
            return Ok(None);
        }
        let into = self.temporary_path();
        let copied = self.held()?.copy(&name, &into, agreed);
        self.copied(copied, into, at_ms, file_name(&name))
    }

    /// The same for a file in the trash.
    pub(super) fn copy_trashed(
        &mut self,
        trash: &OwnPath,
        name: &EntryPath,
    ) -> Result<Option<Copied>, WorkError> {
        let (into, at_ms) = (self.temporary_path(), self.now_ms());
        let copied = self.held()?.copy_trashed(trash, &into);
        self.copied(copied, into, at_ms, file_name(name))
    }

    fn copied(
        &mut self,
        copied: Result<CopiedFile, CopyError>,
        into: PathBuf,
        at_ms: u64,
        filename: String,
    ) -> Result<Option<Copied>, WorkError> {
        match copied {
            Ok(copy) => {
                let path = TempPath::try_from_path(into).map_err(io_error("cannot copy a file"))?;
                Ok(Some(Copied { copy, path, at_ms, filename }))
            }
            Err(CopyError::Stopped) => Err(WorkError::Stopped),
            Err(CopyError::Changed(_) | CopyError::NotThere(_)) => {
                self.is_restless = true;
                Ok(None)
            }
            Err(error @ (CopyError::Unreadable(..) | CopyError::Copy(..))) => {
                self.problem(error.to_string());
                Ok(None)
            }
        }
    }

    fn temporary_path(&self) -> PathBuf {
        self.context.temporary.join(format!("{:032x}", rand::random::<u128>()))
    }

    /// Takes copies into the store; which contents it has then.
    pub(super) fn ingest(&mut self, copies: Vec<Copied>) -> Result<BTreeSet<ContentHash>, WorkError> {
        let hashes: BTreeSet<ContentHash> = copies.iter().map(|copied| copied.copy.hash).collect();
        let mut known = std::collections::HashMap::new();
        for part in hashes.iter().copied().collect::<Vec<_>>().chunks(READS_MAX) {
            for stored in self.wait(self.context.store.records(part.to_vec()))? {
                known.insert(stored.record.hash, stored);
            }
        }
        let (mut kept, mut batch, mut named) = (BTreeSet::new(), Vec::new(), Vec::new());
        for copied in copies {
            let hash = copied.copy.hash;
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
        kept.retain(|hash| here.get(hash).copied().unwrap_or_default());
        Ok(kept)
    }

    /// What the asset of a content is: what is known of it, revived where it was deleted; else new.
    fn asset_record(&self, known: Option<&AssetRecord>, copied: &Copied) -> AssetRecord {
        let now_ms = self.context.clock.now_ms();
        match known {
            Some(known) if !known.deleted => known.clone(),
            known => {
                let mtime_ms = u64::try_from(copied.copy.stat.mtime_ns / 1_000_000).ok();
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
                let record = AssetRecord::new(copied.copy.hash, copied.copy.bytes, None, meta);
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

    /// A content as it is needed to write it: small ones in memory, others in a file.
    pub(super) fn content_of(&self, file: &EntryFile) -> Result<TempContent, WorkError> {
        let reader = self.wait(self.context.store.content(file.target, 0, None))?;
        let mut chunks = reader.chunks;
        if reader.total <= SMALL_BYTES_MAX {
            let mut bytes = Vec::new();
            while let Some(chunk) = self.next_chunk(&mut chunks)? {
                bytes.extend_from_slice(&chunk);
            }
            return Ok(TempContent::Small(bytes));
        }
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
        chunks: &mut futures::stream::BoxStream<'static, Result<bytes::Bytes, StoreError>>,
    ) -> Result<Option<bytes::Bytes>, WorkError> {
        self.wait(async { chunks.next().await.transpose() })
    }
}

fn file_name(path: &EntryPath) -> String {
    let path = path.as_str();
    path.rsplit_once('/').map_or(path, |(_, name)| name).to_owned()
}

/// A copy as the store takes it: small ones from memory, others as a durable file.
fn incoming(copied: Copied) -> io::Result<IncomingContent> {
    let Copied { copy, path, .. } = copied;
    let mut file = copy.file;
    file.rewind()?;
    if copy.bytes <= SMALL_BYTES_MAX {
        let mut bytes = Vec::new();
        file.take(SMALL_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        fs::remove_file(&path).ok();
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
    Ok(IncomingContent::File(ReceivedFile { path, size: copy.bytes, sha256: copy.hash, blake3, groups }))
}
