//! The event stream of a CAN Service, as the signal that its feed has more.

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, Response};

use super::answer::{fail, timed, unavailable};
use super::{CanHttpStore, READ_TIMEOUT};
use crate::http::sse::{Parser, SseEvent};
use crate::store::{StoreEvent, StoreResult};

type WatchItem = StoreResult<StoreEvent>;

/// Opens the stream and yields what it says; ends with an error, or when the service ends it.
pub(super) fn watch(store: CanHttpStore, since: u64) -> BoxStream<'static, WatchItem> {
    let events = stream::once(async move {
        match open(&store, since).await {
            Ok(response) => events(store.url().to_owned(), response).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    });
    events.flatten().boxed()
}

async fn open(store: &CanHttpStore, since: u64) -> StoreResult<Response> {
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

/// What the body says, until it ends or does not come in time: a service that is alive sends heartbeats.
fn events(url: String, response: Response) -> impl Stream<Item = WatchItem> {
    let state = (response.bytes_stream().boxed(), Parser::default(), url);
    let parts = stream::unfold(Some(state), |state| async move {
        let (mut body, mut parser, url) = state?;
        let failed = match timed(&url, READ_TIMEOUT, body.next()).await {
            Ok(Some(Ok(piece))) => {
                let items = coalesce(parser.push(&piece).iter().filter_map(|event| meaning(&url, event)));
                // A stream that makes no sense is not read on.
                let state = items.iter().all(Result::is_ok).then_some((body, parser, url));
                return Some((items, state));
            }
            Ok(Some(Err(error))) => fail(&url, &error),
            Ok(None) => return None,
            Err(silent) => silent,
        };
        Some((vec![Err(failed)], None))
    });
    parts.flat_map(stream::iter)
}

/// What an event means to us; other kinds may come with later versions.
fn meaning(url: &str, event: &SseEvent) -> Option<WatchItem> {
    match event.kind.as_str() {
        "asset" | "entry" => Some(match event.id.parse() {
            Ok(seq) => Ok(StoreEvent::Advanced(seq)),
            Err(_) => Err(unavailable(url, "an event of its stream has no number")),
        }),
        "reset" => Some(Ok(StoreEvent::Reset)),
        _ => None,
    }
}

/// Many advances are one, to the last of them; everything else keeps its place.
fn coalesce(items: impl Iterator<Item = WatchItem>) -> Vec<WatchItem> {
    let mut kept: Vec<WatchItem> = Vec::new();
    for item in items {
        match (kept.last_mut(), &item) {
            (Some(last @ Ok(StoreEvent::Advanced(_))), Ok(StoreEvent::Advanced(_))) => *last = item,
            _ => kept.push(item),
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
        let events = [advanced(1), advanced(2), Ok(StoreEvent::Reset), advanced(3), advanced(4)];
        assert_eq!(coalesce(events.into_iter()), [advanced(2), Ok(StoreEvent::Reset), advanced(4)]);
    }
}
