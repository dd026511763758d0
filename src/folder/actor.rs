//! FolderActor: one bound directory. Hears of changes on the disk and in the store, and has them looked at, one look at a time.
//!
//! **Owns** the watcher, and what is known of the folder ([`FolderWork`]), which a blocking thread has while a look is under way.
//! **Talks to** nobody: FoldersActor asks it. **Bounds**: `NAMES_MAX` names that changed, beyond which everything is looked at; one look
//! at a time. **A restart** loses nothing: rows and journal are in `agent.db`, and the first look is at everything.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::RecommendedWatcher;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::files::FolderMarker;
use super::report::{FolderRemark, FolderReport, FolderState};
use super::rows::FolderBinding;
use super::watching::watch;
use super::work::answering::FolderCommand;
use super::work::progress::WorkMeter;
use super::work::{FolderContext, FolderWork, LookScope, StopSwitch, WorkError};
use crate::actor::status::ActorDetail;
use crate::actor::tasks::Tasks;
use crate::entry::EntryHash;

/// Names that wait to be looked at; more are everything.
const NAMES_MAX: usize = 10_000;
/// A file that was closed, renamed or removed is as it is meant.
const WHOLE_AFTER: Duration = Duration::from_millis(50);
/// One that somebody writes to is let rest.
const REST_AFTER: Duration = Duration::from_secs(1);
/// Pause after a look that failed, or met files that changed; doubled up to the longest.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(10);
/// How often a directory that is missing is looked for.
const MISSING_RETRY: Duration = Duration::from_secs(5);
/// Commands that wait for a look under way.
const COMMANDS_MAX: usize = 64;
/// How long a stop waits for the step under way.
const STOP_WITHIN: Duration = Duration::from_millis(1500);

/// What was said to a command.
pub type CommandReply = RpcReplyPort<Result<String, String>>;

#[derive(Debug)]
pub enum FolderMsg {
    /// Its watcher: these changed, from the root; `is_whole` if they are as they are meant. No paths: something did, somewhere.
    DiskChanged { paths: Vec<PathBuf>, is_whole: bool },
    /// Its watcher: it hears nothing more, or not everything.
    WatchFailed { why: String },
    /// FoldersActor: the store has other versions of these, or contents that it had not.
    StoreChanged { entries: Vec<EntryHash>, has_contents: bool },
    /// FoldersActor: somebody asks for something.
    Obey { command: FolderCommand, reply: CommandReply },
    /// FoldersActor: how the folder is.
    GetReport { reply: RpcReplyPort<FolderReport> },
    /// Its timer: what waits is looked at, unless something came since.
    LookNow { generation: u64 },
    /// Its timer: everything is looked at.
    ScanDue { generation: u64 },
    /// Its task: a look is over.
    LookEnded(LookDone),
    /// Its task: it panicked, and why.
    TaskFailed(String),
    /// FoldersActor: how it is.
    GetHealth { reply: RpcReplyPort<ActorDetail> },
}

/// What comes back of a look.
pub struct LookDone {
    work: Box<FolderWork>,
    outcome: Result<(), WorkError>,
    was_full: bool,
    reply: Option<(CommandReply, Result<String, String>)>,
}

impl std::fmt::Debug for LookDone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LookDone").field("outcome", &self.outcome).finish_non_exhaustive()
    }
}

/// What it is started with.
#[derive(Clone)]
pub struct FolderArgs {
    pub(crate) context: FolderContext,
    pub(crate) binding: FolderBinding,
}

pub struct FolderActorState {
    args: FolderArgs,
    tasks: Tasks<FolderMsg>,
    /// Away while a look is under way.
    work: Option<Box<FolderWork>>,
    stop: Arc<StopSwitch>,
    meter: Arc<WorkMeter>,
    watcher: Option<RecommendedWatcher>,
    watch_problem: Option<String>,
    scope: LookScope,
    /// When what waits is looked at, and the number of the timer for it.
    due: Option<Instant>,
    due_generation: u64,
    scan_generation: u64,
    commands: VecDeque<(FolderCommand, CommandReply)>,
    report: FolderReport,
    retry: Duration,
    is_paused: bool,
}

pub struct FolderActor;

