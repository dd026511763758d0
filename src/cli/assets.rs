//! What commands about assets share: how assets are named, listed and shown.

use serde::{Deserialize, Serialize};

use super::client::ApiClient;
use super::error::CliResult;
use super::output::{Output, message};
use crate::record::ContentHash;

/// Most that the CAN Service gives at a time.
pub(super) const PAGE_MAX: u64 = 1000;

/// A CAN hash as it is typed; capitals are taken, too.
pub(super) fn hash(text: &str) -> Result<ContentHash, String> {
    text.to_ascii_lowercase().parse().map_err(|_| "expected a CAN hash: 64 hexadecimal digits".to_owned())
}

/// An asset as the CAN Service describes it. Fields that a later service adds are passed on in JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Asset {
    pub(super) hash: String,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) mime_type: String,
    pub(super) filename: Option<String>,
    /// Further names of the same content.
    #[serde(default)]
    pub(super) names: Vec<String>,
    #[serde(default)]
    pub(super) tags: Vec<String>,
    #[serde(default)]
    pub(super) created_at: String,
    #[serde(default = "held")]
    pub(super) held: bool,
    #[serde(flatten)]
    pub(super) more: serde_json::Map<String, serde_json::Value>,
}

impl Asset {
    /// Everything that it is called.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.filename.iter().chain(&self.names).map(String::as_str)
    }

    /// The same for people.
    pub(super) fn called(&self) -> String {
        self.names().collect::<Vec<_>>().join(", ")
    }
}

fn held() -> bool {
    true
}

#[derive(Debug, Deserialize)]
pub(super) struct AssetPage {
    pub(super) assets: Vec<Asset>,
    pub(super) next_cursor: Option<String>,
    pub(super) total: Option<u64>,
    /// Whether there may be more than that.
    #[serde(default)]
    pub(super) total_is_bound: bool,
}

impl AssetPage {
    /// How many there are on all pages, behind a number of those seen: ` of 12`, or nothing where it is not known.
    pub(super) fn of_total(&self) -> String {
        let more = if self.total_is_bound { "+" } else { "" };
        self.total.map(|total| format!(" of {total}{more}")).unwrap_or_default()
    }
}

/// How many assets are wanted, and which.
#[derive(clap::Args, Debug)]
pub(super) struct Amount {
    /// At most this many
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// All there are
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Only those whose content is held here
    #[arg(long)]
    held: bool,
    /// Only those that are known, and whose content is not held here
    #[arg(long, conflicts_with = "held")]
    absent: bool,
}

impl Amount {
    /// Which of them, by whether they are held.
    pub(super) fn holding(&self) -> Option<(&'static str, String)> {
        (self.held || self.absent).then(|| ("held", self.held.to_string()))
    }
}

/// Prints what `path` (`/list` or `/search`) answers to `query`, page by page, as much as is wanted.
pub(super) async fn print_pages(
    out: Output,
    store: &ApiClient,
    path: &str,
    mut query: Vec<(&str, String)>,
    amount: &Amount,
) -> CliResult {
    query.extend(amount.holding());
    let wanted = if amount.all { u64::MAX } else { amount.limit };
    let mut shown = 0;
    let mut cursor: Option<String> = None;
    loop {
        let mut query = query.clone();
        query.push(("limit", PAGE_MAX.min(wanted - shown).to_string()));
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let page: AssetPage = store.get(path, &query).await?;
        let of = page.of_total();
        let AssetPage { assets, next_cursor, .. } = page;
        // A table needs its heading even when it is empty; later pages go on without one.
        print(out, &assets, shown == 0)?;
        shown += assets.len() as u64;
        match next_cursor {
            Some(next) if shown < wanted && !assets.is_empty() => cursor = Some(next),
            Some(_) if !amount.all => {
                message(&format!("{shown}{of} shown; --all shows the rest"));
                return Ok(());
            }
            Some(_) | None => return Ok(()),
        }
    }
}

fn print(out: Output, assets: &[Asset], heading: bool) -> std::io::Result<()> {
    if out.json {
        return assets.iter().try_for_each(|asset| out.value(asset));
    }
    let row = |asset: &Asset| {
        vec![
            out.id(&asset.hash),
            out.size(asset.size),
            if asset.held { "yes" } else { "no" }.to_owned(),
            asset.mime_type.clone(),
            asset.called(),
            asset.tags.join(","),
            out.time(&asset.created_at),
        ]
    };
    let rows: Vec<_> = assets.iter().map(row).collect();
    let names = ["HASH", "SIZE", "HELD", "TYPE", "NAME", "TAGS", "CREATED"];
    out.table(if heading { Some(&names) } else { None }, &rows)
}
