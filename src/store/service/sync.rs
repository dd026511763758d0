//! Replication: what an agent asks of an external CAN Service.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::model::Binary;
use super::{BASE_PATH, ServiceInner, ServiceState, content, key};
use crate::http::envelope::{ApiError, ApiResult, ErrorBody};
use crate::http::extract::{BODY_STALL, HashPath, Params, collect, has_content_type};
use crate::record::{AssetRecord, ContentHash};
use crate::store::entries::StoredEntry;
use crate::store::sync_wire::{
    BATCH_MAX, BodyError, BodyReader, FEED_END, FEED_ENTRIES, FEED_RESET, PROTOBUF, QUERY_HASHES_MAX,
    STORE_ID, put, result_of, wire_holding,
};
use crate::store::{ContentStore, FeedEntry, ItemOutcome, Redating, StoredRecord};
use crate::wire::decode::Inbound;
use crate::wire::proto::{
    IngestResult, RecordError, RedateResult, WireFeedEntry, WireRecord, WireRedating, WireStoredRecord,
};

mod batch;

const STALL: Duration = BODY_STALL;

/// Whether a request carries the key, once.
pub(super) fn has_key(service: &ServiceInner, headers: &HeaderMap) -> bool {
    let mut keys = headers.get_all(key::HEADER).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) => service.key.accepts(key.as_bytes()),
        (None | Some(_), _) => false,
    }
}

/// Lets only those into the paths of synchronisation that know the key.
pub(super) async fn require_key(State(service): ServiceState, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str).unwrap_or_default();
    if !path.strip_prefix(BASE_PATH).is_some_and(|path| path.starts_with("/sync/")) {
        return next.run(request).await;
    }
    if has_key(&service, request.headers()) {
        return next.run(request).await;
    }
    let message = "this path needs the service's sync API key";
    let hint = format!(
        "send it in the header {}; the service prints where its key is kept when it starts",
        key::HEADER
    );
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message, hint).into_response()
}

/// Changes in sequence.
///
/// Length-delimited `FeedEntry` messages, under the numbers that `/events` uses. When the header `X-Feed-Reset: true`
/// is set, the store cannot continue from `since`: read everything again, from 0. So does whoever finds another id in
/// `X-Store-Id` than that of the store that the number is from.
#[utoipa::path(get, path = "/feed", tag = "sync", operation_id = "sync_feed", security(("sync_key" = [])),
    params(
        ("since" = Option<u64>, Query, description = "Changes after this number; all when absent"),
        ("limit" = Option<u64>, Query, minimum = 1, description = "Entries at most: 1000 unless given, and never more"),
        ("X-Feed-Entries" = Option<bool>, Header, description = "`true` for changes of folders, too"),
    ),
    responses(
        (status = 200, description = "Entries in ascending sequence", content_type = "application/x-protobuf",
            body = Binary, headers(
                ("X-Feed-Reset" = Option<bool>, description = "`true` for a reset"),
                ("X-Feed-End" = Option<u64>, description = "Up to which number the page has all there is: go on from there"),
                ("X-Store-Id" = String, description = "Which store this is; a new one has another id"),
            )),
    ))]
pub(super) async fn feed(
    State(service): ServiceState,
    params: Params,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let since = params.number("since")?.unwrap_or(0);
    let limit = params.limit(BATCH_MAX, BATCH_MAX)?;
    let page = if headers.get(FEED_ENTRIES).is_some_and(|value| value == "true") {
        service.store.feed_with_entries(since, limit).await?
    } else {
        service.store.feed(since, limit).await?
    };
    let asset = |FeedEntry { seq, record, holding, formers }: &FeedEntry| WireFeedEntry {
        seq: *seq,
        record: Some(record.into()),
        holding: wire_holding(*holding).into(),
        formers: formers.iter().map(WireRecord::from).collect(),
        entry: None,
    };
    let entry = |StoredEntry { seq, record }: &StoredEntry| WireFeedEntry {
        seq: *seq,
        entry: Some(record.into()),
        ..WireFeedEntry::default()
    };
    let assets = page.entries.iter().map(asset);
    let mut changes: Vec<_> = assets.chain(page.folder_records.iter().map(entry)).collect();
    changes.sort_unstable_by_key(|change| change.seq);
    let mut response = protobuf(changes.into_iter());
    if page.reset {
        response.headers_mut().insert(HeaderName::from_static(FEED_RESET), HeaderValue::from_static("true"));
    }
    if page.end > 0 {
        response.headers_mut().insert(HeaderName::from_static(FEED_END), page.end.into());
    }
    if let Some(id) = page.store.and_then(|id| HeaderValue::from_str(&id.to_string()).ok()) {
        response.headers_mut().insert(HeaderName::from_static(STORE_ID), id);
    }
    Ok(response)
}

