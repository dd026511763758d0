//! The embedded store as a [`ContentStore`].

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use rusqlite::params;

use super::merge::Absence;
use super::rows::{self, COLUMNS, FORMERS};
use super::scrub::{ReadThrottle, StopOnDrop};
use super::tx::Totals;
use super::{EmbeddedStore, HASHES_MAX, StoredAsset, damage, edit, entries, loss, writer};
use crate::entry::{EntryHash, FolderId, FolderRecord};
use crate::record::{AssetRecord, ContentHash, LibraryId, META_BYTES_MAX};
use crate::store::entries::{
    EntryOutcome, EntryPage, EntryPut, EntryQuery, FolderClaim, HistoryPlace, StoredEntry,
};
use crate::store::promises::{CopyPlace, CopyStanding, DropAnswer, DropTerms, MarkAnswer, PromiseAnswer};
use crate::store::scrub::ScrubFinding;
use crate::store::{
    ContentReader, ContentStore, FeedEntry, FeedPage, IncomingAsset, ItemOutcome, Redating, StoreError,
    StoreEvent, StoreFuture, StoreResult, StoreStatus, StoredRecord, UploadWait,
};

/// Most entries on a page of the feed.
const FEED_MAX: usize = 1000;

type ChangedAsset = (StoredAsset, Vec<AssetRecord>);

/// Changes of assets and folders, each in sequence.
#[derive(Debug)]
pub struct StoreChanges {
    pub assets: Vec<StoredAsset>,
    pub entries: Vec<StoredEntry>,
}

struct ChangesPage {
    assets: Vec<ChangedAsset>,
    entries: Vec<StoredEntry>,
    /// Up to which number they are all there is.
    end: u64,
}

