//! `can-sync id`: by what others know this node.

use serde::{Deserialize, Serialize};

use super::Context;
use super::error::CliError;
use super::text;

#[derive(clap::Args, Debug)]
pub(super) struct IdArgs {
    /// Print the ticket instead: the id with the addresses at which the node can be reached
    #[arg(long)]
    ticket: bool,
}

#[derive(Debug, Deserialize, Serialize)]
struct IssuedTicket {
    endpoint_id: String,
    ticket: String,
}

pub(super) async fn run(context: &Context, args: &IdArgs) -> Result<(), CliError> {
    let known: IssuedTicket = context.agent()?.get("/ticket", &[]).await?;
    if context.out.json {
        context.out.value(&known)?;
    } else {
        context.out.line(&text::escape(if args.ticket { &known.ticket } else { &known.endpoint_id }))?;
    }
    Ok(())
}
