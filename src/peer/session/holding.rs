//! What an offered record means where one of the two sides does not hold its content.

use super::{OfferVerdict, judge};
use crate::record::AssetRecord;
use crate::store::{Holding, StoredRecord};

/// Sets the bit of the record at `place` of an offer.
pub(super) fn mark(bits: &mut Vec<u8>, place: usize) {
    bits.resize(bits.len().max(place / 8 + 1), 0);
    bits[place / 8] |= 1 << (place % 8);
}

/// Whether the bit of the record at `place` is set.
pub(super) fn is_marked(bits: &[u8], place: usize) -> bool {
    bits.get(place / 8).is_some_and(|byte| byte & (1 << (place % 8)) != 0)
}

/// Whether there are bits for no more than `count` records.
pub(super) fn are_within(bits: &[u8], count: usize) -> bool {
    bits.len() <= count.div_ceil(8) && (count..bits.len() * 8).all(|place| !is_marked(bits, place))
}

/// As [`judge`], for a store that may know `ours` without holding its content, and a peer that offers a record and may not
/// hold its content either (`held_there`).
///
/// Content that is wanted here and held there is fetched, whichever version is newer. Content that is not wanted is not.
#[must_use]
pub fn judge_holding(
    offered: &AssetRecord,
    held_there: bool,
    ours: Option<&StoredRecord>,
    now_ms: u64,
    (ahead_max_ms, replicate_deletes): (u64, bool),
) -> OfferVerdict {
    let absent = ours.filter(|ours| ours.is_absent());
    // A size that nobody checked is no reason to refuse another.
    let resized = absent
        .filter(|ours| !ours.is_size_checked())
        .map(|ours| AssetRecord { size: offered.size, ..ours.record.clone() });
    let compared = resized.as_ref().or(ours.map(|ours| &ours.record));
    let fits = compared.is_none_or(|ours| ours.size == offered.size);
    let wanted = absent.is_some_and(|ours| ours.holding == Holding::Wanted);
    let verdict = judge(offered, compared, now_ms, ahead_max_ms, replicate_deletes);
    let settled = matches!(verdict, OfferVerdict::Settled | OfferVerdict::Apply);
    if settled && wanted && held_there && fits && !offered.deleted {
        return OfferVerdict::Fetch;
    }
    if verdict == OfferVerdict::Fetch && !held_there { OfferVerdict::TakeAbsent } else { verdict }
}
