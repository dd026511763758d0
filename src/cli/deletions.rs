//! `can-sync deletions`: what peers deleted and waits for somebody's decision, because it was much at once.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Context;
use super::client::ApiClient;
use super::error::{CliError, CliResult, Exit};
use super::output::message;
use super::resolve::{self, NameKind};
use super::text;

#[derive(clap::Args, Debug)]
pub(super) struct DeletionsArgs {
    #[command(subcommand)]
    action: Option<DeletionsCommand>,
}

#[derive(clap::Subcommand, Debug)]
enum DeletionsCommand {
    /// List what waits: the default
    List,
    /// Delete here, too, what waits
    Confirm(HoldChoice),
    /// Keep here what waits
    Reject {
        #[command(flatten)]
        choice: HoldChoice,
        /// Bring it back on the other machines, too
        #[arg(long)]
        restore: bool,
    },
}

#[derive(clap::Args, Debug)]
struct HoldChoice {
    /// Holds by their ids, the beginnings of those, or by who deleted; not needed where there is one
    #[arg(value_name = "HOLD")]
    holds: Vec<String>,
    /// All of them
    #[arg(long, conflicts_with = "holds")]
    all: bool,
}

/// `GET /deletions`, as far as the command line needs it; the rest is passed on in JSON.
#[derive(Deserialize)]
struct Deletions {
    holds: Vec<Hold>,
    #[serde(default)]
    confirmed: u64,
}

#[derive(Deserialize, Serialize)]
struct Hold {
    id: String,
    library: Option<LibraryNameBody>,
    from: String,
    count: u64,
    since: Option<String>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Deserialize, Serialize)]
struct LibraryNameBody {
    id: String,
    name: String,
}

pub(super) async fn run(context: &Context, args: DeletionsArgs) -> CliResult {
    let agent = context.agent()?;
    match args.action {
        None | Some(DeletionsCommand::List) => list(context, &agent).await,
        Some(DeletionsCommand::Confirm(choice)) => confirm(context, &agent, choice).await,
        Some(DeletionsCommand::Reject { choice, restore }) => reject(context, &agent, choice, restore).await,
    }
}

async fn fetch(agent: &ApiClient) -> CliResult<Deletions> {
    agent.get("/deletions", &[]).await
}

async fn list(context: &Context, agent: &ApiClient) -> CliResult {
    let out = context.out;
    let Deletions { holds, confirmed } = fetch(agent).await?;
    if confirmed > 0 && !out.json {
        let confirmed = text::counted(confirmed, "confirmed deletion");
        message(&format!("{confirmed} will be applied once the peers that made them are connected."));
    }
    if holds.is_empty() && !out.json {
        message("Nothing is held back.");
        return Ok(());
    }
    out.list(&holds, &["HOLD", "ASSETS", "LIBRARY", "DELETED_BY", "SINCE"], |hold| {
        vec![
            hold.id.clone(),
            hold.count.to_string(),
            hold.library.as_ref().map(|library| library.name.clone()).unwrap_or_default(),
            hold.from.clone(),
            out.time(hold.since.as_deref().unwrap_or_default()),
        ]
    })
}

const HOLD: NameKind =
    NameKind { one: "hold", many: "holds", listed_by: "`can-sync deletions` lists what is held back" };

/// What was chosen, by ids; `None` for everything.
async fn chosen(agent: &ApiClient, choice: HoldChoice) -> CliResult<Vec<Option<String>>> {
    let HoldChoice { holds, all } = choice;
    if all {
        return Ok(vec![None]);
    }
    let wanted = holds;
    let Deletions { holds, .. } = fetch(agent).await?;
    if !wanted.is_empty() {
        let pick = |wanted: &String| {
            let hold = resolve::pick(HOLD, wanted, holds.iter().collect(), |hold| (&hold.id, &hold.from))?;
            Ok(Some(hold.id.clone()))
        };
        return wanted.iter().map(pick).collect();
    }
    match holds.len() {
        0 => Err(CliError::new(Exit::NotFound, "nothing is held back")),
        1 => Ok(holds.into_iter().map(|hold| Some(hold.id)).collect()),
        count => Err(CliError::new(Exit::Usage, format!("{count} holds wait: name one, or say --all"))
            .hint("`can-sync deletions` lists them")),
    }
}

async fn confirm(context: &Context, agent: &ApiClient, choice: HoldChoice) -> CliResult {
    let mut released = 0;
    for hold in chosen(agent, choice).await? {
        let done: Value = agent.post("/deletions/confirm", &json!({ "hold": hold })).await?;
        released += done["released"].as_u64().unwrap_or_default();
    }
    let line = || format!("confirmed {}", text::counted(released, "deletion"));
    context.out.result(&json!({ "released": released }), line)
}

async fn reject(context: &Context, agent: &ApiClient, choice: HoldChoice, restore: bool) -> CliResult {
    let (mut rejected, mut restored) = (0, 0);
    for hold in chosen(agent, choice).await? {
        let request = json!({ "hold": hold, "restore": restore });
        let done: Value = agent.post("/deletions/reject", &request).await?;
        rejected += done["rejected"].as_u64().unwrap_or_default();
        restored += done["restored"].as_u64().unwrap_or_default();
    }
    context.out.result(&json!({ "rejected": rejected, "restored": restored }), || {
        let back = restore.then(|| format!(", {} brought back", text::counted(restored, "asset")));
        format!("rejected {}{}", text::counted(rejected, "deletion"), back.unwrap_or_default())
    })
}
