//! `GET /events`: what happens on this node, as server-sent events.
//!
//! Each event's SSE id is `<boot>-<number>`; a browser sends it back by itself when it reconnects, so a watcher resumes
//! where it was, also across a restart of HttpActor, and is told by `event: reset` when events in between are gone:
//! too many happened, or the process was started again. What is still kept follows the reset.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures::Stream;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::view::ApiState;
use crate::clock::now_ms;
use crate::events::{EventLog, LoggedEvent, SyncProgress};
use crate::http::extract::Params;
use crate::http::{ApiError, ApiResult, Closing};

/// Comment sent when nothing happens, so that both ends notice a dead connection.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// When a browser shall come back after the stream was cut.
const RETRY: Duration = Duration::from_secs(2);
pub const STREAMS_MAX: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Cursor {
    /// Which process's numbers; the current one's if it did not say.
    boot: Option<String>,
    /// The last event it has.
    number: u64,
}

impl Cursor {
    /// From `<boot>-<number>`, or a number alone.
    fn parse(text: &str) -> ApiResult<Self> {
        let (boot, number) = match text.split_once('-') {
            Some((boot, number)) => (Some(boot.to_owned()), number),
            None => (None, text),
        };
        let number = number.parse().map_err(|_| {
            ApiError::invalid_parameter(
                "since",
                "is not the id of an event",
                "pass the id of an event of this stream, or leave it out to begin with what comes next",
            )
        })?;
        Ok(Self { boot, number })
    }
}

/// What happens on this node, as server-sent events
///
/// Begins with `event: hello`, whose data names the process (`boot`) and its last event (`last_id`). Then one event per
/// happening: `peer_connected`, `peer_lost`, `peer_stale`, `asset_received`, `asset_failed`, `damaged`, `healed`, `in_sync`, `deletions_held`,
/// `folder_conflict`, `folder_missing`, `folder_held`, `actor_restarted`; and
/// `event: reset` when events were lost, after which come those that are still kept. While something is missing on either
/// side, `event: progress` tells about once a second how much, how fast it comes and how long the rest takes, in all and by
/// peer; it has no id, and none is kept.
#[utoipa::path(
    get,
    path = "/events",
    tag = "events",
    params(
        ("since" = Option<String>, Query, description = "Resume after this event id; without it the stream begins \
            with what comes next, with 0 it begins with the oldest event that is still kept."),
        ("Last-Event-ID" = Option<String>, Header, description = "The same, and goes first.")
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = String),
        (status = 400, description = "The id makes no sense."),
        (status = 503, description = "Too many streams are open.")
    )
)]
pub(super) async fn events(
    State(state): State<ApiState>,
    closing: Closing,
    headers: HeaderMap,
    params: Params,
) -> ApiResult<([(HeaderName, &'static str); 1], Sse<impl Stream<Item = Result<Event, Infallible>>>)> {
    let last_seen = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    // Clients that have seen nothing yet send an empty one.
    let last_seen = last_seen.map(str::trim).filter(|text| !text.is_empty());
    let asked = last_seen.or(params.one("since")?);
    let cursor = asked.map(Cursor::parse).transpose()?;
    let permit = Arc::clone(&state.streams).try_acquire_owned().map_err(|_| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_streams",
            format!("{STREAMS_MAX} event streams are open already"),
            "close one of them and try again",
        )
    })?;
    let follower = EventFollower::new(state.view.events.clone(), cursor, closing, permit);
    let stream = futures::stream::unfold(follower, |mut follower| async move {
        follower.next().await.map(|event| (Ok(event), follower))
    });
    // Proxies that buffer would keep events to themselves.
    let headers = [(HeaderName::from_static("x-accel-buffering"), "no")];
    Ok((headers, Sse::new(stream).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("heartbeat"))))
}

/// One watcher's place in the log.
struct EventFollower {
    log: EventLog,
    news: watch::Receiver<u64>,
    progress: watch::Receiver<Option<SyncProgress>>,
    after: u64,
    ready: VecDeque<Event>,
    closing: Closing,
    _permit: OwnedSemaphorePermit,
}

impl EventFollower {
    fn new(log: EventLog, cursor: Option<Cursor>, closing: Closing, permit: OwnedSemaphorePermit) -> Self {
        let mut news = log.subscribe();
        let last = *news.borrow_and_update();
        let (after, is_reset) = match cursor {
            None => (last, false),
            Some(Cursor { boot, number }) => {
                let is_ours = boot.is_none_or(|boot| boot == log.boot()) && number <= last;
                if is_ours { (number, false) } else { (0, true) }
            }
        };
        let mut progress = log.progress();
        // What is missing now is told at once; that nothing is, is no news.
        if progress.borrow().is_some() {
            progress.mark_changed();
        }
        let ready = VecDeque::new();
        let mut follower = Self { log, news, progress, after, ready, closing, _permit: permit };
        // The hello carries the place that the stream begins at: a watcher that is cut off before the first event
        // comes back with it.
        let hello = Event::default().id(follower.id(after)).event("hello").retry(RETRY);
        let data = json!({ "boot": follower.log.boot(), "last_id": last });
        follower.ready.push_back(hello.data(data.to_string()));
        follower.read(is_reset);
        follower
    }

    /// The next event to send; `None` once the server stops.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            tokio::select! {
                () = self.closing.closed() => return None,
                changed = self.news.changed() => {
                    changed.ok()?;
                    self.read(false);
                }
                changed = self.progress.changed() => {
                    changed.ok()?;
                    self.read_progress();
                }
            }
        }
    }

    /// Takes over what the log has for us, behind a reset if events were lost.
    fn read(&mut self, is_reset: bool) {
        let (events, gap) = self.log.since(self.after);
        if gap || is_reset {
            let data = json!({ "boot": self.log.boot(), "first_id": events.first().map(|event| event.id) });
            self.ready.push_back(Event::default().event("reset").data(data.to_string()));
        }
        for logged in events {
            self.after = logged.id;
            let event = self.event(&logged);
            self.ready.push_back(event);
        }
    }

    /// Tells how far everything is; at the end, that nothing is missing.
    fn read_progress(&mut self) {
        let progress = self.progress.borrow_and_update().clone();
        let at_ms = now_ms();
        let ended = || json!({ "at_ms": at_ms, "missing": 0, "missing_bytes": 0, "rate": 0.0, "eta_secs": null, "peers": [] });
        let data = progress.map_or_else(|| Ok(ended()), serde_json::to_value);
        let data = data.unwrap_or_else(|error| json!({ "error": error.to_string() }));
        self.ready.push_back(Event::default().event("progress").data(data.to_string()));
    }

    fn event(&self, logged: &LoggedEvent) -> Event {
        let data = serde_json::to_string(logged)
            .unwrap_or_else(|error| json!({ "error": error.to_string() }).to_string());
        Event::default().id(self.id(logged.id)).event(logged.event.name()).data(data)
    }

    fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.log.boot())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_a_number_with_or_without_its_process() {
        assert_eq!(Cursor::parse("7").unwrap(), Cursor { boot: None, number: 7 });
        assert_eq!(Cursor::parse("ab-7").unwrap(), Cursor { boot: Some("ab".into()), number: 7 });
        for bad in ["", "x", "ab-", "ab-x", "-1-2", "99999999999999999999"] {
            assert!(Cursor::parse(bad).is_err(), "{bad}");
        }
    }
}
