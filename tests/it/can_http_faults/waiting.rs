//! Services that say nothing, and streams of events that make no sense.

use axum::Router;
use axum::body::Body;
use axum::routing::{any, get};
use can_sync::testing::store::can_http::CanHttpStore;
use can_sync::testing::store::{ContentStore, StoreEvent};
use futures::{StreamExt, stream};

use super::{HASH, asset, fake, is_unavailable};
use crate::support::service::soon;

/// A service that is there, answers `/status`, and then is silent.
async fn silent() -> CanHttpStore {
    let status = || async {
        let status = serde_json::json!({"healthy": true, "assets": 0, "bytes": 0, "assets_held": 0, "bytes_held": 0,
            "seq": 0, "read_only": null,
            "version": "0"});
        axum::Json(serde_json::json!({"status": "success", "data": status}))
    };
    let silence = || async { std::future::pending::<()>().await };
    let store = fake(Router::new().route("/status", get(status)).fallback(any(silence))).await;
    // The connection is there before the clock is stopped.
    store.status().await.expect("a status");
    store
}

#[tokio::test]
async fn a_service_that_never_answers_is_given_up() {
    let store = silent().await;
    tokio::time::pause();
    assert!(is_unavailable(&store.feed(0, 1).await.unwrap_err(), "30 s"));
    let store = silent_again().await;
    assert!(is_unavailable(&store.content(HASH, 0, None).await.err().unwrap(), "30 s"));
    let store = silent_again().await;
    assert!(is_unavailable(&store.watch(0).next().await.unwrap().unwrap_err(), "30 s"));
    let store = silent_again().await;
    assert!(is_unavailable(&store.ingest(vec![asset(b"x")]).await.unwrap_err(), "did not confirm an upload"));
    let store = silent_again().await;
    assert!(is_unavailable(&store.apply(vec![asset(b"x").record]).await.unwrap_err(), "120 s"));
}

async fn silent_again() -> CanHttpStore {
    tokio::time::resume();
    let store = silent().await;
    tokio::time::pause();
    store
}

#[tokio::test]
async fn an_event_stream_without_heartbeats_is_given_up() {
    let quiet = || async {
        let first = stream::once(async { Ok::<_, std::io::Error>("event: asset\nid: 4\ndata: {}\n\n") });
        ([("content-type", "text/event-stream")], Body::from_stream(first.chain(stream::pending())))
    };
    let store = fake(Router::new().route("/events", get(quiet))).await;
    let mut events = store.watch(0);
    assert_eq!(soon("an event", events.next()).await, Some(Ok(StoreEvent::Advanced(4))));
    tokio::time::pause();
    assert!(is_unavailable(&events.next().await.unwrap().unwrap_err(), "30 s"));
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn event_streams_that_make_no_sense_end_with_an_error() {
    let cases =
        [("event: asset\nid: x\ndata: 1\n\n", "no number"), ("event: asset\ndata: 1\n\n", "no number")];
    for (piece, words) in cases {
        let body = move || async move {
            let pieces = stream::iter([Ok::<_, std::io::Error>(piece)]).chain(stream::pending());
            ([("content-type", "text/event-stream")], Body::from_stream(pieces))
        };
        let store = fake(Router::new().route("/events", get(body))).await;
        let mut events = store.watch(0);
        let error = soon("an error", events.next()).await.unwrap().unwrap_err();
        assert!(is_unavailable(&error, words), "{piece}: {error}");
        assert_eq!(soon("the end", events.next()).await, None);
    }
}

#[tokio::test]
async fn an_event_of_any_length_in_the_smallest_pieces_is_understood() {
    let body = || async {
        let data = stream::iter((0..50_000).map(|_| Ok::<_, std::io::Error>("data: ")));
        let start = stream::iter([Ok("event: asset\n"), Ok("id: 7\n")]);
        let end = stream::iter([Ok("\n"), Ok("\n")]);
        ([("content-type", "text/event-stream")], Body::from_stream(start.chain(data).chain(end)))
    };
    let store = fake(Router::new().route("/events", get(body))).await;
    assert_eq!(soon("an event", store.watch(0).next()).await, Some(Ok(StoreEvent::Advanced(7))));
}

#[tokio::test]
async fn unknown_events_and_comments_are_skipped() {
    let body = || async {
        let text = ": hello\n\nevent: news\nid: 3\ndata: x\n\nretry: 5\n\nevent: reset\nid: 0\ndata: 9\n\n";
        ([("content-type", "text/event-stream")], text)
    };
    let store = fake(Router::new().route("/events", get(body))).await;
    let events: Vec<_> = soon("the end", store.watch(9).collect()).await;
    assert_eq!(events, [Ok(StoreEvent::Reset)]);
}
