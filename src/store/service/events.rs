//! The event stream: every change of the store, in sequence, as server-sent events.
//!
//! A stream reads the feed in pages and waits for the store's signal in between, so a slow client costs one page of
//! memory, misses nothing, and gets each record once, in its latest version.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::extract::State;
use axum::http::header::{HeaderMap, HeaderName};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use tokio::sync::watch;

use super::ServiceState;
use super::entries::EntryJson;
use super::model::AssetJson;
use crate::http::envelope::{ApiError, ApiResult, ErrorBody};
use crate::http::extract::Params;
use crate::http::serve::Closing;
use crate::store::embedded::{EmbeddedStore, StoreChanges, StoredAsset};
use crate::store::entries::StoredEntry;
use crate::store::sync_wire::STORE_ID;
use crate::store::{StoreError, StoreId};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Changes that are read at a time.
const PAGE: usize = 256;

/// Changes as they happen.
///
/// Each `asset` event is one changed record: its `id` is the number of the change, its data the asset (a tombstone has
/// `deleted`); each `entry` event is one changed path of a folder (`folder`, `path`, `target`). Numbers rise, and leave gaps. `reset` means that the number asked for is one this store cannot continue
/// from: read everything again, from 0; the stream ends after it. A store that is set back (restored from a backup) has its
/// readers begin again like that where it does not know what they have read. Comments every 15 seconds show that the stream is alive.
#[utoipa::path(get, path = "/events", tag = "assets",
    params(
        ("since" = Option<u64>, Query, description = "ChangeStream after this number; from now on when absent"),
        ("Last-Event-ID" = Option<u64>, Header, description = "As `since`, which it overrules; browsers send it by \
            themselves when they reconnect"),
        ("store" = Option<String>, Query, description = "The id of the store that the number is from, as `/status` has it: \
            another store, under the same address by now, answers with a reset"),
    ),
    responses(
        (status = 200, description = "A stream of server-sent events", content_type = "text/event-stream",
            body = AssetJson, headers(("X-Store-Id" = String, description = "Which store this is"))),
        (status = 400, description = "The number is none, or the id", body = ErrorBody),
    ))]
pub(super) async fn events(
    State(service): ServiceState,
    closing: Closing,
    params: Params,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let signal = service.store.subscribe();
    let since = match headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty()) {
        Some(id) => Some(id.to_str().ok().and_then(|id| id.parse().ok()).ok_or_else(|| {
            ApiError::invalid_parameter("Last-Event-ID", "is not a whole number", "send the id of an event")
        })?),
        None => params.number("since")?,
    };
    let id = service.store.id();
    let of = params.one("store")?.map(|of| {
        let invalid =
            |error| ApiError::invalid_parameter("store", format!("is {error}"), "take it from /status");
        of.parse::<StoreId>().map_err(invalid)
    });
    let is_ours = of.transpose()?.is_none_or(|of| of == id);
    let cursor = since.unwrap_or(*signal.borrow());
    let changes = ChangeStream {
        store: service.store.clone(),
        signal,
        cursor,
        is_foreign: !is_ours && since.is_some_and(|since| since > 0),
        page: VecDeque::new(),
        ended: false,
    };
    let stream = stream::unfold((changes, closing), |(mut changes, closing)| async move {
        let event = tokio::select! {
            () = closing.closed() => None,
            event = changes.next() => event,
        };
        event.map(|event| (Ok::<_, Infallible>(event), (changes, closing)))
    });
    let sse = Sse::new(stream).keep_alive(KeepAlive::new().interval(service.heartbeat));
    // Proxies that buffer would keep events to themselves.
    let headers = [
        (HeaderName::from_static("x-accel-buffering"), "no".to_owned()),
        (HeaderName::from_static(STORE_ID), id.to_string()),
    ];
    Ok((headers, sse).into_response())
}

enum Change {
    Asset(Box<StoredAsset>),
    Entry(Box<StoredEntry>),
}

impl Change {
    fn seq(&self) -> u64 {
        match self {
            Self::Asset(asset) => asset.seq,
            Self::Entry(entry) => entry.seq,
        }
    }
}

/// What changed in assets and folders, in one sequence.
fn in_sequence(changes: StoreChanges) -> VecDeque<Change> {
    let assets = changes.assets.into_iter().map(|asset| Change::Asset(Box::new(asset)));
    let entries = changes.entries.into_iter().map(|entry| Change::Entry(Box::new(entry)));
    let mut all: Vec<Change> = assets.chain(entries).collect();
    all.sort_unstable_by_key(Change::seq);
    all.into()
}

struct ChangeStream {
    store: EmbeddedStore,
    signal: watch::Receiver<u64>,
    cursor: u64,
    /// It is a number of another store.
    is_foreign: bool,
    page: VecDeque<Change>,
    ended: bool,
}

impl ChangeStream {
    /// The next event, however long it takes; `None` when there will be none.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(change) = self.page.pop_front() {
                self.cursor = change.seq();
                return match change {
                    Change::Asset(asset) => asset_event(*asset),
                    Change::Entry(entry) => entry_event(*entry),
                };
            }
            if self.ended {
                return None;
            }
            // Marked as seen before the feed is read, so that a commit in between is not slept through.
            self.signal.borrow_and_update();
            let read = if self.is_foreign { Ok(None) } else { self.store.changes(self.cursor, PAGE).await };
            match read {
                Ok(Some(page)) if page.assets.is_empty() && page.entries.is_empty() => {
                    self.signal.changed().await.ok()?;
                }
                Ok(Some(page)) => self.page = in_sequence(page),
                Ok(None) => {
                    self.ended = true;
                    // The id makes a browser that reconnects begin again.
                    return Some(Event::default().event("reset").id("0").data(self.cursor.to_string()));
                }
                Err(error) => return end(&error),
            }
        }
    }
}

fn asset_event(asset: StoredAsset) -> Option<Event> {
    let seq = asset.seq;
    let event = Event::default().event("asset").id(seq.to_string()).json_data(AssetJson::from(asset));
    event.inspect_err(|error| tracing::error!(seq, %error, "an event cannot be written")).ok()
}

fn entry_event(entry: StoredEntry) -> Option<Event> {
    let seq = entry.seq;
    let event = Event::default().event("entry").id(seq.to_string()).json_data(EntryJson::from(entry));
    event.inspect_err(|error| tracing::error!(seq, %error, "an event cannot be written")).ok()
}

fn end(error: &StoreError) -> Option<Event> {
    tracing::warn!(%error, "an event stream ends: the feed cannot be read");
    None
}
