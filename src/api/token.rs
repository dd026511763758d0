//! The bearer token, where one is set.
//!
//! Programs send `Authorization: Bearer …`. A browser cannot do that for a page, an image or an event stream, so the page
//! asks for the token once and trades it for a cookie: derived from the token, the node and this run of the process, hidden
//! from scripts, and sent to no other site. Cookies know no ports, though: a browser sends them to every server of this
//! machine's name, other nodes among them, so each node has a cookie of its own name and passes over all others. Tokens and
//! cookies are compared in constant time.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{self, HeaderMap};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;
use iroh::EndpointId;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::view::{AgentView, ApiState};
use crate::http::bearer;
use crate::http::extract::JsonBody;
use crate::http::guard::PROBES;
use crate::http::{ApiError, ApiResult};
use crate::identity::normal;

/// Path at which the page trades the token for a cookie.
pub(super) const SESSION_PATH: &str = "/session";
/// How the cookie's name begins; the node's id follows.
const COOKIE: &str = "can_sync_session_";
/// So many digits of the id: nobody has two nodes on one machine that share them.
const COOKIE_ID_DIGITS: usize = 16;
/// Context of the cookie's derivation.
const COOKIE_CONTEXT: &str = "can-sync 2026 v2 page session";

/// Lets requests pass that may: with the token or the cookie, or to what says nothing about the node.
pub(super) async fn require(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_open = PROBES.contains(&path) || path == SESSION_PATH || super::page::is_static(path);
    if is_open || is_authorised(&state.view, request.headers()) {
        return next.run(request).await;
    }
    // A person gets a form instead of an error.
    if path == "/" { super::page::sign_in() } else { bearer::missing("api_token_file").into_response() }
}

pub(super) fn is_authorised(view: &AgentView, headers: &HeaderMap) -> bool {
    let Some(token) = &view.api_token else { return true };
    if bearer::carries(headers, token) {
        return true;
    }
    let cookie = Cookie::of(view, token);
    cookies(headers, &cookie.name).any(|sent| bearer::same(sent.as_bytes(), cookie.value.as_bytes()))
}

/// The values of every cookie of this name.
fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let pairs = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    pairs.flat_map(|pairs| pairs.split(';')).filter_map(move |pair| {
        let (found, value) = pair.trim().split_once('=')?;
        (found == name).then_some(value)
    })
}

/// What a browser that has signed in holds.
struct Cookie {
    name: String,
    value: String,
}

impl Cookie {
    fn of(view: &AgentView, token: &SecretString) -> Self {
        Self::new(&view.endpoint_id, view.events.boot(), token)
    }

    fn new(node: &EndpointId, boot: &str, token: &SecretString) -> Self {
        let id = node.to_string();
        let mut hasher = blake3::Hasher::new_derive_key(COOKIE_CONTEXT);
        hasher.update(node.as_bytes()).update(boot.as_bytes()).update(&[0]);
        hasher.update(normal(token.expose_secret()).as_bytes());
        let name = format!("{COOKIE}{}", &id[..COOKIE_ID_DIGITS.min(id.len())]);
        Self { name, value: HEXLOWER.encode(hasher.finalize().as_bytes()) }
    }
}

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
    if !bearer::is_token(body.token.as_bytes(), token) {
        let hint = "the token is the content of api_token_file on the node";
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, "wrong_token", "that is not the token", hint));
    }
    let Cookie { name, value } = Cookie::of(&state.view, token);
    let set = format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict");
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, set)]).into_response())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use iroh::SecretKey;

    use super::*;

    #[test]
    fn a_cookie_belongs_to_one_node_one_token_and_one_run() {
        let node = |seed: u8| SecretKey::from_bytes(&[seed; 32]).public();
        let cookie = |seed, boot, token: &str| Cookie::new(&node(seed), boot, &token.into());
        let made = cookie(1, "boot", "token");
        assert_eq!(made.value.len(), 64);
        for other in [cookie(2, "boot", "token"), cookie(1, "boot", "token2"), cookie(1, "boot2", "token")] {
            assert_ne!(made.value, other.value);
        }
        assert_ne!(made.name, cookie(2, "boot", "token").name);
        assert_eq!(made.value, cookie(1, "boot", "\u{ff54}oken\n").value);
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_static("a=b; name=x; name2=z; c"));
        headers.append(header::COOKIE, HeaderValue::from_static("name=y"));
        assert_eq!(cookies(&headers, "name").collect::<Vec<_>>(), ["x", "y"]);
    }
}
