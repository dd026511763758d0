//! A machine with a bound folder: what the actor does, with a crash possible between any two steps, and a user who works meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{
    AgreedRow, DiskSight, FolderAction, FolderBrake, FolderRules, PathSight, ReadFile, SeenFile, StoreSight,
    plan,
};
use super::disk::{LINKED, MOUNTED, SimDisk};
use super::store::FolderStore;
use super::{PlantedBug, SimTrouble};
use crate::entry::{EntryAuthor, EntryHash, EntryPath, EntryRecord, FolderId};
use crate::record::{HLC_AHEAD_MAX_MS, Hlc, WriterId};

pub(super) const FOLDER: FolderId = FolderId([7; 32]);
/// More rounds than any look needs.
const ROUNDS_MAX: u32 = 12;

/// What is kept over restarts, beside the store.
#[derive(Clone, Debug, Default)]
pub(super) struct SimAgentDb {
    pub(super) rows: BTreeMap<EntryHash, AgreedRow>,
    pub(super) brake: FolderBrake,
    pub(super) journal: Vec<Journalled>,
    /// Files that made way, for as long as somebody may have them open.
    pub(super) lingering: Vec<Lingering>,
}

/// A file that is written or taken out.
#[derive(Clone, Debug)]
pub(super) struct Journalled {
    pub(super) slot: u64,
    pub(super) path: EntryPath,
    pub(super) entry: EntryRecord,
    pub(super) over: Option<AgreedRow>,
}

#[derive(Clone, Debug)]
pub(super) struct Lingering {
    pub(super) slot: u64,
    pub(super) path: EntryPath,
    pub(super) over: AgreedRow,
    pub(super) until_ms: u64,
}

/// The agent was killed.
#[derive(Debug)]
pub(super) struct Crashed;

#[derive(Clone, Debug, Default)]
pub(super) struct SimMachine {
    pub(super) name: String,
    pub(super) writer: u8,
    pub(super) is_liar: bool,
    /// How far its clock is off.
    pub(super) offset_ms: i64,
    pub(super) disk: SimDisk,
    pub(super) store: FolderStore,
    pub(super) db: SimAgentDb,
    pub(super) backup: (FolderStore, SimAgentDb),
    /// What was read in this look, with the stat of then.
    pub(super) reads: BTreeMap<EntryHash, (super::super::FileStat, ReadFile)>,
    /// What the disk truly showed, whatever anybody remembers: the newest version of each writer.
    pub(super) shown: BTreeMap<(EntryHash, WriterId), Hlc>,
    /// What it truly removed since its table of what was agreed was whole.
    pub(super) removals: BTreeSet<EntryHash>,
    /// Whether the last look did anything.
    pub(super) is_busy: bool,
}

