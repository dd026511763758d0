//! What is held here: `GET /pins`, and pins that are added and taken back.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::libraries::ask;
use super::view::{AgentView, ApiState};
use crate::http::envelope::Success;
use crate::http::extract::{JsonBody, parse_hash};
use crate::http::{ApiError, ApiResult};
use crate::library::actor::LibraryMsg;
use crate::library::filter::{Filter, FilterSpec};
use crate::library::hold::HoldRule;
use crate::library::manage::PINNED_AT_ONCE_MAX;
use crate::record::ContentHash;
use crate::text::amounts::{bytes, counted};

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list, pin)).routes(routes!(unpin))
}

/// The `hold` part of `/status`: of which assets of the network contents are held here.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct HoldingView {
    /// What the configuration says: `everything`, `nothing` or `filter`.
    pub rule: &'static str,
    /// That filter.
    pub filter: Option<FilterSpec>,
    /// Assets that are pinned by name.
    pub pinned: usize,
    /// Filters that are pinned.
    pub pinned_filters: usize,
    /// The same in words; absent where everything is held.
    pub summary: Option<String>,
    /// Live assets whose contents are not here and not asked for: those that are not to be held, those without room, and those that were
    /// let go of.
    pub left_out: u64,
    /// Those of them that there is no room for under the store's quota.
    pub no_room: u64,
    /// Sum of their sizes in bytes.
    pub no_room_bytes: u64,
}

impl HoldingView {
    pub(super) fn new(view: &AgentView) -> Self {
        let rules = view.libraries.hold_rules();
        let (rule, filter) = match rules.rule() {
            HoldRule::Everything => ("everything", None),
            HoldRule::Nothing => ("nothing", None),
            HoldRule::Matching(filter) => ("filter", Some(FilterSpec::from(filter))),
        };
        let (pinned, pinned_filters) = rules.pinned();
        let (absent, wanted) = view.libraries.mirror().absent();
        let left_out = absent.saturating_sub(wanted);
        let (no_room, no_room_bytes) = rules.without_room();
        let hold =
            Self { rule, filter, pinned, pinned_filters, summary: None, left_out, no_room, no_room_bytes };
        Self { summary: hold.sentence(), ..hold }
    }

    /// The rule and what is added to it, in a clause; `None` where everything is held.
    fn sentence(&self) -> Option<String> {
        let rule = match self.rule {
            "everything" if self.no_room == 0 => return None,
            "everything" => "everything",
            "nothing" => "nothing of the network by itself",
            _ => "what a filter matches",
        };
        let (assets, filters) = (self.pinned as u64, self.pinned_filters as u64);
        let pinned = match (assets, filters) {
            (0, 0) => String::new(),
            (_, 0) => format!(", and {} pinned", counted(assets, "asset")),
            (0, _) => format!(", and what {} pinned match", counted(filters, "filter")),
            (_, _) => format!(
                ", and {} and what {} pinned match",
                counted(assets, "asset"),
                counted(filters, "filter")
            ),
        };
        let no_room = match self.no_room {
            0 => String::new(),
            n => format!(
                "; the quota of the store leaves no room for {} ({})",
                counted(n, "asset"),
                bytes(self.no_room_bytes)
            ),
        };
        Some(format!("{rule}{pinned}{no_room}"))
    }
}

/// The answer of `GET /pins`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct PinList {
    /// The rule, and how many exceptions there are.
    hold: HoldingView,
    /// CAN hashes of assets that are pinned by name, in order.
    hashes: Vec<String>,
    /// What matches one of these is held, too.
    filters: Vec<FilterSpec>,
}

/// `POST /pins` and `POST /pins/remove`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PinRequest {
    /// CAN hashes, at most 10000. They need not be known here yet.
    #[serde(default)]
    hashes: Vec<String>,
    /// What matches it now and later; it has a field at least, and no `folder`.
    filter: Option<FilterSpec>,
}

