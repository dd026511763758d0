//! A store with a quota: never more content than that, however many come at once; what has no room is known, and comes when there is some.

use std::sync::atomic::{AtomicBool, Ordering};

use can_sync::testing::config::HoldSetting;
use can_sync::testing::record::ContentHash;
use can_sync::testing::store::embedded::{EmbeddedStore, IngestFields};
use can_sync::testing::store::{ContentStore as _, IncomingAsset, IncomingContent, ItemOutcome, StoreError};
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::nodes::{DEADLINE, TestNode, eventually};
use crate::support::store::{noise, record_of};

async fn opened(quota: u64) -> (tempfile::TempDir, EmbeddedStore) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = crate::support::embedded::open(dir.path()).await;
    store.set_quota(Some(quota));
    (dir, store)
}

fn asset(len: usize, seed: u64) -> IncomingAsset {
    let content = noise(len, seed);
    IncomingAsset { record: record_of(&content), content: IncomingContent::Bytes(content.into()) }
}

async fn upload(store: &EmbeddedStore, content: Vec<u8>) -> Result<ContentHash, StoreError> {
    let ingested = crate::support::embedded::try_upload(store, &content, IngestFields::default()).await?;
    Ok(ingested.asset.record.hash)
}

async fn used(store: &EmbeddedStore) -> u64 {
    store.status().await.expect("a status").quota.expect("a quota").used_bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_never_has_more_than_its_quota() {
    let (_dir, store) = opened(1_000_000).await;
    // Small ones, that are kept in the database, and larger ones, from users and from peers, all at once.
    let tasks = (0..60_u64).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            let len = if n % 3 == 0 { 90_000 } else { 20_000 };
            let taken = if n % 2 == 0 {
                store.ingest(vec![asset(len, n)]).await.map(drop)
            } else {
                upload(&store, noise(len, n)).await.map(drop)
            };
            assert!(used(&store).await <= 1_000_000);
            match taken {
                Ok(()) => len as u64,
                Err(StoreError::OverQuota(why)) => {
                    assert!(why.contains("store.quota_bytes"), "{why}");
                    0
                }
                Err(other) => panic!("{other}"),
            }
        })
    });
    let taken: u64 =
        futures::future::join_all(tasks).await.into_iter().map(|task| task.expect("it ends")).sum();
    let status = store.status().await.expect("a status");
    assert_eq!(status.bytes_held, taken);
    assert!(taken <= 1_000_000 && taken > 800_000, "{taken}: what fits is taken");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_already_needs_no_room_and_the_trash_counts() {
    let (dir, store) = opened(250_000).await;
    let (one, two) = (noise(100_000, 1), noise(100_000, 2));
    let first = upload(&store, one.clone()).await.expect("it fits");
    store.ingest(vec![asset(100_000, 2)]).await.expect("it fits");
    assert!(matches!(store.ingest(vec![asset(100_000, 3)]).await, Err(StoreError::OverQuota(_))));
    // The same once more, from a peer and by name.
    let again = store.ingest(vec![asset(100_000, 2)]).await;
    assert!(matches!(again.as_deref(), Ok([ItemOutcome::Stored | ItemOutcome::Unchanged])), "{again:?}");
    store.ingest_known(first, IngestFields::default()).await.expect("it is here");

    store.delete(first).await.expect("deleted");
    let quota = store.status().await.expect("a status").quota.expect("a quota");
    assert_eq!((quota.used_bytes, quota.trashed_bytes), (200_000, 100_000));
    assert!(matches!(upload(&store, noise(60_000, 4)).await, Err(StoreError::OverQuota(_))));
    store.restore(first).await.expect("it is in the trash");
    assert_eq!(used(&store).await, 200_000);
    store.let_go(vec![record_of(&two).hash]).await.expect("let go");
    assert_eq!(used(&store).await, 200_000);
    store.want(vec![record_of(&two).hash]).await.expect("it is in the trash");
    assert_eq!(used(&store).await, 200_000);
    // After a restart it is the same, and with less than there is nothing goes.
    store.close().await;
    let store = crate::support::embedded::open(dir.path()).await;
    assert_eq!(store.status().await.expect("a status").quota, None, "nobody set one");
    store.set_quota(Some(150_000));
    assert_eq!(used(&store).await, 200_000);
    assert!(matches!(upload(&store, noise(1, 5)).await, Err(StoreError::OverQuota(_))));
    store.close().await;
}

async fn status(node: &TestNode) -> Value {
    node.get("/status").await["data"].clone()
}

