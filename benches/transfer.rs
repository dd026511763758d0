//! How fast assets move between two real agents on this machine, beside what the wire and the hash allow.
//!
//! `cargo bench --bench transfer [-- --big-mib N] [-- --runs N] [-- --only big|small|mixed|live] [-- --bins DIR]`. Each
//! row is the median of five runs, each between two fresh agents; the raw limits are measured in the same process, in
//! turn with the runs. Assets are stored while the agents do not know each other; the clock runs from the dial until
//! both say that they are in sync, so everything is durable by then and the comparison is part of it. `--bins` measures
//! another build.
#![expect(clippy::print_stdout, reason = "tables are what a bench is for")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use std::error::Error;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use reqwest::Client;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const PASSPHRASE: &str = "seven sleepy otters juggle quiet lanterns tonight";
const SMALL_ASSETS: u32 = 10_000;
const SMALL_BYTES: usize = 4096;
/// Assets of the mixed row, from the smallest to the largest size; as many small as large ones by the logarithm.
const MIXED_ASSETS: u32 = 102;
const MIXED_BYTES: (f64, f64) = (100_000.0, 35_000_000.0);
const LIVE_ASSETS: u32 = 200;

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    // `cargo test --benches` passes flags of its own.
    if args.iter().any(|arg| arg == "--test") {
        return Ok(());
    }
    let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|i| args.get(i + 1)).cloned();
    let bin = value("--bins").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_can-sync")),
        |dir| PathBuf::from(dir).join("can-sync"),
    );
    let runs: usize = value("--runs").map_or(Ok(5), |text| text.parse())?;
    let big: usize = value("--big-mib").map_or(Ok(1024), |text| text.parse())?;
    let only = value("--only");
    let wants = |row: &str| only.as_deref().is_none_or(|only| only == row);
    // Whoever was first has installed the same provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let bench = Bench { bin, http: Client::builder().no_proxy().build()?, runs };

    println!("{:44} {:>9} {:>9} {:>9}  {:>9}", "", "median", "best", "worst", "MB/s");
    if wants("big") {
        bench
            .moved(&format!("big: 1 x {big} MiB"), |side| {
                if side == 0 { vec![noise(0, big << 20)] } else { Vec::new() }
            })
            .await?;
        bench.raw(big as u64).await?;
    }
    if wants("small") {
        bench
            .moved(&format!("small: {SMALL_ASSETS} x {SMALL_BYTES} B"), |side| {
                if side == 0 {
                    (0..SMALL_ASSETS).map(|n| noise(n, SMALL_BYTES)).collect()
                } else {
                    Vec::new()
                }
            })
            .await?;
    }
    if wants("mixed") {
        bench
            .moved(&format!("mixed: {MIXED_ASSETS} x 0.1 to 35 MB, half at each side"), |side| {
                (0..MIXED_ASSETS).filter(|n| n % 2 == side).map(|n| noise(n, mixed_size(n))).collect()
            })
            .await?;
    }
    if wants("live") {
        for bytes in [4 << 10, 64 << 10] {
            bench.live(bytes).await?;
        }
    }
    Ok(())
}

fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut content = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut content);
    content
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sizes of some megabytes")]
fn mixed_size(n: u32) -> usize {
    let (least, most) = MIXED_BYTES;
    (least * (most / least).powf(f64::from(n) / f64::from(MIXED_ASSETS - 1))) as usize
}

struct Bench {
    bin: PathBuf,
    http: Client,
    runs: usize,
}

impl Bench {
    /// A row: what `contents` gives each side crosses to the other one.
    async fn moved(&self, what: &str, contents: impl Fn(u32) -> Vec<Vec<u8>>) -> Result<()> {
        let (mut times, mut bytes) = (Vec::new(), 0);
        for _ in 0..self.runs {
            let agents = [Agent::start("a", &self.bin)?, Agent::start("b", &self.bin)?];
            bytes = 0;
            let mut assets = 0;
            for (side, agent) in (0..).zip(&agents) {
                let contents = contents(side);
                assets += contents.len();
                bytes += self.ingest(agent, contents).await?;
            }
            let started = Instant::now();
            self.post(&agents[1], "/peers", &json!({ "ticket": agents[0].ticket })).await?;
            for agent in &agents {
                self.wait_in_sync(agent, assets as u64).await?;
            }
            times.push(started.elapsed());
        }
        row(what, &mut times, Some(bytes));
        Ok(())
    }

    /// Stores contents, 16 at a time; their bytes.
    async fn ingest(&self, agent: &Agent, contents: Vec<Vec<u8>>) -> Result<u64> {
        let puts = futures::stream::iter(contents).map(async |content| -> Result<u64> {
            let len = content.len() as u64;
            let form = Form::new().part("file", Part::bytes(content).file_name("bench.bin"));
            let put = self.http.post(format!("{}/ingest", agent.store)).multipart(form);
            put.send().await?.error_for_status()?;
            Ok(len)
        });
        let sizes: Vec<Result<u64>> = puts.buffer_unordered(16).collect().await;
        sizes.into_iter().sum()
    }

    async fn get(&self, agent: &Agent, path: &str) -> Result<Value> {
        Ok(self.http.get(format!("{}{path}", agent.api)).send().await?.json().await?)
    }

    async fn post(&self, agent: &Agent, path: &str, body: &Value) -> Result<()> {
        self.http.post(format!("{}{path}", agent.api)).json(body).send().await?.error_for_status()?;
        Ok(())
    }

