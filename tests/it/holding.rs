//! Machines that hold a part of what there is, beside one that holds everything: all is known, what is not to be held does not move by
//! itself, and what is pinned, read, or needed by a folder comes.

use can_sync::testing::config::{HoldFilter, HoldSetting};
use can_sync::testing::record::ContentHash;
use can_sync::testing::store::ContentStore as _;
use can_sync::testing::wire::proto::{Find, Lacks, WireRecord, frame};
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::embedded::content_path;
use crate::support::hostile::Attacker;
use crate::support::machine::{Machine, knows};
use crate::support::nodes::{TestNode, eventually};
use crate::support::store::noise;

/// A machine that holds everything, and one that holds nothing by itself.
async fn server_and_laptop() -> (TestNode, TestNode) {
    tokio::join!(
        TestNode::start("server", |_| {}),
        TestNode::start("laptop", |config| config.hold = HoldSetting::Nothing)
    )
}

fn tagged(tag: &str) -> HoldSetting {
    HoldSetting::Matching(HoldFilter { tags: Some(vec![tag.to_owned()]), ..HoldFilter::default() })
}

async fn put(node: &TestNode, len: usize, seed: u64, tag: &str) -> String {
    node.ingest(noise(len, seed), &[("tags", tag)]).await
}

async fn status(node: &TestNode) -> Value {
    node.get("/status").await["data"].clone()
}

/// Waits until so many assets are known, and nothing is missing.
async fn knows_all(node: &TestNode, count: usize) {
    node.holds(count).await;
    node.wait_in_sync().await;
}

/// Waits until exactly these are held.
async fn holds_only(node: &TestNode, hashes: &[&String]) {
    let mut expected: Vec<&String> = hashes.to_vec();
    expected.sort();
    eventually("exactly these are held", async || {
        let mut held = node.held().await;
        held.sort();
        (held.iter().collect::<Vec<_>>() == expected)
            .then_some(())
            .ok_or_else(|| format!("{held:?}, not {expected:?}"))
    })
    .await;
}

/// Content bytes that came from a peer.
async fn received(node: &TestNode, from: &TestNode) -> u64 {
    node.peer(&from.id()).await["bytes_received"].as_u64().expect("a number")
}

