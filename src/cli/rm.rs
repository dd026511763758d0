//! `can-sync rm`: deletes assets; the store keeps their content in its trash for a while.

use std::io::IsTerminal as _;

use serde_json::json;

use super::Context;
use super::asking::confirm;
use super::error::{CliError, CliResult, Exit};
use super::output::message;
use super::resolve;
use super::text;
use crate::record::ContentHash;

/// So many are deleted without a question.
const UNASKED_MAX: usize = 3;

#[derive(clap::Args, Debug)]
pub(super) struct RmArgs {
    /// Assets: hashes, at least 8 digits of those, or names
    #[arg(required = true, value_name = "ASSET")]
    assets: Vec<String>,
    /// Delete more than three without a question; needed where nobody can answer
    #[arg(short, long)]
    yes: bool,
    /// Delete what files of folders have, too: they are removed from the folders, on all machines
    #[arg(long)]
    from_folders: bool,
}

/// Goes on after an asset that is not there, and fails at the end.
pub(super) async fn run(context: &Context, args: &RmArgs) -> CliResult {
    if args.assets.len() > UNASKED_MAX && !args.yes {
        ask(args.assets.len())?;
    }
    let store = context.store()?;
    let mut hashes: Vec<ContentHash> = Vec::with_capacity(args.assets.len());
    let mut failed = None;
    for wanted in &args.assets {
        match resolve::asset_for_good(&store, wanted).await {
            Ok(hash) => hashes.push(hash),
            Err(error) => failed = Some(told(error)?),
        }
    }
    let from_folders = if args.from_folders { "?from_folders=true" } else { "" };
    for hash in hashes {
        match store.delete(&format!("/asset/{hash}{from_folders}")).await {
            Ok(()) => {
                let value = json!({ "hash": hash.to_string(), "deleted": true });
                context.out.result(&value, || format!("deleted {hash}"))?;
            }
            Err(error) => failed = Some(told(error)?),
        }
    }
    failed.map_or(Ok(()), |exit| Err(CliError::said(exit)))
}

/// Says why one asset is not deleted; passes on what concerns all of them.
fn told(error: CliError) -> CliResult<Exit> {
    if !matches!(error.exit(), Exit::NotFound | Exit::Usage) {
        return Err(error);
    }
    message(&format!("can-sync: {error}"));
    Ok(error.exit())
}

/// Whether so many are to go. Nobody is asked where nobody can answer.
fn ask(count: usize) -> CliResult {
    let assets = text::counted(count as u64, "asset");
    if !std::io::stdin().is_terminal() {
        return Err(CliError::new(
            Exit::Usage,
            format!("{assets} would be deleted, and nobody can be asked"),
        )
        .hint(
            "--yes deletes them without a question; `can-sync trash restore` brings back what was deleted",
        ));
    }
    let question =
        format!("Delete {assets}? `can-sync trash restore` brings them back within 30 days. [y/N]");
    if confirm(&question)? {
        return Ok(());
    }
    Err(CliError::failure("nothing was deleted"))
}
