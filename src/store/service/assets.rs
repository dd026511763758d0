//! List, search, metadata, deletion, status.

use axum::extract::State;
use axum::http::header::{ETAG, HeaderMap, HeaderValue, IF_MATCH};
use axum::response::{IntoResponse, Response};

use super::error::{about_metadata, deleted, no_media_type, not_found, not_held};
use super::model::{AssetJson, AssetListJson, MetaPatchJson, StatusJson, is_media_type};
use super::{ServiceInner, ServiceState};
use crate::http::envelope::{ApiError, ApiResult, ErrorBody, Success};
use crate::http::extract::{DayEdge, HashPath, JsonBody, Params};
use crate::record::ContentHash;
use crate::store::ContentStore;
use crate::store::embedded::{HashPrefix, ListFilter, ListQuery, Order, StoredAsset};

/// Assets of a page, unless the query says otherwise.
const LIMIT_DEFAULT: usize = 50;
/// Most assets of a page.
const LIMIT_MAX: usize = 1_000;

/// List assets.
///
/// Newest first, unless `order` says otherwise.
#[utoipa::path(get, path = "/list", tag = "assets",
    params(
        ("held" = Option<bool>, Query, description = "Only those whose content is here (`true`), or is not (`false`)"),
        ("limit" = Option<u64>, Query, minimum = 1, description = "Assets per page: 50 unless given; more than 1000 count as 1000"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before, with the same filter"),
        ("order" = Option<String>, Query, pattern = "^(|newest|oldest|desc|asc)$", description = "By creation: `newest` (`desc`) first unless given, or `oldest` (`asc`)"),
    ),
    responses(
        (status = 200, description = "A page of assets", body = Success<AssetListJson>),
        (status = 503, description = "`too_busy`: too many others search, or it took too long", body = ErrorBody),
    ))]
pub(super) async fn list(State(service): ServiceState, params: Params) -> ApiResult<Success<AssetListJson>> {
    service.page(&params, ListFilter { held: params.flag("held")?, ..ListFilter::default() }).await
}

/// Search assets.
///
/// All that is given must match.
#[utoipa::path(get, path = "/search", tag = "assets",
    params(
        ("application" = Option<String>, Query, description = "Made by this program: its whole name, whatever its case"),
        ("user" = Option<String>, Query, description = "Made by this person: the whole name, whatever its case"),
        ("tags" = Option<String>, Query, description = "Any of these tags, separated by commas or repeated"),
        ("tag" = Option<String>, Query, description = "This tag, whatever it holds, commas too; repeated, any of them, and of `tags`"),
        ("mime_prefix" = Option<String>, Query, description = "Media types that begin so: `image/`"),
        ("hash" = Option<String>, Query, pattern = "^[0-9a-f]{64}(,[0-9a-f]{64})*$", description = "Any of these hashes, separated by commas or repeated"),
        ("hash_prefix" = Option<String>, Query, pattern = "^[0-9a-f]{4,64}$", description = "Whose hash begins so: 4 to 64 lower-case hexadecimal digits"),
        ("q" = Option<String>, Query, description = "Words that are all in names or description, in any order, whatever their case"),
        ("from" = Option<String>, Query, description = "Created then or later: RFC 3339, a date (UTC), or milliseconds since 1970"),
        ("to" = Option<String>, Query, description = "Created then or earlier, a date being its whole day: RFC 3339, a date (UTC), or milliseconds since 1970"),
        ("held" = Option<bool>, Query, description = "Only those whose content is here (`true`), or is not (`false`)"),
        ("limit" = Option<u64>, Query, minimum = 1, description = "Assets per page: 50 unless given; more than 1000 count as 1000"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before, with the same filter"),
        ("order" = Option<String>, Query, pattern = "^(|newest|oldest|desc|asc)$", description = "By creation: `newest` (`desc`) first unless given, or `oldest` (`asc`)"),
    ),
    responses(
        (status = 200, description = "A page of the assets that match", body = Success<AssetListJson>),
        (status = 503, description = "`too_busy`: too many others search, or it took too long", body = ErrorBody),
    ))]
