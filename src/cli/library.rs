//! `can-sync library`, `join`, `approve`, `deny` and `devices`: what is shared by ticket, its members, and who is let in.

mod devices;
mod releasing;
mod show;
mod tickets;

use std::io::IsTerminal as _;

use reqwest::Method;
use serde_json::{Value, json};

pub(super) use self::devices::{DeviceArgs, decide, devices};
use self::releasing::{ReleaseArgs, release};
use self::show::{LibrariesBody, LibraryBody, LibrarySizeBody, list, show, tickets};
use self::tickets::{InviteArgs, invite, seconds};
pub(super) use self::tickets::{JoinArgs, join};
use super::Context;
use super::asking::confirm;
use super::client::ApiClient;
use super::error::CliResult;
use super::filter_args::FilterArgs;
use super::folder::which::Which;
use super::output::message;
use super::resolve::{self, NameKind};
use super::text;
use crate::library::filter::FilterSpec;
use crate::text::short_id;

#[derive(clap::Args, Debug)]
pub(super) struct LibraryCommandArgs {
    #[command(subcommand)]
    action: LibraryCommand,
}

#[derive(clap::Subcommand, Debug)]
enum LibraryCommand {
    /// Share what matches a filter
    Create(CreateArgs),
    /// List the libraries of this node
    List,
    /// Show a library with its members and tickets
    Show {
        /// Its name, or its id or the beginning of that
        library: String,
    },
    /// Forget a library; what came through it stays, unless you say otherwise
    Delete {
        /// Its name, or its id or the beginning of that
        library: String,
        /// What becomes of the assets that came through it and are in no other library; asked for on a terminal
        #[arg(long, value_enum)]
        content: Option<ContentFate>,
    },
    /// Issue a ticket: anyone who has it can join
    Invite(InviteArgs),
    /// Tickets that were issued
    Ticket {
        #[command(subcommand)]
        action: TicketCommand,
    },
    /// Show what of a folder waits to be shared, as what came from other machines of yours does, and share it: in every library of
    /// that folder
    Release(ReleaseArgs),
    /// Take tickets back; who joined by them keeps what it has, and gets no more
    Revoke {
        /// The library's name, or its id or the beginning of that
        library: String,
        /// The number of a ticket: `library ticket list` shows them
        #[arg(long, required_unless_present = "all", conflicts_with = "all")]
        serial: Option<u64>,
        /// All that were issued until now
        #[arg(long)]
        all: bool,
    },
}

#[derive(clap::Subcommand, Debug)]
enum TicketCommand {
    /// List the tickets of a library, or of all that are this node's own
    List {
        /// Its name, or its id or the beginning of that
        library: Option<String>,
    },
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum ContentFate {
    Keep,
    Delete,
}

#[derive(clap::Args, Debug)]
struct CreateArgs {
    /// For people; at most 64 characters
    #[arg(value_parser = some_name)]
    name: String,
    #[command(flatten)]
    filter: FilterArgs,
    /// The asset itself, by its hash, the beginning of that, or its name; any of them, where it is given several times
    #[arg(long = "hash", value_name = "ASSET")]
    hashes: Vec<String>,
    /// The files of a folder, to be read: its name, its directory, or the beginning of its id
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["application", "tags", "user", "mime_prefix", "hashes"])]
    folder: Option<String>,
    /// How old a member's list of revoked tickets may become until it holds what other members write: `7d`, at least a day,
    /// at most 365; without it, any age
    #[arg(long, value_name = "TIME", value_parser = seconds, conflicts_with = "dry_run")]
    fresh_within: Option<u64>,
    /// Only say how much that would be
    #[arg(long)]
    dry_run: bool,
}

fn some_name(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() { Err("a library needs a name") } else { Ok(text.to_owned()) }
}

pub(super) async fn run(context: &Context, args: LibraryCommandArgs) -> CliResult {
    let agent = context.agent()?;
    match args.action {
        LibraryCommand::Create(args) => create(context, &agent, args).await,
        LibraryCommand::List => list(context, &agent).await,
        LibraryCommand::Show { library } => {
            let found = find(&agent, &library).await?;
            show(context, &found)
        }
        LibraryCommand::Delete { library, content } => delete(context, &agent, &library, content).await,
        LibraryCommand::Invite(args) => invite(context, &agent, args).await,
        LibraryCommand::Ticket { action: TicketCommand::List { library } } => {
            tickets(context, &agent, library.as_deref()).await
        }
        LibraryCommand::Release(args) => release(context, &agent, &args).await,
        LibraryCommand::Revoke { library, serial, all } => {
            let found = find(&agent, &library).await?;
            let body = if all { json!({ "all": true }) } else { json!({ "serial": serial }) };
            let done: Value = agent.post(&format!("/libraries/{}/revoke", found.id), &body).await?;
            let line = "revoked; who is connected by it is let go within seconds, and keeps what it has";
            context.out.result(&done, || line.to_owned())
        }
    }
}

