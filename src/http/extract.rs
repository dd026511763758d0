//! What handlers take out of a request, each refusal in the envelope and each body bounded in size and time.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::{CONTENT_TYPE, HeaderMap};
use axum::http::request::Parts;
use bytes::BytesMut;
use futures::StreamExt;
use jiff::Timestamp;
use jiff::civil::{Date, Time, date};
use jiff::fmt::temporal::Pieces;
use jiff::tz::TimeZone;
use serde::de::DeserializeOwned;

use super::envelope::{ApiError, ApiResult};
use crate::record::ContentHash;
use crate::text::quoted;
use iroh::EndpointId;

/// Most bytes of a body that is not the content of a file.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// How long a body may take to make progress. Long enough for a phone that loses its network for a while: an upload cannot be
/// resumed, and who waits in it makes room for others at once.
pub const BODY_STALL: Duration = Duration::from_secs(100);

/// The parameters of a query. One that nobody knows was refused before ([`super::description`]); an empty one counts as absent.
#[derive(Debug, Default)]
pub struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let query = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let Query(mut pairs) = query.map_err(|error| {
            ApiError::bad_request(
                "invalid_query",
                error.body_text(),
                "encode parameters as name=value&name=value",
            )
        })?;
        pairs.retain(|(_, value)| !value.is_empty());
        Ok(Self(pairs))
    }
}

impl Params {
    /// The value of a parameter that may be there once.
    pub fn one(&self, name: &str) -> ApiResult<Option<&str>> {
        let mut values = self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => Err(ApiError::invalid_parameter(name, "is there twice", "give it once")),
        }
    }

    /// As [`Params::one`], owned.
    pub fn text(&self, name: &str) -> ApiResult<Option<String>> {
        Ok(self.one(name)?.map(ToOwned::to_owned))
    }

    /// The values of a parameter that may be repeated, or hold several values separated by commas.
    pub fn many(&self, name: &str) -> impl Iterator<Item = &str> {
        let values = self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str());
        values.flat_map(|value| value.split(',')).map(str::trim).filter(|value| !value.is_empty())
    }

    /// The values of a parameter that may be repeated, each of them as it is.
    pub fn whole(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A whole number.
    pub fn number(&self, name: &str) -> ApiResult<Option<u64>> {
        let not_a_number =
            |_| ApiError::invalid_parameter(name, "is not a whole number", "give a number such as 50");
        self.one(name)?.map(|value| value.parse().map_err(not_a_number)).transpose()
    }

    /// `true` or `false`.
    pub fn flag(&self, name: &str) -> ApiResult<Option<bool>> {
        let neither = |_| ApiError::invalid_parameter(name, "is unknown", "give true or false");
        self.one(name)?.map(|value| value.parse().map_err(neither)).transpose()
    }

    /// How many results are wanted: `default` unless given, at most `max`.
    pub fn limit(&self, default: usize, max: usize) -> ApiResult<usize> {
        match self.number("limit")? {
            None => Ok(default),
            Some(0) => Err(ApiError::invalid_parameter("limit", "is zero", format!("give 1 to {max}"))),
            Some(limit) => Ok(usize::try_from(limit).unwrap_or(max).min(max)),
        }
    }

    /// Hashes, repeated or separated by commas; at most `max`.
    pub fn hashes(&self, name: &str, max: usize) -> ApiResult<Vec<ContentHash>> {
        let hashes = self.many(name).map(parse_hash).collect::<ApiResult<Vec<_>>>()?;
        if hashes.len() > max {
            let problem = format!("names {} hashes", hashes.len());
            return Err(ApiError::invalid_parameter(
                name,
                problem,
                format!("ask for at most {max} at a time"),
            ));
        }
        Ok(hashes)
    }

    /// A point in time: RFC 3339, a date, or milliseconds since the Unix epoch. A date is the first or the last
    /// millisecond of that day in UTC, as `edge` says.
    ///
    /// # Errors
    /// It is none of them, lies before 1970, or is there more than once; or it is a number that stands for something else,
    /// a year or seconds, and would mean a moment of 1970.
    pub fn time_ms(&self, name: &str, edge: DayEdge) -> ApiResult<Option<u64>> {
        let Some(value) = self.one(name)? else { return Ok(None) };
        let invalid = |problem: &str| ApiError::invalid_parameter(name, problem.to_owned(), TIME_HINT);
        let time = parse_time(value, edge).map_err(invalid)?;
        Ok(Some(time.unwrap_or(TIME_MS_MAX)))
    }
}

