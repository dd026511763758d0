//! What of a folder its owner shares: every entry, and of the contents that entries name those that this node took from its own
//! directory.
//!
//! Naming a content publishes nothing. An entry names one by its hash, and whoever may write entries may name any; so a content
//! belongs only where FolderActor read it from a file of the bound directory ([`FolderShare::note_taken`]) and a live entry of the folder names
//! it now. What FolderActor wrote into the directory because of an entry was not taken from there: it waits for the user's word
//! ([`FolderShare::waiting`]). What belongs changes with the entries, while records of assets stay as they are: contents whose standing
//! changed wait here until somebody has looked at their records ([`FolderShare::changed`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;

use parking_lot::{Mutex, MutexGuard};

use crate::entry::{EntryHash, FolderId, FolderRecord};
use crate::record::ContentHash;

/// The owner's side of a folder that is a library.
#[derive(Debug)]
pub struct FolderShare {
    folder: FolderId,
    state: Mutex<ShareState>,
}

/// A content that live entries name and that members cannot have, since this node did not take it from its own directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitingContent {
    pub hash: ContentHash,
    /// One of the entries that name it.
    pub entry: EntryHash,
    /// How many do.
    pub entries: u64,
}

#[derive(Debug, Default)]
struct ShareState {
    /// Contents that this node's directory had.
    taken: HashSet<ContentHash>,
    /// What live entries name.
    names: BTreeSet<(ContentHash, EntryHash)>,
    by_entry: HashMap<EntryHash, ContentHash>,
    /// Those of them that were not taken.
    waiting: BTreeSet<ContentHash>,
    /// Contents that may belong now and did not, or the other way round, each with the number of the change.
    changed: BTreeMap<ContentHash, u64>,
    changes: u64,
}

impl ShareState {
    /// The entries that name a content.
    fn naming(&self, hash: ContentHash) -> impl Iterator<Item = EntryHash> {
        let named = (hash, EntryHash([0; 32]))..=(hash, EntryHash([0xff; 32]));
        self.names.range(named).map(|(_, entry)| *entry)
    }

    fn is_named(&self, hash: ContentHash) -> bool {
        self.naming(hash).next().is_some()
    }

    fn belongs(&self, hash: &ContentHash) -> bool {
        self.taken.contains(hash) && self.is_named(*hash)
    }

    fn note(&mut self, hash: ContentHash) {
        if self.taken.contains(&hash) {
            self.changes += 1;
            self.changed.insert(hash, self.changes);
        }
    }

    fn add_name(&mut self, hash: ContentHash, entry: EntryHash) {
        let was_named = self.is_named(hash);
        self.names.insert((hash, entry));
        if was_named {
            return;
        }
        if !self.taken.contains(&hash) {
            self.waiting.insert(hash);
        }
        self.note(hash);
    }

    fn forget_name(&mut self, hash: ContentHash, entry: EntryHash) {
        if self.names.remove(&(hash, entry)) && !self.is_named(hash) {
            self.waiting.remove(&hash);
            self.note(hash);
        }
    }

    fn waiting_content(&self, hash: ContentHash) -> Option<WaitingContent> {
        let mut entries = self.naming(hash);
        let entry = entries.next()?;
        Some(WaitingContent { hash, entry, entries: 1 + entries.count() as u64 })
    }
}

