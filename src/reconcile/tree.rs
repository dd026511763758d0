//! The items of one library, kept in order while they change, and frozen for sessions at the price of a few pointers.
//!
//! Items lie in chunks of a few hundred, each behind an `Arc` with the sum of its ids. A [`Snapshot`] holds the chunks
//! as they were; a change copies the one chunk that it touches, and only if a snapshot still holds it. Two indices of
//! about ten bytes an item find an item by its content or by its record id, which are no part of the order.

mod chunk;
mod index;
mod snapshot;
#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use self::chunk::{ITEMS_MAX, TreeChunk};
use self::index::{ChunkId, PrintIndex};
pub use self::snapshot::Snapshot;
use super::fingerprint::IdSum;
use super::wire::INFINITY;
use crate::record::{ContentHash, Hlc, RecordId};

pub(super) type ItemKey = (Hlc, RecordId);

/// How full chunks are when a tree is built at once: room for some changes before the first split.
const ITEMS_AT_BUILD: usize = ITEMS_MAX / 4 * 3;
/// A chunk below this joins a neighbour, where the two are not soon to be split again.
const ITEMS_MIN: usize = ITEMS_MAX / 4;

/// One version of one record, as reconciliation sees it. Ordered by `(hlc, rid)`; the hash is carried along.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Item {
    /// When the version was written. The greatest value is the protocol's infinity and belongs to no item.
    pub hlc: Hlc,
    /// Names the version; of one content and no other.
    pub rid: RecordId,
    /// Content that the record is about.
    pub hash: ContentHash,
}

impl Item {
    pub(super) fn key(&self) -> ItemKey {
        (self.hlc, self.rid)
    }
}

/// One chunk in the order of keys.
#[derive(Debug)]
struct Leaf {
    /// Key of its first item, here so that searching touches no chunk but the last.
    first: ItemKey,
    chunk: ChunkId,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Spot {
    chunk: ChunkId,
    at: usize,
}

/// The current version of every record of a library: at most one item for a content, and one for a record id.
#[derive(Default)]
pub struct ItemTree {
    leaves: Vec<Leaf>,
    /// By number; numbers in `free` stand for none.
    chunks: Vec<Arc<TreeChunk>>,
    free: Vec<ChunkId>,
    by_hash: PrintIndex,
    by_rid: PrintIndex,
    hasher: RandomState,
    sum: IdSum,
    len: usize,
}

impl ItemTree {
    pub fn new() -> Self {
        Self::default()
    }

    /// From items in ascending order of `(hlc, rid)`. Of several with one content, or one id, the last stays.
    pub fn from_sorted(items: Vec<Item>) -> Self {
        let ascending = items.is_sorted_by(|a, b| a.key() < b.key());
        let finite = items.last().is_none_or(|item| item.hlc < INFINITY);
        if ascending
            && finite
            && let Some(tree) = Self::of_distinct(&items)
        {
            return tree;
        }
        let mut tree = Self::new();
        for item in items {
            tree.upsert(item);
        }
        tree
    }

    /// From items in any order. Of several with one content, or one id, the greatest stays.
    pub fn from_unsorted(mut items: Vec<Item>) -> Self {
        items.sort_unstable_by_key(Item::key);
        Self::from_sorted(items)
    }

    /// From ascending items, or `None` if a content or an id occurs twice.
    fn of_distinct(items: &[Item]) -> Option<Self> {
        let by_hash = PrintIndex::with_capacity(items.len());
        let by_rid = PrintIndex::with_capacity(items.len());
        let mut tree = Self { by_hash, by_rid, ..Self::default() };
        for items in items.chunks(ITEMS_AT_BUILD) {
            let chunk = tree.add_chunk(tree.leaves.len(), TreeChunk::new(items.to_vec()));
            for (at, item) in items.iter().enumerate() {
                let own = |spot: Spot| spot == Spot { chunk, at };
                if !tree.spot_of_hash(&item.hash).is_none_or(own)
                    || !tree.spot_of_rid(&item.rid).is_none_or(own)
                {
                    return None;
                }
                tree.note(item, chunk);
            }
        }
        Some(tree)
    }

