//! Contents that are read and are not here: where somebody can get them from other machines, they are got first.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::error::codes;
use crate::http::envelope::ApiResult;
use crate::record::{AssetRecord, ContentHash};
use crate::store::StoreResult;

/// How a content can be read that was got.
pub enum FetchedContent {
    /// There was nothing to get: the asset is not known, or deleted.
    Nowhere,
    Here,
    Coming(Box<ComingContent>),
}

/// A content that is read while it comes. What is read before the end may be another one's; the last bytes come only if all of them are
/// what its name says, else an error does.
pub struct ComingContent {
    pub record: AssetRecord,
    pub chunks: BoxStream<'static, StoreResult<Bytes>>,
}

/// How somebody can take a content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadAs {
    /// All of it, while it comes.
    Comes,
    /// Once it is in the store.
    Stored,
}

/// Gets the content of an asset that is known and not held, within a time of its own.
pub type FetchContent =
    Arc<dyn Fn(ContentHash, ReadAs) -> BoxFuture<'static, ApiResult<FetchedContent>> + Send + Sync>;

/// Who gets contents for the service. Nobody does where it runs without an agent.
#[derive(Clone, Default)]
pub struct FetchPort(Arc<OnceLock<FetchContent>>);

impl FetchPort {
    /// Says who does; the first one stays.
    pub fn connect(&self, fetch: FetchContent) {
        // A second one would get what the first one gets already.
        let _ = self.0.set(fetch);
    }

    /// Gets a content that is missing here.
    pub(super) async fn fetch(
        &self,
        hash: ContentHash,
        missing: MissingContent,
        read_as: ReadAs,
    ) -> ApiResult<FetchedContent> {
        let Some(fetch) = self.0.get() else { return Ok(FetchedContent::Nowhere) };
        missing.fetched_by(fetch(hash, read_as)).await
    }
}

impl fmt::Debug for FetchPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FetchPort").field(&self.0.get().is_some()).finish()
    }
}

/// Why a store refused a content that another machine may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MissingContent {
    /// The asset is known, its content is elsewhere.
    NotHeld,
    Damaged,
}

impl MissingContent {
    /// From the code of a refusal; `None` for one that nobody else changes.
    pub(crate) fn of(code: &str) -> Option<Self> {
        match code {
            codes::NOT_HELD => Some(Self::NotHeld),
            codes::CORRUPT => Some(Self::Damaged),
            _ => None,
        }
    }

    /// Waits for who gets it. Where there is nothing to get, the store's refusal stands.
    pub(crate) async fn fetched_by(
        self,
        fetching: impl Future<Output = ApiResult<FetchedContent>>,
    ) -> ApiResult<FetchedContent> {
        match (fetching.await, self) {
            // What is on this disk is damaged, which is worth more to know than that nobody else has it.
            (Err(_), Self::Damaged) => Ok(FetchedContent::Nowhere),
            (fetched, _) => fetched,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::envelope::ApiError;

    #[tokio::test]
    async fn what_is_damaged_is_said_to_be_so_where_nobody_else_has_it() {
        let refused = || async { Err(ApiError::bad_request("no", "no", "no")) };
        let damaged = MissingContent::Damaged.fetched_by(refused()).await;
        assert!(matches!(damaged, Ok(FetchedContent::Nowhere)));
        assert!(MissingContent::NotHeld.fetched_by(refused()).await.is_err());
        for missing in [MissingContent::Damaged, MissingContent::NotHeld] {
            let fetched = missing.fetched_by(async { Ok(FetchedContent::Here) }).await;
            assert!(matches!(fetched, Ok(FetchedContent::Here)));
        }
        let of = MissingContent::of;
        assert_eq!(of("corrupt"), Some(MissingContent::Damaged));
        assert_eq!(of("not_held"), Some(MissingContent::NotHeld));
        assert_eq!((of("not_found"), of("deleted"), of("disk_full")), (None, None, None));
    }
}
