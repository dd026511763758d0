//! `can-sync library release`: what of a shared folder waits, and sharing it.

use std::io::IsTerminal as _;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::find;
use crate::cli::Context;
use crate::cli::asking::confirm;
use crate::cli::client::ApiClient;
use crate::cli::error::{CliError, CliResult, Exit};
use crate::cli::output::message;
use crate::cli::text;

/// Contents that the API gives in one page, and takes with one request.
const PAGE_MAX: usize = 1000;
/// Files that are shown before somebody is asked.
const SHOWN_MAX: usize = 20;

#[derive(clap::Args, Debug)]
pub(super) struct ReleaseArgs {
    /// The library's name, or its id or the beginning of that
    library: String,
    /// Share them without a question; needed where nobody can answer
    #[arg(short, long)]
    yes: bool,
}

/// A content that waits, as far as the command line needs it.
#[derive(Debug, Deserialize, Serialize)]
struct WaitingBody {
    path: String,
    hash: String,
    size: u64,
    paths: u64,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Deserialize)]
struct WaitingPage {
    contents: Vec<WaitingBody>,
    next_cursor: Option<String>,
}

/// What becomes of contents that are shared from now on.
#[derive(Default, Deserialize, Serialize)]
struct ReleasedBody {
    released: u64,
    absent: u64,
}

/// Shows what waits, asks, and shares just that: what comes meanwhile waits on.
pub(super) async fn release(context: &Context, agent: &ApiClient, args: &ReleaseArgs) -> CliResult {
    let library = find(agent, &args.library).await?;
    let name = text::escape(&library.name);
    let path = format!("/libraries/{}/unreleased", library.id);
    let page = |WaitingPage { contents, next_cursor }| (contents, next_cursor);
    let waiting = agent.all(&path, &[("limit", PAGE_MAX.to_string())], page).await?;
    let mut shared = ReleasedBody::default();
    if !waiting.is_empty() {
        if !args.yes {
            ask(&name, &waiting)?;
        }
        for part in waiting.chunks(PAGE_MAX) {
            let hashes: Vec<&str> = part.iter().map(|one| one.hash.as_str()).collect();
            let path = format!("/libraries/{}/release", library.id);
            let done: ReleasedBody = agent.post(&path, &json!({ "hashes": hashes })).await?;
            shared.released += done.released;
            shared.absent += done.absent;
        }
    }
    if waiting.is_empty() && !context.out.json {
        message(&format!("Nothing of '{name}' waits to be shared."));
    }
    context.out.result(&shared, || {
        let later = match shared.absent {
            0 => String::new(),
            absent => format!("; {} not here yet, as soon as it is", text::counted(absent, "content")),
        };
        format!("{} shared from now on{later}", text::counted(shared.released, "content"))
    })
}

/// What is shown of what waits: so many files, and how many more there are.
fn shown(waiting: &[WaitingBody]) -> Vec<String> {
    let line = |one: &WaitingBody| {
        let more = match one.paths {
            0 | 1 => String::new(),
            paths => format!(", and at {} more", text::counted(paths - 1, "path")),
        };
        format!("  {}  ({}{more})", text::escape(&one.path), text::bytes(one.size))
    };
    let mut by_path: Vec<&WaitingBody> = waiting.iter().collect();
    by_path.sort_by(|one, other| one.path.cmp(&other.path));
    let mut lines: Vec<String> = by_path.iter().take(SHOWN_MAX).map(|one| line(one)).collect();
    if let Some(more) = waiting.len().checked_sub(SHOWN_MAX).filter(|more| *more > 0) {
        lines.push(format!("  and {} more", text::counted(more as u64, "content")));
    }
    lines
}

/// Whether all of that is to be shared. Nobody is asked where nobody can answer.
fn ask(name: &str, waiting: &[WaitingBody]) -> CliResult {
    let bytes = waiting.iter().fold(0_u64, |sum, one| sum.saturating_add(one.size));
    let what = format!("{} ({})", text::counted(waiting.len() as u64, "content"), text::bytes(bytes));
    for line in shown(waiting) {
        message(&line);
    }
    if !std::io::stdin().is_terminal() {
        return Err(CliError::new(
            Exit::Usage,
            format!("{what} would be shared with everybody who has a ticket, and nobody can be asked"),
        )
        .hint("--yes shares them without a question; what somebody has got cannot be taken back"));
    }
    let question = format!(
        "Share {what} of the folder with everybody who has a ticket for '{name}' or another library of it? What somebody has got \
         cannot be taken back. [y/N]"
    );
    if confirm(&question)? { Ok(()) } else { Err(CliError::failure("nothing was shared")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_files_are_shown_and_the_rest_is_counted() {
        let one = |number: u64| WaitingBody {
            path: format!("{number:02}\u{1b}[2J.txt"),
            hash: String::new(),
            size: 1,
            paths: number,
            more: Map::new(),
        };
        let all: Vec<WaitingBody> = (0..23).rev().map(one).collect();
        let lines = shown(&all);
        assert_eq!((lines.len(), lines[20].as_str()), (21, "  and 3 contents more"));
        assert!(lines[0].starts_with("  00") && lines[3].contains("and at 2 paths more"), "{lines:?}");
        assert!(!lines.concat().contains('\u{1b}'), "{lines:?}");
        assert_eq!(shown(&all[..2]).len(), 2);
    }
}