/// Records by hash.
///
/// Length-delimited `StoredRecord` messages, tombstones included, in any order; unknown ones are left out.
#[utoipa::path(get, path = "/records", tag = "sync", operation_id = "sync_records", security(("sync_key" = [])),
    params(("hash" = String, Query, description = "Up to 50 hashes, separated by commas or repeated")),
    responses(
        (status = 200, description = "The records", content_type = "application/x-protobuf", body = Binary),
        (status = 400, description = "No hash, or too many", body = ErrorBody),
    ))]
pub(super) async fn records(State(service): ServiceState, params: Params) -> ApiResult<Response> {
    let hashes = params.hashes("hash", QUERY_HASHES_MAX)?;
    Ok(protobuf(service.store.records(hashes).await?.iter().map(stored_record)))
}

/// Records by hash, many at once.
///
/// As `GET /sync/records`; the hashes are the body.
#[utoipa::path(post, path = "/records/query", tag = "sync", operation_id = "sync_query_records",
    security(("sync_key" = [])),
    request_body(content = Binary, content_type = "application/x-protobuf",
        description = "Up to 1000 hashes of 32 raw bytes, one after the other"),
    responses(
        (status = 200, description = "The records", content_type = "application/x-protobuf", body = Binary),
        (status = 400, description = "Not a multiple of 32 bytes", body = ErrorBody),
    ))]
pub(super) async fn query_records(State(service): ServiceState, request: Request) -> ApiResult<Response> {
    let hashes = hashes_of(request).await?;
    Ok(protobuf(service.store.records(hashes).await?.iter().map(stored_record)))
}

fn stored_record(StoredRecord { record, holding }: &StoredRecord) -> WireStoredRecord {
    WireStoredRecord { record: Some(record.into()), holding: wire_holding(*holding).into() }
}

async fn hashes_of(request: Request) -> ApiResult<Vec<ContentHash>> {
    Ok(hash_bodies(request).await?.into_iter().map(ContentHash).collect())
}

/// A body of names of 32 bytes.
pub(super) async fn hash_bodies(request: Request) -> ApiResult<Vec<[u8; 32]>> {
    let body = collect(protobuf_body(request)?, BATCH_MAX * 32).await?;
    let (hashes, []) = body.as_chunks::<32>() else {
        return Err(malformed("the body is not a sequence of hashes of 32 bytes"));
    };
    Ok(hashes.to_vec())
}

/// Content, for agents.
///
/// As `GET /asset/{hash}`.
#[utoipa::path(method(get, head), path = "/content/{hash}", tag = "sync", operation_id = "sync_content",
    security(("sync_key" = [])),
    params(
        ("hash" = String, Path, description = "SHA-256 of the content, 64 lower-case hexadecimal digits"),
        ("Range" = Option<String>, Header, description = "One range of bytes"),
    ),
    responses(
        (status = 200, description = "The content", content_type = "application/octet-stream", body = Binary),
        (status = 206, description = "The range of it", content_type = "application/octet-stream", body = Binary,
            headers(("Content-Range" = String, description = "Which bytes of how many"))),
        (status = 404, description = "`not_found`, `deleted`, or `not_held`", body = ErrorBody),
        (status = 416, description = "The range lies outside the content", body = ErrorBody),
        (status = 500, description = "`corrupt`: the stored bytes are damaged", body = ErrorBody),
    ))]
pub(super) async fn content(
    State(service): ServiceState,
    HashPath(hash): HashPath,
    method: Method,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let asset = service.held(hash).await?;
    content::answer(&service, &asset.record, &method, &headers).await
}

/// Take assets with their content.
///
/// The body is a sequence of length-delimited `IngestHeader` messages, each followed by the raw content that it
/// announces. The answer is an `IngestResult` for each, in the same order, once all that is `STORED` is durable. Each
/// content is checked against its hash. An error means that nothing of the request may be counted on.
#[utoipa::path(post, path = "/ingest", tag = "sync", operation_id = "sync_ingest", security(("sync_key" = [])),
    request_body(content = Binary, content_type = "application/x-protobuf",
        description = "Up to 1000 of: `IngestHeader`, then as many raw bytes as it says"),
    responses(
        (status = 200, description = "The outcomes", content_type = "application/x-protobuf", body = Binary),
        (status = 400, description = "The body cannot be read", body = ErrorBody),
        (status = 503, description = "The store is read-only", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    ))]
pub(super) async fn ingest(State(service): ServiceState, request: Request) -> ApiResult<Response> {
    let body = BodyReader::new(protobuf_body(request)?.into_data_stream(), STALL);
    let results = batch::ingest(&service.store, body).await?;
    Ok(protobuf(results.into_iter().map(result)))
}

