//! Folders: what an agent asks of an external CAN Service about their records.

use axum::extract::{Request, State};
use axum::http::header::HeaderName;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::ServiceState;
use super::content::header_value;
use super::model::Binary;
use super::sync::{hash_bodies, malformed, messages, protobuf};
use crate::entry::{EntryDigest, EntryHash, FolderId, FolderRecord};
use crate::http::envelope::{ApiError, ApiResult, ErrorBody};
use crate::http::extract::Params;
use crate::record::{ContentHash, LibraryId};
use crate::store::ContentStore;
use crate::store::entries::{EntryOutcome, EntryPut, EntryQuery, StoredEntry};
use crate::store::sync_wire::{BATCH_MAX, NEXT_CURSOR, entry_result_of, history_place_of};
use crate::wire::proto::{EntryResult, PutEntry, RecordError, WireEntry};

/// A path of a folder that changed.
#[derive(Serialize, ToSchema)]
pub(super) struct EntryJson {
    /// The folder, 64 hexadecimal digits.
    folder: String,
    /// The path; empty for what the folder itself is.
    path: String,
    /// The content that it names now, if it names one.
    target: Option<String>,
}

impl From<StoredEntry> for EntryJson {
    fn from(StoredEntry { record, .. }: StoredEntry) -> Self {
        Self {
            folder: data_encoding::HEXLOWER.encode(&record.folder().0),
            path: record.path().to_owned(),
            target: record.target().map(|target| target.to_string()),
        }
    }
}

fn folder_of(params: &Params) -> ApiResult<Option<FolderId>> {
    Ok(id_of(params, "folder")?.map(FolderId))
}

/// An id of 32 bytes among the parameters.
pub(super) fn id_of(params: &Params, name: &str) -> ApiResult<Option<[u8; 32]>> {
    let parse = |text: &str| {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok();
        bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
            ApiError::invalid_parameter(name, "is no id", "give 64 lower-case hexadecimal digits")
        })
    };
    params.one(name)?.map(parse).transpose()
}

/// What folders have.
///
/// Length-delimited `FolderEntry` messages in the order of paths, removed ones included: those of one folder, or, without
/// `folder`, what all the folders are. Where `X-Next-Cursor` is set, there are more.
#[utoipa::path(get, path = "/entries", tag = "sync", operation_id = "sync_entries", security(("sync_key" = [])),
    params(
        ("folder" = Option<String>, Query, description = "64 lower-case hexadecimal digits"),
        ("prefix" = Option<String>, Query, description = "Whose paths begin so"),
        ("cursor" = Option<String>, Query, description = "The `X-Next-Cursor` of the page before"),
        ("limit" = Option<u64>, Query, minimum = 1, description = "Entries at most: 1000 unless given, and never more"),
    ),
    responses(
        (status = 200, description = "The entries", content_type = "application/x-protobuf", body = Binary,
            headers(("X-Next-Cursor" = Option<String>, description = "Where the next page begins"))),
    ))]
pub(super) async fn list(State(service): ServiceState, params: Params) -> ApiResult<Response> {
    let query = EntryQuery {
        folder: folder_of(&params)?,
        prefix: params.one("prefix")?.unwrap_or_default().to_owned(),
        cursor: params.one("cursor")?.map(str::to_owned),
        limit: params.limit(BATCH_MAX, BATCH_MAX)?,
    };
    let page = service.store.entries(query).await?;
    let mut response = protobuf(page.records.iter().map(WireEntry::from));
    if let Some(cursor) = page.next_cursor {
        response.headers_mut().insert(HeaderName::from_static(NEXT_CURSOR), header_value(&cursor)?);
    }
    Ok(response)
}

/// What a folder had at a path.
///
/// Length-delimited `FolderEntry` messages: the versions that lost, the newest first, at most 1000. Where there are as many, there may be
/// more: `before` has what comes after the last of them.
#[utoipa::path(get, path = "/entries/history", tag = "sync", operation_id = "sync_entry_history",
    security(("sync_key" = [])),
    params(
        ("folder" = String, Query, description = "64 lower-case hexadecimal digits"),
        ("path" = Option<String>, Query, description = "The path; what the folder itself was when it is empty"),
        ("before" = Option<String>, Query,
            description = "A version of the page before: its `hlc`, `-`, and its digest in hexadecimal digits"),
    ),
    responses(
        (status = 200, description = "The versions", content_type = "application/x-protobuf", body = Binary),
    ))]
pub(super) async fn history(State(service): ServiceState, params: Params) -> ApiResult<Response> {
    let missing =
        || ApiError::invalid_parameter("folder", "is missing", "give 64 lower-case hexadecimal digits");
    let folder = folder_of(&params)?.ok_or_else(missing)?;
    let path = params.one("path")?.unwrap_or_default().to_owned();
    let unknown = |text: &str| {
        history_place_of(text).ok_or_else(|| {
            ApiError::invalid_parameter(
                "before",
                "is no version",
                "give an hlc, '-', and 64 hexadecimal digits",
            )
        })
    };
    let before = params.one("before")?.map(unknown).transpose()?;
    Ok(protobuf(service.store.entry_history(folder, path, before).await?.iter().map(WireEntry::from)))
}

