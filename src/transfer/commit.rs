//! The last steps of a large content: all its parts are here, it is checked, and the store takes it.

use iroh::EndpointId;

use super::partial::{Blame, Finished, Partials};
use super::schedule::{FetchFailure, WantKey};
use super::take::Taker;
use crate::record::AssetRecord;
use crate::store::{IncomingAsset, IncomingContent, ItemOutcome, StoreError, StoreResult};

/// What became of a content whose parts were all here.
#[derive(Debug)]
pub enum CommitOutcome {
    /// Durable in the store.
    Stored {
        /// Who sent most of it, unless all of it was here since an earlier life of the process.
        from: Option<EndpointId>,
        /// Who sent something else before.
        liars: Vec<EndpointId>,
    },
    /// The store did not take it: [`FetchFailure::Store`] or [`FetchFailure::Asset`].
    NotTaken(FetchFailure),
    /// It is something else.
    Wrong(Blame),
    Incomplete,
}

/// Checks a content and hands it over with this record.
pub async fn commit(partials: Partials, taker: Taker, key: WantKey, record: AssetRecord) -> CommitOutcome {
    let outcome = try_commit(&partials, &taker, key, record).await;
    match outcome {
        Ok(stored @ CommitOutcome::Stored { .. }) => {
            partials.remove(vec![key]).await;
            stored
        }
        Ok(outcome) => {
            partials.not_taken(&key);
            outcome
        }
        Err(error) => {
            partials.not_taken(&key);
            CommitOutcome::NotTaken(failure(error))
        }
    }
}

async fn try_commit(
    partials: &Partials,
    taker: &Taker,
    key: WantKey,
    record: AssetRecord,
) -> StoreResult<CommitOutcome> {
    let partial = partials.take_up(key).await?;
    match partial.finish().await? {
        Finished::Whole { file, from, liars } => {
            let asset = IncomingAsset { record, content: IncomingContent::File(file) };
            let outcomes = taker.ingest(key.library, vec![asset]).await?;
            Ok(match outcomes.into_iter().next() {
                Some(ItemOutcome::Stored | ItemOutcome::Unchanged) => CommitOutcome::Stored { from, liars },
                Some(ItemOutcome::Rejected(reason)) => CommitOutcome::NotTaken(FetchFailure::Asset(reason)),
                Some(ItemOutcome::NeedsContent | ItemOutcome::Absent) | None => {
                    CommitOutcome::NotTaken(FetchFailure::Store("the store lost the content again".into()))
                }
            })
        }
        Finished::Wrong(blame) => Ok(CommitOutcome::Wrong(blame)),
        Finished::Incomplete => Ok(CommitOutcome::Incomplete),
    }
}

/// Applies a newer record of a content that was taken.
///
/// # Errors
/// [`FetchFailure::Source`] if the store no longer has the content.
pub async fn apply(taker: Taker, key: WantKey, record: AssetRecord) -> Result<(), FetchFailure> {
    let outcomes = taker.apply(key.library, vec![record]).await.map_err(failure)?;
    match outcomes.into_iter().next() {
        Some(ItemOutcome::Stored | ItemOutcome::Unchanged) => Ok(()),
        Some(ItemOutcome::Rejected(reason)) => Err(FetchFailure::Asset(reason)),
        Some(ItemOutcome::NeedsContent | ItemOutcome::Absent) | None => {
            Err(FetchFailure::Source("its content went away meanwhile".into()))
        }
    }
}

fn failure(error: StoreError) -> FetchFailure {
    if let StoreError::Invalid(reason) | StoreError::OverQuota(reason) = error {
        // The same would be refused again.
        FetchFailure::Asset(reason)
    } else {
        FetchFailure::Store(error.to_string())
    }
}
