//! What moves now: large contents under way in one direction of a session, for whoever asks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::record::ContentHash;

/// Contents under way. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Moving(Arc<Mutex<HashMap<ContentHash, Progress>>>);

/// How far one content is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that have passed.
    pub done: u64,
    /// Bytes in all.
    pub size: u64,
}

/// One content under way; it no longer is when this is dropped.
#[derive(Debug)]
pub struct Passage {
    moving: Moving,
    hash: ContentHash,
    size: u64,
}

impl Moving {
    /// A content begins to pass.
    #[must_use]
    pub fn begin(&self, hash: ContentHash, size: u64) -> Passage {
        self.contents().insert(hash, Progress { done: 0, size });
        Passage { moving: self.clone(), hash, size }
    }

    /// How far a content is, if it is under way.
    #[must_use]
    pub fn progress(&self, hash: &ContentHash) -> Option<Progress> {
        self.contents().get(hash).copied()
    }

    /// Everything under way.
    #[must_use]
    pub fn list(&self) -> Vec<(ContentHash, Progress)> {
        self.contents().iter().map(|(hash, progress)| (*hash, *progress)).collect()
    }

    fn contents(&self) -> MutexGuard<'_, HashMap<ContentHash, Progress>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passage {
    /// So many bytes have passed.
    pub fn set(&self, done: u64) {
        self.moving.contents().insert(self.hash, Progress { done, size: self.size });
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.moving.contents().remove(&self.hash);
    }
}
