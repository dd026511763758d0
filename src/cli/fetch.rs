//! `can-sync fetch`: has the node get one asset now, from any peer in the network that has it.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::Context;
use super::assets;
use super::client::ApiClient;
use super::error::{CliError, CliResult, Exit};
use super::progress::ProgressLine;
use super::resolve;
use super::text;
use crate::record::ContentHash;

/// Between the first two looks, and between any two at most: what is small is here at once.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LOOK: Duration = Duration::from_millis(200);

#[derive(clap::Args, Debug)]
pub(super) struct FetchArgs {
    /// The asset: its hash, or the beginning of that or the name of one that is known here
    #[arg(value_name = "ASSET")]
    asset: String,
    /// At most this long
    #[arg(long, value_name = "SECS", default_value_t = 300)]
    timeout: u64,
}

/// Where an asset stands, as far as that matters here.
#[derive(Deserialize)]
struct AvailabilityBody {
    state: String,
    explanation: String,
    size: Option<u64>,
}

/// Exit code 6 if nobody within reach has it, 7 if it does not come in time.
pub(super) async fn run(context: &Context, args: &FetchArgs) -> CliResult {
    let hash = match assets::hash(&args.asset) {
        Ok(hash) => hash,
        Err(_) => resolve::known_asset(&context.store()?, &args.asset).await?,
    };
    let size = fetch(&context.agent()?, hash, Duration::from_secs(args.timeout)).await?;
    let value = json!({ "hash": hash.to_string(), "size": size, "state": "here" });
    context.out.result(&value, || format!("{hash}  {}", text::bytes(size)))
}

/// Whether the node says that an asset was deleted there. One that does not answer says nothing.
pub(super) async fn was_deleted(agent: &ApiClient, hash: ContentHash) -> CliResult<bool> {
    match agent.get::<AvailabilityBody>(&format!("/why/{hash}"), &[]).await {
        Ok(stands) => Ok(stands.state == "deleted"),
        Err(error) if matches!(error.exit(), Exit::NotFound | Exit::NoDaemon | Exit::Degraded) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Has the node fetch an asset, and waits until it is in the store; its size.
pub(super) async fn fetch(agent: &ApiClient, hash: ContentHash, within: Duration) -> CliResult<u64> {
    let deadline = Instant::now() + within;
    let mut pause = FIRST_LOOK;
    let progress = ProgressLine::spinner(&format!("asking peers for {}", hash.short()));
    let mut stands: AvailabilityBody = agent.post(&format!("/fetch/{hash}"), &json!({})).await?;
    loop {
        match stands.state.as_str() {
            "here" => return Ok(stands.size.unwrap_or(0)),
            // It was searched for, and is neither searched for any more nor here.
            "deleted" | "missing" | "let_go" | "left_out" => {
                return Err(CliError::new(Exit::NotFound, stands.explanation));
            }
            "no_room" => {
                return Err(CliError::failure(stands.explanation).hint(
                    "`can-sync drop` lets go of contents that other machines keep; or raise store.quota_bytes",
                ));
            }
            "failed" | "later" => return Err(CliError::failure(stands.explanation)),
            _ => {}
        }
        if Instant::now() >= deadline {
            let late =
                format!("it is not here after {}: {}", text::seconds(within.as_secs()), stands.explanation);
            return Err(CliError::new(Exit::Timeout, late)
                .hint(format!("the node goes on with it: `can-sync why {hash}` says how far it is")));
        }
        progress.set(&stands.explanation);
        tokio::time::sleep_until((Instant::now() + pause).min(deadline)).await;
        pause = (pause * 2).min(LOOK);
        stands = agent.get(&format!("/why/{hash}"), &[]).await?;
    }
}
