//! Contents that are read and are not here: where somebody can get them from other machines, they are got first.

use std::fmt;
use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;

use super::error::codes;
use crate::http::envelope::ApiResult;
use crate::record::ContentHash;

/// Gets the content of an asset that is known and not held, within a time of its own; whether it is here now. `false` where there is
/// nothing to get: the asset is not known, or deleted.
///
/// # Errors
/// It cannot be had, or not in time, as whoever asked is to be told.
pub type FetchContent = Arc<dyn Fn(ContentHash) -> BoxFuture<'static, ApiResult<bool>> + Send + Sync>;

/// Who gets contents for the service. Nobody does where it runs without an agent.
#[derive(Clone, Default)]
pub struct FetchPort(Arc<OnceLock<FetchContent>>);

impl FetchPort {
    /// Says who does; the first one stays.
    pub fn connect(&self, fetch: FetchContent) {
        // A second one would get what the first one gets already.
        let _ = self.0.set(fetch);
    }

    /// Gets a content that is missing here; whether it is here now.
    pub(super) async fn fetch(&self, hash: ContentHash, missing: MissingContent) -> ApiResult<bool> {
        let Some(fetch) = self.0.get() else { return Ok(false) };
        missing.fetched_by(fetch(hash)).await
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
    /// What is here is damaged.
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

    /// Waits for who gets it; whether it is here now. Where it is not, the store's refusal stands.
    pub(crate) async fn fetched_by(self, fetching: impl Future<Output = ApiResult<bool>>) -> ApiResult<bool> {
        match (fetching.await, self) {
            // What is on this disk is damaged, which is worth more to know than that nobody else has it.
            (Err(_), Self::Damaged) => Ok(false),
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
        assert_eq!(MissingContent::Damaged.fetched_by(refused()).await.ok(), Some(false));
        assert!(MissingContent::NotHeld.fetched_by(refused()).await.is_err());
        for missing in [MissingContent::Damaged, MissingContent::NotHeld] {
            assert_eq!(missing.fetched_by(async { Ok(true) }).await.ok(), Some(true));
        }
        let of = MissingContent::of;
        assert_eq!(of("corrupt"), Some(MissingContent::Damaged));
        assert_eq!(of("not_held"), Some(MissingContent::NotHeld));
        assert_eq!((of("not_found"), of("deleted"), of("disk_full")), (None, None, None));
    }
}
