//! What a library has otherwise than the store. The store keeps one record of each content, a library speaks for itself:
//! where the two differ, the library's own version stands here, and in its tree.
//!
//! - Beside: a live record of a content that is here outside of the library, or came through another one. Ours stays
//!   untouched by what the library says.
//! - Not held: a live record whose content the library did not deliver here, or that was deleted here.
//! - Left: an edit moved the asset out of the library; whoever has it keeps it.
//! - Gone: a deletion that is not applied here, or of what was never here.
//!
//! An aside yields to the store's record once that belongs to the library and is no older, or has the content and shows that the
//! aside's size is none of it.

use std::collections::{HashMap, HashSet};

use crate::record::{AssetRecord, ContentHash, META_BYTES_MAX};
use crate::store::{FeedEntry, Holding};

/// Asides of one library. A writer that causes more is not heard any more.
const ASIDES_MAX: usize = 100_000;
/// Those of them that are deleted or left: they cost whoever sends them nothing, and are not to keep live ones out.
const DELETED_MAX: usize = ASIDES_MAX / 2;
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
}

/// What became of a library's asides.
#[derive(Debug, Default)]
pub struct AsideNews {
    /// To be written down: as they are now, or that they are there no more.
    pub unwritten: Vec<(ContentHash, Option<Aside>)>,
    /// To be offered to the other members.
    pub changed: Vec<Aside>,
}

#[derive(Debug, Default)]
pub(super) struct Asides {
    all: HashMap<ContentHash, Aside>,
    bytes: usize,
    deleted: usize,
    unwritten: HashSet<ContentHash>,
    changed: HashSet<ContentHash>,
}

impl Aside {
    fn weight(&self) -> usize {
        OVERHEAD + self.record.meta.text_bytes()
    }
}

impl From<Aside> for FeedEntry {
    fn from(Aside { record, holding }: Aside) -> Self {
        Self { seq: 0, record, holding }
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
        self.bytes += aside.weight();
        self.deleted += usize::from(aside.record.deleted);
        self.all.insert(aside.record.hash, aside);
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
        let was_deleted = before.is_some_and(|before| before.record.deleted);
        let deleted = self.deleted - usize::from(was_deleted) + usize::from(aside.record.deleted);
        if count > ASIDES_MAX || bytes > BYTES_MAX || (deleted > self.deleted && deleted > DELETED_MAX) {
            return false;
        }
        self.bytes = bytes;
        self.deleted = deleted;
        self.unwritten.insert(hash);
        self.changed.insert(hash);
        self.all.insert(hash, aside);
        true
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
        if let Some(aside) = self.all.remove(hash) {
            self.bytes -= aside.weight();
            self.deleted -= usize::from(aside.record.deleted);
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
        let unwritten = std::mem::take(&mut self.unwritten).into_iter();
        let unwritten = unwritten.map(|hash| (hash, self.all.get(&hash).cloned())).collect();
        let changed = std::mem::take(&mut self.changed);
        let changed = changed.iter().filter_map(|hash| self.all.get(hash)).cloned().collect();
        AsideNews { unwritten, changed }
    }

    pub(super) fn not_written(&mut self, hashes: impl IntoIterator<Item = ContentHash>) {
        self.unwritten.extend(hashes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::AssetMeta;

    fn aside(n: usize, deleted: bool) -> Aside {
        let hash = ContentHash(*blake3::hash(&n.to_le_bytes()).as_bytes());
        let record = AssetRecord { deleted, ..AssetRecord::new(hash, 1, None, AssetMeta::default()) };
        Aside { record, holding: Holding::Unwanted }
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
}