/// Take records without content.
///
/// Edits and tombstones: length-delimited `AssetRecord` messages. The answer is as for `/sync/ingest`; `ABSENT` says that
/// a version was taken and the content of its asset is not held.
#[utoipa::path(post, path = "/records", tag = "sync", operation_id = "sync_apply", security(("sync_key" = [])),
    request_body(content = Binary, content_type = "application/x-protobuf", description = "Up to 1000 records"),
    responses(
        (status = 200, description = "The outcomes", content_type = "application/x-protobuf", body = Binary),
        (status = 400, description = "The body cannot be read", body = ErrorBody),
        (status = 503, description = "The store is read-only", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    ))]
pub(super) async fn apply(State(service): ServiceState, request: Request) -> ApiResult<Response> {
    let (slots, records) = records_of(request).await?;
    slots.answer(service.store.apply(records).await?)
}

/// Take records whose contents are elsewhere.
///
/// As `POST /sync/records`, but a live record whose content is not here is taken all the same: it is `ABSENT` then, and
/// its content is wanted.
#[utoipa::path(post, path = "/records/absent", tag = "sync", operation_id = "sync_take_absent",
    security(("sync_key" = [])),
    request_body(content = Binary, content_type = "application/x-protobuf", description = "Up to 1000 records"),
    responses(
        (status = 200, description = "The outcomes", content_type = "application/x-protobuf", body = Binary),
        (status = 400, description = "The body cannot be read", body = ErrorBody),
        (status = 503, description = "The store is read-only", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    ))]
pub(super) async fn take_absent(State(service): ServiceState, request: Request) -> ApiResult<Response> {
    let (slots, records) = records_of(request).await?;
    slots.answer(service.store.take_absent(records).await?)
}

/// Let go of contents.
///
/// The records stay; the contents go to the trash, like those of deleted assets, and are not wanted any more. The answer
/// is an `IngestResult` for each hash, in the same order: `ABSENT` for what was held or wanted, `UNCHANGED` otherwise.
#[utoipa::path(post, path = "/let-go", tag = "sync", operation_id = "sync_let_go", security(("sync_key" = [])),
    request_body(content = Binary, content_type = "application/x-protobuf",
        description = "Up to 1000 hashes of 32 raw bytes, one after the other"),
    responses(
        (status = 200, description = "The outcomes", content_type = "application/x-protobuf", body = Binary),
        (status = 400, description = "Not a multiple of 32 bytes", body = ErrorBody),
        (status = 503, description = "The store is read-only", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    ))]
pub(super) async fn let_go(State(service): ServiceState, request: Request) -> ApiResult<Response> {
    let hashes = hashes_of(request).await?;
    Ok(protobuf(hashes.clone().into_iter().zip(service.store.let_go(hashes).await?).map(result)))
}

/// Want contents that are not here.
///
/// The answer is an `IngestResult` for each hash, in the same order: `STORED` for what the trash still had, whole,
/// `NEEDS_CONTENT` for what is to be fetched, `UNCHANGED` for what is held, or no live asset.
#[utoipa::path(post, path = "/want", tag = "sync", operation_id = "sync_want", security(("sync_key" = [])),
    request_body(content = Binary, content_type = "application/x-protobuf",
        description = "Up to 1000 hashes of 32 raw bytes, one after the other"),
    responses(
        (status = 200, description = "The outcomes", content_type = "application/x-protobuf", body = Binary),
        (status = 400, description = "Not a multiple of 32 bytes", body = ErrorBody),
        (status = 503, description = "The store is read-only", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    ))]
pub(super) async fn want(State(service): ServiceState, request: Request) -> ApiResult<Response> {
    let hashes = hashes_of(request).await?;
    Ok(protobuf(hashes.clone().into_iter().zip(service.store.want(hashes).await?).map(result)))
}

/// A body of records: those that may be taken, and the place of each in the answer.
async fn records_of(request: Request) -> ApiResult<(Slots, Vec<AssetRecord>)> {
    let mut slots = Slots::default();
    let records = messages(request, "records", |wire: WireRecord| slots.take(wire)).await?;
    Ok((slots, records.into_iter().flatten().collect()))
}

fn result((hash, outcome): (ContentHash, ItemOutcome)) -> IngestResult {
    result_of(hash, outcome)
}

