//! A real browser: Chromium without a window, driven by `WebDriver` through its own driver.
//!
//! The few commands that the tests need are spoken here: the client crates for `WebDriver` switch on `preserve_order` of
//! `serde_json` for the whole build, so that tests would run with other JSON than the program, or bring 20 further crates.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::Duration;

use serde_json::{Value, json};

use super::nodes::eventually;

/// The name that `WebDriver` gives references to elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

pub(crate) struct Browser {
    driver: Child,
    http: reqwest::Client,
    /// The URL of the session, below which all commands are.
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// `None` where this machine has no browser, which is said once.
    pub(crate) async fn start() -> Option<Self> {
        let Some(mut driver) = spawn_driver() else {
            say_once("tests of the page in a browser: skipped, chromium and chromedriver are not installed");
            return None;
        };
        let http = super::service::client();
        let port = port_of(&mut driver);
        let profile = tempfile::tempdir().expect("a directory");
        let user_data = format!("--user-data-dir={}", profile.path().display());
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
        let root = format!("http://127.0.0.1:{port}/session");
        let answer = http.post(&root).json(&wanted).send().await.expect("the driver answers");
        let answer: Value = answer.json().await.expect("JSON");
        let id = answer["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {answer}"));
        Some(Self { driver, http, session: format!("{root}/{id}"), _profile: profile })
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
        // The driver ends its browser with itself when it is asked to; it is not asked twice.
        if let Some(pid) = rustix::process::Pid::from_raw(self.driver.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_secs(10) {
            if matches!(self.driver.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn spawn_driver() -> Option<Child> {
    let mut command = Command::new("chromedriver");
    command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().ok()
}

/// The port that the driver says it listens on.
fn port_of(driver: &mut Child) -> u16 {
    let mut lines = BufReader::new(driver.stdout.take().expect("a pipe")).lines();
    let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
        let (_, port) = line.split_once("started successfully on port ")?;
        port.trim_end_matches('.').parse().ok()
    });
    // What else it says is of no use, and must not fill the pipe.
    std::thread::spawn(move || lines.for_each(drop));
    port.expect("the driver says its port")
}

/// Past the test runner, which keeps what tests that pass print.
fn say_once(what: &str) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        let _ = writeln!(std::io::stderr(), "{what}");
    });
}