    /// Puts in the current version of a record and returns the one that it replaces, that of the same content.
    ///
    /// An id names one version of one content: should an item of another content have this id, it goes. An item dated
    /// `Hlc(u64::MAX)` cannot be named on the wire and is not taken.
    pub fn upsert(&mut self, item: Item) -> Option<Item> {
        if item.hlc == INFINITY {
            return None;
        }
        let old = self.spot_of_hash(&item.hash);
        if old.is_some_and(|spot| self.item(spot) == item) {
            return Some(item);
        }
        let old = old.map(|spot| self.take(spot));
        if let Some(spot) = self.spot_of_rid(&item.rid) {
            self.take(spot);
        }
        self.put(item);
        old
    }

    pub fn remove(&mut self, hash: &ContentHash) -> Option<Item> {
        self.spot_of_hash(hash).map(|spot| self.take(spot))
    }

    pub fn get(&self, hash: &ContentHash) -> Option<Item> {
        self.spot_of_hash(hash).map(|spot| self.item(spot))
    }

    /// The item of a record id: what a peer asks for after it has learned our ids.
    pub fn find_rid(&self, rid: &RecordId) -> Option<Item> {
        self.spot_of_rid(rid).map(|spot| self.item(spot))
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fingerprint of all ids, as the protocol defines it: equal for equal sets.
    pub fn fingerprint(&self) -> [u8; 16] {
        self.sum.fingerprint(self.len)
    }

    /// The items as they are now, unaffected by later changes.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.leaves.iter().map(|leaf| (leaf.first, self.chunk(leaf.chunk))))
    }

    fn chunk(&self, chunk: ChunkId) -> &Arc<TreeChunk> {
        &self.chunks[chunk as usize]
    }

    fn item(&self, spot: Spot) -> Item {
        self.chunk(spot.chunk).items()[spot.at]
    }

    /// 32 bits of a keyed hash: nobody outside can choose names that crowd an index.
    fn print(&self, name: &[u8; 32]) -> u32 {
        (self.hasher.hash_one(name) >> 32) as u32
    }

    fn spot_of_hash(&self, hash: &ContentHash) -> Option<Spot> {
        self.by_hash
            .candidates(self.print(&hash.0))
            .find_map(|chunk| self.chunk(chunk).position_of_hash(hash).map(|at| Spot { chunk, at }))
    }

    fn spot_of_rid(&self, rid: &RecordId) -> Option<Spot> {
        self.by_rid
            .candidates(self.print(&rid.0))
            .find_map(|chunk| self.chunk(chunk).position_of_rid(rid).map(|at| Spot { chunk, at }))
    }

    /// Place in `leaves` of the chunk where `key` is or belongs; 0 if there are none.
    fn leaf_of(&self, key: &ItemKey) -> usize {
        self.leaves.partition_point(|leaf| leaf.first <= *key).saturating_sub(1)
    }

    fn put(&mut self, item: Item) {
        let key = item.key();
        let mut leaf = self.leaf_of(&key);
        let Some(chunk) = self.leaves.get(leaf).map(|leaf| self.chunk(leaf.chunk)) else {
            return self.put_in_new_chunk(0, item);
        };
        let mut at = chunk.lower_bound(&key);
        if chunk.items().len() >= ITEMS_MAX {
            if at == ITEMS_MAX && leaf + 1 == self.leaves.len() {
                // New records come in the order of time: then chunks are left full, not half full.
                return self.put_in_new_chunk(leaf + 1, item);
            }
            let kept = ITEMS_MAX / 2;
            self.split(leaf, kept);
            if at > kept {
                (leaf, at) = (leaf + 1, at - kept);
            }
        }
        let chunk = self.leaves[leaf].chunk;
        TreeChunk::insert(&mut self.chunks[chunk as usize], at, item);
        if at == 0 {
            self.leaves[leaf].first = key;
        }
        self.note(&item, chunk);
    }

