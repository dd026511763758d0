//! Contents that are read and are not here, although the asset is known: they are fetched before the answer begins.
//!
//! As `POST /fetch/{hash}`, and then waiting for it, with an end: who reads is told within [`READ_WITHIN`] why it is not here. What
//! was asked for goes on coming after that, and stays. What was deleted is not brought back by reading.

use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::{HeaderValue, RETRY_AFTER};
use futures::FutureExt as _;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::view::AgentView;
use super::why::{self, Availability};
use crate::http::{ApiError, ApiResult};
use crate::record::ContentHash;
use crate::store::service::codes;
use crate::store::service::on_demand::FetchContent;

/// How long a reader waits. Less than what clients give a silent server as a rule, and than the proxy gives the store.
const READ_WITHIN: Duration = Duration::from_mins(1);
/// How long a peer may take to come by, where none is connected.
const ALONE_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at how it stands. That it is here is noticed at once.
const LOOK: Duration = Duration::from_millis(500);

/// For the embedded store's own API.
pub(crate) fn fetch_content(view: AgentView) -> FetchContent {
    std::sync::Arc::new(move |hash| {
        let view = view.clone();
        async move { bring(&view, hash).await }.boxed()
    })
}

/// Fetches a content that is not held, and waits for it; whether it is here now. `false` where there is nothing to fetch: the asset is
/// not known, or deleted.
///
/// # Errors
/// 404 `not_held` where nobody within reach has it, 504 `not_here_yet`, 429, and 503 where PeersActor or the store do not answer.
pub(super) async fn bring(view: &AgentView, hash: ContentHash) -> ApiResult<bool> {
    let began = Instant::now();
    let deadline = began + READ_WITHIN;
    match why::stored(view, hash).await? {
        Some(known) if known.is_absent() => {}
        known => return Ok(known.is_some_and(|known| known.holding.is_held())),
    }
    let mut arrived = view.libraries.cursor();
    if why::want(view, hash).await {
        return Ok(true);
    }
    why::search(view, hash).await?;
    loop {
        arrived.mark_unchanged();
        let stands = why::stands(view, hash).await?;
        let now = Instant::now();
        match stands.state {
            Availability::Here => return Ok(true),
            Availability::Deleted => return Ok(false),
            // It was searched for, and is neither searched for any more nor here.
            Availability::Missing | Availability::LetGo | Availability::Failed | Availability::Later => {
                return Err(in_vain(hash, stands.explanation));
            }
            Availability::Searching if stands.connected == 0 && now >= began + ALONE_WITHIN => {
                return Err(in_vain(hash, stands.explanation));
            }
            _ if now >= deadline => return Err(late(hash, &stands.explanation)),
            Availability::Paused
            | Availability::Checking
            | Availability::OnItsWay
            | Availability::Waiting
            | Availability::Searching => {}
        }
        let next = (now + LOOK).min(deadline);
        // Every change of the store moves the cursor; only those that bring this content are worth a look before its time.
        while let Ok(Ok(())) = timeout_at(next, arrived.changed()).await {
            if !view.libraries.mirror().lacks(&hash) {
                break;
            }
        }
        if view.libraries.mirror().lacks(&hash) {
            sleep_until(next).await;
        }
    }
}

fn in_vain(hash: ContentHash, explanation: String) -> ApiError {
    let hint =
        format!("`can-sync why {hash}` says who has it, once somebody has; it is asked for again by and by");
    ApiError::new(StatusCode::NOT_FOUND, codes::NOT_HELD, explanation, hint)
}

fn late(hash: ContentHash, explanation: &str) -> ApiError {
    let message = format!("it is not here after {} s: {explanation}", READ_WITHIN.as_secs());
    let hint = format!("it goes on coming: read it again later; `can-sync why {hash}` says how far it is");
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "not_here_yet", message, hint)
        .with_header(RETRY_AFTER, HeaderValue::from_static("10"))
}
