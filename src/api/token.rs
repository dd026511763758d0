//! The bearer token, where one is set.
//!
//! Programs send `Authorization: Bearer …`. A browser cannot do that for a page, an image or an event stream, so the page
//! asks for the token once and trades it for a cookie: derived from the token and from this run of the process, hidden
//! from scripts, and sent to no other site. Both are compared in constant time.

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::view::{AgentView, ApiState};
use crate::http::extract::JsonBody;
use crate::http::{ApiError, ApiResult};

/// Path at which the page trades the token for a cookie.
pub(super) const SESSION_PATH: &str = "/session";
/// Name of the cookie.
const COOKIE: &str = "can_sync_session";
/// Context of the cookie's derivation.
const COOKIE_CONTEXT: &str = "can-sync 2026 v2 page session";

/// Lets requests pass that may: with the token or the cookie, or to what says nothing about the node.
pub(super) async fn require(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_open = path == "/healthz" || path == SESSION_PATH || super::page::is_static(path);
    if is_open || is_authorised(&state.view, request.headers()) {
        return next.run(request).await;
    }
    // A person gets a form instead of an error.
    if path == "/" { super::page::sign_in() } else { refusal().into_response() }
}

fn refusal() -> ApiError {
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        "token_required",
        "this API needs a token",
        "send the header 'Authorization: Bearer <the content of api_token_file>'",
    )
    .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

fn is_authorised(view: &AgentView, headers: &HeaderMap) -> bool {
    let Some(token) = &view.api_token else { return true };
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    if bearer.is_some_and(|sent| same(sent, token.expose_secret().as_bytes())) {
        return true;
    }
    let expected = cookie(token, view.events.boot());
    cookies(headers).any(|sent| same(sent.as_bytes(), expected.as_bytes()))
}

/// Constant in the content; that lengths differ may show.
fn same(sent: &[u8], expected: &[u8]) -> bool {
    sent.ct_eq(expected).into()
}

/// The token in `Bearer <token>`; the scheme's case does not matter.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let pairs = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    pairs.flat_map(|pairs| pairs.split(';')).filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == COOKIE).then_some(value)
    })
}

fn cookie(token: &SecretString, boot: &str) -> String {
    let mut hasher = blake3::Hasher::new_derive_key(COOKIE_CONTEXT);
    hasher.update(boot.as_bytes()).update(&[0]).update(token.expose_secret().as_bytes());
    HEXLOWER.encode(hasher.finalize().as_bytes())
}

/// The body of the page's sign-in.
#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub(super) struct SignIn {
    token: String,
}

/// Trades the token for a cookie.
pub(super) async fn sign_in(
    State(state): State<ApiState>,
    JsonBody(body): JsonBody<SignIn>,
) -> ApiResult<Response> {
    let Some(token) = &state.view.api_token else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    if !same(body.token.trim().as_bytes(), token.expose_secret().as_bytes()) {
        let hint = "the token is the content of api_token_file on the node";
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, "wrong_token", "that is not the token", hint));
    }
    let value = cookie(token, state.view.events.boot());
    let set = format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict");
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, set)]).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_bearer_in_any_case() {
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bearer  abc "), Some(&b"abc"[..]));
        for bad in [&b"Basic abc"[..], b"Bearer", b"", b"Bearerabc"] {
            assert_eq!(bearer(bad), None);
        }
    }

    #[test]
    fn a_cookie_belongs_to_one_token_and_one_run() {
        let made = cookie(&"token".into(), "boot");
        assert_eq!(made.len(), 64);
        assert_ne!(made, cookie(&"token2".into(), "boot"));
        assert_ne!(made, cookie(&"token".into(), "boot2"));
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_static("a=b; can_sync_session=x; c"));
        headers.append(header::COOKIE, HeaderValue::from_static("can_sync_session=y"));
        assert_eq!(cookies(&headers).collect::<Vec<_>>(), ["x", "y"]);
    }
}
