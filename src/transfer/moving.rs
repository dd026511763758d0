//! What moves now: large contents under way in one direction of a session, for whoever asks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::record::ContentHash;

/// Contents under way. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Moving(Arc<Mutex<HashMap<ContentHash, Under>>>);

#[derive(Clone, Copy, Debug)]
struct Under {
    progress: Progress,
    /// Streams that carry it.
    passages: usize,
}

/// How far one content is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that have passed.
    pub done: u64,
    /// Bytes in all.
    pub size: u64,
}

/// A stream that carries a content, or a part of it; once none does any more, the content is no longer under way.
#[derive(Debug)]
pub struct Passage {
    moving: Moving,
    hash: ContentHash,
}

impl Moving {
    /// A stream begins to carry a content of `size` bytes in all.
    #[must_use]
    pub fn begin(&self, hash: ContentHash, size: u64) -> Passage {
        let fresh = Under { progress: Progress { done: 0, size }, passages: 0 };
        self.contents().entry(hash).or_insert(fresh).passages += 1;
        Passage { moving: self.clone(), hash }
    }

    /// How far a content is, if it is under way.
    #[must_use]
    pub fn progress(&self, hash: &ContentHash) -> Option<Progress> {
        self.contents().get(hash).map(|under| under.progress)
    }

    /// Everything under way.
    #[must_use]
    pub fn list(&self) -> Vec<(ContentHash, Progress)> {
        self.contents().iter().map(|(hash, under)| (*hash, under.progress)).collect()
    }

    fn contents(&self) -> MutexGuard<'_, HashMap<ContentHash, Under>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passage {
    /// It has come to this position. The furthest stream says how far the content is.
    pub fn set(&self, position: u64) {
        if let Some(under) = self.moving.contents().get_mut(&self.hash) {
            under.progress.done = under.progress.done.max(position);
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let mut contents = self.moving.contents();
        if let Some(under) = contents.get_mut(&self.hash) {
            under.passages -= 1;
            if under.passages == 0 {
                contents.remove(&self.hash);
            }
        }
    }
}
