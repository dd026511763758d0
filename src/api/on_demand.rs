//! Contents that are read and are not here, although the asset is known: they are fetched before the answer begins.
//!
//! As `POST /fetch/{hash}`, and then waiting for it, with an end: who reads is told within [`READ_WITHIN`] why it is not here. What
//! was asked for goes on coming after that, and stays. What was deleted is not brought back by reading. Who reads all of a large one
//! gets it while it comes ([`coming`]).

use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::{HeaderValue, RETRY_AFTER};
use futures::FutureExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::view::AgentView;
use super::why::{self, Availability};
use crate::http::{ApiError, ApiResult};
use crate::record::ContentHash;
use crate::store::service::codes;
use crate::store::service::on_demand::{FetchContent, FetchedContent, ReadAs};

mod coming;

/// How long a reader waits. Less than what clients give a silent server as a rule, and than the proxy gives the store.
const READ_WITHIN: Duration = Duration::from_mins(1);
/// How long a peer may take to come by, where none is connected.
const ALONE_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at how it stands, unless it comes before.
const LOOK: Duration = Duration::from_millis(500);
/// Between two looks whether it came: every change of the store may be that, and there may be thousands in a second.
const GLANCE: Duration = Duration::from_millis(4);

/// For the embedded store's own API.
pub(crate) fn fetch_content(view: AgentView) -> FetchContent {
    std::sync::Arc::new(move |hash, read_as| {
        let view = view.clone();
        async move { bring(&view, hash, read_as).await }.boxed()
    })
}

/// Fetches a content that is not held, and waits for it, or for its first bytes.
///
/// # Errors
/// 404 `not_held` where nobody within reach has it, 507 `over_quota`, 504 `not_here_yet`, 429, and 503 where PeersActor or the store do not answer.
pub(super) async fn bring(view: &AgentView, hash: ContentHash, read_as: ReadAs) -> ApiResult<FetchedContent> {
    let began = Instant::now();
    let deadline = began + READ_WITHIN;
    let known = match why::stored(view, hash).await? {
        Some(known) if known.is_absent() => known.record,
        Some(known) if known.holding.is_held() => return Ok(FetchedContent::Here),
        Some(_) | None => return Ok(FetchedContent::Nowhere),
    };
    let was_lacked = view.libraries.mirror().lacks(&hash);
    let mut arrival = Arrival { changes: view.libraries.cursor(), was_lacked };
    if why::want(view, hash).await {
        return Ok(FetchedContent::Here);
    }
    why::search(view, hash).await?;
    let first_bytes = coming::begun(view, known, read_as);
    tokio::pin!(first_bytes);
    loop {
        let stands = why::stands(view, hash).await?;
        let now = Instant::now();
        match stands.state {
            Availability::Here => return Ok(FetchedContent::Here),
            Availability::Deleted => return Ok(FetchedContent::Nowhere),
            // It was searched for, and is neither searched for any more nor here.
            Availability::Missing
            | Availability::LetGo
            | Availability::LeftOut
            | Availability::Failed
            | Availability::Later => {
                return Err(in_vain(hash, stands.explanation));
            }
            Availability::NoRoom => return Err(no_room(stands.explanation)),
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
        tokio::select! {
            coming = &mut first_bytes => return Ok(FetchedContent::Coming(Box::new(coming))),
            () = arrival.wait((now + LOOK).min(deadline), || view.libraries.mirror().lacks(&hash)) => {}
        }
    }
}

/// What tells that a content came.
struct Arrival<T> {
    /// Moves with every change of the store.
    changes: watch::Receiver<T>,
    /// Whether the index was seen without it. One that has what is not in the store, such as a damaged content, says nothing.
    was_lacked: bool,
}

impl<T> Arrival<T> {
    /// Waits until the index has what it lacked before, at most until `end`.
    async fn wait(&mut self, end: Instant, is_lacking: impl Fn() -> bool) {
        loop {
            self.changes.mark_unchanged();
            match is_lacking() {
                true => self.was_lacked = true,
                false if std::mem::take(&mut self.was_lacked) => return,
                false => {}
            }
            let glance = Instant::now() + GLANCE;
            if !matches!(timeout_at(end, self.changes.changed()).await, Ok(Ok(()))) || glance >= end {
                return sleep_until(end).await;
            }
            sleep_until(glance).await;
        }
    }
}

fn in_vain(hash: ContentHash, explanation: String) -> ApiError {
    let hint =
        format!("`can-sync why {hash}` says who has it, once somebody has; it is asked for again by and by");
    ApiError::new(StatusCode::NOT_FOUND, codes::NOT_HELD, explanation, hint)
}

fn no_room(explanation: String) -> ApiError {
    let hint = "`can-sync drop` lets go of contents that other machines keep; or raise store.quota_bytes and start again";
    ApiError::new(StatusCode::INSUFFICIENT_STORAGE, codes::OVER_QUOTA, explanation, hint)
}

fn late(hash: ContentHash, explanation: &str) -> ApiError {
    let message = format!("it is not here after {} s: {explanation}", READ_WITHIN.as_secs());
    let hint = format!("it goes on coming: read it again later; `can-sync why {hash}` says how far it is");
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "not_here_yet", message, hint)
        .with_header(RETRY_AFTER, HeaderValue::from_static("10"))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Changes of the store without end, `every` so often.
    fn busy(every: Duration) -> (Arrival<u64>, impl Future<Output = ()>) {
        let (sender, changes) = watch::channel(0);
        let changing = async move {
            loop {
                tokio::time::sleep(every).await;
                sender.send_modify(|seq| *seq += 1);
            }
        };
        (Arrival { changes, was_lacked: false }, changing)
    }

    #[tokio::test(start_paused = true)]
    async fn changes_of_other_contents_cost_a_glance_now_and_then() {
        for is_lacking in [true, false] {
            let (mut arrival, changing) = busy(Duration::from_millis(1));
            let (glances, began) = (Cell::new(0), Instant::now());
            let looks = || {
                glances.set(glances.get() + 1);
                is_lacking
            };
            tokio::select! {
                () = arrival.wait(began + LOOK, looks) => {}
                () = changing => {}
            }
            assert_eq!(began.elapsed(), LOOK, "what did not come is looked for when it is time");
            let most = LOOK.div_duration_f64(GLANCE) + 1.;
            assert!(f64::from(glances.get()) <= most, "{} glances", glances.get());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_is_noticed_at_once() {
        let (mut arrival, changing) = busy(Duration::from_millis(3));
        let began = Instant::now();
        let is_lacking = || began.elapsed() < Duration::from_millis(100);
        tokio::select! {
            () = arrival.wait(began + LOOK, is_lacking) => {}
            () = changing => {}
        }
        assert!(began.elapsed() <= Duration::from_millis(100) + 2 * GLANCE, "{:?}", began.elapsed());
        // The next one that has to come is another matter.
        assert!(!arrival.was_lacked);
    }
}
