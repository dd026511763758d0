//! The real program as a daemon: on free ports, alone on loopback, killed when dropped.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use can_sync::testing::store::can_http::CanHttpStore;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::command::{Ran, User};
use super::nodes::{DEADLINE, PASSPHRASE, eventually};

/// Between two looks at what a daemon has said.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A configuration that touches nothing but loopback and the user's home. Further lines go on top.
pub(crate) fn yaml(more: &str) -> String {
    format!(
        "{more}\n\
         listen_addr: 127.0.0.1:0\n\
         bind_addr: 127.0.0.1:0\n\
         relay_url: disabled\n\
         data_dir: ./data\n\
         poll_interval_secs: 1\n\
         discovery: {{ pkarr_relays: [], dht: false, mdns: false }}\n\
         limits: {{ disk_reserve_bytes: 0 }}\n"
    )
}

/// As [`yaml`], with an embedded store and the network of most tests.
pub(crate) fn embedded_yaml(more: &str) -> String {
    yaml(&format!("sync_passphrase: {PASSPHRASE}\ncan_listen_addr: 127.0.0.1:0\n{more}"))
}

/// `can-sync serve`, as it runs.
pub(crate) struct Daemon {
    pub(crate) user: User,
    child: Child,
    /// What it said of itself when it had started.
    pub(crate) started: Value,
    /// From the start of the process until it said so.
    pub(crate) ready_after: Duration,
    stderr: Output,
    pub(crate) http: reqwest::Client,
}

impl Daemon {
    /// Starts it with the configuration in `config.yaml` of a new home.
    pub(crate) fn start(config: &str) -> Self {
        let user = User::new();
        user.write("config.yaml", config);
        Self::start_as(user)
    }

    /// As [`Self::start`], with nobody at the other end of its stderr.
    pub(crate) fn start_unheard(config: &str) -> Self {
        let user = User::new();
        user.write("config.yaml", config);
        Self::spawn(user, |stderr| {
            drop(stderr);
            Output::follow(std::io::empty())
        })
    }

    /// As [`Self::start`], with everything logged to a pipe that nobody reads: it comes as well.
    pub(crate) fn start_unread(config: &str) -> (Self, ChildStderr) {
        let user = User::new();
        user.write("config.yaml", config);
        let mut command = user.command(&["--json", "serve"]);
        command.env("RUST_LOG", "trace");
        let mut unread = None;
        let daemon = Self::spawn_command(user, command, b"", |stderr| {
            unread = Some(stderr);
            Output::follow(std::io::empty())
        });
        (daemon, unread.expect("its stderr"))
    }

    /// Starts it in a home that has its configuration.
    pub(crate) fn start_as(user: User) -> Self {
        Self::spawn(user, Output::follow)
    }

    /// As [`Self::start_as`], with further flags and variables, and something on stdin.
    pub(crate) fn start_given(user: User, flags: &[&str], env: &[(&str, &str)], stdin: &[u8]) -> Self {
        let mut command = user.command(&["--json", "serve"]);
        command.args(flags).envs(env.iter().copied());
        Self::spawn_command(user, command, stdin, Output::follow)
    }

    /// As [`Self::start`], by another program, which becomes the daemon: what follows its arguments is what it is to run.
    pub(crate) fn start_by(program: &str, args: &[&str], config: &str) -> Self {
        let user = User::new();
        user.write("config.yaml", config);
        let daemon = user.command(&["--json", "serve"]);
        let mut command = Command::new(program);
        command.args(args).arg(daemon.get_program()).args(daemon.get_args());
        let variables = daemon.get_envs().filter_map(|(name, value)| Some((name, value?)));
        command.env_clear().envs(variables).current_dir(user.home());
        Self::spawn_command(user, command, b"", Output::follow)
    }

    fn spawn(user: User, listen: impl FnOnce(ChildStderr) -> Output) -> Self {
        let command = user.command(&["--json", "serve"]);
        Self::spawn_command(user, command, b"", listen)
    }

    fn spawn_command(
        user: User,
        mut command: Command,
        stdin: &[u8],
        listen: impl FnOnce(ChildStderr) -> Output,
    ) -> Self {
        let began = Instant::now();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        child.stdin.take().expect("a pipe").write_all(stdin).expect("a secret fits into a pipe");
        let stderr = listen(child.stderr.take().expect("a pipe"));
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        let started = serde_json::from_str(&line).unwrap_or_else(|error| {
            let _ = child.wait();
            panic!("no start-up output ({error}): {line}{}", stderr.text())
        });
        // Nothing more is said there; the pipe must not fill all the same.
        Output::follow(stdout);
        let http = super::service::client();
        Self { user, child, started, ready_after: began.elapsed(), stderr, http }
    }

    /// Ends it, if it still runs, and starts it again in the same home.
    pub(crate) fn restart(self) -> Self {
        Self::start_as(self.into_user())
    }

    /// Ends it, if it still runs.
    pub(crate) fn into_user(mut self) -> User {
        self.kill();
        std::mem::replace(&mut self.user, User::new())
    }

    fn said(&self, field: &str) -> &str {
        self.started[field].as_str().unwrap_or_else(|| panic!("no {field} in {}", self.started))
    }

    pub(crate) fn id(&self) -> &str {
        self.said("endpoint_id")
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.user.home().join("data")
    }

