//! Two real agents on this machine mirror a real directory tree, then exchange single assets live.
//!
//! `cargo bench --bench mirror [-- --external] [-- --files DIR]`. Without `--files`, the files are taken from the Rust
//! toolchain's own directory: at least 500, of mixed sizes, at least 200 MB. Half of them is stored at each agent over
//! HTTP while they do not know each other; the clock runs from the dial until both say that they are in sync. Then every
//! content is read back from both and hashed again, and the metadata compared. `--external` puts two `can-service`
//! processes behind the agents, and `--bins DIR` takes both programs from there instead of the ones built along: to
//! measure another build. The raw limits are measured in the same run.
#![expect(clippy::print_stdout, reason = "tables are what a bench is for")]

use std::error::Error;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use reqwest::Client;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const LARGE_BYTES_MAX: u64 = 300 << 20;
const SMALL_FILES: usize = 700;
const LIVE_ASSETS: u32 = 200;
const LIVE_BYTES: usize = 64 * 1024;
const PASSPHRASE: &str = "seven sleepy otters juggle quiet lanterns tonight";

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --benches` and `cargo bench` pass flags of their own.
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|arg| arg == "--test") {
        return Ok(());
    }
    let bins = args.iter().position(|arg| arg == "--bins").and_then(|i| args.get(i + 1)).map(PathBuf::from);
    let bins = Bins::new(bins);
    let external = args.iter().any(|arg| arg == "--external");
    let named = args.iter().position(|arg| arg == "--files").and_then(|i| args.get(i + 1)).map(PathBuf::from);
    let files = match named {
        Some(dir) => walkdir::WalkDir::new(dir)
            .into_iter()
            .filter_map(std::result::Result::ok)
            .filter(|e| e.file_type().is_file())
            .map(walkdir::DirEntry::into_path)
            .collect(),
        None => toolchain_files()?,
    };
    let http = client()?;
    let (a, b) = (Agent::start("a", &bins, external)?, Agent::start("b", &bins, external)?);
    println!("{} files, {}", files.len(), if external { "external stores" } else { "embedded stores" });

    let (left, right): (Vec<_>, Vec<_>) = files.iter().enumerate().partition(|(i, _)| i % 2 == 0);
    let started = Instant::now();
    let (at_a, at_b) = tokio::try_join!(ingest(&http, &a, &left), ingest(&http, &b, &right))?;
    row("stored over HTTP, both at once", at_a + at_b, started.elapsed());

    let started = Instant::now();
    b.post(&http, "/peers", &json!({ "ticket": a.ticket })).await?;
    for agent in [&a, &b] {
        agent.wait_in_sync(&http).await?;
    }
    let took = started.elapsed();
    let (of_a, of_b) = (a.assets(&http).await?, b.assets(&http).await?);
    if of_a != of_b {
        return Err(format!("the agents differ: {} and {} assets", of_a.len(), of_b.len()).into());
    }
    let bytes: u64 = of_a.iter().filter_map(|asset| asset["size"].as_u64()).sum();
    let crossed = a.sent(&http).await? + b.sent(&http).await?;
    row(&format!("mirrored, {} different assets", of_a.len()), crossed, took);
    // The halves are disjoint but for equal contents, so this is what has to cross, or a little more than that.
    println!("{:40} {:.4} of the content held", "content on the wire", ratio(crossed, bytes));

    let started = Instant::now();
    for agent in [&a, &b] {
        verify(&http, agent, &of_a).await?;
    }
    row("read back and hashed, both", 2 * bytes, started.elapsed());
    live(&http, &a, &b).await?;
    raw_hash();
    raw_stream().await?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn row(what: &str, bytes: u64, took: Duration) {
    let (mb, secs) = (bytes as f64 / 1e6, took.as_secs_f64());
    println!("{what:40} {secs:8.3} s {mb:9.1} MB {:9.1} MB/s", mb / secs);
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

fn client() -> Result<Client> {
    // Whoever was first has installed the same provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(Client::builder().no_proxy().build()?)
}

/// Large files up to a total, and an even sample of the small ones.
fn toolchain_files() -> Result<Vec<PathBuf>> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output()?;
    let sysroot = PathBuf::from(String::from_utf8(sysroot.stdout)?.trim());
    let mut files: Vec<(PathBuf, u64)> = walkdir::WalkDir::new(sysroot)
        .sort_by_file_name()
        .into_iter()
        .filter_map(std::result::Result::ok)
        .filter(|e| e.file_type().is_file())
        .filter_map(|e| Some((e.path().to_owned(), e.metadata().ok()?.len())))
        .collect();
    let small: Vec<PathBuf> =
        files.iter().filter(|(_, size)| *size <= 64 << 10).map(|(path, _)| path.clone()).collect();
    files.retain(|(_, size)| *size > 64 << 10);
    files.sort_by_key(|(_, size)| *size);
    let mut total = 0;
    let large = files.into_iter().map_while(|(path, size)| {
        total += size;
        (total < LARGE_BYTES_MAX).then_some(path)
    });
    let step = (small.len() / SMALL_FILES).max(1);
    Ok(large.chain(small.iter().step_by(step).cloned()).collect())
}

/// The programs under measurement.
struct Bins {
    agent: PathBuf,
    service: PathBuf,
}

impl Bins {
    fn new(dir: Option<PathBuf>) -> Self {
        match dir {
            Some(dir) => Self { agent: dir.join("can-sync"), service: dir.join("can-service") },
            None => Self {
                agent: env!("CARGO_BIN_EXE_can-sync").into(),
                service: env!("CARGO_BIN_EXE_can-service").into(),
            },
        }
    }
}

struct Agent {
    process: Child,
    service: Option<Child>,
    api: String,
    store: String,
    ticket: String,
    _dir: TempDir,
}

impl Drop for Agent {
    fn drop(&mut self) {
        for child in std::iter::once(&mut self.process).chain(&mut self.service) {
            // Ended already, which is just as well.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Agent {
    fn start(name: &str, bins: &Bins, external: bool) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut command = Command::new(&bins.agent);
        command.arg("--json").arg("serve").args(["--name", name, "--no-relay", "--listen", "127.0.0.1:0"]);
        command.args(["--bind", "127.0.0.1:0"]).arg("--data-dir").arg(dir.path().join("data"));
        command.env("CAN_SYNC_SYNC_PASSPHRASE", PASSPHRASE).current_dir(dir.path());
        let service = if external {
            Some(start_service(dir.path(), &bins.service, &mut command)?)
        } else {
            command.args(["--can-listen", "127.0.0.1:0"]);
            None
        };
        let mut agent = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let stdout = agent.stdout.take().ok_or("no stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let told: Value = serde_json::from_str(&line)?;
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            process: agent,
            service,
            api: text("api_url"),
            store: text("store_url"),
            ticket: text("ticket"),
            _dir: dir,
        })
    }

    async fn get(&self, http: &Client, path: &str) -> Result<Value> {
        Ok(http.get(format!("{}{path}", self.api)).send().await?.json().await?)
    }

    async fn post(&self, http: &Client, path: &str, body: &Value) -> Result<()> {
        http.post(format!("{}{path}", self.api)).json(body).send().await?.error_for_status()?;
        Ok(())
    }

    async fn wait_in_sync(&self, http: &Client) -> Result<()> {
        let deadline = Instant::now() + Duration::from_mins(10);
        loop {
            let status = self.get(http, "/status").await?;
            if status["data"]["sync"]["state"] == "in_sync" {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("not in sync: {status}").into());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn sent(&self, http: &Client) -> Result<u64> {
        let peers = self.get(http, "/peers").await?;
        Ok(peers["data"]["peers"][0]["bytes_sent"].as_u64().unwrap_or_default())
    }

    /// All assets by hash, without what differs between stores.
    async fn assets(&self, http: &Client) -> Result<Vec<Value>> {
        let mut assets = Vec::new();
        let mut after = String::new();
        loop {
            let page: Value =
                http.get(format!("{}/list?limit=1000{after}", self.store)).send().await?.json().await?;
            assets.extend(page["data"]["assets"].as_array().into_iter().flatten().cloned());
            let Some(cursor) = page["data"]["next_cursor"].as_str() else { break };
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
}

fn start_service(dir: &Path, service: &Path, agent: &mut Command) -> Result<Child> {
    let mut service = Command::new(service)
        .args(["--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.join("service"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(service.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
    let url = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
    agent.args(["--can-service-url", &url]);
    agent.env("CAN_SYNC_SYNC_API_KEY_FILE", dir.join("service/sync_api_key"));
    Ok(service)
}

/// Stores files, eight at a time; their bytes.
async fn ingest(http: &Client, agent: &Agent, files: &[(usize, &PathBuf)]) -> Result<u64> {
    let puts = futures::stream::iter(files).map(async |(_, path)| -> Result<u64> {
        let content = tokio::fs::read(path).await?;
        let len = content.len() as u64;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let form =
            Form::new().text("application", "bench").part("file", Part::bytes(content).file_name(name));
        http.post(format!("{}/ingest", agent.store)).multipart(form).send().await?.error_for_status()?;
        Ok(len)
    });
    let sizes: Vec<Result<u64>> = puts.buffer_unordered(8).collect().await;
    sizes.into_iter().sum()
}

async fn verify(http: &Client, agent: &Agent, assets: &[Value]) -> Result<()> {
    for asset in assets {
        let hash = asset["hash"].as_str().unwrap_or_default();
        let answer = http.get(format!("{}/asset/{hash}", agent.store)).send().await?.error_for_status()?;
        if hex(&Sha256::digest(answer.bytes().await?)) != hash {
            return Err(format!("the content of {hash} is wrong").into());
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// From the 201 at one agent to the asset's event at the other's store.
async fn live(http: &Client, a: &Agent, b: &Agent) -> Result<()> {
    let mut events = http.get(format!("{}/events", b.store)).send().await?.error_for_status()?.bytes_stream();
    let mut seen = String::new();
    let mut waits = Vec::new();
    for i in 0..LIVE_ASSETS {
        let mut content = vec![0; LIVE_BYTES];
        blake3::Hasher::new()
            .update(&i.to_le_bytes())
            .update(a.ticket.as_bytes())
            .finalize_xof()
            .fill(&mut content);
        let hash = hex(&Sha256::digest(&content));
        let form = Form::new().part("file", Part::bytes(content));
        http.post(format!("{}/ingest", a.store)).multipart(form).send().await?.error_for_status()?;
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
    println!("{:40} p50 {:.1} ms, p99 {:.1} ms", "live, 64 KiB, from 201 to the other side", at(50), at(99));
    Ok(())
}

fn raw_hash() {
    let content = vec![7; 256 << 20];
    let started = Instant::now();
    std::hint::black_box(Sha256::digest(&content));
    row("limit: SHA-256, one thread", content.len() as u64, started.elapsed());
}

/// One stream over loopback, with the windows that agents use.
async fn raw_stream() -> Result<()> {
    use can_sync::node::endpoint;
    use iroh::{EndpointAddr, RelayMode, SecretKey, TransportAddr};
    const TOTAL: u64 = 512 << 20;
    let bind = || endpoint::bind(SecretKey::generate(), ([127, 0, 0, 1], 0).into(), RelayMode::Disabled);
    let (near, far) = (bind().await?, bind().await?);
    let mut addr = EndpointAddr::new(far.id());
    addr.addrs.extend(far.bound_sockets().into_iter().map(TransportAddr::Ip));
    let receiver = tokio::spawn(async move {
        let connection = far.accept().await.ok_or("closed")?.await?;
        endpoint::open_up(&connection, 8);
        let mut stream = connection.accept_uni().await?;
        let mut got = 0;
        while let Some(chunk) = stream.read_chunk(256 << 10).await? {
            got += chunk.len() as u64;
        }
        connection.close(0_u32.into(), b"done");
        Ok::<u64, Box<dyn Error + Send + Sync>>(got)
    });
    let connection = near.connect(addr, can_sync::peer::establish::ALPN).await?;
    let chunk = bytes::Bytes::from(vec![7; 256 << 10]);
    let started = Instant::now();
    let mut stream = connection.open_uni().await?;
    for _ in 0..TOTAL / chunk.len() as u64 {
        stream.write_chunk(chunk.clone()).await?;
    }
    stream.finish()?;
    let got = receiver.await??;
    row("limit: one raw iroh stream", got, started.elapsed());
    Ok(())
}
