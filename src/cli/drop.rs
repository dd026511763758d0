//! `can-sync drop`: lets go of contents here that enough other machines promise to keep.

use std::io::IsTerminal as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Context;
use super::asking::confirm;
use super::client::ApiClient;
use super::error::{CliError, CliResult, Exit};
use super::filter_args::FilterArgs;
use super::library::resolved;
use super::output::message;
use super::progress::ProgressLine;
use super::text;

/// So many are let go of without a question, where they are named.
const UNASKED_MAX: usize = 3;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

#[derive(clap::Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "flags that are there or not")]
pub(super) struct DropArgs {
    /// Assets: hashes, the beginnings of those, or names
    #[arg(value_name = "ASSET", required_unless_present_any = ["application", "tags", "user", "mime_prefix", "left_over", "stop"])]
    #[arg(conflicts_with_all = ["application", "tags", "user", "mime_prefix", "left_over"])]
    assets: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Everything that is held here and neither `hold`, nor a pin, a library or a bound folder asks for
    #[arg(long)]
    left_over: bool,
    /// Do not ask; needed where nobody can answer
    #[arg(short, long)]
    yes: bool,
    /// Only say what would be asked for
    #[arg(long)]
    dry_run: bool,
    /// Wait at most this long; the node goes on
    #[arg(long, value_name = "SECS", default_value_t = 3600)]
    timeout: u64,
    /// End the command that runs: nothing more is let go of
    #[arg(long, conflicts_with_all = ["assets", "application", "tags", "user", "mime_prefix", "left_over", "dry_run"])]
    stop: bool,
}

#[derive(Deserialize, Serialize)]
struct RefusalBody {
    hash: String,
    explanation: String,
}

/// The answer of `POST /drops`.
#[derive(Deserialize)]
struct BegunBody {
    command: Option<u64>,
    contents: u64,
    bytes: u64,
    hashes: Vec<String>,
    #[serde(default)]
    absent_hashes: Vec<String>,
    refused: u64,
    refusals: Vec<RefusalBody>,
}

/// The answer of `GET /drops`.
#[derive(Deserialize)]
struct StandsBody {
    command: u64,
    running: bool,
    total: u64,
    left: u64,
    dropped: u64,
    dropped_bytes: u64,
    kept: u64,
    lacking: Option<String>,
    contents: Vec<Value>,
    next: u64,
}

/// Exit code 1 if something stays that was asked for, 7 if it takes longer.
pub(super) async fn run(context: &Context, args: DropArgs) -> CliResult {
    let agent = context.agent()?;
    if args.stop {
        let done: Value = agent.post("/drops/cancel", &json!({})).await?;
        let line = || match done["cancelled"].as_bool() {
            Some(true) => "nothing more is let go of".to_owned(),
            _ => "nothing was being let go of".to_owned(),
        };
        return context.out.result(&done, line);
    }
    let DropArgs { assets, filter, left_over, yes, dry_run, timeout, .. } = args;
    let (named, filter) = (assets.len(), filter.spec());
    let hashes = resolved(context, assets).await?;
    let request =
        |dry_run| json!({ "hashes": hashes, "filter": filter, "left_over": left_over, "dry_run": dry_run });
    if dry_run {
        let would: BegunBody = agent.post("/drops", &request(true)).await?;
        return tell_dry_run(context, &would);
    }
    if !yes && (named == 0 || named > UNASKED_MAX) {
        let would: BegunBody = agent.post("/drops", &request(true)).await?;
        if would.contents > 0 {
            ask(&would)?;
        }
    }
    let deadline = Instant::now() + Duration::from_secs(timeout);
    let begun: BegunBody = agent.post("/drops", &request(false)).await?;
    tell_refusals(context, &begun)?;
    let Some(command) = begun.command else {
        if begun.refused == 0 {
            message("Nothing is held here that is meant.");
            return Ok(());
        }
        return Err(CliError::failure("nothing was let go of"));
    };
    let stands = follow(context, &agent, command, deadline).await?;
    let (bytes, kept) = (text::bytes(stands.dropped_bytes), stands.kept + begun.refused);
    message(&format!("{} let go of, {bytes}; {kept} kept", text::counted(stands.dropped, "content")));
    if kept == 0 {
        return Ok(());
    }
    Err(CliError::failure(format!("{} still here", counted_contents(kept))))
}

