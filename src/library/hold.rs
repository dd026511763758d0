//! Of which assets of the network this node wants the contents: by its configuration, by what users pinned, and by what was asked for.
//!
//! That concerns what came from own devices as a record alone. What is here stays whatever the rules say, and what was here and is
//! damaged or lost is wanted in any case: the store made a BLAKE3 of it then, which no record has whose content never was here.
//! The store knows nothing of these rules: agents that share a service may have different ones.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock, RwLockWriteGuard};

use self::bound::BoundFolders;
use super::filter::Filter;
use super::registry::KeptPins;
use super::{Libraries, Library, LibraryKind, SharedLibrary};
use crate::identity::LibraryKeys;
use crate::record::{AssetRecord, ContentHash};
use crate::store::{FeedEntry, Holding, StoredRecord};

mod bound;
mod pins;
mod room;
#[cfg(test)]
mod tests;

pub use self::pins::{Pins, TooManyPins};
use self::room::Reservation;

/// Most contents that were asked for and did not come yet, and that is remembered of.
const WISHED_MAX: usize = 10_000;
/// Most contents that bound folders wait for. Beyond it they are asked for again when the folder is looked at.
const NEEDED_MAX: usize = 1_000_000;
/// Most contents that a pin wants again, and that is remembered of. Others stay wanted when the pin is taken back.
const WANTED_AGAIN_MAX: usize = 1_000_000;

/// What the configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HoldRule {
    #[default]
    Everything,
    Nothing,
    Matching(Filter),
}

impl HoldRule {
    fn matches(&self, record: &AssetRecord) -> bool {
        match self {
            Self::Everything => true,
            Self::Nothing => false,
            Self::Matching(filter) => filter.matches(record),
        }
    }
}

/// What is held whatever the configuration says.
#[derive(Debug, Default)]
struct HoldExceptions {
    pinned: BTreeSet<ContentHash>,
    pinned_filters: Vec<Filter>,
    /// Of the libraries of this node: who shares something has it, and who joins wants it.
    shared: Vec<Filter>,
    /// Somebody asked for these.
    wished: HashSet<ContentHash>,
    /// What a user had let go of and a pin wants again, since the program was started.
    wanted_again: HashSet<ContentHash>,
    /// Bound folders wait for these.
    needed: HashSet<ContentHash>,
    /// Wishes that are no longer: they came, or were deleted.
    fulfilled: Vec<ContentHash>,
    /// Contents that the store has no room for under its quota, with their sizes. They are not asked for until there is some.
    no_room: HashMap<ContentHash, u64>,
    /// What is kept of the quota for contents that are on their way, and since when.
    reserved: HashMap<ContentHash, Reservation>,
    /// Sum of that.
    reserved_bytes: u64,
}

/// The rules of a node. Cheap to ask: nothing is read for it.
#[derive(Debug, Default)]
pub struct HoldRules {
    rule: HoldRule,
    exceptions: RwLock<HoldExceptions>,
    bound: RwLock<BoundFolders>,
    /// Grows when more is wanted than before.
    generation: AtomicU64,
}

impl HoldRules {
    pub fn new(rule: HoldRule) -> Self {
        Self { rule, ..Self::default() }
    }

    /// What the configuration says.
    pub fn rule(&self) -> &HoldRule {
        &self.rule
    }