    fn put_in_new_chunk(&mut self, place: usize, item: Item) {
        let chunk = self.add_chunk(place, TreeChunk::new(vec![item]));
        self.note(&item, chunk);
    }

    fn take(&mut self, spot: Spot) -> Item {
        let leaf = self.leaf_of(&self.item(spot).key());
        let item = TreeChunk::remove(&mut self.chunks[spot.chunk as usize], spot.at);
        self.by_hash.remove(self.print(&item.hash.0), spot.chunk);
        self.by_rid.remove(self.print(&item.rid.0), spot.chunk);
        self.sum = self.sum.minus((&item.rid).into());
        self.len -= 1;
        let left = self.chunk(spot.chunk).items();
        match left.first().map(|first| (first.key(), left.len())) {
            None => self.drop_leaf(leaf),
            Some((first, count)) => {
                self.leaves[leaf].first = first;
                if count < ITEMS_MIN {
                    self.join(leaf);
                }
            }
        }
        item
    }

    /// Counts an item that was put into a chunk, and makes it findable.
    fn note(&mut self, item: &Item, chunk: ChunkId) {
        self.by_hash.insert(self.print(&item.hash.0), chunk);
        self.by_rid.insert(self.print(&item.rid.0), chunk);
        self.sum = self.sum.plus((&item.rid).into());
        self.len += 1;
    }

    /// Adds a chunk, which has items, at a place in the order.
    fn add_chunk(&mut self, place: usize, chunk: TreeChunk) -> ChunkId {
        let first = chunk.items()[0].key();
        let id = if let Some(id) = self.free.pop() {
            self.chunks[id as usize] = Arc::new(chunk);
            id
        } else {
            self.chunks.push(Arc::new(chunk));
            ChunkId::try_from(self.chunks.len() - 1).expect("2^32 chunks do not fit in memory")
        };
        self.leaves.insert(place, Leaf { first, chunk: id });
        id
    }

    fn drop_leaf(&mut self, leaf: usize) {
        let Leaf { chunk, .. } = self.leaves.remove(leaf);
        self.chunks[chunk as usize] = Arc::default();
        self.free.push(chunk);
    }

    /// Moves all but the first `kept` items of a chunk to a new one.
    fn split(&mut self, leaf: usize, kept: usize) {
        let lower = self.leaves[leaf].chunk;
        let moved = TreeChunk::split_off(&mut self.chunks[lower as usize], kept);
        let upper = self.add_chunk(leaf + 1, moved);
        self.relocate(&Arc::clone(self.chunk(upper)), lower, upper);
    }

    /// Joins a small chunk with the smaller of its neighbours, unless they would fill most of a chunk.
    fn join(&mut self, leaf: usize) {
        let pairs = [leaf.checked_sub(1), Some(leaf)].into_iter().flatten();
        let sizes = pairs.filter_map(|lower| {
            let upper = self.leaves.get(lower + 1)?;
            let size =
                self.chunk(self.leaves[lower].chunk).items().len() + self.chunk(upper.chunk).items().len();
            Some((size, lower))
        });
        let Some((_, lower)) = sizes.min().filter(|(size, _)| *size <= ITEMS_AT_BUILD) else { return };
        let (into, from) = (self.leaves[lower].chunk, self.leaves[lower + 1].chunk);
        let upper = Arc::clone(self.chunk(from));
        TreeChunk::append(&mut self.chunks[into as usize], &upper);
        self.relocate(&upper, from, into);
        self.drop_leaf(lower + 1);
    }

    /// Notes that the items of `moved` have changed their chunk.
    fn relocate(&mut self, moved: &TreeChunk, from: ChunkId, to: ChunkId) {
        for item in moved.items() {
            self.by_hash.relocate(self.print(&item.hash.0), from, to);
            self.by_rid.relocate(self.print(&item.rid.0), from, to);
        }
    }
}

impl fmt::Debug for ItemTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chunks = self.leaves.len();
        f.debug_struct("ItemTree").field("len", &self.len).field("chunks", &chunks).finish_non_exhaustive()
    }
}