async fn pinned(node: &TestNode, body: Value) -> Value {
    let answer = node.post("/pins", body).await;
    assert_eq!(answer["status"], "success", "{answer}");
    answer["data"]["pinned"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_known_and_nothing_moves_by_itself() {
    let (server, mut laptop) = server_and_laptop().await;
    let mut hashes = Vec::new();
    for (n, len) in [300, 5_000, 70_000, 2_500_000].into_iter().enumerate() {
        hashes.push(put(&server, len, n as u64, "old").await);
    }
    laptop.dial(&server).await;
    knows_all(&laptop, 4).await;
    server.wait_in_sync().await;
    // Small ones come along with their records when they are made while both are connected.
    for (n, len) in [100, 90_000].into_iter().enumerate() {
        hashes.push(put(&server, len, 10 + n as u64, "new").await);
    }
    knows_all(&laptop, 6).await;
    let own = put(&laptop, 3_000, 20, "mine").await;
    knows_all(&server, 7).await;
    holds_only(&server, &hashes.iter().chain([&own]).collect::<Vec<_>>()).await;
    holds_only(&laptop, &[&own]).await;

    let found = laptop.store("/search?tags=new").await["data"]["assets"].clone();
    assert_eq!(found.as_array().map(Vec::len), Some(2), "{found}");
    let said = status(&laptop).await;
    assert_eq!((&said["sync"]["absent"], &said["sync"]["missing"]), (&json!(0), &json!(0)), "{said}");
    assert_eq!((&said["hold"]["rule"], &said["hold"]["left_out"]), (&json!("nothing"), &json!(6)), "{said}");
    assert_eq!(received(&laptop, &server).await, 0);
    let why = laptop.get(&format!("/why/{}", hashes[2])).await["data"].clone();
    assert_eq!(why["state"], "left_out", "{why}");
    assert!(why["explanation"].as_str().is_some_and(|said| said.contains("`hold`")), "{why}");

    // What is read comes, and stays; the rest stays away.
    assert!(laptop.content(&hashes[2]).await.expect("it comes") == noise(70_000, 2));
    let url = format!("{}/asset/{}", laptop.node().store_url(), hashes[3]);
    let part = laptop.http.get(url).header("Range", "bytes=1000000-1000999").send().await.expect("an answer");
    assert_eq!(part.status(), 206);
    assert!(part.bytes().await.expect("a body") == noise(2_500_000, 3)[1_000_000..1_001_000]);
    let here = [&hashes[2].clone(), &hashes[3].clone(), &own];
    holds_only(&laptop, &here).await;

    // An edit of what is not held is an edit and no more.
    let url = format!("{}/asset/{}/meta", server.node().store_url(), hashes[0]);
    let edited = server.http.patch(url).json(&json!({ "description": "edited" })).send().await;
    assert_eq!(edited.expect("an answer").status(), 200);
    eventually("the edit is known", async || {
        let meta = laptop.store(&format!("/asset/{}/meta", hashes[0])).await;
        (meta["data"]["description"] == "edited").then_some(()).ok_or_else(|| meta.to_string())
    })
    .await;

    laptop.stop().await;
    hashes.push(put(&server, 40_000, 30, "away").await);
    laptop.boot().await;
    laptop.dial(&server).await;
    knows_all(&laptop, 8).await;
    holds_only(&laptop, &here).await;
    assert_eq!(received(&laptop, &server).await, 0);

    // More is held from the next start on, and less lets go of nothing.
    for (rule, expected) in [
        (tagged("new"), [&here[..], &[&hashes[4], &hashes[5]]].concat()),
        (HoldSetting::Nothing, [&here[..], &[&hashes[4], &hashes[5]]].concat()),
        (HoldSetting::Everything, hashes.iter().chain([&own]).collect()),
    ] {
        laptop.stop().await;
        laptop.config.hold = rule;
        laptop.boot().await;
        laptop.dial(&server).await;
        holds_only(&laptop, &expected).await;
        laptop.wait_in_sync().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_comes_and_stays_over_restarts() {
    let (server, mut laptop) = server_and_laptop().await;
    let (work, play) = (put(&server, 60_000, 1, "work").await, put(&server, 70_000, 2, "play").await);
    let sea = put(&server, 200, 3, "sea").await;
    laptop.dial(&server).await;
    knows_all(&laptop, 3).await;
    holds_only(&laptop, &[]).await;

    assert_eq!(pinned(&laptop, json!({ "hashes": [work] })).await, 1);
    holds_only(&laptop, &[&work]).await;
    assert_eq!(pinned(&laptop, json!({ "hashes": [work], "filter": { "tags": ["sea"] } })).await, 1);
    holds_only(&laptop, &[&work, &sea]).await;
    let later = put(&server, 80_000, 4, "sea").await;
    let small = put(&server, 80, 5, "SEA").await;
    holds_only(&laptop, &[&work, &sea, &later, &small]).await;
    // An edit makes it one of those.
    let url = format!("{}/asset/{play}/meta", server.node().store_url());
    let edited = server.http.patch(url).json(&json!({ "tags": ["play", "sea"] })).send().await;
    assert_eq!(edited.expect("an answer").status(), 200);
    holds_only(&laptop, &[&work, &play, &sea, &later, &small]).await;

    laptop.stop().await;
    let away = put(&server, 50_000, 6, "sea").await;
    let other = put(&server, 50_000, 7, "play").await;
    laptop.boot().await;
    laptop.dial(&server).await;
    knows_all(&laptop, 7).await;
    let here = [&work, &play, &sea, &later, &small, &away];
    holds_only(&laptop, &here).await;
    let pins = laptop.get("/pins").await["data"].clone();
    assert_eq!(
        (&pins["hashes"], &pins["filters"]),
        (&json!([work]), &json!([{ "tags": ["sea"] }])),
        "{pins}"
    );

    let gone = laptop.post("/pins/remove", json!({ "hashes": [work], "filter": { "tags": ["sea"] } })).await;
    assert_eq!(gone["data"]["removed"], 2, "{gone}");
    let last = put(&server, 1_000, 8, "sea").await;
    knows_all(&laptop, 8).await;
    holds_only(&laptop, &here).await;
    // A name may be pinned before anybody has such a content.
    let ahead = crate::support::store::hash_of(&noise(30_000, 9)).to_string();
    assert_eq!(pinned(&laptop, json!({ "hashes": [ahead] })).await, 1);
    assert_eq!(put(&server, 30_000, 9, "ahead").await, ahead);
    holds_only(&laptop, &[&here[..], &[&ahead]].concat()).await;
    let held = laptop.held().await;
    assert!(!held.contains(&other) && !held.contains(&last));

    for body in [json!({}), json!({ "filter": {} }), json!({ "hashes": ["x"] }), json!({ "tags": ["sea"] })] {
        let refused = laptop.post("/pins", body.clone()).await;
        assert_eq!(refused["status"], "error", "{body}: {refused}");
    }
    let folder = laptop.post("/pins", json!({ "filter": { "folder": "a".repeat(64) } })).await;
    assert_eq!(folder["code"], "invalid_pin", "{folder}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_let_go_of_is_back_once_it_is_pinned() {
    let (server, laptop) = tokio::join!(TestNode::start("server", |_| {}), TestNode::start("laptop", |_| {}));
    let (one, two) = (put(&server, 60_000, 1, "work").await, put(&server, 70_000, 2, "sea").await);
    laptop.dial(&server).await;
    holds_only(&laptop, &[&one, &two]).await;
    let hashes: Vec<ContentHash> = [&one, &two].map(|hash| hash.parse().expect("a hash")).to_vec();
    laptop.sync_store().let_go(hashes).await.expect("let go");
    holds_only(&laptop, &[]).await;
    pinned(&laptop, json!({ "hashes": [one], "filter": { "tags": ["sea"] } })).await;
    holds_only(&laptop, &[&one, &two]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_for_in_vain_comes_later() {
    let (mut server, mut laptop) = server_and_laptop().await;
    let (wanted, other) = (put(&server, 90_000, 1, "a").await, put(&server, 90_000, 2, "a").await);
    laptop.dial(&server).await;
    knows_all(&laptop, 2).await;
    server.stop().await;
    eventually("it is gone", async || {
        let connected = status(&laptop).await["peers"]["connected"].clone();
        (connected == 0).then_some(()).ok_or_else(|| connected.to_string())
    })
    .await;
    assert_eq!(laptop.content(&wanted).await, None);
    laptop.stop().await;
    server.boot().await;
    laptop.boot().await;
    laptop.dial(&server).await;
    holds_only(&laptop, &[&wanted]).await;
    laptop.wait_in_sync().await;
    assert!(!laptop.held().await.contains(&other));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_here_and_is_damaged_comes_again() {
    let (server, laptop) = server_and_laptop().await;
    laptop.dial(&server).await;
    let own = put(&laptop, 400_000, 1, "mine").await;
    knows_all(&server, 1).await;
    holds_only(&server, &[&own]).await;
    let path = content_path(&laptop.config.data_dir.join("store"), own.parse().expect("a hash"));
    std::fs::remove_file(path).expect("its file");
    // The first reader finds out.
    let url = format!("{}/asset/{own}?local=true", laptop.node().store_url());
    let _ = laptop.http.get(url).send().await.expect("an answer");
    eventually("it is here again", async || {
        let url = format!("{}/asset/{own}?local=true", laptop.node().store_url());
        let answer = laptop.http.get(url).send().await.expect("an answer");
        answer.status().is_success().then_some(()).ok_or_else(|| answer.status().to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_folder_gets_its_files() {
    let (server, laptop) = tokio::join!(
        Machine::start("server"),
        Machine::start_with("laptop", |config| config.hold = HoldSetting::Nothing)
    );
    laptop.node.dial(&server.node).await;
    let other = put(&server.node, 50_000, 1, "other").await;
    server.add().await;
    server.put("one.txt", "one");
    server.put("d/two.txt", &"two".repeat(40_000));
    knows(&laptop).await;
    knows_all(&laptop.node, 3).await;
    assert_eq!(laptop.node.held().await, [""; 0]);
    laptop.add().await;
    let two = "two".repeat(40_000);
    laptop.has(&[("one.txt", "one"), ("d/two.txt", &two)]).await;
    server.put("three.txt", "three");
    laptop.has(&[("one.txt", "one"), ("d/two.txt", &two), ("three.txt", "three")]).await;
    assert!(!laptop.node.held().await.contains(&other));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_is_made_here_has_its_contents() {
    let (server, laptop) = server_and_laptop().await;
    let (shared, other) = (put(&server, 60_000, 1, "share").await, put(&server, 60_000, 2, "other").await);
    laptop.dial(&server).await;
    knows_all(&laptop, 2).await;
    let made = laptop.post("/libraries", json!({ "name": "l", "filter": { "tags": ["share"] } })).await;
    assert_eq!(made["status"], "success", "{made}");
    holds_only(&laptop, &[&shared]).await;
    let later = put(&server, 500, 3, "share").await;
    holds_only(&laptop, &[&shared, &later]).await;
    laptop.wait_in_sync().await;
    assert!(!laptop.held().await.contains(&other));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_what_is_not_held_hears_so_and_changes_nothing() {
    let (server, laptop) = server_and_laptop().await;
    let hash = put(&server, 60_000, 1, "work").await;
    laptop.dial(&server).await;
    knows_all(&laptop, 1).await;
    let attacker = Attacker::member_of(&laptop).await;
    let mut session = attacker.session().await;
    let name = hash.parse::<ContentHash>().expect("a hash");
    let named = vec![bytes::Bytes::copy_from_slice(&name.0)];
    session.send(frame::Kind::Find(Find { hashes: named, library: session.library() })).await;
    let lacks = session
        .wait_for("Lacks", |kind| match kind {
            frame::Kind::Lacks(Lacks { hashes, .. }) => Some(hashes.len()),
            _ => None,
        })
        .await;
    assert_eq!(lacks, 1);
    // Nor is it fetched because a machine of the network offers it once more.
    let record = laptop.sync_store().records(vec![name]).await.expect("records").remove(0).record;
    session.offer(vec![WireRecord::from(&record)]).await;
    laptop.wait_in_sync().await;
    assert_eq!(laptop.held().await, [""; 0]);
    assert_eq!(received(&laptop, &server).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_pin_by_name_and_filter_and_see_what_is_held() {
    let server = Daemon::start(&embedded_yaml("name: server"));
    let laptop = Daemon::start(&embedded_yaml("name: laptop\nhold: nothing"));
    laptop.dial(&server).await;
    server.user.write("note.txt", "a note");
    let hash = server.ok(&["put", "note.txt"]).text().split_whitespace().next().unwrap().to_owned();
    server.user.write("sea.txt", "the sea");
    server.ok(&["put", "--tags", "sea", "sea.txt"]);
    eventually("both are known", async || {
        let text = laptop.ok(&["list", "--absent"]).text().to_owned();
        (text.contains(&hash) && text.contains("sea.txt")).then_some(()).ok_or(text)
    })
    .await;
    let status = laptop.ok(&["status"]).text().to_owned();
    assert!(status.contains("holds") && status.contains("nothing of the network by itself"), "{status}");
    let why = laptop.ok(&["why", &hash]).text().to_owned();
    assert!(why.contains("`hold`") && why.contains("can-sync pin"), "{why}");
    let page = laptop.http.get(laptop.url("/")).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("holds nothing of the network by itself"), "the page says it, too");

    assert!(laptop.ok(&["pin", "note.txt"]).text().contains("pinned"));
    assert!(laptop.ok(&["pin", "--tag", "sea"]).text().contains("pinned"));
    eventually("both are held", async || {
        let text = laptop.ok(&["list", "--held"]).text().to_owned();
        (text.contains(&hash) && text.contains("sea.txt")).then_some(()).ok_or(text)
    })
    .await;
    let listed = laptop.ok(&["pin"]).text().to_owned();
    assert!(listed.contains(&hash) && listed.contains("--tag 'sea'"), "{listed}");
    let status = laptop.ok(&["status"]).text().to_owned();
    assert!(status.contains("1 asset and what 1 filter pinned match"), "{status}");
    assert!(laptop.ok(&["unpin", "note.txt", "--tag", "SEA"]).text().contains("stays"));
    assert!(laptop.ok(&["pin"]).text().is_empty());
    assert!(laptop.ok(&["list", "--held"]).text().contains(&hash));
    assert_eq!(laptop.run(&["unpin"]).code, 2, "it says nothing");

    let user = laptop.into_user();
    user.write("bad.yaml", embedded_yaml("hold: { mime_prefix: a/b/c }"));
    let check = user.run(&["config", "check", "bad.yaml"]);
    assert!(check.code != 0 && check.stderr.contains("hold: no media type"), "{}", check.stderr);
}
