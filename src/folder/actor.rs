//! FolderActor: one bound directory. Hears of changes on the disk and in the store, and has them looked at, one look at a time.
//!
//! **Owns** the watcher, and what is known of the folder ([`FolderWork`]), which a blocking thread has while a look is under way.
//! **Talks to** nobody: FoldersActor asks it. **Bounds**: `NAMES_MAX` names that changed, beyond which everything is looked at; one look
//! at a time. **A restart** loses nothing: rows and journal are in `agent.db`, and the first look is at everything.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::RecommendedWatcher;
use ractor::{Actor, ActorRef, RpcReplyPort};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::report::FolderReport;
use super::rows::FolderBinding;
use super::watching::{DiskChange, watch};
use super::work::answering::FolderCommand;
use super::work::progress::WorkMeter;
use super::work::{FolderContext, FolderWork, LookScope, StopSwitch, WorkError};
use crate::actor::ActorResult;
use crate::actor::mailbox::counted;
use crate::actor::status::ActorDetail;
use crate::actor::tasks::Tasks;
use crate::entry::EntryHash;
use crate::record::ContentHash;

mod reporting;

pub(super) use reporting::first_report;
use reporting::report_of;

/// Names that wait to be looked at; more are everything.
const NAMES_MAX: usize = 50_000;
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

counted!(FolderMsg);

#[derive(Debug)]
pub enum FolderMsg {
    /// Its watcher: these changed, from the root. No paths: something did, somewhere.
    DiskChanged { paths: Vec<PathBuf>, change: DiskChange },
    /// Its watcher: it hears nothing more, or not everything.
    WatchFailed { why: String },
    /// Its timer: there may be room for a watcher again.
    WatchAgain,
    /// FoldersActor: the store has other versions of these entries, and these contents.
    StoreChanged { entries: Vec<EntryHash>, contents: Arc<[ContentHash]> },
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
    /// Its timer will try to watch again, and waits for so long the next time.
    is_watch_due: bool,
    watch_retry: Duration,
    scope: LookScope,
    /// When what waits is looked at, and the number of the timer for it.
    due: Option<Instant>,
    due_generation: u64,
    /// A look became due while one was under way.
    is_overdue: bool,
    scan_generation: u64,
    commands: VecDeque<(FolderCommand, CommandReply)>,
    report: FolderReport,
    retry: Duration,
    is_paused: bool,
}

/// One bound directory.
pub struct FolderActor;

impl Actor for FolderActor {
    type Msg = FolderMsg;
    type State = FolderActorState;
    type Arguments = FolderArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<FolderMsg>,
        args: FolderArgs,
    ) -> ActorResult<FolderActorState> {
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
            is_watch_due: false,
            watch_retry: RETRY_MIN,
            scope: LookScope { is_full: true, ..LookScope::default() },
            due: None,
            due_generation: 0,
            is_overdue: false,
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
        myself: ActorRef<FolderMsg>,
        message: FolderMsg,
        state: &mut FolderActorState,
    ) -> ActorResult {
        match message {
            FolderMsg::DiskChanged { paths, change } => state.on_disk_changed(&myself, &paths, change),
            FolderMsg::WatchFailed { why } => state.on_watch_failed(&myself, why),
            FolderMsg::WatchAgain => state.on_watch_again(&myself),
            FolderMsg::StoreChanged { entries, contents } => {
                state.on_store_changed(&myself, entries, &contents);
            }
            FolderMsg::Obey { command, reply } => state.on_obey(&myself, command, reply),
            FolderMsg::GetReport { reply } => {
                let _ = reply.send(state.report());
            }
            FolderMsg::LookNow { generation } => {
                if generation == state.due_generation {
                    state.due = None;
                    state.is_overdue = state.work.is_none();
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

    async fn post_stop(&self, _: ActorRef<FolderMsg>, state: &mut FolderActorState) -> ActorResult {
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

    fn on_disk_changed(&mut self, myself: &ActorRef<FolderMsg>, paths: &[PathBuf], change: DiskChange) {
        if paths.is_empty() {
            self.scope.is_full = true;
        }
        for path in paths {
            let Some(name) = path.to_str() else {
                self.scope.is_full = true;
                continue;
            };
            match change {
                DiskChange::Writing => {
                    self.scope.closed.remove(name);
                    self.scope.unrested.insert(name.to_owned());
                }
                // What we put in its place ourselves is heard to be closed as well, and never to be written to.
                DiskChange::Whole => {
                    if self.scope.unrested.remove(name) {
                        self.scope.closed.insert(name.to_owned());
                    }
                }
                DiskChange::Described => {}
            }
            self.scope.names.insert(name.to_owned());
        }
        if self.scope.names.len() > NAMES_MAX {
            self.scope.names.clear();
            self.scope.unrested.clear();
            self.scope.closed.clear();
            self.scope.is_full = true;
        }
        self.look_in(myself, if change == DiskChange::Writing { REST_AFTER } else { WHOLE_AFTER });
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
        contents: &[ContentHash],
    ) {
        self.scope.entries.extend(entries);
        // What a look under way waits for is not known yet.
        if self.work.is_none() || self.report.waiting > 0 {
            self.scope.contents.extend(contents);
        }
        if self.scope.contents.len() > NAMES_MAX {
            self.scope.contents = BTreeSet::new();
            self.scope.waiting = true;
        }
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
        if command == FolderCommand::Pause && self.work.is_none() {
            // It may be long, and goes on as well later.
            self.stop.set();
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
                let _held = lock.lock();
                let was_full = scope.is_full || command.is_some();
                let (mut outcome, mut said) = (Ok(()), None);
                if let Some((command, reply)) = command {
                    // It looks first, and is to know which files are open.
                    work.hear_of_files(&scope);
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
            Err(why) => {
                self.watch_problem = Some(why);
                // Nobody says when there is room for a watcher again.
                if !std::mem::replace(&mut self.is_watch_due, true) {
                    myself.send_after(self.watch_retry, || FolderMsg::WatchAgain);
                    self.watch_retry = (self.watch_retry * 2).min(RETRY_MAX);
                }
            }
        }
    }

    fn on_watch_again(&mut self, myself: &ActorRef<FolderMsg>) {
        self.is_watch_due = false;
        if self.watcher.is_some() {
            return;
        }
        self.watch(myself);
        if self.watcher.is_some() {
            self.watch_retry = RETRY_MIN;
            self.scope.is_full = true;
            self.look_in(myself, Duration::ZERO);
        }
    }

    fn on_look_ended(&mut self, myself: &ActorRef<FolderMsg>, done: LookDone) {
        let LookDone { work, outcome, was_full, reply } = done;
        self.stop.clear();
        self.is_paused = work.binding.settings.paused;
        self.args.binding = work.binding.clone();
        self.report = report_of(&work, &outcome);
        let (is_restless, turn) = (work.is_restless, work.next_turn());
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
            Err(WorkError::Stopped) => {
                self.scope.is_full = true;
                Some(RETRY_MIN)
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
        if let Some(delay) = turn.filter(|_| outcome.is_ok()) {
            self.scope.later = true;
            self.look_in(myself, delay);
        }
        // What came meanwhile does not wait for the turns of other paths.
        let is_overdue = std::mem::take(&mut self.is_overdue);
        match again {
            Some(delay) => self.look_in(myself, delay),
            None if is_overdue => self.begin(myself),
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
}
