//! A tree's items as they were at one moment, with what is needed to fingerprint any range of them.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::chunk::TreeChunk;
use super::{Item, ItemKey};
use crate::reconcile::fingerprint::{FINGERPRINT_BYTES, IdSum};
use crate::record::{Hlc, RecordId};

/// The items of a library at one moment, numbered in their order. Cheap to clone.
#[derive(Clone)]
pub struct Snapshot(Arc<Frozen>);

/// Parallel to each other; `starts` and `sums` have one element more, for the end.
struct Frozen {
    chunks: Vec<Arc<TreeChunk>>,
    firsts: Vec<ItemKey>,
    /// Number of the first item of each chunk.
    starts: Vec<usize>,
    /// Sum of the ids of all chunks before.
    sums: Vec<IdSum>,
}

impl Snapshot {
    /// From chunks in order, each with its first key.
    pub(super) fn new<'a>(
        chunks: impl ExactSizeIterator<Item = (ItemKey, &'a Arc<TreeChunk>)> + Clone,
    ) -> Self {
        let mut frozen = Frozen {
            chunks: Vec::with_capacity(chunks.len()),
            firsts: Vec::with_capacity(chunks.len()),
            starts: Vec::with_capacity(chunks.len() + 1),
            sums: Vec::with_capacity(chunks.len() + 1),
        };
        let (mut start, mut sum) = (0, IdSum::default());
        for (first, chunk) in chunks.clone() {
            frozen.firsts.push(first);
            frozen.starts.push(start);
            frozen.sums.push(sum);
            start += chunk.items().len();
            sum = sum.plus(chunk.sum());
        }
        frozen.starts.push(start);
        frozen.sums.push(sum);
        // Counting a reference waits for the chunk's memory, reading does not: after the loop above it is at hand.
        frozen.chunks.extend(chunks.map(|(_, chunk)| Arc::clone(chunk)));
        Self(Arc::new(frozen))
    }

    pub fn len(&self) -> usize {
        self.0.starts.last().copied().unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn fingerprint(&self) -> [u8; 16] {
        self.fingerprint_of(0..self.len())
    }

    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.items_of(0..self.len())
    }

    /// The items of later clocks than this, in order.
    pub fn items_after(&self, hlc: Hlc) -> impl Iterator<Item = &Item> {
        let first = (Hlc(hlc.0.saturating_add(1)), RecordId([0; 32]));
        self.items_of(self.lower_bound(&first)..self.len())
    }

    pub fn find(&self, hlc: Hlc, rid: &RecordId) -> Option<Item> {
        let key = (hlc, *rid);
        let place = self.lower_bound(&key);
        (place < self.len()).then(|| *self.item(place)).filter(|item| item.key() == key)
    }

    /// The item of this number, which must be less than [`Self::len`].
    pub(in crate::reconcile) fn item(&self, number: usize) -> &Item {
        let (chunk, at) = self.locate(number);
        &self.0.chunks[chunk].items()[at]
    }

    /// How many items lie below `key`.
    pub(in crate::reconcile) fn lower_bound(&self, key: &ItemKey) -> usize {
        let Some(chunk) = self.0.firsts.partition_point(|first| first <= key).checked_sub(1) else {
            return 0;
        };
        self.0.starts[chunk] + self.0.chunks[chunk].lower_bound(key)
    }

    pub(in crate::reconcile) fn items_of(&self, numbers: Range<usize>) -> impl Iterator<Item = &Item> {
        let (chunk, at) = self.locate(numbers.start);
        let chunks = self.0.chunks.get(chunk..).unwrap_or_default();
        chunks.iter().flat_map(|chunk| chunk.items()).skip(at).take(numbers.len())
    }

    /// Fingerprint of the ids of the items of these numbers. Looks at two chunks at most, however long the range.
    pub(in crate::reconcile) fn fingerprint_of(&self, numbers: Range<usize>) -> [u8; FINGERPRINT_BYTES] {
        let (first, from) = self.locate(numbers.start);
        let (last, to) = self.locate(numbers.end);
        let sum = if first == last && from < to {
            IdSum::of(self.0.chunks[first].items()[from..to].iter().map(|item| &item.rid))
        } else {
            self.sum_before(last, to).minus(self.sum_before(first, from))
        };
        sum.fingerprint(numbers.len())
    }

    /// Sum of the ids of all items before an item.
    fn sum_before(&self, chunk: usize, at: usize) -> IdSum {
        let before = self.0.sums[chunk];
        if at == 0 { before } else { before.plus(self.0.chunks[chunk].sum_of_first(at)) }
    }

    /// Chunk of an item, and its place there. The end lies at the start of a chunk that does not exist.
    fn locate(&self, number: usize) -> (usize, usize) {
        let chunk = self.0.starts.partition_point(|start| *start <= number).saturating_sub(1);
        (chunk, number - self.0.starts[chunk])
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("len", &self.len()).finish_non_exhaustive()
    }
}
