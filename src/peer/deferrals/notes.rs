//! Which versions were dated too far ahead when they were first seen, and when that was. Pure.
//!
//! A version that has to wait wins in the end, over everything that was written meanwhile, although it was made before.
//! What is written down here lets a writer in the meantime keep the last word: once per version, so that it ends.

use std::collections::HashMap;

use crate::library::ticket::LibraryId;
use crate::record::{AssetRecord, ContentHash, EditId};

/// Versions of the user's own that are remembered, and those that came through all libraries together.
const CLASS_MAX: usize = 16_384;
/// Versions that came through one library.
const LIBRARY_MAX: usize = 1_024;
/// Versions of one asset, of the user's own and through each library.
const ASSET_MAX: usize = 16;
/// How long one is remembered after it could be taken: a peer that has it may come late.
const KEPT_MS: u64 = 30 * 24 * 3600 * 1000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Note {
    pub hash: ContentHash,
    pub version: [u8; 32],
    /// What it says, whatever its date: it may come back with another one.
    pub edit: EditId,
    pub first_seen_ms: u64,
    pub due_ms: u64,
    /// The library that it came through; none for the mirror.
    pub library: Option<LibraryId>,
    /// Another version of the same edit was dealt with: only this very one is still to come.
    pub spent: bool,
}

impl Note {
    /// A note of `record`, seen at `now_ms`, that can be taken at `due_ms`.
    pub fn of(record: &AssetRecord, library: Option<LibraryId>, now_ms: u64, due_ms: u64) -> Self {
        Self {
            hash: record.hash,
            version: record.digest(),
            edit: record.edit(),
            first_seen_ms: now_ms,
            due_ms,
            library,
            spent: false,
        }
    }

    /// As what a version is recognised that comes through `library`: the same one wherever it comes from, and the same edit of
    /// another date where it was noted, for no library is to bear upon what another one says.
    fn matching(&self, version: [u8; 32], edit: EditId, library: Option<LibraryId>) -> Option<Match> {
        if self.version == version {
            Some(Match::Version)
        } else {
            (!self.spent && self.edit == edit && self.library == library).then_some(Match::Edit)
        }
    }

    fn is_over(&self, now_ms: u64) -> bool {
        self.due_ms.saturating_add(KEPT_MS) < now_ms
    }
}

/// As what a version is recognised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Match {
    Version,
    /// The same edit, dated anew.
    Edit,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoteChange {
    /// Put this in place of what has its asset and version.
    Put(Note),
    Remove(ContentHash, [u8; 32]),
}

/// All notes, bounded by where they came from: members that take part by ticket cannot fill the user's own.
#[derive(Debug, Default)]
pub struct Notes {
    by_hash: HashMap<ContentHash, Vec<Note>>,
    /// Of the mirror (`None`) and of each library.
    counts: HashMap<Option<LibraryId>, usize>,
    of_libraries: usize,
    swept_at_ms: u64,
}

impl Notes {
    /// Takes in what was on disk.
    pub fn restore(&mut self, note: Note) {
        if self.has_room(&note) {
            self.insert(note);
        }
    }

    /// Takes note of a version, unless it is known; what changed.
    pub fn add(&mut self, note: Note) -> Vec<NoteChange> {
        if self.of(&note.hash).iter().any(|known| known.version == note.version) {
            return Vec::new();
        }
        let mut changes = Vec::new();
        if !self.has_room(&note) && self.swept_at_ms.abs_diff(note.first_seen_ms) >= 60_000 {
            self.swept_at_ms = note.first_seen_ms;
            changes = self.sweep(note.first_seen_ms);
        }
        // The first of them stay: a peer that fills this up comes later.
        if self.has_room(&note) {
            self.insert(note);
            changes.push(NoteChange::Put(note));
        }
        changes
    }

    /// What is to be done about `offered`, which comes through `library` (none for the mirror), is taken now and wins over `ours`:
    /// with `may_reassert`, whether ours was written after it was first seen, and so is to be written once more. Then the notes
    /// stay until that is done ([`Notes::spend`]); otherwise it is dealt with.
    pub fn settle(
        &mut self,
        offered: &AssetRecord,
        ours: Option<&AssetRecord>,
        library: Option<LibraryId>,
        may_reassert: bool,
    ) -> (bool, Vec<NoteChange>) {
        let Some(notes) = self.by_hash.get(&offered.hash) else { return (false, Vec::new()) };
        let (version, edit) = (offered.digest(), offered.edit());
        let matching = notes.iter().filter(|note| note.matching(version, edit, library).is_some());
        let first_seen_ms = matching.map(|note| note.first_seen_ms).min();
        let later = |ours: &AssetRecord| first_seen_ms.is_some_and(|ms| ours.hlc.ms() >= ms);
        if may_reassert && ours.is_some_and(later) {
            (true, Vec::new())
        } else {
            (false, self.spend(offered, library))
        }
    }

