//! How folders are, for people and for programs.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::which::{At, FolderLists, Which, bound};
use crate::cli::Context;
use crate::cli::client::ApiClient;
use crate::cli::error::CliResult;
use crate::cli::output::message;
use crate::cli::text;
use crate::folder::report::{FolderConflict, FolderReport, FolderState};
use crate::text::short_id;

#[derive(Deserialize)]
struct Conflicts {
    conflicts: Vec<FolderConflict>,
}

/// Those of this machine, then those that the network knows beside them.
pub(super) async fn list(context: &Context, agent: &ApiClient) -> CliResult {
    let all: FolderLists = agent.get("/folders", &[]).await?;
    let problem = all.problem();
    if let Some(problem) = &problem {
        message(&format!("can-sync: {problem}"));
    }
    let FolderLists { folders, known, .. } = all;
    let elsewhere = || known.iter().filter(|one| !one.bound);
    if context.out.json {
        for folder in &folders {
            let mut shown: Value = json!(folder);
            shown["bound"] = (!folder.folder.is_empty()).into();
            context.out.value(&shown)?;
        }
        return Ok(elsewhere().try_for_each(|one| context.out.value(one))?);
    }
    let mut rows: Vec<Vec<String>> = folders
        .iter()
        .map(|folder| {
            let id = context.out.id(&folder.folder);
            vec![id, folder.name.clone(), state(folder), folder.entries.to_string(), folder.path.clone()]
        })
        .collect();
    rows.extend(elsewhere().map(|one| {
        let by_ticket = if one.by_ticket { ", by ticket, to be read" } else { "" };
        let state = format!("not on this machine, made by {}{by_ticket}", one.by);
        vec![context.out.id(&one.folder), one.name.clone(), state, String::new(), String::new()]
    }));
    context.out.table(Some(&["ID", "NAME", "STATE", "FILES", "DIRECTORY"]), &rows)?;
    if rows.is_empty() && problem.is_none() {
        message("no folder is known; `can-sync folder add DIR` makes one");
    }
    Ok(())
}

fn state(folder: &FolderReport) -> String {
    match &folder.mode[..] {
        "both" | "" => folder.state.name().to_owned(),
        mode => format!("{}, {mode}", folder.state.name()),
    }
}

pub(super) async fn status(context: &Context, agent: &ApiClient, which: &Which) -> CliResult {
    let folders = if which.is_named() { vec![which.find(agent).await?] } else { bound(agent).await? };
    if context.out.json {
        return Ok(folders.iter().try_for_each(|folder| context.out.value(folder))?);
    }
    for folder in &folders {
        context.out.line(&line(folder))?;
        for remark in remarks(folder) {
            context.out.line(&format!("  {remark}"))?;
        }
    }
    if folders.is_empty() {
        message("no folder is on this machine; `can-sync folder add DIR` makes one");
    }
    Ok(())
}

fn line(folder: &FolderReport) -> String {
    let id = short_id(&folder.folder);
    let (name, path) = (text::escape(&folder.name), text::escape(&folder.path));
    let files = text::counted(folder.entries, "file");
    let id = if id.is_empty() { "not bound".to_owned() } else { id };
    format!("{name}  {path}  {}, {files}  ({id})", state(folder))
}

