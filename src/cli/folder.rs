//! `can-sync folder`: directories of this machine that are kept alike with those of others.

use std::path::PathBuf;

use jiff::Timestamp;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Context;
use super::client::ApiClient;
use super::error::{CliError, Exit};
use super::output::message;
use super::text;
use crate::folder::report::{FolderReport, FolderVersion, KnownFolder};

#[derive(clap::Args, Debug)]
pub(super) struct FolderCommandArgs {
    #[command(subcommand)]
    action: FolderAction,
}

#[derive(clap::Subcommand, Debug)]
enum FolderAction {
    /// Keep a directory alike with those of other machines
    Add(AddArgs),
    /// List the folders of this machine and of the network
    List,
    /// Show how a folder is; all of them without a name
    Status {
        /// Its name, its directory, or the beginning of its id
        folder: Option<String>,
    },
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
    History {
        #[command(flatten)]
        which: Which,
        /// A file: from the folder's root, or as it is from here
        path: String,
    },
    /// Give a path what it had before
    Restore {
        #[command(flatten)]
        which: Which,
        /// A file: from the folder's root, or as it is from here
        path: String,
        /// As it was at this time, such as 2026-11-29T08:00:00Z; before it was changed last, if it is missing
        #[arg(long)]
        at: Option<Timestamp>,
    },
    /// Files that were removed elsewhere before they were found here: they stay, and come back elsewhere
    Keep(Asked),
    /// Files that were removed elsewhere before they were found here: they go to the trash
    Trash(Asked),
}

#[derive(clap::Args, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag")]
struct AddArgs {
    /// The directory
    path: PathBuf,
    /// What people call the folder; one that the network knows is joined. The directory's name, if it is missing
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
    /// Make another folder, also if the network knows one of that name
    #[arg(long)]
    new: bool,
}

#[derive(clap::Args, Debug)]
struct Which {
    /// The folder's name, its directory, or the beginning of its id; not needed where there is one
    #[arg(long = "folder", value_name = "FOLDER")]
    folder: Option<String>,
}

#[derive(clap::Args, Debug)]
struct Asked {
    #[command(flatten)]
    which: Which,
    /// One file alone
    path: Option<String>,
}

/// `GET /folders`.
#[derive(Deserialize)]
struct Folders {
    folders: Vec<FolderReport>,
    known: Vec<KnownFolder>,
}

#[derive(Deserialize)]
struct Versions {
    versions: Vec<FolderVersion>,
}

pub(super) async fn run(context: &Context, args: FolderCommandArgs) -> Result<(), CliError> {
    let agent = context.agent()?;
    match args.action {
        FolderAction::Add(args) => add(context, &agent, args).await,
        FolderAction::List => list(context, &agent).await,
        FolderAction::Status { folder } => status(context, &agent, folder.as_deref()).await,
        FolderAction::Pause(which) => act(context, &agent, &which, json!({ "action": "pause" })).await,
        FolderAction::Resume(which) => act(context, &agent, &which, json!({ "action": "resume" })).await,
        FolderAction::Confirm(which) => act(context, &agent, &which, json!({ "action": "confirm" })).await,
        FolderAction::Revert(which) => act(context, &agent, &which, json!({ "action": "revert" })).await,
        FolderAction::Keep(Asked { which, path }) => {
            act(context, &agent, &which, json!({ "action": "keep", "path": path })).await
        }
        FolderAction::Trash(Asked { which, path }) => {
            act(context, &agent, &which, json!({ "action": "trash", "path": path })).await
        }
        FolderAction::Remove(which) => {
            let found = find(&agent, which.folder.as_deref()).await?;
            agent.call::<Value>(agent.request(Method::DELETE, &format!("/folders/{}", found.folder))).await?;
            Ok(context
                .out
                .line(&format!("{} is kept alike no longer; every file stays", text::escape(&found.path)))?)
        }
        FolderAction::Conflicts(which) => {
            let found = find(&agent, which.folder.as_deref()).await?;
            if context.out.json {
                return Ok(context.out.value(&found.conflicts)?);
            }
            for path in &found.conflicts {
                context.out.line(&text::escape(path))?;
            }
            Ok(())
        }
        FolderAction::History { which, path } => history(context, &agent, &which, &path).await,
        FolderAction::Restore { which, path, at } => {
            let found = find(&agent, which.folder.as_deref()).await?;
            let path = inside(&found, &path);
            let at_ms = at.map(|at| u64::try_from(at.as_millisecond()).unwrap_or_default());
            let body = json!({ "action": "restore", "path": path, "at_ms": at_ms });
            said(context, &agent, &found, &body).await
        }
    }
}

