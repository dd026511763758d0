//! Damage on the disk of a node that has peers: nobody ever gets a wrong byte, and all is whole again by itself.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use can_sync::testing::record::ContentHash;
use futures::StreamExt as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

use crate::support::command::{Ran, User};
use crate::support::embedded::content_path;
use crate::support::nodes::{TestNode, eventually};
use crate::support::scoreboard;
use crate::support::store::noise;

fn store_dir(node: &TestNode) -> PathBuf {
    node.config.data_dir.join("store")
}

/// Flips a bit of a stored content.
fn flip(dir: &Path, hash: &str, content: &[u8], at: usize) {
    if content.len() <= 64 * 1024 {
        let database = rusqlite::Connection::open(dir.join("store.db")).unwrap();
        database.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
        let mut flipped = content.to_vec();
        flipped[at] ^= 4;
        let changed = database.execute("UPDATE contents SET data = ?1 WHERE data = ?2", (flipped, content));
        assert_eq!(changed, Ok(1));
    } else {
        let hash: ContentHash = hash.parse().unwrap();
        let file = std::fs::File::options().write(true).open(content_path(dir, hash)).unwrap();
        file.write_all_at(&[content[at] ^ 4], at as u64).unwrap();
    }
}

/// What a client gets, and whether the answer was complete as far as HTTP can say.
async fn fetch(node: &TestNode, hash: &str, range: Option<&str>) -> Option<Vec<u8>> {
    let url = format!("{}/asset/{hash}", node.node().store_url());
    let mut request = node.http.get(url);
    if let Some(range) = range {
        request = request.header("Range", range);
    }
    // It may break off before the first byte is out.
    let Ok(answer) = request.send().await else { return None };
    if !answer.status().is_success() {
        return None;
    }
    let mut body = answer.bytes_stream();
    let mut got = Vec::new();
    while let Some(piece) = body.next().await {
        got.extend_from_slice(&piece.ok()?);
    }
    Some(got)
}

