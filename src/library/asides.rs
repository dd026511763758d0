//! What a library has otherwise than the store. The store keeps one record of each content, a library speaks for itself:
//! where the two differ, the library's own version stands here, and in its tree.
//!
//! - Beside: a live record of a content that is here outside of the library, or came through another one. Ours stays
//!   untouched by what the library says.
//! - Not held: a live record whose content the library did not deliver here, or that was deleted here.
//! - Left: an edit moved the asset out of the library; members that have it keep it.
//! - Gone: a deletion that is not applied here, or of what was never here.
//!
//! An aside yields to the store's record once that belongs to the library and is no older, or has the content and shows that the
//! aside's size is none of it.

use std::collections::{HashMap, HashSet};

use super::{Library, LibraryIndex};
use crate::record::{AssetRecord, ContentHash, META_BYTES_MAX};
use crate::store::{FeedEntry, Holding};

/// Asides of one library. A writer that causes more is not heard any more.
const ASIDES_MAX: usize = 100_000;
/// Those of them that are deleted or left: they cost their sender nothing, and are not to keep live ones out.
const DELETED_MAX: usize = ASIDES_MAX / 2;
/// The owner's own ticket: what the owner brings is nobody's share.
const OWNER_SERIAL: u64 = 0;
/// Their text and what is around it, in bytes.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// What one takes beside its text.
const OVERHEAD: usize = 320;

/// What a library has otherwise than the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// As members see it.
    pub record: AssetRecord,
    /// Whether the library delivered the content, and the store has had it since; whether it is wanted, if not.
    pub holding: Holding,
    /// The ticket whose holder brought it, by its number; `None` for what was made of the store's own version.
    pub from: Option<u64>,
    /// What was deleted so long ago that members forgot it: it is in no tree any more, and stands only so that what the store
    /// has does not come back into the library.
    pub is_forgotten: bool,
}

/// What became of a library's asides.
#[derive(Debug, Default)]
pub struct AsideNews {
    /// To be written down: as they are now, or that they are there no more. They are given again until
    /// [`Library::wrote_asides`] names them.
    pub unwritten: Vec<(ContentHash, Option<Aside>)>,
    /// To be offered to the other members.
    pub changed: Vec<Aside>,
}

#[derive(Debug, Default)]
pub(super) struct Asides {
    all: HashMap<ContentHash, Aside>,
    bytes: usize,
    deleted: usize,
    /// How many of the deleted ones each ticket's holders brought.
    deleted_from: HashMap<u64, usize>,
    unwritten: HashSet<ContentHash>,
    changed: HashSet<ContentHash>,
}

impl Aside {
    /// A version that the library has in place of the store's, which it made of that.
    pub(super) fn of_own(record: AssetRecord, holding: Holding) -> Self {
        Self { record, holding, from: None, is_forgotten: false }
    }

    fn is_old(&self, until_ms: u64) -> bool {
        self.record.deleted && self.record.hlc.ms() < until_ms
    }

    /// The ticket whose share of places it takes, if it takes one.
    fn share_of(&self) -> Option<u64> {
        self.from.filter(|serial| *serial != OWNER_SERIAL && self.record.deleted)
    }

    fn weight(&self) -> usize {
        OVERHEAD + 8 * self.record.meta.dropped_names.len() + self.record.meta.text_bytes()
    }
}

impl From<Aside> for FeedEntry {
    fn from(Aside { record, holding, .. }: Aside) -> Self {
        Self { seq: 0, record, holding, formers: Vec::new() }
    }
}

impl Asides {
    pub(super) fn get(&self, hash: &ContentHash) -> Option<&Aside> {
        self.all.get(hash)
    }

    pub(super) fn all(&self) -> HashMap<ContentHash, Aside> {
        self.all.clone()
    }

    /// As it was written down by an earlier life of the process.
    pub(super) fn restore(&mut self, aside: Aside) {
        self.count(&aside);
        self.all.insert(aside.record.hash, aside);
    }

    fn count(&mut self, aside: &Aside) {
        self.bytes += aside.weight();
        if aside.record.deleted {
            self.deleted += 1;
        }
        if let Some(from) = aside.share_of() {
            *self.deleted_from.entry(from).or_default() += 1;
        }
    }

