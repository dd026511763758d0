//! `can-sync rm`: deletes assets; the store keeps their content in its trash for a while.

use serde_json::json;

use super::Context;
use super::assets;
use super::error::{CliError, Exit};
use super::output::message;
use crate::record::ContentHash;

#[derive(clap::Args, Debug)]
pub(super) struct RmArgs {
    /// CAN hashes
    #[arg(required = true, value_name = "HASH", value_parser = assets::hash)]
    hashes: Vec<ContentHash>,
}

/// Goes on after an asset that is not there, and fails at the end.
pub(super) async fn run(context: &Context, args: &RmArgs) -> Result<(), CliError> {
    let store = context.store()?;
    let mut missing = 0;
    for hash in &args.hashes {
        match store.delete(&format!("/asset/{hash}")).await {
            Ok(()) if context.out.json => {
                context.out.value(&json!({ "hash": hash.to_string(), "deleted": true }))?;
            }
            Ok(()) => context.out.line(&format!("deleted {hash}"))?,
            Err(e) if e.exit() == Exit::NotFound => {
                message(&format!("can-sync: {e}"));
                missing += 1;
            }
            Err(e) => return Err(e),
        }
    }
    if missing == 0 { Ok(()) } else { Err(CliError::said(Exit::NotFound)) }
}
