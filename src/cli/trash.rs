//! `can-sync trash`: what was deleted lately, and bringing it back.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Context;
use super::assets::{Asset, PAGE_MAX};
use super::client::ApiClient;
use super::error::{CliError, CliResult, Exit};
use super::output::message;
use super::resolve;
use super::text;

#[derive(clap::Args, Debug)]
pub(super) struct TrashArgs {
    #[command(subcommand)]
    action: Option<TrashCommand>,
}

#[derive(clap::Subcommand, Debug)]
enum TrashCommand {
    /// List what was deleted or let go within the last 30 days, the latest first: the default
    List,
    /// Bring assets back, here and on every machine that hears of it
    Restore {
        /// Assets: hashes, beginnings of those, or names
        #[arg(required_unless_present = "all", value_name = "ASSET")]
        assets: Vec<String>,
        /// Everything that lies there
        #[arg(long, conflicts_with = "assets")]
        all: bool,
    },
}

#[derive(Deserialize, Serialize)]
struct TrashedBody {
    trashed_at: Option<String>,
    kept_until: Option<String>,
    #[serde(default)]
    deleted: bool,
    #[serde(flatten)]
    asset: Asset,
}

#[derive(Deserialize)]
struct TrashBody {
    assets: Vec<TrashedBody>,
    next_cursor: Option<String>,
}

pub(super) async fn run(context: &Context, args: TrashArgs) -> CliResult {
    let store = context.store()?;
    match args.action {
        None | Some(TrashCommand::List) => list(context, &store).await,
        Some(TrashCommand::Restore { all: true, .. }) => {
            let everything = all(&store).await?.into_iter().map(|trashed| trashed.asset.hash);
            restore(context, &store, everything.collect()).await
        }
        Some(TrashCommand::Restore { assets, .. }) => restore(context, &store, assets).await,
    }
}

async fn all(store: &ApiClient) -> CliResult<Vec<TrashedBody>> {
    let page = |TrashBody { assets, next_cursor }| (assets, next_cursor);
    store.all("/trash", &[("limit", PAGE_MAX.to_string())], page).await
}

async fn list(context: &Context, store: &ApiClient) -> CliResult {
    let out = context.out;
    let all = all(store).await?;
    if all.is_empty() && out.terminal {
        message("The trash is empty.");
        return Ok(());
    }
    out.list(&all, &["HASH", "SIZE", "WHY", "NAME", "SINCE", "KEPT_UNTIL"], |trashed| {
        let TrashedBody { trashed_at, kept_until, deleted, asset } = trashed;
        vec![
            out.id(&asset.hash),
            out.size(asset.size),
            if *deleted { "deleted" } else { "let go" }.to_owned(),
            asset.called(),
            out.time(trashed_at.as_deref().unwrap_or_default()),
            kept_until.clone().unwrap_or_default(),
        ]
    })
}

/// Goes on after one that cannot come back, and fails at the end.
async fn restore(context: &Context, store: &ApiClient, assets: Vec<String>) -> CliResult {
    let mut failed = None;
    for wanted in assets {
        let restored = async {
            let hash = resolve::trashed(store, &wanted).await?;
            store.post::<Asset>(&format!("/asset/{hash}/restore"), &json!({})).await
        };
        match restored.await {
            Ok(asset) => {
                let told = format!("restored {}  {}", asset.hash, asset.called());
                context.out.result(&asset, || text::escape(told.trim_end()).into_owned())?;
            }
            Err(error) if matches!(error.exit(), Exit::NotFound | Exit::Usage) => {
                message(&format!("can-sync: {error}"));
                failed = Some(error.exit());
            }
            Err(error) => return Err(error),
        }
    }
    failed.map_or(Ok(()), |exit| Err(CliError::said(exit)))
}
