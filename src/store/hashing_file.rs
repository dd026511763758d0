//! Content on its way to the disk: hashed while it is written, and durable at the end.
//!
//! The bytes that arrive are copied into blocks that are used again and again: those who read them from a socket have their buffers back
//! at once, so that neither side asks the system for memory all the time, which costs more than the copy. While a block is being
//! filled, the one before it is written and hashed with BLAKE3 on one blocking thread, and hashed with SHA-256, the slowest of the
//! three, on another. No thread is held while bytes are awaited, so a slow sender costs a little memory and nothing else: at most two
//! blocks, of which the second is refused for as long as the first is not done.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempPath};
use tokio::task::JoinHandle;

use crate::disk::{DirectWriter, PageBuffer};
use crate::record::ContentHash;
use crate::store::embedded::failure;
use crate::store::groups::{GroupHasher, GroupSum};
use crate::store::{ReceivedFile, StoreError, StoreResult};

/// Size of a block: large enough that handing it to a thread costs nothing beside hashing it (about 0.8 ms).
const BLOCK_BYTES: usize = 1024 * 1024;
/// Size of the first one: most contents are not longer.
const FIRST_BLOCK_BYTES: usize = 64 * 1024;
/// How much is written until the disk is asked to have it: more would only be waited for at the end.
const SYNC_BYTES: usize = 64 * 1024 * 1024;
/// How much is written into the memory of the system, where peers that ask for it soon find it; what follows is written past it.
const CACHED_BYTES: u64 = 64 * 1024 * 1024;

/// A file that is hashed while it is written. Removed when dropped, unless it was [finished](Self::finish).
pub struct HashingFile {
    path: TempPath,
    dir: PathBuf,
    /// What is being filled; without memory before the first byte.
    block: PageBuffer,
    written: u64,
    ends: Ends,
    /// Written since the disk was last asked to have it.
    unsynced: usize,
    /// What the disk says to that. An error is told once, so it must not be missed.
    syncing: Option<JoinHandle<io::Result<()>>>,
}

enum Ends {
    Idle(Box<IdleEnds>),
    Busy(JoinHandle<io::Result<IdleEnds>>),
    /// An earlier block could not be written.
    Failed,
}

/// What waits for the next block.
struct IdleEnds {
    pen: Pen,
    sha256: Sha256,
    /// The block before, to be filled again.
    spare: PageBuffer,
}

/// What all that was written hashes to.
pub(crate) struct Hashes {
    sha256: ContentHash,
    blake3: [u8; 32],
    groups: Vec<GroupSum>,
}

/// What writes a block.
struct Pen {
    file: File,
    path: PathBuf,
    direct: Option<DirectWriter>,
    /// Where the next block goes.
    at: u64,
    blake3: GroupHasher,
}

impl Pen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.blake3.update(bytes);
        if self.at < CACHED_BYTES {
            self.file.write_all_at(bytes, self.at)?;
        } else {
            let direct = self.direct.get_or_insert_with(|| DirectWriter::of(&self.path));
            direct.write_all_at(&self.file, bytes, self.at)?;
        }
        self.at += bytes.len() as u64;
        Ok(())
    }
}

impl HashingFile {
    /// A new file of a name of its own in `dir`, readable by its owner alone. Blocks for a moment.
    pub fn create(dir: &Path) -> io::Result<Self> {
        let (file, path) = NamedTempFile::new_in(dir)?.into_parts();
        let ends = IdleEnds {
            pen: Pen { file, path: path.to_path_buf(), direct: None, at: 0, blake3: GroupHasher::default() },
            sha256: Sha256::new(),
            spare: PageBuffer::default(),
        };
        Ok(Self {
            path,
            dir: dir.to_owned(),
            block: PageBuffer::default(),
            written: 0,
            ends: Ends::Idle(Box::new(ends)),
            unsynced: 0,
            syncing: None,
        })
    }

    /// Bytes taken so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Takes more bytes; waits while the disk or the processor is behind. If the wait is given up, bytes may be
    /// missing: drop the file then.
    ///
    /// # Errors
    /// [`StoreError::Full`] and [`StoreError::Io`], also for bytes that were taken by an earlier call.
    pub async fn write(&mut self, chunk: Bytes) -> StoreResult {
        self.push(chunk).await.map_err(|error| self.explain(&error))
    }

    /// Writes what is left and makes the file durable; its name in the directory is not, as it will be moved.
    pub async fn finish(mut self) -> StoreResult<ReceivedFile> {
        let hashes = self.complete().await.map_err(|error| self.explain(&error))?;
        Ok(self.into_received(hashes))
    }

    pub(crate) async fn push(&mut self, chunk: Bytes) -> io::Result<()> {
        let mut rest = chunk.as_ref();
        while !rest.is_empty() {
            if self.block.is_full() {
                // There was none to be used again.
                let length = if self.written == 0 { FIRST_BLOCK_BYTES } else { BLOCK_BYTES };
                self.block = PageBuffer::new(length);
            }
            let copied = self.block.extend(rest);
            self.written += copied as u64;
            rest = &rest[copied..];
            if self.block.is_full() {
                self.send_block().await?;
            }
        }
        Ok(())
    }