    async fn wait_in_sync(&self, agent: &Agent, assets: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_mins(10);
        loop {
            let status = self.get(agent, "/status").await?;
            let held = status["data"]["store"]["assets"].as_u64().unwrap_or(0);
            if status["data"]["sync"]["state"] == "in_sync" && held == assets {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("not in sync: {status}").into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// From the 201 at one agent to the event of the other's store, one asset after another.
    async fn live(&self, bytes: usize) -> Result<()> {
        let (a, b) = (Agent::start("a", &self.bin)?, Agent::start("b", &self.bin)?);
        self.post(&b, "/peers", &json!({ "ticket": a.ticket })).await?;
        self.wait_in_sync(&b, 0).await?;
        let events = self.http.get(format!("{}/events", b.store)).send().await?.error_for_status()?;
        let (mut events, mut seen, mut waits) = (events.bytes_stream(), String::new(), Vec::new());
        for n in 0..LIVE_ASSETS {
            let content = noise(n, bytes);
            let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(&content));
            self.ingest(&a, vec![content]).await?;
            let stored = Instant::now();
            while !seen.contains(&hash) {
                let chunk = tokio::time::timeout(Duration::from_secs(10), events.next()).await?;
                seen.push_str(&String::from_utf8_lossy(&chunk.ok_or("the event stream ended")??));
            }
            seen.clear();
            waits.push(stored.elapsed());
        }
        waits.sort_unstable();
        let at = |share: usize| waits[(waits.len() * share / 100).min(waits.len() - 1)].as_secs_f64() * 1e3;
        let what = format!("live: {LIVE_ASSETS} x {} KiB, 201 here to event there", bytes >> 10);
        println!("{what:44} p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms", at(50), at(90), at(99));
        Ok(())
    }

    /// What the wire and the hash allow for as much content.
    async fn raw(&self, mib: u64) -> Result<()> {
        for streams in [1, 4] {
            let mut times = Vec::new();
            for _ in 0..self.runs {
                times.push(raw_streams(streams, mib << 20).await?);
            }
            row(&format!("limit: raw iroh, {streams} stream(s)"), &mut times, Some(mib << 20));
        }
        let content = noise(0, 256 << 20);
        let mut times = Vec::new();
        for _ in 0..self.runs {
            let started = Instant::now();
            std::hint::black_box(Sha256::digest(&content));
            times.push(started.elapsed());
        }
        row("limit: SHA-256, one thread, 256 MiB", &mut times, Some(256 << 20));
        Ok(())
    }
}

fn row(what: &str, times: &mut [Duration], bytes: Option<u64>) {
    times.sort_unstable();
    let secs = |at: usize| times[at].as_secs_f64();
    let median = secs(times.len() / 2);
    let rate = bytes.map_or_else(String::new, |bytes| format!("{:9.1}", bytes as f64 / 1e6 / median));
    println!("{what:44} {median:8.3}s {:8.3}s {:8.3}s  {rate}", secs(0), secs(times.len() - 1));
}

/// `total` bytes over so many streams of one connection on loopback, with the windows that agents use; nothing is done
/// with them.
async fn raw_streams(streams: u64, total: u64) -> Result<Duration> {
    use can_sync::node::endpoint;
    use iroh::{EndpointAddr, RelayMode, SecretKey, TransportAddr};

    let bind = || endpoint::bind(SecretKey::generate(), ([127, 0, 0, 1], 0).into(), RelayMode::Disabled);
    let (near, far) = (bind().await?, bind().await?);
    let mut addr = EndpointAddr::new(far.id());
    addr.addrs.extend(far.bound_sockets().into_iter().map(TransportAddr::Ip));
    let receiver = tokio::spawn(async move {
        let connection = far.accept().await.ok_or("closed")?.await?;
        endpoint::open_up(&connection, 8);
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..streams {
            let mut stream = connection.accept_uni().await?;
            readers.spawn(async move {
                while let Some(chunk) = stream.read_chunk(256 << 10).await? {
                    std::hint::black_box(chunk);
                }
                Ok::<(), Box<dyn Error + Send + Sync>>(())
            });
        }
        while let Some(read) = readers.join_next().await {
            read??;
        }
        connection.close(0_u32.into(), b"done");
        Ok::<(), Box<dyn Error + Send + Sync>>(())
    });
    let connection = near.connect(addr, can_sync::peer::establish::ALPN).await?;
    let chunk = bytes::Bytes::from(vec![7; 256 << 10]);
    let started = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..streams {
        let (connection, chunk) = (connection.clone(), chunk.clone());
        writers.spawn(async move {
            let mut stream = connection.open_uni().await?;
            for _ in 0..total / streams / chunk.len() as u64 {
                stream.write_chunk(chunk.clone()).await?;
            }
            stream.finish()?;
            Ok::<(), Box<dyn Error + Send + Sync>>(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    receiver.await??;
    Ok(started.elapsed())
}

/// A running agent in a directory of its own.
struct Agent {
    process: Child,
    api: String,
    store: String,
    ticket: String,
    _dir: TempDir,
}

impl Agent {
    fn start(name: &str, bin: &PathBuf) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let config = dir.path().join("config.yaml");
        std::fs::write(
            &config,
            format!(
                "name: {name}\nsync_passphrase: {PASSPHRASE}\nlisten_addr: 127.0.0.1:0\n\
                 can_listen_addr: 127.0.0.1:0\nbind_addr: 127.0.0.1:0\nrelay_url: disabled\n\
                 data_dir: {}\ndiscovery: {{ pkarr_relays: [], dht: false, mdns: false }}\n\
                 limits: {{ disk_reserve_bytes: 0 }}\n",
                dir.path().join("data").display()
            ),
        )?;
        let mut command = Command::new(bin);
        command.args(["--json", "serve"]).arg(&config).current_dir(dir.path());
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
        let told: Value = serde_json::from_str(&line)?;
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            process,
            api: text("api_url"),
            store: text("store_url"),
            ticket: text("ticket"),
            _dir: dir,
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Ended already, which is just as well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
