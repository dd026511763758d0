//! Contents of a CAN Service, whole or in part.

use futures::StreamExt as _;
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Method, StatusCode};

use super::answer::{self, check};
use super::{CanHttpStore, READ_TIMEOUT};
use crate::record::ContentHash;
use crate::store::{ContentReader, StoreError, StoreResult, StoredRecord};

impl CanHttpStore {
    pub(super) async fn open_content(
        &self,
        hash: ContentHash,
        offset: u64,
        length: Option<u64>,
    ) -> StoreResult<ContentReader> {
        let path = format!("sync/content/{hash}");
        if length == Some(0) {
            // No range says "nothing": what is left is the question of how much there is.
            let asked = self.send(self.request(Method::HEAD, &path), Some(hash)).await;
            let response = match asked {
                // Answers to HEAD do not say why.
                Err(StoreError::NotFound(hash)) if self.is_absent(hash).await? => {
                    return Err(StoreError::NotHeld(hash));
                }
                asked => asked?,
            };
            let total =
                answer::content_length(&response).ok_or_else(|| self.garbled(&"it gives no length"))?;
            return empty(total, offset);
        }
        let mut request = self.request(Method::GET, &path);
        let partial = offset > 0 || length.is_some();
        if partial {
            let last = length.map(|length| offset.saturating_add(length - 1).to_string()).unwrap_or_default();
            request = request.header(RANGE, format!("bytes={offset}-{last}"));
        }
        let response = self.answer(request, READ_TIMEOUT).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            let total = response.headers().get(CONTENT_RANGE).and_then(answer::total_of_unsatisfied);
            return empty(total.ok_or_else(|| self.garbled(&"it gives no length"))?, offset);
        }
        let response = check(self.url(), response, Some(hash)).await?;
        let (start, total) = if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = response.headers().get(CONTENT_RANGE).and_then(answer::start_and_total);
            range.ok_or_else(|| self.garbled(&"it does not say which bytes it sends"))?
        } else {
            (0, answer::content_length(&response).ok_or_else(|| self.garbled(&"it gives no length"))?)
        };
        if start != offset {
            return Err(self.garbled(&"it sends other bytes than were asked for"));
        }
        let expected = (total - offset.min(total)).min(length.unwrap_or(u64::MAX));
        Ok(ContentReader { total, chunks: answer::content(self.url().to_owned(), response, expected) })
    }

    async fn is_absent(&self, hash: ContentHash) -> StoreResult<bool> {
        Ok(self.read_records(vec![hash]).await?.iter().any(StoredRecord::is_absent))
    }
}

/// A reader of nothing at `offset` of content that has `total` bytes.
fn empty(total: u64, offset: u64) -> StoreResult<ContentReader> {
    if offset > total {
        return Err(StoreError::Invalid(format!("offset {offset} lies past the end of {total} bytes")));
    }
    Ok(ContentReader { total, chunks: futures::stream::empty().boxed() })
}
