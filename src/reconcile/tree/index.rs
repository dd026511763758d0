//! Where an item is, by one of its names, in about ten bytes an item.
//!
//! A table of the standard library would hold the 32-byte name again. This one holds 32 bits of a keyed hash of the name
//! and the number of the chunk; a lookup compares the full name in the chunk. An entry's place
//! follows from those 32 bits alone, so that entries can be moved and the table can grow without asking the tree for
//! names, and two entries that look alike may stand for each other. It grows by an eighth, not by doubling: memory is
//! what it saves.

pub(super) type ChunkId = u32;

/// In no chunk: a free slot.
const NOWHERE: ChunkId = ChunkId::MAX;
/// Fewest slots of a table that holds anything.
const SLOTS_MIN: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct IndexEntry {
    print: u32,
    chunk: ChunkId,
}

const FREE: IndexEntry = IndexEntry { print: 0, chunk: NOWHERE };

/// Open addressing with linear probing. Entries lie in the order of their prints, but for collisions.
#[derive(Debug, Default)]
pub(super) struct PrintIndex {
    slots: Vec<IndexEntry>,
    len: usize,
}

impl PrintIndex {
    /// Room for `items` without growing.
    pub(super) fn with_capacity(items: usize) -> Self {
        Self { slots: vec![FREE; slots_for(items)], len: 0 }
    }

    /// Chunks that an item with this print may be in.
    pub(super) fn candidates(&self, print: u32) -> impl Iterator<Item = ChunkId> + '_ {
        self.probe(print).filter(move |(_, entry)| entry.print == print).map(|(_, entry)| entry.chunk)
    }

    pub(super) fn insert(&mut self, print: u32, chunk: ChunkId) {
        if slots_for(self.len + 1) > self.slots.len() {
            self.rebuild(slots_for(self.len + 1).max(self.slots.len() + self.slots.len() / 8));
        }
        self.place(IndexEntry { print, chunk });
    }

    /// Takes an entry away; the items behind it close the gap, so that no marker stays behind.
    pub(super) fn remove(&mut self, print: u32, chunk: ChunkId) {
        let Some(mut gap) = self.slot_of(IndexEntry { print, chunk }) else { return };
        let slots = self.slots.len();
        let mut next = gap;
        loop {
            next = (next + 1) % slots;
            let entry = self.slots[next];
            if entry == FREE {
                break;
            }
            // An entry may move back unless its home lies behind the gap.
            let distance_home = (next + slots - home(entry.print, slots)) % slots;
            let distance_gap = (next + slots - gap) % slots;
            if distance_home >= distance_gap {
                self.slots[gap] = entry;
                gap = next;
            }
        }
        self.slots[gap] = FREE;
        self.len -= 1;
        if self.slots.len() > SLOTS_MIN && slots_for(self.len) < self.slots.len() / 2 {
            self.rebuild(slots_for(self.len + self.len / 8));
        }
    }

    /// Notes that an item has moved from one chunk to another.
    pub(super) fn relocate(&mut self, print: u32, from: ChunkId, to: ChunkId) {
        if let Some(slot) = self.slot_of(IndexEntry { print, chunk: from }) {
            self.slots[slot].chunk = to;
        }
    }

    fn slot_of(&self, wanted: IndexEntry) -> Option<usize> {
        self.probe(wanted.print).find(|(_, entry)| *entry == wanted).map(|(slot, _)| slot)
    }

    /// Entries from the print's home on, up to the first free slot. There always is one: see [`slots_for`].
    fn probe(&self, print: u32) -> impl Iterator<Item = (usize, IndexEntry)> + '_ {
        let (before, from) = self.slots.split_at(home(print, self.slots.len()));
        let start = before.len();
        let tail = from.iter().enumerate().map(move |(i, entry)| (start + i, *entry));
        tail.chain(before.iter().copied().enumerate()).take_while(|(_, entry)| *entry != FREE)
    }

    /// Puts an entry into the first free slot from its home on.
    fn place(&mut self, entry: IndexEntry) {
        let slots = self.slots.len();
        let mut slot = home(entry.print, slots);
        while self.slots[slot] != FREE {
            slot = (slot + 1) % slots;
        }
        self.slots[slot] = entry;
        self.len += 1;
    }

    fn rebuild(&mut self, slots: usize) {
        let old = std::mem::replace(&mut self.slots, vec![FREE; slots]);
        self.len = 0;
        for entry in old.into_iter().filter(|entry| *entry != FREE) {
            self.place(entry);
        }
    }
}

