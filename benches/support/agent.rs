//! Agents as processes of their own: real ones, alone on loopback, that find each other by ticket only.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::figures::Runs;
use super::http::{ANSWER_WITHIN, HTTP, StoreEvents, get, put_noise};
use super::process::Process;
use super::{Noise, PASSPHRASE, Result, eventually, patience, temp_dir};

// Which programs are measured. A doc comment would stand in each bench's `--help`, as if it was about the bench.
#[derive(clap::Args, Clone)]
pub(crate) struct Bins {
    /// Takes the programs from this directory instead of those built along: to measure another build
    #[arg(long, value_name = "DIR")]
    bins: Option<PathBuf>,
}

impl Bins {
    fn agent(&self) -> PathBuf {
        self.bins.as_ref().map_or_else(|| env!("CARGO_BIN_EXE_can-sync").into(), |dir| dir.join("can-sync"))
    }

    pub(crate) fn service(&self) -> PathBuf {
        let along = || env!("CARGO_BIN_EXE_can-service").into();
        self.bins.as_ref().map_or_else(along, |dir| dir.join("can-service"))
    }
}

/// An agent's directory and configuration; it can be started there again and again.
pub(crate) struct Home {
    /// The CAN Service beside it, if it has none built in. Ends before the directory is removed, as it is in there.
    service: Option<Process>,
    dir: TempDir,
    program: PathBuf,
    /// Variables of its environment, which has no others.
    settings: Vec<(String, String)>,
}

impl Home {
    pub(crate) fn new(bins: &Bins, name: &str) -> Result<Self> {
        let dir = temp_dir()?;
        let config = json!({
            "name": name,
            "sync_passphrase": PASSPHRASE,
            "listen_addr": "127.0.0.1:0",
            "can_listen_addr": "127.0.0.1:0",
            "bind_addr": "127.0.0.1:0",
            "relay_url": "disabled",
            "data_dir": dir.path().join("data"),
            "discovery": { "pkarr_relays": [], "dht": false, "mdns": false },
            "limits": { "disk_reserve_bytes": 0 },
        });
        // JSON is YAML.
        std::fs::write(dir.path().join("config.yaml"), config.to_string())?;
        Ok(Self { service: None, dir, program: bins.agent(), settings: Vec::new() })
    }

    /// Changes a setting, named as in `config.yaml`: `limits.upload_bytes_per_sec`.
    pub(crate) fn set(mut self, key: &str, value: &impl ToString) -> Self {
        let variable = format!("CAN_SYNC_{}", key.replace('.', "_").to_uppercase());
        self.settings.push((variable, value.to_string()));
        self
    }

    /// Starts a CAN Service of its own for the agent.
    pub(crate) async fn with_service(mut self, bins: &Bins) -> Result<Self> {
        let data = self.dir.path().join("service");
        let mut command = Command::new(bins.service());
        command.args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(&data);
        let mut service = Process::spawn(command.stderr(std::process::Stdio::null()))?;
        let (line, _) = service.first_line().await?;
        self.service = Some(service);
        let url = line.trim().rsplit(' ').next().unwrap_or_default();
        Ok(self.set("can_service_url", &url).set("sync_api_key_file", &data.join("sync_api_key").display()))
    }

    /// Where its embedded store is.
    pub(crate) fn store_dir(&self) -> PathBuf {
        self.dir.path().join("data/store")
    }

    pub(crate) async fn start(self) -> Result<Agent> {
        let mut process = self.spawn()?;
        let (line, announced_after) = process.first_line().await?;
        let told: Value = serde_json::from_str(&line).map_err(|_| {
            let said = std::fs::read_to_string(self.stderr()).unwrap_or_default();
            format!("{} did not start: {line}{said}", self.program.display())
        })?;
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
        Ok(Agent {
            process,
            announced_after,
            id: text("endpoint_id"),
            api: text("api_url"),
            store: text("store_url"),
            ticket: text("ticket"),
            home: self,
        })
    }

    /// Starts the program and does not wait for anything.
    pub(crate) fn spawn(&self) -> Result<Process> {
        let mut command = Command::new(&self.program);
        command.args(["--json", "serve"]).arg(self.dir.path().join("config.yaml"));
        command.current_dir(self.dir.path()).env_clear().envs(self.settings.iter().cloned());
        Process::spawn(command.stderr(std::fs::File::create(self.stderr())?))
    }

    fn stderr(&self) -> PathBuf {
        self.dir.path().join("stderr")
    }
}

/// A running agent. Ends before its directory is removed.
pub(crate) struct Agent {
    pub(crate) process: Process,
    /// From its start until it said where it is.
    pub(crate) announced_after: Duration,
    pub(crate) id: String,
    pub(crate) api: String,
    pub(crate) store: String,
    pub(crate) ticket: String,
    pub(crate) home: Home,
}

