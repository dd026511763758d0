//! `can-sync passphrase`: shows the passphrase that the first start made, for the next machine.

use serde_json::json;

use super::Context;
use super::error::{CliError, Exit};
use super::output::message;
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
    /// Make another one, after the old one became known to somebody; every machine needs it at its next start
    Rotate,
}

/// Reads files on this machine alone: no daemon gives its passphrase away.
pub(super) fn run(context: &Context, args: &PassphraseArgs) -> Result<(), CliError> {
    let loaded = context.load_config(None, Vec::new())?;
    let config = &loaded.config;
    let origin = loaded.origin("sync_passphrase");
    if origin != Origin::Default {
        return Err(CliError::failure(format!("the passphrase is set by {origin}, and shown there alone"))
            .hint("this command shows the one that the data directory keeps"));
    }
    let made = config.data_dir.join(identity::PASSPHRASE_FILE);
    let path = config.sync_passphrase_file.as_ref().unwrap_or(&made);
    if matches!(args.action, Some(Action::Rotate)) {
        return rotate(context, path);
    }
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

/// The old passphrase opens nothing any more once every node was started with the new one.
fn rotate(context: &Context, path: &std::path::Path) -> Result<(), CliError> {
    if identity::read_secret(path)?.is_none() {
        return Err(CliError::new(Exit::NotFound, format!("there is no passphrase in '{}'", path.display()))
            .hint("the first `can-sync serve` makes one; --config names another configuration"));
    }
    let passphrase = identity::new_passphrase(path)?;
    if context.out.json {
        context.out.value(&json!({ "passphrase": passphrase.as_str(), "path": path.to_string_lossy() }))?;
    } else {
        context.out.line(&passphrase)?;
        message("Start this node again, and every other one of yours with the new passphrase.");
        message("A machine that still has the old one is not let in any more, and keeps what it has.");
    }
    Ok(())
}
