//! Reads every content that a store holds through its HTTP API, for stores that do not scrub themselves.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep_until};

use super::super::assets::{Asset, AssetPage, PAGE_MAX};
use super::super::client::ApiClient;
use super::super::error::{CliError, CliResult, Exit};
use super::super::get::read_local;
use super::super::progress::ProgressLine;
use super::{DamagedAsset, Scrubbed};
use crate::record::ContentHash;

/// What one reading of a content comes to.
enum ReadOutcome {
    Right,
    /// It was deleted or let go of meanwhile.
    Gone,
    Wrong(String),
}

/// Reads all that is held.
pub(super) async fn run(store: &ApiClient, rate: Option<u64>) -> CliResult<Scrubbed> {
    let mut scrub = Scrub { store, pace: rate.map(ReadPace::new), bytes: 0 };
    let (checked, mut findings) = scrub.all().await?;
    for finding in &mut findings {
        // What the node met before us may be whole again by now: it is if it can be read.
        let Ok(hash) = finding.hash.parse() else { continue };
        finding.healed = matches!(scrub.read(hash, &|_| {}).await, Ok(ReadOutcome::Right));
    }
    Ok(Scrubbed { checked, bytes: scrub.bytes, findings, besides: None })
}

struct Scrub<'a> {
    store: &'a ApiClient,
    pace: Option<ReadPace>,
    bytes: u64,
}

impl Scrub<'_> {
    /// Reads all that is held, the oldest first: how many contents, and what is wrong.
    async fn all(&mut self) -> CliResult<(u64, Vec<DamagedAsset>)> {
        let progress = ProgressLine::bytes("checking contents", None);
        let count = progress.counter();
        let (mut checked, mut findings) = (0, Vec::new());
        let mut cursor: Option<String> = None;
        loop {
            let mut query = vec![("held", "true".to_owned()), ("order", "oldest".to_owned())];
            query.push(("limit", PAGE_MAX.to_string()));
            query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let page: AssetPage = self.store.get("/list", &query).await?;
            let of = page.of_total();
            let AssetPage { assets, next_cursor, .. } = page;
            for asset in assets {
                let Ok(hash) = asset.hash.parse() else { continue };
                match self.check(hash, &count).await? {
                    ReadOutcome::Right => {}
                    ReadOutcome::Gone => continue,
                    ReadOutcome::Wrong(problem) => findings.push(DamagedAsset {
                        name: asset.filename.unwrap_or_default(),
                        size: asset.size,
                        hash: asset.hash,
                        problem,
                        healed: false,
                    }),
                }
                checked += 1;
                let wrong = match findings.len() {
                    0 => String::new(),
                    some => format!(", {some} damaged"),
                };
                progress.set(&format!("checking contents: {checked}{of}{wrong}"));
            }
            cursor = next_cursor;
            if cursor.is_none() {
                return Ok((checked, findings));
            }
        }
    }

    /// What breaks off once is read again: the connection may have been at fault, and the store knows by then.
    async fn check(&mut self, hash: ContentHash, count: &impl Fn(u64)) -> CliResult<ReadOutcome> {
        let first = self.read(hash, count).await?;
        if !matches!(first, ReadOutcome::Wrong(_)) {
            return Ok(first);
        }
        // What is right the second time was healed meanwhile, and is told all the same.
        let second = self.read(hash, count).await?;
        Ok(if matches!(second, ReadOutcome::Right) { first } else { second })
    }

    async fn read(&mut self, hash: ContentHash, count: &impl Fn(u64)) -> CliResult<ReadOutcome> {
        let mut response = match read_local(self.store, hash).await {
            Ok(response) => response,
            Err(error) if error.exit() == Exit::NotFound => return self.why_absent(hash, &error).await,
            Err(error) if error.exit() == Exit::Failure => return Ok(ReadOutcome::Wrong(error.to_string())),
            Err(error) => return Err(error),
        };
        let mut hasher = Sha256::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    hasher.update(&chunk);
                    count(chunk.len() as u64);
                    self.bytes += chunk.len() as u64;
                    if let Some(pace) = &mut self.pace {
                        pace.took(chunk.len() as u64).await;
                    }
                }
                Ok(None) => break,
                Err(_) => return Ok(ReadOutcome::Wrong("its bytes are not those that were stored".into())),
            }
        }
        let found = ContentHash(hasher.finalize().into());
        let is_right = found == hash;
        Ok(if is_right { ReadOutcome::Right } else { ReadOutcome::Wrong(format!("it hashes to {found}")) })
    }

    /// The store listed it as held a moment ago.
    async fn why_absent(&self, hash: ContentHash, error: &CliError) -> CliResult<ReadOutcome> {
        match self.store.get::<Asset>(&format!("/asset/{hash}/meta"), &[]).await {
            Ok(asset) if asset.held => Ok(ReadOutcome::Wrong(error.to_string())),
            // Its content was there when it was listed.
            Ok(_) => Ok(ReadOutcome::Wrong("its file is damaged or missing, and was set aside".into())),
            Err(gone) if gone.exit() == Exit::NotFound => Ok(ReadOutcome::Gone),
            Err(other) => Err(other),
        }
    }
}

/// Keeps reading to a rate.
struct ReadPace {
    bytes_per_sec: u64,
    next: Instant,
}

impl ReadPace {
    fn new(mib_per_sec: u64) -> Self {
        Self { bytes_per_sec: mib_per_sec.saturating_mul(1 << 20), next: Instant::now() }
    }

    async fn took(&mut self, bytes: u64) {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_sec.max(1));
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.next = self.next.max(Instant::now()) + takes;
        sleep_until(self.next).await;
    }
}
