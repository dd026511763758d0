//! Whole nodes in this process, on loopback, with directories of their own: real QUIC, real SQLite, real HTTP.

use std::time::Duration;

use can_sync::testing::config::{Config, Origins, RelaySetting, SettingSources};
use can_sync::testing::node::signals::Signals;
use can_sync::testing::node::{ActorStarts, Node, Shutdown, StartOutput};
use can_sync::testing::peer::args::SpawnPeer;
use can_sync::testing::store::can_http::CanHttpStore;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::clock::SetClock;
use super::daemon;
use super::ports::KeptPorts;

/// Long enough for a loaded machine; nothing waits for all of it unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_mins(3);
/// The network of most tests.
pub(crate) const PASSPHRASE: &str = "seven sleepy otters juggle quiet lanterns tonight";

/// A node with its configuration, so that it can be started again.
pub(crate) struct TestNode {
    _dir: TempDir,
    pub(crate) config: Config,
    node: Option<Node>,
    /// While it is down.
    ports: Option<KeptPorts>,
    starts: ActorStarts,
    clock: SetClock,
    pub(crate) http: reqwest::Client,
}

/// A configuration that touches nothing but loopback and `dir`.
pub(crate) fn config(name: &str, dir: &TempDir) -> Config {
    let mut config = Config::load(&SettingSources::default()).expect("defaults are valid").config;
    name.clone_into(&mut config.name);
    config.data_dir = dir.path().join("data");
    config.listen_addr = "127.0.0.1:0".parse().expect("an address");
    config.can_listen_addr = "127.0.0.1:0".parse().expect("an address");
    config.bind_addr = "127.0.0.1:0".parse().expect("an address");
    config.relay_url = RelaySetting::Disabled;
    config.discovery.pkarr_relays = Vec::new();
    config.discovery.dht = false;
    config.discovery.mdns = false;
    config.sync_passphrase = Some(PASSPHRASE.into());
    config.limits.disk_reserve_bytes = 0;
    config
}

impl TestNode {
    /// Starts a node; `adjust` changes its configuration first.
    pub(crate) async fn start(name: &str, adjust: impl FnOnce(&mut Config)) -> Self {
        Self::start_by(name, &SetClock::right(), adjust).await
    }

    /// As [`Self::start`], for many at once.
    pub(crate) async fn start_owned(name: String, adjust: impl FnOnce(&mut Config)) -> Self {
        Self::start(&name, adjust).await
    }

    /// As [`Self::start`], with PeerActors of the test's own.
    pub(crate) async fn start_with(
        name: &str,
        spawn_peer: SpawnPeer,
        adjust: impl FnOnce(&mut Config),
    ) -> Self {
        Self::start_as(name, ActorStarts { peer: spawn_peer, ..ActorStarts::default() }, adjust).await
    }

    /// As [`Self::start`], with such actors of the test's own.
    pub(crate) async fn start_as(name: &str, starts: ActorStarts, adjust: impl FnOnce(&mut Config)) -> Self {
        Self::start_all(name, SetClock::right(), starts, adjust).await
    }

    /// As [`Self::start`], on a machine with this clock.
    pub(crate) async fn start_by(name: &str, clock: &SetClock, adjust: impl FnOnce(&mut Config)) -> Self {
        Self::start_all(name, clock.clone(), ActorStarts::default(), adjust).await
    }

