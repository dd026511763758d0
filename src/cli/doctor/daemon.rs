//! What the daemon says of itself, of its peers and of its folders.

use serde_json::Value;

use super::{COPIED, Finding};
use crate::cli::Context;
use crate::cli::error::{CliResult, Exit};
use crate::cli::text;
use crate::text::short_id;

/// Where the daemon's peers stand in what it said.
const PEERS: &str = "all_peers";
const PEERS_SHOWN: usize = 8;
/// States of peers that somebody decided about, or has to.
const REFUSED: [&str; 6] =
    ["approval_wanted", "not_approved", "denied", "denied_there", "other_passphrase", "ticket_refused"];

/// Its status, with what it says of each peer.
pub(super) async fn ask(context: &Context) -> CliResult<Value> {
    let agent = context.agent()?;
    let mut status: Value = agent.get("/status", &[]).await?;
    // What is said of each peer; a daemon that does not say it is told of by the rest.
    let peers: Value = agent.get("/peers", &[]).await.unwrap_or_default();
    status[PEERS] = peers["peers"].clone();
    Ok(status)
}

/// What it says of itself, if it answers, and what is found of it.
pub(super) fn judge(asked: CliResult<Value>) -> (Option<Value>, Finding) {
    match asked {
        Ok(status) => {
            let text = |pointer| status.pointer(pointer).and_then(Value::as_str).unwrap_or("?");
            let connected = status.pointer("/peers/connected").and_then(Value::as_u64).unwrap_or_default();
            let held = status.pointer("/sync/held_deletions").and_then(Value::as_u64).unwrap_or_default();
            let sync = status.pointer("/sync/summary").and_then(Value::as_str);
            let detail = format!(
                "{} {}, {}; {} connected",
                text("/name"),
                text("/version"),
                sync.unwrap_or_else(|| text("/sync/state")),
                text::counted(connected, "peer")
            );
            let degraded = status.pointer("/actors/degraded").and_then(Value::as_array);
            let copied = status.pointer("/sync/copied").and_then(Value::as_str);
            if copied.is_some() {
                let finding =
                    Finding::fail(format!("{detail}; another machine has this one's endpoint id"), COPIED);
                return (Some(status), finding);
            }
            let peers = status.pointer("/sync/copied_peers").and_then(Value::as_array);
            if let Some(first) = peers.and_then(|peers| peers.first()?.as_str()) {
                let (what, advice) = first.split_once(": ").unwrap_or((first, COPIED));
                return (Some(status.clone()), Finding::warn(format!("{detail}; {what}"), advice));
            }
            let finding = match degraded.filter(|kinds| !kinds.is_empty()) {
                Some(kinds) => {
                    let kinds: Vec<_> = kinds.iter().filter_map(Value::as_str).collect();
                    let detail = format!("{detail}; not running as they should: {}", kinds.join(", "));
                    Finding::warn(detail, "the daemon's log says why")
                }
                None if held > 0 => {
                    let held = text::counted(held, "deletion");
                    let detail = format!("{detail}; {held} by peers held back until somebody decides");
                    Finding::warn(detail, "`can-sync deletions` lists them; `confirm` and `reject` decide")
                }
                None if text("/sync/state") == "versions_held" => {
                    let detail = format!("{detail}; {}", text("/sync/reason"));
                    Finding::warn(detail, "connect the library's owner, or a member that has met it lately")
                }
                None => Finding::ok(detail),
            };
            (Some(status), finding)
        }
        Err(error) if error.exit() == Exit::NoDaemon => {
            (None, Finding::warn("no daemon running", "start one with `can-sync serve`"))
        }
        Err(error) => {
            (None, Finding::warn(error.to_string(), "is --api right, and the token in api_token_file?"))
        }
    }
}

/// A row for each peer that is there, and not let in or does not let this node in.
pub(super) fn refused_peers(daemon: &Value) -> Vec<Vec<String>> {
    let text = |peer: &Value, key: &str| peer[key].as_str().unwrap_or_default().to_owned();
    let peers = daemon[PEERS].as_array().into_iter().flatten();
    let refused = peers.filter(|peer| REFUSED.contains(&peer["state"].as_str().unwrap_or_default()));
    let row = |peer: &Value| {
        let (name, id) = (text(peer, "name"), text(peer, "endpoint_id"));
        let name = if name.is_empty() { short_id(&id) } else { name };
        let sentence = text(peer, "last_error");
        let (what, advice) = sentence.split_once(": ").unwrap_or((&sentence, ""));
        vec![format!("peer: {name}"), "warn".to_owned(), what.to_owned(), advice.to_owned()]
    };
    refused.take(PEERS_SHOWN).map(row).collect()
}

/// A row for each folder that somebody has to look after.
pub(super) fn troubled_folders(daemon: &Value) -> Vec<Vec<String>> {
    let folders = daemon["folders"].as_array().into_iter().flatten();
    let row = |folder: &Value| {
        let text = |key: &str| folder[key].as_str().unwrap_or_default().to_owned();
        let asked = folder["asked"].as_u64().unwrap_or_default();
        let held = folder["held"].as_u64().unwrap_or_default();
        let (what, advice) = match folder["state"].as_str()? {
            "missing" | "failed" => (text("reason"), "`can-sync folder status` says more"),
            "held" if held > 0 => (
                format!("{} held, because they are many", text::counted(held, "removal")),
                "`can-sync folder confirm` carries them out, `revert` puts the files back",
            ),
            "held" => (
                format!("{} removed elsewhere before they were found here", text::counted(asked, "file")),
                "`can-sync folder keep` or `trash` decides",
            ),
            "paused" => ("paused".to_owned(), "`can-sync folder resume` goes on"),
            _ => return None,
        };
        Some(vec![format!("folder: {}", text("name")), "warn".to_owned(), what, advice.to_owned()])
    };
    folders.filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::doctor::CheckVerdict;

    #[test]
    fn folders_that_need_somebody_are_named_with_a_next_step() {
        let folders = json!([
            { "name": "a", "state": "idle" },
            { "name": "b", "state": "missing", "reason": "there is no directory /b" },
            { "name": "c", "state": "held", "held": 30, "asked": 0 },
            { "name": "d", "state": "held", "held": 0, "asked": 2 },
        ]);
        let rows = troubled_folders(&json!({ "folders": folders }));
        let named: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
        assert_eq!(named, ["folder: b", "folder: c", "folder: d"]);
        assert!(rows[0][2].contains("/b") && rows[1][3].contains("confirm") && rows[2][3].contains("keep"));
        assert_eq!(troubled_folders(&json!({})), Vec::<Vec<String>>::new());
    }

    #[test]
    fn a_copied_data_directory_is_a_failure_with_a_next_step() {
        let of = |copied: Value| judge(Ok(json!({ "name": "a", "sync": { "copied": copied } }))).1;
        let finding = of(json!("another machine has this one's endpoint id"));
        assert_eq!((finding.verdict, finding.advice.as_deref()), (CheckVerdict::Fail, Some(COPIED)));
        assert_eq!(of(Value::Null).verdict, CheckVerdict::Ok);
    }
}
