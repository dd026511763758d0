//! A machine that holds nothing by itself and has room for a tenth, beside two servers that have everything.

use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use reqwest::StatusCode;
use serde_json::Value;

use super::support::agent::{Agent, Bins, Home};
use super::support::figures::{Runs, Table, mib, ms};
use super::support::http::{ANSWER_WITHIN, HTTP, get};
use super::support::{MIB, Noise, Result, noise, patience, sha256_hex};

/// Contents of each size.
pub(crate) const ASSETS: usize = 1_100;
const SIZES: [u64; 2] = [65_536, MIB];
/// Contents of each size that are read at the laptop, at most; of fewer assets a smaller part, for a tenth of them has room.
const GETS: usize = 100;
/// Uploads at once.
const AT_ONCE: usize = 16;
const GOAL: &str = "p50 <= 50 ms";

/// Laptop, and how much content it may hold.
struct Laptop {
    agent: Agent,
    quota: u64,
}

/// What a content came to that was not here.
enum Got {
    /// Its first byte came after this time, and all of it.
    Whole(Duration),
    Refused(StatusCode, String),
}

impl Laptop {
    /// Content that it holds, in bytes; never more than it may.
    async fn used(&self) -> Result<u64> {
        let status = self.agent.get("/status").await?;
        let used = status["store"]["quota"]["used_bytes"].as_u64().ok_or("no quota")?;
        assert!(used <= self.quota, "{used} of {} bytes are used", self.quota);
        Ok(used)
    }

    async fn get(&self, hash: &str, bytes: u64) -> Result<Got> {
        let began = Instant::now();
        let answer =
            HTTP.get(format!("{}/asset/{hash}", self.agent.store)).timeout(ANSWER_WITHIN).send().await?;
        let status = answer.status();
        if !status.is_success() {
            let said: Value = answer.json().await?;
            return Ok(Got::Refused(status, said["code"].as_str().unwrap_or_default().to_owned()));
        }
        let mut chunks = answer.bytes_stream();
        let first = chunks.try_next().await?.ok_or("an empty answer")?;
        let took = began.elapsed();
        let rest = chunks.try_fold(0, |sum, chunk| async move { Ok(sum + chunk.len()) }).await?;
        assert_eq!((first.len() + rest) as u64, bytes, "all of it came");
        self.used().await?;
        Ok(Got::Whole(took))
    }

    /// All pages of a list or a search: how many assets, and how long it took.
    async fn pages(&self, path: &str) -> Result<(u64, Duration)> {
        let (began, mut after, mut seen) = (Instant::now(), String::new(), 0);
        loop {
            let page = get(&format!("{}{path}limit=1000{after}", self.agent.store)).await?;
            seen += page["assets"].as_array().map_or(0, Vec::len) as u64;
            let Some(cursor) = page["next_cursor"].as_str() else { break };
            after = format!("&cursor={cursor}");
        }
        Ok((seen, began.elapsed()))
    }
}

/// Contents of one size, by hash and length.
type Contents = Vec<(String, u64)>;

/// Two servers with so many contents of each size, every other one put at each.
async fn servers(bins: &Bins, assets: usize) -> Result<(Agent, Agent, Vec<Contents>)> {
    let (a, b) = (Agent::start(bins, "server").await?, Agent::start(bins, "cellar").await?);
    let mut contents = Vec::new();
    for (n, len) in SIZES.into_iter().enumerate() {
        let seeds = (n * assets) as u64..((n + 1) * assets) as u64;
        let noises: Vec<Noise> = seeds.map(|seed| Noise { seed, len }).collect();
        for (server, half) in [&a, &b].into_iter().zip(noises.chunks(assets.div_ceil(2))) {
            server.put_all(half, AT_ONCE).await?;
        }
        // None is longer than a block of noise.
        let hash = |one: &Noise| Result::Ok(sha256_hex(&noise(one.seed, usize::try_from(one.len)?)));
        contents.push(noises.iter().map(|one| Ok((hash(one)?, one.len))).collect::<Result<_>>()?);
    }
    let total = (SIZES.len() * assets) as u64;
    b.dial(&a).await?;
    for server in [&a, &b] {
        server.wait_for_assets(total, patience(SIZES.iter().sum::<u64>() * assets as u64)).await?;
    }
    Ok((a, b, contents))
}

