//! What an agent asks of a store.

use bytes::Bytes;
use futures::stream::BoxStream;

use super::entries::{EntryOutcome, EntryPage, EntryPut, EntryQuery, FolderClaim, HistoryPlace};
use super::promises::{self, CopyPlace, CopyStanding, DropAnswer, DropTerms, MarkAnswer, PromiseAnswer};
use super::scrub::ScrubFinding;
use super::{
    ContentReader, FeedPage, IncomingAsset, ItemOutcome, Redating, StoreError, StoreEvent, StoreFuture,
    StoreResult, StoreStatus, StoredRecord, UploadWait, groups, through,
};
use crate::entry::{EntryHash, FolderId, FolderRecord};
use crate::record::{AssetRecord, ContentHash, LibraryId};

/// What an agent needs of a store. Every method may be called at any time from any task.
pub trait ContentStore: Send + Sync + 'static {
    fn status(&self) -> StoreFuture<'_, StoreStatus>;

    /// Changes after `since`, at most `limit` (capped at 1,000) of them, tombstones included.
    fn feed(&self, since: u64, limit: usize) -> StoreFuture<'_, FeedPage>;

    /// As [`feed`](Self::feed), with the records of folders: at most `limit` changes of both together, in one sequence.
    fn feed_with_entries(&self, since: u64, limit: usize) -> StoreFuture<'_, FeedPage> {
        self.feed(since, limit)
    }

    /// What folders have, in the order of paths, in pages.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a cursor that is none; [`StoreError::NoFolders`], or [`StoreError::Unsupported`].
    fn entries(&self, _query: EntryQuery) -> StoreFuture<'_, EntryPage> {
        Box::pin(async { Err(StoreError::NoFolders) })
    }

    /// The records of folders of these names, in any order; unknown ones are left out. At most 1,000.
    fn entries_named(&self, _hashes: Vec<EntryHash>) -> StoreFuture<'_, Vec<FolderRecord>> {
        Box::pin(async { Err(StoreError::NoFolders) })
    }

    /// What folders have now with one of these contents, in any order: at most [`PLACES_MAX`](super::entries::PLACES_MAX) entries for up to 1,000
    /// contents. A store that cannot look by content knows none.
    fn entries_with(&self, _contents: Vec<ContentHash>) -> StoreFuture<'_, Vec<FolderRecord>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// The versions of what is at a path that lost, the newest first, those that come after `before`; at most 1,000.
    fn entry_history(
        &self,
        _folder: FolderId,
        _path: String,
        _before: Option<HistoryPlace>,
    ) -> StoreFuture<'_, Vec<FolderRecord>> {
        Box::pin(async { Err(StoreError::NoFolders) })
    }

    /// Takes versions that are written here, each if what is there is what it names. Answers in the same order once all that is
    /// [`EntryOutcome::Stored`] is durable. At most 1,000.
    fn put_entries(&self, _puts: Vec<EntryPut>) -> StoreFuture<'_, Vec<EntryOutcome>> {
        Box::pin(async { Err(StoreError::NoFolders) })
    }

    /// Takes versions from a peer: they merge ([`crate::entry::merge()`]), and what loses goes to the history. Same order, same
    /// durability. At most 1,000. Of a folder that came by a ticket, they are taken
    /// with its library alone, and with that no others.
    fn take_entries(
        &self,
        _records: Vec<FolderRecord>,
        _library: Option<LibraryId>,
    ) -> StoreFuture<'_, Vec<EntryOutcome>> {
        Box::pin(async { Err(StoreError::NoFolders) })
    }

    /// Folders that came by a ticket, each with its library.
    fn foreign_folders(&self) -> StoreFuture<'_, Vec<(FolderId, LibraryId)>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Says that a folder comes by a ticket of this library from now on; only of one that the store has nothing of.
    fn claim_folder(&self, _folder: FolderId, _library: LibraryId) -> StoreFuture<'_, FolderClaim> {
        Box::pin(async { Err(StoreError::NoFolders) })
    }

    /// Forgets all of a folder that came by a ticket of this library; contents stay. Of another one it does nothing.
    fn drop_folder(&self, _folder: FolderId, _library: LibraryId) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// Yields whenever the store has changes after the last number yielded (`since` at first). Coalesces; ends or
    /// yields an error when the stream is cut, after which the caller asks again.
    fn watch(&self, since: u64) -> BoxStream<'static, StoreResult<StoreEvent>>;

    /// The records of these assets, tombstones included, in any order; unknown ones are left out. At most 1,000.
    fn records(&self, hashes: Vec<ContentHash>) -> StoreFuture<'_, Vec<StoredRecord>>;

    /// Those of these contents that are held, in any order. At most 1,000.
    fn held(&self, hashes: Vec<ContentHash>) -> StoreFuture<'_, Vec<ContentHash>> {
        Box::pin(async move {
            let records = self.records(hashes).await?.into_iter();
            Ok(records.filter(|stored| stored.holding.is_held()).map(|stored| stored.record.hash).collect())
        })
    }

    /// The record of an asset; that its content is here was seen on the disk just now, as far as that is quick.
    fn look(&self, hash: ContentHash) -> StoreFuture<'_, Option<StoredRecord>> {
        Box::pin(async move { Ok(self.records(vec![hash]).await?.pop()) })
    }

    /// Whether a content that is held waits to be uploaded to object storage, where contents go there once they are acknowledged.
    fn upload_wait(&self, _hash: ContentHash) -> StoreFuture<'_, Option<UploadWait>> {
        Box::pin(async { Ok(None) })
    }

    /// Reads a content that is held and checks it. One that is damaged is set aside: it is not held any more, and
    /// [wanted](super::Holding::Wanted). Whether it is held, and right as far as the store can tell.
    fn verify(&self, hash: ContentHash) -> StoreFuture<'_, bool> {
        Box::pin(async move { Ok(self.look(hash).await?.is_some_and(|stored| stored.holding.is_held())) })
    }

    /// Content from `offset`, at most `length` bytes (all that follows if `None`). No byte is given that was not checked:
    /// where the stored ones are wrong, the stream fails before it ends.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for unknown and deleted assets, [`StoreError::NotHeld`] for those whose content is not
    /// here, [`StoreError::Invalid`] for an offset past the end.
    fn content(&self, hash: ContentHash, offset: u64, length: Option<u64>) -> StoreFuture<'_, ContentReader>;

    /// What proves that these groups of a content, at most [`groups::PROOF_GROUPS_MAX`], are part of it, as
    /// [`groups::proof_nodes`] says. Empty where the store has no such proof: the content is small, or the store does not keep any.
    fn proof(
        &self,
        _hash: ContentHash,
        _groups: std::ops::Range<u64>,
    ) -> StoreFuture<'_, Vec<groups::GroupSum>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Those of these contents that are small and at hand, checked against their hashes, in one read: for sending many
    /// at once. May leave out any. At most 1,000 hashes; the caller bounds what that may hold.
    fn small_contents(&self, _hashes: Vec<ContentHash>) -> StoreFuture<'_, Vec<(ContentHash, Bytes)>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// The file that has a content, open for reading and unchecked, where there is one on this machine: whoever reads it hashes all of it,
    /// and asks for [`content`](Self::content) where that is wrong. Nothing is ever written to it.
    fn content_file(&self, _hash: ContentHash) -> StoreFuture<'_, Option<std::fs::File>> {
        Box::pin(async { Ok(None) })
    }

    /// Whether content of so many bytes would be taken now, as far as the store can tell before it comes: what it
    /// cannot take need not be transferred.
    fn check_room(&self, _bytes: u64) -> StoreResult {
        Ok(())
    }

    /// How many bytes of content would still be taken; `None` where that is not limited, or not known.
    fn quota_left(&self) -> Option<u64> {
        None
    }

    /// Contents that are damaged here, are set aside, and did not come again yet, the latest first. At most 1,000.
    fn damaged(&self, _limit: usize) -> StoreFuture<'_, Vec<ScrubFinding>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Takes assets from a peer, content included; answers in the same order once all that is `Stored` is durable.
    /// Each is checked against its hash. The record merges: the winning version stays. The content of a live asset that
    /// was not held is `Stored`, whichever version wins. An `Err` means that nothing of the batch may be counted on.
    fn ingest(&self, batch: Vec<IncomingAsset>) -> StoreFuture<'_, Vec<ItemOutcome>>;

    /// Whether a content of this size may be where this store keeps its own before it has it ([`take_over`](Self::take_over)).
    fn may_take_over(&self, _size: u64) -> bool {
        false
    }

    /// Takes an asset whose content another store put where this one keeps its own, as in a bucket that both use: all of it is
    /// read and hashed first. Durable once it is answered; `None` where the content is not there, not right, or cannot be read now.
    fn take_over(&self, _record: AssetRecord) -> StoreFuture<'_, Option<ItemOutcome>> {
        Box::pin(async { Ok(None) })
    }

    /// Takes records without content: edits and tombstones. Same order, same durability. A version of an asset whose
    /// content is not held is [`ItemOutcome::Absent`].
    fn apply(&self, records: Vec<AssetRecord>) -> StoreFuture<'_, Vec<ItemOutcome>>;

    /// As [`apply`](Self::apply), but a live record whose content is not here is taken all the same: it is
    /// [`ItemOutcome::Absent`] then, and its content is [wanted](super::Holding::Wanted).
    fn take_absent(&self, records: Vec<AssetRecord>) -> StoreFuture<'_, Vec<ItemOutcome>>;

    /// Lets go of the contents of live assets: the records stay as they are, the contents go to the trash like those of
    /// deleted assets, and are [not wanted](super::Holding::Unwanted). [`ItemOutcome::Absent`] for each that was held or wanted,
    /// [`ItemOutcome::Unchanged`] for all others, and for what another machine was promised. Same order, same durability.
    fn let_go(&self, hashes: Vec<ContentHash>) -> StoreFuture<'_, Vec<ItemOutcome>>;

    /// Where its copies are, where it can promise to keep them and let go of them by promise; `None` where it cannot, or it does
    /// not know yet.
    fn copy_place(&self) -> Option<CopyPlace> {
        None
    }

    /// Marks copies that are about to be let go of, durably: none of them is promised to anybody from then on. Same order.
    /// At most 1,000.
    fn mark_dropping(&self, _hashes: Vec<ContentHash>) -> StoreFuture<'_, Vec<MarkAnswer>> {
        Box::pin(async { Err(promises::unsupported()) })
    }

    /// Takes marks away: those of these contents, at most 1,000, or all.
    fn clear_dropping(&self, _hashes: Option<Vec<ContentHash>>) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// Lets go of marked copies for good, which are not in the trash afterwards: the records stay, and the contents are
    /// [not wanted](super::Holding::Unwanted). Not later than the terms say, by [`Clock::uptime`](crate::clock::Clock::uptime) of the clock that the
    /// store was opened with, and only while the terms hold, which are looked at in the same transaction. Same order, same durability. At
    /// most 1,000.
    fn drop_marked(&self, _hashes: Vec<ContentHash>, _terms: DropTerms) -> StoreFuture<'_, Vec<DropAnswer>> {
        Box::pin(async { Err(promises::unsupported()) })
    }

    /// Promises another machine, by its endpoint id, to keep a copy for [`promises::KEPT_FOR`]: durable once it is answered.
    /// Nothing but a user's deletion removes it then.
    fn promise(&self, _hash: ContentHash, _to: [u8; 32]) -> StoreFuture<'_, PromiseAnswer> {
        Box::pin(async { Err(promises::unsupported()) })
    }

    /// Whether a copy is about to be let go of, and to whom it is promised.
    fn standing(&self, _hash: ContentHash) -> StoreFuture<'_, CopyStanding> {
        Box::pin(async { Ok(CopyStanding::default()) })
    }

    /// Wants contents that are not here. [`ItemOutcome::Stored`] for each that the trash still had, whole: it is held again.
    /// [`ItemOutcome::NeedsContent`] for those that are to be fetched, [`ItemOutcome::Unchanged`] for all that are no live
    /// assets, or are held. Same order, same durability.
    fn want(&self, hashes: Vec<ContentHash>) -> StoreFuture<'_, Vec<ItemOutcome>>;

    /// Gives versions other dates; for each, the version as it was before, where it has another date now. Same order,
    /// same durability. At most 1,000.
    fn redate(&self, redatings: Vec<Redating>) -> StoreFuture<'_, Vec<Option<AssetRecord>>>;

    /// As [`Self::ingest`], for assets that a library delivered, each of which its record names ([`AssetRecord::via`]).
    /// What is here outside of that library stays as it is, and so does a deletion that is newer: `None` for those.
    ///
    /// A store that cannot look and write at once looks before it writes. What does not hash to its record is
    /// [`ItemOutcome::Rejected`] in any case.
    fn ingest_through(&self, batch: Vec<IncomingAsset>) -> StoreFuture<'_, Vec<Option<ItemOutcome>>> {
        Box::pin(through::ingest(self, batch))
    }

    /// As [`Self::apply`], for records that a library delivered, each with the version that it is to replace: where the
    /// store has another one by now, nothing is changed, and the answer is `None`.
    fn replace(&self, records: Vec<(AssetRecord, AssetRecord)>) -> StoreFuture<'_, Vec<Option<ItemOutcome>>> {
        Box::pin(through::replace(self, records))
    }
}