impl FolderShare {
    pub(super) fn new(folder: FolderId) -> Self {
        Self { folder, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, ShareState> {
        self.state.lock()
    }

    pub fn folder(&self) -> FolderId {
        self.folder
    }

    pub fn belongs(&self, hash: &ContentHash) -> bool {
        self.state().belongs(hash)
    }

    /// Takes note of contents that files of the bound directory had; whether that changes what belongs.
    pub fn note_taken(&self, hashes: impl IntoIterator<Item = ContentHash>) -> bool {
        let mut state = self.state();
        let before = state.changes;
        for hash in hashes {
            if state.taken.insert(hash) && state.waiting.remove(&hash) {
                state.note(hash);
            }
        }
        state.changes > before
    }

    /// Takes in the version that the folder has now; whether that may change what belongs.
    pub(super) fn follow(&self, record: &FolderRecord) -> bool {
        let mut state = self.state();
        let (entry, target) = (record.hash(), record.target());
        let before = match target {
            Some(target) => state.by_entry.insert(entry, target),
            None => state.by_entry.remove(&entry),
        };
        if before == target {
            return false;
        }
        // What is named by another entry instead never ceases to belong.
        if let Some(target) = target {
            state.add_name(target, entry);
        }
        if let Some(before) = before {
            state.forget_name(before, entry);
        }
        !state.changed.is_empty()
    }

    /// The store no longer has the entry; whether that may change what belongs.
    pub(super) fn remove(&self, entry: &EntryHash) -> bool {
        let mut state = self.state();
        if let Some(target) = state.by_entry.remove(entry) {
            state.forget_name(target, *entry);
        }
        !state.changed.is_empty()
    }

    /// Up to so many contents whose records are to be looked at, since they may belong now and did not, or the other way round, each with
    /// the number of the change. They are given again until [`FolderShare::looked_at`] names them.
    pub fn changed(&self, limit: usize) -> Vec<(ContentHash, u64)> {
        self.state().changed.iter().take(limit).map(|(hash, change)| (*hash, *change)).collect()
    }

    /// These were looked at, as far as they did not change since.
    pub fn looked_at(&self, looked: &[(ContentHash, u64)]) {
        let mut state = self.state();
        for (hash, change) in looked {
            if state.changed.get(hash) == Some(change) {
                state.changed.remove(hash);
            }
        }
    }

    /// Up to so many contents that live entries name and that this node did not take from its own directory, in the order of their
    /// hashes, those behind `after`: members hear of them, and cannot have them.
    pub fn waiting(&self, after: Option<ContentHash>, limit: usize) -> Vec<WaitingContent> {
        let state = self.state();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let waiting = state.waiting.range((from, Bound::Unbounded)).take(limit);
        waiting.filter_map(|hash| state.waiting_content(*hash)).collect()
    }

    /// Those of these contents that wait so.
    pub fn waiting_among(&self, hashes: &[ContentHash]) -> Vec<ContentHash> {
        let state = self.state();
        let among: BTreeSet<ContentHash> = hashes.iter().copied().collect();
        among.intersection(&state.waiting).copied().collect()
    }

    /// How many wait so.
    pub fn not_shared(&self) -> u64 {
        self.state().waiting.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{EntryAuthor, EntryFile, EntryPath, EntryRecord};
    use crate::record::{Hlc, WriterId};

    const FOLDER: FolderId = FolderId([1; 32]);

    fn entry(path: &str, content: Option<u8>) -> FolderRecord {
        let author = EntryAuthor { writer: WriterId([1; 32]), by: String::new(), now_ms: 1 };
        let file = content.map(|content| EntryFile {
            target: ContentHash([content; 32]),
            size: 1,
            mtime_ms: 1,
            executable: false,
        });
        let path = EntryPath::parse(path).unwrap();
        FolderRecord::Entry(EntryRecord::after(None, (FOLDER, &path), file, &author, Hlc(0)))
    }

    /// What was looked at now.
    fn looked(share: &FolderShare) -> Vec<ContentHash> {
        let all = share.changed(9);
        share.looked_at(&all);
        all.into_iter().map(|(hash, _)| hash).collect()
    }

    #[test]
    fn a_content_belongs_where_it_was_taken_and_is_named() {
        let share = FolderShare::new(FOLDER);
        let (one, other) = (ContentHash([1; 32]), ContentHash([2; 32]));
        assert!(!share.follow(&entry("a", Some(1))) && !share.belongs(&one) && share.not_shared() == 1);
        assert!(share.note_taken([one, other]) && share.belongs(&one) && !share.belongs(&other));
        assert_eq!((looked(&share), share.not_shared()), (vec![one], 0));
        // Another path has it, too; then neither.
        assert!(!share.follow(&entry("b", Some(1))) && !share.follow(&entry("a", None)));
        assert!(share.belongs(&one) && share.follow(&entry("b", Some(2))));
        assert!(!share.belongs(&one) && share.belongs(&other));
        assert_eq!(looked(&share), [one, other]);
        assert!(share.remove(&entry("b", None).hash()), "somebody has to look");
        assert_eq!((share.belongs(&other), looked(&share)), (false, vec![other]));
        assert!(share.changed(9).is_empty() && !share.note_taken([one]));
    }

    #[test]
    fn what_waits_is_given_in_pages_and_counted_with_every_change() {
        let share = FolderShare::new(FOLDER);
        for (path, content) in [("a", 1), ("b", 2), ("c", 2), ("d", 3)] {
            share.follow(&entry(path, Some(content)));
        }
        let hash = |content| ContentHash([content; 32]);
        let waiting = |after, limit| -> Vec<(ContentHash, u64)> {
            let page = share.waiting(after, limit);
            page.into_iter().map(|waiting| (waiting.hash, waiting.entries)).collect()
        };
        assert_eq!(waiting(None, 2), [(hash(1), 1), (hash(2), 2)]);
        assert_eq!(waiting(Some(hash(2)), 2), [(hash(3), 1)]);
        assert_eq!(share.waiting_among(&[hash(3), hash(9), hash(3)]), [hash(3)]);
        assert_eq!(share.waiting(None, 1)[0].entry, entry("a", None).hash());
        share.note_taken([hash(3), hash(4)]);
        share.follow(&entry("b", None));
        share.follow(&entry("e", Some(4)));
        assert_eq!((waiting(None, 9), share.not_shared()), (vec![(hash(1), 1), (hash(2), 1)], 2));
        share.follow(&entry("a", Some(4)));
        share.remove(&entry("c", None).hash());
        assert_eq!((waiting(None, 9), share.not_shared()), (vec![], 0));
    }

    #[test]
    fn what_changes_while_it_is_looked_at_is_looked_at_again() {
        let share = FolderShare::new(FOLDER);
        share.follow(&entry("a", Some(1)));
        share.note_taken([ContentHash([1; 32])]);
        let looking = share.changed(9);
        share.follow(&entry("a", None));
        share.looked_at(&looking);
        assert_eq!(looked(&share), [ContentHash([1; 32])]);
    }
}
