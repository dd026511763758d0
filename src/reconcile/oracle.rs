//! The `negentropy` crate as the judge of ours, and the sets that both are tried on.

use negentropy::{Id, Negentropy, NegentropyStorageBase, NegentropyStorageVector};

use super::tree::Item;
use crate::record::{ContentHash, Hlc, RecordId};

pub(super) type Oracle<'a> = Negentropy<'a, NegentropyStorageVector>;

pub(super) fn storage(items: &[Item]) -> NegentropyStorageVector {
    let mut storage = NegentropyStorageVector::with_capacity(items.len());
    for item in items {
        storage.insert(item.hlc.0, Id::from_byte_array(item.rid.0)).unwrap();
    }
    storage.seal().unwrap();
    storage
}

pub(super) fn fingerprint(ids: &[RecordId]) -> [u8; 16] {
    let mut storage = NegentropyStorageVector::new();
    for (i, id) in ids.iter().enumerate() {
        storage.insert(i as u64, Id::from_byte_array(id.0)).unwrap();
    }
    storage.seal().unwrap();
    storage.fingerprint(0, ids.len()).unwrap().to_bytes()
}

/// An item of this clock and id; the hash is a function of the id, as an id names one content.
pub(super) fn item(hlc: u64, rid: [u8; 32]) -> Item {
    Item { hlc: Hlc(hlc), rid: RecordId(rid), hash: ContentHash(rid.map(|byte| !byte)) }
}

/// Reproducible numbers (`SplitMix64`).
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(super) fn id(&mut self) -> [u8; 32] {
        let mut id = [0; 32];
        for lane in id.as_chunks_mut().0 {
            *lane = self.next().to_le_bytes();
        }
        id
    }
}
