//! `can-sync pin` and `unpin`: what is held here whatever the configuration says.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Context;
use super::error::CliResult;
use super::filter_args::FilterArgs;
use super::library::resolved;
use super::output::message;
use super::text;
use crate::library::filter::FilterSpec;

#[derive(clap::Args, Debug)]
pub(super) struct PinArgs {
    /// Assets: hashes, the beginnings of those, or names; without any, and without a filter, what is pinned is listed
    #[arg(value_name = "ASSET")]
    assets: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(clap::Args, Debug)]
pub(super) struct UnpinArgs {
    /// Assets: hashes, the beginnings of those, or names
    #[arg(value_name = "ASSET", required_unless_present_any = ["application", "tags", "user", "mime_prefix"])]
    assets: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
}

/// `GET /pins`, as far as the command line needs it; the rest is passed on in JSON.
#[derive(Deserialize, Serialize)]
struct PinsBody {
    hashes: Vec<String>,
    filters: Vec<FilterSpec>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

pub(super) async fn pin(context: &Context, args: PinArgs) -> CliResult {
    let PinArgs { assets, filter } = args;
    let filter = filter.spec();
    if assets.is_empty() && filter.is_none() {
        return list(context).await;
    }
    let hashes = resolved(context, assets).await?;
    let done: Value = context.agent()?.post("/pins", &json!({ "hashes": hashes, "filter": filter })).await?;
    let line = || match done["pinned"].as_u64().unwrap_or_default() {
        0 => "pinned already".to_owned(),
        1 => "pinned: it is fetched if it is not here, and held".to_owned(),
        n => format!("{n} pinned: they are fetched if they are not here, and held"),
    };
    context.out.result(&done, line)
}

pub(super) async fn unpin(context: &Context, args: UnpinArgs) -> CliResult {
    let UnpinArgs { assets, filter } = args;
    let hashes = resolved(context, assets).await?;
    let request = json!({ "hashes": hashes, "filter": filter.spec() });
    let done: Value = context.agent()?.post("/pins/remove", &request).await?;
    let line = || match done["removed"].as_u64().unwrap_or_default() {
        0 => "it was not pinned: `can-sync pin` lists what is".to_owned(),
        _ => "unpinned; what is here stays".to_owned(),
    };
    context.out.result(&done, line)
}

async fn list(context: &Context) -> CliResult {
    let pins: PinsBody = context.agent()?.get("/pins", &[]).await?;
    if context.out.json {
        return Ok(context.out.value(&pins)?);
    }
    if pins.hashes.is_empty() && pins.filters.is_empty() {
        message("Nothing is pinned.");
    }
    for hash in &pins.hashes {
        context.out.line(&text::escape(hash))?;
    }
    for filter in &pins.filters {
        context.out.line(&text::escape(&flags(filter)))?;
    }
    Ok(())
}

fn flags(filter: &FilterSpec) -> String {
    let mut all = Vec::new();
    let mut flag = |name: &str, value: Option<&String>| {
        if let Some(value) = value {
            all.push(format!("--{name} '{value}'"));
        }
    };
    flag("application", filter.application.as_ref());
    filter.tags.iter().flatten().for_each(|tag| flag("tag", Some(tag)));
    flag("user", filter.user.as_ref());
    flag("mime-prefix", filter.mime_prefix.as_ref());
    for hash in filter.hashes.iter().flatten() {
        all.push(hash.clone());
    }
    all.join(" ")
}
