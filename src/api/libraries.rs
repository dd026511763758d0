//! The API of libraries: what is shared, its members, and who is let in.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use ractor::RpcReplyPort;
use tokio::task::spawn_blocking;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::bodies::{
    CreateRequest, Deleted, InspectRequest, InviteRequest, Invitee, JoinRequest, LibraryList, PreviewRequest,
    ReleaseRequest, RevokeRequest, Revoked, UnreleasedList,
};
use super::view::{ApiState, unavailable};
use crate::http::envelope::Success;
use crate::http::extract::{JsonBody, OptionalJsonBody, Params, PathText, parse_endpoint_id, parse_hash};
use crate::http::{ApiError, ApiResult};
use crate::library::actor::LibraryMsg;
use crate::library::error::LibraryError;
use crate::library::manage::{Invitation, Revoke};
use crate::library::report::{LetGo, LibraryDetail, LibrarySize, Preview, Released};
use crate::library::ticket::LibraryId;
use crate::qr::Code;
use crate::text::quoted;

mod bodies;
mod devices;

/// Longest wait for it: making a library reads the store, which takes a while where it is large.
const WITHIN: std::time::Duration = std::time::Duration::from_secs(30);

/// Contents that wait, in one page, and that are shared with one request.
const UNRELEASED_DEFAULT: usize = 100;
const UNRELEASED_MAX: usize = 1000;

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(preview))
        .routes(routes!(show, delete))
        .routes(routes!(invite))
        .routes(routes!(revoke))
        .routes(routes!(unreleased))
        .routes(routes!(release))
        .routes(routes!(join))
        .routes(routes!(inspect))
        .merge(devices::routes())
}

pub(super) async fn ask<T: Send + 'static>(
    state: &ApiState,
    message: impl FnOnce(RpcReplyPort<Result<T, LibraryError>>) -> LibraryMsg + Send,
) -> ApiResult<T> {
    let answer = state.view.library.call(message, WITHIN).await;
    answer.map_err(|error| unavailable(error, WITHIN))?.map_err(|error| refused(&error))
}

fn refused(error: &LibraryError) -> ApiError {
    let (status, code, hint) = match error {
        LibraryError::Filter(_) => {
            let hint = r#"a filter is {"application":"…","tags":["…"],"user":"…","mime_prefix":"image/","hashes":["…"]}, each field optional, or {"folder":"…"}"#;
            (StatusCode::BAD_REQUEST, "invalid_filter", hint)
        }
        LibraryError::Name(_) => (StatusCode::BAD_REQUEST, "invalid_name", "1 to 64 printable characters"),
        LibraryError::NameTaken(_) => {
            (StatusCode::CONFLICT, "name_taken", "GET /libraries lists those that are here")
        }
        LibraryError::Ticket(_) => (
            StatusCode::BAD_REQUEST,
            "invalid_ticket",
            "the owner of the library issues another one with an invitation",
        ),
        LibraryError::Terms(_) => {
            let hint = r#"send {"access":"read"|"write","expires_secs":3600,"uses":1}; all but the access may be left out"#;
            (StatusCode::BAD_REQUEST, "invalid_invitation", hint)
        }
        LibraryError::FreshWithin(_) => (
            StatusCode::BAD_REQUEST,
            "invalid_fresh_within",
            "604800 is a week: members that meet nobody who has met this node for so long hold what others write",
        ),
        LibraryError::Unknown(_) => {
            (StatusCode::NOT_FOUND, "unknown_library", "GET /libraries lists those that are here")
        }
        LibraryError::NoTicket(_) => (
            StatusCode::NOT_FOUND,
            "ticket_not_found",
            "GET /libraries/{id} shows the tickets that were issued",
        ),
        LibraryError::Own => (StatusCode::CONFLICT, "own_library", "GET /libraries shows it"),
        LibraryError::FolderUnknown(_) => {
            (StatusCode::NOT_FOUND, "unknown_folder", "GET /folders lists those that this node knows")
        }
        LibraryError::FolderAmbiguous(_) => {
            (StatusCode::CONFLICT, "ambiguous_folder", "GET /folders lists them with their ids")
        }
        LibraryError::NoFolder => (StatusCode::CONFLICT, "no_folder", "GET /libraries shows the filters"),
        LibraryError::FolderNotBound(_) => {
            (StatusCode::CONFLICT, "folder_not_bound", "POST /folders binds a directory of this machine")
        }
        LibraryError::FolderHere | LibraryError::FolderElsewhere(_) => {
            (StatusCode::CONFLICT, "folder_here", "GET /folders and GET /libraries show what is here")
        }
        LibraryError::FolderWrite => {
            (StatusCode::BAD_REQUEST, "invalid_ticket", "ask its owner for a ticket that allows to read")
        }
        LibraryError::Clock(_) => {
            (StatusCode::CONFLICT, "clock", "can-sync doctor says more about the clock")
        }
        LibraryError::NotOwner | LibraryError::FolderForeign(_) => {
            (StatusCode::FORBIDDEN, "not_owner", "ask the person who invited this node")
        }
        LibraryError::Full => {
            (StatusCode::CONFLICT, "too_many_libraries", "DELETE /libraries/{id} makes room")
        }
        LibraryError::TooManyPins(_) => {
            (StatusCode::CONFLICT, "too_many_pins", "GET /pins lists them, POST /pins/remove takes some back")
        }
        LibraryError::PinnedFolder => {
            (StatusCode::BAD_REQUEST, "invalid_pin", "POST /folders binds a directory of this machine")
        }
        LibraryError::Filling => {
            (StatusCode::SERVICE_UNAVAILABLE, "reading", "GET /libraries says `reading` meanwhile")
        }
        LibraryError::NoRegistry | LibraryError::Registry(_) | LibraryError::Store(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "try again; GET /status says what does not work")
        }
        LibraryError::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "failed", "the log says more"),
    };
    ApiError::new(status, code, error.to_string(), hint)
}