impl Actor for FolderActor {
    type Msg = FolderMsg;
    type State = FolderActorState;
    type Arguments = FolderArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        args: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let work = FolderWork::new(args.context.clone(), args.binding.clone(), Handle::current());
        let report = first_report(&args.binding);
        let is_paused = args.binding.settings.paused;
        let mut state = FolderActorState {
            tasks: Tasks::new(myself.clone(), FolderMsg::TaskFailed),
            stop: Arc::clone(&work.stop),
            meter: Arc::clone(&work.meter),
            work: Some(Box::new(work)),
            watcher: None,
            watch_problem: None,
            scope: LookScope { is_full: true, ..LookScope::default() },
            due: None,
            due_generation: 0,
            scan_generation: 0,
            commands: VecDeque::new(),
            report,
            retry: RETRY_MIN,
            is_paused,
            args,
        };
        state.look_in(&myself, Duration::ZERO);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            FolderMsg::DiskChanged { paths, is_whole } => state.on_disk_changed(&myself, &paths, is_whole),
            FolderMsg::WatchFailed { why } => state.on_watch_failed(&myself, why),
            FolderMsg::StoreChanged { entries, has_contents } => {
                state.on_store_changed(&myself, entries, has_contents);
            }
            FolderMsg::Obey { command, reply } => state.on_obey(&myself, command, reply),
            FolderMsg::GetReport { reply } => {
                let _ = reply.send(state.report());
            }
            FolderMsg::LookNow { generation } => {
                if generation == state.due_generation {
                    state.due = None;
                    state.begin(&myself);
                }
            }
            FolderMsg::ScanDue { generation } => {
                if generation == state.scan_generation {
                    state.scope.is_full = true;
                    state.look_in(&myself, Duration::ZERO);
                }
            }
            FolderMsg::LookEnded(done) => state.on_look_ended(&myself, done),
            FolderMsg::TaskFailed(why) => return Err(format!("a look at the folder: {why}").into()),
            FolderMsg::GetHealth { reply } => {
                if !reply.is_closed() {
                    let _ = reply.send(state.health());
                }
            }
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.stop.set();
        state.watcher = None;
        // Every step is safe to be cut off; the one under way is let end all the same.
        let _ = tokio::time::timeout(STOP_WITHIN, state.tasks.shutdown()).await;
        Ok(())
    }
}

impl Drop for FolderActorState {
    /// However it ends, a look does not go on without it.
    fn drop(&mut self) {
        self.stop.set();
    }
}

impl FolderActorState {
    /// Has what waits looked at after `delay`, or earlier where that is due already.
    fn look_in(&mut self, myself: &ActorRef<FolderMsg>, delay: Duration) {
        let at = Instant::now() + delay;
        if self.due.is_some_and(|due| due <= at) {
            return;
        }
        self.due = Some(at);
        self.due_generation += 1;
        let generation = self.due_generation;
        myself.send_after(delay, move || FolderMsg::LookNow { generation });
    }

    fn on_disk_changed(&mut self, myself: &ActorRef<FolderMsg>, paths: &[PathBuf], is_whole: bool) {
        if paths.is_empty() {
            self.scope.is_full = true;
        }
        for path in paths {
            match path.to_str() {
                // A directory came or went, with all that is in it.
                Some(name) if self.is_file(path) => {
                    self.scope.names.insert(name.to_owned());
                }
                Some(_) | None => self.scope.is_full = true,
            }
        }
        if self.scope.names.len() > NAMES_MAX {
            self.scope.names.clear();
            self.scope.is_full = true;
        }
        self.look_in(myself, if is_whole { WHOLE_AFTER } else { REST_AFTER });
    }

    /// Whether the name is no directory's now; one that went is told by its rows.
    fn is_file(&self, path: &Path) -> bool {
        let found = std::fs::symlink_metadata(self.args.binding.path.join(path));
        found.map_or(true, |found| !found.is_dir())
    }

    fn on_watch_failed(&mut self, myself: &ActorRef<FolderMsg>, why: String) {
        tracing::warn!(path = %self.args.binding.path.display(), why, "not every change of a folder is heard of");
        self.watch_problem = Some(why);
        self.scope.is_full = true;
        self.look_in(myself, REST_AFTER);
    }

    fn on_store_changed(
        &mut self,
        myself: &ActorRef<FolderMsg>,
        entries: Vec<EntryHash>,
        has_contents: bool,
    ) {
        self.scope.entries.extend(entries);
        // What a look under way waits for is not known yet.
        self.scope.waiting |= has_contents && (self.work.is_none() || self.report.waiting > 0);
        if self.scope.entries.len() > NAMES_MAX {
            self.scope.entries = BTreeSet::new();
            self.scope.is_full = true;
        }
        if !self.scope.is_empty() {
            self.look_in(myself, Duration::ZERO);
        }
    }

    fn on_obey(&mut self, myself: &ActorRef<FolderMsg>, command: FolderCommand, reply: CommandReply) {
        if self.commands.len() >= COMMANDS_MAX {
            let _ = reply.send(Err("too much is asked of the folder at once; try again".into()));
            return;
        }
        self.commands.push_back((command, reply));
        self.begin(myself);
    }

    /// Begins a look, unless one is under way or nothing waits.
    fn begin(&mut self, myself: &ActorRef<FolderMsg>) {
        let has_work = !self.commands.is_empty() || (!self.is_paused && !self.scope.is_empty());
        if !has_work {
            return;
        }
        let Some(mut work) = self.work.take() else { return };
        self.watch(myself);
        let command = self.commands.pop_front();
        let scope = if self.is_paused { LookScope::default() } else { std::mem::take(&mut self.scope) };
        let owner = myself.clone();
        self.tasks.spawn(async move {
            let ended = spawn_blocking(move || {
                let lock = work.context.busy.of(work.binding.marker.folder);
                let _held = lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let was_full = scope.is_full || command.is_some();
                let (mut outcome, mut said) = (Ok(()), None);
                if let Some((command, reply)) = command {
                    match work.obey(&command) {
                        Ok(answer) => said = Some((reply, answer)),
                        Err(error) => {
                            said = Some((reply, Err(error.to_string())));
                            outcome = Err(error);
                        }
                    }
                }
                let is_paused = work.binding.settings.paused;
                if outcome.is_ok() && !is_paused {
                    outcome = work.look(&LookScope { is_full: was_full, ..scope });
                }
                LookDone { work, outcome, was_full, reply: said }
            })
            .await;
            match ended {
                Ok(done) => {
                    let _ = owner.send_message(FolderMsg::LookEnded(done));
                }
                Err(error) => {
                    let _ = owner.send_message(FolderMsg::TaskFailed(error.to_string()));
                }
            }
        });
    }

