//! Folders as the page shows them.

use super::text::{bytes, count, duration, grouped, shown};
use crate::folder::report::{FolderReport, FolderState};
use crate::text::short_id;

/// Paths that a row names; the API has more.
const PATHS_SHOWN: usize = 5;

pub(in crate::api) struct FolderButton {
    pub(in crate::api) name: &'static str,
    pub(in crate::api) label: &'static str,
}

pub(in crate::api) struct FolderRow {
    /// Empty for one of the configuration that is not bound.
    pub(in crate::api) id: String,
    pub(in crate::api) short_id: String,
    pub(in crate::api) name: String,
    pub(in crate::api) path: String,
    pub(in crate::api) state: String,
    pub(in crate::api) mood: &'static str,
    pub(in crate::api) files: String,
    pub(in crate::api) waiting: String,
    pub(in crate::api) conflicts: String,
    pub(in crate::api) actions: Vec<FolderButton>,
    pub(in crate::api) remarks: Vec<String>,
}

impl FolderRow {
    pub(super) fn new(folder: FolderReport) -> Self {
        let mood = match folder.state {
            FolderState::Idle => "good",
            FolderState::Starting | FolderState::Busy | FolderState::Waiting => "busy",
            FolderState::Paused => "idle",
            FolderState::Held | FolderState::Missing | FolderState::Failed => "bad",
        };
        let left = folder.eta_secs.map(|secs| format!(", {} left", duration(secs))).unwrap_or_default();
        let state = match &folder.progress {
            Some(progress) => {
                format!("{} of {}{left}", grouped(progress.files), grouped(progress.files_total))
            }
            None => format!("{}{}{left}", folder.state.name(), mode(&folder)),
        };
        Self {
            short_id: short_id(&folder.folder),
            name: shown(&folder.name),
            path: shown(&folder.path),
            state,
            mood,
            files: grouped(folder.entries),
            waiting: match folder.waiting {
                0 => "0".to_owned(),
                waiting => format!("{} ({})", grouped(waiting), bytes(folder.waiting_bytes)),
            },
            conflicts: match folder.conflicts.len() {
                100 => "100 or more".to_owned(),
                count => count.to_string(),
            },
            actions: actions(&folder),
            remarks: remarks(&folder),
            id: folder.folder,
        }
    }
}

fn mode(folder: &FolderReport) -> String {
    if folder.mode == "both" { String::new() } else { format!(", {}", folder.mode) }
}

fn actions(folder: &FolderReport) -> Vec<FolderButton> {
    if folder.folder.is_empty() {
        return Vec::new();
    }
    let is_paused = folder.state == FolderState::Paused;
    let offered = [
        (folder.held > 0, "confirm", "Remove them"),
        (folder.held > 0, "revert", "Put them back"),
        (!folder.asked.is_empty(), "keep", "Keep"),
        (!folder.asked.is_empty(), "trash", "To the trash"),
        (!is_paused, "pause", "Pause"),
        (is_paused, "resume", "Go on"),
        (true, "remove", "Forget"),
    ];
    let offered = offered.into_iter().filter(|(is_offered, ..)| *is_offered);
    offered.map(|(_, name, label)| FolderButton { name, label }).collect()
}

fn remarks(folder: &FolderReport) -> Vec<String> {
    let mut remarks: Vec<String> = folder.reason.iter().map(|reason| shown(reason)).collect();
    let some = |paths: &[String]| {
        let named: Vec<String> = paths.iter().take(PATHS_SHOWN).map(|path| shown(path)).collect();
        let more = if paths.len() > PATHS_SHOWN { ", …" } else { "" };
        format!("{}{more}", named.join(", "))
    };
    if folder.held > 0 {
        let held = count(folder.held, "file", "files");
        remarks.push(format!("{held} went at once and wait for your decision: {}", some(&folder.held_paths)));
    }
    if !folder.asked.is_empty() {
        let asked = some(&folder.asked);
        remarks.push(format!("Removed elsewhere before they were found here, keep them or not: {asked}"));
    }
    if !folder.conflicts.is_empty() {
        remarks.push(format!(
            "Edited on two machines apart, of which these are the copies: {}",
            some(&folder.conflicts)
        ));
    }
    let alone = folder.passed_over.iter().chain(&folder.unknown);
    let alone: Vec<String> = alone.map(|remark| format!("{} ({})", remark.path, remark.why)).collect();
    if !alone.is_empty() {
        remarks.push(format!("Left alone: {}", some(&alone)));
    }
    let problems = folder.problems.iter().filter(|problem| folder.reason.as_ref() != Some(problem));
    remarks.extend(problems.take(PATHS_SHOWN).map(|problem| shown(problem)));
    remarks
}
