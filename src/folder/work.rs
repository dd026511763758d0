//! One look at a folder after the other: observe, plan, act. Blocking; runs on a thread of its own, never in an actor's handler.
//!
//! **Owns** what is known of one folder between two looks: what was agreed, what the store has, what waits. Each look begins and ends
//! with the marker; what cannot be told is left alone. Whatever is remembered here can be read again from `agent.db`, the store and the
//! disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::files::{FolderDir, IgnoreRules, OwnPath};
use super::report::FolderRemark;
use super::rows::FolderBinding;
use super::{AgreedRow, DiskSight, FileStat, FolderBrake, FolderMode, MountPoint, ReadFile};
use crate::entry::{EntryAuthor, EntryHash, EntryPath, EntryRecord};
use crate::events::NodeEvent;
use crate::record::{ContentHash, WriterId};
use crate::store::{StoreError, StoreResult};

mod acting;
mod aftermath;
pub(crate) mod answering;
mod asking;
mod contents;
mod context;
mod deciding;
mod knowing;
mod later;
mod observing;
pub(crate) mod progress;
mod reading;
mod sharing;
#[cfg(test)]
mod tests;

use later::LaterTurn;
use progress::WorkMeter;

pub(crate) use context::{FolderContext, FolderLocks, LookScope, StopSwitch, WorkError};

/// Longest wait for one answer of the store.
const STORE_WITHIN: Duration = Duration::from_mins(2);
/// Most problems that are kept to be shown.
pub(super) const SHOWN_MAX: usize = 100;

/// A path that was looked at.
#[derive(Clone, Debug)]
struct Observed {
    path: EntryPath,
    /// How the disk writes it.
    name: EntryPath,
    disk: DiskSight,
}

/// One folder, from look to look.
#[allow(clippy::struct_excessive_bools, reason = "each remembers something of its own")]
pub(crate) struct FolderWork {
    pub(super) context: FolderContext,
    pub(super) binding: FolderBinding,
    runtime: Handle,
    writer: Option<WriterId>,
    dir: Option<FolderDir>,
    /// Set by whoever wants the work to end.
    pub(super) stop: Arc<StopSwitch>,
    pub(super) meter: Arc<WorkMeter>,
    rules: IgnoreRules,
    agreed: BTreeMap<EntryHash, AgreedRow>,
    entries: BTreeMap<EntryHash, EntryRecord>,
    /// How many live entries lie below each directory, by its composed path.
    below: HashMap<String, u64>,
    /// Entries whose directories came or went.
    stirred: BTreeSet<EntryHash>,
    observed: BTreeMap<EntryHash, Observed>,
    /// Directories above files that rows have, as of the last look at everything.
    directories: BTreeSet<String>,
    reads: HashMap<EntryHash, (FileStat, ReadFile)>,
    brake: FolderBrake,
    losses: BTreeSet<EntryHash>,
    /// Paths of the look that wait for their turn: nobody knows yet whether they are about to lose anything.
    undecided: BTreeSet<EntryHash>,
    is_loaded: bool,
    /// Paths with a turn of their own.
    later: BTreeMap<EntryHash, LaterTurn>,
    /// Of the look: paths whose files were written to and are not known to be closed, and those whose files were closed.
    unrested: BTreeSet<EntryHash>,
    closed: BTreeSet<EntryHash>,
    /// When the look at the disk began.
    look_began_ms: u64,
    /// What a reader's directory has, or lacks, of its own.
    kept_here: BTreeMap<EntryHash, (EntryPath, &'static str)>,
    /// What is known to people: what waits for contents, for an answer, what is left alone, and what went wrong.
    pub(super) waiting: BTreeMap<EntryHash, ContentHash>,
    pub(super) asked: BTreeMap<EntryHash, EntryPath>,
    pub(super) passed_over: Vec<(String, String)>,
    pub(super) unknown: Vec<(String, String)>,
    pub(super) problems: Vec<String>,
    pub(super) files: u64,
    told_held: usize,
    told_missing: bool,
    /// Whether more is to be tried again than has turns of its own: another look at everything is due.
    pub(super) is_restless: bool,
    /// Whether the journal may have something that is not settled.
    must_recover: bool,
    /// When files that made way were looked at last.
    tidied_ms: Option<u64>,
    /// When all of the trash was looked at last; else up to where.
    purged_ms: Option<u64>,
    purge_after: Option<OwnPath>,
}

impl FolderWork {
    pub(crate) fn new(context: FolderContext, binding: FolderBinding, runtime: Handle) -> Self {
        Self {
            context,
            binding,
            runtime,
            writer: None,
            dir: None,
            stop: Arc::default(),
            meter: Arc::default(),
            rules: IgnoreRules::default(),
            agreed: BTreeMap::new(),
            entries: BTreeMap::new(),
            below: HashMap::new(),
            stirred: BTreeSet::new(),
            observed: BTreeMap::new(),
            directories: BTreeSet::new(),
            reads: HashMap::new(),
            brake: FolderBrake::default(),
            losses: BTreeSet::new(),
            undecided: BTreeSet::new(),
            is_loaded: false,
            later: BTreeMap::new(),
            unrested: BTreeSet::new(),
            closed: BTreeSet::new(),
            look_began_ms: 0,
            kept_here: BTreeMap::new(),
            waiting: BTreeMap::new(),
            asked: BTreeMap::new(),
            passed_over: Vec::new(),
            unknown: Vec::new(),
            problems: Vec::new(),
            files: 0,
            told_held: 0,
            told_missing: false,
            is_restless: false,
            must_recover: true,
            tidied_ms: None,
            purged_ms: None,
            purge_after: None,
        }
    }

