//! The way through the agent to the store's own HTTP API.
//!
//! The store listens on another port, which is another origin to a browser, and neither server allows other origins; and to a
//! program on another machine the store's address may mean a store of its own. So the agent passes on what its page and its
//! command line need: put a file in, find, show, edit, delete. Bytes are streamed in both
//! directions; nothing is kept. The store's URL comes from the configuration alone, and redirects are not followed.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, Request, State};
use axum::http::header::{self, HeaderMap, HeaderName};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use reqwest::ClientBuilder;
use reqwest::redirect::Policy;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;

use super::view::{ASK_TIMEOUT, ApiState};
use crate::http::extract::{HashPath, has_content_type};
use crate::http::{ApiError, ApiResult};
use crate::store::service::key;

pub(super) mod scrub;

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
/// Headers of the request for content that matter to the store.
const ASSET_REQUEST_HEADERS: [HeaderName; 3] = [header::RANGE, header::IF_RANGE, header::IF_NONE_MATCH];
/// Headers of an edit that matter to the store.
const EDIT_REQUEST_HEADERS: [HeaderName; 3] =
    [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::IF_MATCH];
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

/// A URL that the store cannot have.
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
    ///
    /// # Errors
    /// The URL is none, or the client cannot be set up.
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
    ///
    /// # Errors
    /// The key cannot be sent.
    pub fn with_key(self, key: &SecretString) -> Result<Self, StoreUrlError> {
        let mut sent = HeaderValue::from_str(key.expose_secret()).map_err(|_| StoreUrlError {
            url: self.base.clone(),
            reason: String::from("its key holds characters that cannot be sent"),
        })?;
        sent.set_sensitive(true);
        Ok(Self { key: Some(sent), ..self })
    }

    /// A request for a path of the store's API.
    fn request(&self, client: &reqwest::Client, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = client.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.header(key::HEADER, key),
            None => request,
        }
    }

    /// The API's URL, path included, without a slash at its end.
    #[must_use]
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

/// Put a file into the store
///
/// Passed on to the CAN Service's `POST /ingest`; its description says what the form may hold.
#[utoipa::path(
    post,
    path = "/store/ingest",
    tag = "store",
    request_body(content_type = "multipart/form-data", content = String, description = "A form with the field `file`."),
    responses(
        (status = 201, description = "Stored; the asset's description."),
        (status = 200, description = "It was there already; the asset's description."),
        (status = 415, description = "The body is not a multipart form."),
        (status = 502, description = "The CAN Service is not available.")
    )
)]
pub(super) async fn ingest(State(state): State<ApiState>, request: Request) -> ApiResult<Response> {
    if !has_content_type(request.headers(), "multipart/form-data") {
        return Err(ApiError::unsupported_media_type("multipart/form-data"));
    }
    let proxy = &state.view.store_proxy;
    let mut forward = proxy.request(&proxy.uploads, Method::POST, "/ingest");
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        if let Some(value) = request.headers().get(&name) {
            forward = forward.header(name, value);
        }
    }
    proxy.upload(forward, request.into_body()).await
}

/// List assets
///
/// Passed on to the CAN Service's `GET /list`, query included.
#[utoipa::path(
    get,
    path = "/store/list",
    operation_id = "list_assets",
    tag = "store",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, description = "Most assets of the answer; more than 1000 count as 1000."),
        ("held" = Option<bool>, Query, description = "As the CAN Service's."),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the answer before."),
        ("order" = Option<String>, Query, pattern = "^(|newest|oldest|desc|asc)$", description = "As the CAN Service's.")
    ),
    responses(
        (status = 200, description = "Assets, newest first unless asked otherwise."),
        (status = 502, description = "The CAN Service is not available."),
        (status = 503, description = "`too_busy`: too many others search, or it took too long.")
    )
)]
pub(super) async fn list(State(state): State<ApiState>, RawQuery(query): RawQuery) -> ApiResult<Response> {
    let proxy = &state.view.store_proxy;
    proxy.ask(Method::GET, "/list", query).await
}