async fn pair(contents: &[Vec<u8>]) -> (TestNode, TestNode, Vec<String>) {
    let (a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    b.dial(&a).await;
    let mut hashes = Vec::new();
    for content in contents {
        hashes.push(a.ingest(content.clone(), &[]).await);
    }
    for hash in &hashes {
        eventually("it is at b", async || b.content(hash).await.map(drop).ok_or_else(String::new)).await;
    }
    (a, b, hashes)
}

async fn whole_again(node: &TestNode, hashes: &[String], contents: &[Vec<u8>]) {
    for (hash, content) in hashes.iter().zip(contents) {
        eventually("it is whole again", async || {
            let got = fetch(node, hash, None).await;
            (got.as_ref() == Some(content)).then_some(()).ok_or_else(|| format!("{hash}: {}", got.is_some()))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flip_is_found_by_reading_and_healed_from_a_peer() {
    let sizes = [100, 60_000, 70_000, 300_000, 900_000];
    let contents: Vec<Vec<u8>> = (0..50).map(|n| noise(sizes[n % sizes.len()] + n, n as u64)).collect();
    let (a, b, hashes) = pair(&contents).await;
    let dir = store_dir(&a);
    for (n, (hash, content)) in hashes.iter().zip(&contents).enumerate() {
        flip(&dir, hash, content, n * 7919 % content.len());
    }
    for (n, (hash, content)) in hashes.iter().zip(&contents).enumerate() {
        let (from, to) = (content.len() / 3, content.len() / 3 + 50);
        let (range, expected) = if n % 2 == 0 {
            (None, content.as_slice())
        } else {
            (Some(format!("bytes={from}-{}", to - 1)), &content[from..to])
        };
        if let Some(got) = fetch(&a, hash, range.as_deref()).await {
            assert!(got == expected, "a wrong byte of {hash}");
        }
    }
    whole_again(&a, &hashes, &contents).await;
    // Nobody blames the other one, and nothing is left aside.
    eventually("nothing is aside", async || {
        let status = a.get("/status").await["data"]["store"].clone();
        (status["damaged"] == 0).then_some(()).ok_or_else(|| status.to_string())
    })
    .await;
    for node in [&a, &b] {
        let dir = store_dir(node).join("damaged");
        // It is forgotten before its file is removed.
        eventually("nothing lies there", async || {
            let there = std::fs::read_dir(&dir).unwrap().count();
            (there == 0).then_some(()).ok_or_else(|| format!("{there} files"))
        })
        .await;
    }
    tokio::join!(a.wait_in_sync(), b.wait_in_sync());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_neither_offered_nor_sent_what_is_damaged() {
    let contents: Vec<Vec<u8>> = [50, 100_000, 400_000, 3_000_000]
        .into_iter()
        .zip(0..)
        .map(|(size, seed)| noise(size, seed))
        .collect();
    let a = TestNode::start("a", |_| {}).await;
    let mut hashes = Vec::new();
    for content in &contents {
        hashes.push(a.ingest(content.clone(), &[]).await);
    }
    for (hash, content) in hashes.iter().zip(&contents) {
        flip(&store_dir(&a), hash, content, content.len() - 1);
    }
    let good = a.ingest(noise(200_000, 77), &[]).await;
    let b = TestNode::start("b", |_| {}).await;
    b.dial(&a).await;
    eventually("what is right has come", async || b.content(&good).await.map(drop).ok_or_else(String::new))
        .await;
    tokio::join!(a.wait_lacking(4), b.wait_lacking(4));
    for hash in &hashes {
        assert_eq!(b.content(hash).await, None);
        let why = b.get(&format!("/why/{hash}")).await["data"].clone();
        assert_ne!(why["state"], "failed", "{why}");
        assert!(!why.to_string().contains("wrong bytes"), "the sender noticed: {why}");
        assert_eq!(a.get(&format!("/why/{hash}")).await["data"]["state"], "missing");
    }
    assert_eq!(a.get("/status").await["data"]["store"]["damaged"], 4);
    // A third one that has them heals both.
    let c = TestNode::start("c", |_| {}).await;
    for content in &contents {
        c.ingest(content.clone(), &[]).await;
    }
    c.dial(&a).await;
    whole_again(&a, &hashes, &contents).await;
    whole_again(&b, &hashes, &contents).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_is_said_to_be_gone_and_is_fetched() {
    let contents = [noise(300_000, 1), noise(300_000, 2), noise(300_000, 3)];
    let (a, b, hashes) = pair(&contents).await;
    let path = |n: usize| content_path(&store_dir(&a), hashes[n].parse().unwrap());
    std::fs::remove_file(path(0)).unwrap();
    std::fs::write(path(1), "short").unwrap();
    flip(&store_dir(&a), &hashes[2], &contents[2], 9);
    // Alone, so that nothing is healed before it is looked at.
    let mut b = b;
    b.stop().await;
    let head = a.http.head(format!("{}/asset/{}", a.node().store_url(), hashes[0]));
    assert_eq!(head.send().await.unwrap().status(), 404);
    assert_eq!(a.get(&format!("/why/{}", hashes[1])).await["data"]["state"], "missing");
    // A user's wish reads what is held: this one is found wrong, and searched for.
    let fetched = a.post(&format!("/fetch/{}", hashes[2]), json!({})).await;
    assert_ne!(fetched["data"]["state"], "here", "{fetched}");
    eventually("all three are aside", async || {
        let status = a.get("/status").await["data"]["store"].clone();
        (status["damaged"] == 3).then_some(()).ok_or_else(|| status.to_string())
    })
    .await;
    b.boot().await;
    b.dial(&a).await;
    whole_again(&a, &hashes, &contents).await;

    let url = format!("http://{}/events?since=0", a.node().api_addr());
    let mut stream = a.http.get(url).send().await.unwrap().bytes_stream();
    let mut text = String::new();
    for kind in ["event: damaged", "event: healed"] {
        while text.matches(kind).count() < 3 {
            let piece = crate::support::service::soon("events", stream.next()).await.unwrap().unwrap();
            text.push_str(&String::from_utf8_lossy(&piece));
        }
    }
}

/// Runs a command against a node of this process, out of the way of the runtime.
async fn command(node: &TestNode, args: &[&str]) -> Ran {
    let api = format!("http://{}", node.node().api_addr());
    let args: Vec<String> =
        args.iter().copied().chain(["--json", "--api", &api]).map(str::to_owned).collect();
    let run = move || User::new().run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_finds_what_nobody_reads_and_waits_for_its_repair() {
    let sizes = [10, 60_000, 70_000, 300_000, 2_000_000];
    let contents: Vec<Vec<u8>> = sizes.iter().zip(0..).map(|(size, seed)| noise(*size, seed)).collect();
    let (mut a, mut b, hashes) = pair(&contents).await;
    let only_here = noise(150_000, 99);
    let clean = command(&a, &["scrub"]).await;
    assert_eq!(clean.code, 0, "{}", clean.stderr);
    assert_eq!((&clean.json()[0]["checked"], &clean.json()[0]["damaged"]), (&json!(5), &json!([])));

    b.stop().await;
    let lonely = a.ingest(only_here.clone(), &[("filename", "only here")]).await;
    flip(&store_dir(&a), &lonely, &only_here, 140_000);
    flip(&store_dir(&a), &hashes[1], &contents[1], 7);
    flip(&store_dir(&a), &hashes[4], &contents[4], 1_999_999);
    let gone: ContentHash = hashes[3].parse().unwrap();
    std::fs::remove_file(content_path(&store_dir(&a), gone)).unwrap();
    let found = command(&a, &["scrub", "--rate", "1000"]).await;
    assert_eq!(found.code, 1, "{}", found.stderr);
    let report = found.json().remove(0);
    let mut damaged: Vec<&str> =
        report["damaged"].as_array().unwrap().iter().map(|one| one["hash"].as_str().unwrap()).collect();
    damaged.sort_unstable();
    let mut expected = [lonely.as_str(), &hashes[1], &hashes[3], &hashes[4]];
    expected.sort_unstable();
    assert_eq!(damaged, expected, "{report}");
    let status = a.get("/status").await["data"]["store"].clone();
    assert_eq!(status["damaged"], 4, "{status}");

    b.boot().await;
    b.dial(&a).await;
    whole_again(&a, &hashes, &contents).await;
    // What is large is read while it comes, so it may be stored a moment later.
    eventually("only one is aside", async || {
        let status = a.get("/status").await["data"]["store"].clone();
        (status["damaged"] == 1).then_some(()).ok_or_else(|| status.to_string())
    })
    .await;
    // What was set aside is known, and no longer read.
    let after = command(&a, &["scrub", "--repair"]).await;
    assert_eq!((after.code, &after.json()[0]["checked"]), (0, &json!(5)), "{}", after.stderr);
    assert_eq!(fetch(&a, &lonely, None).await, None, "the only copy is wrong, and is not given away");
    tokio::join!(async { a.stop().await }, async { b.stop().await });
}

/// Nobody reads meanwhile but a client that takes one after the other: it gets right bytes or none.
#[tokio::test(flavor = "multi_thread")]
async fn one_scrub_finds_every_flip_and_a_peer_heals_all() {
    let flips: usize = scoreboard::number("CAN_SYNC_TEST_FLIPS", 30);
    let mut random = StdRng::seed_from_u64(scoreboard::seed(7));
    let sizes = [100, 60_000, 70_000, 300_000];
    let contents: Vec<Vec<u8>> = (0..flips).map(|n| noise(sizes[n % sizes.len()] + n, n as u64)).collect();
    let (a, _b, hashes) = pair(&contents).await;
    for (hash, content) in hashes.iter().zip(&contents) {
        flip(&store_dir(&a), hash, content, random.random_range(0..content.len()));
    }
    let began = Instant::now();
    let reading = async {
        let mut served = 0;
        for (hash, content) in hashes.iter().zip(&contents).step_by(7) {
            if let Some(got) = fetch(&a, hash, None).await {
                assert!(got == *content, "a wrong byte of {hash}");
                served += 1;
            }
        }
        served
    };
    let (repaired, served) = tokio::join!(command(&a, &["scrub", "--repair"]), reading);
    let took = began.elapsed();
    assert_eq!(repaired.code, 0, "{}", repaired.stderr);
    whole_again(&a, &hashes, &contents).await;
    let status = a.get("/status").await["data"]["store"].clone();
    assert_eq!(status["damaged"], 0, "{status}");
    // Those that were read first were healed before the scrub came to them.
    let found = status["scrub"]["last"]["found"].as_u64().expect("a number");
    let read = hashes.len().div_ceil(7) as u64;
    assert!((flips as u64 - read..=flips as u64).contains(&found), "{status}");
    let figure = format!(
        "{flips} flips: {found} found by the scrub, the rest by reading; all whole again within {:.1} s; {served} answers meanwhile, all right",
        took.as_secs_f64()
    );
    scoreboard::figure(true, &figure);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_that_repairs_waits_until_the_content_is_back() {
    let contents = [noise(500_000, 1), noise(40_000, 2)];
    let (a, _b, hashes) = pair(&contents).await;
    for (hash, content) in hashes.iter().zip(&contents) {
        flip(&store_dir(&a), hash, content, content.len() / 2);
    }
    let repaired = command(&a, &["scrub", "--repair"]).await;
    assert_eq!(repaired.code, 0, "{}", repaired.stderr);
    let healed = repaired.json().remove(0)["damaged"].clone();
    assert!(healed.as_array().unwrap().iter().all(|one| one["healed"] == true), "{healed}");
    assert_eq!(healed.as_array().unwrap().len(), 2, "{healed}");
    for (hash, content) in hashes.iter().zip(&contents) {
        assert_eq!(fetch(&a, hash, None).await.as_ref(), Some(content));
    }
}

/// What a killed peer had begun to give is asked for again once it is back, and no wrong byte gets out meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_scrub_finds_is_healed_by_a_peer_that_is_killed_on_the_way() {
    use crate::support::daemon::{Daemon, embedded_yaml};
    let a = Daemon::start(&embedded_yaml("scrub_interval_days: 0"));
    let mut b = Daemon::start(
        &embedded_yaml("limits: { disk_reserve_bytes: 0, upload_bytes_per_sec: 3 MiB }")
            .replace("limits: { disk_reserve_bytes: 0 }\n", ""),
    );
    let contents: Vec<Vec<u8>> = (0..60).map(|n| noise(70_000 + 5000 * n, n as u64)).collect();
    let mut hashes = Vec::new();
    for content in &contents {
        let form =
            reqwest::multipart::Form::new().part("file", reqwest::multipart::Part::bytes(content.clone()));
        let stored = a.http.post(a.store_url("/ingest")).multipart(form).send().await.unwrap();
        let stored: serde_json::Value = stored.json().await.unwrap();
        hashes.push(stored["data"]["hash"].as_str().unwrap().to_owned());
    }
    b.dial(&a).await;
    let held = async |node: &Daemon| node.get("/status").await["store"]["assets_held"].as_u64().unwrap_or(0);
    eventually("b has them", async || {
        let now = held(&b).await;
        (now == 60).then_some(()).ok_or_else(|| now.to_string())
    })
    .await;
    let store = a.data_dir().join("store");
    for (n, (hash, content)) in hashes.iter().zip(&contents).enumerate() {
        flip(&store, hash, content, n * 7919 % content.len());
    }
    let begun: serde_json::Value =
        a.http.post(a.store_url("/scrub")).send().await.unwrap().json().await.unwrap();
    assert_eq!(begun["data"]["pass"], 1, "{begun}");
    for goal in [5, 20] {
        eventually("some are healed", async || {
            let scrub = a.get("/status").await["store"]["scrub"].clone();
            let healed = scrub["running"]["healed"].as_u64().or(scrub["last"]["healed"].as_u64());
            healed.filter(|healed| *healed >= goal).map(|_| ()).ok_or_else(|| scrub.to_string())
        })
        .await;
        b.kill();
        b = b.restart();
        b.dial(&a).await;
    }
    for (hash, content) in hashes.iter().zip(&contents) {
        eventually("it is whole again", async || {
            let answer = a.http.get(a.store_url(&format!("/asset/{hash}"))).send().await;
            let Ok(answer) = answer.and_then(reqwest::Response::error_for_status) else {
                return Err("no answer".into());
            };
            let Ok(body) = answer.bytes().await else { return Err("it broke off".to_owned()) };
            assert!(body == *content, "wrong bytes of {hash}");
            Ok(())
        })
        .await;
    }
    let store = eventually("the scrub is over, and all is healed", async || {
        let store = a.get("/status").await["store"].clone();
        let last = (&store["scrub"]["last"]["found"], &store["scrub"]["last"]["healed"]);
        if last == (&json!(60), &json!(60)) { Ok(store) } else { Err(store.to_string()) }
    })
    .await;
    assert_eq!((&store["damaged"], &store["damaged_contents"]), (&json!(0), &json!([])));
}
