//! How what is wanted stands, for reports.

use std::collections::BTreeSet;

use super::parts::PartsPhase;
use super::wanted::{Wanted, WantedState};
use super::{Scheduler, SessionId, WantKey, WantedAsset, WantedStatus};
use crate::record::ContentHash;

impl Scheduler {
    /// Assets wanted, and how many of their bytes are missing, to a part.
    pub fn missing(&self) -> (u64, u64) {
        (self.wanted.len() as u64, self.wanted_bytes)
    }

    /// Whether an asset is wanted or being stored, for whatever library.
    pub fn wants(&self, hash: &ContentHash) -> bool {
        !self.keys_of(hash).is_empty()
    }

    /// Whether it is for this library, at this size.
    pub fn wants_for(&self, key: &WantKey) -> bool {
        self.wanted.contains_key(key)
    }

    /// Up to `limit` wanted assets, those on their way first.
    pub fn report(&self, limit: usize) -> Vec<WantedAsset> {
        let of = |started: bool| {
            let all = self.wanted.iter().filter(move |(_, wanted)| wanted.is_started() == started);
            all.map(move |(key, w)| WantedAsset {
                key: *key,
                session: self.asked(w).next().or_else(|| w.sources.first().copied()),
                started,
            })
        };
        of(true).chain(of(false)).take(limit).collect()
    }

    /// How an asset stands, if it is wanted: for the mirror, or else for the first library.
    pub fn standing(&self, hash: &ContentHash) -> Option<WantedStatus> {
        let key = *self.keys_of(hash).first()?;
        let wanted = self.wanted.get(&key)?;
        let asked: BTreeSet<SessionId> = self.asked(wanted).collect();
        let (is_complete, only) = match &wanted.state {
            WantedState::Free | WantedState::Asked(_) => (false, None),
            WantedState::Parts(parts) => {
                (matches!(parts.phase, PartsPhase::Complete | PartsPhase::Committing), parts.only)
            }
            WantedState::Stored => (true, None),
        };
        Some(WantedStatus {
            key,
            sources: wanted.sources.clone(),
            asked: asked.into_iter().collect(),
            is_complete,
            is_paused: self.paused,
            only,
        })
    }

    pub(super) fn asked(&self, wanted: &Wanted) -> impl Iterator<Item = SessionId> {
        wanted
            .requests()
            .into_iter()
            .filter_map(|request| self.flights.get(&request))
            .map(|flight| flight.session)
    }
}