fn parse_library_id(text: &str) -> ApiResult<LibraryId> {
    text.parse().map_err(|_| {
        let shown = quoted(text);
        ApiError::bad_request(
            "invalid_library_id",
            format!("'{shown}' is no library id"),
            "a library id has 64 lower-case hexadecimal digits: GET /libraries lists them",
        )
    })
}

/// What of a folder waits to be shared
///
/// Of a folder, members get what this node's own directory had, since anybody who may write entries may name any content by its
/// hash. What was written into the directory because an entry named it waits, and so does what was found there and equals an entry
/// while the folder is shared. In the order of hashes.
#[utoipa::path(
    get,
    path = "/libraries/{id}/unreleased",
    tag = "libraries",
    params(
        ("id" = String, Path, description = "Library id, 64 hexadecimal digits."),
        ("limit" = Option<u64>, Query, description = "At most so many; 100 if absent, at most 1000."),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the answer before.")
    ),
    responses(
        (status = 200, body = Success<UnreleasedList>),
        (status = 400, description = "The limit or the cursor makes no sense."),
        (status = 403, description = "This node did not create the library."),
        (status = 404, description = "No such library."),
        (status = 409, description = "The library is no folder."),
        (status = 503, description = "LibraryActor or the store does not work, or the library is still being read.")
    )
)]
async fn unreleased(
    State(state): State<ApiState>,
    PathText(id): PathText,
    params: Params,
) -> ApiResult<Success<UnreleasedList>> {
    let id = parse_library_id(&id)?;
    let limit = params.limit(UNRELEASED_DEFAULT, UNRELEASED_MAX)?;
    let unknown = |_| ApiError::invalid_parameter("cursor", "is none", "give next_cursor of the page before");
    let after = params.one("cursor")?.map(|text| text.parse().map_err(unknown)).transpose()?;
    let (contents, total, next) =
        ask(&state, |reply| LibraryMsg::GetUnreleased { id, after, limit, reply }).await?;
    Ok(Success::new(UnreleasedList { contents, total, next_cursor: next.map(|hash| hash.to_string()) }))
}

/// Share what of a folder waits for that
///
/// Those contents that are named, or all that `GET /libraries/{id}/unreleased` lists. It holds for good, and for every library of the
/// same folder; of what comes later you are asked again.
#[utoipa::path(
    post,
    path = "/libraries/{id}/release",
    tag = "libraries",
    params(("id" = String, Path, description = "Library id, 64 hexadecimal digits.")),
    request_body(content = Option<ReleaseRequest>, description = "May be left out."),
    responses(
        (status = 200, body = Success<Released>),
        (status = 400, description = "A hash is malformed, or there are too many."),
        (status = 403, description = "This node did not create the library."),
        (status = 404, description = "No such library."),
        (status = 409, description = "The library is no folder."),
        (status = 503, description = "LibraryActor, its database or the store does not work, or the library is still being read.")
    )
)]
async fn release(
    State(state): State<ApiState>,
    PathText(id): PathText,
    OptionalJsonBody(request): OptionalJsonBody<ReleaseRequest>,
) -> ApiResult<Success<Released>> {
    let id = parse_library_id(&id)?;
    let hashes = request.hashes.map(|hashes| {
        if hashes.len() > UNRELEASED_MAX {
            let message = format!("hashes names {} contents", hashes.len());
            return Err(ApiError::bad_request(
                "too_many_hashes",
                message,
                format!("name at most {UNRELEASED_MAX} at a time"),
            ));
        }
        hashes.iter().map(|hash| parse_hash(hash)).collect::<ApiResult<Vec<_>>>()
    });
    let hashes = hashes.transpose()?;
    ask(&state, |reply| LibraryMsg::ReleaseContents { id, hashes, reply }).await.map(Success::new)
}