pub const TIME_HINT: &str =
    "give a time such as 2026-11-20T12:00:00Z, a date such as 2026-11-20, or milliseconds since 1970";

/// A point in time as [`Params::time_ms`] takes it, which is to be kept.
pub fn parse_time_ms(text: &str, edge: DayEdge) -> Result<u64, &'static str> {
    parse_time(text, edge)?.ok_or(TOO_LATE)
}

const TOO_LATE: &str = "is later than the year 9999";

/// `None` at the end of the year 9999, where not each moment can be written in any time zone: in a question, people mean by it that
/// there is no end.
fn parse_time(text: &str, edge: DayEdge) -> Result<Option<u64>, &'static str> {
    let text = text.trim();
    if let Ok(ms) = text.parse::<u64>() {
        return match ms {
            YEAR_MIN..MS_MIN => Err("is a number that is no time in milliseconds: a year, or seconds"),
            _ if ms > YEARS_END_MS => Err(TOO_LATE),
            _ => Ok((ms <= TIME_MS_MAX).then_some(ms)),
        };
    }
    // An offset such as +01:00 that was not escaped arrives with a space.
    let time = match text.parse().or_else(|_| text.replace(' ', "+").parse()) {
        Ok(time) => Some(time),
        Err(_) => match edge.of(text, TimeZone::UTC) {
            Some(time) if time == Timestamp::MAX => return Ok(None),
            None if is_at_the_end(text) => return Ok(None),
            time => time,
        },
    };
    let ms = time.and_then(|time: Timestamp| u64::try_from(time.as_millisecond()).ok());
    ms.map(Some).ok_or("is not a time since 1970")
}

/// Numbers from here to [`MS_MIN`] are years, dates without dashes, or seconds since 1970.
const YEAR_MIN: u64 = 1000;
/// The spring of 1973, in milliseconds; the year 5138, in seconds.
const MS_MIN: u64 = 100_000_000_000;

/// The last millisecond that can be written as RFC 3339 in any time zone.
const TIME_MS_MAX: u64 = 253_402_207_200_999;

/// The last millisecond of the year 9999 in UTC.
const YEARS_END_MS: u64 = 253_402_300_799_999;

/// Whether that is a moment of the last two days of the year 9999, with its offset.
fn is_at_the_end(text: &str) -> bool {
    let Ok(pieces) = Pieces::parse(text) else { return false };
    pieces.date() >= LAST_DAYS && pieces.time().is_some() && pieces.offset().is_some()
}

const LAST_DAYS: Date = date(9999, 12, 30);

/// Which moment of a day a date stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DayEdge {
    /// The first millisecond.
    Start,
    /// The last millisecond.
    End,
}

impl DayEdge {
    /// That moment of a date such as `2026-11-20`; `None` for any other text.
    pub fn of(self, date: &str, zone: TimeZone) -> Option<Timestamp> {
        // Nothing but a date: a time without its offset could mean any of many moments.
        let date = Some(date.trim()).filter(|date| date.len() == "2026-11-20".len())?;
        let date: Date = date.parse().ok()?;
        let next = match self {
            Self::Start => None,
            Self::End => match date.tomorrow() {
                Ok(next) => Some(next),
                // There is no day after it.
                Err(_) => return Some(Timestamp::MAX),
            },
        };
        let begins = next.unwrap_or(date).to_datetime(Time::midnight()).to_zoned_datetime(zone);
        // Only the end of the year 9999 is too late to be a moment in each time zone.
        let Ok(begins) = begins.map(|begins| begins.timestamp()) else {
            return (date >= LAST_DAYS).then_some(Timestamp::MAX);
        };
        Timestamp::from_millisecond(begins.as_millisecond() - i64::from(next.is_some())).ok()
    }
}