    /// What it has written to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// The same as it goes on.
    /// Waits until it has said this on stderr, which another thread reads.
    pub(crate) fn hear(&self, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        while !self.stderr().contains(text) {
            assert!(Instant::now() < deadline, "it does not say {text:?}: {}", self.stderr());
            std::thread::sleep(LOOK_EVERY);
        }
    }

    pub(crate) fn log(&self) -> Output {
        self.stderr.clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process is there");
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// kill -9, and waits for the end.
    pub(crate) fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end and gives the exit code.
    pub(crate) async fn end(&mut self) -> Option<i32> {
        let child = &mut self.child;
        let status = eventually("the end of the process", async || {
            child.try_wait().expect("its status").ok_or_else(|| "still running".to_owned())
        })
        .await;
        status.code()
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_none()
    }

    /// Memory that it holds now, in bytes; from here on the peak is counted anew.
    pub(crate) fn forget_peak(&self) -> u64 {
        let file = format!("/proc/{}/clear_refs", self.child.id());
        std::fs::write(file, "5").expect("the peak can be set back");
        self.memory("VmRSS:")
    }

    /// Most memory that it held since [`Daemon::forget_peak`], in bytes.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, what: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix(what)).expect("its memory");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.said("api_url"))
    }

    /// Its store, as an agent sees it.
    pub(crate) fn sync_store(&self) -> CanHttpStore {
        let key = std::fs::read_to_string(self.data_dir().join("sync_api_key")).expect("a key");
        CanHttpStore::new(&self.store_url(""), &key.trim().into()).expect("a client")
    }

    pub(crate) fn store_url(&self, path: &str) -> String {
        format!("{}{path}", self.said("store_url"))
    }

    /// `data` of an answer of its API.
    pub(crate) async fn get(&self, path: &str) -> Value {
        get(&self.http, &self.url(path)).await["data"].take()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Value {
        let answer = self.http.post(self.url(path)).json(body).send().await.expect("an answer");
        answer.json().await.expect("JSON")
    }

    pub(crate) async fn dial(&self, other: &Self) {
        let answer = self.post("/peers", &json!({ "ticket": other.said("ticket") })).await;
        assert_eq!(answer["status"], "success", "{answer}");
    }

    /// Runs a command against it.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.user.run_with(args, &[("CAN_SYNC_API", self.said("api_url"))], b"")
    }

    /// As [`Daemon::run`], of a command that must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
        ran
    }

    /// Compares with every peer and waits until nothing is missing on either side.
    pub(crate) async fn wait_in_sync(&self) {
        self.post("/verify", &json!({})).await;
        eventually("in sync", async || {
            let status = self.get("/status").await;
            (status["sync"]["state"] == "in_sync").then_some(()).ok_or_else(|| status.to_string())
        })
        .await;
    }

    /// What its store lists, by hash, without what differs between stores.
    pub(crate) async fn assets(&self) -> Vec<Value> {
        list(&self.http, &self.store_url("")).await
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let text = self.stderr();
            let from = text.char_indices().rev().nth(6_000).map_or(0, |(at, _)| at);
            eprintln!("--- {} said ---\n{}", self.data_dir().display(), &text[from..]);
        }
    }
}

/// What a process writes, gathered as it comes.
#[derive(Clone)]
pub(crate) struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    fn follow(mut from: impl Read + Send + 'static) -> Self {
        let gathered = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&gathered);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n) = from.read(&mut buffer)
                && n > 0
            {
                into.lock().extend_from_slice(&buffer[..n]);
            }
        });
        Self(gathered)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

async fn get(http: &reqwest::Client, url: &str) -> Value {
    http.get(url).timeout(DEADLINE).send().await.expect("an answer").json().await.expect("JSON")
}

/// Every asset of a CAN Service, by hash, without what differs between stores.
pub(crate) async fn list(http: &reqwest::Client, store_url: &str) -> Vec<Value> {
    let mut assets = Vec::new();
    let mut after = String::new();
    loop {
        let page = get(http, &format!("{store_url}/list?limit=1000{after}")).await;
        assets.extend(page["data"]["assets"].as_array().expect("a list").iter().cloned());
        match page["data"]["next_cursor"].as_str() {
            Some(cursor) => after = format!("&cursor={cursor}"),
            None => break,
        }
    }
    for asset in &mut assets {
        let fields = asset.as_object_mut().expect("an object");
        fields.remove("seq");
        fields.remove("updated_at");
    }
    assets.sort_by_key(|asset| asset["hash"].as_str().map(str::to_owned));
    assets
}

/// Every file and directory below `dir`, with mode, length and a hash of the content: what must not change.
pub(crate) fn listing(dir: &Path) -> Vec<String> {
    use sha2::Digest as _;
    use std::os::unix::fs::MetadataExt as _;

    let mut found: Vec<String> = walkdir::WalkDir::new(dir)
        .into_iter()
        .map(|entry| {
            let entry = entry.expect("an entry");
            let metadata = entry.metadata().expect("its metadata");
            let content = if metadata.is_file() {
                let bytes = std::fs::read(entry.path()).expect("its content");
                data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(bytes))
            } else {
                String::new()
            };
            let changed = (metadata.mtime(), metadata.mtime_nsec());
            format!(
                "{} {:o} {} {changed:?} {content}",
                entry.path().display(),
                metadata.mode(),
                metadata.len()
            )
        })
        .collect();
    found.sort();
    found
}
