//! `can-sync why`: who has an asset, and why it is not here yet.

use serde_json::Value;

use super::Context;
use super::assets;
use super::error::CliResult;
use super::resolve;
use super::text;
use crate::text::short_id;

const PLACES_SHOWN: usize = 20;

#[derive(clap::Args, Debug)]
pub(super) struct WhyArgs {
    /// The asset: its hash, or the beginning of that or the name of one that is known here
    #[arg(value_name = "ASSET")]
    asset: String,
}

/// Exit code 6 if nobody knows of it.
pub(super) async fn run(context: &Context, args: &WhyArgs) -> CliResult {
    let agent = context.agent()?;
    let hash = match assets::hash(&args.asset) {
        Ok(hash) => hash,
        Err(_) => resolve::known_asset(&context.store()?, &args.asset).await?,
    };
    let answer: Value = agent.get(&format!("/why/{hash}"), &[]).await?;
    if context.out.json {
        return Ok(context.out.value(&answer)?);
    }
    let explanation = answer["explanation"].as_str().unwrap_or_default();
    context.out.line(&text::escape(explanation))?;
    for source in answer["sources"].as_array().into_iter().flatten() {
        let state = match (source["state"].as_str().unwrap_or_default(), source["connected"] == true) {
            ("lied", _) => "sent wrong bytes",
            ("sending", _) => "is sending",
            ("has_it", _) => "has it",
            (_, true) => "could not give it",
            (_, false) => "is not connected",
        };
        let name = source["name"].as_str().unwrap_or_default();
        let id = source["endpoint_id"].as_str().unwrap_or_default();
        let id = context.out.id(id);
        context.out.line(&text::escape(&format!("{id}  {name}  {state}")))?;
    }
    let folders = answer["folders"].as_array().into_iter().flatten();
    for place in folders.clone().take(PLACES_SHOWN) {
        let of = |key: &str| place[key].as_str().unwrap_or_default();
        let folder = if of("name").is_empty() { short_id(of("folder")) } else { of("name").to_owned() };
        context.out.line(&text::escape(&format!("in the folder '{folder}' as {}", of("path"))))?;
    }
    if let more @ 1.. = folders.count().saturating_sub(PLACES_SHOWN) {
        context.out.line(&format!("and at {more} more paths"))?;
    }
    Ok(())
}