pub(super) async fn search(
    State(service): ServiceState,
    params: Params,
) -> ApiResult<Success<AssetListJson>> {
    let (from_ms, to_ms) = (params.time_ms("from", DayEdge::Start)?, params.time_ms("to", DayEdge::End)?);
    if from_ms.zip(to_ms).is_some_and(|(from, to)| from > to) {
        let hint = "nothing was created later than the one and earlier than the other: exchange them";
        return Err(ApiError::invalid_parameter("from", "is later than 'to'", hint));
    }
    let filter = ListFilter {
        application: params.text("application")?,
        user: params.text("user")?,
        mime_prefix: params.text("mime_prefix")?,
        tags: params.many("tags").chain(params.whole("tag")).map(ToOwned::to_owned).collect(),
        hashes: params.hashes("hash", LIMIT_MAX)?,
        hash_prefix: hash_prefix(&params)?,
        q: params.text("q")?,
        from_ms,
        to_ms,
        held: params.flag("held")?,
    };
    service.page(&params, filter).await
}

/// Metadata of an asset.
#[utoipa::path(get, path = "/asset/{hash}/meta", tag = "assets",
    params(("hash" = String, Path, description = "SHA-256 of the content, 64 lower-case hexadecimal digits")),
    responses(
        (status = 200, description = "The asset", body = Success<AssetJson>,
            headers(("ETag" = String, description = "Names this version of the metadata, for `If-Match`"))),
        (status = 404, description = "`not_found`, or `deleted`", body = ErrorBody),
    ))]
pub(super) async fn meta(State(service): ServiceState, HashPath(hash): HashPath) -> ApiResult<Response> {
    Ok(tagged(service.live(hash).await?))
}

/// An asset, with the tag of its version.
fn tagged(asset: StoredAsset) -> Response {
    let etag = HeaderValue::from_str(&asset.version_tag()).ok();
    let mut response = Success::new(AssetJson::from(asset)).into_response();
    if let Some(etag) = etag {
        response.headers_mut().insert(ETAG, etag);
    }
    response
}

/// The versions for which a change is meant: those that `If-Match` names; any if there is none, or `*`.
fn meant_for(headers: &HeaderMap) -> Option<Vec<String>> {
    let values: Vec<&str> =
        headers.get_all(IF_MATCH).iter().map(|value| value.to_str().unwrap_or("")).collect();
    let tags: Vec<String> =
        values.iter().flat_map(|value| value.split(',')).map(|tag| tag.trim().to_owned()).collect();
    if tags.is_empty() || tags.iter().any(|tag| tag == "*") { None } else { Some(tags) }
}

/// Edit metadata.
///
/// Replaces the fields that are given. With `If-Match`, only if nobody changed the asset since its tag was read.
#[utoipa::path(patch, path = "/asset/{hash}/meta", tag = "assets",
    params(
        ("hash" = String, Path, description = "SHA-256 of the content, 64 lower-case hexadecimal digits"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the metadata that the change is meant for"),
    ),
    request_body(content = MetaPatchJson, description = "The fields to replace"),
    responses(
        (status = 200, description = "The asset as it is now", body = Success<AssetJson>,
            headers(("ETag" = String, description = "Names this version of the metadata"))),
        (status = 400, description = "`invalid_json`, `invalid_metadata`, or no hash", body = ErrorBody),
        (status = 404, description = "`not_found`, or `deleted`", body = ErrorBody),
        (status = 412, description = "`changed`: `If-Match` names another version", body = ErrorBody),
        (status = 413, description = "More than 1 MiB of JSON", body = ErrorBody),
        (status = 503, description = "The store is read-only", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    ))]
pub(super) async fn edit(
    State(service): ServiceState,
    HashPath(hash): HashPath,
    headers: HeaderMap,
    JsonBody(patch): JsonBody<MetaPatchJson>,
) -> ApiResult<Response> {
    service.live(hash).await?;
    if let Some(mime_type) = patch.mime_type().filter(|mime_type| !is_media_type(mime_type)) {
        return Err(no_media_type(mime_type));
    }
    let patched = service.store.patch_version(hash, patch.into(), meant_for(&headers)).await;
    Ok(tagged(patched.map_err(about_metadata)?))
}

