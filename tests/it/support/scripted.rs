//! A store whose every answer the test decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use can_sync::testing::record::{AssetRecord, ContentHash};
use can_sync::testing::store::{
    ContentReader, ContentStore, FeedEntry, FeedPage, Holding, IncomingAsset, ItemOutcome, Redating,
    StoreError, StoreEvent, StoreId, StoreRef, StoreStatus, StoredRecord,
};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

/// What the store does with whatever it is asked next.
#[derive(Clone, Debug, Default)]
pub(crate) enum Mood {
    /// Answers.
    #[default]
    Well,
    /// Fails with this.
    Failing(StoreError),
    /// Answers, but fails with this where versions are to be dated anew.
    KeepingDates(StoreError),
    /// Never answers.
    Hanging,
    /// Answers this many pages of the feed, then fails.
    FailingAfter(usize),
    /// Panics.
    Panicking,
    /// Says reset to every cursor.
    Resetting,
}

/// What its event streams do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Events {
    /// One for each change.
    Prompt,
    /// None, ever.
    Silent,
    /// One, then the stream ends.
    CutAfterOne,
    /// The stream breaks at once.
    Broken,
}

/// The store; clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct ScriptedStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    script: Mutex<Script>,
    changed: watch::Sender<u64>,
}

/// What the test sees and changes.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) mood: Mood,
    pub(crate) events: Events,
    /// Records by the number of their latest change.
    pub(crate) records: BTreeMap<u64, AssetRecord>,
    /// Number of the last change.
    pub(crate) seq: u64,
    /// Which store it says that it is.
    pub(crate) id: Option<StoreId>,
    /// The cursor of every question about the feed so far.
    pub(crate) asked: Vec<u64>,
    /// How many event streams were opened.
    pub(crate) streams: usize,
    /// How often versions were to be dated anew.
    pub(crate) redatings: usize,
}

impl ScriptedStore {
    pub(crate) fn new() -> Self {
        let script = Script {
            mood: Mood::Well,
            events: Events::Prompt,
            records: BTreeMap::new(),
            seq: 0,
            id: None,
            asked: Vec::new(),
            streams: 0,
            redatings: 0,
        };
        Self(Arc::new(Shared { script: Mutex::new(script), changed: watch::Sender::new(0) }))
    }

    /// For the code under test.
    pub(crate) fn as_ref(&self) -> StoreRef {
        Arc::new(self.clone())
    }

    /// The script. Not to be held over an await.
    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.0.script.lock()
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        self.script().mood = mood;
    }

    /// A change: the record has this version from now on, and streams tell so.
    pub(crate) fn put(&self, record: &AssetRecord) -> u64 {
        let seq = {
            let mut script = self.script();
            script.records.retain(|_, held| held.hash != record.hash);
            script.seq += 1;
            let seq = script.seq;
            script.records.insert(seq, record.clone());
            seq
        };
        self.0.changed.send_replace(seq);
        seq
    }

    async fn answer<T>(&self, work: impl FnOnce(&mut Script) -> T) -> Result<T, StoreError> {
        let mood = self.script().mood.clone();
        match mood {
            Mood::Failing(error) => Err(error),
            Mood::FailingAfter(0) => Err(down("after some pages")),
            Mood::Hanging => std::future::pending().await,
            Mood::Panicking => panic!("planned panic of the store"),
            Mood::Well | Mood::KeepingDates(_) | Mood::Resetting | Mood::FailingAfter(_) => {
                Ok(work(&mut self.script()))
            }
        }
    }
}

/// The failure of a CAN Service that does not answer.
pub(crate) fn down(reason: &str) -> StoreError {
    StoreError::Unavailable { url: "http://store.test".to_owned(), reason: reason.to_owned() }
}

impl Script {
    fn page(&mut self, since: u64, limit: usize) -> FeedPage {
        if let Mood::FailingAfter(left) = &mut self.mood {
            *left -= 1;
        }
        if matches!(self.mood, Mood::Resetting) || since > self.seq {
            return FeedPage { reset: true, store: self.id, ..FeedPage::default() };
        }
        let after = self.records.range(since + 1..).take(limit);
        let after = after.map(|(seq, record)| FeedEntry {
            seq: *seq,
            record: record.clone(),
            holding: holding(record),
            formers: Vec::new(),
        });
        let entries = after.collect();
        FeedPage { entries, store: self.id, ..FeedPage::default() }
    }

