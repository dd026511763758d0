//! Two nodes that run on copies of one data directory, and a third that both know.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::StreamExt as _;

use crate::support::nodes::{TestNode, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn both_copies_say_so_and_the_third_is_not_torn_between_them() {
    let (original, third) =
        tokio::join!(TestNode::start("original", |_| {}), TestNode::start("third", |_| {}));
    let key = original.config.data_dir.join("secret.key");
    let mut copy = TestNode::start("copy", |config| {
        fs::create_dir_all(&config.data_dir).unwrap();
        fs::copy(&key, config.data_dir.join("secret.key")).unwrap();
    })
    .await;
    assert_eq!(copy.id(), original.id());
    let told = Arc::new(Mutex::new(String::new()));
    let url = format!("http://{}/events", third.node().api_addr());
    let (mut events, heard) = (third.http.get(url).send().await.unwrap().bytes_stream(), Arc::clone(&told));
    tokio::spawn(async move {
        while let Some(Ok(bytes)) = events.next().await {
            heard.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes));
        }
    });
    let began = Instant::now();
    original.dial(&third).await;
    copy.dial(&third).await;
    for node in [&original, &copy] {
        eventually("it says that there are two", async || {
            let status = node.get("/status").await;
            let copied = status["data"]["sync"]["copied"].as_str().unwrap_or_default();
            copied.contains("secret.key").then_some(()).ok_or_else(|| status.to_string())
        })
        .await;
    }
    assert!(third.get("/status").await["data"]["sync"]["copied"].is_null());
    // It lets them take turns a few times, and then once in half a minute.
    let came = told.lock().unwrap().matches("event: peer_connected").count();
    let most = 10 + began.elapsed().as_secs() / 30;
    assert!((1..=most).contains(&(came as u64)), "{came} connections, and {most} are the most");
    // What they are told to do helps.
    assert!(!copy.stop().await.failed);
    fs::remove_file(copy.config.data_dir.join("secret.key")).unwrap();
    copy.boot().await;
    assert_ne!(copy.id(), original.id());
    copy.dial(&third).await;
    let hash = copy.ingest("from the copy", &[]).await;
    eventually("all three are one network", async || {
        let (there, here) = (original.content(&hash).await, copy.get("/status").await);
        (there.is_some() && here["data"]["sync"]["copied"].is_null())
            .then_some(())
            .ok_or_else(|| here.to_string())
    })
    .await;
}
