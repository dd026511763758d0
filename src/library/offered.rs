//! What an offer of a library's member means here, given what the library has and what the store has. Pure: what is to be
//! written into the store is for the caller, under the condition that the store still has what was looked at.

use std::collections::HashMap;
use std::sync::Arc;

use super::asides::Aside;
use super::{Libraries, Library};
use crate::record::{AssetRecord, ContentHash};
use crate::store::{FeedEntry, Holding, StoredRecord};

/// What a record means that a member offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OfferMeaning {
    /// The library has it, or something newer.
    Known,
    /// The library has it now, and the store is not concerned.
    Noted,
    /// It takes the place of the store's version, which is in the library.
    Replaces,
    /// It counts once the library has delivered its content, whatever the store has.
    Wanted,
    /// Not acceptable, and why.
    Refused(String),
}

/// What becomes of a record whose content came through the library in full, where the store has the content otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OtherwiseHeld {
    /// The library has it, beside what the store has; or has something newer.
    Beside,
    /// What the store has is in the library by now: it is to be replaced by the record.
    IsMember,
    /// There is no room to take note of it.
    Full,
}

const FULL: &str = "the library has more beside this node's store than the node takes note of";

/// Where a library's version of a content stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    InStore,
    Aside,
}

impl Library {
    /// The library's version of a content of which the store has `stored`, as its members know it.
    pub fn version(&self, hash: &ContentHash, stored: Option<&StoredRecord>) -> Option<StoredRecord> {
        self.version_and_place(hash, stored).map(|(version, _)| version)
    }

    /// The same of several contents, of which the store has `stored`.
    pub fn versions(&self, hashes: &[ContentHash], stored: Vec<StoredRecord>) -> Vec<StoredRecord> {
        if self.is_mirror() {
            return stored;
        }
        let stored: HashMap<ContentHash, StoredRecord> =
            stored.into_iter().map(|stored| (stored.record.hash, stored)).collect();
        hashes.iter().filter_map(|hash| self.version(hash, stored.get(hash))).collect()
    }

    /// Whether what the library says of an asset is not what is shown here, for good: it may only be read, and what users of this
    /// network say of the asset has precedence here.
    pub fn is_said_otherwise(&self, stored: &StoredRecord) -> bool {
        if self.is_mirror() || self.writes() || stored.record.deleted || stored.record.via.is_some() {
            return false;
        }
        let version = self.version_and_place(&stored.record.hash, Some(stored));
        version.is_some_and(|(StoredRecord { record, .. }, stands)| {
            stands == Stands::Aside && !record.deleted && record.meta != stored.record.meta
        })
    }

    /// Whether members may have the content of which the store has `stored`.
    pub fn serves(&self, stored: &StoredRecord) -> bool {
        self.version(&stored.record.hash, Some(stored)).is_some_and(|version| version.holding.is_held())
    }

    /// Those of the store's changes that members are to hear of, as they see them. Where the library has something else,
    /// they hear of that when it changes.
    pub fn changes(&self, entries: &Arc<[FeedEntry]>) -> Option<Arc<[FeedEntry]>> {
        if self.is_mirror() {
            return Some(Arc::clone(entries));
        }
        let theirs = |FeedEntry { seq, record, holding, .. }: &FeedEntry| {
            let stored = StoredRecord { record: record.clone(), holding: *holding };
            match self.version_and_place(&record.hash, Some(&stored))? {
                (version, Stands::InStore) => Some(FeedEntry {
                    seq: *seq,
                    record: version.record,
                    holding: *holding,
                    formers: Vec::new(),
                }),
                (_, Stands::Aside) => None,
            }
        };
        let theirs: Arc<[FeedEntry]> = entries.iter().filter_map(theirs).collect();
        (!theirs.is_empty()).then_some(theirs)
    }

