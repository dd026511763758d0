//! The API of folders: directories of this machine that are kept alike with those of others.

use axum::extract::State;
use axum::http::StatusCode;
use ractor::RpcReplyPort;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::bodies::{
    ActRequest, Acted, ActionName, AddRequest, FolderConflicts, FolderForgotten, FolderHistory, FolderList,
    FolderPlacesBody, PlacesRequest, RemovalsName,
};
use super::view::{ApiState, unavailable};
use crate::actor::service_ref::ServiceError;
use crate::entry::EntryPath;
use crate::folder::FolderMode;
use crate::folder::report::{FolderReport, FolderState, KnownFolder, KnownProblem};
use crate::folder::supervisor::{FolderError, FolderOrder, FolderWishes, FoldersMsg};
use crate::folder::work::answering::FolderCommand;
use crate::http::envelope::Success;
use crate::http::extract::{JsonBody, Params, PathText, parse_hash};
use crate::http::{ApiError, ApiResult};
use crate::record::ContentHash;
use crate::store::entries::ENTRIES_MAX;
use crate::text::quoted;

mod bodies;

/// Longest wait for it: binding writes to the directory, and commands wait for a look under way.
const WITHIN: std::time::Duration = std::time::Duration::from_secs(25);

/// Longest path that a system knows.
const PATH_BYTES_MAX: usize = 4096;

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list, add))
        .routes(routes!(show, remove))
        .routes(routes!(act))
        .routes(routes!(history))
        .routes(routes!(conflicts))
        .routes(routes!(places))
}

async fn ask<T: Send + 'static>(
    state: &ApiState,
    message: impl FnOnce(RpcReplyPort<T>) -> FoldersMsg + Send,
) -> ApiResult<T> {
    state.view.folders.call(message, WITHIN).await.map_err(|error| unavailable(error, WITHIN))
}

fn refused(error: &FolderError) -> ApiError {
    let (status, code, hint) = match error {
        FolderError::Invalid(_) => {
            // The sentence says what to do; here is what else it may be about.
            (StatusCode::BAD_REQUEST, "invalid_folder", "/openapi.json describes what is expected")
        }
        FolderError::Unknown(_) => {
            (StatusCode::NOT_FOUND, "unknown_folder", "GET /folders lists those that are here")
        }
        FolderError::Ambiguous { .. } => (
            StatusCode::CONFLICT,
            "ambiguous_folder",
            "GET /folders lists them all; `--new`, over HTTP `new`, makes another one",
        ),
        FolderError::NoFolders(_) => (
            StatusCode::CONFLICT,
            "no_folders",
            "update the program that keeps the store, then start it again",
        ),
        FolderError::Failed(_) => {
            (StatusCode::CONFLICT, "folder_failed", "GET /folders/{id} says how the folder is")
        }
    };
    ApiError::new(status, code, error.to_string(), hint)
}

/// Folders of this machine, and of the network
///
/// Those of this machine also where the store does not say which the network has; then `known_problem` says why.
#[utoipa::path(
    get,
    path = "/folders",
    tag = "folders",
    responses((status = 200, body = Success<FolderList>), (status = 503, description = "FoldersActor does not answer."))
)]
async fn list(State(state): State<ApiState>) -> ApiResult<Success<FolderList>> {
    let (folders, known) = tokio::join!(
        ask(&state, |reply| FoldersMsg::ListFolders { reply }),
        ask(&state, |reply| FoldersMsg::ListKnown { reply })
    );
    let (known, known_problem) = known_or_why(known);
    Ok(Success::new(FolderList { folders: folders?, known, known_problem }))
}

/// What the network has, or why that is not known.
fn known_or_why(
    asked: ApiResult<Result<Vec<KnownFolder>, FolderError>>,
) -> (Vec<KnownFolder>, Option<KnownProblem>) {
    let error = match asked {
        Ok(Ok(known)) => return (known, None),
        Ok(Err(error @ FolderError::NoFolders(_))) => refused(&error),
        Ok(Err(error)) => {
            let hint = "GET /status shows the state of the store";
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", error.to_string(), hint)
        }
        Err(error) => error,
    };
    let ApiError { code, message: error, hint, .. } = error;
    (Vec::new(), Some(KnownProblem { code: code.to_owned(), error, hint }))
}