/// As the subject of a sentence.
fn counted_contents(count: u64) -> String {
    format!("{} {}", text::counted(count, "content"), if count == 1 { "is" } else { "are" })
}

fn tell_dry_run(context: &Context, would: &BegunBody) -> CliResult {
    tell_refusals(context, would)?;
    for hash in &would.hashes {
        context.out.result(&json!({ "hash": hash, "asked": true }), || {
            format!("{hash}  other machines would be asked to keep it")
        })?;
    }
    let contents = text::counted(would.contents, "content");
    message(&format!("{contents} would be let go of, {}; {} kept", text::bytes(would.bytes), would.refused));
    Ok(())
}

fn tell_refusals(context: &Context, begun: &BegunBody) -> CliResult {
    for hash in &begun.absent_hashes {
        let explanation = "not held here: there is nothing to let go of";
        let value = json!({ "hash": hash, "dropped": false, "held": false, "explanation": explanation });
        context.out.result(&value, || format!("{hash}  {explanation}"))?;
    }
    for refusal in &begun.refusals {
        let RefusalBody { hash, explanation } = refusal;
        let value = json!({ "hash": hash, "dropped": false, "explanation": explanation });
        context.out.result(&value, || text::escape(&format!("{hash}  kept: {explanation}")).into_owned())?;
    }
    Ok(())
}

/// Tells what becomes of each, until the command is over.
async fn follow(
    context: &Context,
    agent: &ApiClient,
    command: u64,
    deadline: Instant,
) -> CliResult<StandsBody> {
    let progress = ProgressLine::spinner("asking other machines to keep them");
    let mut after = 0;
    loop {
        let stands: StandsBody = agent.get("/drops", &[("after", after.to_string())]).await?;
        if stands.command != command {
            return Err(CliError::failure("another command began meanwhile, or the node was started anew")
                .hint("`can-sync why HASH` says whether a content is here"));
        }
        for content in &stands.contents {
            let of = |key: &str| content[key].as_str().unwrap_or_default();
            let line = || text::escape(&format!("{}  {}", of("hash"), of("explanation"))).into_owned();
            context.out.result(content, line)?;
        }
        let all_told = stands.next == after;
        after = stands.next;
        if !stands.running && all_told {
            return Ok(stands);
        }
        let lacking = stands.lacking.as_deref().map_or(String::new(), |why| format!(": {why}"));
        let settled = stands.total - stands.left.min(stands.total);
        progress.set(&format!("{settled} of {} settled{lacking}", stands.total));
        if Instant::now() >= deadline {
            let late = format!("{} left{}", counted_contents(stands.left), text::escape(&lacking));
            return Err(CliError::new(Exit::Timeout, late)
                .hint("the node goes on with it: `can-sync drop --stop` ends that"));
        }
        if stands.running {
            tokio::time::sleep_until((Instant::now() + LOOK).min(deadline)).await;
        }
    }
}

/// Whether so many are to go. Nobody is asked where nobody can answer.
fn ask(would: &BegunBody) -> CliResult {
    let (contents, bytes) = (text::counted(would.contents, "content"), text::bytes(would.bytes));
    if !std::io::stdin().is_terminal() {
        return Err(CliError::new(
            Exit::Usage,
            format!("{contents} would be let go of, and nobody can be asked"),
        )
        .hint("--yes lets go of them without a question, --dry-run lists them"));
    }
    let question = format!(
        "Let go of {contents} ({bytes}) here, as far as enough other machines promise to keep them? [y/N]"
    );
    if confirm(&question)? {
        return Ok(());
    }
    Err(CliError::failure("nothing was let go of"))
}