    fn version_and_place(
        &self,
        hash: &ContentHash,
        stored: Option<&StoredRecord>,
    ) -> Option<(StoredRecord, Stands)> {
        if self.is_mirror() {
            return stored.cloned().map(|stored| (stored, Stands::InStore));
        }
        let member = stored
            .filter(|stored| self.is_member(&stored.record))
            .map(|stored| StoredRecord { record: self.for_members(&stored.record), holding: stored.holding });
        let aside = self.index().asides.get(hash).cloned();
        let aside = aside.map(|Aside { record, holding, .. }| {
            let is_lost = holding.is_held() && !stored.is_some_and(|stored| stored.holding.is_held());
            let holding = if is_lost { Holding::Unwanted } else { holding };
            (StoredRecord { record, holding }, Stands::Aside)
        });
        match (aside, member) {
            (Some((aside, _)), Some(member)) if !aside.record.supersedes(&member.record) => {
                Some((member, Stands::InStore))
            }
            (Some(aside), _) => Some(aside),
            (None, member) => member.map(|member| (member, Stands::InStore)),
        }
    }

    /// What a record means that a member offers, who holds the content or not (`held_there`), where the store has `stored`
    /// of it. Takes note of it where that is all, as of what came `from` the holder of the ticket of that number. With
    /// `deletes`, what members delete is deleted here, too.
    pub fn consider(
        &self,
        offered: &AssetRecord,
        held_there: bool,
        stored: Option<&StoredRecord>,
        deletes: bool,
        from: Option<u64>,
    ) -> OfferMeaning {
        let version = self.version_and_place(&offered.hash, stored);
        if let Some((version, stands)) = &version
            && !offered.supersedes(&version.record)
        {
            if *stands == Stands::Aside && !offered.deleted && self.recall_aside(&offered.hash) {
                return OfferMeaning::Known;
            }
            // What was claimed and never delivered keeps no content out that somebody does hold, whatever their dates and sizes.
            let lacks = version.holding == Holding::Wanted && held_there;
            let fits = *stands == Stands::Aside || version.record.size == offered.size;
            let has = !offered.deleted && fits && self.takes(offered);
            return if lacks && has { OfferMeaning::Wanted } else { OfferMeaning::Known };
        }
        let live = version.filter(|(version, _)| !version.record.deleted);
        if offered.deleted {
            let is_here = live.is_some_and(|(_, stands)| stands == Stands::InStore);
            // What it was can be had back; the library does not have it any more.
            return if is_here && deletes && !offered.left {
                OfferMeaning::Replaces
            } else {
                self.note(offered, Holding::Unwanted, from)
            };
        }
        if !self.takes(offered) {
            return OfferMeaning::Refused("it does not belong to the library".into());
        }
        let Some((version, stands)) = live else {
            let is_full = self.index().asides.is_full();
            return if self.was_let_go(offered, stored) {
                self.note(offered, Holding::Unwanted, from)
            } else if !held_there {
                self.note(offered, Holding::Wanted, from)
            } else if is_full {
                OfferMeaning::Refused(FULL.into())
            } else {
                OfferMeaning::Wanted
            };
        };
        if version.holding == Holding::Wanted && held_there {
            return OfferMeaning::Wanted;
        }
        // Of what was never delivered, anybody may say anything.
        let is_checked = match stands {
            Stands::InStore => version.is_size_checked(),
            Stands::Aside => version.holding.is_held(),
        };
        if is_checked && version.record.size != offered.size {
            return OfferMeaning::Refused(format!(
                "it says {} bytes, but the content of that hash has {}",
                offered.size, version.record.size
            ));
        }
        if stored.is_some_and(|stored| self.is_here(stored)) {
            OfferMeaning::Replaces
        } else {
            self.note(offered, version.holding, from)
        }
    }

    /// Whether a user of this node deleted what came through the library and is `offered` again.
    fn was_let_go(&self, offered: &AssetRecord, stored: Option<&StoredRecord>) -> bool {
        stored.map(|stored| &stored.record).is_some_and(|tombstone| {
            tombstone.deleted && tombstone.via == self.id() && !offered.supersedes(tombstone)
        })
    }

    /// Whether what the store has is live, and the library's.
    pub fn is_here(&self, stored: &StoredRecord) -> bool {
        !stored.record.deleted && self.is_member(&stored.record)
    }

