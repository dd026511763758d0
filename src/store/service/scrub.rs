//! Scrubbing, as programs ask for it and follow it.

use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::ServiceState;
use crate::http::envelope::{ApiError, ApiResult, ErrorBody, Success};
use crate::http::extract::Params;
use crate::record::ContentHash;
use crate::store::scrub::{ScrubFinding, ScrubReport};

/// Findings of a page, unless the query says otherwise, and at most.
const LIMIT: usize = 1000;

/// A pass that was begun, or goes on.
#[derive(Serialize, ToSchema)]
pub(super) struct BegunJson {
    /// Its number: `/scrub` tells about it as `running`, and then as `last`.
    pass: u64,
}

/// Damaged contents.
#[derive(Serialize, ToSchema)]
pub(super) struct FindingsJson {
    /// In the order of their hashes.
    findings: Vec<ScrubFinding>,
    /// Give this as `cursor` for the next page; null on the last one.
    next_cursor: Option<String>,
}

/// How scrubbing stands.
#[utoipa::path(get, path = "/scrub", operation_id = "scrub_status", tag = "service",
    responses((status = 200, description = "The pass under way, and the last one", body = Success<ScrubReport>)))]
pub(super) async fn status(State(service): ServiceState) -> ApiResult<Success<ScrubReport>> {
    Ok(Success::new(service.store.scrub_report().await?))
}

/// Check everything now.
///
/// All contents are read and compared with their hashes, but for those in object storage, which are counted (`not_checked`); the
/// database and its indices are checked. It begins at the beginning;
/// a pass that somebody asked for and that is under way goes on, at the rate that is asked for now.
#[utoipa::path(post, path = "/scrub", operation_id = "scrub_begin", tag = "service",
    params(("bytes_per_sec" = Option<u64>, Query, minimum = 1, description = "Read at most this much per second; as fast as it goes when absent")),
    responses(
        (status = 202, description = "It is under way", body = Success<BegunJson>),
        (status = 400, description = "The rate is none", body = ErrorBody),
        (status = 503, description = "The store is read-only, or `not_scrubbed`: nobody scrubs it at the moment", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    ))]
pub(super) async fn begin(
    State(service): ServiceState,
    params: Params,
) -> ApiResult<(StatusCode, Success<BegunJson>)> {
    let rate = params.number("bytes_per_sec")?;
    if rate == Some(0) {
        return Err(ApiError::invalid_parameter(
            "bytes_per_sec",
            "is zero",
            "give at least 1, or leave it out",
        ));
    }
    if !service.store.is_scrubbed() {
        let hint = "its log says why; try again in a moment";
        let message = "the store is not scrubbed at the moment";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_scrubbed", message, hint));
    }
    let pass = service.store.begin_scrub(rate).await?;
    Ok((StatusCode::ACCEPTED, Success::new(BegunJson { pass })))
}

/// What was found damaged since the pass began.
#[utoipa::path(get, path = "/scrub/findings", operation_id = "scrub_findings", tag = "service",
    params(
        ("limit" = Option<u64>, Query, minimum = 1, description = "Findings per page: 1000 unless given, and at most"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, description = "A page of damaged contents, and what became of them", body = Success<FindingsJson>),
    ))]
pub(super) async fn findings(
    State(service): ServiceState,
    params: Params,
) -> ApiResult<Success<FindingsJson>> {
    let limit = params.limit(LIMIT, LIMIT)?;
    let after: Option<ContentHash> = match params.one("cursor")? {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| {
            let hint = "begin without one, and pass on what the last page gave";
            ApiError::invalid_parameter("cursor", "is not one of this list", hint)
        })?),
    };
    let findings = service.store.scrub_findings(after, limit).await?;
    let next_cursor = findings.last().filter(|_| findings.len() == limit).map(|last| last.hash.clone());
    Ok(Success::new(FindingsJson { findings, next_cursor }))
}

/// What is damaged here.
///
/// Contents that are set aside and did not come again yet, the latest first.
#[utoipa::path(get, path = "/damaged", operation_id = "damaged", tag = "service",
    params(("limit" = Option<u64>, Query, minimum = 1, description = "How many: 1000 unless given, and at most")),
    responses(
        (status = 200, description = "Damaged contents", body = Success<Vec<ScrubFinding>>),
    ))]
pub(super) async fn damaged(
    State(service): ServiceState,
    params: Params,
) -> ApiResult<Success<Vec<ScrubFinding>>> {
    Ok(Success::new(service.store.damaged_contents(params.limit(LIMIT, LIMIT)?).await?))
}
