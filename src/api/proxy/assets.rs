//! The store's assets, for the page and the command line: put in, find, show, edit, delete.

use axum::body::{Body, to_bytes};
use axum::extract::{RawQuery, Request, State};
use axum::http::header::{self, HeaderMap, HeaderName};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;

use super::super::on_demand;
use super::super::view::{ApiState, StoreMode};
use super::{ANSWER_BYTES_MAX, StoreProxy, with_headers};
use crate::http::envelope::ErrorBody;
use crate::http::extract::{HashPath, Params, has_content_type};
use crate::http::{ApiError, ApiResult};
use crate::store::service::on_demand::{FetchedContent, MissingContent, ReadAs};

/// Headers of the request for content that matter to the store.
const ASSET_REQUEST_HEADERS: [HeaderName; 3] = [header::RANGE, header::IF_RANGE, header::IF_NONE_MATCH];
/// Headers of an edit that matter to the store.
const EDIT_REQUEST_HEADERS: [HeaderName; 3] =
    [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::IF_MATCH];

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
pub(in super::super) async fn ingest(State(state): State<ApiState>, request: Request) -> ApiResult<Response> {
    if !has_content_type(request.headers(), "multipart/form-data") {
        return Err(ApiError::unsupported_media_type("multipart/form-data"));
    }
    let sent = [header::CONTENT_TYPE, header::CONTENT_LENGTH];
    state.view.store_proxy.send(Method::POST, "/ingest", &sent, request).await
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
pub(in super::super) async fn list(
    State(state): State<ApiState>,
    RawQuery(query): RawQuery,
) -> ApiResult<Response> {
    state.view.store_proxy.ask(Method::GET, "/list", query).await
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
pub(in super::super) async fn search(
    State(state): State<ApiState>,
    RawQuery(query): RawQuery,
) -> ApiResult<Response> {
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
pub(in super::super) async fn meta(
    State(state): State<ApiState>,
    HashPath(hash): HashPath,
) -> ApiResult<Response> {
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
pub(in super::super) async fn edit(
    State(state): State<ApiState>,
    HashPath(hash): HashPath,
    request: Request,
) -> ApiResult<Response> {
    let path = format!("/asset/{hash}/meta");
    state.view.store_proxy.send(Method::PATCH, &path, &EDIT_REQUEST_HEADERS, request).await
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
pub(in super::super) async fn ingest_known(
    State(state): State<ApiState>,
    HashPath(hash): HashPath,
    request: Request,
) -> ApiResult<Response> {
    let path = format!("/asset/{hash}/ingest");
    state.view.store_proxy.send(Method::POST, &path, &EDIT_REQUEST_HEADERS, request).await
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
pub(in super::super) async fn delete(
    State(state): State<ApiState>,
    HashPath(hash): HashPath,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let proxy = &state.view.store_proxy;
    let forward = proxy.request(&proxy.client, Method::DELETE, &format!("/asset/{hash}"));
    proxy.pass(with_headers(forward, &headers, &[header::IF_MATCH])).await
}

/// Read an asset's content
///
/// Passed on to the CAN Service's `GET /asset/{hash}`, once it is there: what is known and not held, or damaged, is fetched from a peer
/// before, unless `local` is true. Always an attachment, never run by a browser.
#[utoipa::path(
    get,
    path = "/store/asset/{hash}",
    tag = "store",
    params(
        ("hash" = String, Path, description = "CAN hash, 64 hexadecimal digits."),
        ("local" = Option<bool>, Query, description = "Only what is in the store (`true`): peers are not asked."),
        ("Range" = Option<String>, Header, description = "A part of the content.")
    ),
    responses(
        (status = 200, content_type = "*/*", description = "The content."),
        (status = 206, content_type = "*/*", description = "The part asked for."),
        (status = 400, description = "That is no hash."),
        (status = 404, description = "No such asset; or `not_held`: it is known, and nobody within reach has its content."),
        (status = 416, description = "The content has no such part."),
        (status = 429, description = "Too much is searched for already."),
        (status = 500, description = "`corrupt`: what is stored is damaged, and nobody within reach has it."),
        (status = 502, description = "The CAN Service is not available."),
        (status = 504, description = "`not_here_yet`: it did not come within a minute, and goes on coming."),
        (status = 507, description = "`over_quota`: it is elsewhere, and the store's quota leaves no room for it.")
    )
)]
pub(in super::super) async fn asset(
    State(state): State<ApiState>,
    HashPath(hash): HashPath,
    method: Method,
    params: Params,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let is_local = method == Method::HEAD || params.flag("local")? == Some(true);
    let proxy = &state.view.store_proxy;
    // An external service has nobody to fetch it, and may not know the parameter.
    let is_embedded = state.view.store_mode == StoreMode::Embedded;
    let query = if is_local && is_embedded { "?local=true" } else { "" };
    let read = || {
        let forward = proxy.request(&proxy.client, Method::GET, &format!("/asset/{hash}{query}"));
        proxy.pass(with_headers(forward, &headers, &ASSET_REQUEST_HEADERS))
    };
    let mut answer = read().await?;
    if !is_local && !is_embedded {
        let missing;
        (answer, missing) = told(proxy, answer).await?;
        if let Some(missing) = missing
            && let fetching = on_demand::bring(&state.view, hash, ReadAs::Stored)
            && let FetchedContent::Here = missing.fetched_by(fetching).await?
        {
            answer = read().await?;
        }
    }
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
        // The name of content is its hash, so a browser may keep it, but for what is not known yet to be the content.
        let is_known = !is_embedded || headers.contains_key(header::ETAG);
        let kept = if is_known { "private, max-age=31536000, immutable" } else { "no-store" };
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(kept));
    }
    Ok(answer)
}

/// Whether an answer is a refusal of a content that another machine may have, and the answer, of which that much was read.
async fn told(proxy: &StoreProxy, answer: Response) -> ApiResult<(Response, Option<MissingContent>)> {
    if ![StatusCode::NOT_FOUND, StatusCode::INTERNAL_SERVER_ERROR].contains(&answer.status()) {
        return Ok((answer, None));
    }
    let (head, body) = answer.into_parts();
    let said = to_bytes(body, ANSWER_BYTES_MAX).await.map_err(|error| proxy.broken(error.to_string()))?;
    let refusal: Option<ErrorBody> = serde_json::from_slice(&said).ok();
    let missing = refusal.and_then(|refusal| MissingContent::of(&refusal.code));
    // A service of another make may say in words of its own that it has none.
    let missing = missing.or((head.status == StatusCode::NOT_FOUND).then_some(MissingContent::NotHeld));
    Ok((Response::from_parts(head, Body::from(said)), missing))
}
