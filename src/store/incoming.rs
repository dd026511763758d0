//! Assets on their way into a store.

use bytes::Bytes;

use super::groups;
use crate::record::{AssetRecord, ContentHash};

/// Content that arrived, with what it hashes to.
#[derive(Debug)]
pub enum IncomingContent {
    /// All of it in memory; the store checks the hash.
    Bytes(Bytes),
    /// In a file that the receiver hashed while it wrote it.
    File(ReceivedFile),
}

impl IncomingContent {
    /// Its length in bytes.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(file) => file.size,
        }
    }
}

/// A received file, complete and hashed, that is ready to be moved into a store. Deleted when dropped.
#[derive(Debug)]
pub struct ReceivedFile {
    /// Where it is; removed on drop unless the store moved it.
    pub path: tempfile::TempPath,
    pub size: u64,
    /// SHA-256 of those bytes, computed while they were written.
    pub sha256: ContentHash,
    /// BLAKE3 of the same bytes.
    pub blake3: [u8; 32],
    /// What each group of them hashes to, as [`groups::GroupHasher`] says; empty where that is not known.
    pub groups: Vec<groups::GroupSum>,
}

#[derive(Debug)]
pub struct IncomingAsset {
    pub record: AssetRecord,
    pub content: IncomingContent,
}