    /// Looks, and does what is to be done.
    pub(crate) fn look(&mut self, scope: &LookScope) -> Result<(), WorkError> {
        let done = self.look_inside(scope);
        match &done {
            Err(WorkError::Gone(gone)) => self.is_missing(gone.to_string()),
            Ok(()) => self.told_missing = false,
            Err(_) => {}
        }
        let is_reader = self.is_reader();
        // What others may not have is not in the store, and is not read each time for that.
        self.reads.retain(|_, (stat, read)| is_reader && stat.inode != 0 && stat.is_settled(read.at_ms));
        self.unrested.clear();
        self.closed.clear();
        self.meter.end(self.waiting_bytes());
        done
    }

    fn look_inside(&mut self, scope: &LookScope) -> Result<(), WorkError> {
        self.problems.clear();
        self.is_restless = false;
        self.load()?;
        if self.binding.settings.paused {
            return Ok(());
        }
        self.open()?;
        let began = Instant::now();
        self.hear_of_files(scope);
        let mut todo = if scope.is_full || self.has_directory(scope)? {
            self.observe_all()?
        } else {
            self.observe_some(scope)?
        };
        self.losses.clear();
        self.undecided.clear();
        self.settle(&mut todo)?;
        if scope.is_full && todo.is_empty() {
            let before = self.brake.clone();
            self.losses.append(&mut self.undecided);
            self.brake.keep_only(&self.losses);
            if self.brake != before {
                self.context.rows.save_brake(self.binding.marker, &self.brake)?;
            }
        }
        if scope.is_full {
            self.purge()?;
        }
        self.tell_held();
        if let Some(dir) = &self.dir {
            dir.check()?;
        }
        self.end_turns(began);
        // Names that came and went are nothing to remember.
        let (agreed, entries) = (&self.agreed, &self.entries);
        self.observed.retain(|hash, observed| {
            !matches!(observed.disk, DiskSight::Gone(_))
                || agreed.contains_key(hash)
                || entries.contains_key(hash)
        });
        let is_file = |observed: &&Observed| matches!(observed.disk, DiskSight::File(_));
        self.files = self.observed.values().filter(is_file).count() as u64;
        Ok(())
    }

    fn is_missing(&mut self, why: String) {
        self.dir = None;
        if !std::mem::replace(&mut self.told_missing, true) {
            let path = self.binding.path.display().to_string();
            tracing::warn!(path, why, "a folder is missing; nothing is concluded from that");
            self.publish(|folder, path| NodeEvent::FolderMissing { folder, path, reason: why });
        }
    }

    fn publish(&self, event: impl FnOnce(String, String) -> NodeEvent) {
        let folder = data_encoding::HEXLOWER.encode(&self.binding.marker.folder.0);
        let path = self.binding.path.display().to_string();
        self.context.events.publish(self.context.clock.own_ms(), event(folder, path));
    }

    pub(super) fn waiting_bytes(&self) -> u64 {
        let size = |hash: &EntryHash| self.entries.get(hash)?.file.as_ref().map(|file| file.size);
        self.waiting.keys().filter_map(size).sum()
    }

    fn tell_held(&mut self) {
        let held = self.brake.held.len();
        if held > self.told_held {
            self.publish(|folder, path| NodeEvent::FolderHeld { folder, path, held: held as u64 });
        }
        self.told_held = held;
    }