/// A directory whose listing broke off, and after which name.
pub(super) type BrokenListing = Option<(&'static str, String)>;

fn directory_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

impl SimMachine {
    pub(super) fn clock(&self, trouble: &SimTrouble) -> u64 {
        trouble.now_ms.saturating_add_signed(self.offset_ms)
    }

    pub(super) fn author(&self, trouble: &SimTrouble) -> EntryAuthor {
        let writer = WriterId([self.writer; 32]);
        EntryAuthor { writer, by: self.name.clone(), now_ms: self.clock(trouble) }
    }

    /// A moment passes; the user may do something, or the agent may be killed.
    pub(super) fn step(&mut self, trouble: &mut SimTrouble) -> Result<(), Crashed> {
        trouble.now_ms += 1 + trouble.dice.below(40);
        if trouble.is_calm {
            return Ok(());
        }
        if trouble.dice.one_in(8) {
            let now_ms = self.clock(trouble);
            self.disk.use_it(trouble, now_ms);
        }
        if trouble.dice.one_in(80) {
            self.disk.befall(trouble);
        }
        self.hear(trouble);
        if trouble.dice.one_in(40) { Err(Crashed) } else { Ok(()) }
    }

    /// Something comes from another machine.
    fn hear(&mut self, trouble: &mut SimTrouble) {
        let Some((entry, content)) = trouble.inbox.pop().filter(|_| trouble.dice.one_in(2)) else { return };
        let is_due = entry.hlc.is_due_in(self.clock(trouble), HLC_AHEAD_MAX_MS).is_none();
        if is_due && entry.validate().is_ok() {
            self.store.take(entry, trouble.bug);
            self.store.contents.extend(content);
        }
    }

    /// As [`SimMachine::step`], at a moment where it is bad if the user saves something.
    pub(super) fn worst_moment(&mut self, trouble: &mut SimTrouble) -> Result<(), Crashed> {
        if !trouble.is_calm && trouble.dice.one_in(4) {
            let now_ms = self.clock(trouble);
            self.disk.save_meanwhile(trouble, now_ms);
        }
        self.step(trouble)
    }

    /// As [`SimMachine::step`], at a moment where it is bad to be killed.
    pub(super) fn last_moment(&mut self, trouble: &mut SimTrouble) -> Result<(), Crashed> {
        self.step(trouble)?;
        if !trouble.is_calm && trouble.dice.one_in(6) { Err(Crashed) } else { Ok(()) }
    }

    pub(super) fn restart(&mut self) {
        self.reads.clear();
    }

    /// Writes a row, and remembers what the disk showed.
    pub(super) fn agree(&mut self, row: AgreedRow) {
        let hash = row.entry.hash();
        self.reads.remove(&hash);
        let this = [(row.entry.writer, row.entry.hlc)];
        let seen = row.entry.seen.iter().map(|version| (version.writer, version.hlc));
        for (writer, hlc) in seen.chain(this) {
            let newest = self.shown.entry((hash, writer)).or_default();
            *newest = hlc.max(*newest);
        }
        self.db.rows.insert(hash, row);
    }

    pub(super) fn observe(
        &self,
        path: &EntryPath,
        broken: &BrokenListing,
        bug: Option<PlantedBug>,
    ) -> DiskSight {
        let (disk, text) = (&self.disk, path.as_str());
        if disk.is_missing && bug != Some(PlantedBug::MarkerIgnored) {
            return DiskSight::Unknown;
        }
        if disk.is_linked && (text == LINKED || directory_of(text) == LINKED) {
            let is_followed = bug == Some(PlantedBug::LinkIsDirectory) && text != LINKED;
            return if text == LINKED {
                DiskSight::Foreign
            } else if is_followed {
                DiskSight::Gone(disk.mount_of(text))
            } else {
                DiskSight::Unknown
            };
        }
        if disk.ignored.contains(text) {
            return if bug == Some(PlantedBug::IgnoredIsGone) {
                self.gone(path, bug)
            } else {
                DiskSight::Ignored
            };
        }
        if let Some((directory, last)) = broken
            && directory_of(text) == *directory
            && text > last.as_str()
        {
            let is_all = bug == Some(PlantedBug::HalfListing);
            return if is_all { self.gone(path, bug) } else { DiskSight::Unknown };
        }
        // Rows know that it was a mount point.
        if disk.is_unmounted && directory_of(text) == MOUNTED && bug != Some(PlantedBug::EmptyMountPoint) {
            return DiskSight::Unknown;
        }
        let aside = path.aside(FOLDER);
        let (is_plain, is_aside) = (disk.files.contains_key(text), self.stands_aside(path));
        let name = if is_plain { text } else { aside.as_str() };
        if !is_plain && !is_aside {
            let is_directory = disk.is_directory(text);
            return if is_directory {
                DiskSight::Directory(disk.mount_of(text))
            } else {
                self.gone(path, bug)
            };
        }
        let stat = disk.stat(&disk.files[name]);
        let known = self.reads.get(&EntryHash::of(FOLDER, path));
        let read = known.filter(|(then, _)| *then == stat).map(|(_, read)| *read);
        DiskSight::File(SeenFile { stat, mount: disk.mount_of(text), is_aside: !is_plain, read })
    }

    fn gone(&self, path: &EntryPath, bug: Option<PlantedBug>) -> DiskSight {
        let row = self.db.rows.get(&EntryHash::of(FOLDER, path)).and_then(|row| row.disk.as_ref());
        match row {
            Some(disk) if bug == Some(PlantedBug::EmptyMountPoint) => DiskSight::Gone(disk.mount.clone()),
            Some(_) | None => DiskSight::Gone(self.disk.mount_of(path.as_str())),
        }
    }

    /// Whether a file is there that stands for the path under another name.
    pub(super) fn stands_aside(&self, path: &EntryPath) -> bool {
        let has = |name: &EntryPath| self.disk.files.contains_key(name.as_str());
        has(&path.aside(FOLDER)) && !has(path)
    }

    /// Every path that anybody knows of. A file aside stands for its entry.
    pub(super) fn paths(&self) -> BTreeMap<EntryHash, EntryPath> {
        let entries = self.store.entries.values().map(|entry| entry.path.clone());
        let rows = self.db.rows.values().map(|row| row.entry.path.clone());
        let files = self.disk.files.keys().map(|name| {
            let path = EntryPath::parse(name).unwrap();
            path.plain(FOLDER).unwrap_or(path)
        });
        let mut paths: BTreeMap<EntryHash, EntryPath> = BTreeMap::new();
        for path in rows.chain(entries).chain(files) {
            paths.entry(EntryHash::of(FOLDER, &path)).or_insert(path);
        }
        paths
    }

    /// Calls `then` with all that is known of a path.
    pub(super) fn with_sight<T>(
        &self,
        path: &EntryPath,
        disk: &DiskSight,
        trouble: &SimTrouble,
        then: impl FnOnce(&PathSight<'_>) -> T,
    ) -> T {
        let hash = EntryHash::of(FOLDER, path);
        let (agreed, entry) = (self.db.rows.get(&hash), self.store.entries.get(&hash));
        let read = match disk {
            DiskSight::File(file) => file.read.map(|read| read.hash),
            _ => None,
        };
        let shown = read.or_else(|| agreed.and_then(|row| row.entry.target()));
        let is_here = |target| self.store.contents.contains(&target);
        let history = self.store.history.get(&hash).into_iter().flatten();
        let before = history.filter(|version| read.is_some() && version.target() == read);
        let newest = EntryRecord::newest(before);
        let is_kept = agreed.is_some_and(|row| self.store.has_version(&row.entry));
        let forgets = trouble.bug == Some(PlantedBug::ForgetsToKeep);
        let store = StoreSight {
            entry,
            is_target_here: entry.and_then(EntryRecord::target).is_some_and(is_here),
            is_shown_here: shown.is_some_and(is_here) || forgets,
            is_agreed_kept: is_kept || forgets,
            shown_before: newest,
        };
        let has_children =
            self.store.entries.values().any(|entry| entry.is_live() && entry.path.is_below(path));
        let rules = FolderRules::default();
        let author = self.author(trouble);
        then(&PathSight { folder: FOLDER, path, disk, agreed, store, has_children, rules, author: &author })
    }

    /// Looks at the folder, and does what is to be done, until nothing is left.
    pub(super) fn look(&mut self, trouble: &mut SimTrouble) -> Result<(), Crashed> {
        self.is_busy = false;
        let is_broken = !trouble.is_calm && trouble.dice.one_in(6);
        let broken: BrokenListing = is_broken.then(|| {
            let directory = *trouble.dice.pick(&["", LINKED, MOUNTED]);
            let names: Vec<&String> =
                self.disk.files.keys().filter(|name| directory_of(name) == directory).collect();
            let last = if names.is_empty() { String::new() } else { (*trouble.dice.pick(&names)).clone() };
            (directory, last)
        });
        self.reads.clear();
        self.recover(trouble)?;
        self.tidy(trouble)?;
        self.retire(trouble)?;
        for _ in 0..ROUNDS_MAX {
            let mut actions = Vec::new();
            for (hash, path) in self.paths() {
                let disk = self.observe(&path, &broken, trouble.bug);
                let action = self.planned(&path, &disk, trouble);
                if !matches!(action, FolderAction::Nothing | FolderAction::Fetch(_)) {
                    actions.push((hash, path, disk, action));
                }
            }
            actions.sort_by_key(|(_, _, _, action)| action.phase());
            let passing = self.judge(&actions, trouble);
            let mut is_done = true;
            for (hash, path, disk, action) in actions {
                let is_loss = action.loses(self.db.rows.get(&hash)).is_some();
                if is_loss && !passing.contains(&hash) {
                    continue;
                }
                is_done &= !self.perform(&path, &disk, action, trouble)?;
            }
            if is_done {
                return Ok(());
            }
            self.is_busy = true;
        }
        if trouble.is_calm {
            trouble.ledger.blame(|| format!("{} goes round in circles", self.name));
        }
        Ok(())
    }

    /// What the plan says, with the bug that was planted.
    fn planned(&self, path: &EntryPath, disk: &DiskSight, trouble: &mut SimTrouble) -> FolderAction {
        let mut action = self.with_sight(path, disk, trouble, |sight| match (plan(sight), trouble.bug) {
            (FolderAction::PutAgain(_), Some(PlantedBug::SetBackRollsBack)) => {
                match (sight.store.entry, sight.agreed) {
                    (Some(entry), Some(over))
                        if entry.is_live() && over.disk.is_some() && sight.store.is_target_here =>
                    {
                        FolderAction::Write {
                            entry: entry.clone(),
                            over: Some(over.clone()),
                            is_aside: false,
                        }
                    }
                    _ => FolderAction::Nothing,
                }
            }
            (FolderAction::Read, Some(PlantedBug::WritesOverUnread)) if sight.store.is_target_here => {
                match (sight.store.entry, sight.agreed) {
                    (Some(entry), Some(agreed))
                        if entry.supersedes(&agreed.entry) && agreed.disk.is_some() =>
                    {
                        FolderAction::Write {
                            entry: entry.clone(),
                            over: Some(agreed.clone()),
                            is_aside: false,
                        }
                    }
                    _ => FolderAction::Read,
                }
            }
            (FolderAction::Put(mut row), Some(PlantedBug::SawTheStore)) => {
                if let Some(entry) = sight.store.entry.filter(|entry| entry.hlc < row.entry.hlc) {
                    let at = (sight.folder, sight.path);
                    row.entry.seen = EntryRecord::after(Some(entry), at, None, sight.author, Hlc(0)).seen;
                }
                FolderAction::Put(row)
            }
            (action, _) => action,
        });
        if action == FolderAction::Ask && self.removals.contains(&EntryHash::of(FOLDER, path)) {
            trouble.ledger.blame(|| format!("{} asks about {path}, which it removed itself", self.name));
        }
        if let FolderAction::Put(row) = &mut action {
            let is_there =
                self.disk.files.contains_key(path.as_str()) || self.disk.hidden.contains_key(path.as_str());
            if !row.entry.is_live() && is_there {
                trouble.ledger.blame(|| format!("{} takes {path} for removed, and it is there", self.name));
            }
            let hash = row.entry.hash();
            let is_kept_anew = !self.db.rows.contains_key(&hash)
                && self.store.entries.get(&hash).is_some_and(|entry| !entry.is_live());
            let is_shown = row.entry.seen.iter().all(|version| {
                self.shown.get(&(hash, version.writer)).is_some_and(|newest| *newest >= version.hlc)
            });
            if !is_shown && !is_kept_anew {
                trouble.ledger.blame(|| format!("{} never showed all that {:?} saw", self.name, row.entry));
            }
        }
        action
    }

    pub(super) fn remember_read(&mut self, path: &EntryPath, stat: super::super::FileStat, read: ReadFile) {
        self.reads.insert(EntryHash::of(FOLDER, path), (stat, read));
    }
}
