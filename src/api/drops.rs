//! Letting go of contents that other machines promise to keep: `POST /drops`, and how that stands.

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::choosing::{Chosen, ChosenBy};
use super::view::{ApiState, ask};
use crate::http::envelope::Success;
use crate::http::extract::{JsonBody, Params, parse_hash};
use crate::http::{ApiError, ApiResult};
use crate::library::filter::FilterSpec;
use crate::peer::messages::{DropsMessage, PeersMsg};
use crate::peer::report::{DropRefused, DropsReport};
use crate::record::ContentHash;

mod choosing;

/// Most assets that are named at once.
const NAMED_MAX: usize = 10_000;
const TOLD_MAX: usize = 1_000;

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(stands, begin)).routes(routes!(cancel))
}

/// `POST /drops`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DropRequest {
    /// CAN hashes, at most 10000.
    hashes: Vec<String>,
    /// What matches it and is held here now; it has a field at least, and no `folder`.
    filter: Option<FilterSpec>,
    /// What is held here and neither `hold`, nor a pin, a library or a bound folder asks for.
    left_over: bool,
    /// Says what would be asked for, and asks nobody.
    dry_run: bool,
}

/// An asset that stays, without anybody being asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct DropRefusal {
    /// CAN hash.
    hash: String,
    /// Why.
    explanation: String,
}

/// The answer of `POST /drops`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct DropsBegun {
    /// The command's number; absent where nothing is asked for.
    command: Option<u64>,
    /// Contents that other machines are asked to keep, so that they can go here.
    contents: u64,
    /// Sum of their sizes in bytes.
    bytes: u64,
    /// The CAN hashes of these, at most 1000.
    hashes: Vec<String>,
    /// How many of those that were named are not held here anyway.
    absent: u64,
    /// The CAN hashes of these, at most 1000.
    absent_hashes: Vec<String>,
    /// How many of those that were asked for stay whatever others promise.
    refused: u64,
    /// Why, at most 1000.
    refusals: Vec<DropRefusal>,
}

/// The answer of `POST /drops/cancel`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct DropsCancelled {
    /// Whether there was something left to do.
    cancelled: bool,
}

impl DropRequest {
    fn checked(self) -> ApiResult<(ChosenBy, bool)> {
        let Self { hashes, filter, left_over, dry_run } = self;
        if hashes.len() > NAMED_MAX {
            let message = format!("hashes names {} assets", hashes.len());
            let hint = format!("name at most {NAMED_MAX} at a time, or give a filter");
            return Err(ApiError::bad_request("too_many_hashes", message, hint));
        }
        let filter = filter.filter(|filter| *filter != FilterSpec::default());
        if hashes.is_empty() == (filter.is_none() && !left_over) {
            let message = "it says neither which assets, nor by which filter, or both";
            let hint = r#"send {"hashes":["…"]}, {"filter":{"tags":["…"]}}, or {"left_over":true}, with a filter or without"#;
            return Err(ApiError::bad_request("invalid_drop", message, hint));
        }
        let by = if hashes.is_empty() {
            ChosenBy::filter(filter, left_over)?
        } else {
            let hashes: ApiResult<Vec<ContentHash>> = hashes.iter().map(|hash| parse_hash(hash)).collect();
            ChosenBy::Hashes(hashes?)
        };
        Ok((by, dry_run))
    }
}

