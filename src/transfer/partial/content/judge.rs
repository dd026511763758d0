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
use crate::store::groups::{GroupHasher, GroupSum, root};
use crate::store::{ReceivedFile, StoreResult};
use crate::transfer::ranges::Ranges;

/// All bytes came.
#[derive(Debug)]
pub enum Finished {
    /// They are the content.
    Whole {
        /// Ready to be moved into a store; a second name of the file, which stays until it is removed.
        file: ReceivedFile,
        from: Option<EndpointId>,
        /// Peers whose bytes were thrown away before, and were not these.
        liars: Vec<EndpointId>,
    },
    /// They are something else.
    Wrong(Blame),
    Incomplete,
}

/// Who sent wrong bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blame {
    /// This peer alone sent all of it.
    Peer(EndpointId),
    /// One of these, which sent so many bytes. Everything is kept until [`Partial::restrict`] says whose.
    OneOfSeveral(Vec<(EndpointId, u64)>),
    /// All of it was proved to be the content with that root, and that is another one than it is named by: these sent it, all of
    /// which said that root.
    Root(Vec<EndpointId>),
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
    pub async fn finish(self: &Arc<Self>) -> StoreResult<Finished> {
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
            // The store makes its name durable, and the ledger is not needed any more.
            (self.file.sync_data().and_then(|()| self.whole(&hasher.blake3)), hasher)
        } else {
            (self.wrong(), Box::default())
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
        let (blake3, groups) = match self.root {
            Some(root) => (root, self.folded_sums(root).unwrap_or_default()),
            None => hasher.finish(),
        };
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
            self.drop_of(|_| true, false)?;
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

    /// The sums of all groups, if they are known and fold to the root.
    fn folded_sums(&self, of: GroupSum) -> Option<Vec<GroupSum>> {
        let sums = self.state().sums.all().filter(|sums| sums.len() > 1)?;
        (root(&sums) == of).then_some(sums)
    }

    /// Finds out whose fault it is as far as that is possible, and keeps what may be right.
    fn wrong(&self) -> io::Result<Finished> {
        let Some(root) = self.root else { return self.wrong_unproved().map(Finished::Wrong) };
        let has_earlier = self.state().from.contains_key(&Giver::Earlier);
        if has_earlier && self.folded_sums(root).is_none() {
            tracing::warn!(hash = %self.hash, "what an earlier process left of it was not usable");
            self.drop_of(|giver| *giver == Giver::Earlier, false)?;
            self.state().sums.clear();
            return Ok(Finished::Incomplete);
        }
        let peer = |giver: &Giver| match giver {
            Giver::Peer(peer) => Some(*peer),
            Giver::Earlier => None,
        };
        let blame = Blame::Root(self.state().from.keys().filter_map(peer).collect());
        self.drop_of(|_| true, false)?;
        self.state().sums.clear();
        Ok(Finished::Wrong(blame))
    }

    /// As [`Self::wrong`], of bytes that were not proved.
    fn wrong_unproved(&self) -> io::Result<Blame> {
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
        self.drop_of(|_| true, false)?;
        Ok(blame)
    }

    /// Throws away what others than `only` sent, and takes nothing of them from now on.
    pub async fn restrict(self: &Arc<Self>, only: EndpointId) -> StoreResult {
        self.state().only = Some(only);
        drop(self.take_over().await?);
        let this = Arc::clone(self);
        let dropped = spawn_blocking(move || {
            let result = this.drop_of(|giver| *giver != Giver::Peer(only), true);
            this.hand_back(Box::default());
            this.follow(&mut this.state());
            result
        });
        dropped.await.map_err(io::Error::other).and_then(|done| done).map_err(|error| self.explain(&error))
    }

    /// Throws away what some sent; if they are `suspected`, they are compared with what comes in its place.
    fn drop_of(&self, is_dropped: impl Fn(&Giver) -> bool, suspected: bool) -> io::Result<()> {
        let others: Vec<(Giver, Ranges)> = {
            let state = self.state();
            let others = state.from.iter().filter(|(giver, _)| is_dropped(giver));
            others.map(|(giver, ranges)| (*giver, ranges.clone())).collect()
        };
        let mut suspects = Vec::new();
        for (giver, ranges) in &others {
            if let (Giver::Peer(peer), true) = (giver, suspected) {
                for range in ranges.iter() {
                    let digest = self.digest(&range)?;
                    suspects.push(Suspect { peer: *peer, range, digest });
                }
            }
        }
        let mut state = self.state();
        state.fresh.clear();
        if !suspected {
            state.only = None;
        }
        state.suspects.extend(suspects);
        for (giver, ranges) in others {
            state.from.remove(&giver);
            for range in ranges.iter() {
                state.claimed.remove(&range);
                state.written.remove(&range);
                state.durable.remove(&range);
            }
        }
        let (durable, is_retired) = (state.durable.clone(), state.retired);
        drop(state);
        if is_retired {
            return Ok(());
        }
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
