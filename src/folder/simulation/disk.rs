//! A directory, as far as folders can see one: files with times that are coarse at times, a file system that is mounted in it, a
//! directory that becomes a symlink, and a user who does what users do.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{FileStat, MountPoint};
use super::SimTrouble;
use crate::record::ContentHash;

/// Directories of the pool: `d` may be a symlink or a file as well, on `m` another file system is mounted.
pub(super) const LINKED: &str = "d";
pub(super) const MOUNTED: &str = "m";
/// Paths that users work on; a directory and a file may want one name.
pub(super) const POOL: [&str; 7] = ["a", "b.txt", "d", "d/x", "d/y", "m/x", "m/y"];
/// How many files a directory has that goes at once.
pub(super) const BULK: u32 = 30;

/// A content, by its number; 0 is the empty one. Sizes repeat, so that they tell little.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct SimContent(pub(super) u32);

impl SimContent {
    pub(super) fn hash(self) -> ContentHash {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&self.0.to_le_bytes());
        ContentHash(bytes)
    }

    pub(super) fn size(self) -> u64 {
        if self.0 == 0 { 0 } else { u64::from(1 + self.0 % 2) }
    }
}

#[derive(Clone, Debug)]
pub(super) struct SimFile {
    pub(super) content: SimContent,
    pub(super) mtime_ms: u64,
    pub(super) ctime_ms: u64,
    pub(super) inode: u64,
    pub(super) executable: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct SimDisk {
    /// What can be seen.
    pub(super) files: BTreeMap<String, SimFile>,
    /// Below a mount point that has nothing mounted, a directory that is a symlink for now, or a root that is not there.
    pub(super) hidden: BTreeMap<String, SimFile>,
    /// Files that are written or taken out, by the number that the journal knows them by.
    pub(super) temporary: BTreeMap<u64, SimFile>,
    pub(super) is_linked: bool,
    pub(super) is_unmounted: bool,
    pub(super) is_missing: bool,
    pub(super) ignored: BTreeSet<String>,
    /// Whether times come in steps of two seconds, and change times mean nothing.
    pub(super) is_coarse: bool,
    pub(super) next_inode: u64,
}

fn is_in(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

impl SimDisk {
    fn time(&self, now_ms: u64) -> u64 {
        if self.is_coarse { now_ms / 2_000 * 2_000 } else { now_ms }
    }

    pub(super) fn stat(&self, file: &SimFile) -> FileStat {
        let ns = |ms: u64| i64::try_from(ms).unwrap() * 1_000_000;
        let ctime_ns = if self.is_coarse { 0 } else { ns(file.ctime_ms) };
        let (size, mtime_ns) = (file.content.size(), ns(file.mtime_ms));
        FileStat { size, mtime_ns, ctime_ns, inode: file.inode, executable: file.executable }
    }

    pub(super) fn mount_of(&self, path: &str) -> MountPoint {
        if !self.is_unmounted && is_in(path, MOUNTED) { MOUNTED.to_owned() } else { MountPoint::new() }
    }

    pub(super) fn is_directory(&self, path: &str) -> bool {
        (path == LINKED && self.is_linked)
            || path == MOUNTED
            || self.files.keys().any(|file| is_in(file, path))
    }

    /// Whether a file can be made there, as far as directories go.
    pub(super) fn has_room_for(&self, path: &str) -> bool {
        let has_way = path.match_indices('/').all(|(at, _)| !self.files.contains_key(&path[..at]));
        let is_barred = self.is_missing || self.is_linked && (path == LINKED || is_in(path, LINKED));
        has_way && !is_barred && !self.is_directory(path)
    }

    pub(super) fn made(&mut self, content: SimContent, mtime_ms: u64, now_ms: u64) -> SimFile {
        self.next_inode += 1;
        let (mtime_ms, ctime_ms) = (self.time(mtime_ms), self.time(now_ms));
        SimFile { content, mtime_ms, ctime_ms, inode: self.next_inode, executable: false }
    }

    /// Renames; the new name is free.
    pub(super) fn rename(&mut self, from: &str, to: &str, now_ms: u64) {
        let ctime_ms = self.time(now_ms);
        if let Some(file) = self.files.remove(from) {
            self.files.insert(to.to_owned(), SimFile { ctime_ms, ..file });
        }
    }

    fn hide(&mut self, is_hidden: impl Fn(&str) -> bool) {
        let (hidden, files) =
            std::mem::take(&mut self.files).into_iter().partition(|(path, _)| is_hidden(path));
        self.files = files;
        let hidden: BTreeMap<String, SimFile> = hidden;
        self.hidden.extend(hidden);
    }

    /// Everything is as it was before the trouble; what somebody put in the way goes.
    pub(super) fn restore(&mut self, trouble: &mut SimTrouble) {
        for (path, file) in std::mem::take(&mut self.hidden) {
            if let Some(there) = self.files.insert(path, file) {
                trouble.ledger.user_took(there.content.hash());
            }
        }
        (self.is_linked, self.is_unmounted, self.is_missing) = (false, false, false);
    }

    /// What befalls a directory.
    pub(super) fn befall(&mut self, trouble: &mut SimTrouble) {
        if self.is_linked || self.is_unmounted || self.is_missing {
            return self.restore(trouble);
        }
        match trouble.dice.below(4) {
            0 if !self.files.contains_key(LINKED) => {
                self.hide(|path| is_in(path, LINKED));
                self.is_linked = true;
            }
            1 => {
                self.hide(|path| is_in(path, MOUNTED));
                self.is_unmounted = true;
            }
            2 => {
                self.hide(|_| true);
                self.is_missing = true;
            }
            _ if self.ignored.is_empty() => {
                self.ignored.insert((*trouble.dice.pick(&POOL)).to_owned());
            }
            _ => self.ignored.clear(),
        }
    }

    /// What a user does to one file. `now_ms` is the time that this machine shows.
    pub(super) fn use_it(&mut self, trouble: &mut SimTrouble, now_ms: u64) {
        let path = if trouble.dice.one_in(5) {
            // Also copies, and whatever else has come.
            let names: Vec<&String> = self.files.keys().collect();
            if names.is_empty() { POOL[0].to_owned() } else { (*trouble.dice.pick(&names)).clone() }
        } else {
            (*trouble.dice.pick(&POOL)).to_owned()
        };
        let choice = trouble.dice.below(20);
        self.use_at(path, choice, trouble, now_ms);
    }

    /// Saves something in the file that the actor works on.
    pub(super) fn save_meanwhile(&mut self, trouble: &mut SimTrouble, now_ms: u64) {
        if let Some(path) = trouble.focus.clone() {
            let choice = trouble.dice.below(8);
            self.use_at(path, choice, trouble, now_ms);
        }
    }

    fn use_at(&mut self, path: String, choice: u64, trouble: &mut SimTrouble, now_ms: u64) {
        if !self.has_room_for(&path) || self.is_unmounted && is_in(&path, MOUNTED) {
            return;
        }
        let (mtime_ms, ctime_ms) = (self.time(now_ms), self.time(now_ms));
        trouble.tell(|| format!("user: {choice} {path} {:?}", self.files.get(&path)));
        match (choice, self.files.get_mut(&path)) {
            // In place, or by a program that writes a new file and renames it.
            (0..=7, Some(file)) => {
                let content = trouble.content_to_save();
                let taken = std::mem::replace(&mut file.content, content);
                (file.mtime_ms, file.ctime_ms) = (mtime_ms, ctime_ms);
                if choice.is_multiple_of(2) {
                    self.next_inode += 1;
                    file.inode = self.next_inode;
                }
                trouble.ledger.user_took(taken.hash());
            }
            (0..=9, None) => {
                let content = trouble.content_to_save();
                let file = self.made(content, now_ms, now_ms);
                self.files.insert(path, file);
            }
            (10..=13, Some(_)) => {
                if let Some(file) = self.files.remove(&path) {
                    trouble.ledger.user_took(file.content.hash());
                }
            }
            (14..=17, Some(_)) => {
                let to = *trouble.dice.pick(&POOL);
                if to != path && self.has_room_for(to) && !self.is_unmounted {
                    if let Some(there) = self.files.remove(to) {
                        trouble.ledger.user_took(there.content.hash());
                    }
                    self.rename(&path, to, now_ms);
                }
            }
            (18, Some(file)) => (file.mtime_ms, file.ctime_ms) = (mtime_ms, ctime_ms),
            (19, Some(file)) => (file.executable, file.ctime_ms) = (!file.executable, ctime_ms),
            _ => {}
        }
    }

    /// A directory full of files goes at once, as if by mistake.
    pub(super) fn remove_bulk(&mut self, trouble: &mut SimTrouble) {
        for n in 0..BULK {
            if let Some(file) = self.files.remove(&format!("bulk/{n}")) {
                trouble.ledger.user_took(file.content.hash());
            }
        }
    }
}
