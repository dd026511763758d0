//! Room under the store's quota: what is kept for contents on their way, and which of them have none.

use std::time::{Duration, Instant};

use super::{HoldExceptions, HoldRules};
use crate::record::ContentHash;

/// Most contents without room that are remembered of. Others are asked for now and then in vain.
const NO_ROOM_MAX: usize = 1_000_000;
/// How long room is kept for a content until somebody is asked for it.
pub(super) const RESERVED_AT_LEAST: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
pub(super) struct Reservation {
    bytes: u64,
    pub(super) since: Instant,
}

impl HoldExceptions {
    /// Keeps nothing for it any more.
    pub(super) fn give_back(&mut self, hash: &ContentHash) {
        if let Some(Reservation { bytes, .. }) = self.reserved.remove(hash) {
            self.reserved_bytes = self.reserved_bytes.saturating_sub(bytes);
        }
    }
}

impl HoldRules {
    /// Whether the store had no room for it under its quota when it was last offered.
    pub fn lacks_room(&self, hash: &ContentHash) -> bool {
        self.exceptions.read().no_room.contains_key(hash)
    }

    /// Keeps room for a content that is about to be asked for, where `left` is what is left of the store's quota; whether there is some.
    /// If not, it is not asked for until there is.
    pub fn reserve(&self, hash: ContentHash, bytes: u64, left: Option<u64>) -> bool {
        let Some(left) = left else { return true };
        let mut exceptions = self.change();
        let since = Instant::now();
        exceptions.give_back(&hash);
        if bytes.saturating_add(exceptions.reserved_bytes) > left {
            if exceptions.no_room.len() < NO_ROOM_MAX {
                exceptions.no_room.insert(hash, bytes);
            }
            return false;
        }
        exceptions.no_room.remove(&hash);
        exceptions.reserved.insert(hash, Reservation { bytes, since });
        exceptions.reserved_bytes += bytes;
        true
    }

    /// Gives back what was kept for contents that nobody is asked for any more.
    pub fn give_back(&self, is_asked_for: impl Fn(&ContentHash) -> bool) {
        if self.exceptions.read().reserved.is_empty() {
            return;
        }
        let is_young = |reserved: &Reservation| reserved.since.elapsed() < RESERVED_AT_LEAST;
        let mut exceptions = self.change();
        exceptions.reserved.retain(|hash, reserved| is_young(reserved) || is_asked_for(hash));
        exceptions.reserved_bytes = exceptions.reserved.values().map(|reserved| reserved.bytes).sum();
    }

    /// Those of the contents without room that fit into what is left of the quota now, the smallest first: they are wanted again.
    pub(in crate::library) fn take_fitting(&self, left: Option<u64>) -> Vec<ContentHash> {
        let mut left = {
            let exceptions = self.exceptions.read();
            let left = left.map(|left| left.saturating_sub(exceptions.reserved_bytes));
            let smallest = exceptions.no_room.values().min();
            if smallest.is_none_or(|smallest| left.is_some_and(|left| *smallest > left)) {
                return Vec::new();
            }
            left
        };
        let mut exceptions = self.change();
        let mut waiting: Vec<(u64, ContentHash)> =
            exceptions.no_room.iter().map(|(hash, bytes)| (*bytes, *hash)).collect();
        waiting.sort_unstable();
        let fits = |(bytes, _): &(u64, ContentHash)| match &mut left {
            None => true,
            Some(left) => left.checked_sub(*bytes).inspect(|rest| *left = *rest).is_some(),
        };
        let fitting: Vec<ContentHash> = waiting.into_iter().take_while(fits).map(|(_, hash)| hash).collect();
        for hash in &fitting {
            exceptions.no_room.remove(hash);
        }
        fitting
    }

    /// How many contents have no room, and their sizes altogether.
    pub fn without_room(&self) -> (u64, u64) {
        let exceptions = self.exceptions.read();
        let bytes = exceptions.no_room.values().copied().fold(0, u64::saturating_add);
        (exceptions.no_room.len() as u64, bytes)
    }
}