/// Where the search for a print begins: prints are spread evenly over any number of slots.
fn home(print: u32, slots: usize) -> usize {
    ((u64::from(print) * slots as u64) >> 32) as usize
}

/// Fewest slots for so many items: at most 85 % are taken, and at least one is free.
fn slots_for(items: usize) -> usize {
    if items == 0 { 0 } else { (items * 20).div_ceil(17).max(SLOTS_MIN) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum IndexStep {
        Insert(u32, ChunkId),
        Remove(u32, ChunkId),
        Relocate(u32, ChunkId, ChunkId),
    }

    /// Prints that crowd at both ends and in the middle, so that runs collide and wrap around.
    fn print() -> impl Strategy<Value = u32> {
        prop_oneof![u32::MAX - 3..=u32::MAX, 0..4u32, (1 << 31)..(1 << 31) + 4u32, any::<u32>()]
    }

    fn step() -> impl Strategy<Value = IndexStep> {
        prop_oneof![
            3 => (print(), 0..3u32).prop_map(|(print, chunk)| IndexStep::Insert(print, chunk)),
            2 => (print(), 0..3u32).prop_map(|(print, chunk)| IndexStep::Remove(print, chunk)),
            1 => (print(), 0..3u32, 0..3u32).prop_map(|(print, from, to)| IndexStep::Relocate(print, from, to)),
        ]
    }

    fn sorted(chunks: impl IntoIterator<Item = ChunkId>) -> Vec<ChunkId> {
        let mut chunks: Vec<ChunkId> = chunks.into_iter().collect();
        chunks.sort_unstable();
        chunks
    }

    proptest! {
        #[test]
        fn behaves_like_a_map_of_bags(steps in prop::collection::vec(step(), 1..400)) {
            let mut index = PrintIndex::default();
            let mut model: HashMap<u32, Vec<ChunkId>> = HashMap::new();
            for step in steps {
                match step {
                    IndexStep::Insert(print, chunk) => {
                        index.insert(print, chunk);
                        model.entry(print).or_default().push(chunk);
                    }
                    IndexStep::Remove(print, chunk) => {
                        index.remove(print, chunk);
                        let bag = model.entry(print).or_default();
                        if let Some(i) = bag.iter().position(|held| *held == chunk) {
                            bag.swap_remove(i);
                        }
                    }
                    IndexStep::Relocate(print, from, to) => {
                        index.relocate(print, from, to);
                        if let Some(held) = model.entry(print).or_default().iter_mut().find(|c| **c == from) {
                            *held = to;
                        }
                    }
                }
            }
            prop_assert_eq!(index.len, model.values().map(Vec::len).sum::<usize>());
            for (print, chunks) in model {
                prop_assert_eq!(sorted(index.candidates(print)), sorted(chunks), "{}", print);
            }
        }
    }

    #[test]
    fn memory_follows_the_number_of_entries_both_ways() {
        let mut index = PrintIndex::default();
        let prints: Vec<u32> = (0..20_000u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
        for print in &prints {
            index.insert(*print, 7);
            let (slots, len) = (index.slots.len(), index.len);
            assert!(len < SLOTS_MIN || slots * 100 < len * 135, "{slots} slots for {len} entries");
        }
        for print in &prints[50..] {
            index.remove(*print, 7);
        }
        assert!(index.slots.len() <= 150, "{} slots for 50 entries", index.slots.len());
        assert!(prints[..50].iter().all(|print| index.candidates(*print).count() == 1));
    }
}
