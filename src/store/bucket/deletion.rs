//! Deleting objects to which nothing refers.

use std::time::Instant;

use object_store::ObjectStoreExt as _;

use super::claim::PlaceUse;
use super::fault;
use super::{Bucket, BucketError};
use crate::record::ContentHash;

/// What became of an object to which nothing refers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DeletionOutcome {
    Done,
    /// It stays for good.
    Never,
    NotNow,
}

impl Bucket {
    /// Deletes the object of a content that nothing refers to, if it is for this store to do.
    pub(crate) async fn delete(&self, hash: ContentHash) -> Result<DeletionOutcome, BucketError> {
        let deleted = async {
            // Another store may have come since it was last looked at.
            match self.check_marker().await? {
                PlaceUse::Shared => return Ok(DeletionOutcome::Never),
                PlaceUse::Own if self.may_delete() => {}
                PlaceUse::Own | PlaceUse::Halted(_) => return Ok(DeletionOutcome::NotNow),
            }
            {
                let mut state = self.state();
                state.forget_old_doubts();
                state.doubtful.insert(hash, Instant::now());
            }
            match self.backend.objects.delete(&self.key(hash)).await.map_err(|error| fault::of(&error)) {
                Ok(()) | Err(BucketError::Missing) => Ok(DeletionOutcome::Done),
                Err(error) => Err(error),
            }
        };
        // A store that joins waits for longer than this before it counts on anything.
        let done = match tokio::time::timeout(self.patience.settle / 2, deleted).await {
            Ok(done) => done,
            Err(_) => Err(BucketError::Away("it does not answer".into())),
        };
        if done == Ok(DeletionOutcome::Done) {
            self.state().doubtful.remove(&hash);
        }
        // Keys that may not delete are no reason to put nothing.
        done
    }

    /// Whether a deletion of a content may still be carried out.
    pub(super) fn check_doubt(&self, hash: ContentHash) -> Result<(), BucketError> {
        let mut state = self.state();
        state.forget_old_doubts();
        if state.doubtful.contains_key(&hash) {
            Err(BucketError::Away(
                "a deletion of this content may be under way: put it again in some minutes".into(),
            ))
        } else {
            Ok(())
        }
    }

    /// Whether something may be deleted, as far as is known here; [`Bucket::delete`] looks itself.
    pub(crate) fn may_delete(&self) -> bool {
        let state = self.state();
        match state.used {
            Some(PlaceUse::Own) => {
                // Another one that is open has noticed by then.
                state.claimed.is_some_and(|claimed| claimed.elapsed() >= self.patience.settle)
            }
            Some(PlaceUse::Halted(_)) | None => false,
            // It takes note that the object stays.
            Some(PlaceUse::Shared) => true,
        }
    }
}
