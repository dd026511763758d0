//! `can-sync passphrase`: shows the passphrase that a start here uses, for the next machine.

use std::path::Path;

use secrecy::ExposeSecret as _;
use serde_json::json;

use super::Context;
use super::error::{CliError, CliResult, Exit};
use super::output::message;
use crate::config::{Loaded, Origin};
use crate::identity::{self, Mend, Passphrase};
use crate::node::running::PassphraseSource;
use crate::node::secrets::passphrase_sources;

#[derive(clap::Args, Debug)]
pub(super) struct PassphraseArgs {
    #[command(subcommand)]
    action: Option<PassphraseCommand>,
}

#[derive(clap::Subcommand, Debug)]
enum PassphraseCommand {
    /// Print it: the default
    Show,
    /// Make another one, after the old one became known to somebody; every machine needs it at its next start
    Rotate,
}

/// Reads what is on this machine alone: no daemon gives its passphrase away.
pub(super) fn run(context: &Context, args: &PassphraseArgs) -> CliResult {
    let mut loaded = context.load_config(None, Vec::new())?;
    if context.is_elsewhere(&loaded.config) {
        return Err(CliError::new(Exit::NotAllowed, "no node tells another machine its passphrase").hint(
            "run `can-sync passphrase` on that machine; without --api (CAN_SYNC_API) it is about this one",
        ));
    }
    let running = context.node_here(&loaded.config).map(|node| node.passphrase);
    loaded.config.data_dir = Context::data_dir_here(&loaded.config);
    if matches!(args.action, Some(PassphraseCommand::Rotate)) {
        return rotate(context, &loaded, running.as_ref());
    }
    if passphrase_sources(&loaded.config).setting() == "data_dir" {
        // A node that was started with a flag or a configuration of its own has it from there.
        match running {
            Some(PassphraseSource::File { path, stays: true, .. }) => {
                loaded.config.sync_passphrase_file = Some(path);
            }
            Some(
                source @ (PassphraseSource::File { stays: false, .. }
                | PassphraseSource::Setting { kept: false, .. }),
            ) => {
                return Err(CliError::new(Exit::NotFound, has_it_from(&source)).hint("look it up there"));
            }
            Some(PassphraseSource::DataDir | PassphraseSource::Setting { kept: true, .. }) | None => {}
        }
    }
    let config = &loaded.config;
    let sources = passphrase_sources(config);
    let (made, setting) = (config.data_dir.join(identity::PASSPHRASE_FILE), sources.setting());
    let found = Passphrase::existing(sources, Mend::Never)
        .map_err(|e| CliError::failure(format!("{setting}: {e}")))?
        .ok_or_else(|| nothing_in(&made))?;
    let text = found.secret.expose_secret();
    let path = match setting {
        "sync_passphrase" => None,
        "sync_passphrase_file" => config.sync_passphrase_file.as_deref(),
        _ => Some(made.as_path()),
    };
    let origin = match loaded.origin(setting) {
        Origin::Default => path.unwrap_or(&made).display().to_string(),
        set @ (Origin::File { .. } | Origin::Env(_) | Origin::Flag(_) | Origin::Stdin) => set.to_string(),
    };
    let value = json!({ "passphrase": text, "path": path.map(Path::to_string_lossy), "origin": origin });
    context.out.result(&value, || text.to_owned())
}

fn nothing_in(path: &Path) -> CliError {
    CliError::new(Exit::NotFound, format!("there is no passphrase in '{}'", path.display()))
        .hint("the first `can-sync serve` makes one; --config names another configuration")
}

fn has_it_from(source: &PassphraseSource) -> String {
    let place = match source {
        PassphraseSource::DataDir => "its data directory".to_owned(),
        PassphraseSource::File { path, set_by, .. } => format!("'{}' ({set_by})", path.display()),
        PassphraseSource::Setting { set_by, .. } => set_by.clone(),
    };
    format!("the node that runs here has its passphrase from {place}")
}

/// Refuses to make a passphrase in `file`, or in the data directory, that the running node would not use.
fn check_source(source: &PassphraseSource, file: Option<&Path>) -> CliResult {
    let hint = match source {
        PassphraseSource::DataDir => return Ok(()),
        PassphraseSource::File { path, .. } => {
            let real = |path: &Path| path.canonicalize().ok();
            if file.is_some_and(|file| real(file).is_some_and(|file| Some(file) == real(path))) {
                return Ok(());
            }
            "write another one into that file, and start the node again".to_owned()
        }
        PassphraseSource::Setting { set_by, kept: false } => {
            format!("set another one in {set_by}, and start the node again")
        }
        PassphraseSource::Setting { set_by, kept: true } => format!(
            "set another one there and start the node again; or start it without {set_by}, since its data directory keeps the \
             passphrase, and rotate then"
        ),
    };
    Err(CliError::failure(has_it_from(source)).hint(hint))
}

/// The old passphrase opens nothing any more once every node was started with the new one.
fn rotate(context: &Context, loaded: &Loaded, running: Option<&PassphraseSource>) -> CliResult {
    let config = &loaded.config;
    let origin = loaded.origin("sync_passphrase");
    if origin != Origin::Default {
        return Err(CliError::failure(format!("the passphrase is set by {origin}: set another one there"))
            .hint("this command exchanges the one that a file or the data directory keeps"));
    }
    let sources = passphrase_sources(config);
    let made = config.data_dir.join(identity::PASSPHRASE_FILE);
    let path = sources.file.unwrap_or(&made);
    // A node whose passphrase came from elsewhere may begin a network of its own.
    let begins = sources.file.is_none() && identity::has_endpoint_key(&config.data_dir);
    if !(path.exists() || begins) {
        return Err(nothing_in(path));
    }
    if let Some(source) = running {
        check_source(source, sources.file)?;
    }
    let passphrase = match sources.file {
        Some(path) => identity::new_passphrase(path)?,
        None => identity::rotate_passphrase(&config.data_dir)?,
    };
    if context.out.json {
        context.out.value(&json!({ "passphrase": passphrase.as_str(), "path": path.to_string_lossy() }))?;
    } else {
        context.out.line(&passphrase)?;
        message("Start this node again, and every other one of yours with the new passphrase.");
        message("A machine that still has the old one is not let in any more, and keeps what it has.");
    }
    Ok(())
}
