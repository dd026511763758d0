//! All bytes came: what they are, and who sent wrong ones.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use iroh::EndpointId;
use sha2::Digest as _;
use tempfile::TempPath;
use tokio::task::spawn_blocking;

use super::{Giver, HASH_BYTES, Hasher, Partial};
use crate::record::ContentHash;
use crate::store::groups::GroupHasher;
use crate::store::{ReceivedFile, StoreError};
use crate::transfer::ranges::Ranges;

/// All bytes came.
#[derive(Debug)]
pub enum Finished {
    /// They are the content.
    Whole {
        /// Ready to be moved into a store; a second name of the file, which stays until it is removed.
        file: ReceivedFile,
        /// Who sent most of it.
        from: Option<EndpointId>,
        /// Peers whose bytes were thrown away before, and were not these.
        liars: Vec<EndpointId>,
    },
    /// They are something else.
    Wrong(Blame),
    /// Some are missing after all.
    Incomplete,
}

/// Who sent wrong bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blame {
    /// This peer alone sent all of it.
    Peer(EndpointId),
    /// One of these, which sent so many bytes. Everything is kept until [`Partial::restrict`] says whose.
    OneOfSeveral(Vec<(EndpointId, u64)>),
    /// Perhaps nobody: a part had been lying on our disk since before the process started.
    Nobody,
}

/// Bytes that were thrown away, of a peer that may have sent wrong ones.
pub(super) struct Suspect {
    peer: EndpointId,
    range: Range<u64>,
    digest: blake3::Hash,
}

impl Partial {
    /// All bytes are here: checks what they are. For one caller at a time.
    ///
    /// # Errors
    /// What the disk says. The bytes stay, and it can be tried again.
    pub async fn finish(self: &Arc<Self>) -> Result<Finished, StoreError> {
        {
            let mut state = self.state();
            if state.failed.is_none() && state.claimed.len() < self.size {
                return Ok(Finished::Incomplete);
            }
            self.follow(&mut state);
        }
        let (size, this) = (self.size, Arc::clone(self));
        self.wait_for(|state| {
            let hashed = state.hasher.as_ref().is_some_and(|hasher| hasher.done == size);
            (hashed || state.failed.is_some()).then_some(())
        })
        .await;
        let hasher = self.take_over().await?;
        self.state().sealed = true;
        let checked = spawn_blocking(move || this.check(hasher)).await;
        checked.map_err(io::Error::other).and_then(|checked| checked).map_err(|error| self.explain(&error))
    }

    fn check(&self, hasher: Box<Hasher>) -> io::Result<Finished> {
        let sha256 = ContentHash(hasher.sha256.clone().finalize().into());
        let (result, hasher) = if sha256 == self.hash {
            (self.keep().and_then(|()| self.whole(&hasher.blake3)), hasher)
        } else {
            (self.wrong().map(Finished::Wrong), Box::default())
        };
        self.state().sealed = matches!(result, Ok(Finished::Whole { .. }));
        self.hand_back(hasher);
        result
    }

    fn whole(&self, hasher: &GroupHasher) -> io::Result<Finished> {
        let suspects = std::mem::take(&mut self.state().suspects);
        let mut liars = Vec::new();
        for suspect in suspects {
            if !liars.contains(&suspect.peer) && self.digest(&suspect.range)? != suspect.digest {
                liars.push(suspect.peer);
            }
        }
        let from = self.main_giver();
        let path = TempPath::try_from_path(self.second_name()?)?;
        let (blake3, groups) = hasher.finish();
        let file = ReceivedFile { path, size: self.size, sha256: self.hash, blake3, groups };
        Ok(Finished::Whole { file, from, liars })
    }

    /// Gives the file a second name: taking that may fail, and then the bytes are still here. Where there are no
    /// second names, it gives up the first.
    fn second_name(&self) -> io::Result<PathBuf> {
        let name = self.path.with_extension("whole");
        match fs::remove_file(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        if let Err(error) = fs::hard_link(&self.path, &name) {
            tracing::debug!(%error, "no second name for a complete file");
            self.drop_others(None)?;
            fs::rename(&self.path, &name)?;
        }
        Ok(name)
    }

    fn main_giver(&self) -> Option<EndpointId> {
        let state = self.state();
        let peers = state.from.iter().filter_map(|(giver, ranges)| match giver {
            Giver::Earlier => None,
            Giver::Peer(peer) => Some((ranges.len(), *peer)),
        });
        peers.max().map(|(_, peer)| peer)
    }

    /// Finds out whose fault it is as far as that is possible, and keeps what may be right.
    fn wrong(&self) -> io::Result<Blame> {
        let givers: Vec<(Giver, u64)> =
            self.state().from.iter().map(|(giver, ranges)| (*giver, ranges.len())).collect();
        let peer = |(giver, bytes): &(Giver, u64)| match giver {
            Giver::Peer(peer) => Some((*peer, *bytes)),
            Giver::Earlier => None,
        };
        let peers: Option<Vec<(EndpointId, u64)>> = givers.iter().map(peer).collect();
        let blame = match peers.as_deref() {
            Some([(peer, _)]) => Blame::Peer(*peer),
            Some(peers) => return Ok(Blame::OneOfSeveral(peers.to_vec())),
            None => Blame::Nobody,
        };
        self.drop_others(None)?;
        Ok(blame)
    }

    /// Throws away what others than `only` sent, and takes nothing of them from now on.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn restrict(self: &Arc<Self>, only: EndpointId) -> Result<(), StoreError> {
        self.state().only = Some(only);
        drop(self.take_over().await?);
        let this = Arc::clone(self);
        let dropped = spawn_blocking(move || {
            let result = this.drop_others(Some(only));
            this.hand_back(Box::default());
            this.follow(&mut this.state());
            result
        });
        dropped.await.map_err(io::Error::other).and_then(|done| done).map_err(|error| self.explain(&error))
    }

    fn drop_others(&self, keep: Option<EndpointId>) -> io::Result<()> {
        let others: Vec<(Giver, Ranges)> = {
            let state = self.state();
            let all = state.from.iter();
            let others = all.filter(|(giver, _)| keep.is_none_or(|keep| **giver != Giver::Peer(keep)));
            others.map(|(giver, ranges)| (*giver, ranges.clone())).collect()
        };
        let mut suspects = Vec::new();
        for (giver, ranges) in &others {
            // Who sent all of it needs no comparison.
            if let (Giver::Peer(peer), Some(_)) = (giver, keep) {
                for range in ranges.iter() {
                    let digest = self.digest(&range)?;
                    suspects.push(Suspect { peer: *peer, range, digest });
                }
            }
        }
        let mut state = self.state();
        state.only = keep;
        state.suspects.extend(suspects);
        for (giver, ranges) in others {
            state.from.remove(&giver);
            for range in ranges.iter() {
                state.claimed.remove(&range);
                state.written.remove(&range);
                state.durable.remove(&range);
            }
        }
        let durable = state.durable.clone();
        drop(state);
        self.ledger().replace(&durable)
    }

    fn digest(&self, range: &Range<u64>) -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        let mut block = vec![0; HASH_BYTES];
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(HASH_BYTES as u64);
            let block = &mut block[..usize::try_from(len).unwrap_or(HASH_BYTES)];
            self.file.read_exact_at(block, at)?;
            hasher.update(block);
            at += len;
        }
        Ok(hasher.finalize())
    }
}
