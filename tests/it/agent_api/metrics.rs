//! `/metrics`: what a scraper reads.

use std::collections::HashMap;
use std::sync::Arc;

use can_sync::testing::peer::report::{ConnectionState, SyncState};
use can_sync::testing::store::embedded::IngestFields;

use crate::support::agent::{Agent, hung, peer};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0";

/// Samples by name and labels. Checks what the format demands: samples follow the type of their family, no family or
/// series is there twice, values are numbers, and the text ends with its mark.
fn parse(text: &str) -> HashMap<String, f64> {
    let mut samples = HashMap::new();
    let mut families = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" {
            assert_eq!(lines.peek(), None, "the mark is the end");
            return samples;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert!(["gauge", "counter", "info", "histogram"].contains(&kind), "{line}");
            assert!(!families.contains(&name.to_owned()), "{name} is there twice");
            families.push(name.to_owned());
        } else if !line.starts_with("# ") {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            let name = series.split('{').next().expect("a name");
            let family = families.last().expect("a family before its samples");
            assert!(name.starts_with(family.as_str()), "{name} in the family {family}");
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("'{value}' in {line}"));
            assert!(samples.insert(series.to_owned(), value).is_none(), "{series} is there twice");
        }
    }
    panic!("the mark at the end is missing");
}

#[tokio::test]
async fn the_figures_are_those_of_the_node() {
    let endpoint = iroh::Endpoint::builder(iroh::endpoint::presets::Minimal).bind().await.unwrap();
    let registry = can_sync::testing::api::metrics::endpoint_registry(&endpoint);
    let agent = Agent::start_with(|view| {
        view.registry = Arc::clone(&registry);
        view.name = "a\"b\\c".into();
    })
    .await;
    agent.ingest(b"12345", IngestFields::default()).await;
    let mut many: Vec<_> = (2..100).map(|seed| peer(seed, "p", ConnectionState::InSync)).collect();
    many.push(peer(100, "away", ConnectionState::Waiting));
    let first = many[0].endpoint_id.clone();
    agent.set_peers(SyncState::InSync, many);
    {
        let child = &mut agent.tree.lock().children[0];
        (child.restarts, child.mailbox, child.mailbox_ms, child.undelivered) = (2, 4, 2_500, 3);
    }

    let answer = agent.get("/metrics").header("accept", OPEN_METRICS).send().await.unwrap();
    let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(content_type.starts_with("application/openmetrics-text; version=1.0.0"), "{content_type}");
    let text = answer.text().await.unwrap();
    let samples = parse(&text);
    let expected = [
        ("can_sync_store_assets", 1.0),
        ("can_sync_store_bytes", 5.0),
        ("can_sync_store_seq", 1.0),
        ("can_sync_store_writable", 1.0),
        ("can_sync_in_sync", 1.0),
        ("can_sync_peers_connected", 98.0),
        ("can_sync_peers_known", 99.0),
        ("can_sync_limit{name=\"peers\"}", 64.0),
        ("can_sync_part_up{part=\"peers\"}", 1.0),
        ("can_sync_actor_restarts_total{kind=\"PeersActor\"}", 2.0),
        ("can_sync_actors_running{kind=\"PeersActor\"}", 1.0),
        ("can_sync_actor_mailbox_messages{kind=\"PeersActor\"}", 4.0),
        ("can_sync_actor_mailbox_oldest_seconds{kind=\"PeersActor\"}", 2.5),
        ("can_sync_actor_undelivered_messages_total{kind=\"PeersActor\"}", 3.0),
        (&format!("can_sync_peer_sent_bytes_total{{endpoint_id=\"{first}\"}}"), 1_000.0),
        (&format!("can_sync_peer_rtt_seconds{{endpoint_id=\"{first}\"}}"), 0.0125),
        (&format!("can_sync_peer_bulk_connections{{endpoint_id=\"{first}\"}}"), 1.0),
    ];
    for (series, value) in expected {
        assert_eq!(samples.get(series), Some(&value), "{series} in\n{text}");
    }
    let per_peer = samples.keys().filter(|series| series.starts_with("can_sync_peer_sent_bytes")).count();
    assert_eq!(per_peer, 64);
    assert!(samples.keys().any(|series| series.starts_with("iroh_")), "{text}");
    assert!(text.contains(r#"name="a\"b\\c""#), "{text}");
    endpoint.close().await;
}

#[tokio::test]
async fn a_hung_actor_costs_its_own_figures_only() {
    let (_probe, service) = hung().await;
    let agent = Agent::start_with(|view| view.peers = service).await;
    let answer = agent.get("/metrics").header("accept", OPEN_METRICS).send().await.unwrap();
    let samples = parse(&answer.text().await.unwrap());
    assert_eq!(samples.get("can_sync_part_up{part=\"peers\"}"), Some(&0.0));
    assert_eq!(samples.get("can_sync_part_up{part=\"store\"}"), Some(&1.0));
    assert!(!samples.contains_key("can_sync_peers_known"));
    assert!(samples.contains_key("can_sync_store_assets"));
}

#[tokio::test]
async fn a_scraper_gets_the_format_that_it_reads() {
    let agent = Agent::start().await;
    agent.tree.lock().children[0].restarts = 2;
    let scrape = async |accept: Option<&str>| {
        let request = agent.get("/metrics");
        let request = accept.map_or(request.try_clone().unwrap(), |accept| request.header("accept", accept));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["vary"], "Accept");
        let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
        (content_type, answer.text().await.unwrap())
    };
    for accept in [None, Some("*/*"), Some("text/plain"), Some("text/html, */*;q=0.8")] {
        let (content_type, text) = scrape(accept).await;
        assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8", "{accept:?}");
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
        // Each family is named as its samples are, and of a type that the format knows.
        let mut family = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                let known = ["counter", "gauge", "histogram", "summary", "untyped"];
                assert!(known.contains(&kind), "{line}");
                assert!(kind != "counter" || name.ends_with("_total"), "{line}");
                family = name;
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                assert!(name.starts_with(family), "{line} in the family {family}");
            }
        }
        assert!(text.contains("\n# TYPE can_sync_actor_restarts_total counter\n"), "{text}");
        assert!(text.contains("can_sync_actor_restarts_total{kind=\"PeersActor\"} 2\n"), "{text}");
    }
    let (content_type, text) = scrape(Some(OPEN_METRICS)).await;
    assert!(content_type.starts_with("application/openmetrics-text"), "{content_type}");
    assert!(text.ends_with("# EOF\n"));
}
