//! Folders of agents whose stores are `can-service` processes: two of them, one that two agents share, and one that keeps no folders.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use can_sync::testing::clock::Clock;
use can_sync::testing::entry::{FolderId, FolderRecord};
use can_sync::testing::http::serve;
use can_sync::testing::record::WriterId;
use can_sync::testing::store::ContentStore as _;
use can_sync::testing::store::embedded::{EmbeddedConfig, EmbeddedStore};
use can_sync::testing::store::entries::EntryQuery;
use can_sync::testing::store::service::{ServiceSettings, router};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::support::bound::{has_files, put_file};
use crate::support::daemon::{Daemon, yaml};
use crate::support::files::files;
use crate::support::nodes::{PASSPHRASE, eventually};
use crate::support::ports::kept;
use crate::support::service::{KEY, ServiceProcess};

/// An agent of some service, with a directory.
struct Agent {
    daemon: Daemon,
    dir: PathBuf,
}

impl Agent {
    fn start(addr: &str, name: &str) -> Self {
        Self::start_of(addr, name, PASSPHRASE)
    }

    fn start_of(addr: &str, name: &str, passphrase: &str) -> Self {
        let daemon = Daemon::start(&yaml(&format!(
            "name: {name}\nsync_passphrase: {passphrase}\ncan_service_url: http://{addr}\nsync_api_key: {KEY}"
        )));
        let dir = daemon.user.home().join("Photos");
        fs::create_dir(&dir).expect("a directory");
        Self { daemon, dir }
    }

    fn put(&self, name: &str, content: &str) {
        put_file(&self.dir.join(name), content);
    }

    async fn add(&self) -> Value {
        self.daemon.post("/folders", &json!({ "path": self.dir, "name": "photos" })).await
    }

    async fn report(&self) -> Value {
        self.daemon.get("/folders/photos").await
    }

    async fn act(&self, action: &str) {
        self.daemon.post("/folders/photos/actions", &json!({ "action": action })).await;
    }

    async fn says(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        eventually(what, async || {
            let report = self.report().await;
            is_so(&report).then_some(()).ok_or_else(|| report.to_string())
        })
        .await;
    }

    /// Waits until the directory has these files, and no others.
    async fn has(&self, expected: &[(&str, &str)]) {
        has_files(&self.dir, expected, async || format!("{}, {}", self.report().await, self.daemon.stderr()))
            .await;
    }