/// Keep a directory alike with those of other machines
#[utoipa::path(
    post,
    path = "/folders",
    tag = "folders",
    request_body(content = AddRequest, example = json!({ "path": "/home/kim/Photos", "name": "photos" })),
    responses(
        (
            status = 201,
            body = Success<FolderReport>,
            description = "The folder, with the room that it needs. One that is bound already has the settings that were given."
        ),
        (
            status = 202,
            body = Success<FolderReport>,
            description = "It takes longer than 25 s, and goes on: `folder` is empty, and `state` is `starting`. `GET /folders` has it \
                once it is bound; if it cannot be, the log says why."
        ),
        (status = 400, description = "The directory cannot be a folder, and why."),
        (status = 409, description = "Several folders have the name, or the directory is bound already."),
        (status = 503, description = "FoldersActor does not answer.")
    )
)]
async fn add(
    State(state): State<ApiState>,
    JsonBody(request): JsonBody<AddRequest>,
) -> ApiResult<(StatusCode, Success<FolderReport>)> {
    let AddRequest { path, name, mode, removals, scan_only, new } = request;
    if path.len() > PATH_BYTES_MAX {
        let why = format!("a directory's path has at most {PATH_BYTES_MAX} bytes");
        return Err(refused(&FolderError::Invalid(why)));
    }
    let wishes = FolderWishes {
        mode: mode.map(FolderMode::from),
        ignore_removals: removals.map(|removals| matches!(removals, RemovalsName::Ignore)),
        scan_only,
    };
    let order = FolderOrder { path: path.into(), name, is_new: new, is_configured: false, wishes };
    let asked = order.clone();
    let added = state.view.folders.call(|reply| FoldersMsg::AddFolder { order, reply }, WITHIN).await;
    bound_or_not_yet(added, asked)
}

/// What becomes of an order. One that takes its time is carried out all the same: a large directory is looked through before it is bound,
/// and giving that up would mean that it never is.
fn bound_or_not_yet(
    added: Result<Result<FolderReport, FolderError>, ServiceError>,
    order: FolderOrder,
) -> ApiResult<(StatusCode, Success<FolderReport>)> {
    match added {
        Ok(Ok(report)) => Ok((StatusCode::CREATED, Success::new(report))),
        Ok(Err(error)) => Err(refused(&error)),
        Err(ServiceError::Timeout(_)) => {
            let waits = FolderReport {
                name: order.name.unwrap_or_default(),
                path: order.path.display().to_string(),
                state: FolderState::Starting,
                reason: Some(format!(
                    "it is not bound after {} s, and goes on: GET /folders shows it once it is; if it cannot be, the log says why",
                    WITHIN.as_secs()
                )),
                ..FolderReport::default()
            };
            Ok((StatusCode::ACCEPTED, Success::new(waits)))
        }
        Err(error @ ServiceError::Down(_)) => Err(unavailable(error, WITHIN)),
    }
}

/// One folder
#[utoipa::path(
    get,
    path = "/folders/{id}",
    tag = "folders",
    params(("id" = String, Path, description = "The folder's id, the beginning of that, or its name.")),
    responses(
        (status = 200, body = Success<FolderReport>, description = "Its state, what waits, what is left alone, and why."),
        (status = 404, description = "No such folder."),
        (status = 409, description = "Several folders have the name."),
        (status = 503, description = "FoldersActor does not answer.")
    )
)]
async fn show(State(state): State<ApiState>, PathText(id): PathText) -> ApiResult<Success<FolderReport>> {
    let found = ask(&state, |reply| FoldersMsg::GetFolder { wanted: id, reply }).await?;
    found.map(Success::new).map_err(|error| refused(&error))
}

