//! What users pin: it is held whatever the configuration says.

use std::collections::BTreeSet;

use super::{HoldExceptions, HoldRules};
use crate::library::filter::Filter;
use crate::record::{AssetRecord, ContentHash};

/// Most contents that are pinned by name.
pub const PINNED_HASHES_MAX: usize = 100_000;
pub const PINNED_FILTERS_MAX: usize = 100;

/// What is pinned, by name and by filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    /// In order.
    pub hashes: Vec<ContentHash>,
    pub filters: Vec<Filter>,
}

impl Pins {
    pub(in crate::library) fn count(&self) -> usize {
        self.hashes.len() + self.filters.len()
    }
}

/// There are as many pins as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "as much is pinned as can be: {PINNED_HASHES_MAX} assets and {PINNED_FILTERS_MAX} filters; unpin some, or pin by a filter"
)]
pub struct TooManyPins;

impl HoldRules {
    /// Pins are added; those of them that are new.
    pub(in crate::library) fn pin(&self, pins: &Pins) -> Result<Pins, TooManyPins> {
        let mut exceptions = self.change();
        let hashes: BTreeSet<ContentHash> = pins.hashes.iter().copied().collect();
        let new_hashes: Vec<ContentHash> =
            hashes.into_iter().filter(|hash| !exceptions.pinned.contains(hash)).collect();
        let mut new_filters: Vec<&Filter> = Vec::new();
        for filter in &pins.filters {
            let is_there = exceptions.pinned_filters.iter().any(|pinned| pinned.is_same(filter));
            if !is_there && !new_filters.iter().any(|new| new.is_same(filter)) {
                new_filters.push(filter);
            }
        }
        if exceptions.pinned.len() + new_hashes.len() > PINNED_HASHES_MAX
            || exceptions.pinned_filters.len() + new_filters.len() > PINNED_FILTERS_MAX
        {
            return Err(TooManyPins);
        }
        let new = Pins { hashes: new_hashes, filters: new_filters.into_iter().cloned().collect() };
        exceptions.pinned.extend(&new.hashes);
        exceptions.pinned_filters.extend(new.filters.iter().cloned());
        Ok(new)
    }

    /// These pins as they were made: what is the same filter may be written otherwise.
    pub(in crate::library) fn as_pinned(&self, mut pins: Pins) -> Pins {
        let exceptions = self.exceptions.read();
        let is_meant = |pinned: &&Filter| pins.filters.iter().any(|filter| filter.is_same(pinned));
        pins.filters = exceptions.pinned_filters.iter().filter(is_meant).cloned().collect();
        pins
    }

    /// Pins are taken out; how many of them there were.
    pub(in crate::library) fn unpin(&self, pins: &Pins) -> usize {
        let mut exceptions = self.change();
        let HoldExceptions { pinned, pinned_filters, .. } = &mut *exceptions;
        let before = pinned.len() + pinned_filters.len();
        for hash in &pins.hashes {
            pinned.remove(hash);
        }
        pinned_filters.retain(|filter| !pins.filters.contains(filter));
        before - pinned.len() - pinned_filters.len()
    }

    pub fn pins(&self) -> Pins {
        let exceptions = self.exceptions.read();
        Pins {
            hashes: exceptions.pinned.iter().copied().collect(),
            filters: exceptions.pinned_filters.clone(),
        }
    }

    /// How many assets are pinned by name, and by how many filters.
    pub fn pinned(&self) -> (usize, usize) {
        let exceptions = self.exceptions.read();
        (exceptions.pinned.len(), exceptions.pinned_filters.len())
    }

    /// Whether it is pinned by name, or by a filter.
    pub fn is_pinned(&self, record: &AssetRecord) -> bool {
        let exceptions = self.exceptions.read();
        exceptions.pinned.contains(&record.hash)
            || exceptions.pinned_filters.iter().any(|filter| filter.matches(record))
    }
}
