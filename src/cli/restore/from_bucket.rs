//! `can-sync restore --from URL`: makes a data directory of the snapshots that a lost node left in object storage.

use std::path::PathBuf;

use super::super::Context;
use super::super::error::{CliError, CliResult, Exit};
use super::super::output::message;
use super::super::progress::ProgressLine;
use super::super::text;
use crate::config::{BucketUrl, Config, ContentBucket};
use crate::node::backup::snapshot::{
    SnapshotChoice, SnapshotOrder, SnapshotRestored, SnapshotRun, SnapshotStart,
};
use crate::store::StoreId;

/// Lets the client speak to an endpoint http://… where nothing is configured, as it does in other programs.
const ALLOW_HTTP: &str = "AWS_ALLOW_HTTP";

pub(super) struct FromBucket {
    pub(super) from: BucketUrl,
    pub(super) store: Option<StoreId>,
    pub(super) alone: bool,
}

pub(super) async fn run(
    context: &Context,
    config: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    wish: FromBucket,
) -> CliResult {
    if context.names_another_node() {
        return Err(CliError::new(
            Exit::NotAllowed,
            "a data directory is made on the machine that it is for",
        )
        .hint("run `can-sync restore` there; without --api (CAN_SYNC_API) it is about this one"));
    }
    let config = context.load_config(config, Vec::new())?.config;
    let order = order_of(&config, wish)?;
    let target = data_dir.unwrap_or_else(|| config.data_dir.clone());
    let spinner = ProgressLine::spinner("looking for snapshots");
    let begun = SnapshotRun::begin(order, &target).await;
    drop(spinner);
    let run = match begun? {
        SnapshotStart::Run(run) => run,
        SnapshotStart::Choose(choices) => return choose(context, &choices),
    };
    let progress = ProgressLine::bytes("restoring records", Some(run.pending_bytes()));
    let done = run.finish(progress.counter()).await;
    drop(progress);
    show(context, &done?)
}

/// Where it is read from, and what becomes of the place.
fn order_of(config: &Config, FromBucket { from, store, alone }: FromBucket) -> CliResult<SnapshotOrder> {
    let configured = config.store.content.0.clone().filter(|place| place.url == from);
    if alone && configured.as_ref().is_some_and(|place| place.shared) {
        return Err(CliError::new(
            Exit::Usage,
            "--alone and store.content.shared: true contradict each other",
        )
        .hint("keep one of the two"));
    }
    if alone && configured.is_none() {
        return Err(CliError::new(
            Exit::Usage,
            format!("--alone makes {from} this node's own place, and store.content does not name it"),
        )
        .hint("set store.content, or leave --alone out"));
    }
    let is_its_place = configured.is_some();
    let place = configured.unwrap_or_else(|| ContentBucket {
        allow_http: std::env::var(ALLOW_HTTP).is_ok_and(|value| value.eq_ignore_ascii_case("true")),
        ..ContentBucket::at(from)
    });
    Ok(SnapshotOrder { place, is_its_place, store, alone })
}

fn choose(context: &Context, choices: &[SnapshotChoice]) -> CliResult {
    context.out.list(choices, &["STORE", "LATEST SNAPSHOT", "ASSETS"], |choice| {
        vec![choice.store.clone(), choice.made_at.clone(), choice.assets.to_string()]
    })?;
    Err(CliError::new(Exit::Usage, "several stores left snapshots there")
        .hint("say which one with --store ID"))
}

/// Exit code 4 where not everything that is there could be used.
fn show(context: &Context, report: &SnapshotRestored) -> CliResult {
    let shown = text::escape(&report.data_dir.display().to_string()).into_owned();
    if context.out.json {
        context.out.value(report)?;
    } else {
        let (what, elapsed) = (report.sentence(), text::seconds(report.elapsed_ms / 1000));
        context.out.line(&format!("restored into {shown}: {what}; {elapsed}"))?;
    }
    for problem in &report.problems {
        message(&text::escape(problem));
    }
    message(&format!(
        "start it with `can-sync serve` and the passphrase: it is a new node, without libraries and tickets. {}",
        match report.owns_place {
            Some(true) => "The place is its own; a store that was said to be gone and comes back halts it.",
            Some(false) => "The place belongs to several stores: nothing is ever deleted there.",
            None =>
                "Contents come from other machines, or from the object storage if store.content names it.",
        }
    ));
    message(
        "Pins and the list of denied machines are in no snapshot: before it meets others, run `can-sync deny` again for each of those \
         machines, or change the passphrase on the others first.",
    );
    if report.problems.is_empty() {
        return Ok(());
    }
    Err(CliError::new(Exit::Degraded, "some of the snapshots cannot be used; all others are restored")
        .hint("what is missing comes from machines that have it"))
}
