//! A real browser: Chromium without a window, driven by `WebDriver` through its own driver.
//!
//! The few commands that the tests need are spoken here: the client crates for `WebDriver` switch on `preserve_order` of
//! `serde_json` for the whole build, so that tests would run with other JSON than the program, or bring 20 further crates.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::nodes::{DEADLINE, eventually};

/// The name that `WebDriver` gives references to elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

pub(crate) struct Browser {
    driver: Child,
    http: reqwest::Client,
    /// The URL of the session, below which all commands are.
    session: String,
    profile: tempfile::TempDir,
}

impl Browser {
    /// `None` where this machine has no browser that works, which is said once.
    pub(crate) async fn start() -> Option<Self> {
        let (driver, port) = spawn_driver().or_else(|| {
            say_once("tests of the page in a browser: skipped, chromium and chromedriver are not installed");
            None
        })?;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().timeout(DEADLINE).build().expect("a client");
        let profile = tempfile::tempdir().expect("a directory");
        let user_data = format!("--user-data-dir={}", profile.path().display());
        let root = format!("http://127.0.0.1:{port}/session");
        let mut browser = Self { driver, http, session: root, profile };
        let args = [
            "--headless=new",
            // Tests may run as root, for whom Chromium has no sandbox.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--no-first-run",
            "--no-proxy-server",
            "--disable-background-networking",
            "--window-size=1280,900",
            &user_data,
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "unhandledPromptBehavior": "ignore",
            "timeouts": { "script": 60_000, "pageLoad": 60_000 },
            "goog:chromeOptions": { "args": args },
        } } });
        let answer =
            browser.http.post(&browser.session).json(&wanted).send().await.expect("the driver answers");
        let answer: Value = answer.json().await.expect("JSON");
        let Some(id) = answer["value"]["sessionId"].as_str() else {
            let why = &answer["value"]["message"];
            assert!(why.to_string().contains("cannot find Chrome binary"), "no session: {answer}");
            say_once("tests of the page in a browser: skipped, chromedriver finds no chromium");
            return None;
        };
        browser.session = format!("{}/{id}", browser.session);
        Some(browser)
    }

    async fn command(&self, path: &str, body: Value) -> Result<Value, String> {
        let request = self.http.post(format!("{}/{path}", self.session)).json(&body);
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let is_success = answer.status().is_success();
        let mut answer: Value = answer.json().await.map_err(|error| error.to_string())?;
        if is_success { Ok(answer["value"].take()) } else { Err(answer["value"]["message"].to_string()) }
    }

    async fn done(&self, path: &str, body: Value) -> Value {
        self.command(path, body).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub(crate) async fn open(&self, url: &str) {
        self.done("url", json!({ "url": url })).await;
    }

    /// Opens a page in a tab of its own, which the next commands are for.
    pub(crate) async fn open_tab(&self, url: &str) -> Value {
        let handle = self.done("window/new", json!({ "type": "tab" })).await["handle"].take();
        self.switch(&handle).await;
        self.open(url).await;
        handle
    }

    pub(crate) async fn switch(&self, handle: &Value) {
        self.done("window", json!({ "handle": handle })).await;
    }

    /// What a script returns; a promise is awaited.
    pub(crate) async fn run(&self, script: &str, args: Value) -> Value {
        self.done("execute/sync", json!({ "script": script, "args": args })).await
    }

    /// The text that the page shows.
    pub(crate) async fn text(&self) -> String {
        let text = self.run("return document.body.innerText", json!([])).await;
        text.as_str().expect("text").to_owned()
    }

    /// Waits until the page shows this.
    pub(crate) async fn shows(&self, text: &str) {
        eventually(&format!("the page shows '{text}'"), async || {
            let shown = self.text().await;
            shown.contains(text).then_some(()).ok_or(shown)
        })
        .await;
    }

    async fn element(&self, selector: &str) -> Result<String, String> {
        let found = self.command("element", json!({ "using": "css selector", "value": selector })).await?;
        Ok(found[ELEMENT].as_str().expect("a reference").to_owned())
    }

    /// Clicks as a user does: on what is there, visible and not covered. Parts of the page are swapped all the time, so it may
    /// take another try.
    pub(crate) async fn click(&self, selector: &str) {
        eventually(&format!("a click on {selector}"), async || {
            let element = self.element(selector).await?;
            self.command(&format!("element/{element}/click"), json!({})).await
        })
        .await;
    }

    /// Types into a field, or gives files to a chooser.
    pub(crate) async fn enter(&self, selector: &str, text: &str) {
        let element = self.element(selector).await.expect(selector);
        self.done(&format!("element/{element}/value"), json!({ "text": text })).await;
    }

    /// Says yes to a question, and gives its text.
    pub(crate) async fn accept(&self) -> String {
        eventually("a question", async || {
            let answer = self.http.get(format!("{}/alert/text", self.session)).send().await;
            let answer: Value = answer.map_err(|error| error.to_string())?.json().await.expect("JSON");
            let text = answer["value"].as_str().map(str::to_owned).ok_or_else(|| answer.to_string())?;
            self.command("alert/accept", json!({})).await.map(|_| text)
        })
        .await
    }

    /// A command of the browser's own protocol.
    pub(crate) async fn browser(&self, command: &str, params: Value) -> Value {
        self.done("goog/cdp/execute", json!({ "cmd": command, "params": params })).await
    }

    /// Shows pages as on a screen of this width, in this colour scheme.
    pub(crate) async fn view(&self, width: u32, scheme: &str) {
        let metrics = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.browser("Emulation.setDeviceMetricsOverride", metrics).await;
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.browser("Emulation.setEmulatedMedia", features).await;
    }

    /// Drops files and folders of this machine onto the middle of the page.
    pub(crate) async fn drop_files(&self, paths: &[&Path]) {
        let data = json!({ "items": [], "files": paths, "dragOperationsMask": 1 });
        for event in ["dragEnter", "dragOver", "drop"] {
            let params = json!({ "type": event, "x": 300, "y": 300, "data": data });
            self.browser("Input.dispatchDragEvent", params).await;
        }
    }

    /// What axe-core objects to on the page as it is, one line for each element. `None` where axe-core is not installed,
    /// which is said once.
    pub(crate) async fn objections(&self) -> Option<Vec<String>> {
        let path =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/browser/node_modules/axe-core/axe.min.js");
        let Ok(axe) = std::fs::read_to_string(&path) else {
            say_once(&format!("test of the page's accessibility: skipped, {} is not there", path.display()));
            return None;
        };
        self.run(&axe, json!([])).await;
        let script =
            "return axe.run(document).then(({ violations }) => violations.flatMap(({ id, help, nodes }) =>
            nodes.map(({ html, failureSummary }) => `${id}: ${help}: ${html}: ${failureSummary}`)))";
        Some(serde_json::from_value(self.run(script, json!([])).await).expect("texts"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        // The driver leaves its browser behind. Of all there may be, it is the one with this profile.
        let profile = self.profile.path().display().to_string();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        for process in processes {
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let pid = process.file_name().to_str().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
            if let Some(pid) = pid.filter(|_| String::from_utf8_lossy(&command).contains(&profile)) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// The driver, and the port that it says it listens on; `None` where there is none that works.
fn spawn_driver() -> Option<(Child, u16)> {
    let mut command = Command::new("chromedriver");
    command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut driver = command.spawn().ok()?;
    let mut lines = BufReader::new(driver.stdout.take().expect("a pipe")).lines();
    let (tell, told) = std::sync::mpsc::channel();
    // What else it says is of no use, and must not fill the pipe.
    std::thread::spawn(move || {
        for line in lines.by_ref().map_while(Result::ok) {
            let port = line.split_once("started successfully on port ").map(|(_, port)| port.to_owned());
            if let Some(Ok(port)) = port.map(|port| port.trim_end_matches('.').parse::<u16>()) {
                let _ = tell.send(port);
            }
        }
    });
    if let Ok(port) = told.recv_timeout(DEADLINE) {
        return Some((driver, port));
    }
    let _ = driver.kill();
    let _ = driver.wait();
    None
}

/// Past the test runner, which keeps what tests that pass print.
fn say_once(what: &str) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        let _ = writeln!(std::io::stderr(), "{what}");
    });
}
