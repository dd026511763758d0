//! The record of kind *entry*: what a folder has at one path.
//!
//! An entry names content, as an asset does, but is no metadata of one: ten thousand paths may have one content. Versions of an entry
//! are told apart by `(hlc, writer)` and, where an identity was copied, by their digest. Each says which versions it *saw*, that is,
//! which ones its writer's disk had shown before the edit: from that follows whether two edits were made apart
//! ([`merge`](super::merge())).

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::HEXLOWER;

use super::path::EntryPath;
use crate::record::{ContentHash, Hlc, RecordId, WriterId};
use crate::text::is_hazard;

/// Most characters of [`EntryRecord::by`].
pub const BY_CHARS_MAX: usize = 32;
/// Largest content that an entry may speak of, 16 TiB.
pub const ENTRY_SIZE_MAX: u64 = 1 << 44;
/// Most versions in [`EntryRecord::seen`].
pub const SEEN_MAX: usize = 32;
/// Most characters of a folder's name.
pub const FOLDER_NAME_CHARS_MAX: usize = 64;

const HASH_CONTEXT: &str = "can-sync 2026 folder entry";
const DIGEST_CONTEXT: &str = "can-sync 2026 folder entry digest";
/// What digests and ids of entries begin with. Everything else that is hashed under a library's key is longer than an id's input here,
/// so that no record of another kind has an entry's id.
const KIND_ENTRY: [u8; 16] = *b"can-sync entry\0\x01";
/// The same for the definition of a folder.
const KIND_DEFINITION: [u8; 16] = *b"can-sync entry\0\x02";

/// Names a folder: random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FolderId(pub [u8; 32]);

impl fmt::Debug for FolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FolderId({})", HEXLOWER.encode(&self.0[..5]))
    }
}

/// Names what all versions of an entry share: the folder and the path. No content has such a name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryHash(pub [u8; 32]);

impl fmt::Debug for EntryHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryHash({})", HEXLOWER.encode(&self.0[..5]))
    }
}

impl EntryHash {
    /// Of a path; the same for every way to write it.
    pub fn of(folder: FolderId, path: &EntryPath) -> Self {
        Self::of_text(folder, &path.composed())
    }

    /// Of a path that may be none, and then has no entry; the empty one is the folder's definition.
    pub fn of_path(folder: FolderId, path: &str) -> Self {
        Self::of_text(folder, &super::path::composed(path))
    }

    /// Of the folder's definition, which has the empty path.
    pub fn of_definition(folder: FolderId) -> Self {
        Self::of_text(folder, "")
    }

    fn of_text(FolderId(folder): FolderId, path: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(HASH_CONTEXT);
        hasher.update(&folder).update(path.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryFile {
    pub target: ContentHash,
    /// Length of the content in bytes.
    pub size: u64,
    /// When it was last written, in milliseconds since the Unix epoch: given to the file where it is put on a disk, else without
    /// effect.
    pub mtime_ms: u64,
    pub executable: bool,
}

/// A version that was seen: with all that its writer made earlier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeenVersion {
    pub writer: WriterId,
    pub hlc: Hlc,
}

/// One version of what a folder has at one path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryRecord {
    pub folder: FolderId,
    pub path: EntryPath,
    /// When this version was written: later than all that it saw.
    pub hlc: Hlc,
    /// Who wrote it. Belongs to an agent, and changes with its store's epoch.
    pub writer: WriterId,
    /// The file; `None` once it was removed.
    pub file: Option<EntryFile>,
    /// What the version before had for content.
    pub was: Option<ContentHash>,
    /// What people call the machine that wrote it: at most [`BY_CHARS_MAX`] characters, all of which show.
    pub by: String,
    /// Versions that it follows: one for each writer, the newest, in the order of writers; at most [`SEEN_MAX`].
    pub seen: Vec<SeenVersion>,
}

#[derive(Clone, Debug)]
pub struct EntryAuthor {
    /// This agent, for this epoch of its store.
    pub writer: WriterId,
    /// What people call this machine; see [`EntryAuthor::name_from`].
    pub by: String,
    /// Now, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

impl EntryAuthor {
    /// A machine's name as entries have it: cut, and without what does not show.
    pub fn name_from(text: &str) -> String {
        text.trim().chars().filter(|c| !is_hazard(*c)).take(BY_CHARS_MAX).collect()
    }
}

/// A rule of [`EntryRecord`] or [`FolderDefinition`] that was broken.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum EntryError {
    /// Longer than [`BY_CHARS_MAX`].
    #[error("a machine's name of {0} characters, more than {BY_CHARS_MAX}")]
    ByTooLong(usize),
    /// Characters that do not show.
    #[error("a machine's name has characters that do not show")]
    ByHidden,
    /// More than [`SEEN_MAX`].
    #[error("{0} versions that were seen, more than {SEEN_MAX}")]
    TooManySeen(usize),
    /// Unsorted, or two of one writer.
    #[error("the versions that were seen are not sorted by writer, or two are of one writer")]
    SeenNotCanonical,
    #[error("a version saw one that is not earlier than itself")]
    SeenTooLate,
    /// Later than 48 bits of milliseconds can say.
    #[error("mtime_ms {0} is out of range")]
    Mtime(u64),
    /// More than [`ENTRY_SIZE_MAX`].
    #[error("it says {0} bytes, which nothing has")]
    Size(u64),
    /// The name on disk of another path's file.
    #[error("the path is a name under which another path's file is put aside")]
    Aside,
    /// Empty, too long, or with characters that do not show.
    #[error(
        "a folder's name is empty, longer than {FOLDER_NAME_CHARS_MAX} characters, or has some that do not show"
    )]
    FolderName,
}