    fn change(&self) -> RwLockWriteGuard<'_, HoldExceptions> {
        self.exceptions.write()
    }

    /// Takes over what was written down.
    pub(super) fn restore(&self, kept: KeptPins) {
        let KeptPins { pins, wished } = kept;
        let mut exceptions = self.change();
        exceptions.pinned = pins.hashes.into_iter().collect();
        exceptions.pinned_filters = pins.filters;
        exceptions.wished = wished.into_iter().collect();
    }

    /// Whether the content of an asset is wanted of which nothing was here yet.
    pub fn wants(&self, record: &AssetRecord) -> bool {
        if self.rule == HoldRule::Everything {
            return true;
        }
        let exceptions = self.exceptions.read();
        let HoldExceptions { pinned, pinned_filters, shared, wished, needed, .. } = &*exceptions;
        let hash = &record.hash;
        self.rule.matches(record)
            || pinned.contains(hash)
            || wished.contains(hash)
            || needed.contains(hash)
            || pinned_filters.iter().chain(shared).any(|filter| filter.matches(record))
    }

    /// What the store has, with these rules applied: what is not here and not to be held is not wanted.
    pub(super) fn applied(&self, record: &AssetRecord, holding: Holding) -> Holding {
        let is_left_out = || record.blake3.is_none() && !self.wants(record);
        if holding == Holding::Wanted && (is_left_out() || self.lacks_room(&record.hash)) {
            Holding::Unwanted
        } else {
            holding
        }
    }

    /// Pins want these again, which a user had let go of.
    pub(super) fn note_wanted_again(&self, hashes: &[ContentHash]) {
        let mut exceptions = self.change();
        let room = WANTED_AGAIN_MAX.saturating_sub(exceptions.wanted_again.len());
        exceptions.wanted_again.extend(hashes.iter().take(room));
    }

    /// Those of these contents that only pins want again.
    pub(super) fn wanted_again(&self, hashes: &[ContentHash]) -> Vec<ContentHash> {
        let exceptions = self.exceptions.read();
        hashes.iter().filter(|hash| exceptions.wanted_again.contains(*hash)).copied().collect()
    }

    /// What is not held here and not wanted, by a user's word or by the rules of now, waits for no room.
    pub(super) fn let_be(&self, record: &AssetRecord, holding: Holding) {
        let is_wanted = || holding == Holding::Wanted && (record.blake3.is_some() || self.wants(record));
        if self.lacks_room(&record.hash) && !is_wanted() {
            self.change().no_room.remove(&record.hash);
        }
    }

    /// Whether the content of what a peer offers is wanted, where the store has `ours` of it: the version that stays decides.
    pub fn wants_offered(&self, offered: &AssetRecord, ours: Option<&StoredRecord>) -> bool {
        let ours = ours.filter(|ours| !ours.record.deleted);
        match ours {
            Some(ours) if ours.record.blake3.is_some() => true,
            Some(ours) if !offered.supersedes(&ours.record) => self.wants(&ours.record),
            _ => self.wants(offered),
        }
    }

    /// Whether it is not held here because of the rules alone.
    pub fn leaves_out(&self, stored: &StoredRecord) -> bool {
        stored.is_absent()
            && stored.holding == Holding::Wanted
            && self.applied(&stored.record, stored.holding) == Holding::Unwanted
    }

    /// Whether a library of this node has it by its filter.
    pub fn is_shared(&self, record: &AssetRecord) -> bool {
        self.exceptions.read().shared.iter().any(|filter| filter.matches(record))
    }

    /// Says by which filters libraries of this node go; whether that was otherwise.
    pub(super) fn set_shared(&self, filters: Vec<Filter>) -> bool {
        let mut exceptions = self.change();
        let is_new = exceptions.shared != filters;
        exceptions.shared = filters;
        is_new
    }

    /// Somebody asked for this content; whether that is to be remembered, and is not yet.
    fn wish(&self, hash: ContentHash) -> bool {
        let mut exceptions = self.change();
        self.rule != HoldRule::Everything
            && exceptions.wished.len() < WISHED_MAX
            && exceptions.wished.insert(hash)
    }

    /// A content is here, or its asset was deleted: what waited for it waits no more.
    pub(super) fn settle(&self, hash: &ContentHash) {
        let is_waited_for = {
            let exceptions = self.exceptions.read();
            exceptions.wished.contains(hash)
                || exceptions.needed.contains(hash)
                || exceptions.no_room.contains_key(hash)
                || exceptions.wanted_again.contains(hash)
                || exceptions.reserved.contains_key(hash)
        };
        if is_waited_for {
            let mut exceptions = self.change();
            exceptions.needed.remove(hash);
            exceptions.no_room.remove(hash);
            exceptions.wanted_again.remove(hash);
            exceptions.give_back(hash);
            if exceptions.wished.remove(hash) {
                exceptions.fulfilled.push(*hash);
            }
        }
    }

    /// Wishes that came true since the last call.
    pub(super) fn take_fulfilled(&self) -> Vec<ContentHash> {
        if self.exceptions.read().fulfilled.is_empty() {
            return Vec::new();
        }
        std::mem::take(&mut self.change().fulfilled)
    }

    /// Grows when more is wanted than before: peers are to be asked for it.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    pub(super) fn grow(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }
}

