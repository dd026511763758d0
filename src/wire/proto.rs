//! The messages of `proto/can_sync.proto`, and their way to and from our own types. Whatever comes from outside is
//! checked here once; past this module a record is well-formed.

use crate::entry::{
    EntryError, EntryFile, EntryPath, EntryRecord, FolderAccess, FolderDefinition, FolderId, FolderRecord,
    PathError, SeenVersion,
};
use crate::record::{AssetMeta, AssetRecord, ContentHash, Hlc, LibraryId, MetaError, WriterId};

#[allow(unreachable_pub, clippy::all, clippy::pedantic, reason = "generated from the .proto file")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/can_sync.v3.rs"));
}

pub use generated::{
    Announcement as WireAnnouncement, AssetMeta as WireMeta, AssetRecord as WireRecord, Auth, Cancel,
    ContentHeader, ContentRequest, Deferral, Doubled, EntryResult, Error, FeedEntry as WireFeedEntry, Find,
    FolderEntry as WireEntry, ForeignFolder, Frame, Have, Hello, Holding as WireHolding, IngestHeader,
    IngestResult, InlineContent, Keep, KeepRequest, Kept, Lacks, Later, LibraryProof, LibrarySummary,
    LibraryTicket, ListPeersReply, ListPeersRequest, ListedPeer, Offer, Ping, Pong, PutEntry, ReconClose,
    ReconMsg, ReconOpen, Records, RedateResult, Redating as WireRedating, Revocations,
    SeenVersion as WireSeen, SignedAnnouncement, SnapshotItem, StoredRecord as WireStoredRecord, Want,
    Welcome, entry_result, frame, ingest_result, kept,
};

