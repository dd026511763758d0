//! Agents in front of `can-service` processes: the same mirror, with the stores elsewhere.

use can_sync::testing::store::can_http::CanHttpStore;
use can_sync::testing::store::service::BASE_PATH;
use can_sync::testing::store::{ContentStore as _, ItemOutcome};
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::net::TcpSocket;

use crate::support::daemon::{Daemon, list, yaml};
use crate::support::embedded::{content_path, copy_dir};
use crate::support::nodes::{PASSPHRASE, eventually};
use crate::support::ports::kept;
use crate::support::service::{KEY, ServiceProcess, client};

/// A store with its agent.
struct Side {
    dir: TempDir,
    service: Option<ServiceProcess>,
    /// Where the store is, across its restarts.
    addr: String,
    /// While it is down.
    port: Option<TcpSocket>,
    agent: Daemon,
}

fn config(addr: &str, key: &str) -> String {
    yaml(&format!(
        "sync_passphrase: {PASSPHRASE}\ncan_service_url: http://{addr}\nsync_api_key: {key}\nreplicate_deletes: true"
    ))
}

impl Side {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let service = ServiceProcess::start(dir.path(), "127.0.0.1:0");
        let addr = service.addr.to_string();
        let agent = Daemon::start(&config(&addr, KEY));
        Self { dir, service: Some(service), addr, port: None, agent }
    }

    /// kill -9.
    fn kill_service(&mut self) {
        self.service = None;
        self.port = kept(self.addr.parse().expect("an address"));
    }

    fn start_service(&mut self) {
        self.service = Some(ServiceProcess::start(self.dir.path(), &self.addr));
        self.port = None;
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{BASE_PATH}{path}", self.addr)
    }

    async fn ingest(&self, seed: usize, len: usize) -> String {
        ingest_into(&self.url("/ingest"), seed, len).await
    }

    async fn service_status(&self) -> Value {
        let answer = client().get(self.url("/status")).send().await.expect("an answer");
        answer.json::<Value>().await.expect("JSON")["data"].take()
    }

    async fn store_seq(&self) -> u64 {
        self.service_status().await["seq"].as_u64().expect("a number")
    }

    async fn assets(&self) -> Vec<Value> {
        list(&client(), &self.url("")).await
    }

    async fn meta(&self, hash: &str) -> Value {
        let answer = client().get(self.url(&format!("/asset/{hash}/meta"))).send().await.expect("an answer");
        answer.json::<Value>().await.expect("JSON")["data"].take()
    }

    async fn has(&self, count: usize) {
        eventually("everything is there", async || {
            let n = self.assets().await.len();
            (n == count).then_some(()).ok_or_else(|| format!("{n} of {count}; {}", self.agent.stderr()))
        })
        .await;
    }

    async fn status(&self) -> Value {
        self.agent.get("/status").await
    }

    /// Waits until the agent says that its store is away, and why.
    async fn paused(&self) {
        let status = eventually("paused", async || {
            let status = self.status().await;
            (status["sync"]["state"] == "paused").then_some(status.clone()).ok_or_else(|| status.to_string())
        })
        .await;
        let reason = status["sync"]["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(&self.addr), "which store: {status}");
        assert_eq!(status["store"]["healthy"], false, "{status}");
        let ran = self.agent.run(&["status"]);
        assert_eq!(ran.code, 4, "degraded: {}", ran.text());
        let ready = client().get(self.agent.url("/readyz")).send().await.expect("an answer");
        assert_eq!(ready.status(), 503);
        let alive = client().get(self.agent.url("/healthz")).send().await.expect("an answer");
        assert_eq!(alive.status(), 200);
    }
}

async fn ingest_into(url: &str, seed: usize, len: usize) -> String {
    let mut content = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut content);
    let form = Form::new()
        .text("tags", "b,a")
        .text("description", format!("number {seed}"))
        .part("file", Part::bytes(content).file_name("file.bin"));
    let answer = client().post(url).multipart(form).send().await.expect("an answer");
    assert_eq!(answer.status(), 201);
    let answer: Value = answer.json().await.expect("JSON");
    answer["data"]["hash"].as_str().expect("a hash").to_owned()
}

