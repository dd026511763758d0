//! What moves now: large contents under way in one direction of a session, for reports.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::record::ContentHash;

/// Contents under way. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ActiveTransfers(Arc<Mutex<HashMap<ContentHash, Under>>>);

#[derive(Clone, Copy, Debug)]
struct Under {
    progress: ContentProgress,
    streams: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentProgress {
    /// Bytes that have passed.
    pub done: u64,
    pub size: u64,
}

/// A stream that carries a content, or a part of it; once none does any more, the content is no longer under way.
#[derive(Debug)]
pub struct TransferGuard {
    active: ActiveTransfers,
    hash: ContentHash,
}

impl ActiveTransfers {
    /// A stream begins to carry a content of `size` bytes in all.
    #[must_use]
    pub fn begin(&self, hash: ContentHash, size: u64) -> TransferGuard {
        let fresh = Under { progress: ContentProgress { done: 0, size }, streams: 0 };
        self.contents().entry(hash).or_insert(fresh).streams += 1;
        TransferGuard { active: self.clone(), hash }
    }

    /// How far a content is, if it is under way.
    pub fn progress(&self, hash: &ContentHash) -> Option<ContentProgress> {
        self.contents().get(hash).map(|under| under.progress)
    }

    pub fn list(&self) -> Vec<(ContentHash, ContentProgress)> {
        self.contents().iter().map(|(hash, under)| (*hash, under.progress)).collect()
    }

    fn contents(&self) -> MutexGuard<'_, HashMap<ContentHash, Under>> {
        self.0.lock()
    }
}

impl TransferGuard {
    /// It has come to this position. The furthest stream says how far the content is.
    pub fn set(&self, position: u64) {
        if let Some(under) = self.active.contents().get_mut(&self.hash) {
            under.progress.done = under.progress.done.max(position);
        }
    }
}

impl Drop for TransferGuard {
    fn drop(&mut self) {
        let mut contents = self.active.contents();
        if let Some(under) = contents.get_mut(&self.hash) {
            under.streams -= 1;
            if under.streams == 0 {
                contents.remove(&self.hash);
            }
        }
    }
}
