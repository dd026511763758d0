//! The API of peers' deletions that are held back: what waits, and what is decided about it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::view::{ASK_TIMEOUT, AgentView, ApiState};
use crate::clock::rfc3339;
use crate::http::envelope::Success;
use crate::http::extract::OptionalJsonBody;
use crate::http::{ApiError, ApiResult};
use crate::library::registry::{Deletion, DeletionDecision, Member};
use crate::peer::delete_guard::{self, HoldReport};
use crate::peer::messages::PeersMsg;
use crate::record::ContentHash;
use crate::text::{quoted, short_id};

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(confirm)).routes(routes!(reject))
}

/// The answer of `GET /deletions`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct DeletionList {
    /// What waits for somebody's decision, by the peer that brought it.
    pub(super) holds: Vec<HoldView>,
    /// Assets whose deletion waits.
    pub(super) held: u64,
    /// Deletions that were confirmed and are applied once they are brought again.
    pub(super) confirmed: u64,
    /// Deletions that were rejected.
    pub(super) rejected: u64,
}

/// The deletions of one machine, or of all machines with one ticket.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct HoldView {
    /// Names it in `POST /deletions/confirm` and `POST /deletions/reject`; the same after a restart.
    #[schema(example = "5f0c9a31")]
    pub(super) id: String,
    /// The library that they were made in; absent for the network of the passphrase.
    pub(super) library: Option<LibraryName>,
    /// Endpoint id of the machine that brought them.
    pub(super) device: Option<String>,
    /// Number of the ticket with which they were brought.
    pub(super) ticket: Option<u64>,
    /// Who that is, in words: the machine's name, or the names of those who hold the ticket.
    #[schema(example = "ticket 3 (laptop)")]
    pub(super) from: String,
    /// How many assets are concerned.
    pub(super) count: u64,
    /// Since when the first of them waits.
    pub(super) since: Option<String>,
    /// The same in milliseconds since the Unix epoch.
    pub(super) since_ms: u64,
    /// Some of the assets.
    pub(super) examples: Vec<ExampleView>,
}

/// The library of a hold.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct LibraryName {
    /// Its id.
    id: String,
    /// What it is called; empty once it is gone.
    pub(super) name: String,
}

/// An asset whose deletion waits.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ExampleView {
    /// CAN hash.
    pub(super) hash: String,
    /// Its name, if it has one and the store answers.
    pub(super) filename: Option<String>,
}

/// `POST /deletions/confirm`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct ConfirmRequest {
    /// The id of one hold; all of them if absent.
    hold: Option<String>,
}

/// `POST /deletions/reject`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct RejectRequest {
    /// The id of one hold; all of them if absent.
    hold: Option<String>,
    /// Writes the assets once more, later than their deletion, so that they live everywhere again. Otherwise they stay here,
    /// and stay deleted elsewhere.
    restore: bool,
}

/// The answer of `POST /deletions/confirm`.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct DeletionsConfirmed {
    /// How many were held back.
    released: u64,
}

/// The answer of `POST /deletions/reject`.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct DeletionsRejected {
    /// How many were held back.
    rejected: u64,
    /// How many of the assets were written once more.
    restored: u64,
}

impl DeletionList {
    /// What waits now, with names for it.
    pub(super) async fn gather(view: &AgentView) -> Self {
        let holds = view.deletes.holds();
        let (confirmed, rejected) = view.deletes.decided();
        if holds.is_empty() {
            return Self { holds: Vec::new(), held: 0, confirmed, rejected };
        }
        let hashes: Vec<ContentHash> = holds.iter().flat_map(|hold| hold.examples.iter().copied()).collect();
        let (records, report) =
            tokio::join!(timeout(ASK_TIMEOUT, view.store.records(hashes)), view.peers_report());
        let members = members(view, &holds).await;
        let records = records.ok().and_then(Result::ok).unwrap_or_default();
        let peers = report.map(|report| report.peers).unwrap_or_default();
        let filename = |hash: &ContentHash| {
            records
                .iter()
                .find(|stored| stored.record.hash == *hash)?
                .record
                .meta
                .all_names()
                .next()
                .map(str::to_owned)
        };
        let shown = |hold: HoldReport| {
            let library = view
                .libraries
                .shared()
                .into_iter()
                .find(|library| library.id().is_some_and(|id| id.to_string() == hold.deleter.library));
            let (device, ticket) = (hold.deleter.device(), hold.deleter.ticket());
            let from = match (device, ticket) {
                (Some(device), _) => {
                    let peer = peers.iter().find(|peer| peer.endpoint_id == device);
                    peer.map_or_else(|| short_id(device), |peer| peer.name.clone())
                }
                (None, Some(ticket)) => {
                    let of = |member: &&Member| member.serial == ticket;
                    let holders = members.get(&hold.deleter.library).into_iter().flatten().filter(of);
                    let holders: Vec<&str> = holders.map(|member| member.name.as_str()).collect();
                    // The owner's own ticket has the number 0.
                    let whose = if ticket == 0 { "the owner".to_owned() } else { format!("ticket {ticket}") };
                    if holders.is_empty() { whose } else { format!("{whose} ({})", holders.join(", ")) }
                }
                (None, None) => hold.deleter.source.clone(),
            };
            HoldView {
                library: (!hold.deleter.library.is_empty()).then(|| LibraryName {
                    name: library
                        .and_then(|l| Some(l.shared()?.ticket().claims().name.clone()))
                        .unwrap_or_default(),
                    id: hold.deleter.library.clone(),
                }),
                device: device.map(str::to_owned),
                ticket,
                from,
                id: hold.id,
                count: hold.count,
                since: rfc3339(hold.since_ms),
                since_ms: hold.since_ms,
                examples: hold
                    .examples
                    .iter()
                    .map(|hash| ExampleView { hash: hash.to_string(), filename: filename(hash) })
                    .collect(),
            }
        };
        let held = view.deletes.held();
        Self { holds: holds.into_iter().map(shown).collect(), held, confirmed, rejected }
    }
}