/// Search assets
///
/// Passed on to the CAN Service's `GET /search`, query included; its description says what may be asked.
#[utoipa::path(
    get,
    path = "/store/search",
    tag = "store",
    params(
        ("application" = Option<String>, Query, description = "As the CAN Service's."),
        ("user" = Option<String>, Query, description = "As the CAN Service's."),
        ("tags" = Option<String>, Query, description = "As the CAN Service's."),
        ("tag" = Option<String>, Query, description = "As the CAN Service's."),
        ("mime_prefix" = Option<String>, Query, description = "As the CAN Service's."),
        ("hash" = Option<String>, Query, description = "As the CAN Service's."),
        ("hash_prefix" = Option<String>, Query, description = "As the CAN Service's."),
        ("q" = Option<String>, Query, description = "As the CAN Service's."),
        ("from" = Option<String>, Query, description = "As the CAN Service's."),
        ("to" = Option<String>, Query, description = "As the CAN Service's."),
        ("held" = Option<bool>, Query, description = "As the CAN Service's."),
        ("limit" = Option<u32>, Query, minimum = 1, description = "As the CAN Service's."),
        ("cursor" = Option<String>, Query, description = "As the CAN Service's."),
        ("order" = Option<String>, Query, pattern = "^(|newest|oldest|desc|asc)$", description = "As the CAN Service's.")
    ),
    responses(
        (status = 200, description = "Assets that match."),
        (status = 400, description = "A parameter makes no sense."),
        (status = 502, description = "The CAN Service is not available."),
        (status = 503, description = "`too_busy`: too many others search, or it took too long.")
    )
)]
pub(super) async fn search(State(state): State<ApiState>, RawQuery(query): RawQuery) -> ApiResult<Response> {
    state.view.store_proxy.ask(Method::GET, "/search", query).await
}

/// What is known about an asset
///
/// Passed on to the CAN Service's `GET /asset/{hash}/meta`.
#[utoipa::path(
    get,
    path = "/store/asset/{hash}/meta",
    tag = "store",
    params(("hash" = String, Path, description = "CAN hash, 64 hexadecimal digits.")),
    responses(
        (status = 200, description = "The asset's description."),
        (status = 400, description = "That is no hash."),
        (status = 404, description = "No such asset."),
        (status = 502, description = "The CAN Service is not available.")
    )
)]
pub(super) async fn meta(State(state): State<ApiState>, HashPath(hash): HashPath) -> ApiResult<Response> {
    state.view.store_proxy.ask(Method::GET, &format!("/asset/{hash}/meta"), None).await
}

/// Edit what is known about an asset
///
/// Passed on to the CAN Service's `PATCH /asset/{hash}/meta`; its description says which fields there are.
#[utoipa::path(
    patch,
    path = "/store/asset/{hash}/meta",
    tag = "store",
    params(
        ("hash" = String, Path, description = "CAN hash, 64 hexadecimal digits."),
        ("If-Match" = Option<String>, Header, description = "The ETag of the description that the change is meant for.")
    ),
    request_body(content = Object, description = "The fields to replace."),
    responses(
        (status = 200, description = "The asset's description as it is now."),
        (status = 400, description = "That is no hash, or a field makes no sense."),
        (status = 404, description = "No such asset."),
        (status = 415, description = "The body is not JSON."),
        (status = 502, description = "The CAN Service is not available.")
    )
)]
pub(super) async fn edit(
    State(state): State<ApiState>,
    HashPath(hash): HashPath,
    request: Request,
) -> ApiResult<Response> {
    let proxy = &state.view.store_proxy;
    let mut forward = proxy.request(&proxy.uploads, Method::PATCH, &format!("/asset/{hash}/meta"));
    for name in EDIT_REQUEST_HEADERS {
        if let Some(value) = request.headers().get(&name) {
            forward = forward.header(name, value);
        }
    }
    proxy.upload(forward, request.into_body()).await
}

/// Say something about content that is in the store
///
/// Passed on to the CAN Service's `POST /asset/{hash}/ingest`; its description says what may be said.
#[utoipa::path(
    post,
    path = "/store/asset/{hash}/ingest",
    tag = "store",
    params(("hash" = String, Path, description = "CAN hash, 64 hexadecimal digits.")),
    request_body(content = Object, description = "What the form of `POST /store/ingest` says besides the file."),
    responses(
        (status = 200, description = "The asset's description as it is now."),
        (status = 400, description = "That is no hash, or a field makes no sense."),
        (status = 404, description = "The content is not there, and has to be uploaded."),
        (status = 415, description = "The body is not JSON."),
        (status = 502, description = "The CAN Service is not available."),
        (status = 507, description = "There is no room for content of this size.")
    )
)]
pub(super) async fn ingest_known(
    State(state): State<ApiState>,
    HashPath(hash): HashPath,
    request: Request,
) -> ApiResult<Response> {
    let proxy = &state.view.store_proxy;
    let mut forward = proxy.request(&proxy.uploads, Method::POST, &format!("/asset/{hash}/ingest"));
    for name in EDIT_REQUEST_HEADERS {
        if let Some(value) = request.headers().get(&name) {
            forward = forward.header(name, value);
        }
    }
    proxy.upload(forward, request.into_body()).await
}

