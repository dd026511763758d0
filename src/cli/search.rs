//! `can-sync search`: assets that match all of what is asked.

use jiff::tz::TimeZone;

use super::Context;
use super::assets::{self, Amount};
use super::error::{CliError, CliResult, Exit};
use crate::http::extract::DayEdge;
use crate::store::embedded::HashPrefix;

/// Which assets.
#[derive(clap::Args, Debug)]
pub(super) struct SearchFilters {
    /// Words that are all in the file name or description, in any order, whatever their case
    #[arg(value_name = "WORDS")]
    words: Vec<String>,
    /// Made by this program
    #[arg(long)]
    application: Option<String>,
    /// Made by this person
    #[arg(long)]
    user: Option<String>,
    /// With any of these tags, separated by commas
    #[arg(long, value_delimiter = ',')]
    tags: Vec<String>,
    /// Whose media type begins so, such as `image/`
    #[arg(long, value_name = "PREFIX")]
    mime_prefix: Option<String>,
    /// With this hash, or one that begins so
    #[arg(long, value_parser = hash_or_prefix)]
    hash: Option<String>,
    /// Created at this time or later: a date, RFC 3339, or milliseconds since 1970
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Created at this time or earlier: a date, the whole of which counts, RFC 3339, or milliseconds since 1970
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
}

impl SearchFilters {
    /// As the CAN Service is asked for it; empty for everything.
    pub(super) fn query(self) -> Vec<(&'static str, String)> {
        let Self { words, application, user, tags, mime_prefix, hash, from, to } = self;
        let tags = (!tags.is_empty()).then(|| tags.join(","));
        let fields = [
            ("q", (!words.is_empty()).then(|| words.join(" "))),
            ("application", application),
            ("user", user),
            ("tags", tags),
            ("mime_prefix", mime_prefix),
            ("hash_prefix", hash),
            ("from", from.map(|time| local_day(time, DayEdge::Start))),
            ("to", to.map(|time| local_day(time, DayEdge::End))),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

#[derive(clap::Args, Debug)]
pub(super) struct SearchArgs {
    #[command(flatten)]
    filters: SearchFilters,
    #[command(flatten)]
    amount: Amount,
}

pub(super) async fn run(context: &Context, args: SearchArgs) -> CliResult {
    let SearchArgs { filters, amount } = args;
    let query = filters.query();
    if query.is_empty() && amount.holding().is_none() {
        return Err(CliError::new(Exit::Usage, "nothing to search for")
            .hint("`can-sync search --help` says by what; `can-sync list` shows everything"));
    }
    let store = context.store()?;
    assets::print_pages(context.out, &store, "/search", query, &amount).await
}

/// As it is typed; capitals are taken, too.
fn hash_or_prefix(text: &str) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    let expected =
        || format!("expected a hash, or at least {} hexadecimal digits of one", HashPrefix::DIGITS_MIN);
    HashPrefix::parse(&text).map(|_| text.clone()).ok_or_else(expected)
}

/// A date is a day here, where the user is; the service has other days. Everything else is left for it to judge.
fn local_day(time: String, edge: DayEdge) -> String {
    edge.of(&time, TimeZone::system()).map_or(time, |moment| moment.to_string())
}
