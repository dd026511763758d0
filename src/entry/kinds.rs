//! The two kinds of records that a folder has, as one: what is at its paths, and what the folder is. What stores keep and
//! machines send each other.

use std::fmt;

use data_encoding::HEXLOWER;

use super::merge::{EntryMerge, merge as merge_entries};
use super::record::{EntryError, EntryHash, EntryRecord, FolderDefinition, FolderId};
use crate::record::{ContentHash, Hlc, RecordId, WriterId};

/// Names what one version of a folder's record says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryDigest(pub [u8; 32]);

impl fmt::Debug for EntryDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryDigest({})", HEXLOWER.encode(&self.0[..5]))
    }
}

/// One version of a record of a folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FolderRecord {
    Entry(EntryRecord),
    /// What the folder is: the record at the empty path.
    Definition(FolderDefinition),
}

/// What a store does with a version that it did not have. All of it in one transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FolderMerge {
    pub winner: FolderRecord,
    /// The version that lost, if there are two: for the history.
    pub history: Option<FolderRecord>,
    /// Another entry, for the content that lost; to be merged in turn.
    pub copy: Option<EntryRecord>,
}

impl FolderRecord {
    pub fn folder(&self) -> FolderId {
        match self {
            Self::Entry(entry) => entry.folder,
            Self::Definition(definition) => definition.folder,
        }
    }

    /// The path as it was written; empty for what the folder is.
    pub fn path(&self) -> &str {
        match self {
            Self::Entry(entry) => entry.path.as_str(),
            Self::Definition(_) => "",
        }
    }

    /// What all versions of it share.
    pub fn hash(&self) -> EntryHash {
        match self {
            Self::Entry(entry) => entry.hash(),
            Self::Definition(definition) => EntryHash::of_definition(definition.folder),
        }
    }

    pub fn hlc(&self) -> Hlc {
        match self {
            Self::Entry(entry) => entry.hlc,
            Self::Definition(definition) => definition.hlc,
        }
    }

    pub fn writer(&self) -> WriterId {
        match self {
            Self::Entry(entry) => entry.writer,
            Self::Definition(definition) => definition.writer,
        }
    }

    /// The content that it names, if it names one.
    pub fn target(&self) -> Option<ContentHash> {
        match self {
            Self::Entry(entry) => entry.target(),
            Self::Definition(_) => None,
        }
    }

    /// Length of that content, in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Entry(EntryRecord { file: Some(file), .. }) => file.size,
            Self::Entry(_) | Self::Definition(_) => 0,
        }
    }

    pub fn into_entry(self) -> Option<EntryRecord> {
        if let Self::Entry(entry) = self { Some(entry) } else { None }
    }

    pub fn into_definition(self) -> Option<FolderDefinition> {
        if let Self::Definition(definition) = self { Some(definition) } else { None }
    }

    /// Digest of every field; the same everywhere.
    pub fn digest(&self) -> EntryDigest {
        EntryDigest(match self {
            Self::Entry(entry) => entry.digest(),
            Self::Definition(definition) => definition.digest(),
        })
    }

    /// The id of this version where records have ids by `key`.
    pub fn id(&self, key: &[u8; 32]) -> RecordId {
        match self {
            Self::Entry(entry) => entry.id(key),
            Self::Definition(definition) => definition.id(key),
        }
    }

    /// Bytes of what differs in length from record to record.
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Entry(entry) => entry.path.as_str().len() + entry.by.len() + 48 * entry.seen.len(),
            Self::Definition(definition) => definition.name.len() + definition.by.len(),
        }
    }

    pub fn validate(&self) -> Result<(), EntryError> {
        match self {
            Self::Entry(entry) => entry.validate(),
            Self::Definition(definition) => definition.validate(),
        }
    }

    /// Whether this version wins over `other` of the same path. Total, so any two agents pick the same one.
    pub fn supersedes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Entry(one), Self::Entry(other)) => one.supersedes(other),
            (Self::Definition(one), Self::Definition(other)) => one.supersedes(other),
            // One has a path and the other has none, so that they never meet.
            (Self::Entry(_), Self::Definition(_)) | (Self::Definition(_), Self::Entry(_)) => false,
        }
    }
}

/// Merges `incoming` into what a store has at the same path.
pub fn merge(current: Option<&FolderRecord>, incoming: FolderRecord) -> FolderMerge {
    let Some(current) = current else { return FolderMerge { winner: incoming, history: None, copy: None } };
    match (current, incoming) {
        (FolderRecord::Entry(current), FolderRecord::Entry(incoming)) => {
            let EntryMerge { winner, history, copy } = merge_entries(Some(current), incoming);
            let (winner, history) = (FolderRecord::Entry(winner), history.map(FolderRecord::Entry));
            FolderMerge { winner, history, copy }
        }
        (current, incoming) if *current == incoming => {
            FolderMerge { winner: incoming, history: None, copy: None }
        }
        (current, incoming) if incoming.supersedes(current) => {
            FolderMerge { winner: incoming, history: Some(current.clone()), copy: None }
        }
        (current, incoming) => FolderMerge { winner: current.clone(), history: Some(incoming), copy: None },
    }
}
