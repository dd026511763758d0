//! The store of an agent of the simulation, in memory.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::{Mutex, MutexGuard};

use crate::record::{AssetRecord, ContentHash, Hlc};
use crate::store::{
    ContentReader, ContentStore, FeedEntry, FeedPage, Holding, IncomingAsset, ItemOutcome, Redating,
    StoreError, StoreEvent, StoreFuture, StoreResult, StoreStatus, StoredRecord, admits,
};

/// A store in memory, which answers at once.
#[derive(Default)]
pub(super) struct SimStore(pub(super) Mutex<Stored>);

#[derive(Default)]
pub(super) struct Stored {
    pub(super) records: BTreeMap<ContentHash, (u64, AssetRecord)>,
    /// Dates of the versions before those that were written here.
    pub(super) before: BTreeMap<ContentHash, Hlc>,
    /// Versions that users changed into what there is.
    pub(super) formers: BTreeMap<ContentHash, Vec<AssetRecord>>,
    pub(super) contents: BTreeSet<ContentHash>,
    /// Contents of live records that are not here and not wanted.
    pub(super) unwanted: BTreeSet<ContentHash>,
    pub(super) seq: u64,
}

impl Stored {
    /// Takes what a user of this agent writes; others have versions up to `confirmed`.
    pub(super) fn write(&mut self, record: AssetRecord, with_content: bool, confirmed: Hlc) -> ItemOutcome {
        let hash = record.hash;
        let before = match self.records.get(&hash).map(|(_, old)| old.hlc) {
            None => Hlc::default(),
            Some(old) if old <= confirmed => old,
            Some(old) => self.before.get(&hash).copied().unwrap_or(old),
        };
        let outcome = self.merge(record, with_content);
        self.before.insert(hash, before);
        outcome
    }

    pub(super) fn put(&mut self, record: AssetRecord) {
        self.seq += 1;
        let same = self.records.get(&record.hash).is_some_and(|(_, old)| *old == record);
        if !same {
            self.before.remove(&record.hash);
        }
        let mut kept = self.formers.remove(&record.hash).unwrap_or_default();
        if let Some((_, old)) = self.records.get(&record.hash)
            && record.via.is_none()
            && (record.deleted || !old.deleted)
        {
            if !old.deleted && *old != record {
                kept.retain(|kept| kept.via.is_some() && old.via.is_none());
                kept.push(old.clone());
            }
            self.formers.insert(record.hash, kept);
        }
        if record.deleted {
            self.contents.remove(&record.hash);
            self.unwanted.remove(&record.hash);
        }
        self.records.insert(record.hash, (self.seq, record));
    }

    /// The rules of a store's merge, with or without the content at hand.
    pub(super) fn merge(&mut self, record: AssetRecord, with_content: bool) -> ItemOutcome {
        assert!(!record.left, "no store has what left a library");
        let ours = self.records.get(&record.hash).map(|(_, ours)| ours);
        let wins = ours.is_none_or(|ours| record.supersedes(ours));
        let live = ours.is_some_and(|ours| !ours.deleted);
        let fills = live && !record.deleted && with_content && !self.contents.contains(&record.hash);
        let is_claimed = live && !wins && ours.is_some_and(|ours| ours.clone().keeping_own(&record) != *ours);
        if !wins && !fills && !is_claimed {
            return ItemOutcome::Unchanged;
        }
        if !record.deleted && !live && !with_content {
            return ItemOutcome::NeedsContent;
        }
        if !record.deleted && with_content {
            self.contents.insert(record.hash);
            self.unwanted.remove(&record.hash);
        }
        let record = match self.records.get(&record.hash) {
            Some((_, ours)) if wins => record.keeping_own(ours),
            Some((_, ours)) => ours.clone().keeping_own(&record),
            None => record,
        };
        let absent = !record.deleted && !self.contents.contains(&record.hash);
        self.put(record);
        if absent { ItemOutcome::Absent } else { ItemOutcome::Stored }
    }

    /// The same, for a record whose content cannot be had.
    pub(super) fn take_absent(&mut self, record: AssetRecord) -> ItemOutcome {
        let outcome = self.merge(record.clone(), false);
        if outcome != ItemOutcome::NeedsContent {
            return outcome;
        }
        self.put(record);
        ItemOutcome::Absent
    }