/// Entries by what names them.
///
/// Length-delimited `FolderEntry` messages in any order; unknown ones are left out.
#[utoipa::path(post, path = "/entries/query", tag = "sync", operation_id = "sync_query_entries",
    security(("sync_key" = [])),
    request_body(content = Binary, content_type = "application/x-protobuf",
        description = "Up to 1000 names of 32 raw bytes, one after the other"),
    responses(
        (status = 200, description = "The entries", content_type = "application/x-protobuf", body = Binary),
        (status = 400, description = "Not a multiple of 32 bytes", body = ErrorBody),
    ))]
pub(super) async fn query(State(service): ServiceState, request: Request) -> ApiResult<Response> {
    let hashes = hash_bodies(request).await?.into_iter().map(EntryHash).collect();
    Ok(protobuf(service.store.entries_named(hashes).await?.iter().map(WireEntry::from)))
}

/// Entries by what they have.
///
/// Length-delimited `FolderEntry` messages in any order, of what folders have now: at most 10000.
#[utoipa::path(post, path = "/entries/with", tag = "sync", operation_id = "sync_entries_with",
    security(("sync_key" = [])),
    request_body(content = Binary, content_type = "application/x-protobuf",
        description = "Up to 1000 contents: hashes of 32 raw bytes, one after the other"),
    responses(
        (status = 200, description = "The entries", content_type = "application/x-protobuf", body = Binary),
        (status = 400, description = "Not a multiple of 32 bytes", body = ErrorBody),
    ))]
pub(super) async fn with(State(service): ServiceState, request: Request) -> ApiResult<Response> {
    let contents = hash_bodies(request).await?.into_iter().map(ContentHash).collect();
    Ok(protobuf(service.store.entries_with(contents).await?.iter().map(WireEntry::from)))
}

/// Put entries.
///
/// Versions that are written here: length-delimited `PutEntry` messages, each of which names the version that it is to follow. The
/// answer is an `EntryResult` for each, in the same order, once all that is `STORED` is durable.
#[utoipa::path(post, path = "/entries", tag = "sync", operation_id = "sync_put_entries", security(("sync_key" = [])),
    request_body(content = Binary, content_type = "application/x-protobuf", description = "Up to 1000 of them"),
    responses(
        (status = 200, description = "The outcomes", content_type = "application/x-protobuf", body = Binary),
        (status = 400, description = "The body cannot be read", body = ErrorBody),
        (status = 503, description = "The store is read-only", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    ))]
pub(super) async fn put(State(service): ServiceState, request: Request) -> ApiResult<Response> {
    let put = |wire: PutEntry| {
        let entry = wire.entry.ok_or_else(|| malformed("there is no entry to put"))?;
        let expects = wire.expects.map(|digest| <[u8; 32]>::try_from(&digest[..]).map(EntryDigest));
        let expects = expects.transpose().map_err(|_| malformed("a digest has not 32 bytes"))?;
        Ok(EntryPut { record: checked(entry)?, expects })
    };
    let puts = messages(request, "entries", put).await?;
    let hashes: Vec<EntryHash> = puts.iter().map(|put| put.record.hash()).collect();
    Ok(results(hashes, service.store.put_entries(puts).await?))
}

/// Take entries.
///
/// Versions from elsewhere: length-delimited `FolderEntry` messages. They merge with what is there. The answer is as for
/// `POST /sync/entries`. Of a folder that came by a ticket only those are taken that come through its library, and only they.
#[utoipa::path(post, path = "/entries/take", tag = "sync", operation_id = "sync_take_entries",
    security(("sync_key" = [])),
    params(("through" = Option<String>, Query,
        description = "The library through which they came, 64 lower-case hexadecimal digits")),
    request_body(content = Binary, content_type = "application/x-protobuf", description = "Up to 1000 of them"),
    responses(
        (status = 200, description = "The outcomes", content_type = "application/x-protobuf", body = Binary),
        (status = 400, description = "The body cannot be read", body = ErrorBody),
        (status = 503, description = "The store is read-only", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    ))]
pub(super) async fn take(
    State(service): ServiceState,
    params: Params,
    request: Request,
) -> ApiResult<Response> {
    let through = id_of(&params, "through")?.map(LibraryId);
    let records = messages(request, "entries", checked).await?;
    let hashes: Vec<EntryHash> = records.iter().map(FolderRecord::hash).collect();
    Ok(results(hashes, service.store.take_entries(records, through).await?))
}

/// An entry that keeps to the rules. Agents check what they send: of one that does not, nothing can be said.
fn checked(wire: WireEntry) -> ApiResult<FolderRecord> {
    wire.try_into().map_err(|error: RecordError| malformed(error.to_string()))
}

fn results(hashes: Vec<EntryHash>, outcomes: Vec<EntryOutcome>) -> Response {
    let result =
        |(hash, outcome): (EntryHash, EntryOutcome)| -> EntryResult { entry_result_of(hash, outcome) };
    protobuf(hashes.into_iter().zip(outcomes).map(result))
}