/// Let go of contents that other machines promise to keep
///
/// Of each, `min_copies` own devices at other places are asked to keep theirs for 24 hours; with that many promises its content goes
/// here, for good, and the asset stays known: it comes back when it is read, or by `POST /fetch/{hash}` and `POST /pins`. Without, it stays. What
/// is pinned, belongs to a library of this node or to a folder that is bound here stays in any case. `GET /drops` tells how it stands.
#[utoipa::path(
    post,
    path = "/drops",
    operation_id = "begin_drops",
    tag = "libraries",
    request_body(content = DropRequest, example = json!({ "filter": { "tags": ["travel"] } })),
    responses(
        (status = 200, body = Success<DropsBegun>, description = "Nobody is asked for anything."),
        (status = 202, body = Success<DropsBegun>, description = "Other machines are asked."),
        (status = 400, description = "A hash or the filter makes no sense, or it is too much at once."),
        (status = 409, description = "Another such command runs, or the store cannot let go of contents."),
        (status = 415, description = "The body is not JSON."),
        (status = 503, description = "PeersActor or the store does not answer, or it is not known yet which folders are bound.")
    )
)]
async fn begin(
    State(state): State<ApiState>,
    JsonBody(request): JsonBody<DropRequest>,
) -> ApiResult<(StatusCode, Success<DropsBegun>)> {
    let (by, dry_run) = request.checked()?;
    let Chosen { contents, absent, absent_hashes, refused, refusals, .. } =
        choosing::choose(&state.view, by).await?;
    let mut begun = DropsBegun {
        command: None,
        contents: contents.len() as u64,
        bytes: contents.values().sum(),
        hashes: contents.keys().take(TOLD_MAX).map(ToString::to_string).collect(),
        absent,
        absent_hashes,
        refused,
        refusals,
    };
    if dry_run || contents.is_empty() {
        return Ok((StatusCode::OK, Success::new(begun)));
    }
    let contents = contents.into_iter().collect();
    let asked =
        ask(&state.view.peers, |reply| PeersMsg::Drops(DropsMessage::Begin { contents, reply })).await?;
    let number = asked.map_err(|refused| {
        let hint = match refused {
            DropRefused::Busy => "wait for the other one, or end it: POST /drops/cancel",
            DropRefused::NoPlace => {
                "let go of contents at nodes with an embedded store; GET /status says whether its object storage is reached"
            }
            DropRefused::NotReady => "try again in a moment",
        };
        ApiError::new(StatusCode::CONFLICT, "drop_refused", refused.to_string(), hint)
    })?;
    begun.command = Some(number);
    Ok((StatusCode::ACCEPTED, Success::new(begun)))
}

/// How letting go of contents stands
///
/// Of the command that runs, or ran last in this life of the node.
#[utoipa::path(
    get,
    path = "/drops",
    operation_id = "get_drops",
    tag = "libraries",
    params(("after" = Option<u64>, Query, description = "Tell what became of contents from this one on: `next` of the answer before.")),
    responses(
        (status = 200, body = Success<DropsReport>),
        (status = 400, description = "A parameter makes no sense."),
        (status = 404, description = "There was no such command."),
        (status = 503, description = "PeersActor does not answer.")
    )
)]
async fn stands(State(state): State<ApiState>, params: Params) -> ApiResult<Success<DropsReport>> {
    let after = params.number("after")?.unwrap_or(0);
    let after = usize::try_from(after).unwrap_or(usize::MAX);
    let report =
        ask(&state.view.peers, |reply| PeersMsg::Drops(DropsMessage::GetReport { after, reply })).await?;
    let none = || {
        let message = "nothing was let go of since the node was started";
        ApiError::new(StatusCode::NOT_FOUND, "no_drops", message, "POST /drops begins with it")
    };
    Ok(Success::new(report.ok_or_else(none)?))
}

/// Let go of nothing more
///
/// What others have promised already may still go; all else stays.
#[utoipa::path(
    post,
    path = "/drops/cancel",
    operation_id = "cancel_drops",
    tag = "libraries",
    responses(
        (status = 200, body = Success<DropsCancelled>),
        (status = 503, description = "PeersActor does not answer.")
    )
)]
async fn cancel(State(state): State<ApiState>) -> ApiResult<Success<DropsCancelled>> {
    let cancelled = ask(&state.view.peers, |reply| PeersMsg::Drops(DropsMessage::Cancel { reply })).await?;
    Ok(Success::new(DropsCancelled { cancelled }))
}
