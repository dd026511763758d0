//! `can-sync restore`: makes a data directory of a backup.

use std::path::PathBuf;

use super::Context;
use super::backup::show_findings;
use super::error::{CliError, Exit, blocking};
use super::output::message;
use super::progress::ProgressLine;
use super::text;
use crate::node::backup::RestoreRun;

#[derive(clap::Args, Debug)]
pub(super) struct RestoreArgs {
    /// The directory that `can-sync backup` was given
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The data directory to make: it must be empty, or not exist
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Make a node of its own, for use beside the one that was backed up: without its key, libraries and tickets
    #[arg(long)]
    new_id: bool,
}

/// Exit code 4 if contents are missing or damaged in the backup: the node fetches them from other machines.
pub(super) async fn run(context: &Context, args: RestoreArgs) -> Result<(), CliError> {
    let RestoreArgs { dir, data_dir, new_id } = args;
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
