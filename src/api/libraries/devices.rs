//! The API of machines: which were approved or denied, or wait for that.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ask;
use crate::api::view::{self, ApiState};
use crate::http::envelope::Success;
use crate::http::extract::{PathText, parse_endpoint_id};
use crate::http::{ApiError, ApiResult};
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
    let mut devices = ask(&state, |reply| LibraryMsg::GetDevices { reply }).await?;
    // Who was decided about by its id is called what it says of itself, as far as it was met. Without PeersActor, nobody knows.
    if devices.iter().any(|device| device.name.is_empty())
        && let Ok(report) = view::ask(&state.view.peers, |reply| PeersMsg::GetReport { reply }).await
    {
        for device in devices.iter_mut().filter(|device| device.name.is_empty()) {
            let known = report.peers.iter().find(|peer| peer.endpoint_id == device.endpoint_id);
            device.name = known.map(|peer| peer.name.clone()).unwrap_or_default();
        }
    }
    Ok(Success::new(DeviceList { devices }))
}

/// Let a machine in
#[utoipa::path(
    post,
    path = "/devices/{id}/approve",
    tag = "libraries",
    params(("id" = String, Path, description = "Endpoint id, 64 hexadecimal digits.")),
    responses((status = 200, body = Success<Decided>), (status = 400, description = "That is no endpoint id, or `own_id`: this machine's."))
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
    responses((status = 200, body = Success<Decided>), (status = 400, description = "That is no endpoint id, or `own_id`: this machine's."))
)]
async fn deny(State(state): State<ApiState>, PathText(id): PathText) -> ApiResult<Success<Decided>> {
    decide(&state, &id, DeviceStanding::Denied).await
}

async fn decide(state: &ApiState, id: &str, standing: DeviceStanding) -> ApiResult<Success<Decided>> {
    let endpoint_id = parse_endpoint_id(id)?;
    if endpoint_id == state.view.endpoint_id {
        let hint = "take the id of another machine: `can-sync id` prints it there";
        return Err(ApiError::bad_request("own_id", "that is this machine's own id", hint));
    }
    ask(state, |reply| LibraryMsg::DecideDevice { endpoint_id, standing, reply }).await?;
    // Without PeersActor, the machine comes by itself.
    let _ = state.view.peers.cast(PeersMsg::DeviceDecided { endpoint_id });
    Ok(Success::new(Decided { endpoint_id: endpoint_id.to_string(), standing: standing.as_str() }))
}
