//! The API of folders: directories of this machine that are kept alike with those of others.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use ractor::RpcReplyPort;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::view::{ApiState, FOLDERS, unavailable};
use crate::entry::EntryPath;
use crate::folder::FolderMode;
use crate::folder::report::{FolderConflict, FolderPlace, FolderReport, FolderVersion, KnownFolder};
use crate::folder::supervisor::{FolderError, FolderOrder, FolderWishes, FoldersMsg};
use crate::folder::work::answering::FolderCommand;
use crate::http::envelope::Success;
use crate::http::extract::{JsonBody, Params, parse_hash};
use crate::http::{ApiError, ApiResult};
use crate::record::ContentHash;
use crate::store::entries::ENTRIES_MAX;

/// Longest wait for it: binding writes to the directory, and commands wait for a look under way.
const WITHIN: std::time::Duration = std::time::Duration::from_secs(25);

/// The routes.
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
    state.view.folders.call(message, WITHIN).await.map_err(|error| unavailable(FOLDERS, error))
}

fn refused(error: &FolderError) -> ApiError {
    let (status, code, hint) = match error {
        FolderError::Invalid(_) => {
            (StatusCode::BAD_REQUEST, "invalid_folder", "GET /folders shows what is known")
        }
        FolderError::Unknown(_) => {
            (StatusCode::NOT_FOUND, "unknown_folder", "GET /folders lists those that are here")
        }
        FolderError::Ambiguous { .. } => (
            StatusCode::CONFLICT,
            "ambiguous_folder",
            "name the folder by its id: GET /folders lists them; `--new`, over HTTP \"new\": true, makes another one",
        ),
        FolderError::Failed(_) => {
            (StatusCode::CONFLICT, "folder_failed", "GET /folders/{id} says how the folder is")
        }
    };
    ApiError::new(status, code, error.to_string(), hint)
}

/// In which directions a folder is kept alike.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum ModeName {
    Both,
    /// Nothing is written to this directory.
    #[serde(alias = "send_only")]
    SendOnly,
    /// Nothing of this directory shows elsewhere.
    #[serde(alias = "read_only")]
    ReadOnly,
}

impl From<ModeName> for FolderMode {
    fn from(mode: ModeName) -> Self {
        match mode {
            ModeName::Both => Self::Both,
            ModeName::SendOnly => Self::SendOnly,
            ModeName::ReadOnly => Self::ReadOnly,
        }
    }
}

/// What becomes of files that were removed elsewhere.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RemovalsName {
    Apply,
    Ignore,
}

/// `POST /folders`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AddRequest {
    /// The directory, absolute, on this node's machine.
    path: String,
    /// The folder's name or id; the directory's name, if it is missing. A name that the network knows joins that folder.
    #[serde(default)]
    name: Option<String>,
    /// Without it, `both`; of a directory that is bound already, as it is.
    #[serde(default)]
    mode: Option<ModeName>,
    /// Without it, `apply`; of a directory that is bound already, as it is.
    #[serde(default)]
    removals: Option<RemovalsName>,
    /// Changes are found by looking from time to time alone, as it has to be on network file systems.
    #[serde(default)]
    scan_only: Option<bool>,
    /// Makes another folder, also if the network knows one of that name.
    #[serde(default)]
    new: bool,
}

/// What a folder is asked for. `look` looks at everything now.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ActionName {
    Pause,
    Resume,
    Confirm,
    Revert,
    Keep,
    Trash,
    Restore,
    Look,
}

/// `POST /folders/{id}/actions`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ActRequest {
    action: ActionName,
    /// For `restore`, and for `keep` and `trash` of one file alone.
    #[serde(default)]
    path: Option<String>,
    /// For `restore`: as it was then, in milliseconds since the Unix epoch.
    #[serde(default)]
    at_ms: Option<u64>,
}

/// `GET /folders`.
#[derive(Serialize, ToSchema)]
struct FolderList {
    /// Folders with a directory on this machine.
    folders: Vec<FolderReport>,
    /// Every folder that the network knows, as far as this node does.
    known: Vec<KnownFolder>,
}

/// What was done.
#[derive(Serialize, ToSchema)]
struct Acted {
    /// In a clause.
    done: String,
}

/// `GET /folders/{id}/history`.
#[derive(Serialize, ToSchema)]
struct FolderHistory {
    /// The newest first.
    versions: Vec<FolderVersion>,
}

#[derive(Serialize, ToSchema)]
struct FolderForgotten {
    removed: bool,
}