    /// `offered`, which came through `library`, is dealt with; what changed.
    pub fn spend(&mut self, offered: &AssetRecord, library: Option<LibraryId>) -> Vec<NoteChange> {
        let (version, edit) = (offered.digest(), offered.edit());
        let mut changes = Vec::new();
        for note in self.by_hash.get_mut(&offered.hash).into_iter().flatten() {
            match note.matching(version, edit, library) {
                Some(Match::Version) => changes.push(NoteChange::Remove(note.hash, note.version)),
                Some(Match::Edit) => {
                    note.spent = true;
                    changes.push(NoteChange::Put(*note));
                }
                None => {}
            }
        }
        for change in &changes {
            if let NoteChange::Remove(hash, version) = change {
                self.remove(hash, version);
            }
        }
        changes
    }

    pub fn of(&self, hash: &ContentHash) -> &[Note] {
        self.by_hash.get(hash).map_or(&[], Vec::as_slice)
    }

    fn has_room(&self, note: &Note) -> bool {
        let own = self.counts.get(&note.library).copied().unwrap_or_default();
        let in_class = match note.library {
            None => own < CLASS_MAX,
            Some(_) => own < LIBRARY_MAX && self.of_libraries < CLASS_MAX,
        };
        let same = self.of(&note.hash).iter().filter(|known| known.library == note.library).count();
        in_class && same < ASSET_MAX
    }

    fn insert(&mut self, note: Note) {
        *self.counts.entry(note.library).or_default() += 1;
        self.of_libraries += usize::from(note.library.is_some());
        self.by_hash.entry(note.hash).or_default().push(note);
    }

