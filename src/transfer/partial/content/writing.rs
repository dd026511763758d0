//! Writing what came at its place, and hashing it: from memory while it is being written, else from the file.

use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use iroh::EndpointId;
use sha2::Digest as _;
use tokio::task::{JoinHandle, spawn_blocking};

use super::{Giver, HASH_BYTES, Hasher, Partial};
use crate::store::StoreResult;
use crate::store::groups::{GROUP_BYTES, GroupSum, group_sum};
use crate::transfer::partial::block::{BLOCK_BYTES, Block};

/// How far ahead of what is hashed a block may be to wait for its turn in memory: a few blocks more than one sender has under way.
const FRESH_WITHIN: u64 = 8 * BLOCK_BYTES as u64;

impl Partial {
    /// Begins to write what of `block`, which is at `offset`, is not here yet. Where there is a root, these are whole groups that
    /// were proved, with their sums. The write goes on when nobody waits for it; `None` if there is nothing to write.
    ///
    /// # Errors
    /// `StoreError::Full` and `StoreError::Io`, also for what was written by others before.
    pub fn begin_write(
        self: &Arc<Self>,
        offset: u64,
        block: Block,
        sums: Vec<GroupSum>,
        peer: EndpointId,
    ) -> StoreResult<Option<JoinHandle<StoreResult>>> {
        let end = (offset + block.filled().len() as u64).min(self.size);
        let block = Arc::new(block);
        let gaps = {
            let mut state = self.state();
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            let is_closed = state.sealed || state.retired;
            if is_closed || state.only.is_some_and(|only| only != peer) {
                return Ok(None);
            }
            let gaps = state.claimed.missing(offset..end);
            for gap in &gaps {
                state.claimed.insert(gap.clone());
            }
            if gaps.is_empty() {
                return Ok(None);
            }
            let whole = offset..offset + block.filled().len() as u64;
            if gaps.first() == Some(&whole) && offset.saturating_sub(state.hashed) <= FRESH_WITHIN {
                state.fresh.insert(offset, Arc::clone(&block));
                self.follow(&mut state);
            }
            gaps
        };
        let this = Arc::clone(self);
        Ok(Some(spawn_blocking(move || this.write_gaps(offset, block.filled(), &gaps, sums, peer))))
    }

    fn write_gaps(
        self: &Arc<Self>,
        offset: u64,
        block: &[u8],
        gaps: &[Range<u64>],
        sums: Vec<GroupSum>,
        peer: EndpointId,
    ) -> StoreResult {
        // All of them lie within the block.
        let index = |at: u64| usize::try_from(at - offset).unwrap_or(block.len()).min(block.len());
        let bytes = |range: &Range<u64>| &block[index(range.start)..index(range.end)];
        let result =
            gaps.iter().try_for_each(|gap| self.direct.write_all_at(&self.file, bytes(gap), gap.start));
        let noted = result.is_ok().then(|| gaps.iter().try_for_each(|gap| self.ledger().note(gap)));
        if let Some(Err(error)) = noted {
            tracing::debug!(%error, "a part of a partial content is not noted before it is durable");
        }
        let mut state = self.state();
        if let Err(error) = result {
            let error = self.explain(&error);
            state.failed.get_or_insert_with(|| error.clone());
            drop(state);
            self.changed.notify_waiters();
            return Err(error);
        }
        for gap in gaps {
            state.written.insert(gap.clone());
            state.from.entry(Giver::Peer(peer)).or_default().insert(gap.clone());
        }
        for (group, sum) in (offset / GROUP_BYTES as u64..).zip(sums) {
            state.sums.put(group, sum);
        }
        self.follow(&mut state);
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }

    fn hash(&self, hasher: &mut Hasher, bytes: &[u8]) {
        hasher.sha256.update(bytes);
        if self.root.is_none() {
            hasher.blake3.update(bytes);
        }
        hasher.done += bytes.len() as u64;
    }

    /// Hashes as far as there is no gap, or a block that is being written.
    pub(super) fn hash_along(self: Arc<Self>, mut hasher: Box<Hasher>) {
        let mut block = Vec::new();
        loop {
            let mut state = self.state();
            state.hashed = hasher.done;
            let (fresh, until) = (state.fresh.remove(&hasher.done), state.written.prefix());
            if fresh.is_none() && hasher.done >= until {
                // Also when bytes were thrown away meanwhile: the one that did that waits for it.
                state.fresh.retain(|at, _| *at > hasher.done);
                state.put_back(hasher);
                break;
            }
            drop(state);
            if let Some(fresh) = fresh {
                self.hash(&mut hasher, fresh.filled());
                continue;
            }
            let len = usize::try_from((until - hasher.done).min(HASH_BYTES as u64)).unwrap_or(HASH_BYTES);
            if block.len() < len {
                block.resize(len, 0);
            }
            let block = &mut block[..len];
            if let Err(error) = self.file.read_exact_at(block, hasher.done) {
                let mut state = self.state();
                state.failed.get_or_insert_with(|| self.explain(&error));
                state.put_back(hasher);
                break;
            }
            self.note_sums(hasher.done, block);
            self.hash(&mut hasher, block);
        }
        self.changed.notify_waiters();
    }

    /// Takes note of the sums of groups that an earlier life of the process wrote.
    fn note_sums(&self, at: u64, block: &[u8]) {
        let first = at / GROUP_BYTES as u64;
        let unknown: Vec<u64> = {
            let state = self.state();
            let all = first..first + block.len().div_ceil(GROUP_BYTES) as u64;
            all.filter(|group| self.root.is_some() && !state.sums.has(*group)).collect()
        };
        for group in unknown {
            let bytes = block.chunks(GROUP_BYTES).nth(usize::try_from(group - first).unwrap_or(usize::MAX));
            let index = usize::try_from(group).unwrap_or(usize::MAX);
            if let Some(bytes) = bytes {
                let sum = group_sum(index, bytes);
                self.state().sums.put(group, sum);
            }
        }
    }
}