    fn note(&self, record: &AssetRecord, holding: Holding, from: Option<u64>) -> OfferMeaning {
        let aside = Aside { from, ..Aside::of_own(record.clone(), holding) };
        if self.set_aside(&mut self.index(), &aside) {
            OfferMeaning::Noted
        } else {
            OfferMeaning::Refused(FULL.into())
        }
    }

    /// Takes in a deletion that was made of the store's version: what deletes members of a library is part of it.
    pub fn note_deleted(&self, tombstone: &AssetRecord, stored: &StoredRecord) {
        let version = self.version(&tombstone.hash, Some(stored));
        if version.is_none_or(|version| tombstone.supersedes(&version.record)) {
            // Without room for it, members offer it once more.
            let _ = self.note(tombstone, Holding::Unwanted, None);
        }
    }

    /// Takes in a record whose content came through the library in full, where the store has `stored` and keeps it.
    pub fn deliver(&self, record: &AssetRecord, stored: Option<&StoredRecord>) -> OtherwiseHeld {
        // What was deleted here and is newer stays deleted.
        let is_held = stored.is_some_and(|stored| stored.holding.is_held());
        let holding = if is_held { Holding::Held } else { Holding::Unwanted };
        match self.version_and_place(&record.hash, stored) {
            Some((version, stands)) if !record.supersedes(&version.record) => {
                if version.holding == Holding::Wanted && stands == Stands::Aside {
                    // A version that says another size than the content has is of nothing.
                    let fits = version.record.size == record.size;
                    let _ = self.note(if fits { &version.record } else { record }, holding, None);
                }
                OtherwiseHeld::Beside
            }
            _ if stored.is_some_and(|stored| self.is_here(stored)) => OtherwiseHeld::IsMember,
            _ if self.note(record, holding, None) == OfferMeaning::Noted => OtherwiseHeld::Beside,
            _ => OtherwiseHeld::Full,
        }
    }

    /// The version that is to be in the store once the content of `record` has come, where it has `stored` by now: the newer
    /// one that was claimed and lacked just that content, if there is one; says whether there is.
    pub fn version_filled_by(
        &self,
        record: &AssetRecord,
        stored: Option<&StoredRecord>,
    ) -> Option<AssetRecord> {
        let (version, stands) = self.version_and_place(&record.hash, stored)?;
        let lacks = version.holding == Holding::Wanted && version.record.size == record.size;
        match stands {
            Stands::InStore => stored.filter(|_| lacks).map(|stored| stored.record.clone()),
            Stands::Aside => {
                let is_newer = lacks && version.record.supersedes(record);
                is_newer.then(|| AssetRecord { via: self.id(), ..version.record })
            }
        }
    }

    /// What is written into the store for a record that replaces `over` there.
    pub fn for_store(&self, record: &AssetRecord, over: &AssetRecord) -> AssetRecord {
        let via = self.id();
        if record.deleted {
            // Of a deleted asset the store keeps what it was, and whose.
            let (hlc, writer, own_content) = (record.hlc, record.writer, over.is_own());
            AssetRecord { hlc, writer, deleted: true, left: false, via, own_content, ..over.clone() }
        } else {
            AssetRecord { via, ..record.clone() }.keeping_own(over)
        }
    }
}

impl Libraries {
    /// The store is about to have `fresh` in place of `stored`: libraries that `stored` is part of and `fresh` is not go
    /// on having it, unless a user moved it out. Of a folder that we share, members have what its entries name, and nothing besides.
    pub fn keep_versions(&self, stored: &StoredRecord, fresh: &AssetRecord) {
        for library in self.shared().into_iter().filter(|library| library.share().is_none()) {
            let record = &stored.record;
            let moved_out = library.writes() && fresh.via.is_none();
            if library.is_member(record) && !library.is_member(fresh) && !moved_out {
                let mut index = library.index();
                if index.asides.get(&record.hash).is_none() {
                    let aside = Aside::of_own(library.for_members(record), stored.holding);
                    // Without room for it, members offer it once more.
                    let _ = library.set_aside(&mut index, &aside);
                }
            }
        }
    }
}
