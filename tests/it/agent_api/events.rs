//! `/events`: order, resume, gaps, limits.

use can_sync::testing::api::events::STREAMS_MAX;
use can_sync::testing::events::{NodeEvent, PeerProgress, SyncProgress};
use eventsource_stream::{Event, Eventsource};
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::{Value, json};

use crate::support::agent::Agent;
use crate::support::nodes::DEADLINE;

/// An open stream.
struct Watcher(BoxStream<'static, Event>);

impl Watcher {
    async fn open(agent: &Agent, query: &str, last_event_id: Option<&str>) -> Self {
        let mut request = agent.get(&format!("/events{query}"));
        if let Some(id) = last_event_id {
            request = request.header("Last-Event-ID", id);
        }
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["x-accel-buffering"], "no");
        assert!(answer.headers()["content-type"].to_str().expect("text").starts_with("text/event-stream"));
        Self(answer.bytes_stream().eventsource().filter_map(async |event| event.ok()).boxed())
    }

    async fn next(&mut self) -> Event {
        let next = tokio::time::timeout(DEADLINE, self.0.next());
        next.await.expect("an event within the deadline").expect("the stream goes on")
    }

    async fn expect(&mut self, name: &str) -> (String, Value) {
        let event = self.next().await;
        assert_eq!(event.event, name, "{event:?}");
        (event.id, serde_json::from_str(&event.data).expect("JSON"))
    }
}

fn in_sync(assets: u64) -> NodeEvent {
    NodeEvent::InSync { assets }
}

#[tokio::test]
async fn what_happens_is_told_as_it_happens() {
    let agent = Agent::start().await;
    agent.events.publish(1, in_sync(1));
    let mut watcher = Watcher::open(&agent, "", None).await;
    let (_, hello) = watcher.expect("hello").await;
    assert_eq!(hello, json!({"boot": agent.events.boot(), "last_id": 1}));
    agent.events.publish(2, NodeEvent::PeerConnected { endpoint_id: "ab".into(), name: "two\nlines".into() });
    let (id, data) = watcher.expect("peer_connected").await;
    assert_eq!(id, format!("{}-2", agent.events.boot()));
    assert_eq!(
        data,
        json!({"id": 2, "at_ms": 2, "type": "peer_connected", "endpoint_id": "ab", "name": "two\nlines"})
    );
    agent.events.publish(3, in_sync(7));
    assert_eq!(watcher.expect("in_sync").await.1["assets"], 7);
}

#[tokio::test]
async fn progress_is_of_the_moment_and_has_no_number() {
    let agent = Agent::start().await;
    agent.events.set_progress(None);
    let mut watcher = Watcher::open(&agent, "", None).await;
    let (place, _) = watcher.expect("hello").await;
    let peer = PeerProgress {
        endpoint_id: "ab".into(),
        missing_here: 2,
        missing_here_bytes: 2_000,
        missing_there: 0,
        send_rate: 0.0,
        receive_rate: 500.0,
        eta_secs: Some(4),
    };
    let progress = SyncProgress {
        at_ms: 5,
        missing: 2,
        missing_bytes: 2_000,
        rate: 500.0,
        eta_secs: Some(4),
        peers: vec![peer],
    };
    agent.events.set_progress(Some(progress));
    let (id, told) = watcher.expect("progress").await;
    // What a reader of the stream comes back with is the last numbered event.
    assert_eq!(id, place);
    assert_eq!((&told["missing_bytes"], &told["peers"][0]["eta_secs"]), (&json!(2_000), &json!(4)));
    let mut late = Watcher::open(&agent, "", None).await;
    late.expect("hello").await;
    assert_eq!(late.expect("progress").await.1, told, "who comes in the middle hears of it at once");
    agent.events.set_progress(None);
    agent.events.set_progress(None);
    agent.events.publish(6, in_sync(1));
    let mut rest = [watcher.next().await, watcher.next().await].map(|event| event.event);
    rest.sort_unstable();
    assert_eq!(rest, ["in_sync", "progress"], "the end is told once");
}

#[tokio::test]
async fn a_watcher_resumes_where_it_was() {
    let agent = Agent::start().await;
    let mut watcher = Watcher::open(&agent, "", None).await;
    let (first_place, _) = watcher.expect("hello").await;
    drop(watcher);
    for n in 1..=3 {
        agent.events.publish(n, in_sync(n));
    }
    // Cut off before the first event, then in the middle; by header, by query, and by a plain number.
    let mut watcher = Watcher::open(&agent, "", Some(&first_place)).await;
    watcher.expect("hello").await;
    let mut places = Vec::new();
    for n in 1..=3 {
        let (place, data) = watcher.expect("in_sync").await;
        assert_eq!(data["assets"], n);
        places.push(place);
    }
    let by_query = format!("?since={}", places[1]);
    for (query, header) in [
        ("", Some(places[1].as_str())),
        (by_query.as_str(), None),
        ("?since=2", None),
        ("?since=2", Some("")),
    ] {
        let mut watcher = Watcher::open(&agent, query, header).await;
        watcher.expect("hello").await;
        assert_eq!(watcher.expect("in_sync").await.1["assets"], 3, "{query} {header:?}");
    }
    // The header is the browser's, and newer than the address it once opened.
    let mut watcher = Watcher::open(&agent, "?since=0", Some(&places[2])).await;
    watcher.expect("hello").await;
    agent.events.publish(4, in_sync(4));
    assert_eq!(watcher.expect("in_sync").await.1["assets"], 4);
}

#[tokio::test]
async fn lost_events_are_admitted() {
    let agent = Agent::start().await;
    for n in 1..=2_000 {
        agent.events.publish(n, in_sync(n));
    }
    let kept_from = agent.events.since(0).0[0].id;
    let other_run = "0123456789abcdef-1999".to_owned();
    let ahead = format!("{}-5000", agent.events.boot());
    for place in ["1".to_owned(), "0".to_owned(), other_run, ahead] {
        let mut watcher = Watcher::open(&agent, &format!("?since={place}"), None).await;
        watcher.expect("hello").await;
        let (_, reset) = watcher.expect("reset").await;
        assert_eq!(reset, json!({"boot": agent.events.boot(), "first_id": kept_from}), "{place}");
        assert_eq!(watcher.expect("in_sync").await.1["id"], kept_from, "{place}");
    }
    let mut watcher = Watcher::open(&agent, &format!("?since={}", kept_from - 1), None).await;
    watcher.expect("hello").await;
    assert_eq!(watcher.expect("in_sync").await.1["id"], kept_from);
}

#[tokio::test]
async fn a_place_that_makes_no_sense_is_refused() {
    let agent = Agent::start().await;
    for query in ["?since=soon", "?since=-1-2", "?since=1&since=2"] {
        let (status, body) = agent.json(agent.get(&format!("/events{query}"))).await;
        assert_eq!((status, &body["code"]), (400, &json!("invalid_parameter")), "{query}");
    }
}

#[tokio::test]
async fn streams_are_limited_and_given_back() {
    let agent = Agent::start().await;
    let open = (0..STREAMS_MAX).map(|_| Watcher::open(&agent, "", None));
    let mut watchers = futures::future::join_all(open).await;
    let (status, body) = agent.json(agent.get("/events")).await;
    assert_eq!((status, &body["code"]), (503, &json!("too_many_streams")));
    watchers.truncate(STREAMS_MAX - 1);
    let freed = async {
        while agent.get("/events").send().await.expect("an answer").status() != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, freed).await.expect("the place of a closed stream is free again");
}