    fn open(&mut self) -> Result<(), WorkError> {
        let now_ms = self.now_ms();
        if let Some(dir) = &self.dir {
            dir.check()?;
        } else {
            let mut dir = FolderDir::open(&self.binding.path, self.binding.marker)?;
            dir.know_mounts(self.mounts());
            self.stop.reaches(dir.stop_flag());
            self.dir = Some(dir);
            self.must_recover = true;
        }
        self.held()?.begin_look(now_ms);
        if self.must_recover {
            self.must_recover = false;
            if let Err(error) = self.recover() {
                self.must_recover = true;
                return Err(error);
            }
        }
        self.rules = self
            .held()?
            .ignore_rules()
            .map_err(|source| WorkError::Io { action: "cannot read what is left out".into(), source })?;
        for problem in self.rules.problems.clone() {
            self.problem(problem);
        }
        self.tidy()
    }

    /// The file systems that files were on when they were agreed.
    fn mounts(&self) -> BTreeSet<MountPoint> {
        self.agreed.values().filter_map(|row| Some(row.disk.as_ref()?.mount.clone())).collect()
    }

    /// Whether nothing of this directory becomes an entry: the user wants it so, or the folder is another network's.
    fn is_reader(&self) -> bool {
        self.binding.settings.rules().mode == FolderMode::ReadOnly || self.is_foreign()
    }

    /// Whether the folder came by a ticket: nothing of this directory becomes this network's.
    fn is_foreign(&self) -> bool {
        let folder = self.binding.marker.folder;
        self.binding.settings.by_ticket || self.context.libraries.foreign(folder).is_some()
    }

    fn held(&self) -> Result<&FolderDir, WorkError> {
        self.dir.as_ref().ok_or(WorkError::Stopped)
    }

    fn wait<T>(&self, answer: impl Future<Output = StoreResult<T>>) -> Result<T, WorkError> {
        wait(&self.runtime, answer)
    }

    fn now_ms(&self) -> u64 {
        self.context.clock.own_ms()
    }

    fn author(&self) -> EntryAuthor {
        let writer = self.writer.unwrap_or(WriterId::NULL);
        EntryAuthor {
            writer,
            by: EntryAuthor::name_from(&self.context.name),
            now_ms: self.context.clock.now_ms(),
        }
    }

    fn check_stop(&self) -> Result<(), WorkError> {
        if self.stop.is_set() { Err(WorkError::Stopped) } else { Ok(()) }
    }

    /// Something that people should know.
    fn problem(&mut self, what: String) {
        if self.problems.len() < SHOWN_MAX && !self.problems.contains(&what) {
            tracing::warn!(folder = %self.binding.path.display(), what, "in a folder");
            self.problems.push(what);
        }
    }

    pub(super) fn held_paths(&self) -> Vec<String> {
        let path = |hash: &EntryHash| Some(self.agreed.get(hash)?.entry.path.as_str().to_owned());
        self.brake.held.iter().filter_map(path).take(SHOWN_MAX).collect()
    }

    pub(super) fn held_count(&self) -> u64 {
        self.brake.held.len() as u64
    }

    /// Copies of what was edited apart, by their names.
    pub(super) fn conflicts(&self) -> Vec<String> {
        let live = self.entries.values().filter(|entry| entry.is_live() && entry.path.is_conflict());
        live.map(|entry| entry.path.as_str().to_owned()).take(SHOWN_MAX).collect()
    }

    /// What a reader's directory has, or lacks, of its own.
    pub(super) fn kept_here(&self) -> impl Iterator<Item = FolderRemark> {
        let remark = |(path, why): &(EntryPath, &'static str)| FolderRemark {
            path: path.as_str().to_owned(),
            why: (*why).to_owned(),
        };
        self.kept_here.values().map(remark)
    }

    pub(super) fn live_entries(&self) -> u64 {
        self.entries.values().filter(|entry| entry.is_live()).count() as u64
    }
}

fn wait<T>(runtime: &Handle, answer: impl Future<Output = StoreResult<T>>) -> Result<T, WorkError> {
    let answer = runtime.block_on(async { tokio::time::timeout(STORE_WITHIN, answer).await });
    let late = |_| {
        StoreError::io(
            "a folder waits for the store",
            format!("it did not answer within {} s", STORE_WITHIN.as_secs()),
        )
    };
    Ok(answer.map_err(late)??)
}
