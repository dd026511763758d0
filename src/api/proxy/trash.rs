//! The store's trash, for the page and the command line.

use axum::extract::{RawQuery, State};
use axum::http::Method;
use axum::response::Response;

use super::super::view::ApiState;
use crate::http::ApiResult;
use crate::http::extract::HashPath;

/// List the store's trash
///
/// Passed on to the CAN Service's `GET /trash`, query included.
#[utoipa::path(
    get,
    path = "/store/trash",
    operation_id = "trash",
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
pub(in super::super) async fn list(
    State(state): State<ApiState>,
    RawQuery(query): RawQuery,
) -> ApiResult<Response> {
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
pub(in super::super) async fn restore(
    State(state): State<ApiState>,
    HashPath(hash): HashPath,
) -> ApiResult<Response> {
    state.view.store_proxy.ask(Method::POST, &format!("/asset/{hash}/restore"), None).await
}