    fn status(&self) -> StoreStatus {
        let live = || self.records.values().filter(|record| !record.deleted);
        let (assets, bytes) = (live().count() as u64, live().map(|record| record.size).sum());
        let (assets_held, bytes_held) = (assets, bytes);
        StoreStatus { assets, bytes, assets_held, bytes_held, seq: self.seq, ..StoreStatus::default() }
    }
}

/// All that is live is held.
fn holding(record: &AssetRecord) -> Holding {
    if record.deleted { Holding::Unwanted } else { Holding::Held }
}

impl ContentStore for ScriptedStore {
    fn status(&self) -> BoxFuture<'_, Result<StoreStatus, StoreError>> {
        self.answer(|script| script.status()).boxed()
    }

    fn feed(&self, since: u64, limit: usize) -> BoxFuture<'_, Result<FeedPage, StoreError>> {
        self.script().asked.push(since);
        self.answer(move |script| script.page(since, limit)).boxed()
    }

    fn watch(&self, since: u64) -> BoxStream<'static, Result<StoreEvent, StoreError>> {
        let events = {
            let mut script = self.script();
            script.streams += 1;
            script.events
        };
        let changes =
            futures::stream::unfold((self.0.changed.subscribe(), since), |(mut seq, last)| async move {
                let now = *seq.wait_for(|now| *now > last).await.ok()?;
                Some((Ok(StoreEvent::Advanced(now)), (seq, now)))
            });
        match events {
            Events::Prompt => changes.boxed(),
            Events::Silent => futures::stream::pending().boxed(),
            Events::CutAfterOne => changes.take(1).boxed(),
            Events::Broken => futures::stream::iter([Err(down("no events"))]).boxed(),
        }
    }

    fn records(&self, hashes: Vec<ContentHash>) -> BoxFuture<'_, Result<Vec<StoredRecord>, StoreError>> {
        self.answer(move |script| {
            let found = script.records.values().filter(|record| hashes.contains(&record.hash)).cloned();
            found.map(|record| StoredRecord { holding: holding(&record), record }).collect()
        })
        .boxed()
    }

    fn content(
        &self,
        hash: ContentHash,
        _: u64,
        _: Option<u64>,
    ) -> BoxFuture<'_, Result<ContentReader, StoreError>> {
        self.answer(move |_| Err(StoreError::NotFound(hash))).map(|answer| answer?).boxed()
    }

    fn ingest(&self, batch: Vec<IncomingAsset>) -> BoxFuture<'_, Result<Vec<ItemOutcome>, StoreError>> {
        async move {
            let outcome = self.answer(|_| ItemOutcome::Stored).await?;
            for asset in &batch {
                self.put(&asset.record);
            }
            Ok(vec![outcome; batch.len()])
        }
        .boxed()
    }

    fn apply(&self, records: Vec<AssetRecord>) -> BoxFuture<'_, Result<Vec<ItemOutcome>, StoreError>> {
        async move {
            let outcome = self.answer(|_| ItemOutcome::Stored).await?;
            for record in &records {
                self.put(record);
            }
            Ok(vec![outcome; records.len()])
        }
        .boxed()
    }

    fn take_absent(&self, records: Vec<AssetRecord>) -> BoxFuture<'_, Result<Vec<ItemOutcome>, StoreError>> {
        self.apply(records)
    }

    fn let_go(&self, hashes: Vec<ContentHash>) -> BoxFuture<'_, Result<Vec<ItemOutcome>, StoreError>> {
        self.answer(move |_| vec![ItemOutcome::Unchanged; hashes.len()]).boxed()
    }

    fn want(&self, hashes: Vec<ContentHash>) -> BoxFuture<'_, Result<Vec<ItemOutcome>, StoreError>> {
        self.answer(move |_| vec![ItemOutcome::Unchanged; hashes.len()]).boxed()
    }

    fn redate(
        &self,
        redatings: Vec<Redating>,
    ) -> BoxFuture<'_, Result<Vec<Option<AssetRecord>>, StoreError>> {
        self.script().redatings += 1;
        let mood = self.script().mood.clone();
        async move {
            match mood {
                Mood::KeepingDates(error) => Err(error),
                _ => self.answer(move |_| vec![None; redatings.len()]).await,
            }
        }
        .boxed()
    }
}
