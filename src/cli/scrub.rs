//! `can-sync scrub`: every content that the store holds is read and checked against its name. The node does it, and goes on when
//! the command is stopped; a store that cannot is read from here ([`reading`]). A store that meets damage sets the content aside and
//! has the node fetch it again; this finds what nobody has read for years, and says what became of it.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::Context;
use super::client::ApiClient;
use super::error::{CliError, CliResult, Exit};
use super::fetch;
use super::output::message;
use super::text;
use crate::record::ContentHash;
use crate::store::scrub::{ScrubFinding, ScrubResult};

use self::asked::NodeScrub;

mod asked;
mod reading;

#[derive(clap::Args, Debug)]
pub(super) struct ScrubCommand {
    /// Wait for what is damaged to come from other machines again; up to five minutes for each
    #[arg(long)]
    repair: bool,
    /// Read at most this many MiB per second
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
}

/// How long the node has to get one content that is damaged here.
const REPAIR_WITHIN: Duration = Duration::from_mins(5);

/// What is wrong with a content, and what became of it.
#[derive(Serialize)]
struct DamagedAsset {
    hash: String,
    name: String,
    size: u64,
    problem: String,
    healed: bool,
}

impl From<ScrubFinding> for DamagedAsset {
    fn from(found: ScrubFinding) -> Self {
        let ScrubFinding { hash, filename, size, reason, found_ms: _, healed } = found;
        Self { hash, name: filename.unwrap_or_default(), size, problem: reason, healed }
    }
}

struct Scrubbed {
    checked: u64,
    bytes: u64,
    findings: Vec<DamagedAsset>,
    /// What the node found besides, if it was the node that looked.
    besides: Option<ScrubResult>,
}

/// Exit code 1 if something is damaged and was not healed.
pub(super) async fn run(context: &Context, args: &ScrubCommand) -> CliResult {
    let store = context.store()?;
    let (mut scrubbed, refused) = match asked::run(&store, args.rate).await? {
        NodeScrub::Scrubbed(scrubbed) => (scrubbed, None),
        NodeScrub::Not(why) => (reading::run(&store, args.rate).await?, why),
    };
    if args.repair && !scrubbed.findings.is_empty() {
        let agent = context.agent()?;
        for finding in &mut scrubbed.findings {
            repair(&agent, finding).await?;
        }
    }
    report(context, &scrubbed)?;
    if let Some(problem) = scrubbed.besides.as_ref().and_then(|besides| besides.database.clone()) {
        return Err(CliError::failure(problem));
    }
    let unreadable = scrubbed.besides.as_ref().map_or(0, |besides| besides.unreadable);
    let left = scrubbed.findings.iter().filter(|finding| !finding.healed).count() as u64;
    if left == 0 && unreadable > 0 {
        let parts = text::counted(unreadable, "part");
        return Err(CliError::new(Exit::Degraded, format!("{parts} of the store could not be checked"))
            .hint("the node's log says which, and why; then scrub again"));
    }
    if let Some(refused) = refused {
        return Err(refused);
    }
    if left == 0 {
        return Ok(());
    }
    let error = CliError::failure(format!("{} damaged here", text::counted(left, "content is")));
    Err(if args.repair {
        error.hint("no machine that is connected has them whole: `can-sync why HASH` says who had them")
    } else {
        error.hint(
            "the node fetches them from machines that have them: `can-sync scrub --repair` waits for that",
        )
    })
}

/// Waits until a content is here again, if anybody has it.
async fn repair(agent: &ApiClient, finding: &mut DamagedAsset) -> CliResult {
    let Ok(hash) = finding.hash.parse::<ContentHash>() else { return Ok(()) };
    match fetch::fetch(agent, hash, REPAIR_WITHIN).await {
        Ok(_) => finding.healed = true,
        Err(error) if matches!(error.exit(), Exit::NotFound | Exit::Timeout | Exit::Failure) => {
            finding.problem = format!("{}; {error}", finding.problem);
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

fn report(context: &Context, scrubbed: &Scrubbed) -> CliResult {
    let Scrubbed { checked, bytes, findings, besides } = scrubbed;
    if context.out.json {
        let mut report = json!({ "checked": checked, "bytes": bytes, "damaged": findings });
        if let Some(besides) = besides {
            report["not_checked"] = json!(besides.not_checked);
            report["not_checked_bytes"] = json!(besides.not_checked_bytes);
            report["without_record"] = json!(besides.without_record);
            report["rebuilt"] = json!(besides.rebuilt);
            report["unreadable"] = json!(besides.unreadable);
            report["trash_damaged"] = json!(besides.trash_damaged);
            report["database"] = json!(besides.database);
        }
        return Ok(context.out.value(&report)?);
    }
    if !findings.is_empty() {
        context.out.list(findings, &["HASH", "SIZE", "STATE", "NAME", "PROBLEM"], |finding| {
            let DamagedAsset { hash, name, size, problem, healed } = finding;
            let became = if *healed { "healed" } else { "damaged" }.to_owned();
            vec![context.out.id(hash), text::bytes(*size), became, name.clone(), problem.clone()]
        })?;
    }
    let contents = text::counted(*checked, "content");
    message(&format!("{contents} read and checked, {}; {} damaged", text::bytes(*bytes), findings.len()));
    let ScrubResult { not_checked, not_checked_bytes, without_record, rebuilt, trash_damaged, .. } =
        besides.clone().unwrap_or_default();
    if not_checked > 0 {
        let (contents, size) = (text::counted(not_checked, "content"), text::bytes(not_checked_bytes));
        message(&format!(
            "{contents} in object storage not checked, {size}: that is done when they are read"
        ));
    }
    if trash_damaged > 0 {
        let contents = text::counted(trash_damaged, "content");
        message(&format!("{contents} in the trash damaged: `can-sync trash restore` cannot bring them back"));
    }
    if without_record > 0 {
        let contents = text::counted(without_record, "content");
        message(&format!("{contents} without a record in the database: they stay where they are"));
    }
    if rebuilt > 0 {
        let entries = text::counted(rebuilt, "entry");
        message(&format!("{entries} of search tables, indices and counts made anew"));
    }
    Ok(())
}
