//! Versions that one of the two sides does not take yet: its clock shows them too far ahead, or it waits for a newer list of
//! revocations. They are not offered again before their time, not asked for again, and delay nothing: the session is in
//! sync without them, and tells how many they are.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Session, SessionEffect};
use crate::record::{AssetRecord, ContentHash, Hlc, RecordId};
use crate::wire::proto::{Deferral, Later};

/// Versions of the mirror that wait at the same time, on either side. Forgetting one costs an offer per comparison; it is
/// counted all the same.
const DEFERRED_MAX: usize = 16_384;
/// The same for a library that is shared by ticket.
const DEFERRED_BY_TICKET_MAX: usize = 1_024;
/// Longest wait that is kept, of assets and records of folders; no session lasts as long.
const WAIT_MAX: Duration = Duration::from_hours(24 * 365);
/// Shortest wait that is believed, in milliseconds.
const WAIT_MIN_MS: u64 = 5_000;

#[derive(Clone, Copy, Debug)]
struct Postponed {
    rid: RecordId,
    due: Instant,
    /// Whether it waits for a newer list of revocations, and for no clock.
    held: bool,
}

/// How many versions wait, by the side that does not take them and by what they wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitingCounts {
    pub dated_here: u64,
    pub dated_there: u64,
    pub held_here: u64,
    pub held_there: u64,
}

impl WaitingCounts {
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            dated_here: self.dated_here + other.dated_here,
            dated_there: self.dated_there + other.dated_there,
            held_here: self.held_here + other.held_here,
            held_there: self.held_there + other.held_there,
        }
    }

    fn add(&mut self, here: bool, held: bool) {
        let count = match (here, held) {
            (true, false) => &mut self.dated_here,
            (false, false) => &mut self.dated_there,
            (true, true) => &mut self.held_here,
            (false, true) => &mut self.held_there,
        };
        *count += 1;
    }
}

/// Versions that wait on one side, one of each asset. How many of them are held is known at any time: it is asked for with
/// every step of a session.
#[derive(Debug, Default)]
struct PostponedVersions {
    by_hash: HashMap<ContentHash, Postponed>,
    held: u64,
}

impl PostponedVersions {
    fn insert(&mut self, hash: ContentHash, version: Postponed) {
        self.held += u64::from(version.held);
        let before = self.by_hash.insert(hash, version);
        self.held -= before.map_or(0, |before| u64::from(before.held));
    }

    fn remove(&mut self, hash: &ContentHash) -> Option<Postponed> {
        let version = self.by_hash.remove(hash)?;
        self.held -= u64::from(version.held);
        Some(version)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }

    fn dated(&self) -> u64 {
        self.by_hash.len() as u64 - self.held
    }
}

/// What waits, and what the peer has for certain.
#[derive(Debug, Default)]
pub(super) struct Deferred {
    here: PostponedVersions,
    /// The same by version.
    versions_here: HashMap<RecordId, ContentHash>,
    there: PostponedVersions,
    /// Those that there was no room for in either, since the last comparison of all records: it brings them up again.
    beyond: WaitingCounts,
    changes: u64,
    /// The newest date of a version that the peer confirmed.
    confirmed: Hlc,
    /// The newest date among offers that wait for their answer.
    newest_offered: Hlc,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitingVersion {
    pub hash: ContentHash,
    pub due: Instant,
    /// Whether it is the peer's, and waits here.
    pub here: bool,
    /// Whether it waits for a newer list of revocations, and for no clock.
    pub held: bool,
}

impl Deferred {
    pub(super) fn counts(&self) -> WaitingCounts {
        let (here, there) = (&self.here, &self.there);
        self.beyond.and(WaitingCounts {
            dated_here: here.dated(),
            dated_there: there.dated(),
            held_here: here.held,
            held_there: there.held,
        })
    }

    /// All records were compared, or are about to be: what there was no room for is offered and counted again.
    pub(super) fn compared(&mut self) {
        if self.beyond != WaitingCounts::default() {
            self.beyond = WaitingCounts::default();
            self.changes += 1;
        }
    }

    /// Both sides have the same: what waited came some other way.
    pub(super) fn all_there(&mut self) {
        if self.counts() != WaitingCounts::default() {
            self.here.clear();
            self.versions_here.clear();
            self.there.clear();
            self.beyond = WaitingCounts::default();
            self.changes += 1;
        }
    }

    fn count_beyond(&mut self, here: bool, held: bool) {
        self.beyond.add(here, held);
        self.changes += 1;
    }

    /// Whether the peer's version of this id waits here.
    pub(super) fn waits_here(&self, rid: &RecordId) -> bool {
        self.versions_here.contains_key(rid)
    }

    fn forget_here(&mut self, hash: &ContentHash) {
        if let Some(Postponed { rid, .. }) = self.here.remove(hash) {
            self.versions_here.remove(&rid);
            self.changes += 1;
        }
    }

    /// The peer offers a version of this asset: what waited is out of date, or comes once more.
    pub(super) fn offered_here(&mut self, hash: &ContentHash) {
        if !self.here.by_hash.is_empty() {
            self.forget_here(hash);
        }
    }

    /// The peer has taken a version of this asset.
    pub(super) fn confirmed_there(&mut self, hash: &ContentHash, hlc: Hlc) {
        self.confirmed = self.confirmed.max(hlc);
        if self.there.remove(hash).is_some() {
            self.changes += 1;
        }
    }