/// The answer of `POST /pins`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Pinned {
    /// How many of the pins are new.
    pinned: usize,
}

/// The answer of `POST /pins/remove`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Unpinned {
    /// How many pins there were of those.
    removed: usize,
}

impl PinRequest {
    fn checked(self) -> ApiResult<(Vec<ContentHash>, Option<FilterSpec>)> {
        let Self { hashes, filter } = self;
        if hashes.len() > PINNED_AT_ONCE_MAX {
            let message = format!("hashes names {} assets", hashes.len());
            let hint = format!("name at most {PINNED_AT_ONCE_MAX} at a time, or give a filter");
            return Err(ApiError::bad_request("too_many_hashes", message, hint));
        }
        let is_empty = hashes.is_empty() && filter.is_none();
        let is_everything = filter == Some(FilterSpec::default());
        if is_empty || is_everything {
            let message = "it says neither which assets, nor by which filter";
            let hint = r#"send {"hashes":["…"]} or {"filter":{"tags":["…"]}}; for all there is, leave hold out of the configuration"#;
            return Err(ApiError::bad_request("invalid_pin", message, hint));
        }
        let hashes = hashes.iter().map(|hash| parse_hash(hash)).collect::<ApiResult<_>>()?;
        Ok((hashes, filter))
    }
}

/// What is held whatever the configuration says
#[utoipa::path(
    get,
    path = "/pins",
    operation_id = "list_pins",
    tag = "libraries",
    responses((status = 200, body = Success<PinList>))
)]
async fn list(State(state): State<ApiState>) -> Success<PinList> {
    let pins = state.view.libraries.hold_rules().pins();
    let spec = |filter: &Filter| FilterSpec::from(filter);
    Success::new(PinList {
        hold: HoldingView::new(&state.view),
        hashes: pins.hashes.iter().map(ToString::to_string).collect(),
        filters: pins.filters.iter().map(spec).collect(),
    })
}

/// Hold assets here, whatever the configuration says
///
/// By name, or all that match a filter, now and later. What is not here is fetched, also where it was let go of; pins stay over
/// restarts.
#[utoipa::path(
    post,
    path = "/pins",
    tag = "libraries",
    request_body(content = PinRequest, example = json!({ "filter": { "tags": ["travel"] } })),
    responses(
        (status = 200, body = Success<Pinned>),
        (status = 400, description = "A hash or the filter makes no sense, and why."),
        (status = 409, description = "As much is pinned as can be."),
        (status = 415, description = "The body is not JSON."),
        (status = 503, description = "LibraryActor, its database or the store does not work.")
    )
)]
async fn pin(
    State(state): State<ApiState>,
    JsonBody(request): JsonBody<PinRequest>,
) -> ApiResult<Success<Pinned>> {
    let (hashes, filter) = request.checked()?;
    let pinned = ask(&state, |reply| LibraryMsg::Pin { hashes, filter, reply }).await?;
    Ok(Success::new(Pinned { pinned }))
}

/// Take pins back
///
/// Those of these names, and that of exactly this filter. Nothing that is here is let go of by that.
#[utoipa::path(
    post,
    path = "/pins/remove",
    tag = "libraries",
    request_body(content = PinRequest, example = json!({ "filter": { "tags": ["travel"] } })),
    responses(
        (status = 200, body = Success<Unpinned>),
        (status = 400, description = "A hash or the filter makes no sense, and why."),
        (status = 415, description = "The body is not JSON."),
        (status = 503, description = "LibraryActor, its database or the store does not work.")
    )
)]
async fn unpin(
    State(state): State<ApiState>,
    JsonBody(request): JsonBody<PinRequest>,
) -> ApiResult<Success<Unpinned>> {
    let (hashes, filter) = request.checked()?;
    let removed = ask(&state, |reply| LibraryMsg::Unpin { hashes, filter, reply }).await?;
    Ok(Success::new(Unpinned { removed }))
}
