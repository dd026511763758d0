//! One look at a folder after the other: observe, plan, act. Blocking; runs on a thread of its own, never in an actor's handler.
//!
//! **Owns** what is known of one folder between two looks: what was agreed, what the store has, what waits. Each look begins and ends
//! with the marker; what cannot be told is left alone. Whatever is remembered here can be read again from `agent.db`, the store and the
//! disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

use self::progress::WorkMeter;
use super::files::{FolderDir, FolderGone, Forbidden, IgnoreRules};
use super::rows::{FolderBinding, FolderRows, RowsError};
use super::{
    AgreedRow, DiskSight, FileStat, FolderAction, FolderBrake, PathLoss, PathSight, ReadFile, StoreSight,
    plan,
};
use crate::clock::Clock;
use crate::entry::{EntryAuthor, EntryHash, EntryPath, EntryRecord, FolderId, FolderRecord};
use crate::events::{EventLog, NodeEvent};
use crate::record::{ContentHash, WriterId};
use crate::store::entries::{ENTRIES_MAX, EntryQuery, whole_history};
use crate::store::{StoreError, StoreRef};

mod acting;
mod aftermath;
pub(crate) mod answering;
mod contents;
mod observing;
pub(crate) mod progress;

/// More rounds than any path needs; what is left then is looked at later.
const ROUNDS_MAX: u32 = 16;
/// Longest wait for one answer of the store.
const STORE_WITHIN: Duration = Duration::from_mins(2);
/// Most problems that are kept to be shown.
pub(super) const SHOWN_MAX: usize = 100;
/// What has to be in the store before anything is taken off a disk, or out of the folder.
const LAST_EARLY_PHASE: u8 = 3;

/// What all folders of a node share.
#[derive(Clone)]
pub(crate) struct FolderContext {
    /// Where contents and entries are.
    pub(crate) store: StoreRef,
    /// What is remembered.
    pub(crate) rows: FolderRows,
    /// What entries say who wrote them.
    pub(crate) name: String,
    /// What time it is.
    pub(crate) clock: Clock,
    /// Where people hear of what waits for them.
    pub(crate) events: EventLog,
    /// Where copies of files lie for a moment.
    pub(crate) temporary: PathBuf,
    /// Places that are no folders.
    pub(crate) forbidden: Arc<Forbidden>,
    /// Whether the store is on this machine, and takes its room.
    pub(crate) is_store_here: bool,
    /// What the network's passphrase makes of it.
    pub(crate) network: [u8; 32],
    /// What the disk keeps free.
    pub(crate) reserve_bytes: u64,
    /// How often everything is looked at.
    pub(crate) full_scan_interval: Duration,
    /// Folders that are worked on.
    pub(crate) busy: FolderLocks,
}

/// One look at a folder at a time, also where an actor ended while its look went on. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct FolderLocks(Arc<Mutex<HashMap<FolderId, Arc<Mutex<()>>>>>);

impl FolderLocks {
    pub(super) fn of(&self, folder: FolderId) -> Arc<Mutex<()>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(folder).or_default())
    }
}

/// Ends the work of a folder after the step at hand.
#[derive(Debug, Default)]
pub(crate) struct StopSwitch {
    is_set: AtomicBool,
    /// The same for what is long in a directory.
    of_directory: Mutex<Option<Arc<AtomicBool>>>,
}

impl StopSwitch {
    pub(super) fn set(&self) {
        self.is_set.store(true, Ordering::Relaxed);
        if let Some(flag) = &*self.of_directory.lock().unwrap_or_else(PoisonError::into_inner) {
            flag.store(true, Ordering::Relaxed);
        }
    }

    fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    fn reaches(&self, flag: Arc<AtomicBool>) {
        flag.store(self.is_set(), Ordering::Relaxed);
        *self.of_directory.lock().unwrap_or_else(PoisonError::into_inner) = Some(flag);
    }
}

/// Why a look did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkError {
    /// The directory is not there, or not ours.
    #[error("{0}")]
    Gone(#[from] FolderGone),
    /// The store.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// `agent.db`.
    #[error("{0}")]
    Rows(#[from] RowsError),
    /// Anything else.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted.
        action: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The node stops.
    #[error("stopped")]
    Stopped,
}

/// What is to be looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct LookScope {
    /// Everything.
    pub(crate) is_full: bool,
    /// These names on the disk.
    pub(crate) names: BTreeSet<String>,
    /// These entries of the store.
    pub(crate) entries: BTreeSet<EntryHash>,
    /// What waits for contents.
    pub(crate) waiting: bool,
}

