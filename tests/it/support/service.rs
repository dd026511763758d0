//! A CAN Service for tests: in this process on a free port, or as a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use super::nodes::{DEADLINE, eventually};
use can_sync::testing::clock::Clock;
use can_sync::testing::http::serve;
use can_sync::testing::store::can_http::CanHttpStore;
use can_sync::testing::store::embedded::{EmbeddedConfig, EmbeddedStore};
use can_sync::testing::store::service::{BASE_PATH, ServiceSettings, router};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The key of every service in tests.
pub(crate) const KEY: &str = "the-key-of-the-test";

/// Waits for something at most [`DEADLINE`].
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let Ok(done) = tokio::time::timeout(DEADLINE, future).await else {
        panic!("{what} did not happen in time")
    };
    done
}

/// Asks until the answer is yes.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    eventually(what, async || condition().await.then_some(()).ok_or_else(|| "not yet".to_owned())).await;
}

/// An HTTP client that follows no redirects.
pub(crate) fn client() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().expect("a client")
}

/// A service in this process.
pub(crate) struct TestService {
    pub(crate) addr: SocketAddr,
    pub(crate) store: EmbeddedStore,
    pub(crate) client: Client,
    _dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
}

impl TestService {
    /// With the usual settings.
    pub(crate) async fn start() -> Self {
        Self::start_with(0, |settings| settings).await
    }

    /// With a disk reserve and settings of its own.
    pub(crate) async fn start_with(
        disk_reserve_bytes: u64,
        change: impl FnOnce(ServiceSettings) -> ServiceSettings,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config =
            EmbeddedConfig { dir: dir.path().join("store"), disk_reserve_bytes, clock: Clock::system() };
        let store = EmbeddedStore::open(config).await.expect("a store");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let settings = change(ServiceSettings::new(KEY.into(), addr));
        let (stop, stopped) = oneshot::channel();
        let router = router(store.clone(), settings);
        let server = tokio::spawn(serve(listener, router, async {
            let _ = stopped.await;
        }));
        Self { addr, store, client: client(), _dir: dir, stop: Some(stop), server }
    }

    /// Asks the server to stop and waits until it has.
    pub(crate) async fn stop(&mut self) {
        drop(self.stop.take());
        soon("the stop", &mut self.server).await.expect("the server ends well");
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{BASE_PATH}{path}", self.addr)
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.url(path))
    }

    /// A request to the sync API with its key.
    pub(crate) fn sync(&self, method: reqwest::Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, self.url(&format!("/sync{path}")))
            .header("X-Sync-Key", KEY)
            .header("Content-Type", "application/x-protobuf")
    }

    pub(crate) fn remote(&self) -> CanHttpStore {
        CanHttpStore::new(&format!("http://{}", self.addr), &KEY.into()).expect("a client")
    }

    /// Stores content and answers with its JSON.
    pub(crate) async fn put(&self, content: impl Into<Vec<u8>>, fields: &[(&'static str, &str)]) -> Value {
        let mut form = reqwest::multipart::Form::new();
        for (name, value) in fields {
            form = form.text(*name, (*value).to_owned());
        }
        form = form.part("file", reqwest::multipart::Part::bytes(content.into()));
        let response =
            soon("an ingest", self.post("/ingest").multipart(form).send()).await.expect("an answer");
        assert!(response.status().is_success(), "{}", response.status());
        data(response).await
    }

    /// Files in the store's directory for content under way.
    pub(crate) fn temporary_files(&self) -> usize {
        std::fs::read_dir(self.store.dir().join("tmp")).expect("the directory").count()
    }
}

/// The `data` of a success.
pub(crate) async fn data(response: Response) -> Value {
    let status = response.status();
    let mut body: Value = response.json().await.expect("JSON");
    assert_eq!(body["status"], "success", "{status} {body}");
    body["data"].take()
}

/// Sends a request that must fail, checks the envelope, and answers with the status and the code.
pub(crate) async fn refusal(request: RequestBuilder) -> (u16, String) {
    let response = soon("a refusal", request.send()).await.expect("an answer");
    refusal_of(response).await
}

/// As [`refusal`], of an answer.
pub(crate) async fn refusal_of(response: Response) -> (u16, String) {
    let status = response.status();
    assert!(status.is_client_error() || status.is_server_error(), "{status}");
    let body: Value = response.json().await.expect("an envelope");
    assert_eq!(body["status"], "error", "{body}");
    for field in ["error", "code", "hint"] {
        assert!(body[field].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    }
    (status.as_u16(), body["code"].as_str().unwrap_or_default().to_owned())
}

/// A `can-service` process, killed when dropped.
pub(crate) struct ServiceProcess {
    pub(crate) child: Child,
    pub(crate) addr: SocketAddr,
    /// What it said when it had started.
    pub(crate) lines: [String; 2],
    /// Kept open, so that it can go on talking.
    _stdout: BufReader<ChildStdout>,
}

impl ServiceProcess {
    /// Starts one with the tests' key on a data directory and waits until it serves.
    pub(crate) fn start(data_dir: &Path, listen: &str) -> Self {
        let mut command = command(data_dir, listen);
        command.stderr(Stdio::null());
        Self::spawn(command)
    }

    /// Runs a command line and waits until it serves.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("can-service starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("its stdout"));
        let lines = [(); 2].map(|()| {
            let mut line = String::new();
            stdout.read_line(&mut line).expect("a line");
            line.trim_end().to_owned()
        });
        let url = lines[0].strip_prefix("CAN Service: http://").expect("its address");
        let addr = url.strip_suffix(BASE_PATH).and_then(|addr| addr.parse().ok()).expect("its address");
        Self { child, addr, lines, _stdout: stdout }
    }

    pub(crate) fn remote(&self) -> CanHttpStore {
        CanHttpStore::new(&format!("http://{}", self.addr), &KEY.into()).expect("a client")
    }

    /// Largest resident set so far, in bytes.
    pub(crate) fn peak_bytes(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }
}

impl Drop for ServiceProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `can-service` with the tests' key.
pub(crate) fn command(data_dir: &Path, listen: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_can-service"));
    command
        .arg("--data-dir")
        .arg(data_dir)
        .args(["--listen", listen, "--disk-reserve", "0"])
        .env("CAN_SYNC_SYNC_API_KEY", KEY)
        .env_remove("RUST_LOG");
    command
}

/// The status of an answer, for tests that care about nothing else.
pub(crate) async fn status(request: RequestBuilder) -> StatusCode {
    soon("an answer", request.send()).await.expect("an answer").status()
}
