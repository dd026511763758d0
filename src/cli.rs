//! The command lines: one file per command, and what they share. The only place that prints.
//!
//! Results go to stdout, messages to stderr. Commands that need the daemon talk to its HTTP API (`client.rs`); those that
//! concern assets then talk to the CAN Service that the daemon names.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand};

use crate::config::{Config, ConfigError, ConfigErrors, FlagValue, HttpUrl, Loaded, SettingSources};
use crate::identity;
use crate::stderr;

mod advice;
mod asking;
mod assets;
mod backup;
pub mod can_service;
mod client;
mod completions;
mod config;
mod default_command;
mod deletions;
mod demo;
mod doctor;
mod drop;
mod edit;
mod error;
mod events;
mod export;
mod fetch;
mod filter_args;
mod folder;
mod get;
mod id;
mod library;
mod list;
mod logging;
mod open_files;
mod output;
mod passphrase;
mod peers;
mod pin;
mod progress;
mod put;
mod repl;
mod resolve;
mod restore;
mod rm;
mod scrub;
mod search;
mod serve;
mod status;
mod stopping;
mod target;
mod text;
mod trash;
mod wait;
mod why;

use error::{CliError, CliResult, Exit};
use output::Output;

const AFTER_HELP: &str = "\
Without a command, can-sync serves: `can-sync`, `can-sync my-config.yaml` and `can-sync --name desk` are all `serve`.

Exit codes: 0 ok, 1 failure, 2 usage, 3 no daemon, 4 degraded, 5 not allowed, 6 not found, 7 timeout.";

/// How long what still runs may take once the command is done.
const LEFTOVERS_WITHIN: Duration = Duration::from_millis(500);

/// Keeps content-addressed assets the same on all machines that share a passphrase.
#[derive(Parser, Debug)]
#[command(name = "can-sync", version, after_help = AFTER_HELP, arg_required_else_help = true)]
#[command(propagate_version = false, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
struct Globals {
    /// Print JSON: one object, or one per line where there are many
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// The API of another node than the one of this directory or of the configured `listen_addr`
    #[arg(long, global = true, value_name = "URL", env = "CAN_SYNC_API", value_parser = api_url)]
    #[arg(help_heading = "Global options")]
    api: Option<String>,
    /// The configuration file
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "CAN_SYNC_CONFIG",
        help_heading = "Global options"
    )]
    config: Option<PathBuf>,
    /// Say more on stderr; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Global options")]
    verbose: u8,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a node: the default
    Serve(serve::ServeArgs),
    /// Show two nodes on this machine exchange assets
    Demo,
    /// Show how the running node is
    Status(status::StatusArgs),
    /// Store files
    Put(put::PutArgs),
    /// Read an asset's content
    Get(get::GetArgs),
    /// Get one asset now, from any peer in the network that has it
    Fetch(fetch::FetchArgs),
    /// Hold assets here whatever the configuration's `hold` says; without any, list what is pinned
    Pin(pin::PinArgs),
    /// Take pins back; what is here stays
    Unpin(pin::UnpinArgs),
    /// Let go of contents here that enough other machines promise to keep
    Drop(drop::DropArgs),
    /// Write assets as plain files into a directory
    Export(export::ExportArgs),
    /// List assets, newest first
    List(list::ListArgs),
    /// Find assets
    Search(search::SearchArgs),
    /// Change an asset's name, tags and description
    Edit(edit::EditArgs),
    /// Delete assets
    Rm(rm::RmArgs),
    /// List what was deleted lately, and bring it back
    Trash(trash::TrashArgs),
    /// Read every content that is held, and check that it is what it was
    Scrub(scrub::ScrubCommand),
    /// Back up a node, running or not, into a directory
    Backup(backup::BackupArgs),
    /// Make a data directory of a backup
    Restore(restore::RestoreArgs),
    /// List peers' deletions that are held back because they are many, and decide about them
    Deletions(deletions::DeletionsArgs),
    /// Say who has an asset, and why it is not here yet
    Why(why::WhyArgs),
    /// Wait until nothing is missing on either side
    Wait(wait::WaitArgs),
    /// Follow what happens on the node
    Events(events::EventsArgs),
    /// List the network's agents, ask them, or add one
    Peers(peers::PeersCommandArgs),
    /// Find out which layer does not work, and what to do
    Doctor,
    /// Run commands one after the other
    Repl,
    /// Keep directories alike on several machines
    Folder(folder::FolderCommandArgs),
    /// Share a part of the assets by ticket
    Library(library::LibraryCommandArgs),
    /// Join a library by ticket
    Join(library::JoinArgs),
    /// List machines that were approved or denied, or wait for that
    Devices,
    /// Let a machine in
    Approve(library::DeviceArgs),
    /// Shut a machine out of everything
    Deny(library::DeviceArgs),
    /// Print the node's endpoint id
    Id(id::IdArgs),
    /// Check or show the configuration
    Config(config::ConfigArgs),
    /// Print the passphrase that the data directory keeps
    Passphrase(passphrase::PassphraseArgs),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
}