/// Keep a directory alike no longer; every file stays
#[utoipa::path(
    delete,
    path = "/folders/{id}",
    tag = "folders",
    params(("id" = String, Path, description = "The folder's id, the beginning of that, or its name.")),
    responses(
        (status = 200, body = Success<FolderForgotten>),
        (status = 404, description = "No such folder."),
        (status = 409, description = "Several folders have the name."),
        (status = 503, description = "FoldersActor does not answer.")
    )
)]
async fn remove(
    State(state): State<ApiState>,
    PathText(id): PathText,
) -> ApiResult<Success<FolderForgotten>> {
    let removed = ask(&state, |reply| FoldersMsg::RemoveFolder { wanted: id, reply }).await?;
    removed.map_err(|error| refused(&error))?;
    Ok(Success::new(FolderForgotten { removed: true }))
}

fn no_path(why: impl Into<String>) -> ApiError {
    ApiError::bad_request("invalid_path", why, "a path begins at the folder's root, such as a/b.txt")
}

/// A path from a folder's root.
fn file_at(path: &str) -> ApiResult<EntryPath> {
    EntryPath::parse(path)
        .map_err(|error| no_path(format!("'{}' is no path in a folder: {error}", quoted(path))))
}

/// Ask something of a folder
///
/// `confirm` and `revert` answer removals that are held; `keep` and `trash` files that were removed elsewhere before they were found
/// here; `restore` gives a path what it had before.
#[utoipa::path(
    post,
    path = "/folders/{id}/actions",
    tag = "folders",
    params(("id" = String, Path, description = "The folder's id, the beginning of that, or its name.")),
    request_body(content = ActRequest, example = json!({ "action": "restore", "path": "a/b.txt" })),
    responses(
        (status = 200, body = Success<Acted>),
        (status = 400, description = "The path is none."),
        (status = 404, description = "No such folder."),
        (status = 409, description = "It cannot be done, and why."),
        (status = 503, description = "FoldersActor does not answer.")
    )
)]
async fn act(
    State(state): State<ApiState>,
    PathText(id): PathText,
    JsonBody(request): JsonBody<ActRequest>,
) -> ApiResult<Success<Acted>> {
    let path = request.path.as_deref().map(file_at).transpose()?;
    let command = match request.action {
        ActionName::Pause => FolderCommand::Pause,
        ActionName::Resume => FolderCommand::Resume,
        ActionName::Confirm => FolderCommand::Confirm,
        ActionName::Revert => FolderCommand::Revert,
        ActionName::Keep => FolderCommand::Keep(path),
        ActionName::Trash => FolderCommand::Trash(path),
        ActionName::Restore => {
            let path = path.ok_or_else(|| no_path("restore needs a path"))?;
            FolderCommand::Restore { path, at_ms: request.at_ms }
        }
        ActionName::Look => FolderCommand::Look,
    };
    let done = ask(&state, |reply| FoldersMsg::Obey { wanted: id, command, reply }).await?;
    Ok(Success::new(Acted { done: done.map_err(|error| refused(&error))? }))
}

/// What a folder has and had at a path
#[utoipa::path(
    get,
    path = "/folders/{id}/history",
    tag = "folders",
    params(
        ("id" = String, Path, description = "The folder's id, the beginning of that, or its name."),
        ("path" = String, Query, description = "From the folder's root.")
    ),
    responses(
        (status = 200, body = Success<FolderHistory>),
        (status = 400, description = "The path is none."),
        (status = 404, description = "No such folder."),
        (status = 409, description = "Several folders have the name; or the folder is not bound, or the store does not say, and why."),
        (status = 503, description = "FoldersActor does not answer.")
    )
)]
async fn history(
    State(state): State<ApiState>,
    PathText(id): PathText,
    params: Params,
) -> ApiResult<Success<FolderHistory>> {
    let path = params.one("path")?.ok_or_else(|| no_path("history needs a path: ?path=a/b.txt"))?;
    let path = file_at(path)?.as_str().to_owned();
    let found = ask(&state, |reply| FoldersMsg::GetHistory { wanted: id, path, reply }).await?;
    Ok(Success::new(FolderHistory { versions: found.map_err(|error| refused(&error))? }))
}

