//! What an offered record means for us: compared with what the store or the library has, before anything is fetched.

use super::SIZE_MAX;
use crate::library::{Library, OfferMeaning};
use crate::record::{AssetRecord, HLC_AHEAD_BY_TICKET_MAX_MS};
use crate::store::{Holding, StoredRecord, TOMBSTONES_KEPT_MS};

/// Time until a record is looked at again that waits for a newer list of revocations, if none comes.
pub(super) const HELD_RETRY_MS: u64 = 15 * 60 * 1000;

/// What an offered record means for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OfferVerdict {
    /// Nothing to do: we have it, or something newer, or do not apply deletions.
    Settled,
    /// The library has it from now on, and the store is not concerned.
    Noted,
    /// Take the record; its content is here already, or it is a tombstone.
    Apply,
    /// Take the record without its content, which is on neither side.
    TakeAbsent,
    /// Take the record once its content is here.
    Fetch,
    /// The same, with the record that is named in place of the offered one: a user wants back what was deleted here. It
    /// is news to everybody, the peer included.
    Revive,
    /// Ours stays, since it was written after the offered one was first seen: it is written once more, later than that.
    Reassert,
    /// It is dated too far ahead of our clock: it is taken in so many milliseconds, and not before.
    Later(u64),
    /// Nobody can tell whether its sender's ticket still holds: it is looked at again in so many milliseconds.
    Hold(u64),
    /// Not acceptable, and why.
    Refuse(String),
}

/// What nobody may say of an asset, and why.
fn refuse(offered: &AssetRecord) -> Option<OfferVerdict> {
    let why = || format!("it says {} bytes, which nothing has: at most {SIZE_MAX}", offered.size);
    (offered.size > SIZE_MAX).then(|| OfferVerdict::Refuse(why()))
}

/// Whether a deletion is so old that the other nodes have forgotten it: it is not learned anew from one that is about to
/// forget it, too.
fn is_forgotten(offered: &AssetRecord, now_ms: u64) -> bool {
    offered.deleted && offered.hlc.ms().saturating_add(TOMBSTONES_KEPT_MS) < now_ms
}

/// Compares a record that a member of a library offers with what the library has, where the store has
/// `stored` of it and the peer holds the content, or not (`held_there`), and comes with the ticket of number `from`. With `holds`,
/// what would be news has to wait for a newer list of revocations.
pub fn judge_for(
    library: &Library,
    offered: &AssetRecord,
    held_there: bool,
    stored: Option<&StoredRecord>,
    now_ms: u64,
    (replicate_deletes, holds): (bool, bool),
    from: Option<u64>,
) -> OfferVerdict {
    if let Some(refused) = refuse(offered) {
        return refused;
    }
    let version = library.version(&offered.hash, stored);
    let is_news = version.as_ref().is_none_or(|version| offered.supersedes(&version.record));
    if let Some(wait_ms) = offered.hlc.is_due_in(now_ms, HLC_AHEAD_BY_TICKET_MAX_MS).filter(|_| is_news) {
        return OfferVerdict::Later(wait_ms);
    }
    // An older version is news, too, where it may be taken for its content.
    let is_other = |version: &StoredRecord| {
        version.holding == Holding::Wanted && held_there && !version.record.is_version_of(offered)
    };
    if holds && (is_news || version.as_ref().is_some_and(is_other)) {
        return OfferVerdict::Hold(HELD_RETRY_MS);
    }
    if version.is_none() && is_forgotten(offered, now_ms) {
        return OfferVerdict::Settled;
    }
    match library.consider(offered, held_there, stored, replicate_deletes, from) {
        OfferMeaning::Known => OfferVerdict::Settled,
        OfferMeaning::Noted => OfferVerdict::Noted,
        OfferMeaning::Replaces => OfferVerdict::Apply,
        OfferMeaning::Wanted => OfferVerdict::Fetch,
        OfferMeaning::Refused(reason) => OfferVerdict::Refuse(reason),
    }
}

/// Compares an offered record with ours, at `now_ms`; one that is dated more than `ahead_max_ms` later has to wait.
pub(super) fn judge(
    offered: &AssetRecord,
    ours: Option<&AssetRecord>,
    now_ms: u64,
    ahead_max_ms: u64,
    replicate_deletes: bool,
) -> OfferVerdict {
    if let Some(refused) = refuse(offered) {
        return refused;
    }
    if ours.is_some_and(|ours| ours == offered || !offered.supersedes(ours)) {
        return OfferVerdict::Settled;
    }
    if let Some(wait_ms) = offered.hlc.is_due_in(now_ms, ahead_max_ms) {
        return OfferVerdict::Later(wait_ms);
    }
    let held = ours.filter(|ours| !ours.deleted);
    if offered.deleted {
        let forgotten = ours.is_none() && is_forgotten(offered, now_ms);
        return if replicate_deletes && !forgotten { OfferVerdict::Apply } else { OfferVerdict::Settled };
    }
    match held {
        Some(held) if held.size != offered.size => OfferVerdict::Refuse(format!(
            "it says {} bytes, but the content of that hash has {}",
            offered.size, held.size
        )),
        Some(_) => OfferVerdict::Apply,
        None => OfferVerdict::Fetch,
    }
}

/// As [`judge`], for a store that may know `ours` without holding its content, and a peer that offers a record and may not
/// hold its content either (`held_there`).
///
/// Content that is wanted here and held there is fetched, whichever version is newer. Content that is not wanted is not.
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
