//! `can-sync folder`: directories of this machine that are kept alike with those of others.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use self::which::{AskedFiles, At, Which, file_in};
use super::Context;
use super::advice;
use super::client::ApiClient;
use super::error::{CliError, CliResult, Exit};
use super::output::message;
use super::text;
use crate::folder::report::{FolderReport, FolderRoom};
use crate::text::short_id;

mod show;
pub(super) mod which;

#[derive(clap::Args, Debug)]
pub(super) struct FolderCommandArgs {
    #[command(subcommand)]
    action: FolderSubcommand,
}

#[derive(clap::Subcommand, Debug)]
enum FolderSubcommand {
    /// Keep a directory alike with those of other machines
    Add(AddArgs),
    /// List the folders of this machine and of the network
    List,
    /// Show how a folder is, how far, and what waits for you; all of them without a name
    Status(Which),
    /// Do nothing until `resume`
    Pause(Which),
    /// Go on
    Resume(Which),
    /// Keep a directory alike no longer; every file stays
    Remove(Which),
    /// Carry out the removals that wait, because they are many
    Confirm(Which),
    /// Put back what the removals that wait would remove
    Revert(Which),
    /// List the copies of files that were edited on two machines apart
    Conflicts(Which),
    /// List what a folder has and had at a path
    History(At),
    /// Give a path what it had before
    Restore {
        #[command(flatten)]
        at: At,
        /// As it was at this time, such as 2026-11-29T08:00:00Z or 2026-11-29; before it was changed last, if it is missing
        #[arg(long = "at", value_name = "TIME", value_parser = moment)]
        time: Option<Timestamp>,
    },
    /// Files that were removed elsewhere before they were found here: they stay, and come back elsewhere
    Keep(AskedFiles),
    /// Files that were removed elsewhere before they were found here: they go to the trash
    Trash(AskedFiles),
}

#[derive(clap::Args, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag")]
struct AddArgs {
    /// The directory
    #[arg(value_name = "DIR")]
    path: PathBuf,
    /// What people call the folder; one that the network knows is joined. The directory's name, if it is missing. An id does, too
    #[arg(long)]
    name: Option<String>,
    /// Write nothing to this directory
    #[arg(long, conflicts_with = "read_only")]
    send_only: bool,
    /// Let nothing of this directory show elsewhere
    #[arg(long)]
    read_only: bool,
    /// Leave files here that are removed elsewhere
    #[arg(long)]
    ignore_removals: bool,
    /// Find changes by looking from time to time alone, as it has to be on network file systems
    #[arg(long)]
    scan_only: bool,
    /// Make another folder, also if the network knows one of that name
    #[arg(long)]
    new: bool,
}

pub(super) async fn run(context: &Context, args: FolderCommandArgs) -> CliResult {
    let agent = context.agent()?;
    match args.action {
        FolderSubcommand::Add(args) => add(context, &agent, args).await,
        FolderSubcommand::List => show::list(context, &agent).await,
        FolderSubcommand::Status(which) => show::status(context, &agent, &which).await,
        FolderSubcommand::Pause(which) => act(context, &agent, &which, "pause").await,
        FolderSubcommand::Resume(which) => act(context, &agent, &which, "resume").await,
        FolderSubcommand::Confirm(which) => act(context, &agent, &which, "confirm").await,
        FolderSubcommand::Revert(which) => act(context, &agent, &which, "revert").await,
        FolderSubcommand::Keep(asked) => answer(context, &agent, &asked, "keep").await,
        FolderSubcommand::Trash(asked) => answer(context, &agent, &asked, "trash").await,
        FolderSubcommand::Remove(which) => remove(context, &agent, &which).await,
        FolderSubcommand::Conflicts(which) => show::conflicts(context, &agent, &which).await,
        FolderSubcommand::History(at) => show::history(context, &agent, &at).await,
        FolderSubcommand::Restore { at, time } => {
            let (folder, path, _) = at.find_versions(&agent).await?;
            let at_ms = time.map(|at| u64::try_from(at.as_millisecond()).unwrap_or_default());
            let body = json!({ "action": "restore", "path": path, "at_ms": at_ms });
            said(context, &agent, &folder, &body).await
        }
    }
}

/// A time, or a day here, the whole of which counts.
fn moment(text: &str) -> Result<Timestamp, String> {
    let day = || crate::http::extract::DayEdge::End.of(text, jiff::tz::TimeZone::system());
    let expected = "expected a time such as 2026-11-29T08:00:00Z, or a day such as 2026-11-29";
    text.parse().ok().or_else(day).ok_or_else(|| expected.to_owned())
}

/// The directory as the node has to be told of it: whole, and without `~`, which no shell has put in place behind `=` or in quotes.
fn whole(path: &Path) -> CliResult<String> {
    let home = || std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    let path = match (path.strip_prefix("~"), home()) {
        (Ok(below), Some(home)) if !path.exists() => home.join(below),
        (Ok(_) | Err(_), _) => path.to_owned(),
    };
    let whole = std::path::absolute(&path)
        .map_err(|e| CliError::failure(format!("cannot find '{}': {e}", path.display())))?;
    let shown = whole.display().to_string();
    let text = whole.into_os_string().into_string();
    text.map_err(|_| {
        CliError::new(Exit::Usage, format!("the path '{shown}' is no UTF-8 text"))
            .hint("a folder's directory needs a path that every program can read: rename it")
    })
}