impl EntryRecord {
    /// The version that `author` writes after `before`, the one that the disk showed last, if any. It is later than that one, than what
    /// that one saw, and than `floor`, which it did not see.
    pub fn after(
        before: Option<&Self>,
        (folder, path): (FolderId, &EntryPath),
        file: Option<EntryFile>,
        author: &EntryAuthor,
        floor: Hlc,
    ) -> Self {
        let hlc = before.map_or(floor, |before| before.hlc.max(floor)).next(author.now_ms);
        Self {
            folder,
            path: before.map_or(path, |before| &before.path).clone(),
            hlc,
            writer: author.writer,
            file,
            was: before.and_then(Self::target),
            by: author.by.clone(),
            seen: before.map(Self::seen_by_next).unwrap_or_default(),
        }
    }

    /// What a version saw that follows this one. Where there is no room for all, the oldest are left out: to whoever wrote these
    /// the next version looks like one made apart, which costs a copy and no content.
    fn seen_by_next(&self) -> Vec<SeenVersion> {
        let mut newest: BTreeMap<WriterId, Hlc> = BTreeMap::new();
        let this = SeenVersion { writer: self.writer, hlc: self.hlc };
        for version in self.seen.iter().chain([&this]) {
            let hlc = newest.entry(version.writer).or_default();
            *hlc = version.hlc.max(*hlc);
        }
        while newest.len() > SEEN_MAX {
            let oldest = newest.iter().min_by_key(|(_, hlc)| **hlc).map(|(writer, _)| *writer);
            newest.remove(&oldest.unwrap_or(WriterId::NULL));
        }
        newest.into_iter().map(|(writer, hlc)| SeenVersion { writer, hlc }).collect()
    }

    pub fn hash(&self) -> EntryHash {
        EntryHash::of(self.folder, &self.path)
    }

    pub fn target(&self) -> Option<ContentHash> {
        self.file.as_ref().map(|file| file.target)
    }

    /// Whether the folder has a file at the path.
    pub fn is_live(&self) -> bool {
        self.file.is_some()
    }

    /// Whether this version wins over `other` of the same entry: the greater `(hlc, writer, digest)`, as among assets.
    pub fn supersedes(&self, other: &Self) -> bool {
        (self.hlc, self.writer)
            .cmp(&(other.hlc, other.writer))
            .then_with(|| {
                if self == other { std::cmp::Ordering::Equal } else { self.digest().cmp(&other.digest()) }
            })
            .is_gt()
    }