/// List the store's trash
///
/// Passed on to the CAN Service's `GET /trash`, query included.
#[utoipa::path(
    get,
    path = "/store/trash",
    tag = "store",
    params(
        ("hash_prefix" = Option<String>, Query, description = "As the CAN Service's."),
        ("limit" = Option<u32>, Query, minimum = 1, description = "As the CAN Service's."),
        ("cursor" = Option<String>, Query, description = "As the CAN Service's.")
    ),
    responses(
        (status = 200, description = "What was deleted lately, the latest first."),
        (status = 400, description = "A parameter makes no sense."),
        (status = 502, description = "The CAN Service is not available.")
    )
)]
pub(super) async fn trash(State(state): State<ApiState>, RawQuery(query): RawQuery) -> ApiResult<Response> {
    state.view.store_proxy.ask(Method::GET, "/trash", query).await
}

/// Bring an asset back from the trash
///
/// Passed on to the CAN Service's `POST /asset/{hash}/restore`.
#[utoipa::path(
    post,
    path = "/store/asset/{hash}/restore",
    tag = "store",
    params(("hash" = String, Path, description = "CAN hash, 64 hexadecimal digits.")),
    responses(
        (status = 200, description = "The asset as it is now."),
        (status = 400, description = "That is no hash."),
        (status = 404, description = "No such asset, or its content is not in the trash."),
        (status = 502, description = "The CAN Service is not available.")
    )
)]
pub(super) async fn restore(State(state): State<ApiState>, HashPath(hash): HashPath) -> ApiResult<Response> {
    state.view.store_proxy.ask(Method::POST, &format!("/asset/{hash}/restore"), None).await
}

/// Delete an asset
///
/// Passed on to the CAN Service's `DELETE /asset/{hash}`.
#[utoipa::path(
    delete,
    path = "/store/asset/{hash}",
    tag = "store",
    params(
        ("hash" = String, Path, description = "CAN hash, 64 hexadecimal digits."),
        ("If-Match" = Option<String>, Header, description = "The ETag of the description that is known of it.")
    ),
    responses(
        (status = 200, description = "The tombstone."),
        (status = 400, description = "That is no hash."),
        (status = 404, description = "No such asset."),
        (status = 502, description = "The CAN Service is not available.")
    )
)]
pub(super) async fn delete(
    State(state): State<ApiState>,
    HashPath(hash): HashPath,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let proxy = &state.view.store_proxy;
    let mut forward = proxy.request(&proxy.client, Method::DELETE, &format!("/asset/{hash}"));
    if let Some(value) = headers.get(header::IF_MATCH) {
        forward = forward.header(header::IF_MATCH, value);
    }
    proxy.pass(forward).await
}

/// Read an asset's content
///
/// Passed on to the CAN Service's `GET /asset/{hash}`. Always an attachment, never run by a browser.
#[utoipa::path(
    get,
    path = "/store/asset/{hash}",
    tag = "store",
    params(
        ("hash" = String, Path, description = "CAN hash, 64 hexadecimal digits."),
        ("Range" = Option<String>, Header, description = "A part of the content.")
    ),
    responses(
        (status = 200, content_type = "*/*", description = "The content."),
        (status = 206, content_type = "*/*", description = "The part asked for."),
        (status = 400, description = "That is no hash."),
        (status = 404, description = "No such asset."),
        (status = 416, description = "The content has no such part."),
        (status = 502, description = "The CAN Service is not available.")
    )
)]
pub(super) async fn asset(
    State(state): State<ApiState>,
    HashPath(hash): HashPath,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let proxy = &state.view.store_proxy;
    let mut forward = proxy.request(&proxy.client, Method::GET, &format!("/asset/{hash}"));
    for name in ASSET_REQUEST_HEADERS {
        if let Some(value) = headers.get(&name) {
            forward = forward.header(name, value);
        }
    }
    let mut answer = proxy.pass(forward).await?;
    if answer.status().is_success() {
        // An external service may be of any make: what it says must not turn content into a page of ours.
        let attachment = HeaderValue::from_static("attachment");
        let headers = answer.headers_mut();
        let is_attachment = headers
            .get(header::CONTENT_DISPOSITION)
            .is_some_and(|value| value.as_bytes().to_ascii_lowercase().starts_with(b"attachment"));
        if !is_attachment {
            headers.insert(header::CONTENT_DISPOSITION, attachment);
        }
        // The name of content is its hash, so a browser may keep it.
        headers
            .insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=31536000, immutable"));
    }
    Ok(answer)
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
