//! Where assets live.
//!
//! [`ContentStore`] is what an agent needs of a CAN Service, whether it is embedded in the process ([`embedded`]) or
//! behind HTTP ([`can_http`]); [`service`] is the HTTP API over an embedded store. One conformance suite runs against
//! both implementations.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::entries::{
    EntryOutcome, EntryPage, EntryPut, EntryQuery, FolderClaim, FolderPlaces, HistoryPlace, StoredEntry,
};
use self::promises::{CopyPlace, CopyStanding, DropAnswer, DropTerms, MarkAnswer, PromiseAnswer};
use self::scrub::{ScrubFinding, ScrubReport};
use crate::entry::{EntryHash, FolderId, FolderRecord};
use crate::record::{AssetRecord, ContentHash, Hlc, LibraryId};

pub(crate) mod at_rest;
pub mod bucket;
pub mod can_http;
pub mod embedded;
pub mod entries;
pub mod fuzz;
pub mod groups;
pub mod hashing_file;
mod id;
pub mod promises;
pub mod scrub;
pub mod server;
pub mod service;
pub mod sync_wire;
mod through;
mod uploads;

pub use hashing_file::HashingFile;
pub use id::StoreId;
pub(crate) use through::admits;
pub use uploads::{UploadWait, WaitingUploads};

/// How long a tombstone is kept, in milliseconds: an agent that was away for longer has to read everything again.
pub const TOMBSTONES_KEPT_MS: u64 = 180 * 24 * 3600 * 1000;

/// A store, shared by all that need it. Outlives any actor.
pub type StoreRef = Arc<dyn ContentStore>;

/// What a store answers, in time.
pub type StoreFuture<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Whether a store has the content of a record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Holding {
    Held,
    /// It is not here, and nobody let go of it: agents that are to hold it ask peers for it.
    Wanted,
    /// It is not here, and not wanted until a user says so ([`ContentStore::want`]). Tombstones are like this, too.
    Unwanted,
}