    fn remove(&mut self, hash: &ContentHash, version: &[u8; 32]) {
        let Some(notes) = self.by_hash.get_mut(hash) else { return };
        let Some(place) = notes.iter().position(|note| note.version == *version) else { return };
        let Note { library, .. } = notes.swap_remove(place);
        if notes.is_empty() {
            self.by_hash.remove(hash);
        }
        self.of_libraries -= usize::from(library.is_some());
        if let Some(count) = self.counts.get_mut(&library) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&library);
            }
        }
    }

    /// Forgets those whose time has long come.
    fn sweep(&mut self, now_ms: u64) -> Vec<NoteChange> {
        let all = self.by_hash.values().flatten();
        let over: Vec<(ContentHash, [u8; 32])> =
            all.filter(|note| note.is_over(now_ms)).map(|note| (note.hash, note.version)).collect();
        for (hash, version) in &over {
            self.remove(hash, version);
        }
        over.into_iter().map(|(hash, version)| NoteChange::Remove(hash, version)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{AssetMeta, Hlc, WriterId};

    const NOW: u64 = 1_800_000_000_000;
    const DAY: u64 = 24 * 3600 * 1000;

    fn version(n: u8, text: &str, ms: u64) -> AssetRecord {
        let meta = AssetMeta { description: Some(text.into()), ..AssetMeta::default() };
        let record = AssetRecord::new(ContentHash([n; 32]), 5, None, meta);
        AssetRecord { hlc: Hlc::from_ms(ms), writer: WriterId([1; 32]), ..record }
    }

    fn note(record: &AssetRecord) -> Note {
        Note::of(record, None, NOW, NOW + DAY)
    }

    #[test]
    fn what_was_written_after_it_was_first_seen_is_written_once_more_and_only_once() {
        let ahead = version(1, "ahead", NOW + DAY);
        let (before, after) = (version(1, "before", NOW - 1), version(1, "after", NOW + 5));
        let removed = vec![NoteChange::Remove(ahead.hash, ahead.digest())];
        for (ours, reasserts) in [(None, false), (Some(&before), false), (Some(&after), true)] {
            let mut notes = Notes::default();
            assert_eq!(notes.settle(&ahead, ours, None, true), (false, vec![]), "never seen before");
            assert_eq!(notes.add(note(&ahead)), [NoteChange::Put(note(&ahead))]);
            if reasserts {
                // As long as it is not done, every peer that brings it is answered alike.
                assert_eq!(notes.settle(&ahead, ours, None, true), (true, vec![]));
                assert_eq!(notes.settle(&ahead, ours, None, true), (true, vec![]));
                assert_eq!(notes.spend(&ahead, None), removed);
            } else {
                assert_eq!(notes.settle(&ahead, ours, None, true), (false, removed.clone()));
            }
            assert_eq!(notes.settle(&ahead, ours, None, true), (false, vec![]), "once");
        }
        // Who may not write keeps nothing.
        let mut notes = Notes::default();
        notes.add(note(&ahead));
        assert!(!notes.settle(&ahead, Some(&after), None, false).0);
        // Another edit is no business of it.
        notes.add(note(&ahead));
        let other = version(1, "other", NOW + DAY);
        assert_eq!(notes.settle(&other, Some(&after), None, true), (false, vec![]));
    }

    #[test]
    fn the_same_edit_at_another_date_is_recognised_and_the_first_one_is_not_forgotten() {
        let ahead = version(1, "ahead", NOW + 365 * DAY);
        let (anew, ours) = (version(1, "ahead", NOW + 20), version(1, "ours", NOW + 10));
        let mut notes = Notes::default();
        notes.add(note(&ahead));
        let mut reasserts = |offered: &AssetRecord| {
            let (reasserts, _) = notes.settle(offered, Some(&ours), None, true);
            notes.spend(offered, None);
            reasserts
        };
        assert!(reasserts(&anew));
        // Its writer makes the same edit again, on purpose.
        assert!(!reasserts(&version(1, "ahead", NOW + 30)));
        // Somebody has kept the first one until its time came.
        assert!(reasserts(&ahead));
        assert!(!reasserts(&ahead));
        assert!(notes.by_hash.is_empty() && notes.counts.is_empty());
    }

    #[test]
    fn an_edit_of_another_date_is_recognised_where_it_was_noted_alone() {
        let ahead = version(1, "ahead", NOW + 365 * DAY);
        let (anew, ours) = (version(1, "ahead", NOW + 20), version(1, "ours", NOW + 10));
        let (one, other) = (Some(LibraryId([1; 32])), Some(LibraryId([2; 32])));
        let mut notes = Notes::default();
        notes.add(Note { library: one, ..note(&ahead) });
        for elsewhere in [None, other] {
            assert_eq!(notes.settle(&anew, Some(&ours), elsewhere, true), (false, vec![]));
            assert_eq!(notes.spend(&anew, elsewhere), []);
        }
        assert!(notes.settle(&anew, Some(&ours), one, true).0);
        // The very version is recognised wherever it comes from.
        assert!(notes.settle(&ahead, Some(&ours), other, true).0);
        assert_eq!(notes.spend(&ahead, other).len(), 1);
        assert_eq!(notes.settle(&ahead, Some(&ours), one, true), (false, vec![]));
    }

    #[test]
    fn the_first_moment_counts() {
        let ahead = version(1, "ahead", NOW + DAY);
        let mut notes = Notes::default();
        notes.add(note(&ahead));
        assert_eq!(notes.add(Note::of(&ahead, None, NOW + 100, NOW + DAY)), []);
        assert!(notes.settle(&ahead, Some(&version(1, "ours", NOW + 50)), None, true).0);
    }

    #[test]
    fn one_library_fills_neither_another_nor_the_mirror() {
        let mut notes = Notes::default();
        let of = |asset: u32, library: Option<LibraryId>, now: u64| {
            let hash = ContentHash(*blake3::hash(&asset.to_le_bytes()).as_bytes());
            Note::of(&AssetRecord { hash, ..version(0, "x", NOW + DAY) }, library, now, now + DAY)
        };
        let (one, other) = (Some(LibraryId([1; 32])), Some(LibraryId([2; 32])));
        for n in 0..2_000 {
            notes.add(of(n, one, NOW));
        }
        assert_eq!(notes.counts[&one], LIBRARY_MAX);
        assert_eq!(notes.add(of(5_000, other, NOW)).len(), 1);
        for n in 0..20_000 {
            notes.add(of(10_000 + n, None, NOW));
        }
        assert_eq!(notes.counts[&None], CLASS_MAX);
        // Versions of one asset.
        let mut notes = Notes::default();
        for n in 0..100 {
            notes.add(note(&version(1, "x", NOW + DAY + n)));
        }
        assert_eq!(notes.of(&ContentHash([1; 32])).len(), ASSET_MAX);
        let through = Note { library: one, ..note(&version(1, "y", NOW + DAY)) };
        assert_eq!(notes.add(through).len(), 1, "a library has room of its own");
        // A month after the last of them could be taken there is room again.
        let late = Note::of(&version(1, "late", NOW), None, NOW + 32 * DAY, NOW + 33 * DAY);
        assert_eq!(notes.add(late).len(), ASSET_MAX + 2);
        assert_eq!(notes.of(&ContentHash([1; 32])), [late]);
    }
}