    pub(super) fn holding(&self, record: &AssetRecord) -> Holding {
        if self.contents.contains(&record.hash) {
            Holding::Held
        } else if record.deleted || self.unwanted.contains(&record.hash) {
            Holding::Unwanted
        } else {
            Holding::Wanted
        }
    }

    pub(super) fn get(&self, hash: &ContentHash) -> Option<StoredRecord> {
        let (_, record) = self.records.get(hash)?;
        Some(StoredRecord { record: record.clone(), holding: self.holding(record) })
    }
}

impl SimStore {
    pub(super) fn stored(&self) -> MutexGuard<'_, Stored> {
        self.0.lock()
    }
}

impl ContentStore for SimStore {
    fn status(&self) -> StoreFuture<'_, StoreStatus> {
        let stored = self.stored();
        let live = || stored.records.values().filter(|(_, record)| !record.deleted);
        let status = StoreStatus {
            assets: live().count() as u64,
            bytes: live().map(|(_, record)| record.size).sum(),
            seq: stored.seq,
            ..StoreStatus::default()
        };
        async { Ok(status) }.boxed()
    }

    fn feed(&self, since: u64, limit: usize) -> StoreFuture<'_, FeedPage> {
        let stored = self.stored();
        let fresh = stored.records.values().filter(|(seq, _)| *seq > since);
        let mut entries: Vec<FeedEntry> = fresh
            .map(|(seq, record)| FeedEntry {
                seq: *seq,
                record: record.clone(),
                holding: stored.holding(record),
                formers: stored.formers.get(&record.hash).cloned().unwrap_or_default(),
            })
            .collect();
        entries.sort_unstable_by_key(|entry| entry.seq);
        entries.truncate(limit);
        async { Ok(FeedPage { entries, ..FeedPage::default() }) }.boxed()
    }

    fn watch(&self, _: u64) -> BoxStream<'static, StoreResult<StoreEvent>> {
        futures::stream::pending().boxed()
    }

    fn records(&self, hashes: Vec<ContentHash>) -> StoreFuture<'_, Vec<StoredRecord>> {
        let stored = self.stored();
        let found = hashes.iter().filter_map(|hash| stored.get(hash)).collect();
        async { Ok(found) }.boxed()
    }

    fn content(&self, hash: ContentHash, _: u64, _: Option<u64>) -> StoreFuture<'_, ContentReader> {
        async move { Err(StoreError::NotFound(hash)) }.boxed()
    }

    fn ingest(&self, batch: Vec<IncomingAsset>) -> StoreFuture<'_, Vec<ItemOutcome>> {
        let mut stored = self.stored();
        let outcomes = batch.into_iter().map(|asset| stored.merge(asset.record, true)).collect();
        async { Ok(outcomes) }.boxed()
    }

    fn apply(&self, records: Vec<AssetRecord>) -> StoreFuture<'_, Vec<ItemOutcome>> {
        let mut stored = self.stored();
        let outcomes = records.into_iter().map(|record| stored.merge(record, false)).collect();
        async { Ok(outcomes) }.boxed()
    }

    fn take_absent(&self, records: Vec<AssetRecord>) -> StoreFuture<'_, Vec<ItemOutcome>> {
        let mut stored = self.stored();
        let outcomes = records.into_iter().map(|record| stored.take_absent(record)).collect();
        async { Ok(outcomes) }.boxed()
    }

    fn ingest_through(&self, batch: Vec<IncomingAsset>) -> StoreFuture<'_, Vec<Option<ItemOutcome>>> {
        let mut stored = self.stored();
        let mut take = |record: AssetRecord| {
            let mine = stored.records.get(&record.hash).map(|(_, mine)| mine);
            admits(mine, &record).then(|| stored.merge(record, true))
        };
        // Contents are not looked at here: a peer that sends wrong ones is found out before.
        let outcomes = batch.into_iter().map(|asset| take(asset.record)).collect();
        async { Ok(outcomes) }.boxed()
    }

    fn let_go(&self, _: Vec<ContentHash>) -> StoreFuture<'_, Vec<ItemOutcome>> {
        unreachable!("users do that, one by one")
    }

    fn want(&self, _: Vec<ContentHash>) -> StoreFuture<'_, Vec<ItemOutcome>> {
        unreachable!("users do that, one by one")
    }

    fn redate(&self, _: Vec<Redating>) -> StoreFuture<'_, Vec<Option<AssetRecord>>> {
        unreachable!("agents do that, one by one")
    }
}
