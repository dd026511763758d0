//! The same with Syncthing, if it is installed: two of them on loopback that know each other, and nobody else.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::kept::Kept;
use super::support::agent::free_tcp_port;
use super::support::http::HTTP;
use super::support::{Result, eventually, patience, temp_dir};

const PROGRAM: &str = "syncthing";
/// What looks for others, or tells anybody anything.
const TALKATIVE: [&str; 5] =
    ["globalAnnounceEnabled", "localAnnounceEnabled", "relaysEnabled", "natEnabled", "crashReportingEnabled"];
/// No scan takes longer.
const SCAN_WITHIN: Duration = Duration::from_mins(10);

/// Whether there is one to measure.
pub(crate) fn is_installed() -> bool {
    let asked = Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

/// Ends with whoever has it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Side {
    _running: Running,
    api: String,
    key: String,
    id: String,
    listens: String,
    dir: TempDir,
    _home: TempDir,
}

impl Side {
    async fn start() -> Result<Self> {
        let (home, dir) = (temp_dir()?, temp_dir()?);
        let (api, listens) = (free_tcp_port()?, format!("tcp://127.0.0.1:{}", free_tcp_port()?));
        let run = |args: &[&str]| Command::new(PROGRAM).args(args).arg("--home").arg(home.path()).output();
        let made = run(&["generate", "--no-default-folder", "--skip-port-probing"])?;
        if !made.status.success() {
            return Err(String::from_utf8_lossy(&made.stderr).into_owned().into());
        }
        let file = home.path().join("config.xml");
        let mut config = fs::read_to_string(&file)?;
        let key = between(&config, "<apikey>", "</apikey>").ok_or("no key")?.to_owned();
        let gui = between(&config, "<address>127.0.0.1:", "</address>").ok_or("no address")?;
        config = config.replace(&format!("127.0.0.1:{gui}<"), &format!("127.0.0.1:{api}<"));
        config = config.replace("<listenAddress>default<", &format!("<listenAddress>{listens}<"));
        for setting in TALKATIVE {
            config = config.replace(&format!("<{setting}>true<"), &format!("<{setting}>false<"));
        }
        config = config.replace("<urAccepted>0<", "<urAccepted>-1<");
        fs::write(&file, config)?;
        let id = String::from_utf8(run(&["--device-id"])?.stdout)?.trim().to_owned();
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "--no-browser", "--no-restart", "--no-upgrade", "--home"]).arg(home.path());
        // One process, which nobody starts again.
        command.envs([("STNODEFAULTFOLDER", "1"), ("STNOUPGRADE", "1"), ("STMONITORED", "yes")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let side = Self {
            _running: Running(command.spawn()?),
            api: format!("http://127.0.0.1:{api}/rest"),
            key,
            id,
            listens,
            dir,
            _home: home,
        };
        eventually("its API", patience(0), async || Ok(side.get("/system/ping").await.ok())).await?;
        Ok(side)
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let asked = HTTP.get(format!("{}{path}", self.api)).header("X-API-Key", &self.key);
        Ok(asked.timeout(patience(0)).send().await?.error_for_status()?.json().await?)
    }

    async fn put(&self, path: &str, body: &Value) -> Result<()> {
        let put = HTTP.put(format!("{}{path}", self.api)).header("X-API-Key", &self.key).json(body);
        put.timeout(patience(0)).send().await?.error_for_status()?;
        Ok(())
    }

    async fn scan(&self) -> Result<()> {
        let post = HTTP.post(format!("{}/db/scan?folder=bench", self.api)).header("X-API-Key", &self.key);
        post.timeout(SCAN_WITHIN).send().await?.error_for_status()?;
        Ok(())
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split_once(after).map(|(found, _)| found)
}

/// Two of them, each with a directory of one folder.
pub(crate) struct Syncthings([Side; 2]);

impl Syncthings {
    /// With its watcher of the directory as it is set by default, or told when to look.
    pub(crate) async fn start(watches: bool) -> Result<Self> {
        let sides = [Side::start().await?, Side::start().await?];
        for (side, other) in [(&sides[0], &sides[1]), (&sides[1], &sides[0])] {
            let device = json!({ "deviceID": other.id, "addresses": [other.listens] });
            side.put(&format!("/config/devices/{}", other.id), &device).await?;
            let folder = json!({
                "id": "bench",
                "path": side.dir.path(),
                "type": "sendreceive",
                "devices": [{ "deviceID": side.id }, { "deviceID": other.id }],
                "fsWatcherEnabled": watches,
                "rescanIntervalS": 0,
            });
            side.put("/config/folders/bench", &folder).await?;
        }
        let both = Self(sides);
        eventually("a connection", patience(0), async || {
            let connections = both.0[0].get("/system/connections").await?;
            let is_there = connections["connections"][&both.0[1].id]["connected"] == true;
            Ok(is_there.then_some(()))
        })
        .await?;
        for side in &both.0 {
            side.scan().await?;
        }
        Ok(both)
    }
}

impl Kept for Syncthings {
    fn dir(&self, side: usize) -> &Path {
        self.0[side].dir.path()
    }

    async fn look(&self, side: usize) -> Result<()> {
        self.0[side].scan().await
    }

    async fn crossed(&self) -> Result<u64> {
        let connections = self.0[0].get("/system/connections").await?;
        Ok(connections["connections"][&self.0[1].id]["outBytesTotal"].as_u64().unwrap_or_default())
    }
}