    /// These are about to be offered.
    pub(super) fn offered_there(&mut self, hlc: Hlc) {
        self.newest_offered = self.newest_offered.max(hlc);
    }

    pub(super) fn all_answered(&mut self) {
        self.newest_offered = Hlc::default();
    }
}

impl Session {
    fn deferred_max(&self) -> usize {
        if self.settings.tag.is_empty() { DEFERRED_MAX } else { DEFERRED_BY_TICKET_MAX }
    }

    /// Answers offers of versions that are not taken for so many milliseconds, some of which are held.
    pub(super) fn defer(
        &mut self,
        later: Vec<(AssetRecord, u64, bool)>,
        now: Instant,
        out: &mut Vec<SessionEffect>,
    ) {
        let mut deferrals = Vec::new();
        for (record, wait_ms, held) in later {
            let rid = record.id(self.settings.record_key.expose());
            for _ in 0..self.taking.remove(&record.hash) {
                deferrals.push(Deferral {
                    hash: Bytes::copy_from_slice(&record.hash.0),
                    rid: Bytes::copy_from_slice(&rid.0),
                    wait_ms,
                    held,
                    entry: false,
                });
            }
            self.echoes.forget(&record.hash);
            self.taking.failed.remove(&record.hash);
            self.deferred.forget_here(&record.hash);
            if self.deferred.here.by_hash.len() < self.deferred_max() {
                let postponed = Postponed { rid, due: due(now, wait_ms), held };
                self.deferred.here.insert(record.hash, postponed);
                self.deferred.versions_here.insert(rid, record.hash);
                self.deferred.changes += 1;
            } else {
                self.deferred.count_beyond(true, held);
            }
        }
        self.postpone(&deferrals, out);
    }

    /// The peer does not take versions of ours yet.
    pub(super) fn on_later(&mut self, later: &Later, now: Instant) {
        for deferral in &later.deferrals {
            if deferral.entry {
                self.on_entry_later(deferral, now);
                continue;
            }
            let Deferral { hash, rid, wait_ms, held, .. } = deferral;
            let (Some(hash), Some(rid)) = (ContentHash::from_slice(hash), RecordId::from_slice(rid)) else {
                continue;
            };
            if !self.close_offer(&hash) {
                continue;
            }
            let room = self.deferred.there.by_hash.len() < self.deferred_max();
            if room || self.deferred.there.by_hash.contains_key(&hash) {
                let due = believed(now, *wait_ms);
                self.deferred.there.insert(hash, Postponed { rid, due, held: *held });
                self.deferred.changes += 1;
            } else {
                self.deferred.count_beyond(false, *held);
            }
        }
    }

    /// Whether the peer would not take this very version yet.
    pub(super) fn waits_there(&self, record: &AssetRecord) -> bool {
        let waiting = self.deferred.there.by_hash.get(&record.hash);
        waiting.is_some_and(|waiting| record.id(self.settings.record_key.expose()) == waiting.rid)
    }

    /// Offers what the peer would take now, and lets what we would take be asked for again.
    pub(super) fn end_deferrals(&mut self, now: Instant) {
        let deferred = &mut self.deferred;
        let over = |(hash, waiting): (&ContentHash, &Postponed)| (waiting.due <= now).then_some(*hash);
        let here: Vec<ContentHash> = deferred.here.by_hash.iter().filter_map(over).collect();
        let there: Vec<ContentHash> = deferred.there.by_hash.iter().filter_map(over).collect();
        for hash in &here {
            deferred.forget_here(hash);
        }
        for hash in &there {
            deferred.there.remove(hash);
            deferred.changes += 1;
        }
        if !there.is_empty() {
            self.enqueue(there);
        }
    }

    /// What waits here may have to wait no longer, and is asked for again.
    pub(super) fn reconsider(&mut self) {
        self.reconsider_entries();
        if !self.deferred.here.by_hash.is_empty() {
            self.deferred.here.clear();
            self.deferred.versions_here.clear();
            self.deferred.changes += 1;
            self.comparing.missed = true;
        }
    }

    /// The newest date of a version that the peer confirmed.
    pub fn confirmed(&self) -> Hlc {
        self.deferred.confirmed
    }

    /// The newest date among offers that wait for their answer.
    pub fn newest_offered(&self) -> Hlc {
        self.deferred.newest_offered
    }

    /// A number that grows with each change of [`Session::waiting`].
    pub fn waiting_changes(&self) -> u64 {
        self.deferred.changes + self.entries.waiting_changes
    }

    /// Versions that wait, at most `limit` of either side.
    pub fn waiting(&self, limit: usize) -> impl Iterator<Item = WaitingVersion> {
        let of = move |versions: &PostponedVersions, here| {
            let some = versions.by_hash.iter().take(limit);
            let shown = |(hash, version): (&ContentHash, &Postponed)| {
                let Postponed { due, held, .. } = *version;
                WaitingVersion { hash: *hash, due, here, held }
            };
            some.map(shown).collect::<Vec<_>>()
        };
        of(&self.deferred.here, true).into_iter().chain(of(&self.deferred.there, false))
    }
}

/// When what waits for so many milliseconds is due.
pub(super) fn due(now: Instant, wait_ms: u64) -> Instant {
    now + Duration::from_millis(wait_ms).min(WAIT_MAX)
}

/// The same of a wait that the peer names.
pub(super) fn believed(now: Instant, wait_ms: u64) -> Instant {
    due(now, wait_ms.max(WAIT_MIN_MS))
}
