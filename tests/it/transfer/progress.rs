//! How far everything is, while it is on its way: in all, by peer, and by library.

use can_sync::testing::config::Config;
use eventsource_stream::Eventsource as _;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::nodes::{DEADLINE, TestNode, eventually};
use crate::support::store::noise;

const RATE: u32 = 2_000_000;
/// Several parts, so that what is missing falls while one asset comes.
const BYTES: usize = 20_000_000;

fn slow(config: &mut Config) {
    config.limits.upload_bytes_per_sec = Some(RATE.into());
}

/// Whether a rate and what is left fit together, and the rate is what the limit allows but for the burst at the beginning.
fn fits(eta_secs: &Value, missing_bytes: &Value, rate: &Value) -> bool {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let (eta, missing, rate) = (number(eta_secs), number(missing_bytes), number(rate));
    let limit = 2.0 * f64::from(RATE);
    (1.0..limit).contains(&rate) && missing > 0.0 && (eta - missing / rate).abs() <= 1.0
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_told_in_all_and_by_peer() {
    let (a, b) = tokio::join!(TestNode::start("a", slow), TestNode::start("b", |_| {}));
    let hash = a.ingest(noise(BYTES, 1), &[]).await;
    let url = format!("http://{}/events", b.node().api_addr());
    let events = b.http.get(url).send().await.unwrap();
    let mut events = events.bytes_stream().eventsource();
    b.dial(&a).await;
    eventually("a rate and an estimate in /peers and /status", async || {
        let (peer, status) = (b.peer(&a.id()).await, b.get("/status").await["data"]["sync"].clone());
        let by_peer = fits(&peer["eta_secs"], &peer["missing_here_bytes"], &peer["rates"]["receive"]);
        let in_all = fits(&status["eta_secs"], &status["missing_bytes"], &status["rate"]);
        (by_peer && in_all).then_some(()).ok_or_else(|| format!("{peer} {status}"))
    })
    .await;
    eventually("it is here", async || b.content(&hash).await.map(drop).ok_or_else(String::new)).await;
    let (mut with_estimate, mut ended, mut estimates) = (false, false, Vec::new());
    while !ended {
        let event = timeout(DEADLINE, events.next()).await.expect("in time").unwrap().unwrap();
        if event.event != "progress" {
            continue;
        }
        let told: Value = serde_json::from_str(&event.data).unwrap();
        let peer = &told["peers"][0];
        estimates.extend(peer["eta_secs"].as_u64());
        with_estimate |= peer["endpoint_id"] == a.id().as_str()
            && fits(&told["eta_secs"], &told["missing_bytes"], &told["rate"])
            && fits(&peer["eta_secs"], &peer["missing_here_bytes"], &peer["receive_rate"]);
        ended = told["peers"] == json!([]) && told["missing"] == 0;
    }
    assert!(with_estimate, "no event had one");
    let (first, last) = (estimates.first(), estimates.last());
    assert!(last < first, "it counts down: {estimates:?}");
}
