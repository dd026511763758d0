//! The JSON envelope of every answer: `{"status":"success","data":…}`, or
//! `{"status":"error","error":"one sentence","code":"snake_case","hint":"what to do"}`.

use axum::Json;
use axum::http::header::{HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub type ApiResult<T> = Result<T, ApiError>;

/// The word in `status` of a success.
#[derive(Serialize, Deserialize, ToSchema, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum SuccessWord {
    /// It worked.
    Success,
}

/// The word in `status` of an error.
#[derive(Serialize, Deserialize, ToSchema, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum ErrorWord {
    /// It did not.
    Error,
}

/// A success with what was asked for.
#[derive(Serialize, Deserialize, ToSchema, Debug)]
pub struct Success<T> {
    /// Always `success`.
    pub status: SuccessWord,
    /// What was asked for.
    pub data: T,
}

impl<T> Success<T> {
    pub fn new(data: T) -> Self {
        Self { status: SuccessWord::Success, data }
    }
}

impl<T: Serialize> IntoResponse for Success<T> {
    fn into_response(self) -> Response {
        Json(self).into_response()
    }
}

/// An error as it is sent.
#[derive(Serialize, Deserialize, ToSchema, Debug)]
pub struct ErrorBody {
    /// Always `error`.
    pub status: ErrorWord,
    /// What went wrong, in one sentence.
    pub error: String,
    /// What went wrong, for programs.
    pub code: String,
    /// What to do about it.
    pub hint: String,
}

/// An error on its way to the client.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub status: StatusCode,
    /// For programs: `snake_case`, never changes its meaning.
    pub code: &'static str,
    /// For people: one sentence.
    pub message: String,
    /// For people: what to do.
    pub hint: String,
    /// Headers that belong to this status.
    pub headers: Box<HeaderMap>,
}

impl ApiError {
    /// An error with everything it needs.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { status, code, message: message.into(), hint: hint.into(), headers: Box::default() }
    }

    /// 400 with a code of its own.
    pub fn bad_request(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message, hint)
    }

    /// 400 about one parameter of the query or the path.
    pub fn invalid_parameter(name: &str, problem: impl std::fmt::Display, hint: impl Into<String>) -> Self {
        Self::bad_request("invalid_parameter", format!("the parameter '{name}' {problem}"), hint)
    }

    /// 413.
    pub fn body_too_large(message: impl Into<String>) -> Self {
        let hint = "send less: only the content of a file may be large";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message, hint)
    }

    /// 415.
    pub fn unsupported_media_type(expected: &str) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            format!("the body of this request must be {expected}"),
            format!("set the header 'Content-Type: {expected}'"),
        )
    }

    /// 408: the client sent nothing for too long.
    pub fn stalled() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "stalled",
            "the body of the request stopped arriving",
            "send it again, without long pauses",
        )
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody {
            status: ErrorWord::Error,
            error: self.message,
            code: self.code.to_owned(),
            hint: self.hint,
        };
        (self.status, *self.headers, Json(body)).into_response()
    }
}

/// The answer for a path that does not exist.
pub(super) async fn unknown_path(uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::new(
        StatusCode::NOT_FOUND,
        "unknown_path",
        format!("there is nothing at {path}"),
        "/openapi.json describes every path",
    )
}

/// The answer for a path that exists, asked with a method that it does not take.
pub(super) async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "wrong_method",
        format!("{path} does not take {method}"),
        "the header 'Allow' of this answer lists the methods that it takes",
    )
}