    fn remove(&mut self, hash: &ContentHash) -> bool {
        let Some(aside) = self.all.remove(hash) else { return false };
        self.bytes -= aside.weight();
        if aside.record.deleted {
            self.deleted -= 1;
        }
        if let Some(from) = aside.share_of()
            && let Some(theirs) = self.deleted_from.get_mut(&from)
        {
            *theirs -= 1;
            if *theirs == 0 {
                self.deleted_from.remove(&from);
            }
        }
        true
    }

    /// Whether one that is deleted may be added: nobody's may be more than is left to all others.
    fn has_share(&self, from: Option<u64>) -> bool {
        let theirs = from.and_then(|from| self.deleted_from.get(&from)).copied().unwrap_or_default();
        self.deleted < DELETED_MAX && theirs < DELETED_MAX - self.deleted
    }

    /// Whether there is no room for one more.
    pub(super) fn is_full(&self) -> bool {
        self.all.len() >= ASIDES_MAX || self.bytes >= BYTES_MAX - OVERHEAD - META_BYTES_MAX
    }

    /// Whether there was room.
    pub(super) fn set(&mut self, aside: Aside) -> bool {
        let hash = aside.record.hash;
        let before = self.all.get(&hash);
        let bytes = self.bytes - before.map_or(0, Aside::weight) + aside.weight();
        let count = self.all.len() + usize::from(before.is_none());
        let is_more = aside.record.deleted && !before.is_some_and(|before| before.record.deleted);
        if count > ASIDES_MAX || bytes > BYTES_MAX || (is_more && !self.has_share(aside.share_of())) {
            return false;
        }
        self.remove(&hash);
        self.count(&aside);
        self.unwritten.insert(hash);
        self.changed.insert(hash);
        self.all.insert(hash, aside);
        true
    }

    /// Those of these that are deleted, from before this time, and did not change since they were written down.
    pub(super) fn old(&self, mut noted: Vec<ContentHash>, until_ms: u64) -> Vec<ContentHash> {
        let is_old = |hash: &ContentHash| self.all.get(hash).is_some_and(|aside| aside.is_old(until_ms));
        noted.retain(|hash| is_old(hash) && !self.unwritten.contains(hash));
        noted
    }

    /// Forgets one if it is deleted and from before this time; whether it was, and was not forgotten yet. Where something live
    /// `is_here`, it stays for this node alone.
    pub(super) fn purge(&mut self, hash: &ContentHash, is_here: bool, until_ms: u64) -> bool {
        let Some(aside) = self.all.get_mut(hash).filter(|aside| aside.is_old(until_ms)) else { return false };
        let is_news = !aside.is_forgotten;
        if is_here && !is_news {
            return false;
        }
        if is_here {
            aside.is_forgotten = true;
        } else {
            self.remove(hash);
        }
        self.unwritten.insert(*hash);
        is_news
    }

    /// Has one that was forgotten stand for members again, for one of them did not hear of it; gives it.
    pub(super) fn recall(&mut self, hash: &ContentHash) -> Option<Aside> {
        let aside = self.all.get_mut(hash).filter(|aside| aside.is_forgotten)?;
        aside.is_forgotten = false;
        self.unwritten.insert(*hash);
        self.changed.insert(*hash);
        Some(aside.clone())
    }

    /// The aside of a content that the library lacks, now that the store has it to an older version of the library's.
    pub(super) fn filled_by(&self, member: &AssetRecord, holding: Holding) -> Option<Aside> {
        let aside = self.all.get(&member.hash).filter(|aside| aside.record.supersedes(member))?;
        let is_filled =
            aside.holding == Holding::Wanted && holding.is_held() && aside.record.size == member.size;
        is_filled.then(|| Aside { holding: Holding::Held, ..aside.clone() })
    }

    /// Gives way to the store's record of the content, unless that is older and the content has no other size than the
    /// aside says; whether it did, or there was none.
    pub(super) fn yield_to(&mut self, member: &AssetRecord, holding: Holding) -> bool {
        let hash = &member.hash;
        let is_false = |aside: &Aside| {
            aside.holding == Holding::Wanted && holding.is_held() && aside.record.size != member.size
        };
        if self.all.get(hash).is_some_and(|aside| aside.record.supersedes(member) && !is_false(aside)) {
            return false;
        }
        if self.remove(hash) {
            self.unwritten.insert(*hash);
        }
        true
    }

