//! The way through the agent to the store's own HTTP API.
//!
//! The store listens on another port, which is another origin to a browser, and neither server allows other origins; and to a
//! program on another machine the store's address may mean a store of its own. So the agent passes on what its page and its
//! command line need: put a file in, find, show, edit, delete. Bytes are streamed in both
//! directions; nothing is kept. The store's URL comes from the configuration alone, and redirects are not followed.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{self, HeaderMap, HeaderName};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use reqwest::ClientBuilder;
use reqwest::redirect::Policy;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;

use super::view::ASK_TIMEOUT;
use crate::http::{ApiError, ApiResult};
use crate::store::service::key;

pub(super) mod assets;
pub(super) mod scrub;
pub(super) mod trash;

/// Path of the CAN Service's API, for a URL that names only the host.
const BASE_PATH: &str = "/api/v1/can/0";
/// How long the store may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the store may take to send anything, or to take more of an upload. Once all of that is sent, it is the time
/// in which the last bytes reach the disk, which can be slow.
const STALL: Duration = Duration::from_secs(110);
/// Most bytes of the store's answer to an upload.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Most bytes of a list that the page reads.
const LIST_BYTES_MAX: usize = 4 << 20;
/// Headers of the store's answer that are passed on.
const ANSWER_HEADERS: [HeaderName; 8] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_DISPOSITION,
    header::ACCEPT_RANGES,
    header::ETAG,
    header::LAST_MODIFIED,
    header::RETRY_AFTER,
];

#[derive(Debug, thiserror::Error)]
#[error("'{url}' is no URL of a CAN Service: {reason}")]
pub struct StoreUrlError {
    url: String,
    reason: String,
}

/// A client of the store's HTTP API. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StoreProxy {
    client: reqwest::Client,
    /// Without the read timeout, which would count from the beginning of a request, however well its body moves.
    uploads: reqwest::Client,
    base: String,
    key: Option<HeaderValue>,
}

impl StoreProxy {
    /// For the store at `url`: `http://host:3210`, with or without the API's path.
    pub fn new(url: &str) -> Result<Self, StoreUrlError> {
        let refuse = |reason: String| StoreUrlError { url: url.to_owned(), reason };
        let parsed = reqwest::Url::parse(url).map_err(|error| refuse(error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.cannot_be_a_base() {
            return Err(refuse(String::from("it must begin with http:// or https://")));
        }
        let path = parsed.path().trim_end_matches('/');
        let base = format!(
            "{}{}",
            parsed.origin().ascii_serialization(),
            if path.is_empty() { BASE_PATH } else { path }
        );
        // The process has one provider; an earlier caller has installed the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let build = |builder: ClientBuilder| builder.build().map_err(|error| refuse(error.to_string()));
        let common = || {
            reqwest::Client::builder().redirect(Policy::none()).no_proxy().connect_timeout(CONNECT_TIMEOUT)
        };
        Ok(Self { client: build(common().read_timeout(STALL))?, uploads: build(common())?, base, key: None })
    }

    /// The same, with the sync API key: a store that asks for a token takes it instead.
    pub fn with_key(self, key: &SecretString) -> Result<Self, StoreUrlError> {
        let mut sent = HeaderValue::from_str(key.expose_secret()).map_err(|_| StoreUrlError {
            url: self.base.clone(),
            reason: String::from("its key holds characters that cannot be sent"),
        })?;
        sent.set_sensitive(true);
        Ok(Self { key: Some(sent), ..self })
    }

    fn request(&self, client: &reqwest::Client, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = client.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.header(key::HEADER, key),
            None => request,
        }
    }

    /// The API's URL, path included, without a slash at its end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The newest `limit` assets as the store describes them.
    pub(super) async fn newest(&self, limit: usize) -> ApiResult<serde_json::Value> {
        let fetch = async {
            let request = self.request(&self.client, Method::GET, &format!("/list?limit={limit}"));
            let answer = request.send().await.map_err(|error| self.unavailable(&error))?;
            if !answer.status().is_success() {
                return Err(self.broken(format!("it answered {}", answer.status())));
            }
            let body = self.collect(answer, LIST_BYTES_MAX).await?;
            serde_json::from_slice(&body).map_err(|error| self.broken(error.to_string()))
        };
        let late = |_| self.broken(format!("it did not answer within {} s", ASK_TIMEOUT.as_secs()));
        tokio::time::timeout(ASK_TIMEOUT, fetch).await.map_err(late)?
    }

    /// Passes on a request without a body, and its answer.
    async fn ask(&self, method: Method, path: &str, query: Option<String>) -> ApiResult<Response> {
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        self.pass(self.request(&self.client, method, &format!("{path}{query}"))).await
    }

    /// Passes on the answer to a request, content as a stream.
    async fn pass(&self, request: reqwest::RequestBuilder) -> ApiResult<Response> {
        let answer = request.send().await.map_err(|error| self.unavailable(&error))?;
        let (status, headers) = self.head(&answer)?;
        Ok((status, headers, Body::from_stream(answer.bytes_stream())).into_response())
    }

    /// Sends an upload on its way and passes on the answer.
    async fn upload(&self, request: reqwest::RequestBuilder, body: Body) -> ApiResult<Response> {
        let (moved, movement) = watch::channel(());
        let pieces = body.into_data_stream().inspect(move |_| moved.send_replace(()));
        let exchange = async {
            let sent = request.body(reqwest::Body::wrap_stream(pieces)).send().await;
            let answer = sent.map_err(|error| self.unavailable(&error))?;
            let (status, headers) = self.head(&answer)?;
            Ok((status, headers, self.collect(answer, ANSWER_BYTES_MAX).await?).into_response())
        };
        tokio::select! {
            answer = exchange => answer,
            () = stalled(movement) => Err(self.broken("the upload stood still")),
        }
    }

    /// Sends a request on with its body and those of its headers that are named.
    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[HeaderName],
        request: Request,
    ) -> ApiResult<Response> {
        let forward = self.request(&self.uploads, method, path);
        let forward = with_headers(forward, request.headers(), headers);
        self.upload(forward, request.into_body()).await
    }

