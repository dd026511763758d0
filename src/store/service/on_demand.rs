//! Contents that are read and are not here: where somebody can get them from other machines, they are got first.

use std::fmt;
use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;

use super::error::codes;
use crate::http::envelope::{ApiError, ApiResult};
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

    /// Gets a content that was refused; whether it is here now.
    pub(super) async fn fetch(&self, hash: ContentHash, refusal: &ApiError) -> ApiResult<bool> {
        let Some(fetch) = self.0.get() else { return Ok(false) };
        match fetch(hash).await {
            // What is on this disk is damaged, which is worth more to know than that nobody else has it.
            Err(_) if refusal.code == codes::CORRUPT => Ok(false),
            fetched => fetched,
        }
    }
}

impl fmt::Debug for FetchPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FetchPort").field(&self.0.get().is_some()).finish()
    }
}

/// Whether a content was refused that another machine may have.
pub(super) fn may_be_elsewhere(refusal: &ApiError) -> bool {
    [codes::NOT_HELD, codes::CORRUPT].contains(&refusal.code)
}