/// A content hash as text: 64 lower-case hexadecimal digits.
pub fn parse_hash(text: &str) -> ApiResult<ContentHash> {
    text.parse().map_err(|error: crate::record::ParseIdError| {
        ApiError::bad_request(
            "invalid_hash",
            error.to_string(),
            "a hash is the SHA-256 of the content in hexadecimal",
        )
    })
}

/// The one parameter in a path, as text: `/folders/{id}`.
#[derive(Clone, Debug)]
pub struct PathText(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathText {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let text = Path::<String>::from_request_parts(parts, state).await;
        text.map(|Path(text)| Self(text)).map_err(|error| {
            let hint = "write text in a path as UTF-8, and escape what is no letter or digit";
            ApiError::bad_request("invalid_path_text", error.body_text(), hint)
        })
    }
}

/// The content hash in a path: `/asset/{hash}`.
#[derive(Clone, Copy, Debug)]
pub struct HashPath(pub ContentHash);

impl<S: Send + Sync> FromRequestParts<S> for HashPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => parse_hash(&text).map(Self),
            // Escapes that decode to something other than text.
            Err(_) => parse_hash("").map(Self),
        }
    }
}

/// A JSON object as body, with its content type.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> ApiResult<Self> {
        // A browser asks the server first before it sends this type to another origin, and we never agree.
        if !has_content_type(request.headers(), "application/json") {
            return Err(ApiError::unsupported_media_type("application/json"));
        }
        let body = collect(request.into_body(), BODY_BYTES_MAX).await?;
        // An array would be taken for the fields in their order.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(invalid_json(&"it is no object"));
        }
        serde_json::from_slice(&body).map(Self).map_err(|error| invalid_json(&error))
    }
}

/// As [`JsonBody`], of which nothing at all is as good as an empty object.
#[derive(Debug)]
pub struct OptionalJsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> ApiResult<Self> {
        let is_json = has_content_type(request.headers(), "application/json");
        if !is_json && request.body().is_end_stream() {
            return Ok(Self(T::default()));
        }
        JsonBody::from_request(request, state).await.map(|JsonBody(body)| Self(body))
    }
}

fn invalid_json(problem: &dyn Display) -> ApiError {
    let hint = "/openapi.json describes the body of every request";
    ApiError::bad_request("invalid_json", format!("the JSON body is not what is expected: {problem}"), hint)
}

/// Whether the body is said to be of this media type, whatever its parameters.
pub fn has_content_type(headers: &HeaderMap, expected: &str) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    value.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case(expected))
}

/// Reads a body of at most `max` bytes.
///
/// # Errors
/// 413 when it is longer, 408 when it stalls, 400 when it is cut.
pub async fn collect(body: Body, max: usize) -> ApiResult<BytesMut> {
    let mut body = body.into_data_stream();
    let mut collected = BytesMut::new();
    while let Some(chunk) = progress(body.next()).await? {
        let chunk = chunk.map_err(cut)?;
        if collected.len() + chunk.len() > max {
            return Err(ApiError::body_too_large(format!("the body is longer than {max} bytes")));
        }
        collected.extend_from_slice(&chunk);
    }
    Ok(collected)
}

/// Waits for the next piece of a body.
///
/// # Errors
/// 408 after [`BODY_STALL`].
pub async fn progress<T>(next: impl Future<Output = T>) -> ApiResult<T> {
    tokio::time::timeout(BODY_STALL, next).await.map_err(|_| ApiError::stalled())
}

