//! The trash: what was deleted lately, and bringing it back.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ServiceState;
use super::assets::hash_prefix;
use super::error::{codes, not_found};
use super::model::AssetJson;
use crate::clock::rfc3339;
use crate::http::envelope::{ApiError, ApiResult, ErrorBody, Success};
use crate::http::extract::{HashPath, Params};
use crate::record::ContentHash;
use crate::store::StoreError;
use crate::store::embedded::{TRASH_KEPT_MS, TrashPage, TrashedAsset};
use axum::http::StatusCode;

/// Entries of a page, unless the query says otherwise.
const LIMIT_DEFAULT: usize = 50;
/// Most entries of a page.
const LIMIT_MAX: usize = 1_000;

/// An asset whose content lies in the trash.
#[derive(Serialize, Deserialize, ToSchema, Debug)]
pub(super) struct TrashedJson {
    /// Its tombstone; where `deleted` is false, the asset is known still, and only its content was let go.
    #[serde(flatten)]
    pub(super) asset: AssetJson,
    /// When it went there: RFC 3339, UTC, milliseconds.
    #[schema(format = DateTime, example = "2026-11-20T12:00:00.000Z")]
    pub(super) trashed_at: Option<String>,
    /// How long it stays at least: RFC 3339, UTC, milliseconds.
    #[schema(format = DateTime, example = "2026-12-20T12:00:00.000Z")]
    pub(super) kept_until: Option<String>,
}

/// A page of the trash.
#[derive(Serialize, Deserialize, ToSchema, Debug)]
pub(super) struct TrashJson {
    /// What was thrown away last comes first.
    pub(super) assets: Vec<TrashedJson>,
    /// Give this as `cursor` for the next page; null on the last one.
    pub(super) next_cursor: Option<String>,
    /// How much lies there, on all pages.
    pub(super) total: u64,
}

impl From<TrashPage> for TrashJson {
    fn from(page: TrashPage) -> Self {
        let TrashPage { assets, more, total } = page;
        let last = assets.last().filter(|_| more);
        let next_cursor = last.map(|last| format!("{}-{}", last.trashed_at_ms, last.asset.record.hash));
        let shown = |TrashedAsset { asset, trashed_at_ms }: TrashedAsset| TrashedJson {
            asset: asset.into(),
            trashed_at: rfc3339(trashed_at_ms),
            kept_until: rfc3339(trashed_at_ms.saturating_add(TRASH_KEPT_MS)),
        };
        Self { assets: assets.into_iter().map(shown).collect(), next_cursor, total }
    }
}

/// List the trash.
///
/// What was deleted, or let go, within the last 30 days, the latest first.
#[utoipa::path(get, path = "/trash", tag = "assets",
    params(
        ("hash_prefix" = Option<String>, Query, pattern = "^[0-9a-f]{4,64}$", description = "Whose hash begins so: 4 to 64 lower-case hexadecimal digits"),
        ("limit" = Option<u64>, Query, minimum = 1, description = "Assets per page: 50 unless given; more than 1000 count as 1000"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before, with the same prefix"),
    ),
    responses(
        (status = 200, description = "A page of the trash", body = Success<TrashJson>),
    ))]
pub(super) async fn list_trash(
    State(service): ServiceState,
    params: Params,
) -> ApiResult<Success<TrashJson>> {
    let after = params.one("cursor")?.map(parse_cursor).transpose()?;
    let limit = params.limit(LIMIT_DEFAULT, LIMIT_MAX)?;
    Ok(Success::new(service.store.trash(hash_prefix(&params)?, after, limit).await?.into()))
}

/// Bring an asset back from the trash.
///
/// It lives again, as an edit that is later than the deletion, here and on every machine that hears of it.
#[utoipa::path(post, path = "/asset/{hash}/restore", tag = "assets",
    params(("hash" = String, Path, description = "SHA-256 of the content, 64 lower-case hexadecimal digits")),
    responses(
        (status = 200, description = "The asset as it is now; one that was not in the trash is as it was", body = Success<AssetJson>),
        (status = 404, description = "`not_found`, or `not_in_trash`", body = ErrorBody),
        (status = 503, description = "The store is read-only", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    ))]
pub(super) async fn restore(
    State(service): ServiceState,
    HashPath(hash): HashPath,
) -> ApiResult<Success<AssetJson>> {
    match service.store.restore(hash).await {
        Ok(asset) => Ok(Success::new(asset.into())),
        Err(StoreError::NotFound(hash)) => Err(not_found(hash)),
        Err(StoreError::NotHeld(hash)) => {
            Err(not_in_trash(hash, format!("the content of {hash} is not in the trash, or not any more")))
        }
        Err(StoreError::Corrupt(hash)) => Err(not_in_trash(
            hash,
            format!("the content of {hash} is in the trash, and damaged or missing there"),
        )),
        Err(error) => Err(error.into()),
    }
}

fn not_in_trash(hash: ContentHash, message: String) -> ApiError {
    let hint = format!("fetch it from other machines: can-sync fetch {hash}; or store it again");
    ApiError::new(StatusCode::NOT_FOUND, codes::NOT_IN_TRASH, message, hint)
}

fn parse_cursor(text: &str) -> ApiResult<(u64, ContentHash)> {
    let parsed = text.split_once('-').and_then(|(ms, hash)| Some((ms.parse().ok()?, hash.parse().ok()?)));
    let hint = "begin without one, and pass on what the last page gave";
    parsed.ok_or_else(|| ApiError::invalid_parameter("cursor", "is not one of this list", hint))
}
