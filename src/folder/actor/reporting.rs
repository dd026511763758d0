//! How the folder is, for people.

use super::FolderActorState;
use crate::actor::status::ActorDetail;
use crate::folder::files::FolderMarker;
use crate::folder::report::{FolderRemark, FolderReport, FolderState};
use crate::folder::rows::FolderBinding;
use crate::folder::work::{FolderWork, SHOWN_MAX, WorkError};

impl FolderActorState {
    pub(super) fn report(&self) -> FolderReport {
        let mut report = self.report.clone();
        if self.work.is_none() && !matches!(report.state, FolderState::Missing | FolderState::Failed) {
            report.state = FolderState::Busy;
        } else if self.is_paused {
            report.state = FolderState::Paused;
        }
        (report.progress, report.eta_secs) = self.meter.read();
        report.watched = self.watcher.is_some() && self.watch_problem.is_none();
        if report.by_ticket && self.args.context.libraries.foreign(self.args.binding.marker.folder).is_none()
        {
            report.problems.push(
                "it came by a ticket, whose library is not here any more: every file stays as it is".into(),
            );
        }
        report.problems.extend(
            self.watch_problem
                .iter()
                .map(|why| format!("changes are found by looking from time to time: {why}")),
        );
        report
    }

    pub(super) fn health(&self) -> ActorDetail {
        let report = self.report();
        let waits = self.scope.names.len() + self.scope.entries.len() + self.commands.len();
        let detail = format!("{}: {}, {} files", report.path, report.state.name(), report.files);
        ActorDetail { queued: Some(waits as u64), detail: Some(detail), children: Vec::new() }
    }
}

pub(in crate::folder) fn first_report(binding: &FolderBinding) -> FolderReport {
    let FolderMarker { folder, .. } = binding.marker;
    let settings = binding.settings;
    let mode = match (settings.read_only, settings.send_only) {
        (true, _) => "read-only",
        (false, true) => "send-only",
        (false, false) => "both",
    };
    FolderReport {
        folder: data_encoding::HEXLOWER.encode(&folder.0),
        path: binding.path.display().to_string(),
        mode: mode.into(),
        removals: if settings.ignore_removals { "ignore" } else { "apply" }.into(),
        scan_only: settings.scan_only,
        by_ticket: settings.by_ticket,
        ..FolderReport::default()
    }
}

pub(super) fn report_of(work: &FolderWork, outcome: &Result<(), WorkError>) -> FolderReport {
    let remarks = |list: &[(String, String)]| -> Vec<FolderRemark> {
        list.iter().map(|(path, why)| FolderRemark { path: path.clone(), why: why.clone() }).collect()
    };
    let failures = work.failures();
    let state = match outcome {
        Err(WorkError::Stopped) => FolderState::Busy,
        Err(WorkError::Gone(_)) => FolderState::Missing,
        Err(_) => FolderState::Failed,
        Ok(()) if work.held_count() > 0 || !work.asked.is_empty() => FolderState::Held,
        Ok(()) if !failures.is_empty() => FolderState::Failed,
        Ok(()) if !work.waiting.is_empty() || work.has_unrested() => FolderState::Waiting,
        Ok(()) => FolderState::Idle,
    };
    FolderReport {
        state,
        reason: outcome.as_ref().err().map(ToString::to_string).or_else(|| failures.first().cloned()),
        files: work.files,
        entries: work.live_entries(),
        waiting: work.waiting.len() as u64,
        waiting_bytes: work.waiting_bytes(),
        held: work.held_count(),
        held_paths: work.held_paths(),
        asked: work.asked.values().take(SHOWN_MAX).map(|path| path.as_str().to_owned()).collect(),
        conflicts: work.conflicts(),
        passed_over: remarks(&work.passed_over).into_iter().chain(work.kept_here()).take(SHOWN_MAX).collect(),
        unknown: remarks(&work.unknown),
        problems: failures.into_iter().chain(work.problems.iter().cloned()).take(SHOWN_MAX).collect(),
        ..first_report(&work.binding)
    }
}