/// A body that ended before its end. The client is usually gone and sees none of this.
pub fn cut(error: impl Display) -> ApiError {
    ApiError::bad_request(
        "body_cut",
        format!("the body of the request was cut off: {error}"),
        "send it again",
    )
}

/// The endpoint id in a path or body: 64 hexadecimal digits.
pub fn parse_endpoint_id(text: &str) -> ApiResult<EndpointId> {
    text.parse().map_err(|_| {
        let shown = quoted(text);
        ApiError::bad_request(
            "invalid_endpoint_id",
            format!("'{shown}' is no endpoint id"),
            "an endpoint id has 64 hexadecimal digits: `can-sync id` prints a node's own",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        Params(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn values_are_repeated_or_separated_by_commas() {
        let params = params(&[("tags", "a, b,"), ("tag", "x"), ("tags", "c")]);
        assert_eq!(params.many("tags").collect::<Vec<_>>(), ["a", "b", "c"]);
        assert!(params.one("tags").is_err());
        assert_eq!(params.one("tag").unwrap(), Some("x"));
        assert_eq!(params.one("none").unwrap(), None);
    }

    #[test]
    fn times() {
        let ms = |text: &str| params(&[("from", text)]).time_ms("from", DayEdge::Start).ok().flatten();
        assert_eq!(ms("0"), Some(0));
        assert_eq!(ms("1764300000000"), Some(1_764_300_000_000));
        assert_eq!(ms("1970-01-01T00:00:01.250Z"), Some(1_250));
        assert_eq!(ms("1970-01-01T01:00:01+01:00"), Some(1_000));
        assert_eq!(ms("1970-01-01T01:00:01 01:00"), Some(1_000));
        assert_eq!(ms("1970-01-02"), Some(86_400_000));
        assert_eq!(
            params(&[("to", "1970-01-02")]).time_ms("to", DayEdge::End).unwrap(),
            Some(2 * 86_400_000 - 1)
        );
        assert_eq!(
            (ms("253402207200000").is_some(), ms("253402300800000"), ms("281474976710656")),
            (true, None, None)
        );
        let last = Some(TIME_MS_MAX);
        assert_eq!(
            (ms("253402300799999"), ms("9999-12-31T23:59:59Z"), ms("9999-12-31T23:59:59+01:00")),
            (last, last, last)
        );
        assert_eq!((ms("9999-12-31"), ms("9999-12-31T23:59:59"), ms("9999-12-32")), (last, None, None));
        assert_eq!(ms("9999-12-30"), Some(TIME_MS_MAX - 22 * 3_600_000 - 999));
        // What is kept is written as it came.
        assert_eq!(parse_time_ms("253402207200999", DayEdge::Start), Ok(TIME_MS_MAX));
        for late in ["253402207201000", "9999-12-31", "9999-12-31T23:59:59Z"] {
            assert_eq!(parse_time_ms(late, DayEdge::Start), Err(TOO_LATE), "{late}");
        }
        for end in ["9999-12-30", "9999-12-31"] {
            assert_eq!(params(&[("to", end)]).time_ms("to", DayEdge::End).unwrap(), last, "{end}");
        }
        let moments =
            ["2026", "20261120", "1764300000", "99999999999999999999", "2026-11-20T12:00:00", "2026-11"];
        for bad in ["yesterday", "1969-01-01T00:00:00Z", "-1", "2026-13-01T00:00:00Z", "2026-02-30"]
            .iter()
            .chain(&moments)
        {
            assert_eq!(ms(bad), None, "{bad}");
        }
    }

    #[test]
    fn limits() {
        let limit = |text: &str| params(&[("limit", text)]).limit(50, 1_000).ok();
        assert_eq!((limit("1"), limit("1000"), limit("5000")), (Some(1), Some(1_000), Some(1_000)));
        assert_eq!((limit("0"), limit("-1"), limit("x")), (None, None, None));
        assert_eq!(params(&[]).limit(50, 1_000).ok(), Some(50));
    }
}