/// The path from the folder's root, also where the name of a file on this machine was given.
fn inside(folder: &FolderReport, path: &str) -> String {
    let absolute = std::path::absolute(path).ok();
    let below = absolute.as_deref().and_then(|path| path.strip_prefix(&folder.path).ok());
    below.and_then(|path| path.to_str()).unwrap_or(path).to_owned()
}

/// By name, directory or id; the only one, if none is named.
async fn find(agent: &ApiClient, wanted: Option<&str>) -> Result<FolderReport, CliError> {
    let Folders { mut folders, .. } = agent.get("/folders", &[]).await?;
    let Some(wanted) = wanted else {
        return match folders.len() {
            1 => Ok(folders.remove(0)),
            0 => Err(CliError::new(Exit::NotFound, "no folder is on this machine".to_owned())
                .hint("`can-sync folder add PATH` makes one")),
            _ => Err(CliError::failure("there are several folders".to_owned())
                .hint("say which: --folder NAME; `can-sync folder list` shows them")),
        };
    };
    let path = std::path::absolute(wanted).ok();
    let is_it = |folder: &FolderReport| {
        let is_part = wanted.len() >= 6 && folder.folder.starts_with(&wanted.to_ascii_lowercase());
        folder.name == wanted
            || is_part
            || path.as_deref().is_some_and(|path| path == std::path::Path::new(&folder.path))
    };
    let mut found: Vec<FolderReport> = folders.into_iter().filter(is_it).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(CliError::new(
            Exit::NotFound,
            format!("no folder '{}' is on this machine", text::escape(wanted)),
        )
        .hint("`can-sync folder list` shows those that are")),
        _ => {
            let ids: Vec<&str> = found.iter().map(|folder| folder.folder.as_str()).collect();
            Err(CliError::failure(format!("several folders are called '{}'", text::escape(wanted)))
                .hint(format!("name one by its id: {}", ids.join(", "))))
        }
    }
}

async fn add(context: &Context, agent: &ApiClient, args: AddArgs) -> Result<(), CliError> {
    let AddArgs { path, name, send_only, read_only, ignore_removals, new } = args;
    let path = std::path::absolute(&path)
        .map_err(|e| CliError::failure(format!("cannot find '{}': {e}", path.display())))?;
    let Some(path) = path.to_str() else {
        return Err(CliError::failure("the path of a folder has to be UTF-8".to_owned()));
    };
    let mode = match (send_only, read_only) {
        (true, _) => "send-only",
        (_, true) => "read-only",
        (false, false) => "both",
    };
    let removals = if ignore_removals { "ignore" } else { "apply" };
    let body = json!({ "path": path, "name": name, "mode": mode, "removals": removals, "new": new });
    let added: FolderReport = agent.post("/folders", &body).await?;
    if context.out.json {
        return Ok(context.out.value(&added)?);
    }
    let (name, path) = (text::escape(&added.name), text::escape(&added.path));
    context.out.line(&format!(
        "{path} is the folder '{name}' now ({})",
        &added.folder[..added.folder.len().min(10)]
    ))?;
    message(
        "what is in it is in the store as well, so that it takes its room twice where files cannot share blocks",
    );
    message(
        "next, on another machine: can-sync folder add PATH --name NAME; `can-sync folder status` says how far it is",
    );
    Ok(())
}

