//! The content of an asset, whole or in part.
//!
//! Content comes from strangers: it is served as a download under its stored media type, with sniffing and scripts
//! forbidden. It never changes under its name, so it may be cached for ever.

use std::fmt::Write;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderValue, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::model::Binary;
use super::on_demand::{ComingContent, FetchedContent, MissingContent, ReadAs};
use super::range::{RequestedRange, wanted};
use super::{ServiceInner, ServiceState};
use crate::http::envelope::{ApiError, ApiResult, ErrorBody};
use crate::http::extract::{HashPath, Params};
use crate::record::{AssetRecord, ContentHash};
use crate::store::{ContentStore, StoreResult};

/// The name of a hash never means anything else.
const FOR_EVER: HeaderValue = HeaderValue::from_static("private, max-age=31536000, immutable");
const NOT_KEPT: HeaderValue = HeaderValue::from_static("no-store");
const OCTET_STREAM: HeaderValue = HeaderValue::from_static("application/octet-stream");
const BYTES: HeaderValue = HeaderValue::from_static("bytes");
/// Longest file name that is sent, in bytes: what file systems take.
const FILE_NAME_BYTES_MAX: usize = 255;
/// Longest ending that is kept when a name is cut, in bytes.
const ENDING_BYTES_MAX: usize = 32;

/// Content of an asset.
///
/// What is known and not held here is fetched from another machine first, all of it and for good, also where a range is asked for; a
/// service that belongs to no agent has nobody to ask, and neither has a request with `?local=true`, or HEAD: then it is
/// `not_held`. Waiting for it ends after a minute (`not_here_yet`), and it goes on coming. Who asks for all of a large one gets it
/// while it comes, without an `ETag`; the last bytes come only if all of them are the content, and where they are not, or come no
/// further for a minute, the answer breaks off before its end.
#[utoipa::path(method(get, head), path = "/asset/{hash}", tag = "assets",
    params(
        ("hash" = String, Path, description = "SHA-256 of the content, 64 lower-case hexadecimal digits"),
        ("Range" = Option<String>, Header, description = "One range of bytes: `bytes=0-99`, `bytes=100-`, `bytes=-100`"),
        ("If-None-Match" = Option<String>, Header, description = "The ETag of what is held already"),
        ("If-Range" = Option<String>, Header, description = "The ETag for which `Range` is meant"),
        ("local" = Option<bool>, Query, description = "Only what is here (`true`): nothing is fetched from other machines"),
    ),
    responses(
        (status = 200, description = "The content, as a download", content_type = "*/*",
            body = Binary, headers(
                ("ETag" = String, description = "The hash in quotes"),
                ("Content-Disposition" = String, description = "`attachment` and the file name"),
            )),
        (status = 206, description = "The range of it", content_type = "*/*", body = Binary,
            headers(("Content-Range" = String, description = "Which bytes of how many"))),
        (status = 304, description = "It is held already"),
        (status = 404, description = "`not_found`, `deleted`, or `not_held`: the asset is known, its content is elsewhere", body = ErrorBody),
        (status = 429, description = "`too_many_searches`: so many contents are fetched for others already", body = ErrorBody),
        (status = 504, description = "`not_here_yet`: it did not come in time, and goes on coming", body = ErrorBody),
        (status = 507, description = "`over_quota`: it is elsewhere, and the store's quota leaves no room for it", body = ErrorBody),
        (status = 416, description = "The range lies outside the content", body = ErrorBody,
            headers(("Content-Range" = String, description = "How many bytes there are"))),
        (status = 500, description = "`corrupt`: the stored bytes are damaged", body = ErrorBody),
    ))]
pub(super) async fn read(
    State(service): ServiceState,
    HashPath(hash): HashPath,
    method: Method,
    params: Params,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let fetches = method == Method::GET && params.flag("local")? != Some(true);
    let answered = held(&service, hash, &method, &headers).await;
    let refused = answered.as_ref().err().filter(|_| fetches);
    let Some(missing) = refused.and_then(|refusal| MissingContent::of(refusal.code)) else { return answered };
    check_range(&service, hash, &headers).await?;
    match service.on_demand.fetch(hash, missing, read_as(&headers)).await? {
        FetchedContent::Here => held(&service, hash, &method, &headers).await,
        FetchedContent::Coming(coming) => {
            let ComingContent { record, chunks } = *coming;
            let source = ContentSource::Coming(chunks);
            answer_from(&service, source, &record, &method, &headers).await
        }
        FetchedContent::Nowhere => answered,
    }
}