/// Both hold the same, and every content is what its name says.
async fn assert_same(a: &Side, b: &Side, count: usize) {
    tokio::join!(a.agent.wait_in_sync(), b.agent.wait_in_sync());
    let (of_a, of_b) = (a.assets().await, b.assets().await);
    assert_eq!(of_a.len(), count);
    assert_eq!(of_a, of_b);
    for asset in &of_a {
        let hash = asset["hash"].as_str().expect("a hash");
        for side in [a, b] {
            let content = client().get(side.url(&format!("/asset/{hash}"))).send().await.expect("an answer");
            let content = content.bytes().await.expect("a body");
            assert_eq!(data_encoding::HEXLOWER.encode(&Sha256::digest(&content)), hash);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_fetches_what_its_service_does_not_hold() {
    let (a, b) = (Side::start(), Side::start());
    let hash = a.ingest(1, 700_000).await;
    let [of_a, of_b] = [&a, &b]
        .map(|side| CanHttpStore::new(&format!("http://{}", side.addr), &KEY.into()).expect("a client"));
    let named = vec![hash.parse().expect("a hash")];
    let record = of_a.records(named.clone()).await.expect("records").pop().expect("one").record;
    // b knows of it, does not want it, and has nothing in its trash.
    assert_eq!(of_b.take_absent(vec![record]).await, Ok(vec![ItemOutcome::Absent]));
    of_b.let_go(named).await.expect("let go");
    b.agent.dial(&a.agent).await;
    tokio::join!(a.agent.wait_in_sync(), b.agent.wait_in_sync());
    let at_agent = |query: &str| b.agent.url(&format!("/store/asset/{hash}{query}"));
    let alone = client().get(b.url(&format!("/asset/{hash}"))).send().await.expect("an answer");
    assert_eq!(alone.status(), 404, "a service without an agent has nobody to ask");
    let local = client().get(at_agent("?local=true")).send().await.expect("an answer");
    assert_eq!(local.status(), 404);
    let part =
        client().get(at_agent("")).header("Range", "bytes=600000-600099").send().await.expect("an answer");
    assert_eq!(part.status(), 206);
    let whole = client().get(a.url(&format!("/asset/{hash}"))).send().await.expect("an answer");
    let whole = whole.bytes().await.expect("a body");
    assert!(part.bytes().await.expect("a body") == whole[600_000..600_100]);
    let alone = client().get(b.url(&format!("/asset/{hash}"))).send().await.expect("an answer");
    assert!(alone.bytes().await.expect("a body") == whole, "and it stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_service_has_damaged_comes_from_a_peer() {
    let (a, b) = (Side::start(), Side::start());
    let hash = a.ingest(1, 400_000).await;
    b.agent.dial(&a.agent).await;
    b.has(1).await;
    tokio::join!(a.agent.wait_in_sync(), b.agent.wait_in_sync());
    let path = content_path(&b.dir.path().join("store"), hash.parse().expect("a hash"));
    let damage = || std::fs::write(&path, vec![0; 400_000]).expect("damaged");
    let read = async |base: &Side, query: &str| {
        let url = base.agent.url(&format!("/store/asset/{hash}{query}"));
        client().get(url).send().await.expect("an answer")
    };
    damage();
    let refused = read(&b, "?local=true").await;
    assert_eq!(refused.status(), 500);
    assert_eq!(refused.json::<Value>().await.expect("JSON")["code"], "corrupt");
    let whole = read(&a, "").await.bytes().await.expect("a body");
    let answer = read(&b, "").await;
    assert_eq!(answer.status(), 200);
    assert!(answer.bytes().await.expect("a body") == whole);
    // As with a store in the same process: that it is damaged is worth more to know than that nobody else has it.
    drop(a);
    damage();
    let refused = read(&b, "").await;
    assert_eq!(refused.status(), 500);
    let refused: Value = refused.json().await.expect("JSON");
    assert_eq!(refused["code"], "corrupt", "{refused}");
}

const SIZES: [usize; 8] = [0, 1, 700, 20_000, 65_536, 65_537, 400_000, 2_000_000];

#[tokio::test(flavor = "multi_thread")]
async fn two_services_are_mirrored_and_stay_so() {
    let (a, b) = (Side::start(), Side::start());
    let mut count = 0;
    for seed in 0..40 {
        let side = if seed % 2 == 0 { &a } else { &b };
        // Everyone has the same empty content.
        count += usize::from(SIZES[seed % 8] > 0 || seed == 0);
        if SIZES[seed % 8] > 0 || seed == 0 {
            side.ingest(seed, SIZES[seed % 8]).await;
        }
    }
    b.agent.dial(&a.agent).await;
    a.has(count).await;
    b.has(count).await;
    assert_same(&a, &b, count).await;
    assert_eq!(a.status().await["store"]["mode"], "external");

    let hash = a.ingest(1_000, 64).await;
    b.has(count + 1).await;
    let edit = json!({ "tags": ["new"], "description": null });
    let answer = client().patch(b.url(&format!("/asset/{hash}/meta"))).json(&edit).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    eventually("the edit comes back", async || {
        let meta = a.meta(&hash).await;
        let there = meta["tags"] == json!(["new"]) && meta["description"] == json!(null);
        there.then_some(()).ok_or_else(|| meta.to_string())
    })
    .await;
    assert_same(&a, &b, count + 1).await;
    for side in [&a, &b] {
        assert!(!side.agent.data_dir().join("store").exists(), "nothing is kept twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_killed_costs_delay_and_nothing_else() {
    let (mut a, mut b) = (Side::start(), Side::start());
    let mut count = 0;
    for seed in 0..60 {
        a.ingest(seed, SIZES[1 + seed % 7]).await;
        count += 1;
    }
    b.agent.dial(&a.agent).await;
    // The receiver's store, in the middle of the transfer.
    eventually("some have arrived", async || {
        let n = b.assets().await.len();
        (n > 0).then_some(()).ok_or_else(|| n.to_string())
    })
    .await;
    b.kill_service();
    b.paused().await;
    for seed in 60..70 {
        a.ingest(seed, 10_000).await;
        count += 1;
    }
    b.start_service();
    b.has(count).await;

    // The sender's, while the other side goes on.
    a.kill_service();
    a.paused().await;
    for seed in 70..80 {
        b.ingest(seed, 10_000).await;
        count += 1;
    }
    a.start_service();
    a.has(count).await;
    assert_same(&a, &b, count).await;
    eventually("no longer paused", async || {
        let status = b.status().await;
        (status["sync"]["state"] == "in_sync" && status["store"]["healthy"] == true)
            .then_some(())
            .ok_or_else(|| status.to_string())
    })
    .await;
    for side in [&a, &b] {
        eventually("nothing is left lying about", async || {
            let left = std::fs::read_dir(side.agent.data_dir().join("partial")).unwrap().count();
            (left == 0).then_some(()).ok_or_else(|| left.to_string())
        })
        .await;
        let tree = side.agent.get("/actors").await;
        for child in tree["children"].as_array().unwrap() {
            assert_eq!(child["restarts"], 0, "nobody crashed over it: {tree}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_said_and_mended_by_the_right_one() {
    let a = Side::start();
    a.ingest(1, 5_000).await;
    let wrong = Daemon::start(&config(&a.addr, "not-the-key"));
    // The store itself is well; it is the agent that it does not let in.
    let status = eventually("paused", async || {
        let status = wrong.get("/status").await;
        (status["sync"]["state"] == "paused"
            && status["sync"]["reason"].as_str().is_some_and(|r| r.contains("key")))
        .then_some(status.clone())
        .ok_or_else(|| status.to_string())
    })
    .await;
    let reason = status["sync"]["reason"].as_str().unwrap();
    assert!(reason.contains("sync_api_key") && reason.contains(&a.addr), "{reason}");
    eventually("the log", async || {
        let log = wrong.stderr();
        let told = log.lines().any(|line| line.contains("WARN") && line.contains("sync_api_key"));
        told.then_some(()).ok_or(log)
    })
    .await;
    let ran = wrong.run(&["status"]);
    assert_eq!(ran.code, 4);
    assert!(ran.stderr.contains("sync_api_key"), "{}", ran.stderr);
    assert!(!wrong.stderr().contains("not-the-key") && !reason.contains("not-the-key"), "keys are secret");

    let b = Side::start();
    let user = wrong.into_user();
    user.write("config.yaml", config(&a.addr, KEY));
    let right = Daemon::start_as(user);
    right.dial(&b.agent).await;
    b.has(1).await;
}

#[tokio::test]
async fn a_store_of_its_own_scrubs_itself_and_commands_follow_it() {
    let side = Side::start();
    let mut hashes = Vec::new();
    for (seed, len) in [(1, 100), (2, 300_000), (3, 900_000)] {
        hashes.push(side.ingest(seed, len).await);
    }
    let clean = side.agent.ok(&["scrub", "--json"]).json().remove(0);
    assert_eq!((&clean["checked"], &clean["damaged"]), (&json!(3), &json!([])), "{clean}");
    assert_eq!(clean["without_record"], 0, "the service itself looked: {clean}");
    let path =
        crate::support::embedded::content_path(&side.dir.path().join("store"), hashes[1].parse().unwrap());
    std::fs::write(&path, vec![0; 300_000]).unwrap();
    let found = side.agent.run(&["scrub", "--rate", "500", "--json"]);
    assert_eq!(found.code, 1, "{}", found.stderr);
    let damaged = found.json().remove(0)["damaged"].clone();
    assert_eq!(
        (damaged[0]["hash"].as_str(), damaged[0]["name"].as_str()),
        (Some(hashes[1].as_str()), Some("file.bin"))
    );
    eventually("the agent knows", async || {
        let store = side.status().await["store"].clone();
        let last = &store["scrub"]["last"];
        let lost = &store["damaged_contents"][0];
        let is_known = last["found"] == 1 && last["checked"] == 3 && lost["hash"] == hashes[1].as_str();
        (is_known && lost["is_within_reach"] == false).then_some(()).ok_or_else(|| store.to_string())
    })
    .await;
    let shown = side.agent.ok(&["status"]);
    assert!(
        shown.text().contains("everything was checked")
            && shown.text().contains("nobody who is connected has it"),
        "{}",
        shown.text()
    );
}

/// The store is set back behind the running agent, and has passed the agent's number before anybody looks: what is put then,
/// reaches the peer, and what the store lost comes back from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_set_back_behind_its_agent_is_read_again_and_made_whole() {
    let (mut a, b) = (Side::start(), Side::start());
    for seed in 0..10 {
        a.ingest(seed, SIZES[1 + seed % 7]).await;
    }
    let edited = a.ingest(100, 64).await;
    let deleted = a.ingest(101, 64).await;
    b.agent.dial(&a.agent).await;
    b.has(12).await;
    a.kill_service();
    let backup = tempfile::tempdir().unwrap();
    copy_dir(a.dir.path(), backup.path());
    a.start_service();
    for seed in 10..40 {
        a.ingest(seed, SIZES[1 + seed % 7]).await;
    }
    let edit = json!({ "description": "after the backup" });
    let answer = client().patch(a.url(&format!("/asset/{edited}/meta"))).json(&edit).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer = client().delete(a.url(&format!("/asset/{deleted}"))).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    b.has(41).await;
    tokio::join!(a.agent.wait_in_sync(), b.agent.wait_in_sync());
    let last = a.store_seq().await;

    a.kill_service();
    std::fs::remove_dir_all(a.dir.path().join("store")).unwrap();
    copy_dir(&backup.path().join("store"), &a.dir.path().join("store"));
    a.start_service();
    for seed in 200..260 {
        a.ingest(seed, 500).await;
    }
    b.has(101).await;
    a.has(101).await;
    assert_same(&a, &b, 101).await;
    assert_eq!(a.meta(&edited).await["description"], "after the backup");
    assert_eq!(b.meta(&edited).await["description"], "after the backup");
    // Whoever watched the store itself begins again, too.
    let answer = client().get(a.url(&format!("/events?since={last}"))).send().await.unwrap();
    assert_eq!(first_event(answer).await, "reset");
}

/// A store made anew under the same address, whose numbers have passed the agent's before anybody looks.
#[tokio::test(flavor = "multi_thread")]
async fn another_store_under_the_same_address_is_read_from_its_beginning() {
    let (mut a, b) = (Side::start(), Side::start());
    for seed in 0..20 {
        a.ingest(seed, SIZES[1 + seed % 7]).await;
    }
    b.agent.dial(&a.agent).await;
    b.has(20).await;
    tokio::join!(a.agent.wait_in_sync(), b.agent.wait_in_sync());
    let before = a.service_status().await;
    a.kill_service();
    std::fs::remove_dir_all(a.dir.path().join("store")).unwrap();
    // Filled elsewhere, before the agent can see any of it.
    let filling = ServiceProcess::start(a.dir.path(), "127.0.0.1:0");
    for seed in 300..360 {
        ingest_into(&format!("http://{}{BASE_PATH}/ingest", filling.addr), seed, 500).await;
    }
    drop(filling);
    a.start_service();
    let after = a.service_status().await;
    assert_ne!(before["store_id"], after["store_id"]);
    a.has(80).await;
    b.has(80).await;
    assert_same(&a, &b, 80).await;
    assert_eq!(a.status().await["store"]["id"], after["store_id"]);
    let id = before["store_id"].as_str().unwrap();
    let answer = client().get(a.url(&format!("/events?since=3&store={id}"))).send().await.unwrap();
    assert_eq!(first_event(answer).await, "reset");
}

/// The name of the first event of a stream.
async fn first_event(mut answer: reqwest::Response) -> String {
    let mut text = String::new();
    while !text.contains("\n\n") {
        let chunk = answer.chunk().await.expect("a chunk").expect("an event, not the end");
        text.push_str(std::str::from_utf8(&chunk).expect("text"));
    }
    let name = text.lines().find_map(|line| line.strip_prefix("event: ").or(line.strip_prefix("event:")));
    name.expect("its name").to_owned()
}
