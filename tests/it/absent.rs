//! Assets that a node knows and does not hold, with whole nodes: what is wanted comes, what is not stays away, and who has
//! nothing to give says so.

use can_sync::testing::record::ContentHash;
use can_sync::testing::store::{ContentStore as _, Holding, ItemOutcome, StoredRecord};
use serde_json::json;

use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::nodes::{TestNode, eventually};
use crate::support::store::{noise, record_of};

async fn known(node: &TestNode, hash: ContentHash) -> Option<StoredRecord> {
    node.sync_store().records(vec![hash]).await.expect("records").pop()
}

async fn stored(node: &TestNode, hash: ContentHash) -> StoredRecord {
    known(node, hash).await.unwrap_or_else(|| panic!("no record of {hash}"))
}

async fn becomes(node: &TestNode, hash: ContentHash, holding: Holding) {
    eventually("it is held, or not", async || {
        let now = known(node, hash).await.map(|stored| stored.holding);
        if now == Some(holding) { Ok(()) } else { Err(format!("{now:?} instead of {holding:?}")) }
    })
    .await;
}

async fn ingest(node: &TestNode, content: Vec<u8>) -> ContentHash {
    node.ingest(content, &[]).await.parse().expect("a hash")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_and_missing_comes_although_the_records_are_equal() {
    let (a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    let contents: Vec<Vec<u8>> = (0..150).map(|n| noise(if n == 0 { 3_000_000 } else { 300 }, n)).collect();
    let mut hashes = Vec::new();
    for content in &contents {
        hashes.push(ingest(&b, content.clone()).await);
    }
    // a has b's records and none of the contents: as after a restore from a list of records alone.
    let records = b.sync_store().records(hashes.clone()).await.unwrap();
    let records = records.into_iter().map(|stored| stored.record).collect();
    assert_eq!(a.sync_store().take_absent(records).await, Ok(vec![ItemOutcome::Absent; contents.len()]));
    assert_eq!(a.get(&format!("/why/{}", hashes[0])).await["data"]["state"], "missing");
    b.dial(&a).await;
    for (hash, content) in hashes.iter().zip(&contents) {
        becomes(&a, *hash, Holding::Held).await;
        assert!(a.content(&hash.to_string()).await.as_ref() == Some(content));
    }
    tokio::join!(a.wait_in_sync(), b.wait_in_sync());
    assert_eq!(a.assets().await, b.assets().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_holds_is_known_everywhere_and_delays_nothing() {
    let (a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    let content = noise(100_000, 1);
    let hash = ingest(&a, content.clone()).await;
    a.sync_store().let_go(vec![hash]).await.unwrap();
    let other = ingest(&a, noise(100, 2)).await;
    b.dial(&a).await;
    becomes(&b, other, Holding::Held).await;
    // b has the record, wants the content, and is in sync: nobody has it.
    becomes(&b, hash, Holding::Wanted).await;
    tokio::join!(a.wait_in_sync(), b.wait_lacking(1));
    let status = b.get("/status").await["data"].clone();
    assert_eq!((&status["sync"]["missing"], &status["store"]["assets_held"]), (&json!(0), &json!(1)));
    assert_eq!(status["store"]["assets"], 2);
    let metrics = format!("http://{}/metrics", b.node().api_addr());
    let metrics = b.http.get(metrics).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("can_sync_store_assets 2") && metrics.contains("can_sync_store_held_assets 1"));
    assert_eq!(b.get(&format!("/why/{hash}")).await["data"]["state"], "missing");

    // A third one brings it: b has it at once, a does not want it.
    let c = TestNode::start("c", |_| {}).await;
    ingest(&c, content.clone()).await;
    c.dial(&b).await;
    becomes(&b, hash, Holding::Held).await;
    tokio::join!(a.wait_in_sync(), b.wait_in_sync(), c.wait_in_sync());
    assert_eq!(stored(&a, hash).await.holding, Holding::Unwanted);
    // Until a user of a does.
    let answer = a.post(&format!("/fetch/{hash}"), json!({})).await;
    assert_eq!(answer["status"], "success", "{answer}");
    becomes(&a, hash, Holding::Held).await;
    assert!(a.content(&hash.to_string()).await.unwrap() == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn wanted_contents_that_are_not_here_are_counted() {
    let (a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    let content = noise(40_000, 8);
    let record = record_of(&content);
    let taken = b.sync_store().take_absent(vec![record.clone()]).await;
    assert_eq!(taken, Ok(vec![ItemOutcome::Absent]));
    b.dial(&a).await;
    let status = eventually("it is said", async || {
        let sync = b.get("/status").await["data"]["sync"].clone();
        (sync["state"] == "in_sync" && sync["absent"] == 1)
            .then(|| sync.clone())
            .ok_or_else(|| sync.to_string())
    })
    .await;
    assert_eq!(status["missing"], 0, "{status}");
    let metrics = format!("http://{}/metrics", b.node().api_addr());
    let metrics = b.http.get(metrics).send().await.unwrap().text().await.unwrap();
    assert!(
        metrics.contains("can_sync_absent_assets 1") && metrics.contains("can_sync_in_sync 1"),
        "{metrics}"
    );
    a.ingest(content, &[]).await;
    tokio::join!(a.wait_in_sync(), b.wait_in_sync());
    // The store has it a moment before the index knows.
    eventually("nothing is absent", async || {
        let sync = b.get("/status").await["data"]["sync"].clone();
        (sync["absent"] == 0).then_some(()).ok_or_else(|| sync.to_string())
    })
    .await;
    assert_eq!(stored(&b, record.hash).await.holding, Holding::Held);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_comes_is_told_to_those_who_wait_for_it() {
    let (a, b, c) = tokio::join!(
        TestNode::start("a", |_| {}),
        TestNode::start("b", |_| {}),
        TestNode::start("c", |_| {})
    );
    let content = noise(50_000, 3);
    let hash = ingest(&c, content.clone()).await;
    let record = stored(&c, hash).await.record;
    for node in [&a, &b] {
        node.sync_store().take_absent(vec![record.clone()]).await.unwrap();
    }
    // a and b have asked each other in vain, and will not for minutes.
    b.dial(&a).await;
    tokio::join!(a.wait_lacking(1), b.wait_lacking(1));
    assert_eq!(stored(&a, hash).await.holding, Holding::Wanted);
    c.dial(&b).await;
    becomes(&b, hash, Holding::Held).await;
    becomes(&a, hash, Holding::Held).await;
    assert!(a.content(&hash.to_string()).await.unwrap() == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_let_go_of_between_an_offer_and_a_request_is_gone_and_costs_no_place() {
    let a = TestNode::start("a", |config| config.limits.upload_bytes_per_sec = Some(1_000_000)).await;
    let b = TestNode::start("b", |_| {}).await;
    let first = ingest(&a, noise(2_000_000, 4)).await;
    let mut others = Vec::new();
    for n in 0..20 {
        others.push(ingest(&a, noise(200_000, 10 + n)).await);
    }
    b.dial(&a).await;
    eventually("they are on their way", async || {
        let missing = b.get("/status").await["data"]["sync"]["missing"].clone();
        (missing.as_u64() > Some(5)).then_some(()).ok_or_else(|| missing.to_string())
    })
    .await;
    let gone = others.split_off(10);
    a.sync_store().let_go(gone.clone()).await.unwrap();
    for hash in others.iter().chain([&first]) {
        becomes(&b, *hash, Holding::Held).await;
    }
    // b knows of all of them, and of some that they are not to be had.
    for hash in &gone {
        eventually("it is known", async || {
            known(&b, *hash).await.map(drop).ok_or_else(|| format!("no record of {hash}"))
        })
        .await;
    }
    a.wait_in_sync().await;
    // Those that came before they were let go of are here.
    let came = b.held().await.len();
    b.wait_lacking((others.len() + 1 + gone.len() - came) as u64).await;
    let peer = b.peer(&a.id()).await;
    assert!(peer["path"].is_string() && peer["state"] == "in_sync", "{peer}");
    let strip = |mut asset: serde_json::Value| {
        asset.as_object_mut().unwrap().remove("held");
        asset
    };
    let (of_a, of_b) = tokio::join!(a.assets(), b.assets());
    assert_eq!(
        of_a.into_iter().map(strip).collect::<Vec<_>>(),
        of_b.into_iter().map(strip).collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_what_is_not_held_and_get_it_when_they_read_it() {
    let (a, b) = (Daemon::start(&embedded_yaml("name: a")), Daemon::start(&embedded_yaml("name: b")));
    b.dial(&a).await;
    a.user.write("note.txt", "a note");
    let hash = a.ok(&["put", "note.txt"]).text().split_whitespace().next().unwrap().to_owned();
    a.user.write("other.txt", "another");
    a.ok(&["put", "other.txt"]);
    eventually("both at b", async || {
        let text = b.ok(&["list"]).text().to_owned();
        // A heading, and both.
        (text.lines().count() == 3 && text.contains(&hash)).then_some(()).ok_or(text)
    })
    .await;
    let named: Vec<u8> = hash.parse::<ContentHash>().unwrap().0.to_vec();
    let key = std::fs::read_to_string(b.data_dir().join("sync_api_key")).unwrap();
    let let_go = b.http.post(b.store_url("/sync/let-go")).header("X-Sync-Key", key.trim());
    let let_go = let_go.header("Content-Type", "application/x-protobuf").body(named).send().await.unwrap();
    assert_eq!(let_go.status(), 200);

    let columns = |text: &str| {
        let row = text.lines().find(|line| line.contains(&hash)).unwrap_or_else(|| panic!("{text}"));
        row.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(columns(b.ok(&["list"]).text())[2], "no");
    assert_eq!(columns(a.ok(&["list"]).text())[2], "yes");
    assert_eq!(columns(b.ok(&["search", "note"]).text())[2], "no");
    assert!(b.ok(&["list", "--absent"]).text().contains(&hash));
    assert!(!b.ok(&["list", "--held"]).text().contains(&hash));
    let listed = b.ok(&["--json", "list", "--absent"]).json();
    assert_eq!((listed.len(), &listed[0]["held"]), (1, &json!(false)));
    let status = b.ok(&["status"]).text().to_owned();
    assert!(status.contains("1 asset") && status.contains("1 more known and not held here"), "{status}");
    let why = b.ok(&["why", &hash]).text().to_owned();
    assert!(why.contains("let go of") && why.contains("can-sync fetch"), "{why}");
    let page = b.http.get(b.url("/")).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("not held here"), "the page says it, too");

    let local = b.run(&["get", "--local", &hash]);
    assert_eq!(local.code, 6, "{}", local.stderr);
    assert!(
        local.stderr.contains("not held here") && local.stderr.contains("can-sync fetch"),
        "{}",
        local.stderr
    );
    assert_eq!(columns(b.ok(&["list"]).text())[2], "no", "asking for it locally brings nothing");
    assert_eq!(b.ok(&["get", &hash]).text(), "a note");
    assert_eq!(columns(b.ok(&["list"]).text())[2], "yes", "and it stays");
}
