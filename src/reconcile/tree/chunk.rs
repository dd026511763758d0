//! A run of neighbouring items: what snapshots share and what a change copies.

use std::sync::Arc;

use super::{Item, ItemKey};
use crate::reconcile::fingerprint::IdSum;
use crate::record::{ContentHash, RecordId};

/// Most items of a chunk. A change while a snapshot is held copies one chunk, and a fingerprint that begins or ends in
/// one adds up half of its items at most.
pub(super) const ITEMS_MAX: usize = 128;
/// Spare room of a chunk when it grows. Small, because every chunk carries it.
const SPARE: usize = 8;

/// Sorted items, at most [`ITEMS_MAX`], with the sum of their ids.
#[derive(Debug, Default)]
pub(in crate::reconcile) struct TreeChunk {
    items: Vec<Item>,
    sum: IdSum,
}

impl TreeChunk {
    pub(super) fn new(items: Vec<Item>) -> Self {
        let sum = IdSum::of(items.iter().map(|item| &item.rid));
        Self { items, sum }
    }

    /// In order of their keys.
    pub(in crate::reconcile) fn items(&self) -> &[Item] {
        &self.items
    }

    pub(in crate::reconcile) fn sum(&self) -> IdSum {
        self.sum
    }

    /// Sum of the ids of the first `count` items; adds up the shorter side.
    pub(in crate::reconcile) fn sum_of_first(&self, count: usize) -> IdSum {
        let (first, rest) = self.items.split_at(count);
        if first.len() <= rest.len() {
            IdSum::of(first.iter().map(|item| &item.rid))
        } else {
            self.sum.minus(IdSum::of(rest.iter().map(|item| &item.rid)))
        }
    }

    /// How many items lie below `key`.
    pub(in crate::reconcile) fn lower_bound(&self, key: &ItemKey) -> usize {
        self.items.partition_point(|item| item.key() < *key)
    }

    pub(super) fn position_of_hash(&self, hash: &ContentHash) -> Option<usize> {
        self.items.iter().position(|item| item.hash == *hash)
    }

    pub(super) fn position_of_rid(&self, rid: &RecordId) -> Option<usize> {
        self.items.iter().position(|item| item.rid == *rid)
    }

    /// Puts an item at its place, in place or, where a snapshot shares the chunk, in a copy.
    pub(super) fn insert(this: &mut Arc<Self>, at: usize, item: Item) {
        let sum = this.sum.plus((&item.rid).into());
        if let Some(own) = Arc::get_mut(this) {
            if own.items.len() == own.items.capacity() {
                own.items.reserve_exact(SPARE);
            }
            own.items.insert(at, item);
            own.sum = sum;
        } else {
            let (below, above) = this.items.split_at(at);
            let mut items = Vec::with_capacity(this.items.len() + SPARE);
            items.extend_from_slice(below);
            items.push(item);
            items.extend_from_slice(above);
            *this = Arc::new(Self { items, sum });
        }
    }

    pub(super) fn remove(this: &mut Arc<Self>, at: usize) -> Item {
        let removed = this.items[at];
        let sum = this.sum.minus((&removed.rid).into());
        if let Some(own) = Arc::get_mut(this) {
            own.items.remove(at);
            own.sum = sum;
            if own.items.capacity() > own.items.len() + 2 * SPARE {
                own.items.shrink_to(own.items.len() + SPARE);
            }
        } else {
            let mut items = Vec::with_capacity(this.items.len() - 1 + SPARE);
            items.extend_from_slice(&this.items[..at]);
            items.extend_from_slice(&this.items[at + 1..]);
            *this = Arc::new(Self { items, sum });
        }
        removed
    }

    /// Keeps the first `count` items and returns the rest.
    pub(super) fn split_off(this: &mut Arc<Self>, count: usize) -> Self {
        let upper = Self::new(this.items[count..].to_vec());
        let mut items = Vec::with_capacity(count + SPARE);
        items.extend_from_slice(&this.items[..count]);
        *this = Arc::new(Self { items, sum: this.sum.minus(upper.sum) });
        upper
    }

    /// Appends the items of `upper`, all of which lie above.
    pub(super) fn append(this: &mut Arc<Self>, upper: &Self) {
        let mut items = Vec::with_capacity(this.items.len() + upper.items.len() + SPARE);
        items.extend_from_slice(&this.items);
        items.extend_from_slice(&upper.items);
        *this = Arc::new(Self { items, sum: this.sum.plus(upper.sum) });
    }
}
