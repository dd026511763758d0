//! The event stream of a CAN Service, as the signal that its feed has more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use eventsource_stream::{Event, Eventsource};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, Response};

use super::answer::{fail, timed, unavailable};
use super::{CanHttpStore, READ_TIMEOUT};
use crate::store::{StoreError, StoreEvent};

/// Most bytes between two events. An asset has 16 KiB of text, which JSON may write six times as long.
const EVENT_BYTES_MAX: usize = 1 << 20;
/// The parser moves what it holds with every line: small pieces keep that cheap.
const PIECE_BYTES: usize = 4 << 10;
/// Events that are already there and count as one.
const COALESCED_MAX: usize = 256;

/// Opens the stream and yields what it says; ends with an error, or when the service ends it.
pub(super) fn watch(store: CanHttpStore, since: u64) -> BoxStream<'static, Result<StoreEvent, StoreError>> {
    let events = stream::once(async move {
        match open(&store, since).await {
            Ok(response) => events(store.url().to_owned(), response).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    });
    events.flatten().ready_chunks(COALESCED_MAX).flat_map(|ready| stream::iter(coalesce(ready))).boxed()
}

async fn open(store: &CanHttpStore, since: u64) -> Result<Response, StoreError> {
    let request =
        store.request(Method::GET, &format!("events?since={since}")).header(ACCEPT, "text/event-stream");
    let response = store.send(request, None).await?;
    let is_stream = |value: &reqwest::header::HeaderValue| value.as_bytes().starts_with(b"text/event-stream");
    if response.headers().get(CONTENT_TYPE).is_some_and(is_stream) {
        Ok(response)
    } else {
        Err(unavailable(store.url(), "it has no event stream: is it a CAN Service?"))
    }
}

fn events(url: String, response: Response) -> impl Stream<Item = Result<StoreEvent, StoreError>> {
    let unread = Arc::new(AtomicUsize::new(0));
    let pieces = bounded(url.clone(), response, Arc::clone(&unread));
    pieces.eventsource().filter_map(move |event| {
        unread.store(0, Ordering::Relaxed);
        let event = match event {
            Ok(event) => meaning(&url, &event).transpose(),
            Err(eventsource_stream::EventStreamError::Transport(error)) => Some(Err(error)),
            Err(error) => Some(Err(unavailable(&url, format!("its event stream cannot be read: {error}")))),
        };
        async { event }
    })
}

/// What an event means to us; other kinds may come with later versions.
fn meaning(url: &str, event: &Event) -> Result<Option<StoreEvent>, StoreError> {
    match event.event.as_str() {
        "asset" => match event.id.parse() {
            Ok(seq) => Ok(Some(StoreEvent::Advanced(seq))),
            Err(_) => Err(unavailable(url, "an event of its stream has no number")),
        },
        "reset" => Ok(Some(StoreEvent::Reset)),
        _ => Ok(None),
    }
}

/// The body in small pieces, within the time that heartbeats allow and the bytes that an event may have.
fn bounded(
    url: String,
    response: Response,
    unread: Arc<AtomicUsize>,
) -> impl Stream<Item = Result<Bytes, StoreError>> + Unpin {
    let body = response.bytes_stream().boxed();
    let state = (body, Bytes::new(), url, unread);
    let pieces = stream::unfold(Some(state), |state| async move {
        let (mut body, mut rest, url, unread) = state?;
        while rest.is_empty() {
            rest = match timed(&url, READ_TIMEOUT, body.next()).await {
                Ok(Some(Ok(chunk))) => chunk,
                Ok(Some(Err(error))) => return Some((Err(fail(&url, &error)), None)),
                Ok(None) => return None,
                Err(silent) => return Some((Err(silent), None)),
            };
        }
        let piece = rest.split_to(rest.len().min(PIECE_BYTES));
        if unread.fetch_add(piece.len(), Ordering::Relaxed) > EVENT_BYTES_MAX {
            return Some((Err(unavailable(&url, "an event of its stream is far too long")), None));
        }
        Some((Ok(piece), Some((body, rest, url, unread))))
    });
    pieces.boxed()
}

/// Many advances are one, to the last of them; everything else keeps its place.
fn coalesce(ready: Vec<Result<StoreEvent, StoreError>>) -> Vec<Result<StoreEvent, StoreError>> {
    let mut kept: Vec<Result<StoreEvent, StoreError>> = Vec::new();
    for event in ready {
        match (kept.last_mut(), &event) {
            (Some(last @ Ok(StoreEvent::Advanced(_))), Ok(StoreEvent::Advanced(_))) => *last = event,
            _ => kept.push(event),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advances_in_a_row_are_one() {
        let advanced = |seq| Ok(StoreEvent::Advanced(seq));
        let events = vec![advanced(1), advanced(2), Ok(StoreEvent::Reset), advanced(3), advanced(4)];
        assert_eq!(coalesce(events), [advanced(2), Ok(StoreEvent::Reset), advanced(4)]);
    }
}