    async fn start_all(
        name: &str,
        clock: SetClock,
        starts: ActorStarts,
        adjust: impl FnOnce(&mut Config),
    ) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut config = config(name, &dir);
        adjust(&mut config);
        // Whatever made a client first has installed the same provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let mut node = Self { _dir: dir, config, node: None, ports: None, starts, clock, http };
        node.boot().await;
        node
    }

    /// Starts it again on the same directory and ports.
    pub(crate) async fn boot(&mut self) {
        let output = StartOutput {
            origins: Origins::new(),
            progress: Box::new(|_| {}),
            // Nobody sends any.
            signals: Some(Signals::from_stream(futures::stream::pending())),
            clock: self.clock.start(),
        };
        let (config, starts) = (self.config.clone(), self.starts.clone());
        self.ports = None;
        let node = Box::pin(Node::start_with(config, output, starts)).await.expect("the node starts");
        self.config.listen_addr = node.api_addr();
        self.node = Some(node);
    }

    /// Stops it in order.
    pub(crate) async fn stop(&mut self) -> Shutdown {
        let node = self.node.take().expect("a running node");
        let (ticket, api) = (node.ticket(), node.api_addr());
        node.stop("the test wants it");
        let shutdown = node.wait().await;
        self.ports = Some(KeptPorts::of(&ticket, api));
        shutdown
    }

    pub(crate) fn node(&self) -> &Node {
        self.node.as_ref().expect("a running node")
    }

    pub(crate) fn ticket(&self) -> String {
        self.node().ticket()
    }

    pub(crate) fn id(&self) -> String {
        self.node().endpoint_id().to_string()
    }

    /// `POST /peers` with the other node's ticket.
    pub(crate) async fn dial(&self, other: &Self) {
        let ticket = other.ticket();
        // On a busy machine, its actor may take longer than the two seconds that the API gives it.
        eventually("it is asked to dial", async || {
            let answer = self.post("/peers", json!({ "ticket": ticket })).await;
            (answer["status"] == "success").then_some(()).ok_or_else(|| answer.to_string())
        })
        .await;
    }

    /// An answer of the agent's API.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let url = format!("http://{}{path}", self.node().api_addr());
        self.http.get(url).send().await.expect("an answer").json().await.expect("JSON")
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        let url = format!("http://{}{path}", self.node().api_addr());
        self.http.post(url).json(&body).send().await.expect("an answer").json().await.expect("JSON")
    }

    /// The node's entry about another one.
    pub(crate) async fn peer(&self, other: &str) -> Value {
        self.get(&format!("/peers/{other}")).await["data"].clone()
    }

    /// Stores an asset over HTTP; its hash.
    pub(crate) async fn ingest(&self, content: impl Into<Vec<u8>>, fields: &[(&str, &str)]) -> String {
        let file = Part::bytes(content.into()).file_name("file.bin");
        let mut form = Form::new();
        for (name, value) in fields {
            form = form.text((*name).to_owned(), (*value).to_owned());
        }
        let url = format!("{}/ingest", self.node().store_url());
        let answer: Value = self
            .http
            .post(url)
            .multipart(form.part("file", file))
            .send()
            .await
            .expect("an answer")
            .json()
            .await
            .expect("JSON");
        answer["data"]["hash"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// An answer of the CAN Service.
    pub(crate) async fn store(&self, path: &str) -> Value {
        let url = format!("{}{path}", self.node().store_url());
        self.http.get(url).send().await.expect("an answer").json().await.expect("JSON")
    }

    /// A content, if it can be read to its end: where damage is found on the way, the answer ends early.
    pub(crate) async fn content(&self, hash: &str) -> Option<Vec<u8>> {
        let url = format!("{}/asset/{hash}", self.node().store_url());
        let answer = self.http.get(url).send().await.expect("an answer");
        let found = answer.status().is_success();
        let body = answer.bytes().await.ok();
        body.filter(|_| found).map(|body| body.to_vec())
    }

    /// Every asset as the store lists it, by hash, without what differs between stores.
    pub(crate) async fn assets(&self) -> Vec<Value> {
        daemon::list(&self.http, &self.node().store_url()).await
    }

    /// The hashes of the assets whose contents are here, the oldest first.
    pub(crate) async fn held(&self) -> Vec<String> {
        let page = self.store("/list?held=true&limit=1000&order=oldest").await;
        let assets = page["data"]["assets"].as_array().expect("a list");
        assets.iter().map(|asset| asset["hash"].as_str().expect("a hash").to_owned()).collect()
    }

    /// The store, as an agent sees it.
    pub(crate) fn sync_store(&self) -> CanHttpStore {
        let key = std::fs::read_to_string(self.config.data_dir.join("sync_api_key")).expect("a key");
        CanHttpStore::new(&self.node().store_url(), &key.trim().into()).expect("a client")
    }

    /// Waits until there are so many assets.
    pub(crate) async fn holds(&self, count: usize) {
        eventually("so many assets", async || {
            let held = self.assets().await.len();
            (held == count).then_some(()).ok_or_else(|| format!("{held} of {count}"))
        })
        .await;
    }

    /// Waits until a fresh comparison with every connected peer finds nothing missing on either side.
    pub(crate) async fn wait_in_sync(&self) {
        let _ = self.post("/verify", json!({})).await;
        eventually("in sync", async || {
            let status = self.get("/status").await;
            (status["data"]["sync"]["state"] == "in_sync").then_some(()).ok_or_else(|| status.to_string())
        })
        .await;
    }
}

impl TestNode {
    /// As [`Self::wait_in_sync`], and until so many contents are wanted that nobody gives.
    pub(crate) async fn wait_lacking(&self, count: u64) {
        let _ = self.post("/verify", json!({})).await;
        eventually("nothing but these is missing", async || {
            let sync = self.get("/status").await["data"]["sync"].clone();
            let is_all = sync["state"] == "in_sync" && sync["absent"] == count;
            is_all.then_some(()).ok_or_else(|| format!("{count}: {sync}"))
        })
        .await;
    }
}

/// Tries until it succeeds; the last failure is in the panic.
pub(crate) async fn eventually<T>(what: &str, attempt: impl AsyncFnMut() -> Result<T, String>) -> T {
    eventually_within(DEADLINE, what, attempt).await
}

/// As [`eventually`], for this long.
pub(crate) async fn eventually_within<T>(
    limit: Duration,
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(last) if Instant::now() > deadline => panic!("{what}: {last}"),
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}
