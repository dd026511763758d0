//! Which records of an offer are of contents that its sender does not hold: a bit for each.

/// Sets the bit of the record at `place` of an offer.
pub(super) fn mark(bits: &mut Vec<u8>, place: usize) {
    bits.resize(bits.len().max(place / 8 + 1), 0);
    bits[place / 8] |= 1 << (place % 8);
}

pub(super) fn is_marked(bits: &[u8], place: usize) -> bool {
    bits.get(place / 8).is_some_and(|byte| byte & (1 << (place % 8)) != 0)
}

/// Whether there are bits for no more than `count` records.
pub(super) fn are_within(bits: &[u8], count: usize) -> bool {
    bits.len() <= count.div_ceil(8) && (count..bits.len() * 8).all(|place| !is_marked(bits, place))
}