async fn list(context: &Context, agent: &ApiClient) -> Result<(), CliError> {
    if context.out.json {
        let all: Value = agent.get("/folders", &[]).await?;
        return Ok(context.out.value(&all)?);
    }
    let Folders { folders, known } = agent.get("/folders", &[]).await?;
    for folder in &folders {
        context.out.line(&line(folder))?;
    }
    for one in known.iter().filter(|one| !one.bound) {
        context.out.line(&format!(
            "{}  {}  not on this machine, made by {}",
            &one.folder[..one.folder.len().min(10)],
            text::escape(&one.name),
            text::escape(&one.by)
        ))?;
    }
    Ok(())
}

fn line(folder: &FolderReport) -> String {
    let id = &folder.folder[..folder.folder.len().min(10)];
    let (name, path) = (text::escape(&folder.name), text::escape(&folder.path));
    format!("{id}  {name}  {path}  {}  {} files", folder.state.name(), folder.entries)
}

async fn status(context: &Context, agent: &ApiClient, wanted: Option<&str>) -> Result<(), CliError> {
    let folders = match wanted {
        Some(_) => vec![find(agent, wanted).await?],
        None => agent.get::<Folders>("/folders", &[]).await?.folders,
    };
    if context.out.json {
        return Ok(context.out.value(&folders)?);
    }
    for folder in &folders {
        context.out.line(&line(folder))?;
        for remark in remarks(folder) {
            context.out.line(&format!("  {remark}"))?;
        }
    }
    Ok(())
}

/// What people should know of a folder.
fn remarks(folder: &FolderReport) -> Vec<String> {
    let mut remarks = Vec::new();
    remarks.extend(folder.reason.iter().map(|why| text::escape(why).into_owned()));
    if folder.mode != "both" {
        remarks.push(folder.mode.clone());
    }
    if folder.waiting > 0 {
        remarks.push(format!("{} on the way", text::counted(folder.waiting, "content")));
    }
    if folder.held > 0 {
        remarks.push(format!(
            "{} held, because they are many: `can-sync folder confirm`, or `revert`",
            text::counted(folder.held, "removal")
        ));
        remarks.extend(folder.held_paths.iter().map(|path| format!("  {}", text::escape(path))));
    }
    for path in &folder.asked {
        remarks.push(format!(
            "{} was removed elsewhere: `can-sync folder keep`, or `trash`",
            text::escape(path)
        ));
    }
    if !folder.conflicts.is_empty() {
        let count = text::counted(folder.conflicts.len() as u64, "file");
        remarks.push(format!(
            "{count} edited on two machines apart: `can-sync folder conflicts` lists the copies"
        ));
    }
    for remark in folder.passed_over.iter().chain(&folder.unknown) {
        remarks.push(format!("left alone: {}: {}", text::escape(&remark.path), text::escape(&remark.why)));
    }
    remarks.extend(folder.problems.iter().map(|problem| text::escape(problem).into_owned()));
    remarks
}

async fn act(context: &Context, agent: &ApiClient, which: &Which, body: Value) -> Result<(), CliError> {
    let found = find(agent, which.folder.as_deref()).await?;
    said(context, agent, &found, &body).await
}

async fn said(
    context: &Context,
    agent: &ApiClient,
    folder: &FolderReport,
    body: &Value,
) -> Result<(), CliError> {
    let done: Value = agent.post(&format!("/folders/{}/actions", folder.folder), body).await?;
    if context.out.json {
        return Ok(context.out.value(&done)?);
    }
    Ok(context.out.line(&text::escape(done["done"].as_str().unwrap_or("done")))?)
}

async fn history(context: &Context, agent: &ApiClient, which: &Which, path: &str) -> Result<(), CliError> {
    let found = find(agent, which.folder.as_deref()).await?;
    let query = [("path", inside(&found, path))];
    let Versions { versions } = agent.get(&format!("/folders/{}/history", found.folder), &query).await?;
    if context.out.json {
        return Ok(context.out.value(&versions)?);
    }
    for version in &versions {
        let at = i64::try_from(version.at_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let at = at.map_or_else(String::new, |at| at.to_string());
        let what = match (&version.hash, version.size) {
            (Some(hash), Some(size)) => format!("{size} bytes  {hash}"),
            _ => "removed".to_owned(),
        };
        let now = if version.current { "  now" } else { "" };
        context.out.line(&format!("{at}  {}  {what}{now}", text::escape(&version.by)))?;
    }
    Ok(())
}