/// Copies of files that were edited on two machines apart
#[utoipa::path(
    get,
    path = "/folders/{id}/conflicts",
    tag = "folders",
    params(("id" = String, Path, description = "The folder's id, the beginning of that, or its name.")),
    responses(
        (status = 200, body = Success<FolderConflicts>),
        (status = 404, description = "No such folder."),
        (status = 409, description = "Several folders have the name."),
        (status = 503, description = "FoldersActor does not answer.")
    )
)]
async fn conflicts(
    State(state): State<ApiState>,
    PathText(id): PathText,
) -> ApiResult<Success<FolderConflicts>> {
    let found = ask(&state, |reply| FoldersMsg::ListConflicts { wanted: id, reply }).await?;
    Ok(Success::new(FolderConflicts { conflicts: found.map_err(|error| refused(&error))? }))
}

/// At which paths folders have contents
#[utoipa::path(
    post,
    path = "/folder-places",
    tag = "folders",
    request_body(content = PlacesRequest),
    responses(
        (status = 200, body = Success<FolderPlacesBody>),
        (status = 400, description = "More hashes than 1000, or what is none."),
        (status = 409, description = "The store does not say, and why."),
        (status = 503, description = "FoldersActor does not answer.")
    )
)]
async fn places(
    State(state): State<ApiState>,
    JsonBody(PlacesRequest { hashes }): JsonBody<PlacesRequest>,
) -> ApiResult<Success<FolderPlacesBody>> {
    if hashes.len() > ENTRIES_MAX {
        let why = format!("{} hashes are more than {ENTRIES_MAX}", hashes.len());
        return Err(ApiError::bad_request("too_many_hashes", why, "ask for fewer at a time"));
    }
    let hashes: Vec<ContentHash> = hashes.iter().map(|hash| parse_hash(hash)).collect::<ApiResult<_>>()?;
    let found = ask(&state, |reply| FoldersMsg::ListPlaces { hashes, reply }).await?;
    Ok(Success::new(FolderPlacesBody { places: found.map_err(|error| refused(&error))? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> FolderOrder {
        let wishes = FolderWishes::default();
        FolderOrder { path: "/a".into(), name: Some("a".into()), is_new: false, is_configured: false, wishes }
    }

    #[test]
    fn an_order_that_takes_its_time_goes_on_and_one_that_nobody_takes_does_not() {
        let (status, Success { data: report, .. }) =
            bound_or_not_yet(Err(ServiceError::Timeout("FoldersActor")), order()).unwrap();
        assert_eq!(status, StatusCode::ACCEPTED);
        assert_eq!((&report.path[..], &report.folder[..], report.state), ("/a", "", FolderState::Starting));
        assert!(report.reason.unwrap().contains("goes on"));
        let down = bound_or_not_yet(Err(ServiceError::Down("FoldersActor")), order()).unwrap_err();
        assert_eq!((down.status, down.code), (StatusCode::SERVICE_UNAVAILABLE, "actor_down"));
        let (status, _) = bound_or_not_yet(Ok(Ok(FolderReport::default())), order()).unwrap();
        assert_eq!(status, StatusCode::CREATED);
    }

    #[test]
    fn why_nothing_is_known_of_the_network_is_said() {
        let code = |asked| known_or_why(asked).1.map(|problem| problem.code);
        assert_eq!(code(Ok(Ok(Vec::new()))), None);
        assert_eq!(code(Ok(Err(FolderError::NoFolders("x".into())))).unwrap(), "no_folders");
        assert_eq!(code(Ok(Err(FolderError::Failed("x".into())))).unwrap(), "store_unavailable");
        let late = unavailable(ServiceError::Timeout("FoldersActor"), WITHIN);
        assert!(late.message.contains("25 s"), "{}", late.message);
        assert_eq!(code(Err(late)).unwrap(), "actor_timeout");
    }
}