async fn add(context: &Context, agent: &ApiClient, args: AddArgs) -> CliResult {
    let AddArgs { path, name, send_only, read_only, ignore_removals, scan_only, new } = args;
    let path = whole(&path)?;
    let mode = match (send_only, read_only) {
        (true, _) => Some("send-only"),
        (_, true) => Some("read-only"),
        (false, false) => None,
    };
    let own = || Path::new(&path).file_name().map(|name| name.to_string_lossy().into_owned());
    let (name, new) = match name.clone().or_else(own) {
        Some(called) if !new && std::io::stdin().is_terminal() => {
            match which::ask_which(agent, &called, &path).await? {
                Some(which::Chosen::Known(id)) => (Some(id), false),
                Some(which::Chosen::New) => (name, true),
                None => (name, new),
            }
        }
        Some(_) | None => (name, new),
    };
    let body = json!({
        "path": path, "name": name, "mode": mode, "removals": ignore_removals.then_some("ignore"),
        "scan_only": scan_only.then_some(true), "new": new,
    });
    let added: FolderReport = agent.post("/folders", &body).await?;
    if context.out.json {
        context.out.value(&added)?;
    }
    if added.folder.is_empty() {
        let why = advice::in_words(added.reason.as_deref().unwrap_or("it is bound later"));
        return Err(CliError::new(Exit::Timeout, format!("{}: {why}", added.path)));
    }
    if context.out.json {
        return Ok(());
    }
    let (name, path) = (text::escape(&added.name), text::escape(&added.path));
    let id = short_id(&added.folder);
    context.out.line(&format!("{path} is the folder '{name}' now ({id})"))?;
    if let Some(room) = &added.room {
        message(&room_needed(room));
    }
    if added.by_ticket {
        message(
            "it follows what its owner has, and nothing goes back; `can-sync folder status` says how far it is",
        );
        return Ok(());
    }
    message(&format!(
        "next, on another machine: can-sync folder add DIR --name {}; `can-sync folder status` says how far it is",
        quoted_for_shell(&name)
    ));
    Ok(())
}

/// As a shell takes it for one word: the name may come from another machine.
fn quoted_for_shell(name: &str) -> String {
    format!("'{}'", name.replace('\'', r"'\''"))
}

/// What the store's copies take.
fn room_needed(room: &FolderRoom) -> String {
    let FolderRoom { files, bytes, free_bytes, shares_blocks } = room;
    let (files, size) = (text::counted(*files, "file"), text::bytes(*bytes));
    let free = free_bytes.map(|free| format!(", of {} that are free", text::bytes(free))).unwrap_or_default();
    if *shares_blocks {
        return format!("{files}, {size}: the store shares their blocks, and takes no room of its own");
    }
    if free_bytes.is_none() {
        return format!("{files}, {size}: the store, which is elsewhere, takes as much");
    }
    format!(
        "{files}, {size}: what is in a folder is in the store as well, and takes its room twice on this disk ({size} more{free})"
    )
}

async fn remove(context: &Context, agent: &ApiClient, which: &Which) -> CliResult {
    let found = which.find(agent).await?;
    if found.folder.is_empty() {
        let error =
            CliError::failure(format!("{} is not bound, and so nothing of it is to be removed", found.path));
        return Err(error.hint("take it out of `folders:` in the configuration"));
    }
    let done: Value =
        agent.call(agent.request(Method::DELETE, &format!("/folders/{}", found.folder))).await?;
    if context.out.json {
        return Ok(context.out.value(&done)?);
    }
    context.out.line(&format!("{} is kept alike no longer; every file stays", text::escape(&found.path)))?;
    if found.configured {
        message(
            "the configuration names it: take it out of `folders:` there, or the next start binds it again",
        );
    }
    Ok(())
}

async fn act(context: &Context, agent: &ApiClient, which: &Which, action: &str) -> CliResult {
    let found = which.find(agent).await?;
    said(context, agent, &found, &json!({ "action": action })).await
}

/// `keep` and `trash`: of one file, or of all that wait.
async fn answer(context: &Context, agent: &ApiClient, asked: &AskedFiles, action: &str) -> CliResult {
    let (found, path) = asked.find(agent).await?;
    let is_asked = |path: &str| found.asked.iter().any(|asked| asked == path);
    let path = path.map(|path| file_in(&found, &path, is_asked)).transpose()?;
    said(context, agent, &found, &json!({ "action": action, "path": path })).await
}

async fn said(context: &Context, agent: &ApiClient, folder: &FolderReport, body: &Value) -> CliResult {
    if folder.folder.is_empty() {
        let why = folder.reason.clone().unwrap_or_default();
        return Err(CliError::failure(format!("{} is not bound: {why}", folder.path)));
    }
    let done: Value = agent.post(&format!("/folders/{}/actions", folder.folder), body).await?;
    let line = || text::escape(done["done"].as_str().unwrap_or("done")).into_owned();
    context.out.result(&done, line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_days_are_taken() {
        assert_eq!(moment("2026-11-29T08:00:00Z").unwrap().as_second(), 1_795_939_200);
        // The whole day counts, as it is here.
        let last = jiff::civil::date(2026, 11, 29).at(23, 59, 59, 999_000_000);
        let last = last.to_zoned_datetime(jiff::tz::TimeZone::system()).unwrap().timestamp();
        assert_eq!(moment("2026-11-29").unwrap().as_millisecond(), last.as_millisecond());
        assert!(moment("yesterday").unwrap_err().contains("2026-11-29"));
    }

    #[test]
    fn room_is_told_in_words() {
        let room = FolderRoom { files: 2, bytes: 1 << 20, free_bytes: Some(5 << 20), shares_blocks: false };
        let said = room_needed(&room);
        assert!(said.contains("twice") && said.contains("1.0 MiB more, of 5.0 MiB"), "{said}");
        assert!(room_needed(&FolderRoom { shares_blocks: true, ..room }).contains("no room"));
        assert!(room_needed(&FolderRoom { free_bytes: None, ..room }).contains("elsewhere"));
    }
}
