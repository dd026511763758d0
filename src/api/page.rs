//! The page: one document rendered here, whose parts its script fetches again and swaps in.
//!
//! Everything that came from a peer or an asset is text to the templates, which escape it; none of them marks anything as
//! safe. A part of the node that does not answer leaves a sentence in its place, and the rest of the page is there.

use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};

use super::model::{Live, Recent};
use super::token;
use super::view::ApiState;
use crate::clock::now_ms;
use crate::http::extract::PathText;
use crate::http::{ApiError, ApiResult};

/// What the page may load: its own script, style and images, and nothing else from anywhere.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    form-action 'none'; base-uri 'none'; frame-ancestors 'none'";
const STATIC_PREFIX: &str = "/assets/";
/// The static files: name, media type, content.
const STATIC_FILES: [(&str, &str, &str); 3] = [
    ("app.css", "text/css; charset=utf-8", include_str!("assets/app.css")),
    ("app.js", "text/javascript; charset=utf-8", include_str!("assets/app.js")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];

#[derive(Template)]
#[template(path = "page.html")]
struct PageTemplate<'a> {
    live: Live,
    recent: Recent,
    boot: &'a str,
    ticket: &'a str,
}

#[derive(Template)]
#[template(path = "live.html")]
struct LiveTemplate {
    live: Live,
}

#[derive(Template)]
#[template(path = "recent.html")]
struct RecentTemplate {
    recent: Recent,
}

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInTemplate;

/// The page's routes. They are the page's own business and no part of the described API.
pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/", get(page))
        .route("/page/live", get(live))
        .route("/page/recent", get(recent))
        .route("/assets/{name}", get(static_file))
        .route(token::SESSION_PATH, post(token::sign_in))
}

/// Whether a path is one of the static files, which say nothing about the node.
pub(super) fn is_static(path: &str) -> bool {
    path.starts_with(STATIC_PREFIX)
}

async fn page(State(state): State<ApiState>) -> ApiResult<Response> {
    let view = &state.view;
    let (live, recent) = tokio::join!(Live::gather(view, now_ms()), Recent::gather(view));
    let ticket = view.ticket.borrow().clone();
    html(StatusCode::OK, &PageTemplate { live, recent, boot: view.events.boot(), ticket: &ticket })
}

async fn live(State(state): State<ApiState>) -> ApiResult<Response> {
    html(StatusCode::OK, &LiveTemplate { live: Live::gather(&state.view, now_ms()).await })
}

async fn recent(State(state): State<ApiState>) -> ApiResult<Response> {
    html(StatusCode::OK, &RecentTemplate { recent: Recent::gather(&state.view).await })
}

async fn static_file(PathText(name): PathText) -> ApiResult<Response> {
    let file = STATIC_FILES.iter().find(|(known, _, _)| *known == name);
    let &(_, media_type, content) = file.ok_or_else(|| {
        ApiError::new(StatusCode::NOT_FOUND, "unknown_path", "there is no such file", "GET / is the page")
    })?;
    Ok(([(header::CONTENT_TYPE, media_type)], content).into_response())
}

/// The form that asks for the token instead of showing the page.
pub(super) fn sign_in() -> Response {
    html(StatusCode::UNAUTHORIZED, &SignInTemplate).into_response()
}

fn html(status: StatusCode, template: &impl Template) -> ApiResult<Response> {
    const POLICY: (HeaderName, HeaderValue) =
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CSP));
    let text = template.render().map_err(|error| {
        let message = format!("the page cannot be put together: {error}");
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "page_failed",
            message,
            "GET /status says the same in JSON",
        )
    })?;
    Ok((status, [POLICY], Html(text)).into_response())
}
