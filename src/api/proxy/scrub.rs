//! The store's scrub, for the command line.

use axum::extract::{RawQuery, State};
use axum::http::Method;
use axum::response::Response;

use super::super::view::ApiState;
use crate::http::ApiResult;

/// How the store's scrub stands
///
/// Passed on to the CAN Service's `GET /scrub`.
#[utoipa::path(
    get,
    path = "/store/scrub",
    operation_id = "scrub_status",
    tag = "store",
    responses(
        (status = 200, description = "The pass under way, and the last one."),
        (status = 404, description = "The CAN Service does not scrub itself."),
        (status = 502, description = "The CAN Service is not available.")
    )
)]
pub(in super::super) async fn status(State(state): State<ApiState>) -> ApiResult<Response> {
    state.view.store_proxy.ask(Method::GET, "/scrub", None).await
}

/// Check everything in the store now
///
/// Passed on to the CAN Service's `POST /scrub`, query included.
#[utoipa::path(
    post,
    path = "/store/scrub",
    operation_id = "scrub_begin",
    tag = "store",
    params(("bytes_per_sec" = Option<u64>, Query, minimum = 1, description = "As the CAN Service's.")),
    responses(
        (status = 202, description = "It is under way."),
        (status = 400, description = "The rate is none."),
        (status = 404, description = "The CAN Service does not scrub itself."),
        (status = 502, description = "The CAN Service is not available."),
        (status = 503, description = "The store is read-only, or nobody scrubs it at the moment."),
        (status = 507, description = "The store's disk is full.")
    )
)]
pub(in super::super) async fn begin(
    State(state): State<ApiState>,
    RawQuery(query): RawQuery,
) -> ApiResult<Response> {
    state.view.store_proxy.ask(Method::POST, "/scrub", query).await
}

/// What the store's scrub found damaged
///
/// Passed on to the CAN Service's `GET /scrub/findings`, query included.
#[utoipa::path(
    get,
    path = "/store/scrub/findings",
    operation_id = "scrub_findings",
    tag = "store",
    params(
        ("limit" = Option<u64>, Query, minimum = 1, description = "As the CAN Service's."),
        ("cursor" = Option<String>, Query, description = "As the CAN Service's.")
    ),
    responses(
        (status = 200, description = "Damaged contents, and what became of them."),
        (status = 400, description = "A parameter makes no sense."),
        (status = 404, description = "The CAN Service does not scrub itself."),
        (status = 502, description = "The CAN Service is not available.")
    )
)]
pub(in super::super) async fn findings(
    State(state): State<ApiState>,
    RawQuery(query): RawQuery,
) -> ApiResult<Response> {
    state.view.store_proxy.ask(Method::GET, "/scrub/findings", query).await
}