/// Folders of this machine, and of the network
#[utoipa::path(
    get,
    path = "/folders",
    tag = "folders",
    responses((status = 200, body = Success<FolderList>), (status = 503, description = "FoldersActor does not answer."))
)]
async fn list(State(state): State<ApiState>) -> ApiResult<Success<FolderList>> {
    let folders = ask(&state, |reply| FoldersMsg::ListFolders { reply }).await?;
    // A store without folders knows none.
    let known = ask(&state, |reply| FoldersMsg::ListKnown { reply }).await?.unwrap_or_default();
    Ok(Success::new(FolderList { folders, known }))
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
    let wishes = FolderWishes {
        mode: mode.map(FolderMode::from),
        ignore_removals: removals.map(|removals| matches!(removals, RemovalsName::Ignore)),
        scan_only,
    };
    let order = FolderOrder { path: path.into(), name, is_new: new, is_configured: false, wishes };
    let added = ask(&state, |reply| FoldersMsg::AddFolder { order, reply }).await?;
    let added = added.map_err(|error| refused(&error))?;
    Ok((StatusCode::CREATED, Success::new(added)))
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
async fn show(State(state): State<ApiState>, Path(id): Path<String>) -> ApiResult<Success<FolderReport>> {
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
    Path(id): Path<String>,
) -> ApiResult<Success<FolderForgotten>> {
    let removed = ask(&state, |reply| FoldersMsg::RemoveFolder { wanted: id, reply }).await?;
    removed.map_err(|error| refused(&error))?;
    Ok(Success::new(FolderForgotten { removed: true }))
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
    Path(id): Path<String>,
    JsonBody(request): JsonBody<ActRequest>,
) -> ApiResult<Success<Acted>> {
    let invalid = |why: String| {
        ApiError::bad_request("invalid_path", why, "a path begins at the folder's root, such as a/b.txt")
    };
    let path = request.path.as_deref().map(EntryPath::parse).transpose();
    let path = path.map_err(|error| invalid(error.to_string()))?;
    let command = match request.action {
        ActionName::Pause => FolderCommand::Pause,
        ActionName::Resume => FolderCommand::Resume,
        ActionName::Confirm => FolderCommand::Confirm,
        ActionName::Revert => FolderCommand::Revert,
        ActionName::Keep => FolderCommand::Keep(path),
        ActionName::Trash => FolderCommand::Trash(path),
        ActionName::Restore => {
            let path = path.ok_or_else(|| invalid("restore needs a path".into()))?;
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
        (status = 503, description = "FoldersActor does not answer.")
    )
)]
async fn history(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<Success<FolderHistory>> {
    let Some(path) = params.one("path")?.map(str::to_owned) else {
        let hint = "add ?path=a/b.txt, from the folder's root";
        return Err(ApiError::bad_request("invalid_path", "history needs a path", hint));
    };
    let found = ask(&state, |reply| FoldersMsg::GetHistory { wanted: id, path, reply }).await?;
    Ok(Success::new(FolderHistory { versions: found.map_err(|error| refused(&error))? }))
}

/// `GET /folders/{id}/conflicts`.
#[derive(Serialize, ToSchema)]
struct FolderConflicts {
    /// In the order of paths; at most 10000.
    conflicts: Vec<FolderConflict>,
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
    Path(id): Path<String>,
) -> ApiResult<Success<FolderConflicts>> {
    let found = ask(&state, |reply| FoldersMsg::ListConflicts { wanted: id, reply }).await?;
    Ok(Success::new(FolderConflicts { conflicts: found.map_err(|error| refused(&error))? }))
}

/// `POST /folder-places`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PlacesRequest {
    /// Hashes of contents; at most 1000.
    hashes: Vec<String>,
}

#[derive(Serialize, ToSchema)]
struct FolderPlaces {
    /// At most 10000, in no order.
    places: Vec<FolderPlace>,
}

/// At which paths folders have contents
#[utoipa::path(
    post,
    path = "/folder-places",
    tag = "folders",
    request_body(content = PlacesRequest),
    responses(
        (status = 200, body = Success<FolderPlaces>),
        (status = 400, description = "More hashes than 1000, or what is none."),
        (status = 409, description = "The store does not say, and why."),
        (status = 503, description = "FoldersActor does not answer.")
    )
)]
async fn places(
    State(state): State<ApiState>,
    JsonBody(PlacesRequest { hashes }): JsonBody<PlacesRequest>,
) -> ApiResult<Success<FolderPlaces>> {
    if hashes.len() > ENTRIES_MAX {
        let why = format!("{} hashes are more than {ENTRIES_MAX}", hashes.len());
        return Err(ApiError::bad_request("too_many_hashes", why, "ask for fewer at a time"));
    }
    let hashes: Vec<ContentHash> = hashes.iter().map(|hash| parse_hash(hash)).collect::<ApiResult<_>>()?;
    let found = ask(&state, |reply| FoldersMsg::ListPlaces { hashes, reply }).await?;
    Ok(Success::new(FolderPlaces { places: found.map_err(|error| refused(&error))? }))
}