impl LookScope {
    pub(crate) fn is_empty(&self) -> bool {
        !self.is_full && self.names.is_empty() && self.entries.is_empty() && !self.waiting
    }
}

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
    /// How far it is.
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
    is_loaded: bool,
    /// What is known to people: what waits for contents, for an answer, what is left alone, and what went wrong.
    pub(super) waiting: BTreeMap<EntryHash, ContentHash>,
    pub(super) asked: BTreeMap<EntryHash, EntryPath>,
    pub(super) passed_over: Vec<(String, String)>,
    pub(super) unknown: Vec<(String, String)>,
    pub(super) problems: Vec<String>,
    pub(super) files: u64,
    told_held: usize,
    told_missing: bool,
    /// Whether something changed while it was read: another look is due soon.
    pub(super) is_restless: bool,
    /// Whether the journal may have something that is not settled.
    must_recover: bool,
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
            is_loaded: false,
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
        self.reads.clear();
        self.meter.end(self.waiting_bytes());
        done
    }

    fn look_inside(&mut self, scope: &LookScope) -> Result<(), WorkError> {
        self.problems.clear();
        self.is_restless = false;
        self.load()?;
        self.open()?;
        let mut todo = if scope.is_full { self.observe_all()? } else { self.observe_some(scope)? };
        self.losses.clear();
        self.settle(&mut todo)?;
        if scope.is_full && todo.is_empty() {
            let before = self.brake.clone();
            self.brake.keep_only(&self.losses);
            if self.brake != before {
                self.context.rows.save_brake(self.binding.marker.folder, &self.brake)?;
            }
        }
        if scope.is_full {
            self.purge()?;
        }
        self.tell_held();
        if let Some(dir) = &self.dir {
            dir.check()?;
        }
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

    fn tell_held(&mut self) {
        let held = self.brake.held.len();
        if held > self.told_held {
            self.publish(|folder, path| NodeEvent::FolderHeld { folder, path, held: held as u64 });
        }
        self.told_held = held;
    }

    /// Reads what is remembered, once.
    fn load(&mut self) -> Result<(), WorkError> {
        if self.is_loaded {
            return Ok(());
        }
        let folder = self.binding.marker.folder;
        let status = self.wait(self.context.store.status())?;
        if !status.keeps_entries {
            return Err(StoreError::NoFolders.into());
        }
        self.writer = Some(self.context.rows.writer(status.id.as_ref())?);
        self.agreed = self.context.rows.rows(folder)?;
        self.brake = self.context.rows.brake(folder)?;
        self.is_loaded = true;
        Ok(())
    }

    fn open(&mut self) -> Result<(), WorkError> {
        if let Some(dir) = &self.dir {
            dir.check()?;
        } else {
            let mut dir = FolderDir::open(&self.binding.path, self.binding.marker)?;
            let mounts = self.agreed.values().filter_map(|row| Some(row.disk.as_ref()?.mount.clone()));
            dir.know_mounts(mounts.collect());
            self.stop.reaches(dir.stop_flag());
            self.dir = Some(dir);
            self.must_recover = true;
        }
        if std::mem::take(&mut self.must_recover) {
            self.recover()?;
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

    fn held(&self) -> Result<&FolderDir, WorkError> {
        self.dir.as_ref().ok_or(WorkError::Stopped)
    }

    /// Waits for the store.
    fn wait<T>(&self, answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, WorkError> {
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

    /// Reads all that the folder has from the store.
    fn read_entries(&mut self) -> Result<(), WorkError> {
        let (mut all, mut cursor) = (BTreeMap::new(), None);
        loop {
            let folder = Some(self.binding.marker.folder);
            let query = EntryQuery { folder, prefix: String::new(), cursor, limit: ENTRIES_MAX };
            let page = self.wait(self.context.store.entries(query))?;
            for record in page.records {
                if let FolderRecord::Entry(entry) = record {
                    all.insert(entry.hash(), entry);
                }
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
            self.check_stop()?;
        }
        // Those that are in no row were made while nobody looked.
        let is_new = |entry: &EntryRecord| {
            let hash = entry.hash();
            entry.is_live()
                && entry.path.is_conflict()
                && !self.agreed.contains_key(&hash)
                && !self.entries.contains_key(&hash)
        };
        for entry in all.values().filter(|entry| is_new(entry)).take(SHOWN_MAX) {
            let path = entry.path.as_str().to_owned();
            self.publish(|folder, _| NodeEvent::FolderConflict { folder, path });
        }
        self.entries.clear();
        self.below.clear();
        for entry in all.into_values() {
            self.set_entry(entry);
        }
        self.stirred.clear();
        Ok(())
    }

    /// Reads these again.
    fn read_named(&mut self, hashes: &BTreeSet<EntryHash>) -> Result<(), WorkError> {
        let hashes: Vec<EntryHash> = hashes.iter().copied().collect();
        for part in hashes.chunks(ENTRIES_MAX) {
            for record in self.wait(self.context.store.entries_named(part.to_vec()))? {
                if let FolderRecord::Entry(entry) = record
                    && entry.folder == self.binding.marker.folder
                {
                    let is_copy = entry.is_live() && entry.path.is_conflict();
                    if is_copy && !self.entries.contains_key(&entry.hash()) {
                        let path = entry.path.as_str().to_owned();
                        self.publish(|folder, _| NodeEvent::FolderConflict { folder, path });
                    }
                    self.set_entry(entry);
                }
            }
        }
        Ok(())
    }

    fn set_entry(&mut self, entry: EntryRecord) {
        let (path, is_live) = (entry.path.clone(), entry.is_live());
        let before = self.entries.insert(entry.hash(), entry);
        let was_live = before.is_some_and(|before| before.is_live());
        if was_live == is_live {
            return;
        }
        let composed = path.composed().into_owned();
        for (at, _) in composed.match_indices('/') {
            let count = self.below.entry(composed[..at].to_owned()).or_default();
            *count = if is_live { *count + 1 } else { count.saturating_sub(1) };
            if *count == u64::from(is_live)
                && let Ok(above) = EntryPath::parse(&composed[..at])
            {
                self.stirred.insert(EntryHash::of(self.binding.marker.folder, &above));
            }
        }
    }

    fn check_stop(&self) -> Result<(), WorkError> {
        if self.stop.is_set() { Err(WorkError::Stopped) } else { Ok(()) }
    }

    /// Plans and acts until nothing is left to do.
    fn settle(&mut self, todo: &mut BTreeSet<EntryHash>) -> Result<(), WorkError> {
        for _ in 0..ROUNDS_MAX {
            self.check_stop()?;
            let mut actions = self.planned(todo)?;
            actions.sort_by_key(|(_, action)| action.phase());
            let is_early = |action: &FolderAction| action.phase() <= LAST_EARLY_PHASE;
            let early = actions.iter().filter(|(_, action)| is_early(action)).count();
            let later = if early > 0 { actions.split_off(early) } else { Vec::new() };
            let passing = self.judged(&mut actions)?;
            if let Some(dir) = &self.dir {
                dir.check()?;
            }
            let mut next: BTreeSet<EntryHash> = later.into_iter().map(|(hash, _)| hash).collect();
            next.extend(self.perform(passing)?);
            next.append(&mut self.stirred);
            *todo = next;
            if todo.is_empty() {
                return Ok(());
            }
        }
        self.problem("some files changed all the time; they are looked at again later".to_owned());
        Ok(())
    }

    /// What is to be done about each path, but for nothing.
    fn planned(&mut self, todo: &BTreeSet<EntryHash>) -> Result<Vec<(EntryHash, FolderAction)>, WorkError> {
        let here = self.contents_here(todo)?;
        let mut actions = Vec::new();
        for hash in todo {
            self.waiting.remove(hash);
            self.asked.remove(hash);
            let action = self.with_sight(*hash, &here, plan)?;
            match action {
                None | Some(FolderAction::Nothing) => {}
                Some(FolderAction::Ask) => {
                    if let Some(observed) = self.observed.get(hash) {
                        self.asked.insert(*hash, observed.path.clone());
                    }
                }
                Some(action) => actions.push((*hash, action)),
            }
        }
        Ok(actions)
    }

    /// Calls `then` with all that is known of a path; `None` for one that nobody looked at.
    fn with_sight<T>(
        &self,
        hash: EntryHash,
        here: &HashMap<ContentHash, bool>,
        then: impl FnOnce(&PathSight<'_>) -> T,
    ) -> Result<Option<T>, WorkError> {
        let Some(Observed { path, disk, .. }) = self.observed.get(&hash) else { return Ok(None) };
        let (agreed, entry) = (self.agreed.get(&hash), self.entries.get(&hash));
        let read = match disk {
            DiskSight::File(file) => file.read.map(|read| read.hash),
            DiskSight::Unknown
            | DiskSight::Ignored
            | DiskSight::Foreign
            | DiskSight::Gone(_)
            | DiskSight::Directory(_) => None,
        };
        let shown = read.or_else(|| agreed.and_then(|row| row.entry.target()));
        let is_here = |target: ContentHash| here.get(&target).copied().unwrap_or_default();
        let is_same = agreed.is_none_or(|row| entry == Some(&row.entry));
        let asks_history = entry.is_some()
            && (!is_same || read.is_some_and(|read| entry.and_then(EntryRecord::target) != Some(read)));
        let history = if asks_history { self.history(path)? } else { Vec::new() };
        let before = history.iter().filter(|version| read.is_some() && version.target() == read);
        let store = StoreSight {
            entry,
            is_target_here: entry.and_then(EntryRecord::target).is_some_and(is_here),
            is_shown_here: shown.is_some_and(is_here),
            is_agreed_kept: agreed
                .is_some_and(|row| entry == Some(&row.entry) || history.contains(&row.entry)),
            shown_before: before.reduce(
                |newest, version| {
                    if version.supersedes(newest) { version } else { newest }
                },
            ),
        };
        let has_children = self.below.get(path.composed().as_ref()).is_some_and(|count| *count > 0);
        let (folder, rules, author) =
            (self.binding.marker.folder, self.binding.settings.rules(), self.author());
        Ok(Some(then(&PathSight { folder, path, disk, agreed, store, has_children, rules, author: &author })))
    }

    fn history(&self, path: &EntryPath) -> Result<Vec<EntryRecord>, WorkError> {
        let versions = whole_history(&self.context.store, self.binding.marker.folder, path.as_str());
        let versions = self.wait(versions)?.into_iter().filter_map(|version| match version {
            FolderRecord::Entry(entry) => Some(entry),
            FolderRecord::Definition(_) => None,
        });
        Ok(versions.collect())
    }

    /// Those of the actions that the brake lets pass; the brake is saved first.
    fn judged(
        &mut self,
        actions: &mut Vec<(EntryHash, FolderAction)>,
    ) -> Result<Vec<(EntryHash, FolderAction)>, WorkError> {
        let lost = |(hash, action): &(EntryHash, FolderAction)| {
            let content = action.loses(self.agreed.get(hash))?;
            Some(PathLoss { entry: *hash, content })
        };
        let losses: Vec<PathLoss> = actions.iter().filter_map(lost).collect();
        let actions = std::mem::take(actions);
        if losses.is_empty() {
            return Ok(actions);
        }
        let lost: BTreeSet<EntryHash> = losses.iter().map(|loss| loss.entry).collect();
        self.losses.extend(&lost);
        let mut live_with: HashMap<ContentHash, u64> = HashMap::new();
        let mut files = 0;
        for target in self.entries.values().filter_map(EntryRecord::target) {
            *live_with.entry(target).or_default() += 1;
            files += 1;
        }
        for loss in &losses {
            // Those whose removal is in the store already count among the losses alone.
            if self.entries.get(&loss.entry).and_then(EntryRecord::target) != Some(loss.content) {
                *live_with.entry(loss.content).or_default() += 1;
                files += 1;
            }
        }
        let before = self.brake.clone();
        let with = |content: ContentHash| live_with.get(&content).copied().unwrap_or_default();
        let passing = self.brake.judge(&losses, files, self.context.clock.own_ms(), with);
        if self.brake != before {
            self.context.rows.save_brake(self.binding.marker.folder, &self.brake)?;
        }
        Ok(actions.into_iter().filter(|(hash, _)| !lost.contains(hash) || passing.contains(hash)).collect())
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

    /// Bytes of the contents that are on their way.
    pub(super) fn waiting_bytes(&self) -> u64 {
        let size = |hash: &EntryHash| self.entries.get(hash)?.file.as_ref().map(|file| file.size);
        self.waiting.keys().filter_map(size).sum()
    }

    pub(super) fn live_entries(&self) -> u64 {
        self.entries.values().filter(|entry| entry.is_live()).count() as u64
    }
}

fn wait<T>(runtime: &Handle, answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, WorkError> {
    let answer = runtime.block_on(async { tokio::time::timeout(STORE_WITHIN, answer).await });
    let late = |_| StoreError::Io {
        action: "a folder waits for the store".into(),
        reason: format!("it did not answer within {} s", STORE_WITHIN.as_secs()),
    };
    Ok(answer.map_err(late)??)
}
