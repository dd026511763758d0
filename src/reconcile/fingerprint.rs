//! The protocol's fingerprint of a set of ids: independent of their order, and of a part as easily as of the whole.

use sha2::{Digest, Sha256};

use super::wire::put_varint;
use crate::record::RecordId;

pub(super) const FINGERPRINT_BYTES: usize = 16;

/// Sum of ids, each read as a little-endian number, modulo 2^256. Least significant lane first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct IdSum([u64; 4]);

impl IdSum {
    pub(super) fn of<'a>(ids: impl IntoIterator<Item = &'a RecordId>) -> Self {
        ids.into_iter().fold(Self::default(), |sum, id| sum.plus(id.into()))
    }

    pub(super) fn plus(mut self, other: Self) -> Self {
        let mut carry = false;
        for (lane, addend) in self.0.iter_mut().zip(other.0) {
            (*lane, carry) = lane.carrying_add(addend, carry);
        }
        self
    }

    pub(super) fn minus(mut self, other: Self) -> Self {
        let mut borrow = false;
        for (lane, subtrahend) in self.0.iter_mut().zip(other.0) {
            (*lane, borrow) = lane.borrowing_sub(subtrahend, borrow);
        }
        self
    }

    /// The first half of SHA-256 over the sum and the number of ids in it.
    pub(super) fn fingerprint(self, count: usize) -> [u8; FINGERPRINT_BYTES] {
        let mut input = Vec::with_capacity(32 + 10);
        input.extend(self.0.iter().flat_map(|lane| lane.to_le_bytes()));
        put_varint(&mut input, count as u64);
        let digest: [u8; 32] = Sha256::digest(&input).into();
        let mut half = [0; FINGERPRINT_BYTES];
        half.copy_from_slice(&digest[..FINGERPRINT_BYTES]);
        half
    }
}

impl From<&RecordId> for IdSum {
    fn from(id: &RecordId) -> Self {
        let mut lanes = [0; 4];
        for (lane, bytes) in lanes.iter_mut().zip(id.0.as_chunks().0) {
            *lane = u64::from_le_bytes(*bytes);
        }
        Self(lanes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn carries_cross_lanes_and_leave_at_the_top() {
        let mut one = [0; 32];
        one[0] = 1;
        let sum = IdSum::of([&RecordId([0xff; 32]), &RecordId(one)]);
        assert_eq!(sum, IdSum::default(), "2^256 - 1 + 1 wraps to nothing");
        assert_eq!(IdSum::default().minus((&RecordId(one)).into()), IdSum([u64::MAX; 4]));
    }

    proptest! {
        #[test]
        fn agrees_with_the_oracle_and_taking_away_undoes_adding(ids: Vec<[u8; 32]>) {
            let ids: Vec<RecordId> = ids.into_iter().map(RecordId).collect();
            let sum = IdSum::of(&ids);
            let expected = crate::reconcile::oracle::fingerprint(&ids);
            prop_assert_eq!(sum.fingerprint(ids.len()), expected);
            let nothing = ids.iter().fold(sum, |sum, id| sum.minus(id.into()));
            prop_assert_eq!(nothing, IdSum::default());
        }
    }
}
