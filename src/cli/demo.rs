//! `can-sync demo`: two nodes on this machine, and assets that go from one to the other. Needs no network but loopback,
//! and leaves nothing behind.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Context;
use super::assets::Asset;
use super::client::ApiClient;
use super::error::{CliError, CliResult, Exit};
use super::output::message;
use super::stopping::{self, StopSignals};
use super::{put, serve, status, text};
use crate::config::{Config, Discovery, Limits, Origins, RelaySetting};
use crate::identity;
use crate::node::Node;
use crate::record::ContentHash;

mod samples;

/// Between two looks at the other node.
const LOOK: Duration = Duration::from_millis(5);
/// For the nodes to connect, and for each asset to arrive.
const STEP_LIMIT: Duration = Duration::from_mins(1);
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Free space that each demo store leaves.
const DISK_RESERVE_BYTES: u64 = 64 << 20;

struct DemoNode {
    name: &'static str,
    node: Node,
    agent: ApiClient,
    store: ApiClient,
}

impl DemoNode {
    async fn start(name: &'static str, dir: &Path, passphrase: &str) -> CliResult<Self> {
        let node = Box::pin(serve::start(config(name, dir, passphrase), Origins::new(), None)).await?;
        let agent = ApiClient::agent(serve::page_url(node.api_addr()).trim_end_matches('/'), None)?;
        let store = ApiClient::store(&node.store_url())?;
        Ok(Self { name, node, agent, store })
    }

    async fn stop(self) {
        self.node.stop("the demo ends");
        if tokio::time::timeout(STOP_LIMIT, self.node.wait()).await.is_err() {
            message(&format!("can-sync: {} did not stop in time", self.name));
        }
    }
}

/// A node that is reached from this machine alone, at addresses that are free, with nobody looked for.
fn config(name: &str, dir: &Path, passphrase: &str) -> Config {
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let nothing = Discovery { pkarr_relays: Vec::new(), dht: false, mdns: false, ..Discovery::default() };
    Config {
        name: name.to_owned(),
        data_dir: dir.join(name),
        sync_passphrase: Some(passphrase.into()),
        listen_addr: free,
        can_listen_addr: free,
        bind_addr: free,
        relay_url: RelaySetting::Disabled,
        discovery: nothing,
        limits: Limits { disk_reserve_bytes: DISK_RESERVE_BYTES, ..Limits::default() },
        ..Config::default()
    }
}

pub(super) async fn run(context: &Context) -> CliResult {
    let dir = tempfile::Builder::new()
        .prefix("can-sync-demo-")
        .tempdir()
        .map_err(|e| CliError::failure(format!("cannot make a directory for the demo: {e}")))?;
    let passphrase = identity::random_token();
    let no_signals = |e| CliError::failure(format!("cannot wait for signals: {e}"));
    let mut stop = StopSignals::install().map_err(no_signals)?;
    stopping::at_once_when_asked_again(1).map_err(no_signals)?;
    let started = tokio::select! {
        started = Box::pin(start_both(dir.path(), &passphrase)) => started.map(Some),
        _ = stop.next() => Ok(None),
    };
    let shown = match started {
        Ok(Some((first, second))) => {
            let shown = tokio::select! {
                shown = show(context, dir.path(), &first, &second) => shown,
                _ = stop.next() => Ok(()),
            };
            message("stopping both nodes and removing what they kept");
            tokio::join!(first.stop(), second.stop());
            shown
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    let path = dir.path().to_owned();
    dir.close().map_err(|e| CliError::failure(format!("cannot remove '{}': {e}", path.display())))?;
    shown
}

async fn start_both(dir: &Path, passphrase: &str) -> CliResult<(DemoNode, DemoNode)> {
    let first = DemoNode::start("first", dir, passphrase).await?;
    match DemoNode::start("second", dir, passphrase).await {
        Ok(second) => Ok((first, second)),
        Err(e) => {
            first.stop().await;
            Err(e)
        }
    }
}

/// Connects the two, lets the samples go across, and stays until it is interrupted.
async fn show(context: &Context, dir: &Path, first: &DemoNode, second: &DemoNode) -> CliResult {
    let began = Instant::now();
    let _: Value = second.agent.post("/peers", &json!({ "ticket": first.node.ticket() })).await?;
    until("the nodes to connect", async || {
        Ok((status::fetch(&second.agent).await?.peers.connected > 0).then_some(()))
    })
    .await?;
    say(context, &format!("two nodes are connected after {} ms", began.elapsed().as_millis()))?;

    let files = samples::write(&dir.join("samples"))
        .map_err(|e| CliError::failure(format!("cannot write the samples: {e}")))?;
    for path in &files {
        let asset = put::store_file(&first.store, path, "demo").await?;
        let stored = Instant::now();
        let arrived = until("an asset to arrive", async || arrival(&second.store, &asset).await).await?;
        let took = stored.elapsed();
        verify(&second.store, &arrived).await?;
        report(context, &arrived, took)?;
    }

    let pages = [first, second].map(|side| serve::page_url(side.node.api_addr()));
    if context.out.json {
        context.out.value(&json!({ "pages": pages }))?;
    } else {
        let [first, second] = &pages;
        context.out.line(&format!("\nTheir web pages, until Ctrl-C:\n  {first}\n  {second}"))?;
    }
    std::future::pending().await
}

async fn until<T>(what: &str, ask: impl AsyncFn() -> CliResult<Option<T>>) -> CliResult<T> {
    let deadline = Instant::now() + STEP_LIMIT;
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            let limit = text::seconds(STEP_LIMIT.as_secs());
            return Err(CliError::new(Exit::Timeout, format!("waited {limit} for {what}")));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The asset as the other store has it, once it has.
async fn arrival(store: &ApiClient, asset: &Asset) -> CliResult<Option<Asset>> {
    match store.get(&format!("/asset/{}/meta", asset.hash), &[]).await {
        Ok(arrived) => Ok(Some(arrived)),
        Err(e) if e.exit() == Exit::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Hashes what the other store gives.
async fn verify(store: &ApiClient, asset: &Asset) -> CliResult {
    let path = format!("/asset/{}", asset.hash);
    let mut response = store.send(store.request(Method::GET, &path)).await?;
    let mut hasher = Sha256::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| store.unreachable(&e))? {
        hasher.update(&chunk);
    }
    let found = ContentHash(hasher.finalize().into()).to_string();
    if found == asset.hash {
        return Ok(());
    }
    Err(CliError::failure(format!("the copy of {} hashes to {found}", asset.hash)))
}

fn report(context: &Context, asset: &Asset, took: Duration) -> CliResult {
    if context.out.json {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        return Ok(context.out.value(&json!({ "asset": asset, "took_ms": took_ms, "verified": true }))?);
    }
    let name = asset.filename.clone().unwrap_or_default();
    let line = format!(
        "  {name:18} {:>10}  {:28} there after {:>4} ms, verified",
        text::bytes(asset.size),
        asset.mime_type,
        took.as_millis()
    );
    Ok(context.out.line(&text::escape(&line))?)
}

fn say(context: &Context, sentence: &str) -> CliResult {
    if context.out.json { Ok(()) } else { Ok(context.out.line(sentence)?) }
}
