//! Buffers that content is gathered in on its way from the network to the disk: one piece of memory each, so that it is hashed
//! and written at once, and used again and again.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::PageBuffer;

pub const BLOCK_BYTES: usize = 1024 * 1024;
/// Buffers that are kept for later.
const IDLE_MAX: usize = 8;

/// Buffers that are in use nowhere. Cheap to clone.
#[derive(Clone, Default)]
pub struct BlockPool(Arc<Mutex<Vec<PageBuffer>>>);

impl fmt::Debug for BlockPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BlockPool").finish_non_exhaustive()
    }
}

impl BlockPool {
    fn idle(&self) -> parking_lot::MutexGuard<'_, Vec<PageBuffer>> {
        self.0.lock()
    }

    #[must_use]
    pub fn take(&self) -> Block {
        let buffer = self.idle().pop().unwrap_or_else(|| PageBuffer::new(BLOCK_BYTES));
        Block { buffer, pool: Some(self.clone()) }
    }
}

/// Bytes that follow each other in a content. Its buffer goes back where it came from.
#[derive(Debug)]
pub struct Block {
    buffer: PageBuffer,
    pool: Option<BlockPool>,
}

impl Deref for Block {
    type Target = PageBuffer;

    fn deref(&self) -> &PageBuffer {
        &self.buffer
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut PageBuffer {
        &mut self.buffer
    }
}

#[cfg(test)]
impl From<Vec<u8>> for Block {
    fn from(bytes: Vec<u8>) -> Self {
        let mut buffer = PageBuffer::new(bytes.len());
        buffer.extend(&bytes);
        Self { buffer, pool: None }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            let mut idle = pool.idle();
            if idle.len() < IDLE_MAX {
                self.buffer.truncate(0);
                idle.push(std::mem::take(&mut self.buffer));
            }
        }
    }
}