    /// Writes what is left and makes it durable.
    pub(crate) async fn complete(&mut self) -> io::Result<Hashes> {
        self.send_block().await?;
        let IdleEnds { pen, sha256, .. } = self.take_idle().await?;
        self.take_synced().await?;
        let file = pen.file;
        tokio::task::spawn_blocking(move || file.sync_all()).await.map_err(io::Error::other)??;
        let (blake3, groups) = pen.blake3.finish();
        Ok(Hashes { sha256: ContentHash(sha256.finalize().into()), blake3, groups })
    }

    pub(crate) fn into_received(self, hashes: Hashes) -> ReceivedFile {
        let Hashes { sha256, blake3, groups } = hashes;
        ReceivedFile { path: self.path, size: self.written, sha256, blake3, groups }
    }

    /// What a failure means to the sender of the bytes.
    pub(crate) fn explain(&self, error: &io::Error) -> StoreError {
        failure::io_error(format!("write content to {}", self.dir.display()), &self.dir, error)
    }

    /// Hands the block to the threads, once they are done with the one before.
    async fn send_block(&mut self) -> io::Result<()> {
        let IdleEnds { mut pen, mut sha256, spare } = self.take_idle().await?;
        if self.unsynced >= SYNC_BYTES && self.syncing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.take_synced().await?;
            let file = pen.file.try_clone()?;
            self.syncing = Some(tokio::task::spawn_blocking(move || file.sync_data()));
            self.unsynced = 0;
        }
        let block = Arc::new(std::mem::replace(&mut self.block, spare));
        self.unsynced += block.filled().len();
        let same = Arc::clone(&block);
        let hashed = tokio::task::spawn_blocking(move || {
            sha256.update(same.filled());
            sha256
        });
        let written = tokio::task::spawn_blocking(move || {
            pen.write(block.filled())?;
            io::Result::Ok((pen, block))
        });
        let both = async move {
            let (written, sha256) = tokio::join!(written, hashed);
            let ((pen, block), sha256) =
                (written.map_err(io::Error::other)??, sha256.map_err(io::Error::other)?);
            // The first one is too short to be used again.
            let spare = Arc::into_inner(block).filter(|block| block.filled().len() == BLOCK_BYTES);
            let mut spare = spare.unwrap_or_default();
            spare.truncate(0);
            Ok(IdleEnds { pen, sha256, spare })
        };
        self.ends = Ends::Busy(tokio::spawn(both));
        Ok(())
    }

    /// Waits for what the disk says to have.
    async fn take_synced(&mut self) -> io::Result<()> {
        match self.syncing.take() {
            Some(syncing) => syncing.await.map_err(io::Error::other)?,
            None => Ok(()),
        }
    }

    /// Waits until the last block is written. Nothing is lost if the wait is given up.
    async fn take_idle(&mut self) -> io::Result<IdleEnds> {
        if let Ends::Busy(work) = &mut self.ends {
            let done = work.await;
            self.ends = Ends::Failed;
            return done.map_err(io::Error::other)?;
        }
        match std::mem::replace(&mut self.ends, Ends::Failed) {
            Ends::Idle(ends) => Ok(*ends),
            Ends::Busy(_) | Ends::Failed => Err(io::Error::other("an earlier write failed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn received(chunks: Vec<Vec<u8>>) -> (ReceivedFile, Vec<u8>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let whole = chunks.concat();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let file = runtime.block_on(async {
            let mut file = HashingFile::create(dir.path()).unwrap();
            for chunk in chunks {
                file.write(chunk.into()).await.unwrap();
            }
            file.finish().await.unwrap()
        });
        (file, whole, dir)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn whatever_the_chunks_the_file_and_its_hashes_are_right(
            sizes in prop::collection::vec(prop_oneof![Just(0), 1..9_000usize, Just(700_000)], 0..40),
        ) {
            let chunks = sizes.iter().enumerate().map(|(i, n)| vec![u8::try_from(i).unwrap(); *n]).collect();
            let (file, whole, _dir) = received(chunks);
            prop_assert_eq!(file.size, whole.len() as u64);
            prop_assert_eq!(file.sha256.0, <[u8; 32]>::from(Sha256::digest(&whole)));
            prop_assert_eq!(file.blake3, *blake3::hash(&whole).as_bytes());
            prop_assert_eq!(std::fs::read(&file.path).unwrap(), whole);
        }
    }

    #[tokio::test]
    async fn a_dropped_file_is_removed_even_with_a_block_under_way() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = HashingFile::create(dir.path()).unwrap();
        file.write(vec![1; BLOCK_BYTES].into()).await.unwrap();
        drop(file);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let mut file = HashingFile::create(dir.path()).unwrap();
        file.write(vec![1; 10].into()).await.unwrap();
        drop(file.finish().await.unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
