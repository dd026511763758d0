//! `can-sync restore`: makes a data directory of a backup, or of the snapshots in object storage.

use std::path::PathBuf;

use super::Context;
use super::backup::show_findings;
use super::error::{CliError, CliResult, Exit, blocking};
use super::output::message;
use super::progress::ProgressLine;
use super::text;
use crate::config::BucketUrl;
use crate::node::backup::RestoreRun;
use crate::store::StoreId;

mod from_bucket;

#[derive(clap::Args, Debug)]
pub(super) struct RestoreArgs {
    /// The directory that `can-sync backup` was given; with --from, the configuration file
    #[arg(value_name = "DIR|CONFIG", required_unless_present = "from")]
    source: Option<PathBuf>,
    /// The data directory to make: it must be empty, or not exist [with --from, the configured one if it is not given]
    #[arg(long, value_name = "DIR", required_unless_present = "from")]
    data_dir: Option<PathBuf>,
    /// Make a node of its own, for use beside the one that was backed up: without its key, libraries and tickets
    #[arg(long, conflicts_with = "from")]
    new_id: bool,
    /// Restore from the snapshots in object storage that a lost node left where its contents are
    #[arg(long, value_name = "URL", value_parser = BucketUrl::parse)]
    from: Option<BucketUrl>,
    /// Of several stores that left snapshots there, this one
    #[arg(long, value_name = "ID", requires = "from")]
    store: Option<StoreId>,
    /// The lost node is gone for good: the place becomes the restored one's own, where it deletes what it does not need any more
    #[arg(long, requires = "from")]
    alone: bool,
}

/// Exit code 4 if contents are missing or damaged in the backup, or parts of snapshots are: the node fetches them from other machines.
pub(super) async fn run(context: &Context, args: RestoreArgs) -> CliResult {
    let RestoreArgs { source, data_dir, new_id, from, store, alone } = args;
    if let Some(from) = from {
        return from_bucket::run(context, source, data_dir, from_bucket::FromBucket { from, store, alone })
            .await;
    }
    let (Some(dir), Some(data_dir)) = (source, data_dir) else {
        return Err(CliError::new(Exit::Usage, "name the backup, and --data-dir"));
    };
    let spinner = ProgressLine::spinner("checking the backup");
    let begun = blocking(move || RestoreRun::begin(&dir, &data_dir, new_id)).await;
    drop(spinner);
    let run = begun??;
    let progress = ProgressLine::bytes("restoring contents", Some(run.pending_bytes()));
    let done = run.finish(progress.counter()).await;
    drop(progress);
    let report = done?;
    let shown = text::escape(&report.data_dir.display().to_string()).into_owned();
    if context.out.json {
        context.out.value(&report)?;
    } else {
        show_findings(context, &report.missing)?;
        context.out.line(&format!(
            "restored into {shown}, as of {}: {}, {} in files ({}); {}",
            text::escape(&report.made_at),
            text::counted(report.assets, "asset"),
            text::counted(report.contents, "content"),
            text::bytes(report.content_bytes),
            text::seconds(report.elapsed_ms / 1000),
        ))?;
    }
    for name in &report.left_out {
        message(&format!("left out: {name}, which is damaged in the backup and can be done without"));
    }
    if report.endpoint_id.is_some() {
        message(&format!(
            "start it with `can-sync serve --data-dir {shown}`; if the node that was backed up still runs anywhere, stop that one \
             first, or restore with --new-id"
        ));
    }
    let sentence = match report.missing.len() {
        0 => return Ok(()),
        1 => "1 content is not in the backup, or damaged there; all others are restored".to_owned(),
        n => format!("{n} contents are not in the backup, or damaged there; all others are restored"),
    };
    Err(CliError::new(Exit::Degraded, sentence).hint("the node fetches them from machines that have them"))
}
