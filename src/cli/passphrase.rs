//! `can-sync passphrase`: shows the passphrase that the first start made, for the next machine.

use serde_json::json;

use super::Context;
use super::error::{CliError, Exit};
use crate::config::Origin;
use crate::identity;

#[derive(clap::Args, Debug)]
pub(super) struct PassphraseArgs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Print it: the default
    Show,
}

/// Reads files on this machine alone: no daemon gives its passphrase away.
pub(super) fn run(context: &Context) -> Result<(), CliError> {
    let loaded = context.load_config(None, Vec::new())?;
    let config = &loaded.config;
    let origin = loaded.origin("sync_passphrase");
    if origin != Origin::Default {
        return Err(CliError::failure(format!("the passphrase is set by {origin}, and shown there alone"))
            .hint("this command shows the one that the data directory keeps"));
    }
    let made = config.data_dir.join(identity::PASSPHRASE_FILE);
    let path = config.sync_passphrase_file.as_ref().unwrap_or(&made);
    let passphrase = identity::read_secret(path)?.ok_or_else(|| {
        CliError::new(Exit::NotFound, format!("there is no passphrase in '{}'", path.display()))
            .hint("the first `can-sync serve` makes one; --config names another configuration")
    })?;
    if context.out.json {
        context.out.value(&json!({ "passphrase": passphrase.as_str(), "path": path.to_string_lossy() }))?;
    } else {
        context.out.line(&passphrase)?;
    }
    Ok(())
}