impl ContentStore for EmbeddedStore {
    fn status(&self) -> StoreFuture<'_, StoreStatus> {
        async {
            let now_ms = self.0.shared.clock.now_ms();
            let read = move |conn: &rusqlite::Connection| {
                Ok((Totals::read(conn)?, damage::count(conn)?, loss::sentence(conn, now_ms)?))
            };
            let (totals, damaged, lost) = self.0.shared.readers.run("read the store's status", read).await?;
            // Whatever is wrong with it, the rest can be told.
            let waiting_uploads = self.waiting_uploads().await.ok().flatten();
            let unreadable = self.0.shared.unreadable_entries.sentence();
            let notice = lost
                .or(unreadable)
                .or_else(|| self.0.shared.opened_with.clone())
                .or_else(|| self.0.shared.building.sentence());
            let notices: Vec<String> = self.standstill().into_iter().chain(notice).collect();
            Ok(StoreStatus {
                assets: totals.assets,
                bytes: totals.bytes,
                assets_held: totals.assets_held,
                bytes_held: totals.bytes_held,
                damaged,
                id: Some(self.id()),
                seq: totals.last_seq,
                keeps_entries: true,
                read_only: self.0.shared.read_only(),
                short_of_space: self.0.shared.space.shortage(),
                contents_away: self.contents_away(),
                notice: (!notices.is_empty()).then(|| notices.join("; ")),
                quota: self.0.shared.quota.status(),
                waiting_uploads,
                scrub: self.scrub_report().await.ok().map(Box::new),
                snapshots: self.snapshot_report().map(Box::new),
            })
        }
        .boxed()
    }

    fn feed(&self, since: u64, limit: usize) -> StoreFuture<'_, FeedPage> {
        self.read_feed(since, limit, false).boxed()
    }

    fn feed_with_entries(&self, since: u64, limit: usize) -> StoreFuture<'_, FeedPage> {
        self.read_feed(since, limit, true).boxed()
    }

    fn entries(&self, query: EntryQuery) -> StoreFuture<'_, EntryPage> {
        self.list_entries(query).boxed()
    }

    fn entries_named(&self, hashes: Vec<EntryHash>) -> StoreFuture<'_, Vec<FolderRecord>> {
        self.find_entries(hashes).boxed()
    }

    fn entries_with(&self, contents: Vec<ContentHash>) -> StoreFuture<'_, Vec<FolderRecord>> {
        self.find_entries_with(contents).boxed()
    }

    fn entry_history(
        &self,
        folder: FolderId,
        path: String,
        before: Option<HistoryPlace>,
    ) -> StoreFuture<'_, Vec<FolderRecord>> {
        self.read_entry_history(EntryHash::of_path(folder, &path), before).boxed()
    }

    fn put_entries(&self, puts: Vec<EntryPut>) -> StoreFuture<'_, Vec<EntryOutcome>> {
        self.put_all_entries(puts).boxed()
    }

    fn take_entries(
        &self,
        records: Vec<FolderRecord>,
        library: Option<LibraryId>,
    ) -> StoreFuture<'_, Vec<EntryOutcome>> {
        self.take_all_entries(records, library).boxed()
    }

    fn foreign_folders(&self) -> StoreFuture<'_, Vec<(FolderId, LibraryId)>> {
        self.list_foreign_folders().boxed()
    }

    fn claim_folder(&self, folder: FolderId, library: LibraryId) -> StoreFuture<'_, FolderClaim> {
        self.claim(folder, library).boxed()
    }

    fn drop_folder(&self, folder: FolderId, library: LibraryId) -> StoreFuture<'_, ()> {
        self.drop_foreign(folder, library).boxed()
    }

    fn watch(&self, since: u64) -> BoxStream<'static, StoreResult<StoreEvent>> {
        let store = self.clone();
        let first = async move {
            // Asked of the database: a reader can know of a commit before the channel does.
            let shared = Arc::clone(&store.0.shared);
            let read =
                move |conn: &rusqlite::Connection| shared.needs_reset(conn, since, &Totals::read(conn)?);
            let reset = store.0.shared.readers.run("read the store's status", read).await;
            let seen = store.subscribe();
            match reset {
                Ok(false) => advances(seen, since),
                Ok(true) => {
                    let now = *seen.borrow();
                    stream::once(async { Ok(StoreEvent::Reset) }).chain(advances(seen, now)).boxed()
                }
                Err(error) => stream::once(async { Err(error) }).boxed(),
            }
        };
        first.flatten_stream().boxed()
    }

    fn small_contents(&self, hashes: Vec<ContentHash>) -> StoreFuture<'_, Vec<(ContentHash, Bytes)>> {
        self.contents_inline(hashes).boxed()
    }

    fn content_file(&self, hash: ContentHash) -> StoreFuture<'_, Option<std::fs::File>> {
        self.open_unchecked(hash).boxed()
    }

    fn may_take_over(&self, size: u64) -> bool {
        size > self.inline_bytes_max() && self.shares_bucket()
    }

    fn take_over(&self, record: AssetRecord) -> StoreFuture<'_, Option<ItemOutcome>> {
        if !self.may_take_over(record.size) {
            return async { Ok(None) }.boxed();
        }
        self.take_over_object(record).boxed()
    }

    fn check_room(&self, bytes: u64) -> StoreResult {
        let shared = &self.0.shared;
        shared.check_writable()?;
        self.check_bucket(bytes)?;
        shared.quota.check(bytes)?;
        shared.space.claim(bytes)
    }

    fn quota_left(&self) -> Option<u64> {
        self.0.shared.quota.left()
    }

    fn records(&self, hashes: Vec<ContentHash>) -> StoreFuture<'_, Vec<StoredRecord>> {
        async {
            if hashes.len() > HASHES_MAX {
                return Err(StoreError::Invalid(format!("at most {HASHES_MAX} records can be read at once")));
            }
            let shared = Arc::clone(&self.0.shared);
            let read = move |conn: &rusqlite::Connection| {
                let mut records = Vec::with_capacity(hashes.len());
                for hash in hashes {
                    let found = rows::find(conn, hash)?.map(|stored| stored.asset);
                    records.extend(found.map(|asset| StoredRecord {
                        holding: shared.damage.holding(&asset),
                        record: asset.record,
                    }));
                }
                Ok(records)
            };
            self.0.shared.readers.run("read records", read).await
        }
        .boxed()
    }

    fn held(&self, hashes: Vec<ContentHash>) -> StoreFuture<'_, Vec<ContentHash>> {
        async {
            if hashes.len() > HASHES_MAX {
                return Err(StoreError::Invalid(format!(
                    "at most {HASHES_MAX} contents can be asked for at once"
                )));
            }
            let shared = Arc::clone(&self.0.shared);
            let read = move |conn: &rusqlite::Connection| {
                let mut statement = conn.prepare_cached(
                    "SELECT 1 FROM records WHERE hash = ?1 AND deleted = 0 AND content IS NOT NULL",
                )?;
                let mut held = Vec::with_capacity(hashes.len());
                for hash in hashes {
                    if statement.exists([hash.0])? && !shared.damage.is_suspect(&hash) {
                        held.push(hash);
                    }
                }
                Ok(held)
            };
            self.0.shared.readers.run("look which contents are held", read).await
        }
        .boxed()
    }

    fn look(&self, hash: ContentHash) -> StoreFuture<'_, Option<StoredRecord>> {
        async move {
            let asset = self.look_at(hash).await?;
            Ok(asset.map(|StoredAsset { record, holding, .. }| StoredRecord { record, holding }))
        }
        .boxed()
    }

    fn upload_wait(&self, hash: ContentHash) -> StoreFuture<'_, Option<UploadWait>> {
        self.find_upload_wait(hash).boxed()
    }

    fn verify(&self, hash: ContentHash) -> StoreFuture<'_, bool> {
        async move {
            // Reading goes on in a thread of its own: it stops when nobody waits for it any more.
            let throttle = Arc::new(ReadThrottle::unpaced(self.clone()));
            let _stop = StopOnDrop(Arc::clone(&throttle));
            let _turn = self.0.shared.sums.turn().await;
            self.examine_at(hash, Some(&throttle)).await
        }
        .boxed()
    }

    fn content(&self, hash: ContentHash, offset: u64, length: Option<u64>) -> StoreFuture<'_, ContentReader> {
        self.read_content(hash, offset, length).boxed()
    }

    fn proof(
        &self,
        hash: ContentHash,
        groups: std::ops::Range<u64>,
    ) -> StoreFuture<'_, Vec<crate::store::groups::GroupSum>> {
        self.prove(hash, groups).boxed()
    }

    fn damaged(&self, limit: usize) -> StoreFuture<'_, Vec<ScrubFinding>> {
        self.damaged_contents(limit).boxed()
    }

    fn ingest(&self, batch: Vec<IncomingAsset>) -> StoreFuture<'_, Vec<ItemOutcome>> {
        self.ingest_batch(batch).boxed()
    }

    fn apply(&self, records: Vec<AssetRecord>) -> StoreFuture<'_, Vec<ItemOutcome>> {
        self.apply_batch(records, Absence::Refused).boxed()
    }

    fn take_absent(&self, records: Vec<AssetRecord>) -> StoreFuture<'_, Vec<ItemOutcome>> {
        self.apply_batch(records, Absence::Taken).boxed()
    }

    fn let_go(&self, hashes: Vec<ContentHash>) -> StoreFuture<'_, Vec<ItemOutcome>> {
        self.let_go_batch(hashes).boxed()
    }

    fn copy_place(&self) -> Option<CopyPlace> {
        self.own_place()
    }

    fn mark_dropping(&self, hashes: Vec<ContentHash>) -> StoreFuture<'_, Vec<MarkAnswer>> {
        self.mark_batch(hashes).boxed()
    }

    fn clear_dropping(&self, hashes: Option<Vec<ContentHash>>) -> StoreFuture<'_, ()> {
        self.unmark_batch(hashes).boxed()
    }

    fn drop_marked(&self, hashes: Vec<ContentHash>, terms: DropTerms) -> StoreFuture<'_, Vec<DropAnswer>> {
        self.drop_batch(hashes, terms).boxed()
    }

    fn promise(&self, hash: ContentHash, to: [u8; 32]) -> StoreFuture<'_, PromiseAnswer> {
        self.promise_one(hash, to).boxed()
    }

    fn standing(&self, hash: ContentHash) -> StoreFuture<'_, CopyStanding> {
        self.read_standing(hash).boxed()
    }

    fn want(&self, hashes: Vec<ContentHash>) -> StoreFuture<'_, Vec<ItemOutcome>> {
        self.want_batch(hashes).boxed()
    }

    fn redate(&self, redatings: Vec<Redating>) -> StoreFuture<'_, Vec<Option<AssetRecord>>> {
        async move {
            if redatings.len() > HASHES_MAX {
                return Err(StoreError::Invalid(format!(
                    "at most {HASHES_MAX} records can be dated at once"
                )));
            }
            let bytes = writer::change_bytes(redatings.iter().map(|_| META_BYTES_MAX / 4));
            self.submit_growing(bytes, move |tx| {
                redatings.iter().map(|redating| edit::redate(tx, redating)).collect::<Result<_, _>>().map(Ok)
            })
            .await
        }
        .boxed()
    }

    fn ingest_through(&self, batch: Vec<IncomingAsset>) -> StoreFuture<'_, Vec<Option<ItemOutcome>>> {
        self.ingest_admitted(batch).boxed()
    }

    fn replace(&self, records: Vec<(AssetRecord, AssetRecord)>) -> StoreFuture<'_, Vec<Option<ItemOutcome>>> {
        self.replace_batch(records).boxed()
    }
}