    async fn knows(&self) {
        eventually("the folder is known", async || {
            let known = self.daemon.get("/folders").await["known"].clone();
            known
                .as_array()
                .is_some_and(|known| known.len() == 1)
                .then_some(())
                .ok_or_else(|| known.to_string())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_are_kept_alike_through_two_services() {
    let dirs = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
    let service = ServiceProcess::start(dirs[0].path(), "127.0.0.1:0");
    let mut other = Some(ServiceProcess::start(dirs[1].path(), "127.0.0.1:0"));
    let other_addr = other.as_ref().expect("a service").addr.to_string();
    let (a, b) = (Agent::start(&service.addr.to_string(), "a"), Agent::start(&other_addr, "b"));
    b.daemon.dial(&a.daemon).await;
    a.put("one.txt", "one");
    let big = "0123456789".repeat(40_000);
    b.put("big.txt", &big);
    a.add().await;
    b.knows().await;
    b.add().await;
    let all = [("one.txt", "one"), ("big.txt", big.as_str())];
    a.has(&all).await;
    b.has(&all).await;
    // Its service is away while somebody works, on both sides.
    drop(other.take());
    let port = kept(other_addr.parse().expect("an address"));
    b.put("one.txt", "one of b");
    a.put("two.txt", "two");
    fs::rename(a.dir.join("big.txt"), a.dir.join("large.txt")).expect("it was there");
    a.says("it is in the store", |report| report["entries"] == 3).await;
    assert_eq!(files(&b.dir).len(), 2, "nothing is concluded");
    let _other = ServiceProcess::start(dirs[1].path(), &other_addr);
    drop(port);
    let all = [("one.txt", "one of b"), ("two.txt", "two"), ("large.txt", big.as_str())];
    a.has(&all).await;
    b.has(&all).await;
    fs::remove_file(b.dir.join("two.txt")).expect("it was there");
    a.has(&[("one.txt", "one of b"), ("large.txt", &big)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_read_by_ticket_through_two_services() {
    let dirs = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
    let services = dirs.each_ref().map(|dir| ServiceProcess::start(dir.path(), "127.0.0.1:0"));
    let owner = Agent::start(&services[0].addr.to_string(), "owner");
    let reader =
        Agent::start_of(&services[1].addr.to_string(), "reader", "another passphrase, and a long one");
    owner.put("one.txt", "one");
    owner.add().await;
    owner.says("all is agreed", |report| report["state"] == "idle" && report["entries"] == 1).await;
    owner.daemon.ok(&["library", "create", "shared", "--folder", "photos"]);
    let invited = owner.daemon.ok(&["library", "invite", "shared", "--json"]);
    let invited: Value = serde_json::from_slice(&invited.stdout).expect("JSON");
    reader.daemon.ok(&["join", invited["ticket"].as_str().expect("a ticket")]);
    reader.knows().await;
    assert_eq!(reader.add().await["data"]["mode"], "read-only");
    reader.has(&[("one.txt", "one")]).await;
    reader.put("mine.txt", "mine");
    owner.put("two.txt", "two");
    reader.has(&[("one.txt", "one"), ("two.txt", "two"), ("mine.txt", "mine")]).await;
    eventually("its own file is told of", async || {
        let status = reader.daemon.ok(&["folder", "status"]).text().to_owned();
        status.contains("mine.txt").then_some(()).ok_or(status)
    })
    .await;
    owner.has(&[("one.txt", "one"), ("two.txt", "two")]).await;
}

/// Who wrote each path of a folder.
async fn writers(service: &ServiceProcess, folder: FolderId) -> BTreeSet<WriterId> {
    let query = EntryQuery { folder: Some(folder), prefix: String::new(), cursor: None, limit: 1000 };
    let page = service.remote().entries(query).await.expect("a page");
    page.records.iter().filter(|record| !record.path().is_empty()).map(FolderRecord::writer).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_of_one_service_write_each_by_its_own_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = ServiceProcess::start(dir.path(), "127.0.0.1:0");
    let addr = service.addr.to_string();
    let (a, b) = (Agent::start(&addr, "a"), Agent::start(&addr, "b"));
    a.put("a.txt", "of a");
    a.add().await;
    b.knows().await;
    b.put("b.txt", "of b");
    b.add().await;
    for agent in [&a, &b] {
        agent.has(&[("a.txt", "of a"), ("b.txt", "of b")]).await;
    }
    let report = a.report().await;
    let id = data_encoding::HEXLOWER.decode(report["folder"].as_str().expect("an id").as_bytes());
    let folder = FolderId(id.expect("hexadecimal").try_into().expect("32 bytes"));
    assert_eq!(writers(&service, folder).await.len(), 2);
    // An edit, a rename and a removal, each on one, show on the other.
    b.put("a.txt", "of both");
    a.has(&[("a.txt", "of both"), ("b.txt", "of b")]).await;
    fs::rename(a.dir.join("b.txt"), a.dir.join("c.txt")).expect("it was there");
    b.has(&[("a.txt", "of both"), ("c.txt", "of b")]).await;
    fs::remove_file(b.dir.join("c.txt")).expect("it was there");
    a.has(&[("a.txt", "of both")]).await;
    // Edited apart, although there is one store: both contents stay.
    for agent in [&a, &b] {
        agent.says("all is agreed", |report| report["state"] == "idle").await;
        agent.act("pause").await;
    }
    a.put("a.txt", "by a alone");
    b.put("a.txt", "by b alone");
    a.act("resume").await;
    a.says("it is in the store", |report| report["state"] == "idle").await;
    b.act("resume").await;
    for agent in [&a, &b] {
        eventually("both versions are there", async || {
            let found = files(&agent.dir);
            let contents: BTreeSet<&str> = found.values().map(String::as_str).collect();
            (contents == BTreeSet::from(["by a alone", "by b alone"]) && found.contains_key("a.txt"))
                .then_some(())
                .ok_or_else(|| format!("{found:?}"))
        })
        .await;
    }
    eventually("they are alike", async || {
        let (of_a, of_b) = (files(&a.dir), files(&b.dir));
        (of_a == of_b).then_some(()).ok_or_else(|| format!("{of_a:?} {of_b:?}"))
    })
    .await;
}

/// Answers as a service from before folders.
async fn without_folders(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    if path.contains("/sync/entries") {
        return axum::http::StatusCode::NOT_FOUND.into_response();
    }
    let answer = next.run(request).await;
    if !path.ends_with("/status") {
        return answer;
    }
    let (mut parts, body) = answer.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    let mut status: Value = serde_json::from_slice(&body).expect("JSON");
    status["data"].as_object_mut().expect("an object").remove("keeps_entries");
    parts.headers.remove("content-length");
    Response::from_parts(parts, Body::from(status.to_string()))
}

/// A service from before folders; lives as long as the test.
async fn older_service(dir: &TempDir) -> String {
    let config =
        EmbeddedConfig { dir: dir.path().join("store"), disk_reserve_bytes: 0, clock: Clock::system() };
    let store = EmbeddedStore::open(config).await.expect("a store");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("an address");
    let router = router(store, ServiceSettings::new(KEY.into(), addr)).layer(from_fn(without_folders));
    tokio::spawn(serve(listener, router, std::future::pending()));
    addr.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_keeps_no_folders_is_named() {
    let dirs = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
    let older = older_service(&dirs[0]).await;
    let service = ServiceProcess::start(dirs[1].path(), "127.0.0.1:0");
    let agent = Agent::start_of(&older, "reader", "another passphrase, and a long one");
    agent.put("one.txt", "one");
    let path = agent.dir.to_str().expect("a path").to_owned();
    for command in [
        vec!["folder", "add", &path, "--name", "photos"],
        vec!["library", "create", "shared", "--folder", "photos"],
    ] {
        let ran = agent.daemon.run(&command);
        assert!(ran.code != 0 && ran.stderr.contains(&older), "{command:?}: {}", ran.stderr);
    }
    assert!(!agent.dir.join(".can-sync-folder").exists(), "nothing was bound");
    let listed = agent.daemon.get("/folders").await;
    assert_eq!((&listed["folders"], &listed["known"]), (&json!([]), &json!([])), "{listed}");
    assert_eq!(listed["known_problem"]["code"], "no_folders", "{listed}");
    assert_eq!(agent.add().await["code"], "no_folders");
    let ran = agent.daemon.ok(&["folder", "list"]);
    assert!(ran.stderr.contains(&older) && ran.stderr.contains("update the program"), "{}", ran.stderr);
    let ran = agent.daemon.run(&["export", "out", "--folder", "photos"]);
    assert!(ran.code == 1 && ran.stderr.contains(&older), "{} {}", ran.code, ran.stderr);
    // A ticket of a folder is not taken either.
    let owner = Agent::start(&service.addr.to_string(), "owner");
    owner.add().await;
    owner.says("all is agreed", |report| report["state"] == "idle").await;
    owner.daemon.ok(&["library", "create", "shared", "--folder", "photos"]);
    let invited = owner.daemon.ok(&["library", "invite", "shared", "--json"]);
    let invited: Value = serde_json::from_slice(&invited.stdout).expect("JSON");
    let ran = agent.daemon.run(&["join", invited["ticket"].as_str().expect("a ticket")]);
    assert!(ran.code != 0 && ran.stderr.contains(&older), "{}", ran.stderr);
    // Its assets go on all the same.
    let agent_of_network = Agent::start(&older, "beside");
    agent_of_network.daemon.dial(&owner.daemon).await;
    owner.put("two.txt", "two");
    owner.says("it is in the store", |report| report["entries"] == 1).await;
    agent_of_network.daemon.wait_in_sync().await;
}
