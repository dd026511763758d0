//! Upload of an asset as a multipart form, part by part as it streams in.
//!
//! The content goes into the store's upload as it arrives; the other parts are kept in memory, within limits, wherever
//! they come. Nothing is kept of an upload that does not end well: dropping it removes its file.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::StatusCode;
use axum::http::header::{HeaderValue, LOCATION};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{StreamExt as _, stream};

use super::error::{about_metadata, invalid_metadata, no_media_type, not_held};
use super::model::{IngestForm, IngestedJson, KnownJson, is_media_type};
use super::part_name;
use super::{BASE_PATH, ServiceState};
use crate::http::envelope::{ApiError, ApiResult, ErrorBody, Success};
use crate::http::extract::{
    BODY_BYTES_MAX, DayEdge, HashPath, JsonBody, TIME_HINT, cut, has_content_type, parse_time_ms, progress,
};
use crate::record::META_BYTES_MAX;
use crate::store::ContentStore as _;
use crate::store::embedded::{EmbeddedStore, IngestFields, Upload};
use crate::text::quoted;

const MULTIPART: &str = "multipart/form-data";
/// How long content that is put again may take to be checked: clients wait half a minute for an answer. What takes longer comes once
/// more.
const CHECKED_WITHIN: Duration = Duration::from_secs(20);
/// Bytes that may have been read from the body and not yet handed to the store: everything that is not the file, and
/// what the parser holds at a time.
const UNACCOUNTED_BYTES_MAX: u64 = BODY_BYTES_MAX as u64 + (512 << 10);

/// Store an asset.
///
/// The parts may come in any order; parts of other names are ignored. When the content is there already, the metadata
/// is merged: another name is kept beside the first.
#[utoipa::path(post, path = "/ingest", tag = "assets",
    request_body(content = IngestForm, content_type = "multipart/form-data",
        description = "The content in `file`, what is known about it in the other parts"),
    responses(
        (status = 201, description = "The new asset", body = Success<IngestedJson>,
            headers(("Location" = String, description = "Where its content is"))),
        (status = 200, description = "The content was there already: the asset as it is now",
            body = Success<IngestedJson>),
        (status = 400, description = "`file_missing`, `file_repeated`, `invalid_metadata`, `invalid_multipart`",
            body = ErrorBody),
        (status = 413, description = "More than 1 MiB besides the file", body = ErrorBody),
        (status = 503, description = "The store is read-only", body = ErrorBody),
        (status = 507, description = "The disk is full, or has no room for so much", body = ErrorBody),
    ))]
