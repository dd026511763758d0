//! Folders that came by a ticket: which they are, for all agents that use the service.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;

use super::ServiceState;
use super::entries::id_of;
use super::model::Binary;
use super::sync::protobuf;
use crate::entry::FolderId;
use crate::http::envelope::{ApiError, ApiResult, ErrorBody};
use crate::http::extract::Params;
use crate::record::LibraryId;
use crate::store::ContentStore;
use crate::store::entries::FolderClaim;
use crate::wire::proto::ForeignFolder;

fn message(FolderId(folder): FolderId, library: Option<LibraryId>) -> ForeignFolder {
    let library = library.map_or_else(Bytes::new, |LibraryId(library)| Bytes::copy_from_slice(&library));
    ForeignFolder { folder: Bytes::copy_from_slice(&folder), library }
}

/// Both ids.
fn named(params: &Params) -> ApiResult<(FolderId, LibraryId)> {
    let id = |name| {
        id_of(params, name)?.ok_or_else(|| {
            ApiError::invalid_parameter(name, "is missing", "give 64 lower-case hexadecimal digits")
        })
    };
    Ok((FolderId(id("folder")?), LibraryId(id("library")?)))
}

/// Folders that came by a ticket.
///
/// Length-delimited `ForeignFolder` messages in any order.
#[utoipa::path(get, path = "/entries/foreign", tag = "sync", operation_id = "sync_foreign_folders",
    security(("sync_key" = [])),
    responses(
        (status = 200, description = "The folders", content_type = "application/x-protobuf", body = Binary),
    ))]
pub(super) async fn list(State(service): ServiceState, _: Params) -> ApiResult<Response> {
    let all = service.store.foreign_folders().await?.into_iter();
    Ok(protobuf(all.map(|(folder, library)| message(folder, Some(library)))))
}

/// Claim a folder for a library.
///
/// Says that a folder comes by a ticket of this library from now on; only of one that the store has nothing of. The answer is a
/// `ForeignFolder` message with the library that it comes by; with none, the folder is one of the store's own, and stays so.
#[utoipa::path(put, path = "/entries/foreign", tag = "sync", operation_id = "sync_claim_folder",
    security(("sync_key" = [])),
    params(
        ("folder" = String, Query, description = "64 lower-case hexadecimal digits"),
        ("library" = String, Query, description = "64 lower-case hexadecimal digits"),
    ),
    responses(
        (status = 200, description = "Where it comes from", content_type = "application/x-protobuf", body = Binary),
        (status = 503, description = "The store is read-only", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    ))]
pub(super) async fn claim(State(service): ServiceState, params: Params) -> ApiResult<Response> {
    let (folder, library) = named(&params)?;
    let source = match service.store.claim_folder(folder, library).await? {
        FolderClaim::Claimed => Some(library),
        FolderClaim::Elsewhere(other) => Some(other),
        FolderClaim::Here => None,
    };
    Ok(protobuf(std::iter::once(message(folder, source))))
}

/// Forget a folder that came by a ticket.
///
/// All of it, but for contents. Of a folder that did not come by this library nothing is forgotten.
#[utoipa::path(delete, path = "/entries/foreign", tag = "sync", operation_id = "sync_drop_folder",
    security(("sync_key" = [])),
    params(
        ("folder" = String, Query, description = "64 lower-case hexadecimal digits"),
        ("library" = String, Query, description = "64 lower-case hexadecimal digits"),
    ),
    responses(
        (status = 204, description = "Nothing of it is here"),
        (status = 503, description = "The store is read-only", body = ErrorBody),
    ))]
pub(super) async fn forget(State(service): ServiceState, params: Params) -> ApiResult<StatusCode> {
    let (folder, library) = named(&params)?;
    service.store.drop_folder(folder, library).await?;
    Ok(StatusCode::NO_CONTENT)
}
