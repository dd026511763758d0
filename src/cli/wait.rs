//! `can-sync wait`: returns once nothing is missing on either side, or somebody has to decide something first.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Context;
use super::client::ApiClient;
use super::error::{CliError, CliResult, Exit};
use super::progress::ProgressLine;
use super::status::{self, StatusBody};
use super::text;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

#[derive(clap::Args, Debug)]
pub(super) struct WaitArgs {
    /// Until everything that any connected peer has is here, and they have everything that is here
    #[arg(long, required = true)]
    in_sync: bool,
    /// At most this long
    #[arg(long, value_name = "SECS", default_value_t = 300)]
    timeout: u64,
}

/// Has the node compare afresh first: an old answer is no answer.
pub(super) async fn run(context: &Context, args: &WaitArgs) -> CliResult {
    debug_assert!(args.in_sync, "the only thing to wait for so far, and required");
    let agent = context.agent()?;
    let progress = ProgressLine::spinner("asking the node to compare with its peers");
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let verified: Result<Value, _> = agent.post("/verify", &json!({})).await;
    verified?;
    let status = loop {
        let status = status::fetch(&agent).await?;
        if status.sync.state == "in_sync" {
            break status;
        }
        if status.sync.state == "deletions_held" {
            // Waiting longer changes nothing.
            return Err(CliError::new(Exit::Degraded, format!("not in sync: {}", status.sync.sentence()))
                .hint("`can-sync deletions` lists them; `confirm` and `reject` decide"));
        }
        if Instant::now() >= deadline {
            return Err(late(&agent, &status, args.timeout).await);
        }
        progress.set(&format!("waiting: {}", status.sync.sentence()));
        tokio::time::sleep_until((Instant::now() + LOOK).min(deadline)).await;
    };
    drop(progress);
    let peers = || text::counted(status.peers.connected, "peer");
    context.out.result(&status, || format!("in sync with {}", peers()))
}

/// Says what is missing.
async fn late(agent: &ApiClient, status: &StatusBody, secs: u64) -> CliError {
    let sync = &status.sync;
    let missing_there = super::peers::fetch(agent).await.map(|peers| {
        let not_confirmed = peers.iter().map(|peer| peer.missing_there).sum::<u64>();
        if not_confirmed == 0 { String::new() } else { format!("; peers still lack {not_confirmed}") }
    });
    let missing_there = missing_there.unwrap_or_default();
    let error = CliError::new(
        Exit::Timeout,
        format!("not in sync after {}: {}{missing_there}", text::seconds(secs), sync.sentence()),
    );
    match sync.state.as_str() {
        "alone" => {
            error.hint("`can-sync peers add TICKET` connects to one; `can-sync id --ticket` prints a ticket")
        }
        "versions_held" => error.hint("connect the library's owner, or a member that has met it lately"),
        _ => error.hint("`can-sync peers` shows who lacks what"),
    }
}
