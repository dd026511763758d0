//! What the disk shows, and which contents the store has.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;

use super::{FolderWork, LookScope, Observed, SHOWN_MAX, WorkError};
use crate::entry::{EntryHash, EntryPath, composed};
use crate::folder::files::{LookEnd, LookRules, Sighted};
use crate::folder::{DiskSight, SeenFile};
use crate::record::ContentHash;
use crate::text::folded;

impl FolderWork {
    /// Looks at the whole directory, and at every path that a row or an entry has.
    pub(super) fn observe_all(&mut self) -> Result<BTreeSet<EntryHash>, WorkError> {
        self.observed.clear();
        self.look_began_ms = self.now_ms();
        let mounts = self.mounts();
        if let Some(dir) = &mut self.dir {
            dir.know_mounts(mounts);
        }
        let folder = self.binding.marker.folder;
        let (files, directories) = self.row_names();
        let has_spelling = |path: &EntryPath, is_directory: bool| {
            if is_directory { directories.contains(path.as_str()) } else { files.contains(path.as_str()) }
        };
        let mut seen: BTreeMap<EntryHash, Observed> = BTreeMap::new();
        let (mut passed_over, mut unknown, mut strays) = (Vec::new(), Vec::new(), Vec::new());
        let look_rules = LookRules { ignored: &self.rules, knows: &has_spelling };
        let mut note = |sighted| {
            match sighted {
                Sighted::File(at) => {
                    let hash = EntryHash::of(folder, &at.path);
                    let mut file = at.file;
                    if !at.has_modes {
                        file.stat.executable = self.agreed_mode(hash).unwrap_or_default();
                    }
                    let known = self.reads.get(&hash).filter(|(then, _)| *then == file.stat);
                    file.read = known.map(|(_, read)| *read);
                    let is_aside = file.is_aside;
                    // Whoever looks at a file aside again looks from its plain name.
                    let name = if is_aside { at.path.clone() } else { at.name.clone() };
                    let found = Observed { path: at.path, name, disk: DiskSight::File(file) };
                    // Where both names have a file, the plain one is the entry's.
                    if is_aside && seen.contains_key(&hash) {
                        if passed_over.len() < SHOWN_MAX {
                            let why = "its plain name has a file, too".to_owned();
                            passed_over.push((at.name.as_str().to_owned(), why));
                        }
                    } else {
                        seen.insert(hash, found);
                    }
                }
                Sighted::PassedOver { name, why, .. } if passed_over.len() < SHOWN_MAX => {
                    passed_over.push((name, why.to_string()));
                }
                Sighted::Unknown { name, why } if unknown.len() < SHOWN_MAX => unknown.push((name, why)),
                Sighted::Stray(path) => strays.push(path),
                Sighted::Directory { .. }
                | Sighted::Ignored(_)
                | Sighted::PassedOver { .. }
                | Sighted::Unknown { .. } => {}
            }
            ControlFlow::Continue(())
        };
        let (dir, reader) = (self.held()?, self.entries_reader());
        // The store is read while the disk is.
        let (ended, entries) = std::thread::scope(|scope| {
            let entries = scope.spawn(|| reader.read());
            let ended = dir.look(look_rules, &mut note);
            (ended, entries.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        match ended {
            LookEnd::Done(counts) => tracing::debug!(?counts, "a folder was looked at"),
            LookEnd::Stopped => return Err(WorkError::Stopped),
            LookEnd::Gone(gone) => return Err(gone.into()),
        }
        self.set_entries(entries?);
        (self.passed_over, self.unknown) = (passed_over, unknown);
        self.directories = directories;
        self.observed = seen;
        let known = self.agreed.iter().map(|(hash, row)| (*hash, &row.entry.path));
        let known = known.chain(self.entries.iter().map(|(hash, entry)| (*hash, &entry.path)));
        let missed: BTreeMap<EntryHash, EntryPath> = known
            .filter(|(hash, _)| !self.observed.contains_key(hash))
            .map(|(hash, path)| (hash, path.clone()))
            .collect();
        for (hash, path) in missed {
            self.observe(hash, path.clone(), path)?;
        }
        if let Some(dir) = &self.dir {
            dir.check()?;
        }
        self.rescue(strays)?;
        Ok(self.observed.keys().copied().collect())
    }

    /// Looks at what somebody says has changed.
    pub(super) fn observe_some(&mut self, scope: &LookScope) -> Result<BTreeSet<EntryHash>, WorkError> {
        let folder = self.binding.marker.folder;
        self.look_began_ms = self.now_ms();
        self.read_named(&scope.entries)?;
        let mut todo = BTreeSet::new();
        for name in scope.names.union(&self.twins_left(&scope.names)) {
            let Ok(name) = EntryPath::parse(name) else { continue };
            let path = name.plain(folder).unwrap_or_else(|| name.clone());
            let hash = EntryHash::of(folder, &path);
            let path = self.entries.get(&hash).map_or(path, |entry| entry.path.clone());
            let name = if name.plain(folder).is_some() { path.clone() } else { name };
            self.observe(hash, path, name.clone())?;
            self.note_foreign(hash, &name);
            todo.insert(hash);
        }
        todo.extend(self.below_gone(&todo)?);
        let stirred = std::mem::take(&mut self.stirred);
        let due = self.due();
        let has_come = |target: &ContentHash| scope.waiting || scope.contents.contains(target);
        let waiting = self.waiting.iter().filter(|(_, target)| has_come(target)).map(|(hash, _)| *hash);
        let waiting: Vec<EntryHash> = waiting.collect();
        // What was written here comes back from the store, and was agreed before.
        let is_news = |hash: &EntryHash| {
            self.agreed.get(hash).is_none_or(|row| self.entries.get(hash) != Some(&row.entry))
        };
        let news: Vec<EntryHash> = scope.entries.iter().copied().filter(is_news).collect();
        let named = news.into_iter().chain(stirred).chain(waiting).chain(due);
        for hash in named.collect::<BTreeSet<_>>() {
            let entry = self.entries.get(&hash).map(|entry| entry.path.clone());
            let row = || Some(self.agreed.get(&hash)?.entry.path.clone());
            let path = entry.or_else(row).or_else(|| Some(self.observed.get(&hash)?.path.clone()));
            if let Some(path) = path {
                let name = self.observed.get(&hash).map_or_else(|| path.clone(), |seen| seen.name.clone());
                self.observe(hash, path, name)?;
                todo.insert(hash);
            }
        }
        Ok(todo)
    }

    /// Whether a directory came, or changed: what is in it is not named.
    pub(super) fn has_directory(&self, scope: &LookScope) -> Result<bool, WorkError> {
        let dir = self.held()?;
        let mut names = scope.names.iter().filter_map(|name| EntryPath::parse(name).ok());
        Ok(names.any(|name| dir.is_directory(&name)))
    }

    /// Of files that are left alone those that differ from one of these names in case: the one that they stand behind may be gone.
    fn twins_left(&self, names: &BTreeSet<String>) -> BTreeSet<String> {
        let mut left: HashMap<String, Vec<&String>> = HashMap::new();
        for (name, _) in &self.passed_over {
            left.entry(folded(name)).or_default().push(name);
        }
        let mut twins = BTreeSet::new();
        for name in names.iter().filter(|_| !left.is_empty()) {
            let same = left.get(&folded(name)).into_iter().flatten();
            // Those of one path are looked at with that.
            twins.extend(same.filter(|twin| composed(twin) != composed(name)).map(ToString::to_string));
        }
        twins
    }

    /// Names what is left alone until everything is looked at again, or it is gone from there.
    fn note_foreign(&mut self, hash: EntryHash, told: &EntryPath) {
        let Some(Observed { name, disk, .. }) = self.observed.get(&hash) else { return };
        match disk {
            DiskSight::Foreign => {
                let is_named = self.passed_over.iter().any(|(known, _)| known == name.as_str());
                if !is_named && self.passed_over.len() < SHOWN_MAX {
                    let why = "it is no plain file, or has the name of another one but for its case";
                    self.passed_over.push((name.as_str().to_owned(), why.to_owned()));
                }
            }
            DiskSight::Unknown => {}
            DiskSight::Gone(_) => {
                let below = format!("{told}/");
                self.passed_over.retain(|(name, _)| *name != told.as_str() && !name.starts_with(&below));
            }
            DiskSight::File(_) | DiskSight::Directory(_) | DiskSight::Ignored => {
                self.passed_over.retain(|(name, _)| *name != told.as_str());
            }
        }
    }

    /// What was agreed below names that are gone: directories that were moved away are told by their own name alone.
    fn below_gone(&mut self, todo: &BTreeSet<EntryHash>) -> Result<BTreeSet<EntryHash>, WorkError> {
        let gone = |hash: &&EntryHash| {
            let observed = self.observed.get(*hash);
            self.agreed.get(*hash).is_none_or(|row| row.disk.is_none())
                && observed.is_some_and(|observed| matches!(observed.disk, DiskSight::Gone(_)))
        };
        let gone: BTreeSet<String> = todo
            .iter()
            .filter(gone)
            .filter_map(|hash| Some(self.observed.get(hash)?.path.composed().into_owned()))
            .collect();
        if gone.is_empty() {
            return Ok(BTreeSet::new());
        }
        let is_below = |path: &str| path.match_indices('/').any(|(at, _)| gone.contains(&path[..at]));
        let below: Vec<(EntryHash, EntryPath)> = self
            .agreed
            .iter()
            .filter(|(_, row)| row.disk.is_some() && is_below(&row.entry.path.composed()))
            .map(|(hash, row)| (*hash, row.entry.path.clone()))
            .collect();
        for (hash, path) in &below {
            self.observe(*hash, path.clone(), path.clone())?;
        }
        Ok(below.into_iter().map(|(hash, _)| hash).collect())
    }

    pub(super) fn observe(
        &mut self,
        hash: EntryHash,
        path: EntryPath,
        name: EntryPath,
    ) -> Result<(), WorkError> {
        let rows = |path: &EntryPath, is_directory: bool| {
            if is_directory {
                return self.directories.contains(path.as_str());
            }
            let row = self.agreed.get(&EntryHash::of(self.binding.marker.folder, path));
            row.is_some_and(|row| row.disk.is_some() && row.entry.path == *path)
        };
        let agreed = self.agreed_mode(hash);
        let look_rules = LookRules { ignored: &self.rules, knows: &rows };
        let mut disk = self.held()?.sight(&path, &name, look_rules, agreed);
        let mut name = name;
        if let DiskSight::File(SeenFile { stat, read, is_aside, .. }) = &mut disk {
            if !*is_aside {
                // It may be heard of, or known, by a name that it had before.
                name = self.held()?.as_written(&name);
            }
            *read = self.reads.get(&hash).filter(|(then, _)| then == stat).map(|(_, read)| *read);
        }
        self.observed.insert(hash, Observed { path, name, disk });
        Ok(())
    }

    /// Looks again at paths that were acted on.
    pub(super) fn observe_again(&mut self, hash: EntryHash) -> Result<(), WorkError> {
        match self.observed.get(&hash).map(|seen| (seen.path.clone(), seen.name.clone())) {
            Some((path, name)) => self.observe(hash, path, name),
            None => Ok(()),
        }
    }

    fn agreed_mode(&self, hash: EntryHash) -> Option<bool> {
        Some(self.agreed.get(&hash)?.disk.as_ref()?.stat.executable)
    }

    /// Names of files that rows have, and of the directories above them.
    fn row_names(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let (mut files, mut directories) = (BTreeSet::new(), BTreeSet::new());
        for row in self.agreed.values().filter(|row| row.disk.is_some()) {
            let path = row.entry.path.as_str();
            for (at, _) in path.match_indices('/') {
                if !directories.contains(&path[..at]) {
                    directories.insert(path[..at].to_owned());
                }
            }
            files.insert(path.to_owned());
        }
        (files, directories)
    }
}
