//! `can-sync backup`: copies the data directory of this place, whether its node runs or not, as it is at one moment.
//!
//! It reads files and asks no node: a user who may read the data directory may back it up, and no node can be told where to write.

use std::path::PathBuf;

use super::Context;
use super::error::{CliError, CliResult, Exit, blocking};
use super::output::message;
use super::progress::ProgressLine;
use super::text;
use crate::node::backup::{BackupError, BackupFinding, BackupOptions, BackupReport, BackupRun};

#[derive(clap::Args, Debug)]
pub(super) struct BackupArgs {
    /// Where to: a directory that is empty or does not exist, or the one of the backup before, which becomes this one
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The data directory of another node, or of a `can-service` [default: the one of this place]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Read and check every content that is in the backup, not only what is copied now
    #[arg(long)]
    verify: bool,
    /// Give contents a second name instead of copying them: quick, on one file system only, and no second copy
    #[arg(long)]
    hard_link: bool,
}

/// Exit code 4 if contents are damaged, and so not in the backup.
pub(super) async fn run(context: &Context, args: BackupArgs) -> CliResult {
    let BackupArgs { dir, data_dir, verify, hard_link } = args;
    let config = context.load_config(None, Vec::new())?.config;
    if data_dir.is_none() && context.is_elsewhere(&config) {
        return Err(CliError::new(Exit::Usage, "--api names a node that is not the one of this place")
            .hint("a backup is made of files: run this on the node's own machine"));
    }
    // A directory that is named need not be of the node that the configuration is about.
    let elsewhere = config.can_service_url.as_ref().filter(|_| data_dir.is_none()).map(ToString::to_string);
    let source = data_dir.unwrap_or_else(|| Context::data_dir_here(&config));
    let spinner = ProgressLine::spinner("copying the databases");
    let begun = blocking(move || BackupRun::begin(&source, &dir, BackupOptions { verify, hard_link })).await;
    drop(spinner);
    let run = begun??;
    let progress = ProgressLine::bytes("backing up contents", Some(run.pending_bytes()));
    let count = progress.counter();
    let done = blocking(move || run.finish(&count)).await;
    drop(progress);
    let report = done??;
    show(context, &report, elsewhere.as_deref())?;
    let others = if report.in_bucket == 0 { "all others are" } else { "all others on this disk are" };
    let sentence = match report.damaged.len() {
        0 => return Ok(()),
        1 => format!("1 content is damaged here, and so not in the backup; {others}"),
        n => format!("{n} contents are damaged here, and so not in the backup; {others}"),
    };
    Err(CliError::new(Exit::Degraded, sentence)
        .hint("`can-sync scrub --repair` has the node fetch them from machines that have them"))
}

fn show(context: &Context, report: &BackupReport, elsewhere: Option<&str>) -> CliResult {
    if context.out.json {
        context.out.value(report)?;
    } else {
        show_findings(context, &report.damaged)?;
        let contents = text::counted(report.contents, "content");
        let removed = match report.removed {
            0 => String::new(),
            some => format!(", {some} removed that nothing needs any more"),
        };
        context.out.line(&format!(
            "backed up into {}: {}, {contents} in files ({}); {} copied ({}){removed}; {}",
            text::escape(&report.dir.display().to_string()),
            text::counted(report.assets, "asset"),
            text::bytes(report.content_bytes),
            report.copied,
            text::bytes(report.copied_bytes),
            text::seconds(report.elapsed_ms / 1000),
        ))?;
    }
    if !report.kept.is_empty() {
        let contents = text::counted(report.kept.len() as u64, "content");
        message(&format!(
            "{contents} damaged here: the backup keeps the whole copy that it had; `can-sync restore` gives it back"
        ));
    }
    if report.in_bucket > 0 {
        let contents = text::counted(report.in_bucket, "content");
        message(&format!(
            "not in it: {contents} ({}) in object storage, where a restored node looks for them; what is lost there is not in this backup \
             (`can-sync export` copies contents)",
            text::bytes(report.in_bucket_bytes)
        ));
    }
    if report.endpoint_id.is_some() && !report.has_passphrase {
        message(
            "not in it: the passphrase, which the data directory does not keep (see `can-sync passphrase`)",
        );
    }
    match (report.seq, elsewhere) {
        (None, Some(url)) => message(&format!(
            "not in it: the assets, which are in the CAN Service at {url}; back up its data directory with \
             `can-sync backup DIR --data-dir …` on its machine"
        )),
        (None, None) => message("not in it: any assets, since no store is in the data directory"),
        (Some(_), Some(url)) => message(&format!(
            "the assets in it are of the store in the data directory; this node's are in the CAN Service at {url}"
        )),
        (Some(_), None) => {}
    }
    Ok(())
}

pub(super) fn show_findings(context: &Context, findings: &[BackupFinding]) -> CliResult {
    if findings.is_empty() {
        return Ok(());
    }
    context.out.list(findings, &["HASH", "SIZE", "NAME", "PROBLEM"], |finding| {
        let BackupFinding { hash, size, name, problem } = finding;
        let name = name.clone().unwrap_or_default();
        vec![context.out.id(hash), text::bytes(*size), name, problem.clone()]
    })
}

impl From<BackupError> for CliError {
    fn from(BackupError { message, hint }: BackupError) -> Self {
        Self::failure(message).hint(hint)
    }
}