pub(super) async fn ingest(State(service): ServiceState, request: Request) -> ApiResult<Response> {
    if let Some(length) = request.body().size_hint().exact() {
        // Before anybody sends what there is no room for.
        service.store.check_room(length)?;
    }
    let (mut form, gauge) = open_form(request).await?;
    let mut received = ReceivedForm::default();
    while let Some(field) = progress(form.next_field()).await?.map_err(|error| gauge.explain(&error))? {
        received.take(&service.store, field, &gauge).await?;
    }
    let (upload, fields) = received.into_fields();
    let Some(upload) = upload else {
        let hint = "send the content as a part named 'file': curl -F file=@photo.jpg …";
        return Err(ApiError::bad_request("file_missing", "the form has no part named 'file'", hint));
    };
    let ingested = upload.finish(fields).await.map_err(about_metadata)?;
    let hash = ingested.asset.record.hash;
    let status = if ingested.new { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = (status, Success::new(IngestedJson::from(ingested))).into_response();
    if let Ok(location) = HeaderValue::from_str(&format!("{BASE_PATH}/asset/{hash}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// Say something about content that is here.
///
/// As an upload of the same content, without sending it: the metadata is merged. What is here is read and checked before. `not_found`,
/// `deleted` and `not_held` mean that it has to be uploaded: so does content that is damaged, or takes longer than 20 s to check.
#[utoipa::path(post, path = "/asset/{hash}/ingest", tag = "assets",
    params(("hash" = String, Path, description = "SHA-256 of the content, 64 lower-case hexadecimal digits")),
    request_body(content = KnownJson, description = "What the form of `POST /ingest` says besides the file"),
    responses(
        (status = 200, description = "The asset as it is now", body = Success<IngestedJson>),
        (status = 400, description = "`invalid_json`, `invalid_metadata`, or no hash", body = ErrorBody),
        (status = 404, description = "`not_found`, `deleted` or `not_held`: upload it", body = ErrorBody),
        (status = 413, description = "More than 1 MiB of JSON", body = ErrorBody),
        (status = 503, description = "The store is read-only", body = ErrorBody),
        (status = 507, description = "The disk is full, or has no room for content of this size", body = ErrorBody),
    ))]
pub(super) async fn ingest_known(
    State(service): ServiceState,
    HashPath(hash): HashPath,
    JsonBody(known): JsonBody<KnownJson>,
) -> ApiResult<Success<IngestedJson>> {
    let size = known.size;
    let fields = known.into_fields()?;
    let live = match service.held(hash).await {
        // Who has it whole may be the only one: what is here counts once it was read.
        Ok(_) if !service.store.is_whole(hash, CHECKED_WITHIN).await? => Err(not_held(hash)),
        Ok(_) => service.store.ingest_known(hash, fields).await.map_err(about_metadata),
        Err(absent) => Err(absent),
    };
    match live {
        Ok(ingested) => Ok(Success::new(ingested.into())),
        Err(absent) => {
            if absent.status == StatusCode::NOT_FOUND {
                service.store.check_room(size)?;
            }
            Err(absent)
        }
    }
}

async fn open_form(request: Request) -> ApiResult<(Multipart, Gauge)> {
    if !has_content_type(request.headers(), MULTIPART) {
        return Err(ApiError::unsupported_media_type(MULTIPART));
    }
    let gauge = Gauge::default();
    let (parts, body) = request.into_parts();
    let metered = gauge.clone();
    let mut body = body.into_data_stream().map(move |chunk| match chunk {
        Ok(chunk) => metered.read(&chunk).map(|()| chunk),
        Err(error) => {
            metered.cut();
            Err(error)
        }
    });
    // The parser asks for more until there is none, before it hands anything out. Then the client would be waited for while it
    // is the disk that is slow, and count as a slow one: so there is nothing more until the piece before was taken.
    let mut handed_out = false;
    let body = stream::poll_fn(move |cx| {
        if std::mem::take(&mut handed_out) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let chunk = ready!(body.poll_next_unpin(cx));
        handed_out = chunk.is_some();
        Poll::Ready(chunk)
    });
    let request = Request::from_parts(parts, Body::from_stream(body));
    let form = Multipart::from_request(request, &()).await;
    let form = form.map_err(|error| invalid_multipart(error.body_text()))?;
    Ok((form, gauge))
}

fn invalid_multipart(problem: impl std::fmt::Display) -> ApiError {
    let hint = "send it as curl -F or a browser's form does";
    ApiError::bad_request("invalid_multipart", format!("the form cannot be read: {problem}"), hint)
}

#[derive(Default)]
struct ReceivedForm {
    upload: Option<Upload>,
    fields: IngestFields,
    /// What the part `file` calls itself; the part `filename` counts for more, wherever it comes.
    file_name: Option<String>,
    /// Bytes of all parts but the file.
    other_bytes: usize,
}

impl ReceivedForm {
    async fn take(&mut self, store: &EmbeddedStore, field: Field<'_>, gauge: &Gauge) -> ApiResult<()> {
        let name = field.name().unwrap_or_default().to_owned();
        match name.as_str() {
            "file" => self.take_file(store, field, gauge).await?,
            "tags" => {
                let tags = self.text("tags", field, gauge).await?;
                self.fields.tags.extend(tags.split(',').map(ToOwned::to_owned));
            }
            // One tag as it is, commas and all.
            "tag" => {
                let tag = self.text("tag", field, gauge).await?;
                self.fields.tags.push(tag);
            }
            "mime_type" => self.fields.mime_type = mime_type(self.text("mime_type", field, gauge).await?)?,
            "filename" => self.fields.filename = Some(self.text("filename", field, gauge).await?),
            "application" => self.fields.application = Some(self.text("application", field, gauge).await?),
            "modified_at" => {
                self.fields.modified_at_ms = modified_at(&self.text("modified_at", field, gauge).await?)?;
            }
            "user" => self.fields.user = Some(self.text("user", field, gauge).await?),
            "description" => self.fields.description = Some(self.text("description", field, gauge).await?),
            _ => self.ignore(field, gauge).await?,
        }
        Ok(())
    }

    async fn take_file(
        &mut self,
        store: &EmbeddedStore,
        mut field: Field<'_>,
        gauge: &Gauge,
    ) -> ApiResult<()> {
        if self.upload.is_some() {
            let hint = "send one request for each file";
            return Err(ApiError::bad_request("file_repeated", "the form has two parts named 'file'", hint));
        }
        // What clients send when they do not know says nothing.
        let known = |mime_type: &&str| {
            is_media_type(mime_type) && !mime_type.eq_ignore_ascii_case("application/octet-stream")
        };
        let believed = field.content_type().filter(known).map(ToOwned::to_owned);
        self.file_name = part_name::file_name(field.headers());
        let mut upload = store.begin_upload();
        upload.suggest_mime_type(believed);
        while let Some(chunk) = chunk(&mut field, gauge).await? {
            gauge.hand_over(&chunk);
            upload.write(chunk).await?;
        }
        self.upload = Some(upload);
        Ok(())
    }

    async fn text(&mut self, name: &str, mut field: Field<'_>, gauge: &Gauge) -> ApiResult<String> {
        let mut text = Vec::new();
        while let Some(chunk) = chunk(&mut field, gauge).await? {
            self.count(&chunk)?;
            if text.len() + chunk.len() > META_BYTES_MAX {
                return Err(invalid_metadata(format!(
                    "the part '{name}' is longer than {META_BYTES_MAX} bytes"
                )));
            }
            text.extend_from_slice(&chunk);
        }
        String::from_utf8(text).map_err(|_| {
            let message = format!("the part '{name}' is not UTF-8");
            ApiError::bad_request("invalid_metadata", message, "send its text in UTF-8")
        })
    }

    async fn ignore(&mut self, mut field: Field<'_>, gauge: &Gauge) -> ApiResult<()> {
        while let Some(chunk) = chunk(&mut field, gauge).await? {
            self.count(&chunk)?;
        }
        Ok(())
    }

    fn count(&mut self, chunk: &Bytes) -> ApiResult<()> {
        self.other_bytes += chunk.len();
        if self.other_bytes > BODY_BYTES_MAX { Err(too_much_besides_the_file()) } else { Ok(()) }
    }

    fn into_fields(self) -> (Option<Upload>, IngestFields) {
        let mut fields = self.fields;
        fields.filename = fields.filename.or(self.file_name);
        (self.upload, fields)
    }
}

pub(super) fn mime_type(text: String) -> ApiResult<Option<String>> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    if is_media_type(&text) { Ok(Some(text)) } else { Err(no_media_type(&text)) }
}

/// When a file was last written; an empty text says nothing.
pub(super) fn modified_at(text: &str) -> ApiResult<Option<u64>> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let invalid = |problem: &str| {
        let message = format!("modified_at is '{}', which {problem}", quoted(text));
        ApiError::bad_request("invalid_metadata", message, TIME_HINT)
    };
    parse_time_ms(text, DayEdge::Start).map(Some).map_err(invalid)
}