pub(crate) async fn laptop(bins: &Bins, assets: usize) -> Result<()> {
    let bytes = SIZES.iter().sum::<u64>() * assets as u64;
    let (total, quota) = ((SIZES.len() * assets) as u64, bytes / 10);
    let (a, b, contents) = servers(bins, assets).await?;
    let home = Home::new(bins, "laptop")?.set("hold", &"nothing").set("store.quota_bytes", &quota);
    let laptop = Laptop { agent: home.start().await?, quota };
    let what = format!("a tenth of {total} assets, {:.0} MiB of {:.0} MiB", mib(quota), mib(bytes));
    let table = Table::new(&[(what.as_str(), 60), ("here", 40), ("target", 16)]);
    let row = |what: &str, here: String, target: &str| table.row(&[what.to_owned(), here, target.to_owned()]);

    let began = Instant::now();
    laptop.agent.dial(&a).await?;
    laptop.agent.dial(&b).await?;
    laptop.agent.wait_in_sync(Some(total), patience(0)).await?;
    row("from meeting both servers until all is known", format!("{:.0} ms", ms(began.elapsed())), "");
    assert_eq!(laptop.used().await?, 0, "nothing comes by itself");
    for (what, path) in [("list", "/list?"), ("search", "/search?q=bench&")] {
        let (seen, took) = laptop.pages(path).await?;
        assert_eq!(seen, total, "{what} is complete");
        row(&format!("{what}, all pages of 1,000"), format!("{seen} assets, {:.0} ms", ms(took)), "");
    }

    for (contents, len) in contents.iter().zip(SIZES) {
        let mut runs = Runs::new();
        for (hash, bytes) in contents.iter().step_by(11).take(GETS) {
            match laptop.get(hash, *bytes).await? {
                Got::Whole(took) => runs.add(took),
                Got::Refused(status, code) => return Err(format!("refused with {status} {code}").into()),
            }
        }
        let what =
            format!("{} gets of {} KiB that are not here, first byte, p50 / p99", runs.len(), len / 1024);
        row(&what, format!("{:.1} / {:.1} ms", ms(runs.at(50)), ms(runs.at(99))), GOAL);
    }
    let (came, refusal) = fill(&laptop, &contents).await?;
    let used = laptop.used().await?;
    row("more that came, and what the next one was answered", format!("{came}, {refusal}"), "");
    row("held then", format!("{:.1} of {:.1} MiB", mib(used), mib(quota)), "<= quota");
    for agent in [laptop.agent, b, a] {
        agent.stop().await?;
    }
    Ok(())
}

/// Reads on until something is refused: how many came before, and the answer.
async fn fill(laptop: &Laptop, contents: &[Contents]) -> Result<(usize, String)> {
    let mut came = 0;
    for (hash, bytes) in contents.iter().rev().flatten() {
        if is_here(&laptop.agent, hash).await? {
            continue;
        }
        let began = Instant::now();
        match laptop.get(hash, *bytes).await? {
            Got::Whole(_) => came += 1,
            Got::Refused(status, code) => {
                let took = ms(began.elapsed());
                let why = laptop.agent.get(&format!("/why/{hash}")).await?;
                let state = why["state"].as_str().unwrap_or_default();
                return Ok((came, format!("{} {code}, {state}, {took:.0} ms", status.as_u16())));
            }
        }
    }
    Err("all of it came, and more than the quota".into())
}

/// Whether a content is here.
async fn is_here(agent: &Agent, hash: &str) -> Result<bool> {
    let asked = HTTP.head(format!("{}/asset/{hash}", agent.store)).timeout(ANSWER_WITHIN);
    Ok(asked.send().await?.status().is_success())
}