/// Refuses a range that lies outside of a content before that is fetched.
async fn check_range(service: &ServiceInner, hash: ContentHash, headers: &HeaderMap) -> ApiResult<()> {
    let Some(range) = range_of(headers, &etag(hash)) else { return Ok(()) };
    match service.store.look_at(hash).await? {
        Some(asset) if wanted(range, asset.record.size) == RequestedRange::Unsatisfiable => {
            Err(unsatisfiable(asset.record.size)?)
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether a request is for a content from its first byte to its last.
fn read_as(headers: &HeaderMap) -> ReadAs {
    let mut ranges = headers.get_all(RANGE).iter();
    let is_all = ranges.all(|range| range.as_bytes().trim_ascii().eq_ignore_ascii_case(b"bytes=0-"));
    if is_all { ReadAs::Comes } else { ReadAs::Stored }
}

/// Where the bytes of an answer come from.
enum ContentSource {
    Store,
    /// All of it.
    Coming(BoxStream<'static, StoreResult<Bytes>>),
}

/// The answer to GET or HEAD, of what is here.
async fn held(
    service: &ServiceInner,
    hash: ContentHash,
    method: &Method,
    headers: &HeaderMap,
) -> ApiResult<Response> {
    let asset = service.held(hash).await?;
    answer(service, &asset.record, method, headers).await
}

/// The answer to GET or HEAD of the content that belongs to a live record.
pub(super) async fn answer(
    service: &ServiceInner,
    record: &AssetRecord,
    method: &Method,
    headers: &HeaderMap,
) -> ApiResult<Response> {
    answer_from(service, ContentSource::Store, record, method, headers).await
}

async fn answer_from(
    service: &ServiceInner,
    source: ContentSource,
    record: &AssetRecord,
    method: &Method,
    headers: &HeaderMap,
) -> ApiResult<Response> {
    let mut response = Response::new(Body::empty());
    let out = response.headers_mut();
    let etag = etag(record.hash);
    match &source {
        ContentSource::Store => {
            out.insert(ETAG, header_value(&etag)?);
            out.insert(CACHE_CONTROL, FOR_EVER);
            out.insert(ACCEPT_RANGES, BYTES);
        }
        // Where it breaks off, what came before is not to be gone on with.
        ContentSource::Coming(_) => {
            out.insert(CACHE_CONTROL, NOT_KEPT);
        }
    }
    if is_held(headers, &etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        // Else the length of the body that no answer to HEAD has would be told: 0.
        if *method == Method::HEAD {
            response.headers_mut().insert(CONTENT_LENGTH, record.size.into());
        }
        return Ok(response);
    }
    // Peers may have said anything; what no header can carry is left out.
    let mime_type = HeaderValue::from_str(&record.meta.mime_type).ok().filter(|value| !value.is_empty());
    out.insert(CONTENT_TYPE, mime_type.unwrap_or(OCTET_STREAM));
    out.insert(CONTENT_DISPOSITION, disposition(record)?);

    let range = if *method == Method::GET { range_of(headers, &etag) } else { None };
    let bytes = match range.map_or(RequestedRange::All, |range| wanted(range, record.size)) {
        RequestedRange::All => 0..record.size,
        RequestedRange::Part(part) => {
            let shown = format!("bytes {}-{}/{}", part.start, part.end - 1, record.size);
            out.insert(CONTENT_RANGE, header_value(&shown)?);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            part
        }
        RequestedRange::Unsatisfiable => return Err(unsatisfiable(record.size)?),
    };
    let length = bytes.end - bytes.start;
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    if *method == Method::GET {
        let chunks = match source {
            ContentSource::Store => {
                service.store.content(record.hash, bytes.start, Some(length)).await?.chunks
            }
            ContentSource::Coming(chunks) => chunks,
        };
        *response.body_mut() = Body::from_stream(chunks);
    }
    Ok(response)
}

fn etag(hash: ContentHash) -> String {
    format!("\"{hash}\"")
}

pub(super) fn header_value(text: &str) -> ApiResult<HeaderValue> {
    HeaderValue::from_str(text).map_err(|_| {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        ApiError::new(status, "internal", "a header of the answer could not be written", "report this")
    })
}

fn unsatisfiable(size: u64) -> ApiResult<ApiError> {
    let message = format!("the range lies outside the content, which has {size} bytes");
    let error =
        ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", message, "ask for less");
    Ok(error.with_header(CONTENT_RANGE, header_value(&format!("bytes */{size}"))?))
}

/// Whether `If-None-Match` names this content; the comparison is the weak one.
fn is_held(headers: &HeaderMap, etag: &str) -> bool {
    headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
    })
}

/// The `Range` header, unless there are several or `If-Range` means other content; dates never match, we send none.
fn range_of<'a>(headers: &'a HeaderMap, etag: &str) -> Option<&'a str> {
    let mut ranges = headers.get_all(RANGE).iter();
    let (range, None) = (ranges.next()?, ranges.next()) else { return None };
    let applies = headers.get(IF_RANGE).is_none_or(|value| value.as_bytes() == etag.as_bytes());
    if applies { range.to_str().ok() } else { None }
}