/// A record on the wire that no honest sender writes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordError {
    #[error("field '{field}' of a record has {len} bytes, not 32")]
    FieldLength { field: &'static str, len: usize },
    #[error("a record speaks of {0} bytes of content")]
    Size(u64),
    #[error("a record has no metadata")]
    MetaMissing,
    #[error("the metadata of {hash} is not acceptable: {source}")]
    Meta { hash: ContentHash, source: MetaError },
    /// A path that is none.
    #[error("an entry is not acceptable: {0}")]
    Path(#[from] PathError),
    #[error("an entry is not acceptable: {0}")]
    Entry(#[from] EntryError),
    #[error("an entry says at once what is at a path and what the folder is, or neither")]
    EntryKind,
}

fn bytes32(field: &'static str, bytes: &[u8]) -> Result<[u8; 32], RecordError> {
    bytes.try_into().map_err(|_| RecordError::FieldLength { field, len: bytes.len() })
}

impl TryFrom<WireRecord> for AssetRecord {
    type Error = RecordError;

    fn try_from(wire: WireRecord) -> Result<Self, Self::Error> {
        let hash = ContentHash(bytes32("hash", &wire.hash)?);
        if i64::try_from(wire.size).is_err() {
            return Err(RecordError::Size(wire.size));
        }
        let meta = wire.meta.ok_or(RecordError::MetaMissing)?;
        let meta = AssetMeta {
            mime_type: meta.mime_type,
            filename: meta.filename,
            application: meta.application,
            user: meta.user,
            tags: meta.tags,
            description: meta.description,
            created_at_ms: meta.created_at_ms,
            names: meta.names,
            dropped_names: meta.dropped_names,
            modified_at_ms: meta.modified_at_ms,
        };
        meta.validate().map_err(|source| RecordError::Meta { hash, source })?;
        let via = wire.via.map(|via| bytes32("via", &via).map(LibraryId)).transpose()?;
        Ok(Self {
            hash,
            size: wire.size,
            blake3: wire.blake3.map(|b| bytes32("blake3", &b)).transpose()?,
            hlc: Hlc(wire.hlc),
            writer: WriterId(bytes32("writer", &wire.writer)?),
            deleted: wire.deleted,
            left: wire.deleted && wire.left,
            own_content: wire.own_content && via.is_some(),
            via,
            meta,
        })
    }
}

impl From<&AssetRecord> for WireRecord {
    fn from(record: &AssetRecord) -> Self {
        let meta = &record.meta;
        Self {
            hash: record.hash.0.to_vec().into(),
            size: record.size,
            blake3: record.blake3.map(|b| b.to_vec().into()),
            hlc: record.hlc.0,
            writer: record.writer.0.to_vec().into(),
            deleted: record.deleted,
            left: record.left,
            via: record.via.map(|via| via.0.to_vec().into()),
            own_content: record.own_content,
            meta: Some(WireMeta {
                mime_type: meta.mime_type.clone(),
                filename: meta.filename.clone(),
                application: meta.application.clone(),
                user: meta.user.clone(),
                tags: meta.tags.clone(),
                description: meta.description.clone(),
                created_at_ms: meta.created_at_ms,
                names: meta.names.clone(),
                dropped_names: meta.dropped_names.clone(),
                modified_at_ms: meta.modified_at_ms,
            }),
        }
    }
}

impl TryFrom<WireEntry> for FolderRecord {
    type Error = RecordError;

    fn try_from(wire: WireEntry) -> Result<Self, Self::Error> {
        let record = if wire.name.is_some() {
            Self::Definition(definition_of(wire)?)
        } else {
            Self::Entry(entry_of(wire)?)
        };
        record.validate()?;
        Ok(record)
    }
}

fn definition_of(wire: WireEntry) -> Result<FolderDefinition, RecordError> {
    let is_file = wire.target.is_some() || wire.was.is_some() || wire.executable;
    if is_file || wire.size > 0 || wire.mtime_ms > 0 || !wire.path.is_empty() || !wire.seen.is_empty() {
        return Err(RecordError::EntryKind);
    }
    Ok(FolderDefinition {
        folder: FolderId(bytes32("folder", &wire.folder)?),
        hlc: Hlc(wire.hlc),
        writer: WriterId(bytes32("writer", &wire.writer)?),
        name: wire.name.unwrap_or_default(),
        access: if wire.senders_only { FolderAccess::Senders } else { FolderAccess::Everybody },
        by: wire.by,
    })
}

fn entry_of(wire: WireEntry) -> Result<EntryRecord, RecordError> {
    let says_of_file = wire.executable || wire.size > 0 || wire.mtime_ms > 0;
    if wire.senders_only || (wire.target.is_none() && says_of_file) {
        return Err(RecordError::EntryKind);
    }
    if i64::try_from(wire.size).is_err() {
        return Err(RecordError::Size(wire.size));
    }
    let file = |target: bytes::Bytes| {
        let target = ContentHash(bytes32("target", &target)?);
        let WireEntry { size, mtime_ms, executable, .. } = wire;
        Ok::<_, RecordError>(EntryFile { target, size, mtime_ms, executable })
    };
    let seen = |seen: WireSeen| {
        let writer = WriterId(bytes32("seen", &seen.writer)?);
        Ok(SeenVersion { writer, hlc: Hlc(seen.hlc) })
    };
    Ok(EntryRecord {
        folder: FolderId(bytes32("folder", &wire.folder)?),
        path: EntryPath::parse(&wire.path)?,
        hlc: Hlc(wire.hlc),
        writer: WriterId(bytes32("writer", &wire.writer)?),
        file: wire.target.map(file).transpose()?,
        was: wire.was.map(|was| bytes32("was", &was).map(ContentHash)).transpose()?,
        by: wire.by,
        seen: wire.seen.into_iter().map(seen).collect::<Result<_, RecordError>>()?,
    })
}

impl From<&FolderRecord> for WireEntry {
    fn from(record: &FolderRecord) -> Self {
        let common = Self {
            folder: record.folder().0.to_vec().into(),
            path: record.path().to_owned(),
            hlc: record.hlc().0,
            writer: record.writer().0.to_vec().into(),
            ..Self::default()
        };
        match record {
            FolderRecord::Definition(FolderDefinition { name, access, by, .. }) => Self {
                by: by.clone(),
                name: Some(name.clone()),
                senders_only: *access == FolderAccess::Senders,
                ..common
            },
            FolderRecord::Entry(EntryRecord { file, was, by, seen, .. }) => {
                let wire_seen = |SeenVersion { writer, hlc }: &SeenVersion| WireSeen {
                    writer: writer.0.to_vec().into(),
                    hlc: hlc.0,
                };
                let file = file.as_ref();
                Self {
                    target: file.map(|file| file.target.0.to_vec().into()),
                    was: was.map(|was| was.0.to_vec().into()),
                    size: file.map_or(0, |file| file.size),
                    mtime_ms: file.map_or(0, |file| file.mtime_ms),
                    executable: file.is_some_and(|file| file.executable),
                    by: by.clone(),
                    seen: seen.iter().map(wire_seen).collect(),
                    ..common
                }
            }
        }
    }
}
