//! Has the node check its contents, and follows it.

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;

use super::super::client::ApiClient;
use super::super::error::{CliError, CliResult, Exit};
use super::super::progress::ProgressLine;
use super::super::text;
use super::{DamagedAsset, Scrubbed};
use crate::store::scrub::{ScrubFinding, ScrubProgress, ScrubReport, ScrubResult};

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(300);

#[derive(Deserialize)]
struct Begun {
    pass: u64,
}

#[derive(Deserialize)]
struct FindingsPage {
    findings: Vec<ScrubFinding>,
    next_cursor: Option<String>,
}

pub(super) enum NodeScrub {
    Scrubbed(Scrubbed),
    /// The store does not scrub itself at the moment: why, if it could.
    Not(Option<CliError>),
}

/// Has the node scrub, and waits for the end.
pub(super) async fn run(store: &ApiClient, rate: Option<u64>) -> CliResult<NodeScrub> {
    let rate = rate.map(|mib| ("bytes_per_sec", mib.saturating_mul(1 << 20).to_string()));
    let begin = store.request(Method::POST, "/scrub").query(rate.as_slice());
    let pass = match store.call::<Begun>(begin).await {
        Ok(Begun { pass }) => pass,
        // An older service, or one of another kind: it can be read all the same.
        Err(error) if matches!(error.exit(), Exit::NotFound | Exit::Failure) => {
            return Ok(NodeScrub::Not(None));
        }
        // So can one that takes no writes.
        Err(error) if error.exit() == Exit::Degraded => return Ok(NodeScrub::Not(Some(error))),
        Err(error) => return Err(error),
    };
    let besides = follow(store, pass).await?;
    let page = |FindingsPage { findings, next_cursor }| (findings, next_cursor);
    let found = store.all("/scrub/findings", &[], page).await?;
    let mut findings: Vec<DamagedAsset> = found.into_iter().map(Into::into).collect();
    // What was met before the pass began is damaged all the same.
    let before = match store.get::<Vec<ScrubFinding>>("/damaged", &[]).await {
        // Not asked through the agent of an external store.
        Err(error) if error.exit() == Exit::NotFound => Vec::new(),
        before => before?,
    };
    let is_new = |found: &ScrubFinding| findings.iter().all(|known| known.hash != found.hash);
    let before: Vec<DamagedAsset> = before.into_iter().filter(is_new).map(Into::into).collect();
    findings.extend(before);
    let ScrubResult { checked, bytes, .. } = besides;
    Ok(NodeScrub::Scrubbed(Scrubbed { checked, bytes, findings, besides: Some(besides) }))
}

async fn follow(store: &ApiClient, pass: u64) -> CliResult<ScrubResult> {
    let progress = ProgressLine::spinner("checking contents");
    loop {
        let ScrubReport { running, last, .. } = store.get("/scrub", &[]).await?;
        if let Some(last) = last.filter(|last| last.pass >= pass) {
            return Ok(last);
        }
        let running = running.filter(|running| running.pass >= pass).ok_or_else(|| {
            CliError::failure("the node no longer knows of this scrub")
                .hint("begin it again: `can-sync scrub`")
        })?;
        if let Some(why) = running.stopped {
            return Err(CliError::failure(format!("the scrub cannot go on: {why}")));
        }
        progress.set(&stands(&running));
        tokio::time::sleep(LOOK).await;
    }
}

fn stands(running: &ScrubProgress) -> String {
    let ScrubProgress {
        checked,
        contents,
        bytes,
        bytes_held,
        not_checked,
        bytes_per_sec,
        eta_secs,
        found,
        ..
    } = running;
    let rate =
        if *bytes_per_sec > 0 { format!(", {}/s", text::bytes(*bytes_per_sec)) } else { String::new() };
    let left = eta_secs.map(|secs| format!(", {} left", text::seconds(secs))).unwrap_or_default();
    let skipped = match not_checked {
        0 => String::new(),
        some => format!(", {some} in object storage not checked"),
    };
    let wrong = if *found > 0 { format!(", {found} damaged") } else { String::new() };
    format!(
        "checking contents: {checked} of {contents}, {} of {}{skipped}{rate}{left}{wrong}; the node goes on when this is stopped",
        text::bytes(*bytes),
        text::bytes(*bytes_held)
    )
}
