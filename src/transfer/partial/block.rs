//! Buffers that content is gathered in on its way from the network to the disk: one piece of memory each, so that it is hashed
//! and written at once, and used again and again.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Length of a buffer.
pub const BLOCK_BYTES: usize = 256 * 1024;
/// Buffers that are kept for later.
const IDLE_MAX: usize = 32;

/// Buffers that are in use nowhere. Cheap to clone.
#[derive(Clone, Default)]
pub struct BlockPool(Arc<Mutex<Vec<Vec<u8>>>>);

impl fmt::Debug for BlockPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BlockPool").finish_non_exhaustive()
    }
}

impl BlockPool {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty block.
    #[must_use]
    pub fn take(&self) -> Block {
        let bytes = self.idle().pop().unwrap_or_else(|| vec![0; BLOCK_BYTES]);
        Block { bytes, filled: 0, pool: Some(self.clone()) }
    }
}

/// Bytes that follow each other in a content. Its buffer goes back where it came from.
pub struct Block {
    bytes: Vec<u8>,
    filled: usize,
    pool: Option<BlockPool>,
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("filled", &self.filled).finish_non_exhaustive()
    }
}

impl Block {
    /// What came.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Where more goes.
    pub fn free(&mut self) -> &mut [u8] {
        &mut self.bytes[self.filled..]
    }

    /// So many more bytes came.
    pub fn advance(&mut self, bytes: usize) {
        self.filled = (self.filled + bytes).min(self.bytes.len());
    }

    /// Forgets what follows.
    pub fn truncate(&mut self, bytes: usize) {
        self.filled = self.filled.min(bytes);
    }

    /// Copies `bytes`, as many as there is room for.
    pub fn extend(&mut self, bytes: &[u8]) {
        let room = self.free();
        let length = bytes.len().min(room.len());
        room[..length].copy_from_slice(&bytes[..length]);
        self.advance(length);
    }
}

#[cfg(test)]
impl From<Vec<u8>> for Block {
    fn from(bytes: Vec<u8>) -> Self {
        Self { filled: bytes.len(), bytes, pool: None }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            let mut idle = pool.idle();
            if idle.len() < IDLE_MAX {
                idle.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}
