//! The API of machines: which were approved or denied, or wait for that.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ask;
use crate::api::view::ApiState;
use crate::http::ApiResult;
use crate::http::envelope::Success;
use crate::http::extract::{PathText, parse_endpoint_id};
use crate::library::actor::LibraryMsg;
use crate::library::registry::DeviceStanding;
use crate::library::report::DeviceReport;
use crate::peer::messages::PeersMsg;

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(devices)).routes(routes!(approve)).routes(routes!(deny))
}

/// Endpoints that somebody decided about, or has to.
#[derive(Serialize, ToSchema)]
struct DeviceList {
    devices: Vec<DeviceReport>,
}

/// What was decided.
#[derive(Serialize, ToSchema)]
struct Decided {
    endpoint_id: String,
    /// `approved` or `denied`.
    standing: &'static str,
}

/// Machines that were approved or denied, or wait for that
#[utoipa::path(
    get,
    path = "/devices",
    tag = "libraries",
    responses((status = 200, body = Success<DeviceList>), (status = 503, description = "LibraryActor or its database does not work."))
)]
async fn devices(State(state): State<ApiState>) -> ApiResult<Success<DeviceList>> {
    let devices = ask(&state, |reply| LibraryMsg::GetDevices { reply }).await?;
    Ok(Success::new(DeviceList { devices }))
}

/// Let a machine in
#[utoipa::path(
    post,
    path = "/devices/{id}/approve",
    tag = "libraries",
    params(("id" = String, Path, description = "Endpoint id, 64 hexadecimal digits.")),
    responses((status = 200, body = Success<Decided>), (status = 400, description = "That is no endpoint id."))
)]
async fn approve(State(state): State<ApiState>, PathText(id): PathText) -> ApiResult<Success<Decided>> {
    decide(&state, &id, DeviceStanding::Approved).await
}

/// Shut a machine out of everything; if it is connected, within seconds
#[utoipa::path(
    post,
    path = "/devices/{id}/deny",
    tag = "libraries",
    params(("id" = String, Path, description = "Endpoint id, 64 hexadecimal digits.")),
    responses((status = 200, body = Success<Decided>), (status = 400, description = "That is no endpoint id."))
)]
async fn deny(State(state): State<ApiState>, PathText(id): PathText) -> ApiResult<Success<Decided>> {
    decide(&state, &id, DeviceStanding::Denied).await
}

async fn decide(state: &ApiState, id: &str, standing: DeviceStanding) -> ApiResult<Success<Decided>> {
    let endpoint_id = parse_endpoint_id(id)?;
    ask(state, |reply| LibraryMsg::DecideDevice { endpoint_id, standing, reply }).await?;
    // Without PeersActor, the machine comes by itself.
    let _ = state.view.peers.cast(PeersMsg::DeviceDecided { endpoint_id });
    Ok(Success::new(Decided { endpoint_id: endpoint_id.to_string(), standing: standing.as_str() }))
}