/// Delete an asset.
///
/// Leaves a tombstone; the content stays in the trash for 30 days.
#[utoipa::path(delete, path = "/asset/{hash}", tag = "assets",
    params(
        ("hash" = String, Path, description = "SHA-256 of the content, 64 lower-case hexadecimal digits"),
        ("from_folders" = Option<bool>, Query,
            description = "Whether it is removed from all folders that have it, too, on all machines"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the metadata that is known of it"),
    ),
    responses(
        (status = 200, description = "The tombstone", body = Success<AssetJson>),
        (status = 409, description = "`in_folder`: a file of a folder has this content", body = ErrorBody),
        (status = 404, description = "`not_found`, or `deleted`", body = ErrorBody),
        (status = 412, description = "`changed`: `If-Match` names another version", body = ErrorBody),
        (status = 503, description = "The store is read-only", body = ErrorBody),
    ))]
pub(super) async fn delete(
    State(service): ServiceState,
    HashPath(hash): HashPath,
    params: Params,
    headers: HeaderMap,
) -> ApiResult<Success<AssetJson>> {
    service.live(hash).await?;
    let (store, meant_for) = (&service.store, meant_for(&headers));
    let tombstone = if params.flag("from_folders")?.unwrap_or(false) {
        store.delete_from_folders(hash, meant_for).await?
    } else {
        store.delete_version(hash, meant_for).await?
    };
    Ok(Success::new(tombstone.into()))
}

/// Health and size.
#[utoipa::path(get, path = "/status", tag = "service",
    responses((status = 200, description = "How the service is", body = Success<StatusJson>)))]
pub(super) async fn status(State(service): ServiceState) -> ApiResult<Success<StatusJson>> {
    let status = service.store.status().await?;
    Ok(Success::new(StatusJson {
        healthy: status.problem().is_none(),
        assets: status.assets,
        bytes: status.bytes,
        assets_held: status.assets_held,
        bytes_held: status.bytes_held,
        damaged: status.damaged,
        store_id: status.id.map(|id| id.to_string()),
        seq: status.seq,
        keeps_entries: status.keeps_entries,
        read_only: status.read_only,
        short_of_space: status.short_of_space,
        contents_away: status.contents_away,
        quota: status.quota,
        waiting_uploads: status.waiting_uploads,
        notice: status.notice,
        scrub: status.scrub.map(|scrub| *scrub),
        snapshots: status.snapshots.map(|report| *report),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }))
}

pub(super) fn hash_prefix(params: &Params) -> ApiResult<Option<HashPrefix>> {
    let Some(text) = params.one("hash_prefix")? else { return Ok(None) };
    let invalid = || {
        let hint = "give 4 to 64 lower-case hexadecimal digits";
        ApiError::invalid_parameter("hash_prefix", "is not the beginning of a hash", hint)
    };
    HashPrefix::parse(text).map(Some).ok_or_else(invalid)
}

impl ServiceInner {
    /// The asset, if it is neither unknown nor deleted.
    pub(super) async fn live(&self, hash: ContentHash) -> ApiResult<StoredAsset> {
        live(hash, self.store.asset(hash).await?)
    }

    /// The asset, if its content is here, too.
    pub(super) async fn held(&self, hash: ContentHash) -> ApiResult<StoredAsset> {
        let asset = live(hash, self.store.look_at(hash).await?)?;
        if asset.holding.is_held() { Ok(asset) } else { Err(not_held(hash)) }
    }

    async fn page(&self, params: &Params, filter: ListFilter) -> ApiResult<Success<AssetListJson>> {
        let order = match params.one("order")? {
            None | Some("newest" | "desc") => Order::NewestFirst,
            Some("oldest" | "asc") => Order::OldestFirst,
            Some(_) => {
                return Err(ApiError::invalid_parameter("order", "is unknown", "give newest or oldest"));
            }
        };
        let limit = params.limit(LIMIT_DEFAULT, LIMIT_MAX)?;
        let query = ListQuery { filter, order, limit, cursor: params.text("cursor")? };
        Ok(Success::new(self.store.list(query).await?.into()))
    }
}

fn live(hash: ContentHash, found: Option<StoredAsset>) -> ApiResult<StoredAsset> {
    match found {
        Some(asset) if asset.record.deleted => Err(deleted(hash)),
        Some(asset) => Ok(asset),
        None => Err(not_found(hash)),
    }
}