/// What every command gets.
struct Context {
    globals: Globals,
    out: Output,
}

impl Context {
    /// The configuration, with these flags over it. Warnings go to stderr.
    fn load_config(&self, file: Option<PathBuf>, flags: Vec<FlagValue>) -> CliResult<Loaded> {
        let (loaded, errors) = self.read_config(file, flags);
        if errors.is_empty() { Ok(loaded) } else { Err(ConfigErrors(errors).into()) }
    }

    fn sources(&self, file: Option<PathBuf>, flags: Vec<FlagValue>) -> SettingSources {
        let file = file.or_else(|| self.globals.config.clone());
        SettingSources::of_process(file, flags, identity::is_of_ours)
    }

    /// As [`Self::load_config`]: what can be used, and everything that is wrong.
    fn read_config(&self, file: Option<PathBuf>, flags: Vec<FlagValue>) -> (Loaded, Vec<ConfigError>) {
        let (loaded, errors) = Config::read(&self.sources(file, flags));
        for warning in &loaded.warnings {
            output::message(&format!("warning: {warning}"));
        }
        (loaded, errors)
    }
}

pub fn run(args: Vec<OsString>) -> ExitCode {
    // Ignoring the error: it says that there is a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let parsed = default_command::insert(args, &Cli::command());
    let cli = match parsed {
        Ok(args) => match Cli::try_parse_from(args) {
            Ok(cli) => cli,
            Err(e) => {
                // A closed pipe is no reason for another exit code.
                let _ = e.print();
                return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(Exit::Usage.code()));
            }
        },
        Err(e) => return e.report(),
    };
    let Cli { globals, command } = cli;
    let serves = matches!(command, Command::Serve(_) | Command::Demo | Command::Repl);
    logging::start(globals.verbose, matches!(command, Command::Serve(_)));
    if serves {
        open_files::allow_many();
    }
    let runtime = if serves {
        tokio::runtime::Builder::new_multi_thread().enable_all().build()
    } else {
        tokio::runtime::Builder::new_current_thread().enable_all().build()
    };
    let context = Context { out: Output::new(globals.json), globals };
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(Box::pin(dispatch(command, &context)));
            // A write to a pipe that nobody reads would hold up the end for ever.
            runtime.shutdown_timeout(LEFTOVERS_WITHIN);
            done
        }
        Err(e) => Err(CliError::failure(format!("cannot start the runtime: {e}"))),
    };
    let exit = done.map_or_else(|e| e.report(), |()| ExitCode::SUCCESS);
    stderr::flush();
    exit
}

async fn dispatch(command: Command, context: &Context) -> CliResult {
    match command {
        Command::Serve(args) => Box::pin(serve::run(context, args)).await,
        Command::Demo => Box::pin(demo::run(context)).await,
        Command::Status(args) => status::run(context, &args).await,
        Command::Put(args) => put::run(context, args).await,
        Command::Get(args) => get::run(context, args).await,
        Command::Fetch(args) => fetch::run(context, &args).await,
        Command::Pin(args) => pin::pin(context, args).await,
        Command::Unpin(args) => pin::unpin(context, args).await,
        Command::Drop(args) => drop::run(context, args).await,
        Command::Export(args) => export::run(context, args).await,
        Command::List(args) => list::run(context, &args).await,
        Command::Search(args) => search::run(context, args).await,
        Command::Edit(args) => edit::run(context, args).await,
        Command::Rm(args) => rm::run(context, &args).await,
        Command::Trash(args) => trash::run(context, args).await,
        Command::Scrub(args) => scrub::run(context, &args).await,
        Command::Backup(args) => backup::run(context, args).await,
        Command::Restore(args) => restore::run(context, args).await,
        Command::Deletions(args) => deletions::run(context, args).await,
        Command::Why(args) => why::run(context, &args).await,
        Command::Wait(args) => wait::run(context, &args).await,
        Command::Events(args) => events::run(context, &args).await,
        Command::Peers(args) => peers::run(context, args).await,
        Command::Doctor => Box::pin(doctor::run(context)).await,
        Command::Repl => Box::pin(repl::run(context)).await,
        Command::Folder(args) => folder::run(context, args).await,
        Command::Library(args) => library::run(context, args).await,
        Command::Join(args) => library::join(context, args).await,
        Command::Devices => library::devices(context).await,
        Command::Approve(args) => library::decide(context, &args, "approve").await,
        Command::Deny(args) => library::decide(context, &args, "deny").await,
        Command::Id(args) => id::run(context, &args).await,
        Command::Config(args) => config::run(context, args),
        Command::Passphrase(args) => passphrase::run(context, &args),
        Command::Completions(args) => completions::run(&args),
    }
}

/// `--api`: a URL without what the paths of the API would be appended to wrongly.
fn api_url(text: &str) -> Result<String, String> {
    let expected = || "expected a URL such as http://127.0.0.1:3213".to_owned();
    let url = HttpUrl::parse(text).ok_or_else(expected)?;
    if url.as_url().query().is_some() || url.as_url().fragment().is_some() {
        return Err(expected());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