impl Holding {
    pub fn is_held(self) -> bool {
        self == Self::Held
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredRecord {
    /// The version that won.
    pub record: AssetRecord,
    pub holding: Holding,
}

impl StoredRecord {
    /// Whether it is live, and its content is not here.
    pub fn is_absent(&self) -> bool {
        !self.record.deleted && !self.holding.is_held()
    }

    /// Whether the size in the record was checked against the content. Of content that was never here, peers may say
    /// anything; only what the store hashed itself has a BLAKE3 in its record.
    pub fn is_size_checked(&self) -> bool {
        self.holding.is_held() || self.record.blake3.is_some()
    }
}

/// One change of the store: the record as it is now, under the number of its latest change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeedEntry {
    /// Rises with every change, never goes back.
    pub seq: u64,
    /// The version that won.
    pub record: AssetRecord,
    pub holding: Holding,
    /// Of an asset that users of this node or of an own device changed or deleted: the last version of theirs before that,
    /// and the last one before those that came through a library. Written in the transaction that replaced them, so that
    /// libraries hear of them whatever ends in between.
    pub formers: Vec<AssetRecord>,
}

impl FeedEntry {
    /// Whether it is live, and its content is not here.
    pub fn is_absent(&self) -> bool {
        !self.record.deleted && !self.holding.is_held()
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FeedPage {
    /// Ascending by `seq`, all greater than the cursor that was asked for.
    pub entries: Vec<FeedEntry>,
    /// The same of folders, in one sequence with the others: of [`ContentStore::feed_with_entries`] alone.
    pub folder_records: Vec<StoredEntry>,
    /// The cursor lies outside what this store can continue from (older than purged tombstones, or none that it gave
    /// out, as after a restore): read everything again from 0. `entries` is empty then.
    pub reset: bool,
    /// Up to which number nothing is left to tell: that of the store's last change where the page has all there is. Numbers
    /// leave gaps, so that this may be beyond the last entry; 0 where the store does not say.
    pub end: u64,
    /// Which store this is of, where it says. A cursor of another store means nothing to it.
    pub store: Option<StoreId>,
}

impl FeedPage {
    /// How many changes it has, of assets and folders.
    pub fn len(&self) -> usize {
        self.entries.len() + self.folder_records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of its last change.
    pub fn last_seq(&self) -> Option<u64> {
        let (asset, entry) = (self.entries.last(), self.folder_records.last());
        asset.map(|entry| entry.seq).max(entry.map(|entry| entry.seq))
    }
}

/// What [`ContentStore::watch`] yields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreEvent {
    /// There are changes up to this number.
    Advanced(u64),
    /// As [`FeedPage::reset`].
    Reset,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StoreStatus {
    /// Which store it is, where it says.
    pub id: Option<StoreId>,
    /// Live assets that the store knows, whether or not their contents are here.
    pub assets: u64,
    pub bytes: u64,
    /// Those of them whose contents are here.
    pub assets_held: u64,
    /// Sum of the sizes of those.
    pub bytes_held: u64,
    /// Contents that were found damaged, are set aside, and did not come again yet.
    pub damaged: u64,
    /// Number of the last change.
    pub seq: u64,
    /// Whether it keeps records of folders.
    pub keeps_entries: bool,
    /// Why the store takes no writes at the moment, where it does not.
    pub read_only: Option<String>,
    /// Why nothing but deletions is taken, where the disk has too little room.
    pub short_of_space: Option<String>,
    /// Why larger contents are neither taken nor given, where they are in object storage that cannot be used.
    pub contents_away: Option<String>,
    /// How much content may be here, and is, where that is limited.
    pub quota: Option<QuotaStatus>,
    /// Contents that are acknowledged, and not in object storage yet, where they go there afterwards.
    pub waiting_uploads: Option<WaitingUploads>,
    /// What people should know of the store, and cannot be helped.
    pub notice: Option<String>,
    /// How scrubbing stands, where the store is scrubbed.
    pub scrub: Option<Box<ScrubReport>>,
    /// How snapshots of the records in object storage stand, where they are made.
    pub snapshots: Option<Box<SnapshotReport>>,
}

impl StoreStatus {
    /// Why the store does not take everything that it is asked to, in a clause.
    pub fn problem(&self) -> Option<String> {
        let read_only = self.read_only.as_ref().map(|why| format!("the store takes no writes: {why}"));
        let short = || {
            self.short_of_space.as_ref().map(|why| format!("the store takes nothing but deletions: {why}"))
        };
        read_only.or_else(short).or_else(|| self.contents_away.clone())
    }
}

/// Where larger contents are, in a clause for people.
pub(crate) fn object_storage_sentence(url: &str, shared: bool, write_back: bool) -> String {
    let whose = if shared { "shared with other stores" } else { "this store's own" };
    let when = if write_back { ", uploaded after they are acknowledged" } else { "" };
    format!("the larger ones in {url}, {whose}{when}")
}

/// How much content may be here, and is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "units last, as everywhere")]
pub struct QuotaStatus {
    /// The limit.
    pub max_bytes: u64,
    /// What counts: contents that are held, and those in the trash.
    pub used_bytes: u64,
    /// Of that, what lies in the trash.
    pub trashed_bytes: u64,
}

/// How snapshots of the records in object storage stand.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
pub struct SnapshotReport {
    /// As of when all records are in one, in milliseconds since the Unix epoch; absent where none was made.
    #[serde(default)]
    pub last_ms: Option<u64>,
    /// Why none is made at the moment, where none can be.
    #[serde(default)]
    pub problem: Option<String>,
    /// Whether one is being made.
    #[serde(default)]
    pub running: bool,
}

/// Content that arrived, with what it hashes to.
#[derive(Debug)]
pub enum IncomingContent {
    /// All of it in memory; the store checks the hash.
    Bytes(Bytes),
    /// In a file that the receiver hashed while it wrote it.
    File(ReceivedFile),
}

impl IncomingContent {
    /// Its length in bytes.
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(file) => file.size,
        }
    }
}

/// A received file, complete and hashed, that is ready to be moved into a store. Deleted when dropped.
#[derive(Debug)]
pub struct ReceivedFile {
    /// Where it is; removed on drop unless the store moved it.
    pub path: tempfile::TempPath,
    pub size: u64,
    /// SHA-256 of those bytes, computed while they were written.
    pub sha256: ContentHash,
    /// BLAKE3 of the same bytes.
    pub blake3: [u8; 32],
    /// What each group of them hashes to, as [`groups::GroupHasher`] says; empty where that is not known.
    pub groups: Vec<groups::GroupSum>,
}

#[derive(Debug)]
pub struct IncomingAsset {
    pub record: AssetRecord,
    pub content: IncomingContent,
}

/// What became of one asset or record of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ItemOutcome {
    /// Durable now, this version won.
    Stored,
    /// The store had this version or a newer one; nothing to do.
    Unchanged,
    /// Durable now, this version won; its content is not here.
    Absent,
    /// A live record whose content the store does not have; nothing was stored.
    NeedsContent,
    /// Refused, and why: the content does not hash to the record's hash, lengths differ, metadata over its limits.
    Rejected(String),
}

/// Gives a version another date. What it says stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Redating {
    /// Later: whatever is held of `hash` is written once more, later than `other`, unless it is that already.
    Reassert {
        hash: ContentHash,
        /// The date of a version that does not count.
        other: Hlc,
    },
    /// Earlier: a version that was written here by a clock that was ahead gets the date that it has at `now_ms`. Only
    /// where it is dated more than [`HLC_AHEAD_MAX_MS`](crate::record::HLC_AHEAD_MAX_MS) after that, and later than
    /// `known`.
    Recall {
        hash: ContentHash,
        now_ms: u64,
        /// The newest date of a version that anybody else may have.
        known: Hlc,
    },
}