/// `attachment`, with the file name in plain ASCII and, where that loses something, in UTF-8 (RFC 6266, RFC 8187).
fn disposition(record: &AssetRecord) -> ApiResult<HeaderValue> {
    let name = file_name(record);
    let plain: String =
        name.chars().map(|c| if c.is_ascii() && !matches!(c, '"' | '\\' | '%') { c } else { '_' }).collect();
    if plain == name {
        return header_value(&format!("attachment; filename=\"{plain}\""));
    }
    let mut encoded = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    header_value(&format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"))
}

/// A name that is safe to save under: the last part of the stored one, without control characters and those that turn
/// the direction of writing; the hash where nothing is left.
fn file_name(record: &AssetRecord) -> String {
    let stored = record.meta.filename.as_deref().unwrap_or_default();
    let last = stored.rsplit(['/', '\\']).next().unwrap_or_default();
    let turns =
        |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let clean: String = last.chars().filter(|c| !c.is_control() && !turns(*c)).collect();
    let clean = clean.trim().trim_start_matches('.');
    if clean.is_empty() { record.hash.to_string() } else { shortened(clean) }
}

/// A name that file systems take, with its ending.
fn shortened(name: &str) -> String {
    if name.len() <= FILE_NAME_BYTES_MAX {
        return name.to_owned();
    }
    let ending = name.rfind('.').map(|dot| &name[dot..]).filter(|ending| ending.len() <= ENDING_BYTES_MAX);
    let ending = ending.unwrap_or_default();
    let room = name.floor_char_boundary(FILE_NAME_BYTES_MAX - ending.len());
    format!("{}{ending}", name[..room].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::AssetMeta;

    fn shown(name: &str) -> String {
        let meta = AssetMeta { filename: Some(name.into()), ..AssetMeta::default() };
        let record = AssetRecord::new(ContentHash([0xab; 32]), 1, None, meta);
        disposition(&record).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn file_names_are_safe_to_save_under() {
        let hash = "ab".repeat(32);
        assert_eq!(shown("a b.txt"), r#"attachment; filename="a b.txt""#);
        assert_eq!(shown("../../etc/passwd"), r#"attachment; filename="passwd""#);
        assert_eq!(shown(r"C:\evil\x.exe"), r#"attachment; filename="x.exe""#);
        assert_eq!(shown("a\r\nSet-Cookie: x"), r#"attachment; filename="aSet-Cookie: x""#);
        assert_eq!(shown("a\u{202e}txt.exe"), r#"attachment; filename="atxt.exe""#);
        for empty in ["", "..", "/", "\u{7}", "a/"] {
            assert_eq!(shown(empty), format!(r#"attachment; filename="{hash}""#), "{empty:?}");
        }
    }

    #[test]
    fn long_names_keep_their_ending() {
        let name = |stored: String| {
            let meta = AssetMeta { filename: Some(stored), ..AssetMeta::default() };
            file_name(&AssetRecord::new(ContentHash([0xab; 32]), 1, None, meta))
        };
        let long = name(format!("{}.tar.gz", "日".repeat(200)));
        assert!(long.len() <= 255 && long.len() > 250 && long.ends_with("日.gz"), "{long}");
        assert_eq!(name(format!("{}.txt", "a".repeat(251))), format!("{}.txt", "a".repeat(251)));
        let endless = name(format!("a.{}", "b".repeat(400)));
        assert_eq!(endless.len(), 255);
    }

    #[test]
    fn names_beyond_ascii_come_in_both_forms() {
        assert_eq!(shown("é\".txt"), r#"attachment; filename="__.txt"; filename*=UTF-8''%C3%A9%22.txt"#);
    }

    #[test]
    fn etags_compare_weakly() {
        let tag = etag(ContentHash([1; 32]));
        let with = |value: &str| {
            let headers = [(IF_NONE_MATCH, HeaderValue::from_str(value).unwrap())].into_iter().collect();
            is_held(&headers, &tag)
        };
        assert!(with(&tag) && with(&format!("W/{tag}")) && with("*") && with(&format!("\"x\", {tag}")));
        assert!(!with("\"x\"") && !with(""));
    }
}