/// Every library of this node, besides the mirror of everything
#[utoipa::path(
    get,
    path = "/libraries",
    operation_id = "list_libraries",
    tag = "libraries",
    responses((status = 200, body = Success<LibraryList>), (status = 503, description = "LibraryActor does not answer."))
)]
async fn list(State(state): State<ApiState>) -> ApiResult<Success<LibraryList>> {
    let libraries = ask(&state, |reply| LibraryMsg::ListLibraries { reply }).await?;
    Ok(Success::new(LibraryList { libraries }))
}

/// Make a library of this node's assets that match a filter
#[utoipa::path(
    post,
    path = "/libraries",
    tag = "libraries",
    request_body(content = CreateRequest, example = json!({ "name": "images", "filter": { "mime_prefix": "image/" } })),
    responses(
        (status = 201, body = Success<LibraryDetail>),
        (status = 400, description = "The name, the filter or `fresh_within_secs` makes no sense, and why."),
        (status = 409, description = "A library of this node has this name, or there is no room for another one."),
        (status = 503, description = "LibraryActor, its database or the store does not work.")
    )
)]
async fn create(
    State(state): State<ApiState>,
    JsonBody(request): JsonBody<CreateRequest>,
) -> ApiResult<(StatusCode, Success<LibraryDetail>)> {
    let CreateRequest { name, filter, fresh_within_secs } = request;
    let create = |reply| LibraryMsg::CreateLibrary { name, filter, fresh_within_secs, reply };
    let made = ask(&state, create).await?;
    Ok((StatusCode::CREATED, Success::new(made)))
}

/// How much a filter would take in
#[utoipa::path(
    post,
    path = "/libraries/preview",
    tag = "libraries",
    request_body(content = PreviewRequest, example = json!({ "filter": { "tags": ["holiday"] } })),
    responses(
        (status = 200, body = Success<LibrarySize>),
        (status = 400, description = "The filter makes no sense, and why."),
        (status = 503, description = "LibraryActor or the store does not work.")
    )
)]
async fn preview(
    State(state): State<ApiState>,
    JsonBody(request): JsonBody<PreviewRequest>,
) -> ApiResult<Success<LibrarySize>> {
    let filter = request.filter;
    ask(&state, |reply| LibraryMsg::CountMatches { filter, reply }).await.map(Success::new)
}

/// One library
#[utoipa::path(
    get,
    path = "/libraries/{id}",
    tag = "libraries",
    params(("id" = String, Path, description = "Library id, 64 hexadecimal digits.")),
    responses(
        (status = 200, body = Success<LibraryDetail>),
        (status = 404, description = "No such library."),
        (status = 503, description = "LibraryActor or its database does not work.")
    )
)]
async fn show(State(state): State<ApiState>, PathText(id): PathText) -> ApiResult<Success<LibraryDetail>> {
    let id = parse_library_id(&id)?;
    ask(&state, |reply| LibraryMsg::GetLibrary { id, reply }).await.map(Success::new)
}

/// Forget a library; what came through it stays, unless `content=delete`
///
/// Then the contents go to this node's trash, and what is known of the assets stays: other machines keep theirs. Joining
/// again, and `POST /fetch/{hash}`, bring them back. What another machine was promised stays until that is over, and goes then.
#[utoipa::path(
    delete,
    path = "/libraries/{id}",
    tag = "libraries",
    params(
        ("id" = String, Path, description = "Library id, 64 hexadecimal digits."),
        ("content" = Option<String>, Query, description = "`keep` (the default), or `delete`: this node lets go of the contents that came through it and are in no other library.")
    ),
    responses(
        (status = 200, body = Success<Deleted>),
        (status = 400, description = "`content` is neither `keep` nor `delete`."),
        (status = 404, description = "No such library."),
        (status = 503, description = "LibraryActor, its database or the store does not work.")
    )
)]
async fn delete(
    State(state): State<ApiState>,
    PathText(id): PathText,
    params: Params,
) -> ApiResult<Success<Deleted>> {
    let id = parse_library_id(&id)?;
    let content = match params.one("content")? {
        None | Some("keep") => false,
        Some("delete") => true,
        Some(_) => {
            let hint = "give keep or delete";
            return Err(ApiError::invalid_parameter("content", "is neither keep nor delete", hint));
        }
    };
    let LetGo { gone, promised } =
        ask(&state, |reply| LibraryMsg::DeleteLibrary { id, content, reply }).await?;
    let deletes = Arc::clone(&state.view.deletes);
    // What waited in it waits for nobody any more; a failure would be told in the log.
    let _ = spawn_blocking(move || deletes.forget_library(&id.to_string())).await;
    Ok(Success::new(Deleted { let_go: gone, promised }))
}