impl Redating {
    pub fn hash(&self) -> ContentHash {
        match self {
            Self::Reassert { hash, .. } | Self::Recall { hash, .. } => *hash,
        }
    }
}

pub struct ContentReader {
    /// Size of the whole content in bytes.
    pub total: u64,
    /// The bytes asked for, in chunks of at most 256 KiB.
    pub chunks: BoxStream<'static, Result<Bytes, StoreError>>,
}

/// Why a store could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoreError {
    /// No live asset of this hash.
    #[error("no asset {0}")]
    NotFound(ContentHash),
    /// A live asset whose content is not here.
    #[error("the content of {0} is not held here")]
    NotHeld(ContentHash),
    /// An asset whose content a file of a folder has.
    #[error("{0}")]
    InFolder(Box<FolderPlaces>),
    /// A store without records of folders.
    #[error("this store keeps no folders")]
    NoFolders,
    /// An asset that was changed since the caller looked at it.
    #[error("the asset {0} was changed meanwhile")]
    Changed(ContentHash),
    /// Stored bytes that no longer hash to their name, or cannot be read.
    #[error(
        "the stored content of {0} is damaged: it is set aside, and fetched again if another machine has it"
    )]
    Corrupt(ContentHash),
    /// No room, or less than the reserve.
    #[error("{0}")]
    Full(String),
    /// More content than may be here.
    #[error("{0}")]
    OverQuota(String),
    /// The store takes no writes, until it is started again or its contents are back; or what is asked for is away with these.
    #[error("the store is read-only: {0}")]
    ReadOnly(String),
    /// Too much is asked at once: later it may be answered.
    #[error("{0}")]
    Busy(String),
    /// The caller's fault: what was asked makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// An external CAN Service that does not answer, or answers with a server error.
    #[error("the CAN Service at {url} is not available: {reason}")]
    Unavailable { url: String, reason: String },
    /// An external CAN Service that does not know our key.
    #[error("the CAN Service at {url} refuses our key: set sync_api_key to the service's own")]
    Unauthorized { url: String },
    /// An external CAN Service that cannot do it at all.
    #[error("the CAN Service at {url} cannot {what}: it is older than this program; update it")]
    Unsupported { url: String, what: &'static str },
    /// Object storage that does not answer, or refuses: nothing is known of what is there.
    #[error("the object storage {url} cannot be used: {reason}")]
    BucketAway {
        /// Where contents are, as people know it.
        url: String,
        /// What happened, and what to do.
        reason: String,
    },
    /// Anything else below: SQLite, the file system.
    #[error("{action}: {reason}")]
    Io {
        /// What was attempted, on what.
        action: String,
        reason: String,
    },
}