/// What people should know of a folder. Each is safe to show.
fn remarks(folder: &FolderReport) -> Vec<String> {
    let mut remarks = Vec::new();
    remarks.extend(folder.reason.iter().map(|why| text::escape(why).into_owned()));
    let left = folder.eta_secs.map(|secs| format!(", {} left", text::seconds(secs))).unwrap_or_default();
    if let Some(progress) = &folder.progress {
        remarks.push(format!(
            "{} of {}, {} of {}{left}",
            progress.files,
            text::counted(progress.files_total, "file"),
            text::bytes(progress.bytes),
            text::bytes(progress.bytes_total)
        ));
    }
    if folder.waiting > 0 {
        let left = if folder.progress.is_none() { left.as_str() } else { "" };
        let contents = text::counted(folder.waiting, "content");
        remarks.push(format!("{contents} on the way, {}{left}", text::bytes(folder.waiting_bytes)));
    }
    if folder.state == FolderState::Paused {
        remarks.push("nothing is done until `can-sync folder resume`".to_owned());
    }
    if folder.removals == "ignore" {
        remarks.push("files stay here that are removed elsewhere".to_owned());
    }
    if folder.held > 0 {
        remarks.push(format!(
            "{} held, because they are many: `can-sync folder confirm`, or `revert`",
            text::counted(folder.held, "removal")
        ));
        remarks.extend(folder.held_paths.iter().map(|path| format!("  {}", text::escape(path))));
    }
    for path in &folder.asked {
        remarks.push(format!(
            "{} was removed elsewhere: `can-sync folder keep`, or `trash`",
            text::escape(path)
        ));
    }
    if !folder.conflicts.is_empty() {
        let count = text::counted(folder.conflicts.len() as u64, "file");
        remarks.push(format!(
            "{count} edited on two machines apart: `can-sync folder conflicts` lists the copies"
        ));
    }
    for remark in folder.passed_over.iter().chain(&folder.unknown) {
        remarks.push(format!("left alone: {}: {}", text::escape(&remark.path), text::escape(&remark.why)));
    }
    // The first of them is the reason as a rule.
    let problems = folder.problems.iter().filter(|problem| folder.reason.as_ref() != Some(problem));
    remarks.extend(problems.map(|problem| text::escape(problem).into_owned()));
    if folder.scan_only {
        remarks.push("changes are found by looking from time to time".to_owned());
    }
    remarks
}

/// Copies, and what they are copies of.
pub(super) async fn conflicts(context: &Context, agent: &ApiClient, which: &Which) -> CliResult {
    let found = which.find_bound(agent).await?;
    let path = format!("/folders/{}/conflicts", found.folder);
    let Conflicts { conflicts } = agent.get(&path, &[]).await?;
    context.out.list(&conflicts, &["COPY", "BY", "EDITED", "SIZE"], |one| {
        let size = context.out.size(one.size.unwrap_or_default());
        vec![one.path.clone(), one.by.clone(), time(one.at_ms), size]
    })?;
    if conflicts.is_empty() && !context.out.json {
        message("nothing was edited on two machines apart");
    }
    Ok(())
}

pub(super) async fn history(context: &Context, agent: &ApiClient, at: &At) -> CliResult {
    let (_, _, versions) = at.find_versions(agent).await?;
    let out = context.out;
    out.list(&versions, &["TIME", "BY", "SIZE", "HASH", "NOW"], |version| {
        let size = version.size.map(|size| out.size(size)).unwrap_or_default();
        let hash = version.hash.as_deref().map_or_else(|| "removed".to_owned(), |hash| out.id(hash));
        let now = if version.current { "now" } else { "" }.to_owned();
        vec![time(version.at_ms), version.by.clone(), size, hash, now]
    })
}

fn time(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.map_or_else(String::new, |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::report::{FolderProgress, FolderRemark};

    #[test]
    fn names_of_files_cannot_act_on_a_terminal() {
        let evil = "a\u{1b}[2J\nb".to_owned();
        let remark = || FolderRemark { path: evil.clone(), why: evil.clone() };
        let folder = FolderReport {
            name: evil.clone(),
            path: evil.clone(),
            reason: Some(evil.clone()),
            held: 1,
            held_paths: vec![evil.clone()],
            asked: vec![evil.clone()],
            passed_over: vec![remark()],
            unknown: vec![remark()],
            problems: vec![evil.clone()],
            progress: Some(FolderProgress { files: 1, files_total: 4, bytes: 1 << 20, bytes_total: 4 << 20 }),
            eta_secs: Some(90),
            ..FolderReport::default()
        };
        let shown = remarks(&folder);
        assert!(
            shown.iter().chain([&line(&folder)]).all(|line| !line.contains(['\u{1b}', '\n'])),
            "{shown:?}"
        );
        let shown_of = |problems: &[&str]| {
            let problems = problems.iter().map(|problem| (*problem).to_owned()).collect();
            let reason = Some("no room".to_owned());
            remarks(&FolderReport { reason, problems, ..FolderReport::default() })
        };
        assert_eq!(shown_of(&["no room", "no paper"]), ["no room", "no paper"], "each once");
        assert!(shown.iter().any(|line| line.contains("1 of 4 files") && line.contains("left")), "{shown:?}");
    }
}