    /// Starts the watcher, if there is none.
    fn watch(&mut self, myself: &ActorRef<FolderMsg>) {
        if self.watcher.is_some() || self.args.binding.settings.scan_only {
            return;
        }
        match watch(&self.args.binding.path, myself.clone()) {
            Ok(watcher) => (self.watcher, self.watch_problem) = (Some(watcher), None),
            Err(why) => self.watch_problem = Some(why),
        }
    }

    fn on_look_ended(&mut self, myself: &ActorRef<FolderMsg>, done: LookDone) {
        let LookDone { work, outcome, was_full, reply } = done;
        self.is_paused = work.binding.settings.paused;
        self.args.binding = work.binding.clone();
        self.report = report_of(&work, &outcome);
        let is_restless = work.is_restless;
        self.work = Some(work);
        if let Some((reply, answer)) = reply {
            let _ = reply.send(answer);
        }
        let again = match &outcome {
            Ok(()) if is_restless => {
                self.scope.is_full = true;
                Some(self.longer_retry())
            }
            Ok(()) => {
                self.retry = RETRY_MIN;
                None
            }
            Err(WorkError::Gone(_)) => {
                // Another directory may be there when it is back.
                self.watcher = None;
                self.scope.is_full = true;
                Some(MISSING_RETRY)
            }
            Err(error) => {
                tracing::warn!(path = %self.args.binding.path.display(), %error, "a look at a folder failed");
                self.scope.is_full = true;
                Some(self.longer_retry())
            }
        };
        if was_full {
            self.scan_generation += 1;
            let generation = self.scan_generation;
            myself
                .send_after(self.args.context.full_scan_interval, move || FolderMsg::ScanDue { generation });
        }
        match again {
            Some(delay) => self.look_in(myself, delay),
            None if self.due.is_none() => self.begin(myself),
            None => {}
        }
        if !self.commands.is_empty() {
            self.begin(myself);
        }
    }

    fn longer_retry(&mut self) -> Duration {
        let now = self.retry;
        self.retry = (now * 2).min(RETRY_MAX);
        now
    }

    fn report(&self) -> FolderReport {
        let mut report = self.report.clone();
        if self.work.is_none() && !matches!(report.state, FolderState::Missing | FolderState::Failed) {
            report.state = FolderState::Busy;
        } else if self.is_paused {
            report.state = FolderState::Paused;
        }
        (report.progress, report.eta_secs) = self.meter.read();
        report.watched = self.watcher.is_some() && self.watch_problem.is_none();
        report.problems.extend(
            self.watch_problem
                .iter()
                .map(|why| format!("changes are found by looking from time to time: {why}")),
        );
        report
    }

    fn health(&self) -> ActorDetail {
        let report = self.report();
        let waits = self.scope.names.len() + self.scope.entries.len() + self.commands.len();
        let detail = format!("{}: {}, {} files", report.path, report.state.name(), report.files);
        ActorDetail { queued: Some(waits as u64), detail: Some(detail), children: Vec::new() }
    }
}

pub(super) fn first_report(binding: &FolderBinding) -> FolderReport {
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
        ..FolderReport::default()
    }
}

fn report_of(work: &FolderWork, outcome: &Result<(), WorkError>) -> FolderReport {
    let remarks = |list: &[(String, String)]| -> Vec<FolderRemark> {
        list.iter().map(|(path, why)| FolderRemark { path: path.clone(), why: why.clone() }).collect()
    };
    let state = match outcome {
        Err(WorkError::Gone(_)) => FolderState::Missing,
        Err(_) => FolderState::Failed,
        Ok(()) if work.held_count() > 0 || !work.asked.is_empty() => FolderState::Held,
        Ok(()) if !work.waiting.is_empty() || work.is_restless => FolderState::Waiting,
        Ok(()) => FolderState::Idle,
    };
    FolderReport {
        state,
        reason: outcome.as_ref().err().map(ToString::to_string),
        files: work.files,
        entries: work.live_entries(),
        waiting: work.waiting.len() as u64,
        waiting_bytes: work.waiting_bytes(),
        held: work.held_count(),
        held_paths: work.held_paths(),
        asked: work
            .asked
            .values()
            .take(super::work::SHOWN_MAX)
            .map(|path| path.as_str().to_owned())
            .collect(),
        conflicts: work.conflicts(),
        passed_over: remarks(&work.passed_over),
        unknown: remarks(&work.unknown),
        problems: work.problems.clone(),
        ..first_report(&work.binding)
    }
}