/// Give versions other dates.
///
/// For an agent that found a clock to be wrong: length-delimited `Redating` messages. The answer is a `RedateResult` for
/// each, in the same order, once all of it is durable.
#[utoipa::path(post, path = "/redate", tag = "sync", operation_id = "sync_redate", security(("sync_key" = [])),
    request_body(content = Binary, content_type = "application/x-protobuf", description = "Up to 1000 of them"),
    responses(
        (status = 200, description = "What was changed", content_type = "application/x-protobuf", body = Binary),
        (status = 400, description = "The body cannot be read", body = ErrorBody),
        (status = 503, description = "The store is read-only", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    ))]
pub(super) async fn redate(State(service): ServiceState, request: Request) -> ApiResult<Response> {
    let redating =
        |wire: WireRedating| Redating::try_from(wire).map_err(|error| malformed(error.to_string()));
    let redatings = messages(request, "records", redating).await?;
    let before = service.store.redate(redatings.clone()).await?;
    let result = |(redating, before): (&Redating, Option<AssetRecord>)| RedateResult {
        hash: Bytes::copy_from_slice(&redating.hash().0),
        before: before.as_ref().map(WireRecord::from),
    };
    Ok(protobuf(redatings.iter().zip(before).map(result)))
}

/// The outcomes of a request in its order: those known at once, and gaps for those that the store will decide.
#[derive(Default)]
struct Slots(Vec<(ContentHash, Option<ItemOutcome>)>);

impl Slots {
    /// Checks a record. One that breaks a rule is rejected by itself, as long as it says which asset it is about.
    fn take(&mut self, wire: WireRecord) -> ApiResult<Option<AssetRecord>> {
        if self.0.len() == BATCH_MAX {
            return Err(ApiError::body_too_large(format!("the request has more than {BATCH_MAX} records")));
        }
        let hash = ContentHash::from_slice(&wire.hash).ok_or_else(|| malformed("a record has no hash"))?;
        let checked: Result<AssetRecord, RecordError> = wire.try_into();
        let (record, outcome) = match checked {
            Ok(record) => (Some(record), None),
            Err(error) => (None, Some(ItemOutcome::Rejected(error.to_string()))),
        };
        self.0.push((hash, outcome));
        Ok(record)
    }

    /// The answer, once the store has decided.
    fn answer(self, outcomes: Vec<ItemOutcome>) -> ApiResult<Response> {
        Ok(protobuf(self.fill(outcomes)?.into_iter().map(result)))
    }

    /// Puts the store's outcomes into the gaps.
    fn fill(self, outcomes: Vec<ItemOutcome>) -> ApiResult<Vec<(ContentHash, ItemOutcome)>> {
        let mut outcomes = outcomes.into_iter();
        let filled: Option<Vec<_>> = self
            .0
            .into_iter()
            .map(|(hash, known)| Some((hash, known.or_else(|| outcomes.next())?)))
            .collect();
        filled.ok_or_else(|| {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            ApiError::new(status, "internal", "the store left an asset without an outcome", "report this")
        })
    }
}

/// What `take` makes of each message of a body, which has [`BATCH_MAX`] at most.
pub(super) async fn messages<M: Inbound, T>(
    request: Request,
    what: &str,
    mut take: impl FnMut(M) -> ApiResult<T>,
) -> ApiResult<Vec<T>> {
    let mut body = BodyReader::new(protobuf_body(request)?.into_data_stream(), STALL);
    let mut taken = Vec::new();
    while let Some(message) = body.message().await.map_err(body_error)? {
        if taken.len() == BATCH_MAX {
            return Err(ApiError::body_too_large(format!("the request has more than {BATCH_MAX} {what}")));
        }
        taken.push(take(message)?);
    }
    Ok(taken)
}

/// An answer of these messages, each behind its length.
pub(super) fn protobuf<M: prost::Message>(messages: impl Iterator<Item = M>) -> Response {
    let mut body = Vec::new();
    for message in messages {
        put(&mut body, &message);
    }
    ([(CONTENT_TYPE, HeaderValue::from_static(PROTOBUF))], Bytes::from(body)).into_response()
}

fn protobuf_body(request: Request) -> ApiResult<Body> {
    if has_content_type(request.headers(), PROTOBUF) {
        Ok(request.into_body())
    } else {
        Err(ApiError::unsupported_media_type(PROTOBUF))
    }
}

pub(super) fn malformed(message: impl Into<String>) -> ApiError {
    ApiError::bad_request(
        "malformed_body",
        message,
        "see proto/can_sync.proto, and the versions of both programs",
    )
}

fn body_error(error: BodyError) -> ApiError {
    match error {
        BodyError::Stalled(_) => ApiError::stalled(),
        BodyError::Cut(_) | BodyError::Truncated => crate::http::extract::cut(error),
        BodyError::TooLong(_) | BodyError::Malformed(_) => malformed(error.to_string()),
    }
}