    /// The one that supersedes all the others.
    pub fn newest<'a>(versions: impl Iterator<Item = &'a Self>) -> Option<&'a Self> {
        versions.reduce(|newest, version| if version.supersedes(newest) { version } else { newest })
    }

    /// Whether this version was written by somebody whose disk had shown `other`, or a later one of the same writer.
    pub fn descends_from(&self, other: &Self) -> bool {
        let seen = self.seen.binary_search_by_key(&other.writer, |version| version.writer);
        seen.is_ok_and(|at| self.seen[at].hlc >= other.hlc)
    }

    /// Checks what comes from outside, by the record alone, so that all stores take the same ones. The path was checked as it was read
    /// ([`EntryPath::parse`]); whether the date is acceptable is for the receiver's clock to say, as for assets; whether the size is that
    /// of the content, for whoever has the content and puts it on a disk.
    pub fn validate(&self) -> Result<(), EntryError> {
        check_by(&self.by)?;
        if self.seen.len() > SEEN_MAX {
            return Err(EntryError::TooManySeen(self.seen.len()));
        }
        if !self.seen.is_sorted_by(|a, b| a.writer < b.writer) {
            return Err(EntryError::SeenNotCanonical);
        }
        if self.seen.iter().any(|version| version.hlc >= self.hlc) {
            return Err(EntryError::SeenTooLate);
        }
        if self.path.plain(self.folder).is_some() {
            return Err(EntryError::Aside);
        }
        match &self.file {
            Some(file) if file.mtime_ms >> 48 != 0 => Err(EntryError::Mtime(file.mtime_ms)),
            Some(file) if file.size > ENTRY_SIZE_MAX => Err(EntryError::Size(file.size)),
            Some(_) | None => Ok(()),
        }
    }

    /// Digest of every field; the same in every library.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(DIGEST_CONTEXT);
        hasher.update(&KIND_ENTRY).update(&self.folder.0);
        text(&mut hasher, self.path.as_str());
        hasher.update(&self.hlc.0.to_le_bytes()).update(&self.writer.0);
        hasher.update(&[u8::from(self.file.is_some())]);
        if let Some(file) = &self.file {
            hasher
                .update(&file.target.0)
                .update(&file.size.to_le_bytes())
                .update(&file.mtime_ms.to_le_bytes())
                .update(&[u8::from(file.executable)]);
        }
        hasher.update(&[u8::from(self.was.is_some())]);
        if let Some(ContentHash(was)) = &self.was {
            hasher.update(was);
        }
        text(&mut hasher, &self.by);
        hasher.update(&(self.seen.len() as u64).to_le_bytes());
        for version in &self.seen {
            hasher.update(&version.writer.0).update(&version.hlc.0.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// The record's id in the library whose record key is `key`.
    pub fn id(&self, key: &[u8; 32]) -> RecordId {
        id_of(KIND_ENTRY, self.digest(), key)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FolderAccess {
    /// Every machine of the network.
    Everybody,
    /// Only machines that the folder was bound on to send.
    Senders,
}

/// The entry at the empty path: what people call the folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FolderDefinition {
    pub folder: FolderId,
    pub hlc: Hlc,
    pub writer: WriterId,
    /// For people; two folders may have the same.
    pub name: String,
    pub access: FolderAccess,
    /// What people call the machine that wrote it.
    pub by: String,
}

impl FolderDefinition {
    pub fn validate(&self) -> Result<(), EntryError> {
        check_by(&self.by)?;
        let chars = self.name.chars().count();
        if self.name.trim().is_empty() || chars > FOLDER_NAME_CHARS_MAX || self.name.contains(is_hazard) {
            return Err(EntryError::FolderName);
        }
        Ok(())
    }

    /// Whether this version wins over `other`, as among entries. The one that loses goes to history; it has no content to copy.
    pub fn supersedes(&self, other: &Self) -> bool {
        (self.hlc, self.writer, self.digest()) > (other.hlc, other.writer, other.digest())
    }

    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(DIGEST_CONTEXT);
        hasher.update(&KIND_DEFINITION).update(&self.folder.0);
        hasher.update(&self.hlc.0.to_le_bytes()).update(&self.writer.0);
        text(&mut hasher, &self.name);
        hasher.update(&[u8::from(self.access == FolderAccess::Senders)]);
        text(&mut hasher, &self.by);
        *hasher.finalize().as_bytes()
    }

    /// The record's id in the library whose record key is `key`.
    pub fn id(&self, key: &[u8; 32]) -> RecordId {
        id_of(KIND_DEFINITION, self.digest(), key)
    }
}

fn check_by(by: &str) -> Result<(), EntryError> {
    let chars = by.chars().count();
    if chars > BY_CHARS_MAX {
        Err(EntryError::ByTooLong(chars))
    } else if by.contains(is_hazard) {
        Err(EntryError::ByHidden)
    } else {
        Ok(())
    }
}

fn text(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
}

fn id_of(kind: [u8; 16], digest: [u8; 32], key: &[u8; 32]) -> RecordId {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&kind).update(&digest);
    RecordId(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests;