impl Agent {
    pub(crate) async fn start(bins: &Bins, name: &str) -> Result<Self> {
        Home::new(bins, name)?.start().await
    }

    /// kill -9.
    pub(crate) fn kill(self) -> Home {
        drop(self.process);
        self.home
    }

    /// Ends it in order.
    pub(crate) async fn stop(self) -> Result<Home> {
        self.process.stop().await?;
        Ok(self.home)
    }

    /// `data` of an answer of its API.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        get(&format!("{}{path}", self.api)).await
    }

    pub(crate) async fn dial(&self, other: &Self) -> Result<()> {
        self.dial_ticket(&other.ticket).await
    }

    pub(crate) async fn dial_ticket(&self, ticket: &str) -> Result<()> {
        let dial = HTTP.post(format!("{}/peers", self.api)).json(&json!({ "ticket": ticket }));
        dial.timeout(ANSWER_WITHIN).send().await?.error_for_status()?;
        Ok(())
    }

    /// What it says of another agent; null if it does not know it.
    pub(crate) async fn peer(&self, other: &Self) -> Result<Value> {
        let peers = self.get("/peers").await?;
        let peers = peers["peers"].as_array().ok_or("an agent does not say whom it knows")?;
        Ok(peers.iter().find(|peer| peer["endpoint_id"] == other.id.as_str()).cloned().unwrap_or_default())
    }

    /// Waits until it and its peers have the same, and so many assets if that is said.
    pub(crate) async fn wait_in_sync(&self, assets: Option<u64>, limit: Duration) -> Result<()> {
        eventually("in sync", limit, async || {
            let status = self.get("/status").await?;
            let enough = assets.is_none_or(|assets| status["store"]["assets"] == assets);
            Ok((status["sync"]["state"] == "in_sync" && enough).then_some(()))
        })
        .await
    }

    /// Waits until its store has the contents of so many assets.
    pub(crate) async fn wait_for_assets(&self, assets: u64, limit: Duration) -> Result<()> {
        eventually("all assets", limit, async || {
            Ok((self.get("/status").await?["store"]["assets_held"] == assets).then_some(()))
        })
        .await
    }

    /// Stores noise; its hash.
    pub(crate) async fn put_noise(&self, noise: Noise) -> Result<String> {
        put_noise(&self.store, noise).await
    }

    /// Stores contents, so many at a time; their bytes.
    pub(crate) async fn put_all(&self, contents: &[Noise], at_once: usize) -> Result<u64> {
        let puts = futures::stream::iter(contents).map(async |noise| self.put_noise(*noise).await);
        puts.buffer_unordered(at_once).try_for_each(async |_| Ok(())).await?;
        Ok(contents.iter().map(|noise| noise.len).sum())
    }

    /// What the bytes hash to that it gives for a content.
    pub(crate) async fn read_and_hash(&self, hash: &str, bytes: u64) -> Result<String> {
        let read = HTTP.get(format!("{}/asset/{hash}", self.store)).timeout(patience(bytes));
        let mut chunks = read.send().await?.error_for_status()?.bytes_stream();
        let mut sha256 = Sha256::new();
        while let Some(chunk) = chunks.try_next().await? {
            sha256.update(&chunk);
        }
        Ok(data_encoding::HEXLOWER.encode(&sha256.finalize()))
    }

    /// All assets by hash, without what differs between stores.
    pub(crate) async fn assets(&self) -> Result<Vec<Value>> {
        let mut assets = Vec::new();
        let mut after = String::new();
        loop {
            let page = get(&format!("{}/list?limit=1000{after}", self.store)).await?;
            assets.extend(page["assets"].as_array().into_iter().flatten().cloned());
            let Some(cursor) = page["next_cursor"].as_str() else { break };
            after = format!("&cursor={cursor}");
        }
        for asset in &mut assets {
            if let Some(fields) = asset.as_object_mut() {
                fields.retain(|name, _| name != "seq" && name != "updated_at");
            }
        }
        assets.sort_by_key(|asset| asset["hash"].to_string());
        Ok(assets)
    }

    /// From the 201 here to the event of the other one's store, one asset after another.
    pub(crate) async fn live(&self, other: &Self, contents: impl Iterator<Item = Noise>) -> Result<Runs> {
        let (mut events, mut waits) = (StoreEvents::of(&other.store).await?, Runs::default());
        for noise in contents {
            let hash = self.put_noise(noise).await?;
            let stored = Instant::now();
            events.until(&hash, ANSWER_WITHIN).await?;
            waits.add(stored.elapsed());
        }
        Ok(waits)
    }
}

/// A port that is free now, and nobody else is given for a while.
pub(crate) fn free_udp_port() -> Result<u16> {
    Ok(std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// As [`free_udp_port`].
pub(crate) fn free_tcp_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