    /// The store does not have the content any more.
    pub(super) fn lose(&mut self, hash: &ContentHash) {
        if let Some(aside) = self.all.get_mut(hash).filter(|aside| aside.holding.is_held()) {
            aside.holding = Holding::Unwanted;
            self.unwritten.insert(*hash);
        }
    }

    pub(super) fn take_news(&mut self) -> AsideNews {
        let unwritten = self.unwritten.iter().map(|hash| (*hash, self.all.get(hash).cloned())).collect();
        let changed = std::mem::take(&mut self.changed);
        let changed = changed.iter().filter_map(|hash| self.all.get(hash)).cloned().collect();
        AsideNews { unwritten, changed }
    }

    /// These were written down, as far as they did not change meanwhile.
    pub(super) fn written(&mut self, written: &[(ContentHash, Option<Aside>)]) {
        for (hash, aside) in written {
            if self.all.get(hash) == aside.as_ref() {
                self.unwritten.remove(hash);
            }
        }
    }

    pub(super) fn unwritten(&self) -> Vec<ContentHash> {
        self.unwritten.iter().copied().collect()
    }

    pub(super) fn not_written(&mut self, hashes: impl IntoIterator<Item = ContentHash>) {
        self.unwritten.extend(hashes);
    }
}

impl Library {
    /// Has `aside` from now on, whatever the store has; whether there was room for it.
    pub(super) fn set_aside(&self, index: &mut LibraryIndex, aside: &Aside) -> bool {
        let placed = index.asides.set(aside.clone());
        if placed {
            self.put(index, &aside.record, aside.holding);
            self.feed.asides_changed.notify_one();
        }
        placed
    }

    /// What it has otherwise than the store.
    pub fn asides(&self) -> HashMap<ContentHash, Aside> {
        self.index().asides.all()
    }

    /// What became of the asides since the last call; `Libraries::asides_changed` says when to ask.
    pub fn take_aside_news(&self) -> AsideNews {
        self.index().asides.take_news()
    }

    /// What [`Self::take_aside_news`] gave was written down.
    pub fn wrote_asides(&self, written: &[(ContentHash, Option<Aside>)]) {
        self.index().asides.written(written);
    }

    /// Goes on where `replaced` was, whose asides it has: what of them is to be written down.
    pub fn take_over_asides(&self, replaced: &Self) {
        let unwritten = replaced.index().asides.unwritten();
        self.index().asides.not_written(unwritten);
        self.feed.asides_changed.notify_one();
    }

    /// Deletions among the asides `noted`, as far as they were dated before this time and are written down.
    pub fn old_asides(&self, noted: Vec<ContentHash>, until_ms: u64) -> Vec<ContentHash> {
        self.index().asides.old(noted, until_ms)
    }

    /// Tells members anew what they forgot, and one of them has not heard; whether there was anything.
    pub(super) fn recall_aside(&self, hash: &ContentHash) -> bool {
        let mut index = self.index();
        let Some(aside) = index.asides.recall(hash) else { return false };
        self.put(&mut index, &aside.record, aside.holding);
        self.feed.asides_changed.notify_one();
        true
    }

