//! `can-sync id`: by what others know this node.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Context;
use super::error::{CliError, CliResult, Exit, blocking};
use super::output::message;
use super::text;
use crate::node::renewal::{self, RenewalError, RenewedId};

#[derive(clap::Args, Debug)]
pub(super) struct IdArgs {
    /// Print the ticket instead: the id with the addresses at which the node can be reached
    #[arg(long, conflicts_with = "new")]
    ticket: bool,
    /// Give this node another id: for a copy of another node's data directory, while it does not run; its assets stay
    #[arg(long)]
    new: bool,
}

#[derive(Debug, Deserialize, Serialize)]
struct IssuedTicket {
    endpoint_id: String,
    ticket: String,
}

pub(super) async fn run(context: &Context, args: &IdArgs) -> CliResult {
    if args.new {
        return renew(context).await;
    }
    let known: IssuedTicket = context.agent()?.get("/ticket", &[]).await?;
    let shown = if args.ticket { &known.ticket } else { &known.endpoint_id };
    context.out.result(&known, || text::escape(shown).into_owned())
}

async fn renew(context: &Context) -> CliResult {
    let mut config = context.load_config(None, Vec::new())?.config;
    if context.is_elsewhere(&config) {
        return Err(CliError::new(Exit::NotAllowed, "no node gives itself another id while it runs")
            .hint("stop that one and run `can-sync id --new` on its machine, without --api (CAN_SYNC_API)"));
    }
    if context.node_here(&config).is_some() {
        return Err(in_use("the node of this data directory runs".to_owned()));
    }
    config.data_dir = Context::data_dir_here(&config);
    let renewed = blocking(move || renewal::renew(&config)).await?.map_err(|error| match error {
        RenewalError::NoNode(_) => CliError::new(Exit::NotFound, error.to_string()),
        RenewalError::InUse(why) => in_use(why),
        RenewalError::Failed(_) => CliError::failure(error.to_string()),
    })?;
    let RenewedId { former, endpoint_id, lost, owned } = renewed;
    if context.out.json {
        context.out.value(&json!({
            "endpoint_id": endpoint_id.to_string(),
            "former_endpoint_id": former.to_string(),
            "lost_libraries": lost,
            "owned_libraries": owned,
        }))?;
        return Ok(());
    }
    context.out.line(&endpoint_id.to_string())?;
    message(&format!(
        "This node was {former} until now; the machine that goes on with that id is that node."
    ));
    message("Where new machines wait for approval, this one does: `can-sync approve` there lets it in.");
    let named = |names: &[String]| names.iter().map(|name| text::escape(name)).collect::<Vec<_>>().join(", ");
    if !lost.is_empty() {
        message(&format!(
            "The tickets of these libraries were for the former id alone, so ask their owners for others: {}",
            named(&lost)
        ));
    }
    if !owned.is_empty() {
        message(&format!(
            "Both machines have the keys of these libraries now, so invite and revoke on one of the two alone: {}",
            named(&owned)
        ));
    }
    Ok(())
}

fn in_use(why: String) -> CliError {
    CliError::new(Exit::NotAllowed, why).hint("stop it, run `can-sync id --new`, and start it again")
}
