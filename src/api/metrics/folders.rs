//! Figures of each folder of this machine.

use super::{Exposition, float};
use crate::folder::report::{FolderReport, FolderState};

/// In the order in which they are written.
const STATES: [FolderState; 8] = [
    FolderState::Starting,
    FolderState::Busy,
    FolderState::Idle,
    FolderState::Waiting,
    FolderState::Held,
    FolderState::Paused,
    FolderState::Missing,
    FolderState::Failed,
];

/// Series by folder: one of the configuration that is not bound has its path alone.
pub(super) fn figures(out: &mut Exposition, reports: &[FolderReport]) {
    if reports.is_empty() {
        return;
    }
    out.family("can_sync_folder_state", "gauge", "1 for what a folder is up to.");
    for report in reports {
        for state in STATES {
            let labels = [("folder", report.folder.as_str()), ("name", &report.name), ("path", &report.path)];
            let labels = [labels[0], labels[1], labels[2], ("state", state.name())];
            out.sample("can_sync_folder_state", &labels, u8::from(report.state == state));
        }
    }
    let mut per_folder = |name: &str, help: &str, value: &dyn Fn(&FolderReport) -> f64| {
        out.family(name, "gauge", help);
        for report in reports {
            let labels = [("folder", report.folder.as_str()), ("name", &report.name), ("path", &report.path)];
            out.sample(name, &labels, value(report));
        }
    };
    per_folder("can_sync_folder_files", "Plain files in a folder's directory.", &|r| float(r.files));
    per_folder("can_sync_folder_entries", "Files that a folder has.", &|r| float(r.entries));
    per_folder("can_sync_folder_waiting_files", "Files whose contents are on their way.", &|r| {
        float(r.waiting)
    });
    per_folder("can_sync_folder_waiting_bytes", "Bytes of those.", &|r| float(r.waiting_bytes));
    per_folder("can_sync_folder_held_removals", "Removals that wait for somebody's decision.", &|r| {
        float(r.held)
    });
    per_folder(
        "can_sync_folder_asked_files",
        "Files of which somebody is asked whether they stay, up to 100.",
        &|r| float(r.asked.len() as u64),
    );
    per_folder("can_sync_folder_conflicts", "Copies of what was edited apart, up to 100.", &|r| {
        float(r.conflicts.len() as u64)
    });
    per_folder("can_sync_folder_problems", "What went wrong with the last look, up to 100.", &|r| {
        float(r.problems.len() as u64)
    });
}