    /// Forgets those of these asides that are deleted and from before this time, as far as members are concerned; those of
    /// what the store has live, `here`, stay for this node alone.
    pub fn purge_asides(&self, hashes: &[ContentHash], here: &HashSet<ContentHash>, until_ms: u64) {
        let mut index = self.index();
        for hash in hashes {
            if index.asides.purge(hash, here.contains(hash), until_ms) {
                index.take_out(hash);
            }
        }
        self.feed.asides_changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::AssetMeta;

    fn aside(n: usize, deleted: bool) -> Aside {
        let hash = ContentHash(*blake3::hash(&n.to_le_bytes()).as_bytes());
        let record = AssetRecord { deleted, ..AssetRecord::new(hash, 1, None, AssetMeta::default()) };
        Aside::of_own(record, Holding::Unwanted)
    }

    #[test]
    fn what_is_deleted_leaves_room_for_what_is_live() {
        let mut asides = Asides::default();
        assert_eq!((0..ASIDES_MAX).filter(|n| asides.set(aside(*n, true))).count(), DELETED_MAX);
        assert!(!asides.is_full());
        assert!(asides.set(aside(0, false)), "one that lives again makes room");
        assert!(asides.set(aside(ASIDES_MAX, true)));
        let live = ASIDES_MAX..2 * ASIDES_MAX;
        assert!(live.clone().any(|n| !asides.set(aside(n + 1, false))));
        assert!(asides.is_full());
        assert_eq!(asides.deleted, asides.all.values().filter(|aside| aside.record.deleted).count());
        assert!(asides.yield_to(&aside(1, true).record, Holding::Unwanted));
        assert_eq!(asides.deleted, DELETED_MAX - 1);
    }

    #[test]
    fn asides_with_much_text_are_fewer() {
        let dropped_names: Vec<u64> = (0..10).collect();
        let meta = AssetMeta { description: Some("x".repeat(10_000)), dropped_names, ..AssetMeta::default() };
        let large = |n| {
            let AssetRecord { hash, size, .. } = aside(n, false).record;
            Aside::of_own(AssetRecord::new(hash, size, None, meta.clone()), Holding::Unwanted)
        };
        let mut asides = Asides::default();
        let set = (0..ASIDES_MAX).take_while(|n| asides.set(large(*n))).count();
        assert_eq!(set, BYTES_MAX / (OVERHEAD + 10 * 8 + 10_000));
        assert!(asides.is_full() && asides.set(large(0)), "what is there changes all the same");
        assert!(asides.yield_to(&large(0).record, Holding::Unwanted) && asides.set(large(set)));
    }

    #[test]
    fn nobody_takes_the_places_of_all_others_with_what_is_deleted() {
        let mut asides = Asides::default();
        let from = |n, serial| Aside { from: Some(serial), ..aside(n, true) };
        let mut n = 0;
        let mut fill = |asides: &mut Asides, serial| {
            let before = n;
            while asides.set(from(n, serial)) {
                n += 1;
            }
            n - before
        };
        assert_eq!(fill(&mut asides, 1), DELETED_MAX / 2);
        assert_eq!(fill(&mut asides, 2), DELETED_MAX / 4);
        assert_eq!(fill(&mut asides, 1), 0);
        assert!(asides.set(from(0, 2)), "what is there changes all the same");
        assert!(asides.set(aside(DELETED_MAX, true)), "what is ours has a place");
        // What the owner brings is nobody's share.
        let mut of_owner = Asides::default();
        assert!((0..DELETED_MAX).all(|n| of_owner.set(from(n, OWNER_SERIAL))));
        assert!(!of_owner.set(from(DELETED_MAX, OWNER_SERIAL)));
        // Counted anew, and given back, as it goes.
        let mut restored = Asides::default();
        asides.all().into_values().for_each(|aside| restored.restore(aside));
        assert_eq!((restored.deleted, &restored.deleted_from), (asides.deleted, &asides.deleted_from));
        let all: Vec<ContentHash> = restored.all().into_keys().collect();
        assert_eq!(restored.old(all.clone(), 1).len(), all.len());
        assert!(restored.old(all.clone(), 0).is_empty() && !restored.purge(&all[0], false, 0));
        assert!(restored.purge(&all[0], true, 1) && restored.old(all.clone(), 1).len() == all.len() - 1);
        assert!(restored.all()[&all[0]].is_forgotten && !restored.purge(&all[0], true, 1));
        assert!(all[1..].iter().all(|hash| restored.purge(hash, false, 1)));
        // What is forgotten keeps its place only for what is here.
        assert!(restored.all().len() == 1 && !restored.purge(&all[0], false, 1));
        assert!(restored.deleted_from.is_empty() && restored.deleted == 0 && restored.bytes == 0);
        assert_eq!(restored.unwritten().len(), all.len());
    }

    #[test]
    fn what_changes_while_it_is_written_is_written_again() {
        let mut asides = Asides::default();
        asides.set(aside(1, true));
        asides.set(aside(2, true));
        let first = asides.take_news();
        assert_eq!((first.unwritten.len(), first.changed.len()), (2, 2));
        // The task that was to write it is gone: it is given again, and told no more.
        let again = asides.take_news();
        assert_eq!((again.unwritten.len(), again.changed.len()), (2, 0));
        asides.set(aside(2, false));
        asides.written(&again.unwritten);
        assert_eq!(asides.unwritten(), [aside(2, false).record.hash]);
    }
}
