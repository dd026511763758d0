//! Answers of a CAN Service: what their status means, and how their bodies are read within bounds.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use reqwest::header::{CONTENT_LENGTH, HeaderValue};
use reqwest::{Response, StatusCode};
use serde::de::DeserializeOwned;

use super::{CHUNK_BYTES_MAX, READ_TIMEOUT};
use crate::http::envelope::ErrorBody;
use crate::record::ContentHash;
use crate::store::service::codes;
use crate::store::sync_wire::BodyReader;
use crate::store::{StoreError, StoreResult};

const JSON_BYTES_MAX: usize = 64 << 10;

pub(super) fn unavailable(url: &str, reason: impl Into<String>) -> StoreError {
    StoreError::Unavailable { url: url.to_owned(), reason: reason.into() }
}

/// Waits for something that the service does, at most `limit`.
pub(super) async fn timed<T>(url: &str, limit: Duration, work: impl Future<Output = T>) -> StoreResult<T> {
    let waited = tokio::time::timeout(limit, work).await;
    waited.map_err(|_| unavailable(url, format!("it did not answer within {} s", limit.as_secs())))
}

/// A request that got no answer. The innermost cause is the one that says something.
pub(super) fn fail(url: &str, error: &reqwest::Error) -> StoreError {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    unavailable(url, if error.is_connect() { format!("cannot connect: {cause}") } else { cause.to_string() })
}

/// Lets successes pass, and makes errors of the rest; `about` is the asset that the request was about.
pub(super) async fn check(
    url: &str,
    response: Response,
    about: Option<ContentHash>,
) -> StoreResult<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    if status == StatusCode::UNAUTHORIZED {
        return Err(StoreError::Unauthorized { url: url.to_owned() });
    }
    let Ok(ErrorBody { error, code, hint, .. }) = json::<ErrorBody>(url, response).await else {
        return Err(match about {
            // Answers to HEAD have no body.
            Some(hash) if status == StatusCode::NOT_FOUND => StoreError::NotFound(hash),
            Some(_) | None => unavailable(url, format!("it answered {status}: is it a CAN Service?")),
        });
    };
    Err(match (code.as_str(), about) {
        (codes::NOT_FOUND | codes::DELETED, Some(hash)) => StoreError::NotFound(hash),
        (codes::NOT_HELD, Some(hash)) => StoreError::NotHeld(hash),
        (codes::CORRUPT, Some(hash)) => StoreError::Corrupt(hash),
        (codes::OVER_QUOTA, _) => StoreError::OverQuota(format!("the CAN Service at {url}: {error}")),
        (codes::DISK_FULL, _) => StoreError::Full(format!("the CAN Service at {url}: {error}")),
        (codes::READ_ONLY, _) => StoreError::ReadOnly(format!("the CAN Service at {url}: {error}")),
        _ if status == StatusCode::BAD_REQUEST || status == StatusCode::PAYLOAD_TOO_LARGE => {
            StoreError::Invalid(error)
        }
        _ => unavailable(url, format!("it answered {status}: {error} ({hint})")),
    })
}

pub(super) async fn json<T: DeserializeOwned>(url: &str, response: Response) -> StoreResult<T> {
    let mut body = response.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = timed(url, READ_TIMEOUT, body.next()).await? {
        let chunk = chunk.map_err(|error| fail(url, &error))?;
        if bytes.len() + chunk.len() > JSON_BYTES_MAX {
            return Err(unavailable(url, "its answer is far too long: is it a CAN Service?"));
        }
        bytes.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        unavailable(url, format!("its answer cannot be read ({error}): is it a CAN Service?"))
    })
}

/// The `Content-Length` as it was sent. The client's own notion of it is 0 for HEAD.
pub(super) fn content_length(response: &Response) -> Option<u64> {
    response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// From `bytes 100-199/1000`: 100 and 1000.
pub(super) fn start_and_total(value: &HeaderValue) -> Option<(u64, u64)> {
    let (range, total) = value.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, total.parse().ok()?))
}

/// From `bytes */1000`: 1000.
pub(super) fn total_of_unsatisfied(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.strip_prefix("bytes */")?.parse().ok()
}

/// Exactly `expected` bytes of content in pieces, or an error.
pub(super) fn content(
    url: String,
    response: Response,
    expected: u64,
) -> BoxStream<'static, StoreResult<Bytes>> {
    let reader = BodyReader::new(response.bytes_stream().boxed(), READ_TIMEOUT);
    let pieces = stream::try_unfold((reader, expected), move |(mut reader, left)| {
        let url = url.clone();
        async move {
            if left == 0 {
                return Ok(None);
            }
            let piece = reader.content(left.min(CHUNK_BYTES_MAX as u64)).await;
            let piece = piece.map_err(|error| unavailable(&url, error.to_string()))?;
            let left = left - piece.len() as u64;
            Ok(Some((piece, (reader, left))))
        }
    });
    pieces.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        let value = HeaderValue::from_static;
        assert_eq!(start_and_total(&value("bytes 100-199/1000")), Some((100, 1000)));
        for bad in ["bytes 100-199/*", "bytes */1000", "lines 1-2/3", "100-199/1000", ""] {
            assert_eq!(start_and_total(&value(bad)), None, "{bad}");
        }
        assert_eq!(total_of_unsatisfied(&value("bytes */0")), Some(0));
        assert_eq!(total_of_unsatisfied(&value("bytes 1-2/3")), None);
    }
}