/// Issue a ticket for a library of this node's own
#[utoipa::path(
    post,
    path = "/libraries/{id}/invite",
    tag = "libraries",
    params(("id" = String, Path, description = "Library id, 64 hexadecimal digits.")),
    request_body(content = InviteRequest, example = json!({ "access": "read", "expires_secs": 86400, "uses": 1 })),
    responses(
        (status = 200, body = Success<Invitee>),
        (status = 400, description = "The terms make no sense, and why."),
        (status = 403, description = "The library is somebody else's."),
        (status = 404, description = "No such library."),
        (status = 503, description = "LibraryActor or its database does not work.")
    )
)]
async fn invite(
    State(state): State<ApiState>,
    PathText(id): PathText,
    JsonBody(request): JsonBody<InviteRequest>,
) -> ApiResult<Success<Invitee>> {
    let id = parse_library_id(&id)?;
    let InviteRequest { access, expires_secs, uses, subject, starts_secs } = request;
    let subject = subject.as_deref().map(parse_endpoint_id).transpose()?;
    let invitation = Invitation { access, subject, starts_secs, expires_secs, uses };
    let invited = ask(&state, |reply| LibraryMsg::Invite { id, invitation, reply }).await?;
    let qr = Code::of_ticket(&invited.ticket);
    Ok(Success::new(Invitee { invited, qr }))
}

/// Take tickets back; members connected by them are let go within seconds, and keeps what it has
#[utoipa::path(
    post,
    path = "/libraries/{id}/revoke",
    tag = "libraries",
    params(("id" = String, Path, description = "Library id, 64 hexadecimal digits.")),
    request_body(content = RevokeRequest, example = json!({ "serial": 3 })),
    responses(
        (status = 200, body = Success<Revoked>),
        (status = 400, description = "It says neither which ticket nor all."),
        (status = 403, description = "The library is somebody else's."),
        (status = 404, description = "No such library, or no ticket of this number."),
        (status = 503, description = "LibraryActor or its database does not work.")
    )
)]
async fn revoke(
    State(state): State<ApiState>,
    PathText(id): PathText,
    JsonBody(request): JsonBody<RevokeRequest>,
) -> ApiResult<Success<Revoked>> {
    let id = parse_library_id(&id)?;
    let what = match request {
        RevokeRequest { serial: Some(serial), all: false } => Revoke::Serial(serial),
        RevokeRequest { serial: None, all: true } => Revoke::All,
        RevokeRequest { .. } => {
            let hint = r#"send {"serial":3} for one ticket, or {"all":true} for all that were issued"#;
            let message = "it takes either the number of a ticket or all of them";
            return Err(ApiError::bad_request("invalid_revocation", message, hint));
        }
    };
    let (serials, min_epoch) = ask(&state, |reply| LibraryMsg::RevokeTickets { id, what, reply }).await?;
    Ok(Success::new(Revoked { serials, min_epoch }))
}

/// Join a library by ticket
#[utoipa::path(
    post,
    path = "/join",
    tag = "libraries",
    request_body(content = JoinRequest, example = json!({ "ticket": "canlib…", "share_existing": false })),
    responses(
        (status = 201, body = Success<LibraryDetail>, description = "Joined; members are looked for now."),
        (status = 200, body = Success<LibraryDetail>, description = "It was joined before."),
        (status = 400, description = "The ticket is not accepted, and by which rule."),
        (status = 409, description = "The library is this node's own, there is no room, or this node's clock is in doubt."),
        (status = 503, description = "LibraryActor, its database or the store does not work.")
    )
)]
async fn join(
    State(state): State<ApiState>,
    JsonBody(request): JsonBody<JoinRequest>,
) -> ApiResult<(StatusCode, Success<LibraryDetail>)> {
    let JoinRequest { ticket, share_existing } = request;
    let (library, new) =
        ask(&state, |reply| LibraryMsg::JoinLibrary { ticket, share_existing, reply }).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Success::new(library)))
}

/// What a ticket would let this node into, without using it
#[utoipa::path(
    post,
    path = "/join/preview",
    tag = "libraries",
    request_body(content = InspectRequest, example = json!({ "ticket": "canlib…" })),
    responses(
        (status = 200, body = Success<Preview>),
        (status = 400, description = "The ticket is not accepted, and by which rule."),
        (status = 409, description = "The library is this node's own."),
        (status = 503, description = "LibraryActor does not answer.")
    )
)]
async fn inspect(
    State(state): State<ApiState>,
    JsonBody(request): JsonBody<InspectRequest>,
) -> ApiResult<Success<Preview>> {
    let ticket = request.ticket;
    ask(&state, |reply| LibraryMsg::InspectTicket { ticket, reply }).await.map(Success::new)
}
