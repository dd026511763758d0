//! The records of a library, by what its members ask for.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::asides::Asides;
use crate::entry::EntryHash;
use crate::reconcile::EntrySummary;
use crate::reconcile::tree::ItemTree;
use crate::record::{AssetRecord, ContentHash};
use crate::store::Holding;

#[derive(Debug, Default)]
pub(super) struct LibraryIndex {
    pub(super) tree: ItemTree,
    /// Records of folders, by what names them; of the mirror, and of a folder that is shared. A tree of their own: a name that both kinds have names two
    /// things, and machines that know no folders compare the other tree as ever.
    pub(super) entries: ItemTree,
    /// Sizes of contents that are here and their sum; not kept for the mirror, which has the store's own counts.
    pub(super) sizes: HashMap<ContentHash, u64>,
    pub(super) bytes: u64,
    /// Live assets whose contents are not here.
    pub(super) absent: HashSet<ContentHash>,
    /// Those of them that are wanted, in an order in which they can be asked for by and by.
    pub(super) wanted: BTreeSet<ContentHash>,
    /// What it has otherwise than the store; never any in the mirror.
    pub(super) asides: Asides,
    /// While what the store held before is read in: what changed meanwhile, and so is newer than what was read. Of a folder that we share,
    /// these are names of entries.
    pub(super) filling: Option<HashSet<ContentHash>>,
}

impl LibraryIndex {
    pub(super) fn take_out(&mut self, hash: &ContentHash) -> bool {
        self.count(hash, None);
        self.absent.remove(hash);
        self.wanted.remove(hash);
        self.tree.remove(hash).is_some()
    }

    /// Takes note whether a content is here; whether it has just come, or was here and is missing now.
    pub(super) fn note_holding(&mut self, record: &AssetRecord, holding: Holding) -> bool {
        let hash = record.hash;
        let is_wanted = holding == Holding::Wanted;
        if is_wanted {
            self.wanted.insert(hash);
        } else {
            self.wanted.remove(&hash);
        }
        if !record.deleted && !holding.is_held() {
            return self.absent.insert(hash) && is_wanted;
        }
        self.absent.remove(&hash) && holding.is_held()
    }

    pub(super) fn count(&mut self, hash: &ContentHash, size: Option<u64>) {
        let before = match size {
            Some(size) => {
                self.bytes = self.bytes.saturating_add(size);
                self.sizes.insert(*hash, size)
            }
            None => self.sizes.remove(hash),
        };
        self.bytes = self.bytes.saturating_sub(before.unwrap_or_default());
    }

    pub(super) fn entry_summary(&self) -> EntrySummary {
        EntrySummary { count: self.entries.len() as u64, fingerprint: self.entries.fingerprint() }
    }

    /// An entry changed: what is read of it from now on is older.
    pub(super) fn touch_entry(&mut self, EntryHash(hash): EntryHash) {
        if let Some(touched) = &mut self.filling {
            touched.insert(ContentHash(hash));
        }
    }
}