/// Who was in the libraries in which something waits, by library.
async fn members(view: &AgentView, holds: &[HoldReport]) -> HashMap<String, Vec<Member>> {
    let Some(registry) = view.libraries.registry().cloned() else { return HashMap::new() };
    let libraries: HashSet<String> = holds.iter().map(|hold| hold.deleter.library.clone()).collect();
    let read = move || {
        let of = |library: String| {
            let members = registry.members(library.parse().ok()?).ok()?;
            Some((library, members))
        };
        libraries.into_iter().filter_map(of).collect()
    };
    spawn_blocking(read).await.unwrap_or_default()
}

/// What peers deleted and waits for somebody's decision, because it is much at once
#[utoipa::path(
    get,
    path = "/deletions",
    operation_id = "list_deletions",
    tag = "peers",
    responses((status = 200, body = Success<DeletionList>))
)]
async fn list(State(state): State<ApiState>) -> Success<DeletionList> {
    Success::new(DeletionList::gather(&state.view).await)
}

/// Let deletions through that were held back
///
/// They are applied when they are brought again, which is at once where the peer that brought them is connected. What it deletes
/// after that counts from nothing.
#[utoipa::path(
    post,
    path = "/deletions/confirm",
    tag = "peers",
    request_body(content = Option<ConfirmRequest>, description = "May be left out."),
    responses(
        (status = 200, body = Success<DeletionsConfirmed>),
        (status = 400, description = "The body is not what is expected."),
        (status = 404, description = "Nothing is held back under this id."),
        (status = 415, description = "The body is not JSON.")
    )
)]
async fn confirm(
    State(state): State<ApiState>,
    OptionalJsonBody(request): OptionalJsonBody<ConfirmRequest>,
) -> ApiResult<Success<DeletionsConfirmed>> {
    let about = decide(&state.view, request.hold, DeletionDecision::Confirmed).await?;
    // The peer that brought them brings them again. Without PeersActor, that happens with the next comparison.
    let _ = state.view.peers.cast(PeersMsg::Verify);
    Ok(Success::new(DeletionsConfirmed { released: about.len() as u64 }))
}

/// Never apply deletions that were held back
#[utoipa::path(
    post,
    path = "/deletions/reject",
    tag = "peers",
    request_body(content = Option<RejectRequest>, description = "May be left out."),
    responses(
        (status = 200, body = Success<DeletionsRejected>),
        (status = 400, description = "The body is not what is expected."),
        (status = 404, description = "Nothing is held back under this id."),
        (status = 415, description = "The body is not JSON."),
        (status = 503, description = "They are rejected, but the store did not write the assets once more.")
    )
)]
async fn reject(
    State(state): State<ApiState>,
    OptionalJsonBody(request): OptionalJsonBody<RejectRequest>,
) -> ApiResult<Success<DeletionsRejected>> {
    let about = decide(&state.view, request.hold, DeletionDecision::Rejected).await?;
    let rejected = about.len() as u64;
    let restored = if request.restore { restore(&state.view, about).await? } else { 0 };
    Ok(Success::new(DeletionsRejected { rejected, restored }))
}

async fn decide(
    view: &AgentView,
    hold: Option<String>,
    decision: DeletionDecision,
) -> ApiResult<Vec<(String, Deletion)>> {
    let deletes = Arc::clone(&view.deletes);
    let unknown =
        format!("nothing is held back under the id '{}'", quoted(hold.as_deref().unwrap_or_default()));
    let decided = spawn_blocking(move || deletes.decide(hold.as_deref(), decision)).await;
    match decided {
        Ok(Ok(about)) => Ok(about),
        Ok(Err(_)) => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "unknown_hold",
            unknown,
            "GET /deletions lists what is held back",
        )),
        Err(_) => Err(ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "failed",
            "the decision was not taken",
            "the log says more",
        )),
    }
}

/// In a task of its own: the caller may go away.
async fn restore(view: &AgentView, about: Vec<(String, Deletion)>) -> ApiResult<u64> {
    let store = Arc::clone(&view.store);
    let now_ms = view.clock.now_ms();
    let restoring = tokio::spawn(async move {
        let deletions: Vec<Deletion> = about.into_iter().map(|(_, deletion)| deletion).collect();
        delete_guard::restore(&store, &deletions, now_ms).await
    });
    let failed = |why: String| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not_restored",
            format!("the deletions are rejected, but the assets were not written once more: {why}"),
            "POST /fetch/{hash} on the other machines brings an asset back there",
        )
    };
    match restoring.await {
        Ok(Ok(restored)) => Ok(restored),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}
