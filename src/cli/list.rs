//! `can-sync list`: assets in the order of their creation.

use super::Context;
use super::assets::{self, Amount};
use super::error::CliResult;

#[derive(clap::Args, Debug)]
pub(super) struct ListArgs {
    #[command(flatten)]
    amount: Amount,
    /// Oldest first
    #[arg(long)]
    oldest_first: bool,
}

pub(super) async fn run(context: &Context, args: &ListArgs) -> CliResult {
    let store = context.store()?;
    let order = if args.oldest_first { "oldest" } else { "newest" };
    let query = vec![("order", order.to_owned())];
    assets::print_pages(context.out, &store, "/list", query, &args.amount).await
}