    /// What of the store's answer is passed on besides the body.
    fn head(&self, answer: &reqwest::Response) -> ApiResult<(StatusCode, HeaderMap)> {
        let status = answer.status();
        if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
            return Err(self.broken(format!("it answered {status}")));
        }
        let passed = |name: HeaderName| Some((name.clone(), answer.headers().get(name)?.clone()));
        Ok((status, ANSWER_HEADERS.into_iter().filter_map(passed).collect()))
    }

    /// Reads an answer of at most `max` bytes.
    async fn collect(&self, mut answer: reqwest::Response, max: usize) -> ApiResult<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.unavailable(&error))? {
            if body.len() + chunk.len() > max {
                return Err(self.broken(format!("its answer is longer than {max} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn unavailable(&self, error: &reqwest::Error) -> ApiError {
        let mut reason = if error.is_timeout() {
            String::from("it did not answer in time")
        } else if error.is_connect() {
            String::from("it does not accept connections")
        } else {
            error.to_string()
        };
        if let Some(cause) = root_cause(error) {
            reason = format!("{reason} ({cause})");
        }
        self.broken(reason)
    }

    /// 502 about the store.
    pub(super) fn broken(&self, reason: impl AsRef<str>) -> ApiError {
        ApiError::new(
            StatusCode::BAD_GATEWAY,
            "store_unavailable",
            format!("the CAN Service at {} is not available: {}", self.base, reason.as_ref()),
            "GET /status shows the state of the store",
        )
    }
}

/// The request with those of `headers` that are named.
fn with_headers(
    request: reqwest::RequestBuilder,
    headers: &HeaderMap,
    names: &[HeaderName],
) -> reqwest::RequestBuilder {
    names
        .iter()
        .filter_map(|name| headers.get(name).map(|value| (name, value)))
        .fold(request, |request, (name, value)| request.header(name, value))
}

/// Ends when nothing has moved for [`STALL`]; once the body is through (its end of the channel is gone), that is the
/// time for the answer.
async fn stalled(mut movement: watch::Receiver<()>) {
    while let Ok(Ok(())) = tokio::time::timeout(STALL, movement.changed()).await {}
    if movement.has_changed().is_err() {
        tokio::time::sleep(STALL).await;
    }
}

fn root_cause(error: &dyn std::error::Error) -> Option<String> {
    let mut cause = error.source()?;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    Some(cause.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn the_path_of_the_api_may_be_left_out() {
        let base = |url: &str| StoreProxy::new(url).map(|proxy| proxy.base().to_owned()).ok();
        let full = Some(String::from("http://127.0.0.1:3210/api/v1/can/0"));
        assert_eq!(base("http://127.0.0.1:3210"), full);
        assert_eq!(base("http://127.0.0.1:3210/"), full);
        assert_eq!(base("http://127.0.0.1:3210/api/v1/can/0/"), full);
        assert_eq!(base("https://nas.lan/can"), Some(String::from("https://nas.lan/can")));
        for bad in ["", "nas.lan:3210", "ftp://nas.lan", "file:///etc/passwd", "http://"] {
            assert_eq!(base(bad), None, "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_may_last_as_long_as_it_moves() {
        let (moved, movement) = watch::channel(());
        let began = Instant::now();
        let watching = tokio::spawn(stalled(movement));
        for _ in 0..100 {
            tokio::time::sleep(STALL / 2).await;
            moved.send(()).unwrap();
        }
        drop(moved);
        watching.await.unwrap();
        assert_eq!(began.elapsed(), STALL * 50 + STALL, "the store has its time for the answer");
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_stands_still_is_given_up() {
        let (_moved, movement) = watch::channel(());
        let began = Instant::now();
        stalled(movement).await;
        assert_eq!(began.elapsed(), STALL);
    }
}