async fn chunk(field: &mut Field<'_>, gauge: &Gauge) -> ApiResult<Option<Bytes>> {
    progress(field.chunk()).await?.map_err(|error| gauge.explain(&error))
}

fn too_much_besides_the_file() -> ApiError {
    ApiError::body_too_large(format!("the form has more than {BODY_BYTES_MAX} bytes besides its file"))
}

/// Bounds what the form's parser holds in memory: it looks for the end of a part's head without a limit of its own.
#[derive(Clone, Default)]
struct Gauge(Arc<Metered>);

#[derive(Default)]
struct Metered {
    /// Bytes read from the body that are not handed over as content of the file.
    unaccounted: AtomicU64,
    exceeded: AtomicBool,
    cut: AtomicBool,
}

impl Gauge {
    fn read(&self, chunk: &Bytes) -> Result<(), axum::Error> {
        let before = self.0.unaccounted.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        if before + chunk.len() as u64 <= UNACCOUNTED_BYTES_MAX {
            return Ok(());
        }
        self.0.exceeded.store(true, Ordering::Relaxed);
        Err(axum::Error::new("too much besides the file"))
    }

    fn cut(&self) {
        self.0.cut.store(true, Ordering::Relaxed);
    }

    fn hand_over(&self, chunk: &Bytes) {
        self.0.unaccounted.fetch_sub(chunk.len() as u64, Ordering::Relaxed);
    }

    fn explain(&self, error: &MultipartError) -> ApiError {
        if self.0.exceeded.load(Ordering::Relaxed) {
            return too_much_besides_the_file();
        }
        let text = error.body_text();
        if self.0.cut.load(Ordering::Relaxed) { cut(text) } else { invalid_multipart(text) }
    }
}