impl EmbeddedStore {
    /// As [`ContentStore::feed_with_entries`], but the assets as this store holds them; `None` stands for a reset.
    pub async fn changes(&self, since: u64, limit: usize) -> StoreResult<Option<StoreChanges>> {
        let changes = self.changes_with_formers(since, limit, true).await?;
        Ok(changes.map(|ChangesPage { assets, entries, .. }| StoreChanges {
            assets: assets.into_iter().map(|(asset, _)| asset).collect(),
            entries,
        }))
    }

    async fn changes_with_formers(
        &self,
        since: u64,
        limit: usize,
        with_entries: bool,
    ) -> StoreResult<Option<ChangesPage>> {
        let limit = limit.clamp(1, FEED_MAX);
        let shared = Arc::clone(&self.0.shared);
        let read = move |conn: &rusqlite::Connection| {
            let totals = Totals::read(conn)?;
            if shared.needs_reset(conn, since, &totals)? {
                return Ok(None);
            }
            let after = i64::try_from(since).unwrap_or(i64::MAX);
            let mut assets: Vec<ChangedAsset> = conn
                .prepare_cached(&format!(
                    "SELECT {COLUMNS}, {FORMERS} FROM records WHERE seq > ?1 ORDER BY seq LIMIT ?2"
                ))?
                .query_map(params![after, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
                    let formers = row.as_ref().column_index("former")?;
                    Ok((rows::read_asset(row)?, rows::read_formers(row, formers)?))
                })?
                .collect::<Result<_, _>>()?;
            let mut entries = if with_entries {
                entries::changes(conn, &shared.unreadable_entries, since, limit)?
            } else {
                Vec::new()
            };
            truncate(&mut assets, &mut entries, limit);
            Ok(Some((totals, assets, entries)))
        };
        let read = self.0.shared.readers.run("read the feed", read).await?;
        let Some((totals, assets, entries)) = read else { return Ok(None) };
        let last = assets.last().map(|(asset, _)| asset.seq).max(entries.last().map(|entry| entry.seq));
        // Below the floor, only a reading that began at 0 comes this far.
        if let Some(end) = last.filter(|end| *end < totals.purge_floor) {
            self.0.shared.remember_walk(end);
        }
        let is_full = assets.len() + entries.len() >= limit;
        let end = last.filter(|_| is_full).unwrap_or(totals.last_seq);
        Ok(Some(ChangesPage { assets, entries, end }))
    }