impl StoreError {
    pub(crate) fn io(action: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::Io { action: action.into(), reason: reason.to_string() }
    }
}

/// What an agent needs of a store. Every method may be called at any time from any task.
pub trait ContentStore: Send + Sync + 'static {
    fn status(&self) -> BoxFuture<'_, Result<StoreStatus, StoreError>>;

    /// Changes after `since`, at most `limit` (capped at 1,000) of them, tombstones included.
    fn feed(&self, since: u64, limit: usize) -> BoxFuture<'_, Result<FeedPage, StoreError>>;

    /// As [`feed`](Self::feed), with the records of folders: at most `limit` changes of both together, in one sequence.
    fn feed_with_entries(&self, since: u64, limit: usize) -> BoxFuture<'_, Result<FeedPage, StoreError>> {
        self.feed(since, limit)
    }

    /// What folders have, in the order of paths, in pages.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a cursor that is none; [`StoreError::NoFolders`], or [`StoreError::Unsupported`].
    fn entries(&self, query: EntryQuery) -> BoxFuture<'_, Result<EntryPage, StoreError>> {
        drop(query);
        Box::pin(async { Err(StoreError::NoFolders) })
    }

    /// The records of folders of these names, in any order; unknown ones are left out. At most 1,000.
    fn entries_named(&self, hashes: Vec<EntryHash>) -> BoxFuture<'_, Result<Vec<FolderRecord>, StoreError>> {
        drop(hashes);
        Box::pin(async { Err(StoreError::NoFolders) })
    }

    /// What folders have now with one of these contents, in any order: at most [`PLACES_MAX`](entries::PLACES_MAX) entries for up to 1,000
    /// contents. A store that cannot look by content knows none.
    fn entries_with(
        &self,
        contents: Vec<ContentHash>,
    ) -> BoxFuture<'_, Result<Vec<FolderRecord>, StoreError>> {
        drop(contents);
        Box::pin(async { Ok(Vec::new()) })
    }

    /// The versions of what is at a path that lost, the newest first, those that come after `before`; at most 1,000.
    fn entry_history(
        &self,
        folder: FolderId,
        path: String,
        before: Option<HistoryPlace>,
    ) -> BoxFuture<'_, Result<Vec<FolderRecord>, StoreError>> {
        let _ = (folder, path, before);
        Box::pin(async { Err(StoreError::NoFolders) })
    }

    /// Takes versions that are written here, each if what is there is what it names. Answers in the same order once all that is
    /// [`EntryOutcome::Stored`] is durable. At most 1,000.
    fn put_entries(&self, puts: Vec<EntryPut>) -> BoxFuture<'_, Result<Vec<EntryOutcome>, StoreError>> {
        drop(puts);
        Box::pin(async { Err(StoreError::NoFolders) })
    }

    /// Takes versions from a peer: they merge ([`crate::entry::merge()`]), and what loses goes to the history. Same order, same
    /// durability. At most 1,000. Of a folder that came by a ticket, they are taken
    /// with its library alone, and with that no others.
    fn take_entries(
        &self,
        records: Vec<FolderRecord>,
        library: Option<LibraryId>,
    ) -> BoxFuture<'_, Result<Vec<EntryOutcome>, StoreError>> {
        let _ = (records, library);
        Box::pin(async { Err(StoreError::NoFolders) })
    }

    /// Folders that came by a ticket, each with its library.
    fn foreign_folders(&self) -> BoxFuture<'_, Result<Vec<(FolderId, LibraryId)>, StoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Says that a folder comes by a ticket of this library from now on; only of one that the store has nothing of.
    fn claim_folder(
        &self,
        folder: FolderId,
        library: LibraryId,
    ) -> BoxFuture<'_, Result<FolderClaim, StoreError>> {
        let _ = (folder, library);
        Box::pin(async { Err(StoreError::NoFolders) })
    }

    /// Forgets all of a folder that came by a ticket of this library; contents stay. Of another one it does nothing.
    fn drop_folder(&self, folder: FolderId, library: LibraryId) -> BoxFuture<'_, Result<(), StoreError>> {
        let _ = (folder, library);
        Box::pin(async { Ok(()) })
    }

    /// Yields whenever the store has changes after the last number yielded (`since` at first). Coalesces; ends or
    /// yields an error when the stream is cut, after which the caller asks again.
    fn watch(&self, since: u64) -> BoxStream<'static, Result<StoreEvent, StoreError>>;

    /// The records of these assets, tombstones included, in any order; unknown ones are left out. At most 1,000.
    fn records(&self, hashes: Vec<ContentHash>) -> BoxFuture<'_, Result<Vec<StoredRecord>, StoreError>>;

    /// Those of these contents that are held, in any order. At most 1,000.
    fn held(&self, hashes: Vec<ContentHash>) -> BoxFuture<'_, Result<Vec<ContentHash>, StoreError>> {
        Box::pin(async move {
            let records = self.records(hashes).await?.into_iter();
            Ok(records.filter(|stored| stored.holding.is_held()).map(|stored| stored.record.hash).collect())
        })
    }

    /// The record of an asset; that its content is here was seen on the disk just now, as far as that is quick.
    fn look(&self, hash: ContentHash) -> BoxFuture<'_, Result<Option<StoredRecord>, StoreError>> {
        Box::pin(async move { Ok(self.records(vec![hash]).await?.pop()) })
    }

    /// Whether a content that is held waits to be uploaded to object storage, where contents go there once they are acknowledged.
    fn upload_wait(&self, hash: ContentHash) -> BoxFuture<'_, Result<Option<UploadWait>, StoreError>> {
        let _ = hash;
        Box::pin(async { Ok(None) })
    }

    /// Reads a content that is held and checks it. One that is damaged is set aside: it is not held any more, and
    /// [wanted](Holding::Wanted). Whether it is held, and right as far as the store can tell.
    fn verify(&self, hash: ContentHash) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move { Ok(self.look(hash).await?.is_some_and(|stored| stored.holding.is_held())) })
    }

    /// Content from `offset`, at most `length` bytes (all that follows if `None`). No byte is given that was not checked:
    /// where the stored ones are wrong, the stream fails before it ends.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for unknown and deleted assets, [`StoreError::NotHeld`] for those whose content is not
    /// here, [`StoreError::Invalid`] for an offset past the end.
    fn content(
        &self,
        hash: ContentHash,
        offset: u64,
        length: Option<u64>,
    ) -> BoxFuture<'_, Result<ContentReader, StoreError>>;

    /// What proves that these groups of a content, at most [`groups::PROOF_GROUPS_MAX`], are part of it, as
    /// [`groups::proof_nodes`] says. Empty where the store has no such proof: the content is small, or the store does not keep any.
    fn proof(
        &self,
        hash: ContentHash,
        groups: std::ops::Range<u64>,
    ) -> BoxFuture<'_, Result<Vec<groups::GroupSum>, StoreError>> {
        let _ = (hash, groups);
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Those of these contents that are small and at hand, checked against their hashes, in one read: for sending many
    /// at once. May leave out any. At most 1,000 hashes; the caller bounds what that may hold.
    fn small_contents(
        &self,
        hashes: Vec<ContentHash>,
    ) -> BoxFuture<'_, Result<Vec<(ContentHash, Bytes)>, StoreError>> {
        drop(hashes);
        Box::pin(async { Ok(Vec::new()) })
    }

    /// The file that has a content, open for reading and unchecked, where there is one on this machine: whoever reads it hashes all of it,
    /// and asks for [`content`](Self::content) where that is wrong. Nothing is ever written to it.
    fn content_file(&self, hash: ContentHash) -> BoxFuture<'_, Result<Option<std::fs::File>, StoreError>> {
        let _ = hash;
        Box::pin(async { Ok(None) })
    }

    /// Whether content of so many bytes would be taken now, as far as the store can tell before it comes: what it
    /// cannot take need not be transferred.
    fn check_room(&self, bytes: u64) -> Result<(), StoreError> {
        let _ = bytes;
        Ok(())
    }

    /// How many bytes of content would still be taken; `None` where that is not limited, or not known.
    fn quota_left(&self) -> Option<u64> {
        None
    }

    /// Contents that are damaged here, are set aside, and did not come again yet, the latest first. At most 1,000.
    fn damaged(&self, limit: usize) -> BoxFuture<'_, Result<Vec<ScrubFinding>, StoreError>> {
        let _ = limit;
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Takes assets from a peer, content included; answers in the same order once all that is `Stored` is durable.
    /// Each is checked against its hash. The record merges: the winning version stays. The content of a live asset that
    /// was not held is `Stored`, whichever version wins. An `Err` means that nothing of the batch may be counted on.
    fn ingest(&self, batch: Vec<IncomingAsset>) -> BoxFuture<'_, Result<Vec<ItemOutcome>, StoreError>>;

    /// Whether a content of this size may be where this store keeps its own before it has it ([`take_over`](Self::take_over)).
    fn may_take_over(&self, size: u64) -> bool {
        let _ = size;
        false
    }

    /// Takes an asset whose content another store put where this one keeps its own, as in a bucket that both use: all of it is
    /// read and hashed first. Durable once it is answered; `None` where the content is not there, not right, or cannot be read now.
    fn take_over(&self, record: AssetRecord) -> BoxFuture<'_, Result<Option<ItemOutcome>, StoreError>> {
        drop(record);
        Box::pin(async { Ok(None) })
    }

    /// Takes records without content: edits and tombstones. Same order, same durability. A version of an asset whose
    /// content is not held is [`ItemOutcome::Absent`].
    fn apply(&self, records: Vec<AssetRecord>) -> BoxFuture<'_, Result<Vec<ItemOutcome>, StoreError>>;

    /// As [`apply`](Self::apply), but a live record whose content is not here is taken all the same: it is
    /// [`ItemOutcome::Absent`] then, and its content is [wanted](Holding::Wanted).
    fn take_absent(&self, records: Vec<AssetRecord>) -> BoxFuture<'_, Result<Vec<ItemOutcome>, StoreError>>;

    /// Lets go of the contents of live assets: the records stay as they are, the contents go to the trash like those of
    /// deleted assets, and are [not wanted](Holding::Unwanted). [`ItemOutcome::Absent`] for each that was held or wanted,
    /// [`ItemOutcome::Unchanged`] for all others, and for what another machine was promised. Same order, same durability.
    fn let_go(&self, hashes: Vec<ContentHash>) -> BoxFuture<'_, Result<Vec<ItemOutcome>, StoreError>>;

    /// Where its copies are, where it can promise to keep them and let go of them by promise; `None` where it cannot, or it does
    /// not know yet.
    fn copy_place(&self) -> Option<CopyPlace> {
        None
    }

    /// Marks copies that are about to be let go of, durably: none of them is promised to anybody from then on. Same order.
    /// At most 1,000.
    fn mark_dropping(&self, hashes: Vec<ContentHash>) -> BoxFuture<'_, Result<Vec<MarkAnswer>, StoreError>> {
        drop(hashes);
        Box::pin(async { Err(promises::unsupported()) })
    }

    /// Takes marks away: those of these contents, at most 1,000, or all.
    fn clear_dropping(&self, hashes: Option<Vec<ContentHash>>) -> BoxFuture<'_, Result<(), StoreError>> {
        drop(hashes);
        Box::pin(async { Ok(()) })
    }

    /// Lets go of marked copies for good, which are not in the trash afterwards: the records stay, and the contents are
    /// [not wanted](Holding::Unwanted). Not later than the terms say, by [`Clock::uptime`](crate::clock::Clock::uptime) of the clock that the
    /// store was opened with, and only while the terms hold, which are looked at in the same transaction. Same order, same durability. At
    /// most 1,000.
    fn drop_marked(
        &self,
        hashes: Vec<ContentHash>,
        terms: DropTerms,
    ) -> BoxFuture<'_, Result<Vec<DropAnswer>, StoreError>> {
        let _ = (hashes, terms);
        Box::pin(async { Err(promises::unsupported()) })
    }

    /// Promises another machine, by its endpoint id, to keep a copy for [`promises::KEPT_FOR`]: durable once it is answered.
    /// Nothing but a user's deletion removes it then.
    fn promise(&self, hash: ContentHash, to: [u8; 32]) -> BoxFuture<'_, Result<PromiseAnswer, StoreError>> {
        let _ = (hash, to);
        Box::pin(async { Err(promises::unsupported()) })
    }

    /// Whether a copy is about to be let go of, and to whom it is promised.
    fn standing(&self, hash: ContentHash) -> BoxFuture<'_, Result<CopyStanding, StoreError>> {
        let _ = hash;
        Box::pin(async { Ok(CopyStanding::default()) })
    }

    /// Wants contents that are not here. [`ItemOutcome::Stored`] for each that the trash still had, whole: it is held again.
    /// [`ItemOutcome::NeedsContent`] for those that are to be fetched, [`ItemOutcome::Unchanged`] for all that are no live
    /// assets, or are held. Same order, same durability.
    fn want(&self, hashes: Vec<ContentHash>) -> BoxFuture<'_, Result<Vec<ItemOutcome>, StoreError>>;

    /// Gives versions other dates; for each, the version as it was before, where it has another date now. Same order,
    /// same durability. At most 1,000.
    fn redate(&self, redatings: Vec<Redating>)
    -> BoxFuture<'_, Result<Vec<Option<AssetRecord>>, StoreError>>;

    /// As [`Self::ingest`], for assets that a library delivered, each of which its record names ([`AssetRecord::via`]).
    /// What is here outside of that library stays as it is, and so does a deletion that is newer: `None` for those.
    ///
    /// A store that cannot look and write at once looks before it writes. What does not hash to its record is
    /// [`ItemOutcome::Rejected`] in any case.
    fn ingest_through(
        &self,
        batch: Vec<IncomingAsset>,
    ) -> BoxFuture<'_, Result<Vec<Option<ItemOutcome>>, StoreError>> {
        Box::pin(through::ingest(self, batch))
    }

    /// As [`Self::apply`], for records that a library delivered, each with the version that it is to replace: where the
    /// store has another one by now, nothing is changed, and the answer is `None`.
    fn replace(
        &self,
        records: Vec<(AssetRecord, AssetRecord)>,
    ) -> BoxFuture<'_, Result<Vec<Option<ItemOutcome>>, StoreError>> {
        Box::pin(through::replace(self, records))
    }
}
