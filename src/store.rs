//! Where assets live.
//!
//! [`ContentStore`] is what an agent needs of a CAN Service, whether it is embedded in the process ([`embedded`]) or
//! behind HTTP ([`can_http`]); [`service`] is the HTTP API over an embedded store. One conformance suite runs against
//! both implementations.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::entries::StoredEntry;
use self::scrub::ScrubReport;
use crate::record::{AssetRecord, ContentHash, Hlc};

pub(crate) mod at_rest;
pub mod bucket;
pub mod can_http;
mod contract;
pub mod embedded;
pub mod entries;
mod error;
pub mod fuzz;
pub mod groups;
pub mod hashing_file;
mod id;
mod incoming;
pub mod promises;
pub mod scrub;
pub mod server;
pub mod service;
pub mod sync_wire;
mod through;
mod uploads;

pub use contract::ContentStore;
pub use error::StoreError;
pub use hashing_file::HashingFile;
pub use id::StoreId;
pub use incoming::{IncomingAsset, IncomingContent, ReceivedFile};
pub(crate) use through::admits;
pub use uploads::{UploadWait, WaitingUploads};

/// How long a tombstone is kept, in milliseconds: an agent that was away for longer has to read everything again.
pub const TOMBSTONES_KEPT_MS: u64 = 180 * 24 * 3600 * 1000;

/// A store, shared by all that need it. Outlives any actor.
pub type StoreRef = Arc<dyn ContentStore>;

pub type StoreResult<T = ()> = Result<T, StoreError>;

/// What a store answers, in time.
pub type StoreFuture<'a, T> = BoxFuture<'a, StoreResult<T>>;

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
    pub chunks: BoxStream<'static, StoreResult<Bytes>>,
}