impl Library {
    /// The library of the passphrase, of a node that may not want all contents.
    pub fn holding(keys: LibraryKeys, holds: HoldRules) -> Self {
        let (kind, holds) = (LibraryKind::Mirror, Arc::new(holds));
        Self { keys, kind, index: Mutex::default(), feed: Arc::default(), holds }
    }

    /// Of which assets contents are wanted here; it concerns the mirror alone.
    pub fn hold_rules(&self) -> &HoldRules {
        &self.holds
    }

    /// A change of the store as it is for the mirror: what is not to be held here is not wanted.
    pub(super) fn with_rules(&self, entry: FeedEntry) -> FeedEntry {
        if !self.is_mirror() {
            return entry;
        }
        if entry.holding.is_held() || entry.record.deleted {
            self.holds.settle(&entry.record.hash);
        } else {
            self.holds.let_be(&entry.record, entry.holding);
        }
        FeedEntry { holding: self.holds.applied(&entry.record, entry.holding), ..entry }
    }

    pub fn all_absent(&self) -> Vec<ContentHash> {
        self.index().absent.iter().copied().collect()
    }

    /// Wants those of these contents that are not here.
    pub(super) fn want_named(&self, hashes: &[ContentHash]) {
        let mut index = self.index();
        let hashes: Vec<ContentHash> =
            hashes.iter().filter(|hash| index.absent.contains(*hash)).copied().collect();
        if !hashes.is_empty() {
            index.wanted.extend(hashes);
            self.holds.grow();
        }
    }

    /// Does not ask for a content that there is no room for.
    pub fn leave_out(&self, hash: &ContentHash) {
        self.index().wanted.remove(hash);
    }

    /// Looks by the rules of now whether what the store had a moment ago is wanted. What changed since was looked at by those rules.
    pub(super) fn look_whether_wanted(&self, stored: &[StoredRecord]) {
        let mut index = self.index();
        for StoredRecord { record, holding } in stored.iter().filter(|stored| stored.is_absent()) {
            self.holds.let_be(record, *holding);
            let is_as_before = index.tree.get(&record.hash) == Some(self.item(record));
            if is_as_before && index.absent.contains(&record.hash) {
                index.note_holding(record, self.holds.applied(record, *holding));
            }
        }
    }
}

impl Libraries {
    /// Of which assets of the network contents are wanted here.
    pub fn hold_rules(&self) -> &HoldRules {
        self.mirror().hold_rules()
    }

    /// A user asked for a content that is known and not here: it is wanted until it comes, also after a restart. Blocks.
    pub fn wish(&self, hash: ContentHash) {
        if !self.hold_rules().wish(hash) {
            return;
        }
        self.mirror().want_named(&[hash]);
        // In this life of the process it is wanted all the same.
        if let Some(Err(error)) = self.registry().map(|registry| registry.keep_wish(hash)) {
            tracing::warn!(%hash, %error, "that a content is wanted is not written down");
        }
    }

    /// A bound folder waits for these contents: they are wanted until they come, as long as the process lives.
    pub fn need(&self, hashes: &[ContentHash]) {
        let holds = self.hold_rules();
        if holds.rule == HoldRule::Everything {
            return;
        }
        {
            let mut exceptions = holds.change();
            let room = NEEDED_MAX.saturating_sub(exceptions.needed.len());
            exceptions.needed.extend(hashes.iter().take(room));
        }
        self.mirror().want_named(hashes);
    }

    /// Brings the rules in line with the libraries that there are; whether they changed.
    pub(super) fn note_filters(&self) -> bool {
        let shared = self.shared();
        let filters = shared.iter().filter_map(|library| library.shared()).map(SharedLibrary::filter);
        let filters = filters.filter(|filter| filter.folder().is_none()).cloned().collect();
        self.hold_rules().set_shared(filters)
    }
}
