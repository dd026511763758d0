//! `GET /events`.

use std::time::Duration;

use bytes::Bytes;
use can_sync::testing::record::{AssetMeta, AssetRecord, ContentHash};
use can_sync::testing::store::{ContentStore, IncomingAsset, IncomingContent};
use eventsource_stream::{Event, Eventsource};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use reqwest::RequestBuilder;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::service::{TestService, refusal, soon};

type Events = BoxStream<'static, Event>;

async fn open(request: RequestBuilder) -> Events {
    let response = soon("the stream's head", request.send()).await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    response.bytes_stream().eventsource().map(|event| event.expect("an event")).boxed()
}

async fn next(events: &mut Events) -> (u64, Value) {
    let event = soon("an event", events.next()).await.expect("an event, not the end");
    assert_eq!(event.event, "asset");
    (event.id.parse().expect("a number"), serde_json::from_str(&event.data).expect("JSON"))
}

#[tokio::test]
async fn changes_of_every_kind_arrive_as_they_happen() {
    let service = TestService::start().await;
    service.put("before", &[]).await;
    let mut events = open(service.get("/events")).await;
    let mut asset = service.put("hello", &[("user", "ann")]).await;
    assert_eq!(asset.as_object_mut().unwrap().remove("outcome"), Some("new".into()));
    assert_eq!(next(&mut events).await, (2, asset.clone()));

    let path = format!("/asset/{}", asset["hash"].as_str().unwrap());
    let edit =
        service.client.patch(service.url(&format!("{path}/meta"))).json(&serde_json::json!({"user": "bob"}));
    edit.send().await.unwrap();
    let (seq, edited) = next(&mut events).await;
    assert_eq!((seq, &edited["user"], &edited["seq"]), (3, &"bob".into(), &3.into()));
    service.client.delete(service.url(&path)).send().await.unwrap();
    let (seq, deleted) = next(&mut events).await;
    assert_eq!((seq, &deleted["deleted"]), (4, &true.into()));
}

#[tokio::test]
async fn a_stream_begins_where_it_is_told_to() {
    let service = TestService::start().await;
    for n in 0..4 {
        service.put(format!("content {n}"), &[]).await;
    }
    let mut events = open(service.get("/events?since=2")).await;
    assert_eq!((next(&mut events).await.0, next(&mut events).await.0), (3, 4));
    let mut events = open(service.get("/events?since=0").header("Last-Event-ID", "3")).await;
    assert_eq!(next(&mut events).await.0, 4);
    let mut events = open(service.get("/events?since=0")).await;
    assert_eq!(next(&mut events).await.0, 1);
    assert_eq!(refusal(service.get("/events?since=x")).await.0, 400);
    assert_eq!(refusal(service.get("/events").header("Last-Event-ID", "x")).await.0, 400);
}

#[tokio::test]
async fn a_number_from_another_life_is_answered_with_a_reset() {
    let service = TestService::start().await;
    service.put("hello", &[]).await;
    let mut events = open(service.get("/events?since=99")).await;
    let event = soon("a reset", events.next()).await.unwrap();
    assert_eq!((event.event.as_str(), event.id.as_str()), ("reset", "0"));
    assert!(soon("the end", events.next()).await.is_none());
}

/// Readers that are cut again and again while many write: nothing is missed, nothing comes twice.
#[tokio::test]
async fn resuming_leaves_no_gap_and_no_duplicate() {
    const WRITES: u64 = 400;
    let service = TestService::start().await;
    let writers = async {
        let puts = (0..WRITES).map(|n| service.put(format!("content {n}"), &[]));
        futures::stream::iter(puts).buffer_unordered(16).collect::<Vec<_>>().await
    };
    let reader = async {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|last| *last < WRITES) {
            let last = seen.last().copied().unwrap_or(0).to_string();
            let mut events = open(service.get("/events?since=0").header("Last-Event-ID", last)).await;
            for _ in 0..7 {
                if seen.last().is_some_and(|last| *last == WRITES) {
                    break;
                }
                seen.push(next(&mut events).await.0);
            }
        }
        seen
    };
    let (written, seen) = soon("all of it", async { tokio::join!(writers, reader) }).await;
    assert_eq!(written.len() as u64, WRITES);
    // Each asset is written once, so that each number stays: the events are all of them, in order.
    assert_eq!(seen, (1..=WRITES).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_slow_reader_misses_nothing() {
    let service = TestService::start().await;
    let mut events = open(service.get("/events?since=0")).await;
    let batch = (0..600).map(|n: u32| {
        let meta = AssetMeta { description: Some("x".repeat(8_000)), ..AssetMeta::default() };
        let content = Bytes::copy_from_slice(&n.to_le_bytes());
        let hash = ContentHash(Sha256::digest(&content).into());
        IncomingAsset {
            record: AssetRecord::new(hash, 4, None, meta),
            content: IncomingContent::Bytes(content),
        }
    });
    service.store.ingest(batch.collect()).await.unwrap();
    for expected in 1..=600 {
        assert_eq!(next(&mut events).await.0, expected);
    }
}

fn comments(body: impl Stream<Item = reqwest::Result<Bytes>>) -> impl Stream<Item = String> {
    body.map(|chunk| String::from_utf8(chunk.expect("a chunk").to_vec()).expect("text"))
}

#[tokio::test]
async fn an_idle_stream_shows_that_it_is_alive() {
    let often = |mut settings: can_sync::testing::store::service::ServiceSettings| {
        settings.heartbeat = Duration::from_millis(20);
        settings
    };
    let service = TestService::start_with(0, often).await;
    let response = soon("the head", service.get("/events").send()).await.unwrap();
    let mut body = Box::pin(comments(response.bytes_stream()));
    for _ in 0..3 {
        let text = soon("a heartbeat", body.next()).await.unwrap();
        assert!(text.starts_with(':') && text.ends_with("\n\n"), "{text:?}");
    }
}

#[tokio::test]
async fn the_usual_heartbeat_is_fifteen_seconds() {
    let service = TestService::start().await;
    let response = soon("the head", service.get("/events").send()).await.unwrap();
    let mut body = Box::pin(comments(response.bytes_stream()));
    tokio::time::pause();
    let mut heartbeat = async || {
        let text = tokio::time::timeout(Duration::from_secs(29), body.next()).await.expect("a heartbeat");
        assert!(text.expect("text").starts_with(':'));
    };
    // The first one began while the clock still ran.
    heartbeat().await;
    let started = tokio::time::Instant::now();
    heartbeat().await;
    assert_eq!(started.elapsed().as_secs(), 15);
}

#[tokio::test]
async fn open_streams_do_not_hold_up_a_stop() {
    let mut service = TestService::start().await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(open(service.get("/events")).await);
    }
    service.stop().await;
    // A stream that had been cut when the time for answers under way was over would fail here instead of ending.
    for mut events in streams {
        assert!(soon("the end", events.next()).await.is_none());
    }
}
