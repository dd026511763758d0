//! Contents that another store put into a bucket that is shared, or this one before it was set back.

use std::time::{Duration, Instant};

use super::claim::PlaceUse;
use super::{Bucket, BucketError, HashedObject};
use crate::record::ContentHash;

/// Longest wait for the answer whether a content is there: most are not, and peers have them.
const LOOK_WITHIN: Duration = Duration::from_secs(5);

impl Bucket {
    /// Whether contents may be found there that this store did not put there, and they can be read now.
    pub(crate) fn may_find(&self) -> bool {
        let state = self.state();
        let has_others = match state.used {
            Some(PlaceUse::Shared) => true,
            Some(PlaceUse::Own) => state.is_inherited,
            Some(PlaceUse::Halted(_)) | None => false,
        };
        drop(state);
        has_others && self.may_find_lost()
    }

    /// Whether contents may be found there that this store knew once, and they can be read now. In a place of its own, too: what went
    /// up behind a backup is there, and a store that was restored from that does not know it.
    pub(crate) fn may_find_lost(&self) -> bool {
        let state = self.state();
        // One that does not answer is left alone for a while.
        let is_left_alone =
            state.passed_over.is_some_and(|passed_over| passed_over.elapsed() < self.patience.settle / 2);
        let is_used = matches!(state.used, Some(PlaceUse::Shared | PlaceUse::Own));
        drop(state);
        is_used && self.is_readable() && !is_left_alone
    }

    /// Reads and hashes a content that this store does not know to be there; `None` unless all of it is there, and right.
    pub(crate) async fn find(&self, hash: ContentHash, size: u64) -> Option<HashedObject> {
        if !self.may_find_lost() || self.check_doubt(hash).is_err() {
            return None;
        }
        let found = {
            let _look = self.looks.acquire().await.ok()?;
            tokio::time::timeout(LOOK_WITHIN, self.length(&self.key(hash))).await
        };
        match found {
            Ok(Ok(Some(found))) if found == size => {}
            Ok(Ok(_)) => return None,
            Ok(Err(_)) | Err(_) => {
                self.state().passed_over = Some(Instant::now());
                return None;
            }
        }
        let _turn = self.turn(size).await.ok()?;
        self.check_directory().await.ok()?;
        match self.hash(hash, size).await {
            Ok(found) if found.sha256 == hash => self.check_directory().await.ok().map(|()| found),
            Ok(HashedObject { sha256, .. }) => {
                tracing::warn!(%hash, %sha256, bucket = self.shown, "the object of a content has other bytes: it is not taken over");
                None
            }
            Err(error) => {
                if let BucketError::Away(_) = error {
                    self.state().passed_over = Some(Instant::now());
                }
                tracing::debug!(%hash, ?error, "a content is not taken over");
                None
            }
        }
    }
}