    async fn read_feed(&self, since: u64, limit: usize, with_entries: bool) -> StoreResult<FeedPage> {
        let store = Some(self.id());
        let Some(changes) = self.changes_with_formers(since, limit, with_entries).await? else {
            return Ok(FeedPage { reset: true, store, ..FeedPage::default() });
        };
        let entry =
            |(StoredAsset { seq, record, holding, .. }, formers)| FeedEntry { seq, record, holding, formers };
        let ChangesPage { assets, entries, end } = changes;
        let assets = assets.into_iter().map(entry).collect();
        Ok(FeedPage { entries: assets, folder_records: entries, reset: false, end, store })
    }
}

/// Keeps the first `limit` of both together.
fn truncate(assets: &mut Vec<ChangedAsset>, entries: &mut Vec<StoredEntry>, limit: usize) {
    if assets.len() + entries.len() > limit {
        let mut numbers: Vec<u64> = assets.iter().map(|(asset, _)| asset.seq).collect();
        numbers.extend(entries.iter().map(|entry| entry.seq));
        numbers.sort_unstable();
        let last = numbers[limit - 1];
        assets.retain(|(asset, _)| asset.seq <= last);
        entries.retain(|entry| entry.seq <= last);
    }
}

/// An event for each rise above `last`; those that pass unseen are covered by the next.
fn advances(
    seen: tokio::sync::watch::Receiver<u64>,
    last: u64,
) -> BoxStream<'static, StoreResult<StoreEvent>> {
    stream::unfold((seen, last), |(mut seen, last)| async move {
        let now = *seen.wait_for(|seq| *seq > last).await.ok()?;
        Some((Ok(StoreEvent::Advanced(now)), (seen, now)))
    })
    .boxed()
}