async fn node_used(node: &TestNode) -> u64 {
    status(node).await["store"]["quota"]["used_bytes"].as_u64().expect("a number")
}

/// The hashes of a list that has one page, sorted; it says itself how many there are.
async fn listed(node: &TestNode, path: &str) -> Vec<String> {
    let page = node.store(path).await["data"].clone();
    let assets = page["assets"].as_array().expect("a list").iter();
    let mut hashes: Vec<String> =
        assets.map(|asset| asset["hash"].as_str().expect("a hash").to_owned()).collect();
    assert_eq!(page["total"], hashes.len(), "{path}");
    hashes.sort_unstable();
    hashes
}

/// Waits until a node that has a quota knows so many assets and misses none, and looks at its use meanwhile.
async fn knows_within(node: &TestNode, count: usize, quota: u64) -> Value {
    eventually("all is known", async || {
        let said = status(node).await;
        let used = said["store"]["quota"]["used_bytes"].as_u64().expect("a number");
        assert!(used <= quota, "{used} of {quota}");
        let sync = &said["sync"];
        let is_all = said["store"]["assets"] == count && sync["state"] == "in_sync" && sync["absent"] == 0;
        is_all.then(|| said.clone()).ok_or_else(|| said.to_string())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_room_is_known_and_comes_when_there_is_some() {
    const QUOTA: u64 = 10_000_000;
    let (server, mut laptop) = tokio::join!(
        TestNode::start("server", |_| {}),
        TestNode::start("laptop", |config| config.store.quota_bytes = Some(QUOTA))
    );
    let mut count = 0;
    for n in 0..8 {
        server.ingest(noise(2_600_000, n), &[]).await;
        for m in 0..5 {
            server.ingest(noise(60_000, 100 * n + m + 50), &[]).await;
        }
        count += 6;
    }
    laptop.dial(&server).await;
    let said = knows_within(&laptop, count, QUOTA).await;
    server.wait_in_sync().await;
    let held = said["store"]["bytes_held"].as_u64().expect("a number");
    assert!(held <= QUOTA && held > QUOTA / 2, "{held}: what fits came");
    let no_room = said["hold"]["no_room"].as_u64().expect("a number");
    assert_eq!(no_room, count as u64 - said["store"]["assets_held"].as_u64().expect("a number"), "{said}");
    let page = laptop.store("/list?held=false&limit=1").await;
    let left = page["data"]["assets"][0]["hash"].as_str().expect("a hash").to_owned();
    let why = laptop.get(&format!("/why/{left}")).await["data"].clone();
    assert_eq!(why["state"], "no_room", "{why}");

    // New ones, small ones among them that come along with their records.
    for n in 0..40 {
        server.ingest(noise(15_000 + 40_000 * (n % 2), 1_000 + n as u64), &[]).await;
    }
    count += 40;
    knows_within(&laptop, count, QUOTA).await;
    // Its own are refused with a reason, and cost nothing.
    let form = Form::new().part("file", Part::bytes(noise(9_000_000, 7_777)).file_name("own.bin"));
    let url = format!("{}/ingest", laptop.node().store_url());
    let answer = laptop.http.post(url).multipart(form).timeout(DEADLINE).send().await.expect("an answer");
    let (code, body): (u16, Value) = (answer.status().as_u16(), answer.json().await.expect("JSON"));
    assert_eq!((code, &body["code"]), (507, &json!("over_quota")), "{body}");
    let error = body["error"].as_str().unwrap_or_default();
    assert!(error.contains("10.0 MB") || error.contains("9.5 MiB"), "{body}");
    assert!(error.contains("are used") && error.contains("store.quota_bytes"), "{body}");
    // What is asked for has no room either.
    assert_eq!(laptop.content(&left).await, None);
    let said = knows_within(&laptop, count, QUOTA).await;
    assert!(said["store"]["bytes_held"].as_u64().expect("a number") <= QUOTA);

    laptop.stop().await;
    laptop.boot().await;
    laptop.dial(&server).await;
    knows_within(&laptop, count, QUOTA).await;
    laptop.stop().await;
    laptop.config.store.quota_bytes = None;
    laptop.boot().await;
    laptop.dial(&server).await;
    eventually("all of it is here", async || {
        let said = status(&laptop).await;
        (said["store"]["assets_held"] == count).then_some(()).ok_or_else(|| said.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenth_of_what_two_servers_have_is_enough_to_know_and_to_read_it() {
    const EACH: u64 = 50_000;
    const COUNT: u64 = 100;
    const QUOTA: u64 = EACH * COUNT / 10;
    let (server, cellar, laptop) = tokio::join!(
        TestNode::start("server", |_| {}),
        TestNode::start("cellar", |_| {}),
        TestNode::start("laptop", |config| {
            config.hold = HoldSetting::Nothing;
            config.store.quota_bytes = Some(QUOTA);
        })
    );
    let mut contents = Vec::new();
    for n in 0..COUNT {
        let (content, node) = (noise(50_000, n), if n % 2 == 0 { &server } else { &cellar });
        contents.push((node.ingest(content.clone(), &[("tags", "old")]).await, content));
    }
    cellar.dial(&server).await;
    laptop.dial(&server).await;
    laptop.dial(&cellar).await;
    knows_within(&laptop, contents.len(), QUOTA).await;
    server.holds(contents.len()).await;
    // What is known is listed and found, all of it, and none of it came.
    let mut expected: Vec<&str> = contents.iter().map(|(hash, _)| hash.as_str()).collect();
    expected.sort_unstable();
    for path in ["/list?limit=1000", "/search?tags=old&limit=1000", "/search?q=file.bin&limit=1000"] {
        assert_eq!(listed(&laptop, path).await, expected, "{path}");
    }
    assert_eq!(laptop.held().await, [""; 0]);

    // Ten have room. Readers of twice as many at once take no more.
    let reads = contents.iter().step_by(5).map(async |(hash, content)| {
        let read = laptop.content(hash).await;
        assert!(read.is_none() || read.as_ref() == Some(content));
        u64::from(read.is_some())
    });
    let done = AtomicBool::new(false);
    let watch = async {
        while !done.load(Ordering::Relaxed) {
            assert!(node_used(&laptop).await <= QUOTA);
        }
    };
    let read = async {
        let came: u64 = futures::future::join_all(reads).await.into_iter().sum();
        done.store(true, Ordering::Relaxed);
        came
    };
    let (came, ()) = tokio::join!(read, watch);
    assert!((1..=QUOTA / EACH).contains(&came), "{came}");
    // One by one, all that fits comes, and what is here is still read; the rest is refused.
    let mut held = laptop.held().await;
    for (hash, _) in &contents {
        if held.len() as u64 == QUOTA / EACH {
            break;
        }
        laptop.content(hash).await;
        held = laptop.held().await;
    }
    assert_eq!(held.len() as u64, QUOTA / EACH);
    for (hash, content) in contents.iter().filter(|(hash, _)| held.contains(hash)) {
        assert!(laptop.content(hash).await.as_ref() == Some(content));
    }
    let (left, _) = contents.iter().find(|(hash, _)| !held.contains(hash)).expect("most of them");
    let url = format!("{}/asset/{left}", laptop.node().store_url());
    let answer = laptop.http.get(url).timeout(DEADLINE).send().await.expect("an answer");
    let (code, body): (u16, Value) = (answer.status().as_u16(), answer.json().await.expect("JSON"));
    let error = body["error"].as_str().unwrap_or_default();
    assert!(
        (code, &body["code"]) == (507, &json!("over_quota")) && error.contains("store.quota_bytes"),
        "{body}"
    );
    knows_within(&laptop, contents.len(), QUOTA).await;
}

/// Waits until so many contents are held, and so many have no room.
async fn holds_and_lacks_room(node: &TestNode, held: usize, no_room: usize) {
    eventually("it is held as far as there is room", async || {
        let said = status(node).await;
        let found = (&said["store"]["assets_held"], &said["hold"]["no_room"]);
        (found == (&json!(held), &json!(no_room))).then_some(()).ok_or_else(|| format!("{found:?}: {said}"))
    })
    .await;
}

async fn changed(node: &TestNode, path: &str, body: Value) {
    let answer = node.post(path, body.clone()).await;
    assert_eq!(answer["status"], "success", "{path} {body}: {answer}");
}

/// Lets go of all that is held, once the others promise to keep it.
async fn drops_all(node: &TestNode, hashes: &[String], holders: &[&TestNode]) {
    for holder in holders {
        eventually("it is held elsewhere", async || {
            let held = holder.held().await;
            hashes.iter().all(|hash| held.contains(hash)).then_some(()).ok_or_else(|| format!("{held:?}"))
        })
        .await;
    }
    changed(node, "/drops", json!({ "left_over": true })).await;
    eventually("all is let go of", async || {
        let stands = node.get("/drops").await["data"].clone();
        (stands["running"] == false && stands["kept"] == 0).then_some(()).ok_or_else(|| stands.to_string())
    })
    .await;
    holds_and_lacks_room(node, 0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_no_more_waits_for_no_room() {
    let (server, cellar, mut laptop) = tokio::join!(
        TestNode::start("server", |_| {}),
        TestNode::start("cellar", |_| {}),
        TestNode::start("laptop", |config| {
            config.hold = HoldSetting::Nothing;
            config.store.quota_bytes = Some(450_000);
        })
    );
    let mut hashes = Vec::new();
    for n in 0..8 {
        hashes.push(server.ingest(noise(100_000, n), &[("tags", "work")]).await);
    }
    let filler = server.ingest(noise(400_000, 20), &[]).await;
    hashes.push(filler.clone());
    cellar.dial(&server).await;
    laptop.dial(&server).await;
    laptop.dial(&cellar).await;
    laptop.holds(9).await;

    let work = json!({ "filter": { "tags": ["work"] } });
    changed(&laptop, "/pins", work.clone()).await;
    holds_and_lacks_room(&laptop, 4, 4).await;
    changed(&laptop, "/pins/remove", work.clone()).await;
    holds_and_lacks_room(&laptop, 4, 0).await;
    drops_all(&laptop, &hashes, &[&server, &cellar]).await;

    // What was here once is wanted anew by a pin, and no more without it.
    changed(&laptop, "/pins", json!({ "hashes": [filler] })).await;
    holds_and_lacks_room(&laptop, 1, 0).await;
    changed(&laptop, "/pins", work.clone()).await;
    holds_and_lacks_room(&laptop, 1, 8).await;
    changed(&laptop, "/pins/remove", work).await;
    changed(&laptop, "/pins/remove", json!({ "hashes": [filler] })).await;
    holds_and_lacks_room(&laptop, 1, 0).await;
    drops_all(&laptop, &hashes, &[&server, &cellar]).await;

    // There is room, also for all of it: still none of it comes, and what is pinned does.
    laptop.stop().await;
    laptop.config.store.quota_bytes = None;
    laptop.boot().await;
    laptop.dial(&server).await;
    let other = server.ingest(noise(1_000, 30), &[]).await;
    laptop.holds(10).await;
    changed(&laptop, "/pins", json!({ "hashes": [other] })).await;
    holds_and_lacks_room(&laptop, 1, 0).await;
    laptop.wait_in_sync().await;
    assert_eq!(laptop.held().await, [other]);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_the_quota_and_what_has_no_room() {
    let server = Daemon::start(&embedded_yaml("name: server"));
    let laptop = Daemon::start(&embedded_yaml("name: laptop\nstore: { quota_bytes: 100 KiB }"));
    laptop.dial(&server).await;
    server.user.write("large.bin", noise(150_000, 1));
    server.ok(&["put", "large.bin"]);
    eventually("it is known", async || {
        let text = laptop.ok(&["list", "--absent"]).text().to_owned();
        text.contains("large.bin").then_some(()).ok_or(text)
    })
    .await;
    let status = laptop.ok(&["status"]).text().to_owned();
    assert!(status.contains("quota") && status.contains("of 100.0 KiB used"), "{status}");
    assert!(status.contains("leaves no room for 1 asset"), "{status}");
    let doctor = laptop.run(&["doctor"]).text().to_owned();
    assert!(
        doctor.contains("quota leaves no room for 1 asset") && doctor.contains("can-sync drop"),
        "{doctor}"
    );
    let why = laptop.ok(&["why", "large.bin"]).text().to_owned();
    assert!(why.contains("store.quota_bytes") && why.contains("can-sync drop"), "{why}");
    let read = laptop.run(&["get", "large.bin", "-o", "here.bin"]);
    assert!(read.code == 1 && read.stderr.contains("can-sync drop"), "{} {}", read.code, read.stderr);
    laptop.user.write("own.bin", noise(120_000, 2));
    let refused = laptop.run(&["put", "own.bin"]);
    assert!(refused.code != 0 && refused.stderr.contains("the quota of this store is"), "{}", refused.stderr);
    assert!(refused.stderr.contains("can-sync drop"), "{}", refused.stderr);
    laptop.user.write("small.bin", noise(50_000, 3));
    laptop.ok(&["put", "small.bin"]);
    assert!(laptop.ok(&["status"]).text().contains("48.8 KiB of 100.0 KiB used"));
}