const LIBRARY: NameKind = NameKind {
    one: "library",
    many: "libraries",
    listed_by: "`can-sync library list` shows those that are here",
};

/// By name, id, or the beginning of an id.
async fn find(agent: &ApiClient, wanted: &str) -> CliResult<LibraryBody> {
    let LibrariesBody { libraries } = agent.get("/libraries", &[]).await?;
    resolve::pick(LIBRARY, wanted, libraries, |library| (&library.id, &library.name))
}

/// The hashes of assets that were named.
pub(super) async fn resolved(context: &Context, wanted: Vec<String>) -> CliResult<Vec<String>> {
    if wanted.iter().all(|wanted| resolve::is_id(wanted)) {
        return Ok(wanted.iter().map(|hash| hash.to_ascii_lowercase()).collect());
    }
    let store = context.store()?;
    let mut hashes = Vec::with_capacity(wanted.len());
    for wanted in &wanted {
        hashes.push(resolve::asset(&store, wanted).await?.to_string());
    }
    Ok(hashes)
}

/// The id of a folder of this machine that is named as the `folder` commands have it, by directory as well. All else the node knows
/// more about.
async fn folder_meant(agent: &ApiClient, wanted: String) -> String {
    match Which::of(&wanted).find(agent).await {
        Ok(found) if !found.folder.is_empty() => found.folder,
        Ok(_) | Err(_) => wanted,
    }
}

async fn create(context: &Context, agent: &ApiClient, args: CreateArgs) -> CliResult {
    let CreateArgs { name, filter, hashes, folder, fresh_within, dry_run } = args;
    let hashes = resolved(context, hashes).await?;
    let folder = match folder {
        Some(wanted) => Some(folder_meant(agent, wanted).await),
        None => None,
    };
    let hashes = (!hashes.is_empty()).then_some(hashes);
    let filter = FilterSpec { hashes, folder, ..filter.spec().unwrap_or_default() };
    if dry_run {
        let held: LibrarySizeBody = agent.post("/libraries/preview", &json!({ "filter": filter })).await?;
        return context.out.result(&held, || format!("that would be {}", held.told()));
    }
    let mut body = json!({ "name": name, "filter": filter });
    if let Some(secs) = fresh_within {
        body["fresh_within_secs"] = secs.into();
    }
    let made: LibraryBody = agent.post("/libraries", &body).await?;
    if context.out.json {
        return Ok(context.out.value(&made)?);
    }
    context.out.line(&format!("created {} with {}", made.id, made.counts.told()))?;
    message(&format!("next: can-sync library invite {}", short_id(&made.id)));
    Ok(())
}

async fn delete(context: &Context, agent: &ApiClient, wanted: &str, asked: Option<ContentFate>) -> CliResult {
    let library = find(agent, wanted).await?;
    let what = match asked {
        Some(asked) => asked,
        None if std::io::stdin().is_terminal() && !library.owner => ask_content(&library)?,
        None => ContentFate::Keep,
    };
    let word = match what {
        ContentFate::Keep => "keep",
        ContentFate::Delete => "delete",
    };
    let request = agent.request(Method::DELETE, &format!("/libraries/{}", library.id));
    let done: Value = agent.call(request.query(&[("content", word)])).await?;
    if context.out.json {
        return Ok(context.out.value(&done)?);
    }
    let gone = done["let_go"].as_u64().unwrap_or_default();
    context.out.line(&format!("forgot {}", text::escape(&library.name)))?;
    if gone > 0 {
        message(&format!(
            "{} not held here any more; other machines keep theirs, and what is known of it stays. It is in the trash \
             for 30 days: `can-sync fetch HASH` brings it back",
            text::counted(gone, "content")
        ));
    }
    let promised = done["promised"].as_u64().unwrap_or_default();
    if promised > 0 {
        message(&format!(
            "{} still held here: other machines were promised that (`can-sync why HASH` says which, and how long), and it goes by itself \
             once that is over",
            text::counted(promised, "content")
        ));
    }
    Ok(())
}

fn ask_content(library: &LibraryBody) -> CliResult<ContentFate> {
    let held = text::counted(library.counts.assets, "asset");
    let question = format!(
        "Let go of what came through '{}' as well, up to {held}? Other machines keep theirs. [y/N]",
        text::escape(&library.name)
    );
    Ok(if confirm(&question)? { ContentFate::Delete } else { ContentFate::Keep })
}
